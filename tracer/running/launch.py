"""The start of the program to be learned: a child waits to be seized, installs the recording filter and executes it."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Sequence
from functools import cache
from typing import Final, NoReturn

from callfence.tracer import kernel, linux
from callfence.tracer.errors import StartError, TracerError
from callfence.tracer.named import NamedTuple
from callfence.tracer.running.child import fork

OPTIONS: Final = kernel.OPTION_FOLLOW | linux.PTRACE_O_TRACESECCOMP | linux.PTRACE_O_TRACESYSGOOD | linux.PTRACE_O_EXITKILL
"""EXITKILL: a program whose tracer is gone would be left with a filter that fails every call with ENOSYS."""
TAKEN: Final = frozenset(range(1, signal.SIGRTMAX + 1)) - {
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGCHLD,  # our own children's
    signal.SIGURG,  # ours, in an attached session; ignored by default
    *range(32, signal.SIGRTMIN),  # glibc's
}
"""Signals that are blocked in this process, and taken by a thread: all others, so that no signal to the group ends us.  A fault
of our own kills us although it is blocked."""


class Program(NamedTuple):
    """The program to run: its path, arguments and environment, as the bytes that the kernel takes."""

    path: bytes
    """The file to execute: PATH is not searched here."""
    argv: tuple[bytes, ...]
    environment: tuple[bytes, ...]
    """`NAME=value` strings, in the order and number in which the caller had them."""
    prepare: Callable[[], None] = lambda: None
    """Called in the child before the recording filter is installed; an exception ends the child."""


HELD: Final = frozenset({signal.SIGTERM, signal.SIGHUP})
"""Signals that stay blocked after a run: a service manager or a terminal that ends the program and this process sends them to
this process again or late, when it has yet to write what it recorded."""


class Dispositions:
    """The signal mask that this process was started with, which its child restores.  In this process, the signals of TAKEN are
    blocked."""

    def __init__(self) -> None:
        self._mask = _mask_at_start()
        signal.pthread_sigmask(signal.SIG_BLOCK, TAKEN)

    def restore(self) -> None:
        """At the end of the run, in this process: discard the signals that came too late to be passed on, which must not end
        this process; then restore the mask, but for the signals of HELD."""
        while kernel.wait_for_signal(TAKEN, 0):
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask | HELD)

    def restore_in_child(self) -> None:
        """In the child: restore the mask, and give SIGPIPE and SIGXFSZ their default action.  CPython ignores these two from
        its start on, so it is unknown whether the caller of this process ignored them."""
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)


@cache
def _mask_at_start() -> set[int]:
    """Return the signal mask of this process before its first run."""
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


class Launch:
    """A forked child that will become the program: seize it, `go`, then `check` once it runs or has ended."""

    def __init__(self, program: Program, dispositions: Dispositions, filter_: bytes) -> None:
        """Fork.  `dispositions`: the signal state that this process was started with, which the child restores.
        `filter_`: the recording filter, an array of struct sock_filter.  Raises TracerError if no process can be started."""
        go_read, self._go = os.pipe()
        self._failure, failure_write = os.pipe()
        stages = ["seize"]

        def become() -> None:
            os.close(self._go)
            _become(program, dispositions, filter_, go_read, stages)

        def failed(error: BaseException) -> None:
            os.write(failure_write, _reason(stages[-1], error).encode(errors="replace"))

        try:
            self.pid = fork(become, failed)
        except OSError as error:
            message = "no process can be started: the limit of processes (ulimit -u) or of memory (ulimit -v) is reached"
            raise TracerError(message, "clone", error.errno or errno.EAGAIN) from None
        finally:
            os.close(go_read)
            os.close(failure_write)

    def go(self) -> None:
        """Let the child execute the program."""
        os.write(self._go, b"1")
        os.close(self._go)

    def check(self) -> None:
        """Wait until the child has executed the program or ended.  Raises StartError if the execve failed, else TracerError."""
        with os.fdopen(self._failure, "rb") as pipe:
            text = pipe.read().decode()
        if text:
            stage, number, reason = text.split(" ", 2)
            if stage == "execve":
                raise StartError(int(number))
            what = "the program cannot be started" if stage == "prepare" else "cannot install the recording filter"
            raise TracerError(f"{what}: {stage}: {reason}", stage, int(number))


def _become(program: Program, dispositions: Dispositions, filter_: bytes, go_read: int, stages: list[str]) -> NoReturn:
    """In the child: execute the program, or raise an exception of the last one of `stages`.  Under the filter it only
    calls execve, and on failure write and exit."""
    if not os.read(go_read, 1):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    dispositions.restore_in_child()
    stages.append("prepare")
    program.prepare()
    stages.append("seccomp")
    kernel.install_filter(filter_)
    stages.append("execve")
    environment = _of_child(program.environment)
    number = kernel.execve(program.path, program.argv, environment)
    if number == errno.ENOEXEC:
        script = linux.script_arguments(program.path, program.argv)
        number = kernel.execve(script[0], script, environment)
    raise OSError(number, os.strerror(number))


def _of_child(environment: Sequence[bytes]) -> list[bytes]:
    """Return the environment in which what systemd says to its main process, this process's parent, is said to this one: whose
    the sockets are, and who has to report to the watchdog (sd_listen_fds(3), sd_watchdog_enabled(3))."""
    own = {b"%s=%d" % (name, os.getppid()): b"%s=%d" % (name, os.getpid()) for name in (b"LISTEN_PID", b"WATCHDOG_PID")}
    is_ours = any(entry in own for entry in environment)
    return [own.get(entry, entry) for entry in environment if not (is_ours and entry.startswith(b"LISTEN_PIDFDID="))]


def _reason(stage: str, error: BaseException) -> str:
    """Return what `check` reads: the stage, an errno or 0, and words."""
    if isinstance(error, MemoryError):
        error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    if isinstance(error, OSError):
        number = error.errno or errno.EINVAL
        return f"{stage} {number} {os.strerror(number)}"
    return f"{stage} 0 {type(error).__name__}{': ' if str(error) else ''}{error}"


def is_64_bit(path: bytes) -> bool:
    """Return whether a program can be 64-bit: False for a 32-bit ELF file, and for a file that cannot be read; True for any
    other file, such as a script."""
    try:
        with open(path, "rb") as file:
            return linux.elf_bits(file.read(5)) != 32
    except OSError:
        return False
