"""Add lines to a policy, as `allow` does, and as answers to questions do."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from callfence.policygen.evaluate import OPENING, opens_others, table_with, unnamed
from callfence.policygen.files.algebra import Difference, differences, extended
from callfence.policygen.language.document import PolicyError
from callfence.policygen.learning.portable import with_equivalents
from callfence.policygen.model import ALLOW, Entry, Expression, Policy, alternatives
from callfence.policygen.sets.algebra import TooComplexError
from callfence.policygen.sets.join import JoinError, join_entries, refuses
from callfence.policygen.values import replace
from callfence.shared.inputs import parse_entries
from callfence.shared.text import on_one_line
from callfence.tracer.abi import Arch, name_of
from callfence.tracer.named import NamedTuple


class Addition(NamedTuple):
    """A policy with lines added to it."""

    policy: Policy
    refused: tuple[tuple[Arch, int], ...] = ()
    """The calls that the policy denies explicitly, and so were not added."""
    entries: tuple[tuple[Arch, int, Entry | None, Entry], ...] = ()
    """Architecture, number, old and new entry of each call that the lines name; the two are equal if it was allowed already."""
    files: tuple[Difference, ...] = ()
    """What the lines newly grant of files, ports and hosts."""
    given: tuple[str, ...] = ()
    """The lines about files, ports and hosts that grant nothing new."""
    equivalents: Policy | None = None
    """The policy before what other C libraries call instead was added (`portable`); None if that was not asked for."""


def parse_lines(text: str, arch: Arch) -> Policy:
    """Parse entries, as `parse_entries` does.  Raises PolicyError for a mistake in the text, if it has no entry, and if an
    entry does more than allow."""
    policy = parse_entries(text, arch)
    for of, number, entry in policy.each():
        if entry.action != ALLOW or entry.otherwise or not alternatives(entry.expression):
            line = on_one_line(of, number, entry)
            hint = f"write {name_of(of, number)}: allow, or a condition in the place of `allow`"
            raise PolicyError("LINE", 1, 1, "the entry has another action than `allow`", line, hint, len(line))
    return policy


def added(policy: Policy, lines: Sequence[str], arch: Arch | None = None, *, name: str, force: bool = False) -> Addition:
    """Return a policy, or one phase of it, with lines added.  `arch`: that of entries, if it is not the policy's first; `name`:
    the policy's, for errors; `force`: also add what the policy denies explicitly.  Raises PolicyError for a line, JoinError for
    an entry that cannot be joined."""
    arch = arch or next(iter(policy.entries))
    parsed = [parse_lines(line, arch) for line in lines]
    refused: list[tuple[Arch, int]] = []
    entries: list[tuple[Arch, int, Entry | None, Entry]] = []
    rules: dict[tuple[Arch, int], tuple[Expression, ...]] = {}
    for of_arch, number, entry in chain.from_iterable(addition.each() for addition in parsed):
        old = policy.entries.get(of_arch, {}).get(number)
        default = unnamed(policy, of_arch, number)
        try:
            if opens_others(policy, of_arch, number):
                raise JoinError(OPENING)
            against = not force and refuses(of_arch, number, old, entry.expression, default)
            new = join_entries(of_arch, number, old, entry, default)
        except (JoinError, TooComplexError) as error:
            call = name_of(of_arch, number)
            raise JoinError(f"{name}: {call}: {error}; edit the policy by hand instead") from None
        if against and old is not None:
            refused.append((of_arch, number))
        elif new is None or new == old:
            entries.append((of_arch, number, old or entry, old or entry))
        else:
            policy = _with_entry(policy, of_arch, number, new)
            rules[of_arch, number] = (*rules.get((of_arch, number), ()), *alternatives(entry.expression))
            entries.append((of_arch, number, old, new))
    granted: list[Difference] = []
    given: list[str] = []
    for addition in parsed:
        files = extended(policy.files, addition.files)
        new_rights = differences(policy.files, files)
        granted += new_rights
        given += [] if new_rights else addition.files.lines()
        policy = replace(policy, files=files) if new_rights else policy
    before = policy if policy.portable else None
    policy = with_equivalents(policy, rules).policy if policy.portable else policy
    return Addition(policy, tuple(refused), tuple(entries), tuple(granted), tuple(given), before)


def _with_entry(policy: Policy, arch: Arch, number: int, entry: Entry) -> Policy:
    entries = {**policy.entries, arch: {**policy.entries.get(arch, {}), number: entry}}
    return replace(policy, entries=entries, table=table_with(policy, arch, number))
