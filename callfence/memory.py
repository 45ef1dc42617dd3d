"""The end of a command that gets too little memory: one line and the command's own status, in whatever way it comes to light.

The first module that the commands load, so nothing is imported that takes memory.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_ENOMEM = 12  # asm-generic/errno-base.h
_ROOM = 16 << 20
"""Bytes left of RLIMIT_AS below which any error is for want of memory: Python and its extension modules report that in many
ways (ImportError, SyntaxError, SystemError), and what fails may be a thread's stack, of 8 MiB."""


_NEEDS = {"learn": 32 << 20, "enforce": 24 << 20, "callfence": 12 << 20}
"""Bytes that a command takes at least.  One with less is not begun: where there is not even room for the objects that an
exception takes, CPython 3.11 aborts, or goes on for ever."""


def end_in_a_line() -> None:
    """Have an exception that nobody catches and that is for want of memory end this process with a message, and with 125 for
    `learn` and `enforce`, else 2.  Raises MemoryError if the command would surely get too little."""
    name = os.path.basename(sys.argv[0])
    if name in ("callfence", "__main__.py"):
        name = sys.argv[1] if sys.argv[1:] and sys.argv[1] in ("learn", "enforce") else "callfence"
    status = 2 if name == "callfence" else 125
    line = f"{name}: not enough memory{', so the program was not run' * (name == 'enforce')} (ulimit -v limits it)\n".encode()

    def end(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if is_short(error):
            try:
                os.write(2, line)
            finally:
                os._exit(status)
        sys.__excepthook__(kind, error, traceback)

    def ignore(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_value is None or not is_short(unraisable.exc_value):
            sys.__unraisablehook__(unraisable)

    sys.excepthook = end
    sys.unraisablehook = ignore
    if _room() < _NEEDS[name]:
        raise MemoryError


def is_short(error: BaseException) -> bool:
    """Whether an exception is for want of memory, or was raised while another one that is was handled."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno == _ENOMEM):
            return True
        cause = cause.__cause__ or cause.__context__
    return isinstance(error, Exception) and _room() < _ROOM


def _room() -> int:
    """Bytes of address space that this process may still map; many if there is no limit (proc_pid_limits(5))."""
    try:
        limits = _content("/proc/self/limits")
        limit = next(line.split()[3] for line in limits.splitlines() if line.startswith(b"Max address space"))
        return int(limit) - int(_content("/proc/self/statm").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except MemoryError:
        return 0
    except (OSError, ValueError, StopIteration):  # `unlimited`
        return 1 << 62


def _content(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 1 << 13)
    finally:
        os.close(descriptor)
