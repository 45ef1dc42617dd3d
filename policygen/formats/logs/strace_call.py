"""One call as strace prints it, back into the registers that the kernel was given, as far as they are printed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from policygen.formats.logs.strace_values import UnnamedError, integer, split, value
from policygen.values import frozen
from tracer.abi import Arch, Event, table
from tracer.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NAME = re.compile(r"([a-zA-Z_]\w*)\(")
_END = re.compile(r"\s*(?:= (-?\d+|0x[0-9a-f]+|\?)(?: .*|<.*)?|<(?:detached|unfinished) \.\.\.>|)$")
_UNKNOWN_CALL = re.compile(r"syscall_0x([0-9a-f]+)")
_CLONE = {"flags": 0, "child_stack": 1, "parent_tid": 2, "parent_tidptr": 2, "child_tidptr": 3, "tls": 4}
"""clone's arguments have names, since their order differs from one architecture to another (clone(2))."""
_PLACES: Mapping[str, tuple[int, ...]] = {
    "futex": (0, 1, 2, 3),  # what follows is printed as the operation has it
    "preadv": (0, 1, 2),  # both halves of the offset are printed as one
    "pwritev": (0, 1, 2),
    "preadv2": (0, 1, 2, -1, 5),
    "pwritev2": (0, 1, 2, -1, 5),
    **dict.fromkeys(("pread64", "pwrite64"), (0, 1, 2)),  # from here on i386's, where 64 bits take two registers
    **dict.fromkeys(("fallocate", "fanotify_mark"), (0, 1)),
    **dict.fromkeys(("truncate64", "ftruncate64", "readahead", "fadvise64", "fadvise64_64", "sync_file_range"), (0,)),
    "_llseek": (0, -1, 3, 4),
}
"""The registers of the printed arguments, for calls where these are not the first ones; -1: no register."""
_IN_BYTES = {"mmap2": 5}
"""An argument that strace prints in another unit than the kernel's."""
_MULTIPLEXED = re.compile(
    r"socket|bind|connect|listen|accept4?|getsockname|getpeername|socketpair|send|sendto|sendm{0,2}sg|recv|recvfrom|recvm{0,2}sg"
    r"|shutdown|[gs]etsockopt|sem(get|ctl|op|timedop)|shm(get|ctl|at|dt)|msg(get|ctl|snd|rcv)"
)
"""Names that strace also prints on i386 for socketcall and ipc; it does not print their only register of interest."""


class SyntaxProblem(UserError):
    """A text that is not a call as strace prints it.  `place` is an index into the text."""

    def __init__(self, place: int, message: str) -> None:
        super().__init__(message)
        self.place = place


class UnreadableError(UserError):
    """A call with too few printed values for an observation; `str()` says which, and is the same for similar calls."""


@frozen
class StraceCall:
    """A call as it is printed."""

    name: str
    arguments: tuple[str, ...]
    result: int | None
    """The return value, negative for -1; None if it is not printed."""
    is_enosys: bool


def parse(text: str, *, is_whole: bool = True) -> StraceCall:
    """Return the call in a line without the process and the time.  Raises SyntaxProblem.

    Without `is_whole`, its end may be missing, because strace did not see it.
    """
    name = _NAME.match(text)
    if name is None:
        raise SyntaxProblem(0, "expected a call, as `openat(AT_FDCWD, ...) = 3`, or what became of a process")
    parts, end = split(text, name.end())
    if end is None:
        if is_whole:
            raise SyntaxProblem(len(text), f"the arguments of {name[1]} are not closed by `)`")
        return StraceCall(name[1], tuple(part for _, part in parts), None, False)
    tail = _END.match(text, end)
    if tail is None:
        raise SyntaxProblem(end, f"expected ` = ` and what {name[1]} returned")
    return StraceCall(name[1], tuple(part for _, part in parts), integer(tail[1] or "?"), " ENOSYS" in tail[0])


def event(call: StraceCall, arch: Arch) -> tuple[Event, frozenset[int]]:
    """Return the call as an event, and the registers whose values are not printed, which are 0 in the event.

    Raises UnreadableError if a policy would constrain one of those.
    """
    calls = table(arch)
    if known := calls.by_name.get(call.name):
        number = known.number
    elif unknown := _UNKNOWN_CALL.fullmatch(call.name):
        number = int(unknown[1], 16)
    else:
        raise UnreadableError(f"{call.name}: no call of {arch} has that name")
    if arch is Arch.I386 and _MULTIPLEXED.fullmatch(call.name):
        raise UnreadableError(f"{call.name} (i386): socketcall and ipc are printed by this name too")
    plain = calls.by_number[number].arguments if number in calls.by_number else ()
    registers: list[int | None] = [None] * 6
    unnamed: dict[int, str] = {}
    for index, text in _placed(call, len(plain)):
        try:
            found = value(text, arch)
        except UnnamedError as error:
            found, unnamed[index] = None, str(error)
        registers[index] = None if found is None else found & ((1 << arch.bits) - 1)
    a, b, c, d, e, f = (register or 0 for register in registers)
    missing = frozenset(index for index, register in enumerate(registers) if register is None)
    if plain:
        for index, meaning in enumerate(calls.arguments(number, (a, b, c, d, e, f))):
            if index in missing and meaning.kind.is_constrained:
                why = f"{unnamed[index]} has no value here" if index in unnamed else "its value is not printed"
                raise UnreadableError(f"{call.name}: {meaning.name}: {why}")
    return Event(arch.audit, number, (a, b, c, d, e, f)), missing


def _placed(call: StraceCall, arity: int) -> Sequence[tuple[int, str]]:
    """Return the printed arguments with their registers."""
    if call.name == "clone" and "=" in "".join(call.arguments):
        named = (argument.partition("=") for argument in call.arguments)
        return [(_CLONE[name], text) for name, _, text in named if name in _CLONE]
    if len(call.arguments) > arity:
        return []  # one register points to all of them
    if call.name in _PLACES and len(call.arguments) < arity:
        return [(index, text) for index, text in zip(_PLACES[call.name], call.arguments, strict=False) if index >= 0]
    return [(index, text) for index, text in enumerate(call.arguments) if index != _IN_BYTES.get(call.name)]
