"""`arm exec` and `arm entry`: start the helper, which traces this process and confines it at its execve (`confining`).

This is all that a start imports of it: the helper imports the rest while the execve works.
"""

from __future__ import annotations

import os

from callfence.enforcer import helper, kernel
from callfence.enforcer.bpf import shielded
from callfence.enforcer.errors import SHORT, EnforceError, refused
from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.errors import KernelError
from callfence.tracer.proc import fields

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from callfence.enforcer.arming.confining import Work
    from callfence.enforcer.arming.phase_plan import Plan
    from callfence.enforcer.reporting.settings import Reporting

_SHORT = tuple(map(os.strerror, SHORT))
"""The ends of errors of which ptrace is not the cause: ENOMEM, ENFILE, EMFILE (asm-generic/errno-base.h)."""
HINT = "use --arm now, with a policy that allows execve"
OPTIONS = (
    linux.PTRACE_O_EXITKILL | linux.PTRACE_O_TRACEEXEC | linux.PTRACE_O_TRACESYSGOOD
    | linux.PTRACE_O_TRACEFORK | linux.PTRACE_O_TRACEVFORK | linux.PTRACE_O_TRACECLONE
)  # fmt: skip
"""With which a process is traced until it is confined; the kernel kills it if its tracer ends."""


def be_seized(
    filter_: bytes, reporting: Reporting | None, *, arm: str, stderr: int, plan: Plan | None = None, is_nested: bool = True
) -> bytes:
    """Start a helper that confines this process at its next execve; return the filter once the helper traces this process.

    With `arm` "now", this process confines itself by that filter instead, and the helper follows it through the phases of
    `plan`.  `is_nested`: this process may have filters already.  Until the execve this process must start no process and no
    thread.  Raises KernelError if it cannot be traced, EnforceError if the helper ends early."""
    program = os.getpid()

    def work() -> Work:
        from callfence.enforcer.arming.confining import Work

        return Work(program, filter_, reporting, arm=arm, stderr=stderr, plan=plan, is_nested=is_nested)

    commands, command = os.pipe()
    answer, answers = os.pipe()
    if helper.in_helper():
        os.close(command)
        os.close(answer)
        helper.guarded(lambda: _help(work, program, reporting, (commands, answers, stderr), confines_itself=arm == "now"))
    os.close(commands)
    os.close(answers)
    try:
        pid = os.read(answer, 64)
        if not pid:
            raise EnforceError("the helper process ended before it was ready, so the program was not run")
        kernel.allow_tracer(int(pid))
        os.write(command, b"!")
        reply = os.read(answer, 4096)
    finally:
        os.close(command)
        os.close(answer)
    word, _, pids = reply.partition(b" ")
    if word not in (b"ok", b"ok\n"):
        raise _explained(os.fsdecode(reply) or "the helper process died")
    if plan and arm == "now":
        filter_ = plan.key.passing(filter_, installs=True)
    return shielded(filter_, [int(pid) for pid in pids.split()]) if pids else filter_


def _help(
    work: Callable[[], Work],
    program: int,
    reporting: Reporting | None,
    descriptors: tuple[int, int, int],
    *,
    confines_itself: bool,
) -> NoReturn:
    """Run the helper: write its pid to a pipe, wait for a byte on another one, seize the process `program`, and write "ok" or
    the reason of a failure; then confine the program and answer calls.  `descriptors`: the pipe to read from, the one to write
    to, and standard error.  `confines_itself`: the program does that, and waits until the helper can follow it."""
    commands, answers, _ = descriptors
    helper.leave()
    helper.close_all_but((*descriptors, *(reporting.descriptors if reporting else ())))
    _answer(answers, b"%d\n" % os.getpid())
    if not os.read(commands, 1):
        os._exit(0)  # the program has gone
    pidfd = -1
    try:
        if reporting:
            pidfd = kernel.pidfd_open(program)
            helper.probe_listener(pidfd)
        seize(program)
    except OSError as error:
        _answer(answers, str(refused(error)).encode())
        os._exit(0)
    if not confines_itself:
        _answer(answers, b"ok\n")  # what is imported below is imported while the program's execve works
    from callfence.enforcer.arming import confining

    made = work()
    if confines_itself and (duty := confining.begin_before(made, pidfd)):
        _answer(answers, b"ok %d %d\n" % (os.getpid(), duty.stand_in))  # for which the program waits
    os.close(answers)
    os.close(commands)
    confining.follow(made, pidfd)


def _answer(descriptor: int, data: bytes) -> None:
    """Answer the program that waits for this helper, or end this process if that has been killed meanwhile."""
    try:
        os.write(descriptor, data)
    except BrokenPipeError:
        os._exit(0)


def seize(pid: int) -> None:
    """Trace a process from now on; the kernel kills it if this process ends.  Raises OSError."""
    linux.ptrace(linux.PTRACE_SEIZE, pid, 0, OPTIONS)


def tracer() -> str:
    """Return the pid of the process that traces this one; "" if there is none."""
    pid = fields("/proc/self").get("TracerPid", "0")
    return "" if pid == "0" else pid


def _explained(refusal: str) -> KernelError:
    """Return the error for a helper that cannot trace this process, with the likely cause and a remedy."""
    if refusal.endswith(_SHORT):
        text = refusal
    elif pid := tracer():
        text = f"this process is already traced by pid {pid}, so the filter cannot be installed at the execve; {HINT}"
    elif (scope := linux.yama_scope()) in ("2", "3"):
        text = f"{linux.YAMA_SCOPE} is {scope}, so the filter cannot be installed at the execve; {HINT}"
    else:
        text = f"{refusal}: ptrace is denied here (by a container?), so the filter cannot be installed at the execve; {HINT}"
    return KernelError(text, "ptrace")
