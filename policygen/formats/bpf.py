"""A raw filter: the array of struct sock_filter that the kernel loads, 8 bytes an instruction, host byte order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.filter import bpf
from policygen.filter.compile import compile_policy
from policygen.filter.lift import lift
from policygen.filter.symbolic import UnsupportedError
from policygen.formats import Direction, Exported, ExportError, Imported, ImportFormatError, Loss
from policygen.formats.lifted import imported
from policygen.model import ActionKind, Arm
from policygen.sets.algebra import TooComplexError
from tracer.errors import CallfenceError

if TYPE_CHECKING:
    from policygen.formats import FormatOptions
    from policygen.model import Policy


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
