"""The calls that container runtimes make between loading the filter and the program's execve: runtimes.tsv.

A runtime loads the filter before it executes the program, so the filter must allow these calls.  The list is reviewed, and
is added only on export, where it is visible: policies hold what the program does.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from policygen.formats import Addition, Direction, ExportError, Loss
from policygen.language.document import parse
from policygen.sets.join import JoinError, join_entries
from policygen.values import frozen, replace
from tracer.abi import Arch, table
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from policygen.model import Entry, Policy


@frozen
class RuntimeCall:
    """One call that a runtime makes itself."""

    runtime: str
    versions: str
    """Versions in which it was seen, or found in the source."""
    when: str
    """`always`, or `gaining`: only where the container may gain privileges (no_new_privs is off)."""
    entry: str
    """The call's entry, in the policy language."""
    why: str

    def __post_init__(self) -> None:
        if self.when not in ("always", "gaining"):
            raise ValueError(f"{self.when}: always or gaining")


class RuntimeAdditions(NamedTuple):
    policy: Policy
    additions: tuple[Addition, ...]
    losses: tuple[Loss, ...]


@cache
def own_calls() -> tuple[RuntimeCall, ...]:
    lines = (Path(__file__).parent / "runtimes.tsv").read_text("utf-8").splitlines()
    return tuple(RuntimeCall(*line.split("\t")) for line in lines if not line.startswith("#"))


def with_own_calls(policy: Policy, runtime: str, *, gaining: bool = True) -> RuntimeAdditions:
    """Return the policy with the calls that the runtime makes itself; without a runtime, unchanged.

    `gaining`: whether the container may gain privileges.  Raises ExportError for an unknown runtime."""
    if not runtime:
        return RuntimeAdditions(policy, (), ())
    known = sorted({one.runtime for one in own_calls()})
    if runtime not in known:
        raise ExportError(f"no runtime {runtime} is known: there are {', '.join(known)}")
    arch = next(arch for arch in Arch if arch in policy.entries)
    entries = dict(policy.entries[arch])
    additions, losses = [], []
    for own in own_calls():
        if own.runtime != runtime or (own.when == "gaining" and not gaining):
            continue
        ((number, wanted),) = _entries(own, arch).items()
        name = table(arch).by_number[number].name
        try:
            joined = join_entries(arch, number, entries.get(number), wanted, policy.default)
        except JoinError as error:
            what = f"{runtime} itself calls it, but the policy has another answer ({error}): not added"
            losses.append(Loss(Direction.NARROWER, what, (name,)))
            continue
        if joined is not None and joined != entries.get(number):
            entries[number] = joined
            why = f"{runtime} {own.versions} itself, before the program: {own.why}"
            additions.append(Addition(name, why))
    return RuntimeAdditions(replace(policy, entries={**policy.entries, arch: entries}), tuple(additions), tuple(losses))


def _entries(own: RuntimeCall, arch: Arch) -> dict[int, Entry]:
    return dict(parse(f"arch {arch}\n{own.entry}\n", "runtimes.tsv").policy.entries[arch])
