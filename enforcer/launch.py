"""Becoming the program: same process, everything as it was given to us, confined from its first instruction."""

from __future__ import annotations

import errno
import os

from enforcer import helper, kernel
from enforcer.chain import chain
from enforcer.errors import EnforceError
from enforcer.program import candidates, execute, failure, locate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from enforcer.reporting.reporter import Reporter

_YAMA = "/proc/sys/kernel/yama/ptrace_scope"
_HINT = "arm before it, with a policy that allows the execve: --arm now"


def run(
    argv: Sequence[bytes],
    environment: Sequence[bytes],
    filters: Sequence[bytes],
    arm: str,
    reporter: Reporter | None,
    *,
    stderr: int = 2,
) -> NoReturn:
    """Turn this process into `argv[0]`, found along PATH, confined by all of `filters` (arrays of struct sock_filter).

    `arm` is "now", "exec" or "entry".  With a `reporter`, the filters must answer SECCOMP_RET_USER_NOTIF where calls
    are to be reported, and for `close` wherever they do not allow it.  `stderr` is where a failure of ours is told once
    this process is the program (-1: nowhere).  EnforceError, and nothing has run, if that cannot be done.
    """
    _require_kernel(reporter)
    try:
        filter_ = chain(filters)
    except ValueError as error:
        raise EnforceError(str(error)) from error
    found = locate(argv[0], environment)
    image = kernel.Image(argv, environment)
    script = kernel.Image([b"/bin/sh", b"", *argv[1:]], environment)
    paths = candidates(argv[0], environment)
    held = None
    try:
        if arm == "now":
            from enforcer.arming import early

            paths = [found]
            kernel.set_no_new_privs()
            _restore_signals()
            held = early.install(filter_, reporter)
        else:
            if not os.access(found, os.R_OK):  # then no memory of it can be written either (ptrace(2), "dumpable")
                raise EnforceError(f"{os.fsdecode(found)} cannot be read, so it cannot be armed at its execve; {_HINT}")
            be_seized(filter_, reporter, at_entry=arm == "entry", stderr=stderr)
            kernel.set_no_new_privs()
            _restore_signals()
    except OSError as error:
        raise EnforceError(f"{error.filename}: {error.strerror}") from error
    problem = execute(image, script, paths)
    del held
    raise failure(argv[0], problem)


def forget_interrupt_handler() -> None:
    """Let ^C end this process as it would end the program, not with a traceback."""
    if kernel.disposition(kernel.SIGINT, kernel.SIG_DFL) == kernel.SIG_IGN:
        kernel.disposition(kernel.SIGINT, kernel.SIG_IGN)


def _restore_signals() -> None:
    """CPython ignores these from its start, and what they were before cannot be known: give the default.

    Except that systemd starts its services with SIGPIPE ignored unless told not to (systemd.exec(5), IgnoreSIGPIPE=),
    and names the process it started in SYSTEMD_EXEC_PID.
    """
    kernel.disposition(kernel.SIGXFSZ, kernel.SIG_DFL)
    if os.environb.get(b"SYSTEMD_EXEC_PID") != b"%d" % os.getpid():
        kernel.disposition(kernel.SIGPIPE, kernel.SIG_DFL)


def be_seized(filter_: bytes, reporter: Reporter | None, *, at_entry: bool, stderr: int) -> None:
    """Start the helper and return once it traces this process, to confine it at its next execve; until then this process
    may start no other and no thread.  EnforceError if it cannot be traced."""
    program = os.getpid()
    commands, command = os.pipe()
    answer, answers = os.pipe()
    if in_helper():
        os.close(command)
        os.close(answer)
        helper.guarded(
            lambda: helper.confine(
                program, filter_, commands, answers, reporter, at_entry=at_entry, stderr=stderr
            )
        )
    os.close(commands)
    os.close(answers)
    try:
        pid = os.read(answer, 64)
        if not pid:
            raise EnforceError("the helper process ended before it could start")
        kernel.allow_tracer(int(pid))
        os.write(command, b"!")
        reply = os.read(answer, 4096)
    finally:
        os.close(command)
        os.close(answer)
    if reply != b"ok\n":
        raise EnforceError(_explain(os.fsdecode(reply) or "the helper process died"))


def in_helper(flags: int = 0) -> bool:
    """Clone twice: True in the grandchild, which is no child of this process; False here, with nothing to wait for.

    Where orphans come to this process (pid 1), it stays a child, but one that plain wait() does not see.
    """
    direct = kernel.is_reaper()
    child = kernel.clone(flags)
    if child == 0:
        try:
            if direct or kernel.clone(flags) == 0:
                return True
        except OSError as error:
            os._exit(error.errno or errno.EAGAIN)
        os._exit(0)
    if not direct:
        _, status = os.waitpid(child, kernel.WALL)
        if status:
            number = os.waitstatus_to_exitcode(status)
            raise OSError(number, os.strerror(number), "clone")
    return False


def _require_kernel(reporter: Reporter | None) -> None:
    machine = os.uname()
    if machine.sysname != "Linux" or machine.machine != "x86_64":
        raise EnforceError(f"enforce runs on Linux on x86_64, and this is {machine.sysname} on {machine.machine}")
    if reporter and not kernel.can_notify():
        raise EnforceError(
            "this kernel, or the container's own filter, has no seccomp user notification, which reports need "
            "(Linux 5.6); without reports: --quiet-kernel"
        )


def _explain(refusal: str) -> str:
    """Why this process may not be traced, and the way out."""
    if pid := tracer():
        return f"this process is traced already (by pid {pid}), so it cannot be armed at its execve; {_HINT}"
    try:
        with open(_YAMA) as file:
            scope = file.read().strip()
    except OSError:
        scope = ""
    if scope in ("2", "3"):
        return f"{_YAMA} is {scope}, so the program cannot be armed at its execve; {_HINT}"
    return f"{refusal}: ptrace is not permitted here (a container's rules?), so the program cannot be armed; {_HINT}"


def tracer() -> str:
    """The pid of who traces this process, or ''."""
    try:
        with open("/proc/self/status", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return ""
    pid = next((line.split()[1] for line in lines if line.startswith("TracerPid:")), "0")
    return "" if pid == "0" else pid
