"""The process beside the program: it puts the filter in, and then answers the calls that the filter does not allow.

It is cloned from the command before that becomes the program, belongs to a session of its own, and holds nothing but
the listener and the place where reports go.  If it dies before the program is armed, the program dies (EXITKILL);
if it dies after, the kernel fails every call that would have come here (ENOSYS).
"""

from __future__ import annotations

import os
import sys

from enforcer import kernel
from enforcer.arming import arm, inject
from enforcer.errors import FAILED
from enforcer.reporting import answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn

    from enforcer.reporting.reporter import Reporter

_SIGNALS = 64  # _NSIG, asm/signal.h
_LIMIT = 1 << 20  # file descriptors; closing goes through close_range(2), so the number costs nothing


def withdraw(keep: Iterable[int]) -> None:
    """Leave the program's surroundings: session, folder, signals, and all descriptors but `keep`.

    Signals that can be ignored are: this process must last exactly as long as what it answers for.
    """
    os.setsid()
    os.chdir("/")
    sys.path[:] = [path for path in sys.path if path.startswith("/")]
    for number in range(1, _SIGNALS + 1):
        kernel.disposition(number, kernel.SIG_IGN)
    kernel.disposition(kernel.SIGCHLD, kernel.SIG_DFL)  # ignoring it would discard the statuses that ptrace waits for
    kernel.set_undumpable()
    lowest = 0
    for descriptor in sorted(set(keep)):
        if lowest < descriptor:  # CPython 3.11 closes everything for an empty range from 0
            os.closerange(lowest, descriptor)
        lowest = descriptor + 1
    os.closerange(lowest, _LIMIT)


def confine(
    program: int, filter_: bytes, commands: int, answers: int, reporter: Reporter | None, *, at_entry: bool, stderr: int
) -> NoReturn:
    """The helper of `arm exec` and `arm entry`.

    Says its pid on the pipe `answers`, waits for a byte on `commands`, seizes the process `program`, and says "ok" or
    why not.
    """
    log = reporter.descriptor if reporter else -1
    withdraw(d for d in (commands, answers, stderr, log) if d >= 0)
    os.write(answers, b"%d\n" % os.getpid())
    if not os.read(commands, 1):
        os._exit(0)  # the program has gone
    pidfd = -1
    try:
        if reporter:
            pidfd = kernel.pidfd_open(program)
            arm.probe_listener(pidfd)
        arm.seize(program)
    except OSError as error:
        os.write(answers, f"{error.filename}: {error.strerror}".encode())
        os._exit(0)
    os.write(answers, b"ok\n")
    os.close(answers)
    os.close(commands)
    try:
        listener = _arm(program, filter_, pidfd, at_entry=at_entry, stderr=stderr)
    except inject.GoneError:
        os._exit(0)  # not executed, or killed by somebody: its own status says so
    if reporter:
        if stderr not in (log, -1):
            os.close(stderr)
        answer.serve(pidfd, listener, reporter)
    os._exit(0)


def _arm(program: int, filter_: bytes, pidfd: int, *, at_entry: bool, stderr: int) -> int:
    """From seized to armed and let go; the listener.  On failure the program ends with our status, and so do we."""
    surgery = None
    try:
        arm.until_exec(program)
        if at_entry:
            arm.until_entry(program)
        surgery = inject.Surgery(program)
        listener = arm.install(surgery, filter_, pidfd)
        surgery.close()
        kernel.ptrace(kernel.PTRACE_DETACH, program)
    except ProcessLookupError as error:
        raise inject.GoneError(0) from error
    except OSError as error:
        _refuse(program, surgery, f"{error.filename}: {error.strerror}", stderr)
    except arm.ArmError as error:
        _refuse(program, surgery, str(error), stderr)
    return listener


def _refuse(program: int, surgery: inject.Surgery | None, reason: str, stderr: int) -> NoReturn:
    """The program, stopped before its first instruction (or its entry point), ends with FAILED and does not run.

    Under its filter already, which may not allow it to exit, or with memory that cannot be written, it is killed.
    """
    write(stderr, f"enforce: the program was not run: {reason}\n".encode())
    try:
        surgery = surgery or inject.Surgery(program)
        if not surgery.is_confined:
            surgery.exit_group(FAILED)
            os._exit(0)
    except (OSError, inject.GoneError):
        pass
    os.kill(program, kernel.SIGKILL)
    inject.reap(program)
    os._exit(0)


def guarded(work: Callable[[], NoReturn]) -> NoReturn:
    """Do the helper's work in the cloned process, which must never return into the command's code."""
    try:
        work()
    except BaseException as error:
        write(2, f"enforce: the helper failed: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(FAILED)


def has_ended(pidfd: int) -> bool:
    """Whether that process has ended (it may still be a zombie)."""
    import select

    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))


def write(descriptor: int, data: bytes) -> None:
    """Write if there is somewhere to write to; a reader that has gone is no reason to stop."""
    try:
        if descriptor >= 0:
            os.write(descriptor, data)
    except OSError:
        return


