"""Turn this process into the program, confined from its first instruction, with everything else as this process was given it.

The program is found and executed by its name as by execvp(3), with the unchanged environment; names are bytes.
"""

from __future__ import annotations

import errno
import os

from enforcer import kernel
from enforcer.arming import seized
from enforcer.bpf import ROOM, chain, notifying_on_exit, without_listener
from enforcer.confinement import ABSTRACT, keep_inside
from enforcer.errors import NOT_EXECUTABLE, NOT_FOUND, EnforceError, refused
from tracer import TYPE_CHECKING, linux
from tracer.errors import KernelError
from tracer.proc import fields

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ctypes import Array
    from typing import NoReturn

    from enforcer.arming.plan import Plan
    from enforcer.confinement import Surroundings
    from enforcer.files.landlock import Confinement
    from enforcer.hosts.granted import Hosts
    from enforcer.reporting.reporter import Reporter

NOT_GRANTED = (
    "the policy does not grant `read, execute` to the program, or to its interpreter or dynamic loader; `learn` adds such lines"
)


class Launch:
    """A program that is to be run, and by what it is to be confined."""

    __slots__ = (
        "argv", "arm", "around", "environment", "files", "filters", "hosts", "is_nested", "may_listen", "plan", "reporter",
        "scope", "stderr",
    )  # fmt: skip

    def __init__(
        self,
        argv: Sequence[bytes],
        environment: list[bytes],
        filters: Sequence[bytes],
        arm: str,
        reporter: Reporter | None,
        *,
        around: Surroundings | None = None,
        files: Confinement | None = None,
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
        """Arrays of struct sock_filter.  With a reporter, they must answer SECCOMP_RET_USER_NOTIF where calls are to be
        reported."""
        self.arm = arm
        """When the filters take effect: "now", "exec" or "entry"."""
        self.reporter = reporter
        self.around = around
        """The options about descriptors, capabilities and the parent."""
        self.files = files
        """The Landlock rules."""
        self.hosts = hosts
        """The hosts that the policies grant."""
        self.stderr = stderr
        """The descriptor to which failures are written after the program has been executed; -1: nowhere."""
        self.plan = plan
        """The phases through which a helper follows the program, with their filters; this requires a reporter."""
        self.may_listen = may_listen
        """Whether the policies let the program answer notifications of a filter of its own."""
        self.scope = scope
        """What is confined to the program's own processes, "" if `files` does that (`enforcer.confinement`)."""
        self.is_nested = is_nested
        """Whether a filter is in force already."""

    @property
    def is_audit(self) -> bool:
        """Whether nothing is enforced."""
        return self.reporter is not None and self.reporter.audit

    @property
    def is_scoped_by_helper(self) -> bool:
        """Whether the helper, which connects for the program, must not reach abstract sockets of other processes either."""
        return self.hosts is not None and self.hosts.is_scoped and not self.is_audit


def combined(launch: Launch) -> bytes:
    """Return the filter with which the program starts: all filters as one, and what is put before them.

    Raises EnforceError or KernelError if this kernel cannot install it."""
    reporter, plan = launch.reporter, launch.plan
    _require_kernel(reporter)
    try:
        filter_ = plan.installed if plan else chain(launch.filters, reports=reporter is not None)
        if launch.files:
            filter_ = launch.files.guarded(filter_, reports=reporter is not None)
        if launch.hosts and not launch.is_audit:
            filter_ = launch.hosts.guarded(filter_)
        if not (launch.may_listen or launch.is_audit):
            filter_ = without_listener(filter_)
        linux.check_length(filter_, room=ROOM if reporter else 0)
    except ValueError as error:
        raise EnforceError(str(error)) from error
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
    """Turn this process into `argv[0]`, found along PATH, confined by all of the filters.

    Raises EnforceError or KernelError if the program was not run."""
    argv, environment, reporter, plan, files = launch.argv, launch.environment, launch.reporter, launch.plan, launch.files
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
            keep_inside(ABSTRACT, is_nested=launch.is_nested)
        arm, stderr, is_nested = launch.arm, launch.stderr, launch.is_nested
        if arm == "now" and plan:
            paths = [path]
            filter_ = seized.be_seized(filter_, reporter, arm=arm, stderr=stderr, plan=plan, is_nested=is_nested)
            settle()
            kernel.install(filter_, 0)
        elif arm == "now":
            from enforcer.arming import early

            paths = [path]
            held = early.install(filter_, reporter, settle)
        else:
            require_readable(path)
            seized.be_seized(filter_, reporter, arm=arm, stderr=stderr, plan=plan, is_nested=is_nested)
            settle()
    except OSError as error:
        raise refused(error) from error
    problem = execute(command, script, variables, paths)
    del held
    if files and problem == errno.EACCES and os.access(path, os.X_OK, effective_ids=True):
        raise EnforceError(f"{os.fsdecode(path)} cannot be executed: {NOT_GRANTED}", NOT_EXECUTABLE)
    raise failure(argv[0], problem)


def forget_interrupt_handler() -> None:
    """Make SIGINT end this process without a traceback, or be ignored if the parent ignores it."""
    if kernel.disposition(linux.SIGINT, linux.SIG_DFL) == linux.SIG_IGN:
        kernel.disposition(linux.SIGINT, linux.SIG_IGN)


def is_filtered() -> bool:
    """Return whether this process has a filter and is not traced (proc_pid_status(5)); True if /proc cannot be read."""
    status = fields("/proc/self")
    return status.get("Seccomp") != "0" and status.get("TracerPid", "0") == "0"


def restore_signals() -> None:
    """Set the signals that CPython ignores to their default; their former disposition is not known.

    SIGPIPE stays ignored in a service of systemd, which ignores it by default (systemd.exec(5), IgnoreSIGPIPE=) and names the
    process that it started in SYSTEMD_EXEC_PID.
    """
    kernel.disposition(linux.SIGXFSZ, linux.SIG_DFL)
    if os.environb.get(b"SYSTEMD_EXEC_PID") != b"%d" % os.getpid():
        kernel.disposition(linux.SIGPIPE, linux.SIG_DFL)


def _require_kernel(reporter: Reporter | None) -> None:
    machine = os.uname()
    if machine.sysname != "Linux" or machine.machine != "x86_64":
        raise EnforceError(f"enforce needs Linux on x86_64, and this is {machine.sysname} on {machine.machine}")
    if reporter and not kernel.can_notify():
        raise KernelError(
            "reports need seccomp user notification (Linux 5.9), which this kernel lacks or a container's filter denies; "
            "--quiet-kernel runs the program without reports",
            "seccomp",
        )


_DEFAULT_PATH = b"/bin:/usr/bin"  # glibc's _CS_PATH
_NOT_HERE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODEV, errno.ETIMEDOUT)  # glibc posix/execvpe.c
_NO_TEXT = {errno.ENOENT: "not found", errno.ENOTDIR: "not found"}


def initial_environment() -> list[bytes]:
    """Return the environment with which this process was started, as NAME=VALUE; CPython may have changed its copy (PEP 538,
    LC_CTYPE)."""
    try:
        with open("/proc/self/environ", "rb") as file:
            block = file.read()
    except OSError:
        return [name + b"=" + value for name, value in os.environb.items()]
    return block.split(b"\0")[:-1]


def candidates(name: bytes, environment: Sequence[bytes]) -> list[bytes]:
    """Return the paths at which a program is looked for, in order.  An empty element of PATH is the current folder (POSIX)."""
    if b"/" in name or not name:
        return [name]
    path = next((entry[5:] for entry in environment if entry.startswith(b"PATH=")), _DEFAULT_PATH)
    return [folder + b"/" + name if folder else name for folder in path.split(b":")]


def locate(name: bytes, environment: Sequence[bytes]) -> bytes:
    """Return the path that `execute` would most likely run.  Raises EnforceError if there is none."""
    problem = errno.ENOENT
    for path in candidates(name, environment):
        if os.path.isfile(path):
            if os.access(path, os.X_OK, effective_ids=True):
                return path
            problem = errno.EACCES
        elif os.path.isdir(path) and b"/" in name:
            problem = errno.EACCES
    raise failure(name, problem)


def execute(
    argv: Array[linux.c_char_p], script: Array[linux.c_char_p], environment: Array[linux.c_char_p], paths: Sequence[bytes]
) -> int:
    """Execute the first of `paths` that the kernel can execute; return only if there is none, with the errno.

    If a file is executable but of no known format, run `script` instead of `argv`, with the path as its second word, as
    execvp(3) and shells do.
    """
    denied = number = 0
    for path in paths:
        linux.functions.execve(path, argv, environment)
        number = linux.get_errno()
        if number == errno.ENOEXEC:
            script[1] = path
            linux.functions.execve(linux.SHELL, script, environment)
            return linux.get_errno()
        if number == errno.EACCES:
            denied = number
        elif number not in _NOT_HERE:
            return number
    return denied or number


def failure(name: bytes, number: int) -> EnforceError:
    """Return the error for a program that could not be executed with the errno `number`."""
    shown = os.fsdecode(name) or "''"
    if number in _NO_TEXT:
        if os.path.isfile(name) and b"/" in name:
            missing = "its interpreter (first line of a script) or its dynamic loader was not found"
            return EnforceError(f"{shown}: {missing}", NOT_FOUND)
        return EnforceError(f"{shown}: not found", NOT_FOUND)
    if os.path.isdir(name):
        return EnforceError(f"{shown}: is a directory", NOT_EXECUTABLE)
    return EnforceError(f"{shown}: {os.strerror(number)}", NOT_EXECUTABLE)
