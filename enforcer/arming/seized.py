"""`arm exec` and `arm entry`: the helper traces this process, and confines it when its execve returns or at its entry point."""

from __future__ import annotations

import os

from enforcer import helper, kernel
from enforcer.arming import follow, inject, install
from enforcer.arming.install import Key
from enforcer.errors import FAILED, EnforceError, GoneError, refused
from tracer import linux
from tracer.errors import CallfenceError, KernelError
from tracer.proc import fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from enforcer.arming.plan import Plan
    from enforcer.duty import Duty
    from enforcer.reporting.reporter import Reporter

HINT = "arm before it, with a policy that allows the execve: --arm now"


def be_seized(
    filter_: bytes, reporter: Reporter | None, *, arm: str, stderr: int, plan: Plan | None = None, is_nested: bool = True
) -> bytes:
    """Start the helper, and return when it traces this process, to confine it at its next execve.  Return the filter.

    With `arm` "now", this process confines itself by that filter instead, and the helper follows it through the phases of
    `plan`.  `is_nested`: this process may have filters already.  Until the execve this process must start no process and no
    thread.  Raises KernelError if it cannot be traced, EnforceError if the helper ends early.
    """
    duty = None
    key = plan.key if plan else Key()
    filter_ = key.passing(filter_, installs=bool(plan))
    if plan:  # imported before the helper is cloned, which takes a third of the time
        import enforcer.arming.phases  # noqa: F401
    if reporter:
        from enforcer.duty import Duty

        duty = Duty(reporter, follows=bool(plan), is_quiet=plan is not None and plan.is_quiet)
    program = os.getpid()
    commands, command = os.pipe()
    answer, answers = os.pipe()
    if helper.in_helper():
        os.close(command)
        os.close(answer)
        work = _Work(program, filter_, key, duty, arm, plan, stderr, is_nested=is_nested)
        helper.guarded(lambda: _confine(work, commands, answers))
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
    word, _, pids = reply.partition(b" ")
    if word not in (b"ok", b"ok\n"):
        raise _explained(os.fsdecode(reply) or "the helper process died")
    if not pids:
        return filter_
    from enforcer.shield import shielded

    return shielded(filter_, [int(pid) for pid in pids.split()])


class _Work:
    """What the helper is to do."""

    __slots__ = ("arm", "duty", "filter", "is_nested", "key", "plan", "program", "stderr")

    def __init__(
        self,
        program: int,
        filter_: bytes,
        key: Key,
        duty: Duty | None,
        arm: str,
        plan: Plan | None,
        stderr: int,
        *,
        is_nested: bool,
    ) -> None:
        self.program = program
        self.filter = filter_
        self.key = key
        self.duty = duty
        self.arm = arm
        self.plan = plan
        self.stderr = stderr
        self.is_nested = is_nested


def tracer() -> str:
    """The pid of the process that traces this one, or ""."""
    pid = fields("/proc/self").get("TracerPid", "0")
    return "" if pid == "0" else pid


def _explained(refusal: str) -> KernelError:
    """Why this process may not be traced, and the way out."""
    if pid := tracer():
        text = f"this process is traced already (by pid {pid}), so it cannot be armed at its execve; {HINT}"
    elif (scope := linux.yama_scope()) in ("2", "3"):
        text = f"{linux.YAMA_SCOPE} is {scope}, so the program cannot be armed at its execve; {HINT}"
    else:
        text = f"{refusal}: ptrace is not permitted here (a container's rules?), so the program cannot be armed; {HINT}"
    return KernelError(text, "ptrace")


def _confine(work: _Work, commands: int, answers: int) -> NoReturn:
    """The helper's side.

    It writes its pid to the pipe `answers`, waits for a byte on `commands`, seizes the process `program`, and writes "ok" or
    the reason why not.
    """
    program, duty = work.program, work.duty
    helper.leave()
    helper.close_all_but((commands, answers, work.stderr, *(duty.descriptors() if duty else ())))
    os.write(answers, b"%d\n" % os.getpid())
    if not os.read(commands, 1):
        os._exit(0)  # the program has gone
    pidfd = -1
    try:
        if duty:
            pidfd = kernel.pidfd_open(program)
            install.probe_listener(pidfd)
        follow.seize(program)
    except OSError as error:
        os.write(answers, str(refused(error)).encode())
        os._exit(0)
    if duty and work.arm == "now":
        duty.start(pidfd, program)
        duty.follow(listens=not (work.plan and work.plan.is_quiet))
        follow.stop(program)  # it waits for the answer
        os.write(answers, b"ok %d %d\n" % (os.getpid(), duty.stand_in))
    else:
        os.write(answers, b"ok\n")
    os.close(answers)
    os.close(commands)
    if duty and work.arm != "now":  # while the program's execve works
        duty.start(pidfd, program)
        work.filter = duty.shielded(work.filter)
    try:
        if work.arm != "now":
            _arm(work, pidfd)
        if work.plan and duty:
            from enforcer.arming.phases import Follower

            Follower(program, work.plan, duty, work.stderr, is_executed=work.arm != "now").run()
            duty.finish()
    except GoneError:
        os._exit(0)  # not executed, or killed by another process: its own status says so
    if duty:
        duty.serve()
    os._exit(0)


def _arm(work: _Work, pidfd: int) -> None:
    """Follow the seized process until it can be confined, confine it and this process, and let it go unless it has phases.

    On failure the program ends with status FAILED, and so does this process.
    """
    program, duty, stderr = work.program, work.duty, work.stderr
    surgery = None
    try:
        follow.until_exec(program)
        if work.arm == "entry":
            follow.until_entry(program)
        surgery = inject.Surgery(program)
        listener = install.install(surgery, work.key, work.filter, -1 if work.plan else pidfd, is_first=not work.is_nested)
        surgery.close()
        if work.plan and duty:
            duty.follow(listens=not work.plan.is_quiet)
            return
        if duty:
            duty.begin(listener)
        kernel.ptrace(linux.PTRACE_DETACH, program)
    except ProcessLookupError as error:
        raise GoneError from error
    except GoneError:
        raise
    except OSError as error:
        _refuse(program, surgery, duty, str(refused(error)), stderr)
    except CallfenceError as error:
        _refuse(program, surgery, duty, str(error), stderr)


def _refuse(program: int, surgery: inject.Surgery | None, duty: Duty | None, reason: str, stderr: int) -> NoReturn:
    """End the program, which is stopped before its first instruction or its entry point, with status FAILED.

    It is killed if a filter judges its calls already, which may not allow it to exit, or if its memory cannot be written.
    """
    helper.write(stderr, f"enforce: the program was not run: {reason}\n".encode())
    if duty:
        os.kill(duty.stand_in, linux.SIGKILL)  # or waiting for all children would last
    try:
        surgery = surgery or inject.Surgery(program)
        if not surgery.is_confined:
            surgery.exit_group(FAILED)
            os._exit(0)
    except (OSError, GoneError):
        pass
    os.kill(program, linux.SIGKILL)
    inject.reap(program)
    os._exit(0)
