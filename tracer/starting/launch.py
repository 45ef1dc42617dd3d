"""The start of the program to be learned: a child waits to be seized, installs the recording filter and executes it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from tracer import kernel, linux
from tracer.errors import StartError, TracerError
from tracer.named import NamedTuple
from tracer.starting.child import fork

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from tracer.signals import Dispositions

OPTIONS = kernel.OPTION_FOLLOW | linux.PTRACE_O_TRACESECCOMP | linux.PTRACE_O_TRACESYSGOOD | linux.PTRACE_O_EXITKILL
"""EXITKILL: a program whose tracer is gone would be left with a filter that fails every call with ENOSYS."""


class Program(NamedTuple):
    """What to run, as the kernel takes it: bytes."""

    path: bytes
    """The file to execute: PATH is not searched here."""
    argv: tuple[bytes, ...]
    environment: tuple[bytes, ...]
    """`NAME=value` strings, in the order and number in which the caller had them."""
    prepare: Callable[[], None] = lambda: None
    """Called in the child before the recording filter is installed; whatever it raises ends the child."""


class Launch:
    """A forked child that will become the program: seize it, `go`, then `check` once it runs or has ended."""

    def __init__(self, program: Program, dispositions: Dispositions, filter_: bytes) -> None:
        """Fork.  `dispositions`: the signal state that this process was started with, which the child restores.
        `filter_`: the recording filter, an array of struct sock_filter."""
        self.program = program
        go_read, self._go = os.pipe()
        self._failure, failure_write = os.pipe()
        begun = ["seize"]

        def become() -> None:
            os.close(self._go)
            _become(program, dispositions, filter_, go_read, begun)

        def failed(error: BaseException) -> None:
            os.write(failure_write, _reason(begun[-1], error).encode(errors="replace"))

        try:
            self.pid = fork(become, failed)
        finally:
            os.close(go_read)
            os.close(failure_write)

    def go(self) -> None:
        os.write(self._go, b"1")
        os.close(self._go)

    def check(self) -> None:
        """Raise StartError or TracerError if the program did not start.  Waits for the execve."""
        with os.fdopen(self._failure, "rb") as pipe:
            text = pipe.read().decode()
        if text:
            stage, number, reason = text.split(" ", 2)
            if stage == "execve":
                raise StartError(int(number))
            what = "the program cannot be started" if stage == "prepare" else "cannot install the recording filter"
            raise TracerError(f"{what}: {stage}: {reason}", stage, int(number))


def _become(program: Program, dispositions: Dispositions, filter_: bytes, go_read: int, begun: list[str]) -> NoReturn:
    """In the child: execute the program, or raise an exception of the stage that was `begun` last.  Under the filter it only
    calls execve, and on failure write and exit."""
    if not os.read(go_read, 1):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    dispositions.restore_in_child()
    begun.append("prepare")
    program.prepare()
    begun.append("seccomp")
    kernel.install_filter(filter_)
    begun.append("execve")
    number = kernel.execve(program.path, program.argv, program.environment)
    if number == errno.ENOEXEC:
        script = linux.script_arguments(program.path, program.argv)
        number = kernel.execve(script[0], script, program.environment)
    raise OSError(number, os.strerror(number))


def _reason(stage: str, error: BaseException) -> str:
    """What `check` reads: the stage, an errno or 0, and words."""
    if isinstance(error, MemoryError):
        error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    if isinstance(error, OSError):
        number = error.errno or errno.EINVAL
        return f"{stage} {number} {os.strerror(number)}"
    return f"{stage} 0 {type(error).__name__}{': ' if str(error) else ''}{error}"


def is_64_bit(path: bytes) -> bool:
    """Whether a file is a 64-bit ELF file, or none at all (elf(5), EI_CLASS)."""
    try:
        with open(path, "rb") as file:
            head = file.read(5)
    except OSError:
        return False
    return head[:4] != b"\x7fELF" or head[4:] == b"\x02"
