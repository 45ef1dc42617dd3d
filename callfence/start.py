"""What each command does first: it ends with one line if there is too little memory, and `enforce` starts Python again without
what the environment and the user's home add to it.

The commands load this module first, so it imports nothing of ours, and nothing that takes much memory.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

__version__ = "0.1.0"
_ENOMEM = 12  # asm-generic/errno-base.h
_ROOM = 16 << 20
"""Bytes left of RLIMIT_AS below which every exception is taken for a lack of memory.  Python and its extension modules report
that in many ways (ImportError, SyntaxError, SystemError), and a thread's stack needs 8 MiB."""


_NEEDS = {"learn": 32 << 20, "enforce": 24 << 20, "callfence-sh": 32 << 20, "callfence": 12 << 20}
"""Bytes of address space without which a command is not begun: with too little memory to raise an exception, CPython 3.11
aborts or never ends."""


def end_in_a_line() -> None:
    """Make an uncaught exception end this process with status 125 for `learn`, `enforce` and `callfence-sh`, whose status could
    else be the program's, and with 2 for others; with one line if memory is lacking.  Raises MemoryError if the command has
    less than it needs."""
    name = os.path.basename(sys.argv[0])
    if name in ("callfence", "__main__.py"):
        name = sys.argv[1] if sys.argv[1:] and sys.argv[1] in ("learn", "enforce") else "callfence"
    status = 2 if name == "callfence" else 125
    loss = ", so the program was not run" if name in ("enforce", "callfence-sh") else ""
    line = f"{name}: not enough memory{loss} (ulimit -v limits it)\n".encode()

    def end(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if is_short(error):
            try:
                os.write(2, line)
            finally:
                os._exit(status)
        sys.__excepthook__(kind, error, traceback)
        if isinstance(error, Exception):  # Python ends a process by SIGINT for KeyboardInterrupt
            try:  # noqa: SIM105, as contextlib takes memory
                sys.stdout.flush()
            except (OSError, AttributeError):  # closed when we were started
                pass
            os._exit(status)

    def ignore(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_value is None or not is_short(unraisable.exc_value):
            sys.__unraisablehook__(unraisable)

    sys.excepthook = end
    sys.unraisablehook = ignore
    if _room() < _NEEDS[name]:
        raise MemoryError


def is_short(error: BaseException) -> bool:
    """Return whether an exception, or an exception in its chain of causes, comes from a lack of memory."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno == _ENOMEM):
            return True
        cause = cause.__cause__ or cause.__context__
    return isinstance(error, Exception) and _room() < _ROOM


def _room() -> int:
    """Return how many bytes of address space this process may still map; 1 << 62 without a limit (proc_pid_limits(5))."""
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


_HARMLESS = frozenset(
    f"PYTHON{name}"
    for name in ("COERCECLOCALE", "DONTWRITEBYTECODE", "FAULTHANDLER", "HASHSEED", "IOENCODING", "UNBUFFERED", "UTF8")
)
"""Variables that neither add code to this process nor change how it behaves.  Python's container images set some."""


def user_folder() -> str:
    """Return the folder in the user's home from which Python imports, whether or not it is there; "" if there can be none."""
    return getattr(sys.modules.get("site"), "USER_SITE", None) or ""


def command(*words: str) -> list[str]:
    """Return the words that run `callfence` with more words.  That Python takes no code from the current folder, from
    PYTHONPATH and from the user's home, unless callfence itself is there."""
    places = [os.path.abspath(place) for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    options = ["-P"] if os.path.dirname(os.path.dirname(__file__)) in places else _isolating()
    return [sys.executable, *options, "-m", "callfence", *words]


def _isolating() -> list[str]:
    folder = user_folder()
    return ["-E", "-P"] if folder and __file__.startswith(folder) else ["-I"]


def isolate() -> None:
    """Start this script again with `python -I` if the interpreter has used a PYTHON* variable or a folder in the user's home.

    Return if it has not.  The environment is passed on byte for byte.  pip drops options from a script's first line, so the
    interpreter has to be started twice, which takes 20 ms.  Raises OSError."""
    options = _isolating()
    is_used = options == ["-I"] and user_folder() in filter(None, sys.path)
    variables = {name for name in os.environ if name.startswith("PYTHON")} - _HARMLESS
    if sys.flags.ignore_environment or not (variables or is_used):
        return
    import ctypes  # of ours nothing is imported yet: PYTHONPATH may have packages of those names

    with open("/proc/self/environ", "rb") as file:
        environment = file.read().split(b"\0")[:-1]
    argv = [os.fsencode(word) for word in (sys.executable, *options, *sys.argv)]
    arrays = [(ctypes.c_char_p * (len(words) + 1))(*words, None) for words in (argv, environment)]
    ctypes.CDLL(None).execve(argv[0], *arrays)
    raise OSError(f"{sys.executable} cannot be executed")
