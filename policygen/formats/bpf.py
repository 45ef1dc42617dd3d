"""A raw filter: the array of struct sock_filter that the kernel loads, 8 bytes an instruction, host byte order.

Also for programs that load one and then execute another program: bubblewrap, and the loader that `c` writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.filter import bpf
from policygen.filter.compile import compile_policy
from policygen.filter.lift import lift
from policygen.filter.symbolic import UnsupportedError
from policygen.formats import Direction, Exported, ExportError, Imported, ImportFormatError, Loss
from policygen.formats.effect import NATIVE, losses, with_calls
from policygen.model import ENOSYS, Action, ActionKind, Arm
from policygen.sets.algebra import TooComplexError
from policygen.values import replace
from tracer.errors import CallfenceError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policygen.filter.lift import Lifted
    from policygen.formats import Addition, FormatOptions
    from policygen.model import Policy


def imported(lifted: Lifted, more: tuple[Loss, ...] = (), *, instructions: str = "") -> Imported:
    """Return the policy of a lifted filter, with its remarks as losses, and its instructions where these do not say all."""
    losses = []
    for remark in lifted.remarks:
        directions = [d for d, held in ((Direction.WIDER, remark.wider), (Direction.NARROWER, remark.narrower)) if held]
        calls = (remark.call,) if remark.call else ()
        losses += [Loss(direction, remark.text, calls) for direction in directions or [Direction.OTHER]]
    are_needed = not all(remark.whole for remark in lifted.remarks)
    return Imported(lifted.policy, (*losses, *more), tuple(instructions.splitlines()) if are_needed else ())


def export(policy: Policy, options: FormatOptions) -> Exported:
    """The policy's filter, exactly."""
    losses = []
    if policy.arm is not Arm.NOW:
        text = "a filter takes effect when it is loaded; if that is before the program's execve, the filter must allow it"
        losses.append(Loss(Direction.OTHER, text))
    if ActionKind.NOTIFY in kinds(policy):
        text = "a filter does not say who answers `notify`: without a listener those calls fail with ENOSYS"
        losses.append(Loss(Direction.OTHER, text))
    return Exported(compiled(policy), tuple(losses), use="seccomp(SECCOMP_SET_MODE_FILTER, 0, {{len, {file}}})")


def read(data: bytes, filename: str, options: FormatOptions) -> Imported:
    try:
        return imported(lift(data), instructions=bpf.disassemble(data))
    except bpf.InvalidProgramError as error:
        raise ImportFormatError(f"{filename}: not a filter that the kernel would load: {error}") from error
    except (UnsupportedError, TooComplexError) as error:
        text = f"{filename}: no policy says what it does: {error}; its instructions:\n{bpf.disassemble(data)}"
        raise ImportFormatError(text) from error


def compiled(policy: Policy) -> bytes:
    """The policy's filter.  Raises ExportError."""
    try:
        return compile_policy(policy)
    except CallfenceError as error:
        raise ExportError(str(error)) from error


def kinds(policy: Policy) -> set[ActionKind]:
    """Return the kinds of all actions that the policy names."""
    entries = [entry for section in policy.entries.values() for entry in section.values()]
    actions = [policy.default, policy.unknown, *(a for entry in entries for a in (entry.action, entry.otherwise) if a)]
    return {action.kind for action in actions}


def armed(policy: Policy, target: str, calls: Mapping[str, str]) -> tuple[bytes, tuple[Loss, ...], tuple[Addition, ...]]:
    """Return the policy's filter, which also allows the target's own `calls` (name -> reason), its losses, and additions."""
    if NATIVE not in policy.entries:
        raise ExportError(f"the policy has no entries for {NATIVE}, and {target} is a program of that architecture")
    effect, added = with_calls(unheard(policy), calls)
    return compiled(effect), losses(policy, effect, target, added), added


def unheard(policy: Policy) -> Policy:
    """Return the policy as it works without a listener: `notify` becomes ENOSYS, as in the kernel (seccomp_unotify(2))."""

    def said(action: Action) -> Action:
        return ENOSYS if action.kind is ActionKind.NOTIFY else action

    entries = {
        arch: {
            number: replace(entry, action=said(entry.action), otherwise=entry.otherwise and said(entry.otherwise))
            for number, entry in section.items()
        }
        for arch, section in policy.entries.items()
    }
    return replace(policy, entries=entries, default=said(policy.default), unknown=said(policy.unknown))
