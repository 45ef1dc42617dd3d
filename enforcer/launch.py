"""Turn this process into the program, confined from its first instruction, with everything else as this process was given it.

The program is found and executed by its name as by execvp(3), with the unchanged environment; names are bytes.
"""

from __future__ import annotations

import errno
import os

from callfence.enforcer import kernel
from callfence.enforcer.arming import seized
from callfence.enforcer.bpf import ALL_RUN, ROOM, chain, notifying_on_exit, without_listener
from callfence.enforcer.confinement import ABSTRACT, Surroundings, keep_inside
from callfence.enforcer.errors import NOT_EXECUTABLE, EnforceError, refused, too_long
from callfence.enforcer.execution import NOT_GRANTED, candidates, execute, failure, locate, restore_signals
from callfence.tracer import TYPE_CHECKING, linux, machine
from callfence.tracer.errors import KernelError
from callfence.tracer.proc import fields

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from callfence.enforcer.arming.phase_plan import Plan
    from callfence.enforcer.files.landlock import Confinement
    from callfence.enforcer.hosts.granted import Hosts
    from callfence.enforcer.reporting.settings import Reporting

class Launch:
    """A program that is to be run, and by what it is to be confined."""

    __slots__ = (
        "argv", "arm", "around", "environment", "files", "filters", "hosts", "is_nested", "may_listen", "notifying", "plan",
        "refusals", "reporting", "scope", "stderr",
    )  # fmt: skip

    def __init__(
        self,
        argv: Sequence[bytes],
        environment: list[bytes],
        filters: Sequence[bytes],
        arm: str,
        reporting: Reporting | None,
        *,
        around: Surroundings | None = None,
        files: Confinement | None = None,
        notifying: Sequence[bytes] = (),
        refusals: bytes = b"",
        hosts: Hosts | None = None,
        stderr: int = 2,
        plan: Plan | None = None,
        may_listen: bool = False,
        scope: str = "",
        is_nested: bool = False,
    ) -> None:
        self.argv = argv
        self.environment = environment
        self.filters = filters
        """Arrays of struct sock_filter, which answer SECCOMP_RET_USER_NOTIF where calls are to be reported."""
        self.notifying = notifying
        """The filters that notify the helper of allowed calls, which it judges."""
        self.arm = arm
        """When the filters take effect: "now", "exec" or "entry"."""
        self.reporting = reporting
        self.around = around
        """The options about descriptors, capabilities and the parent."""
        self.files = files
        """The Landlock rules."""
        self.refusals = refusals
        """Instructions that fail calls that get past them (`enforcer.files.past_landlock`); of phases, the plan has them."""
        self.hosts = hosts
        """The hosts that the policies grant."""
        self.stderr = stderr
        """The descriptor to which failures are written after the program has been executed; -1: nowhere."""
        self.plan = plan
        """The phases through which a helper follows the program, with their filters; this requires `reporting`."""
        self.may_listen = may_listen
        """Whether the policies let the program answer notifications of a filter of its own."""
        self.scope = scope
        """What is confined to the program's own processes, "" if `files` does that (`enforcer.confinement`)."""
        self.is_nested = is_nested
        """Whether a filter is in force already."""

    @property
    def is_audit(self) -> bool:
        """Whether nothing is enforced."""
        return self.reporting is not None and self.reporting.audit

    @property
    def is_scoped_by_helper(self) -> bool:
        """Whether the helper, which connects for the program, must not reach abstract sockets of other processes either."""
        return self.hosts is not None and self.hosts.is_scoped and not self.is_audit


def combined(launch: Launch) -> bytes:
    """Return the filter with which the program starts: all filters as one, and what is put before and after them.  Raises
    EnforceError or KernelError if this kernel cannot install it."""
    reporting, plan = launch.reporting, launch.plan
    _require_kernel(reporting)
    try:
        filter_ = plan.installed if plan else chain(launch.filters, reports=reporting is not None)
        denies = not (reporting and reporting.asking >= 0)
        notifying = () if plan else launch.notifying
        refusals = plan.installed_refusals if plan else launch.refusals
        if launch.hosts and not (launch.is_audit or plan):
            refusals = launch.hosts.refusals(filter_, reports=denies, notifies=denies) + refusals
        if not (launch.may_listen or launch.is_audit):
            refusals = without_listener(refusals)
        if denies:  # what the policies deny, they answer; what they allow, the helper is to hear of only if it may run
            last = chain([*([refusals + ALL_RUN] if refusals else ()), *notifying, ALL_RUN])
            filter_ = chain([filter_, last], reports=reporting is not None)
        else:  # what the policies deny may run if somebody is asked
            from callfence.enforcer.guard import TYPING, guard

            filter_ = guard(filter_, TYPING, (), reports=True) + refusals + chain([filter_, *notifying], reports=True)
        linux.check_length(filter_, room=ROOM if reporting else 0)
    except ValueError as error:
        raise too_long(error, len(launch.filters)) from error
    if launch.is_audit and not plan:
        filter_ = notifying_on_exit(filter_)  # the helper changes the exit status if it lost a report
    return filter_


def require_readable(path: bytes) -> None:
    """Raise EnforceError unless this user may read the program: what cannot be read is not dumpable, and no memory of it can be
    written either (ptrace(2))."""
    if not os.access(path, os.R_OK, effective_ids=True):
        raise EnforceError(
            f"{os.fsdecode(path)} is not readable by this user, so the filter cannot be installed when it is executed; "
            f"{seized.HINT}"
        )


def run(launch: Launch) -> NoReturn:
    """Turn this process into `argv[0]`, found along PATH, confined by all of the filters.  Raises EnforceError or KernelError
    if the program was not run."""
    argv, environment, reporting, plan, files = launch.argv, launch.environment, launch.reporting, launch.plan, launch.files
    filter_ = combined(launch)
    path = locate(argv[0], environment)
    # Laid out before the filter is there: from then on there may be no calls that allocate memory.
    command, script = linux.strings(argv), linux.strings(linux.script_arguments(b"", argv))
    variables = linux.strings(environment)
    paths = candidates(argv[0], environment)
    held = None

    def settle() -> None:
        """Change this process for good, except for the filter; a failure here can still be reported."""
        kernel.set_no_new_privs()
        restore_signals()
        if launch.around:
            launch.around.settle()
        if launch.scope:
            keep_inside(launch.scope, is_nested=launch.is_nested)
        if files:  # last: from here on this process can open no other files
            files.enter()

    try:
        if launch.is_scoped_by_helper:  # the program's own domain is below this one
            kernel.set_no_new_privs()
            keep_inside(ABSTRACT, is_nested=launch.is_nested or files is not None)
        arm, stderr, is_nested = launch.arm, launch.stderr, launch.is_nested
        if arm == "now" and plan:
            paths = [path]
            filter_ = seized.be_seized(filter_, reporting, arm=arm, stderr=stderr, plan=plan, is_nested=is_nested)
            settle()
            kernel.install(filter_, 0)
        elif arm == "now":
            from callfence.enforcer.arming import early

            paths = [path]
            held = early.install(filter_, reporting, settle, stderr)
        else:
            require_readable(path)
            seized.be_seized(filter_, reporting, arm=arm, stderr=stderr, plan=plan, is_nested=is_nested)
            settle()
    except OSError as error:
        raise refused(error) from error
    problem = execute(command, script, variables, paths)
    del held
    if files and problem == errno.EACCES and os.access(path, os.X_OK, effective_ids=True):
        raise EnforceError(f"{os.fsdecode(path)} cannot be executed: {NOT_GRANTED}", NOT_EXECUTABLE)
    raise failure(argv[0], problem)


def is_filtered() -> bool:
    """Return whether this process has a filter and is not traced (proc_pid_status(5)); True if /proc cannot be read."""
    status = fields("/proc/self")
    return status.get("Seccomp") != "0" and status.get("TracerPid", "0") == "0"


def _require_kernel(reporting: Reporting | None) -> None:
    if not machine.IS_KNOWN:
        raise EnforceError(f"enforce {machine.UNKNOWN}")
    if reporting and not kernel.can_notify():
        raise KernelError(
            "reports need seccomp user notification (Linux 5.9), which this kernel lacks or a container's filter denies; "
            "--quiet-kernel runs the program without reports",
            "seccomp",
        )
