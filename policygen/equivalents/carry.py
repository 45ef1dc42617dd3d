"""Carry a policy from one architecture to another: write the section of the target that allows the same effects.

What is written is compared with the exact carried set (`effects`): it never allows a call that is not in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from callfence.policygen.equivalents.between import ends
from callfence.policygen.equivalents.effects import allowed, carried, special
from callfence.policygen.equivalents.section import Loss, Writer
from callfence.policygen.grants import Files, Right, format_rights, path_line, written
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.language.normal import normal
from callfence.policygen.model import Expression, Policy
from callfence.policygen.phases import as_in, in_each, phase_policies
from callfence.policygen.sets import region
from callfence.policygen.sets.algebra import FALSE
from callfence.policygen.values import frozen, replace
from callfence.tracer.abi import Arch, name_of, table
from callfence.tracer.abi.constants import table_rows, table_text
from callfence.tracer.errors import UserError
from callfence.tracer.named import NamedTuple


class CarryError(UserError):
    """A policy that cannot be carried; `str()` says why."""


class Place(NamedTuple):
    """A line about a file of one architecture."""

    line: str
    there: str
    """The line for the same file of the other architecture."""
    is_added: bool
    """Whether the carried policy has got that line: those that permit changes have to be written by hand."""


@frozen
class Carried:
    """A policy with a carried section, and how it was carried."""

    policy: Policy
    source: Arch
    target: Arch
    ways: tuple[tuple[str, tuple[str, ...]], ...]
    """The name of each call of the source that was carried, with those of the calls that do the same on the target."""
    wider: tuple[tuple[str, str, str], ...]
    """Name of a call of the source, of a call of the target, and what the latter can do beyond the former."""
    special: tuple[tuple[str, str], ...]
    """The entries, as text, that were added because C libraries make such calls on the target alone, and the reasons."""
    losses: tuple[Loss, ...]
    triggers: tuple[tuple[str, str], ...]
    """Names of phases, each with a trigger that it has got."""
    places: tuple[Place, ...]
    """The lines about files that name something of the source alone."""
    origins: Mapping[int, tuple[tuple[int, Expression, Expression], ...]]
    """Number of a call of the target -> the calls of the source that led to it, each with its alternative there and here."""

    @property
    def same(self) -> dict[int, int]:
        """Number of each call of the target -> that of the call with its name on the source."""
        ours = table(self.source).by_name
        return {call.number: ours[name].number for name, call in table(self.target).by_name.items() if name in ours}

    @property
    def is_whole(self) -> bool:
        """Whether the carried section allows all effects that the source allows."""
        return not any(loss.needed for loss in self.losses)


def carry(policy: Policy, source: Arch, target: Arch) -> Carried:
    """Return the policy with a section for `target` that allows what the section for `source` does.

    A section that the policy has for `target` is extended; what it denies explicitly stays denied.  Raises CarryError if the
    policy has no section for `source`, or its default allows calls; TooComplexError if sets are too complex to compute."""
    if source not in policy.entries or source is target:
        raise CarryError(f"the policy has no section `arch {source}` to be carried to {target}")
    if policy.default.may_allow:
        raise CarryError(
            f"the policy allows calls that no entry names, on {target} also those that {source} does not have: "
            f"make its default deny, or write the section `arch {target}` by hand"
        )
    policy = normal(policy)
    writers: list[Writer] = []

    def extended(each: Policy) -> Policy:
        writers.append(Writer(each, source, target))
        return writers[-1].result()

    triggers = tuple((phase.name, name) for phase in policy.phases for name in _triggers(phase.triggers, source, target))
    phases = [
        replace(phase, triggers=tuple(sorted({*phase.triggers, *(name for of, name in triggers if of == phase.name)})))
        for phase in policy.phases
    ]
    whole = normal(in_each(extended, policy, phases=phases))
    for name, before in phase_policies(policy):
        _check(before, as_in(whole, name), source, target)
    first = writers[0]
    files, places = _with_places(whole.files, source, target)
    whole = replace(whole, files=files)
    ways, wider, losses = first.ways(), first.wider(), tuple(first.losses)
    return Carried(whole, source, target, ways, wider, first.special, losses, triggers, places, first.origins())


def _triggers(names: Sequence[str], source: Arch, target: Arch) -> Iterator[str]:
    """Yield the calls that begin a phase on the target and not on the source."""
    ours, theirs = table(source).by_name, table(target).by_name
    for name in names:
        if name in ours:
            for end in ends((source, ours[name].number), source, target):
                if theirs.get(end) and end not in names and (name not in theirs or end not in ours):
                    yield end


def _check(before: Policy, after: Policy, source: Arch, target: Arch) -> None:
    """Raise AssertionError unless each entry that `after` has got allows only what the source allows."""
    sets = region.space()
    here = allowed(sets, resolved(before).entries[source], source, before.default)
    there = allowed(sets, after.entries[target], target, after.default)
    previous = allowed(sets, before.entries.get(target, {}), target, before.default)
    may = carried(sets, source, target, here)
    for number, where in special(sets, target).items():
        may[number] = sets.or_(where, may.get(number, FALSE))
    for number, where in there.items():
        beyond = sets.ite(sets.or_(may.get(number, FALSE), previous.get(number, FALSE)), FALSE, where)
        if beyond != FALSE:
            raise AssertionError(f"{name_of(target, number)} allows more than {source} does")


def _with_places(files: Files, source: Arch, target: Arch) -> tuple[Files, tuple[Place, ...]]:
    """Return the lines about files with those for the same files of another architecture, and the places that they name.  On a
    machine of the source, what these lines name is usually not there."""
    paths, places = dict(files.paths or {}), []
    for path, rights in (files.paths or {}).items():
        there = path
        for old, new in _place_words(source, target):
            there = there.replace(old, new)
        if there not in paths:
            is_added = not rights & ~(Right.READ | Right.EXECUTE)
            if is_added:
                paths[there] = rights
            here, other = (written(path_line(name), format_rights(rights)) for name in (path, there))
            places.append(Place(here, other, is_added))
    return (replace(files, paths=paths) if places else files), tuple(places)


@cache
def _place_words(source: Arch, target: Arch) -> tuple[tuple[str, str], ...]:
    heading = next(line for line in table_text(__spec__, "places.tsv").splitlines() if not line.startswith("#")).split("\t")
    here, there = heading.index(source), heading.index(target)
    return tuple((row[here], row[there]) for row in table_rows(__spec__, "places.tsv"))
