"""Becoming the program: same process, everything as it was given to us, confined from its first instruction."""

from __future__ import annotations

import errno
import os

from enforcer import kernel
from enforcer.arming import seized
from enforcer.bpf import ROOM, chain
from enforcer.errors import NOT_EXECUTABLE, EnforceError, refused
from enforcer.files.scope import keep_inside
from enforcer.program import candidates, execute, failure, locate
from tracer import linux
from tracer.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from enforcer.arming.plan import Plan
    from enforcer.arming.surroundings import Surroundings
    from enforcer.files.landlock import Confinement
    from enforcer.reporting.reporter import Reporter

_NOT_GRANTED = "its policy grants `read, execute` neither to it nor, if it has one, to its interpreter or dynamic loader"


def run(
    argv: Sequence[bytes],
    environment: list[bytes],
    filters: Sequence[bytes],
    arm: str,
    reporter: Reporter | None,
    *,
    around: Surroundings | None = None,
    files: Confinement | None = None,
    stderr: int = 2,
    plan: Plan | None = None,
    may_listen: bool = False,
    scope: str = "",
    is_nested: bool = False,
) -> NoReturn:
    """Turn this process into `argv[0]`, found along PATH, confined by all of `filters` (arrays of struct sock_filter).

    `arm` is "now", "exec" or "entry".  With a `reporter`, the filters must answer SECCOMP_RET_USER_NOTIF where calls
    are to be reported.  Failures that happen when this process is the program already are written to the descriptor `stderr`
    (-1: nowhere).  `around` is what else the program is given or not, `files` what it can reach of files and ports.

    With a `plan`, which needs the reporter, a helper follows the program through its phases, and the plan has the filters.
    `may_listen`: the policies let the program answer the calls of a filter of its own.  `scope`: what reaches only its own
    processes, unless `files` sees to it (`enforcer.files.scope`); `is_nested`: a filter is in force already.  Raises
    EnforceError or KernelError, and has run nothing.
    """
    _require_kernel(reporter)
    is_audit = reporter is not None and reporter.audit
    try:
        filter_ = plan.installed if plan else chain(filters, reports=reporter is not None)
        if files:
            filter_ = files.guarded(filter_, reports=reporter is not None)
        if not (may_listen or is_audit):
            from enforcer.shield import without_listener

            filter_ = without_listener(filter_)
        linux.check_length(filter_, room=ROOM if reporter else 0)
    except ValueError as error:
        raise EnforceError(str(error)) from error
    if is_audit and not plan:
        from enforcer.shield import asking_on_exit

        filter_ = asking_on_exit(filter_)  # the helper changes the exit status if it lost a report
    found = locate(argv[0], environment)
    image = kernel.Image(argv, environment)
    script = kernel.Image(linux.script_arguments(b"", argv), environment)
    paths = candidates(argv[0], environment)
    held = None

    def settle() -> None:
        if around:
            around.settle()
        if scope:
            keep_inside(scope, is_nested=is_nested)
        if files:  # last: from here on this process can open no other files
            files.enter()

    try:
        if arm == "now" and plan:
            paths = [found]
            filter_ = seized.be_seized(filter_, reporter, arm=arm, stderr=stderr, plan=plan, is_nested=is_nested)
            kernel.set_no_new_privs()
            _restore_signals()
            settle()
            kernel.install(filter_, 0)
        elif arm == "now":
            from enforcer.arming import early

            paths = [found]
            kernel.set_no_new_privs()
            _restore_signals()
            held = early.install(filter_, reporter, settle)
        else:
            # What cannot be read is not dumpable: no memory of it can be written either (ptrace(2)).
            if not os.access(found, os.R_OK, effective_ids=True):
                raise EnforceError(f"{os.fsdecode(found)} cannot be read, so it cannot be armed at its execve; {seized.HINT}")
            seized.be_seized(filter_, reporter, arm=arm, stderr=stderr, plan=plan, is_nested=is_nested)
            kernel.set_no_new_privs()
            _restore_signals()
            settle()
    except OSError as error:
        raise refused(error) from error
    problem = execute(image, script, paths)
    del held
    if files and problem == errno.EACCES and os.access(found, os.X_OK, effective_ids=True):
        raise EnforceError(f"{os.fsdecode(found)} cannot be executed: {_NOT_GRANTED}", NOT_EXECUTABLE)
    raise failure(argv[0], problem)


def forget_interrupt_handler() -> None:
    """Have SIGINT end this process as it would end the program, without a traceback."""
    if kernel.disposition(linux.SIGINT, linux.SIG_DFL) == linux.SIG_IGN:
        kernel.disposition(linux.SIGINT, linux.SIG_IGN)


def _restore_signals() -> None:
    """Set the signals that CPython ignores to their default: what they were before CPython started cannot be known.

    SIGPIPE stays ignored in a service of systemd, which ignores it by default (systemd.exec(5), IgnoreSIGPIPE=) and names the
    process that it started in SYSTEMD_EXEC_PID.
    """
    kernel.disposition(linux.SIGXFSZ, linux.SIG_DFL)
    if os.environb.get(b"SYSTEMD_EXEC_PID") != b"%d" % os.getpid():
        kernel.disposition(linux.SIGPIPE, linux.SIG_DFL)


def _require_kernel(reporter: Reporter | None) -> None:
    machine = os.uname()
    if machine.sysname != "Linux" or machine.machine != "x86_64":
        raise EnforceError(f"enforce runs on Linux on x86_64, and this is {machine.sysname} on {machine.machine}")
    if reporter and not kernel.can_notify():
        raise KernelError(
            "this kernel, or the container's own filter, has no seccomp user notification, which reports need "
            "(Linux 5.9); without reports: --quiet-kernel",
            "seccomp",
        )
