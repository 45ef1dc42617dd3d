"""What a target makes of a policy, as a policy of its own: the losses are the exact difference of the two.

No format keeps a list of its losses; they are computed from what it wrote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.comparing.compare import Change, compare
from policygen.evaluate import answers
from policygen.formats import Addition, Direction, ExportError, Loss
from policygen.language.naming import format_action
from policygen.model import ALLOW, Action, ActionKind, Always, Arm, Entry, Policy, strictest
from policygen.sets import region
from policygen.values import replace
from tracer.abi import Arch, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from policygen.comparing.compare import Difference

NATIVE = Arch.X86_64
"""The one architecture of the formats that support only one."""
_DIRECTIONS = {Change.MORE: Direction.WIDER, Change.LESS: Direction.NARROWER, Change.OTHER: Direction.OTHER}
EXECVE = {"execve": "it starts the program after the filter has taken effect"}
"""The call of every target that loads the filter itself."""


def native(policy: Policy) -> Policy:
    """Return the NATIVE part of a policy.  Raises ExportError if there is none."""
    if NATIVE not in policy.entries:
        raise ExportError(f"the policy has no entries for {NATIVE}, which is all that this format is written for")
    return replace(policy, entries={NATIVE: policy.entries[NATIVE]})


def explicit(policy: Policy) -> Policy:
    """Return the NATIVE policy with the newest table: calls newer than its own table become entries that get `unknown`."""
    calls = table(NATIVE)
    newest = calls.newest(policy.table)
    newer = {number: Entry(Always(True), policy.unknown) for number in calls.by_number if number > newest}
    return replace(policy, entries={NATIVE: {**policy.entries[NATIVE], **newer}}, table=calls.versions()[-1])


def with_calls(policy: Policy, calls: Mapping[str, str]) -> tuple[Policy, tuple[Addition, ...]]:
    """Return the policy that also allows these calls (name -> reason), and those that it did not allow before."""
    entries = dict(policy.entries[NATIVE])
    added = []
    for name, why in calls.items():
        number = table(NATIVE).by_name[name].number
        if entries.get(number, Entry(Always(True), policy.default)) != Entry(Always(True), ALLOW):
            added.append(Addition(name, why))
            entries[number] = Entry(Always(True), ALLOW)
    return replace(policy, entries={**policy.entries, NATIVE: entries}), tuple(added)


def possible(policy: Policy, number: int) -> list[Action]:
    """Return the actions that one NATIVE call may get; those that let it run come first."""
    found = dict.fromkeys(action for _, action in answers(region.space(), policy, NATIVE, number))
    return sorted(found, key=lambda action: (not action.may_run, action != ALLOW))


def names_only(policy: Policy) -> Policy:
    """Return the NATIVE policy without conditions: calls that may run do run, others get the strictest of their actions."""
    entries = {}
    for number in policy.entries[NATIVE]:
        found = possible(policy, number)
        entries[number] = Entry(Always(True), found[0] if found[0].may_run else strictest(found))
    return replace(policy, entries={NATIVE: entries})


def spoken(action: Action, silent: Action, known: Iterable[ActionKind]) -> Action:
    """Return the action, or its replacement in a target that has only `known` kinds: `log` becomes `allow`, every other
    kind becomes `silent`."""
    if action.kind in known:
        return action
    return ALLOW if action.kind is ActionKind.LOG else silent


def losses(
    policy: Policy,
    effect: Policy,
    target: str,
    added: Iterable[Addition] = (),
    reasons: Mapping[str, str] | None = None,
    *,
    before_loader: bool = True,
) -> tuple[Loss, ...]:
    """Return the differences of `effect`, which the target enforces, from the policy: one loss for each direction and reason.

    `reasons` are the target's own, by name of the call; `before_loader`: the target arms before the dynamic loader runs."""
    said = {one.call: f"{target} makes these calls under the filter" for one in added} | dict(reasons or {})
    found: dict[tuple[Direction, str], list[str]] = {}
    for one in compare(policy, effect).differences:
        named = one.number is not None and one.arch in effect.entries
        what = _what(policy, effect, target, one, said)
        found.setdefault((_DIRECTIONS[one.change], what), []).extend([_name(one)] if named else [])
    made = [Loss(direction, what, tuple(calls)) for (direction, what), calls in found.items()]
    if policy.arm is Arm.ENTRY and before_loader:
        text = f"{target} arms before the program is executed, so what its dynamic loader calls has to be allowed as well"
        made.append(Loss(Direction.NARROWER, text))
    return tuple(sorted(made, key=lambda loss: (list(Direction).index(loss.direction), loss.what)))


def _name(one: Difference) -> str:
    return table(one.arch).by_number[one.example.number].name


def _what(policy: Policy, effect: Policy, target: str, one: Difference, said: Mapping[str, str]) -> str:
    after, before = format_action(one.after), format_action(one.before)
    if one.arch not in effect.entries:
        return f"{target} filters calls of {NATIVE}; those of {one.arch} are killed"
    if one.number is None:
        newer = one.example.number > table(one.arch).newest(policy.table)
        return f"calls {'newer than its table' if newer else 'that it does not name'} meet {after}, not {before}"
    if (name := _name(one)) in said:
        return said[name]
    if one.change is Change.MORE:
        return f"{target} has no such conditions on arguments"
    return f"{target} cannot say {before} here: {after} instead"
