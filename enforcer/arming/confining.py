"""Confine a process that this one traces, when its execve returns or at its entry point; then answer its calls.

An execve reports an event stop *inside* the call, then its exit stop (ptrace(2)).  Only at the exit stop, before the new
program's first instruction, can a call of ours be performed.
"""

from __future__ import annotations

import os

from callfence.enforcer import helper, kernel
from callfence.enforcer.arming import inject
from callfence.enforcer.arming.inject import Key
from callfence.enforcer.bpf import EXITS
from callfence.enforcer.errors import FAILED, ArmError, GoneError, refused
from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.errors import CallfenceError
from callfence.tracer.machine import MACHINE
from callfence.tracer.machine.model import NO_CALL
from callfence.tracer.proc import proc
from callfence.tracer.stops import CALL, CREATED, EXECUTED, GROUP, SIGNAL, SIGTRAP, TRAP

if TYPE_CHECKING:
    from typing import NoReturn

    from callfence.enforcer.arming.phase_plan import Plan
    from callfence.enforcer.duty import Duty
    from callfence.enforcer.importer import Importer
    from callfence.enforcer.reporting.settings import Reporting

_FORKS, _CLONE3 = MACHINE.numbers_by_arch("clone", "clone3"), MACHINE.numbers_by_arch("clone3")
_RUNNING = MACHINE.numbers_by_arch(
    "listen", "accept", "accept4", "wait4", "waitid", "waitpid", "pause", "rt_sigsuspend", "epoll_wait", "epoll_pwait",
    "ptrace", "io_uring_setup", "socketcall",
)  # fmt: skip
"""Calls that dynamic loaders do not make, only programs."""
_HINT = "use --arm exec"


class Work:
    """What the helper does: confine a program at its execve, and answer its calls.  See `seized.be_seized`."""

    __slots__ = (
        "_importer", "arm", "duty", "filter", "is_nested", "is_spawned", "key", "plan", "program", "reporting", "stderr"
    )  # fmt: skip

    def __init__(
        self,
        program: int,
        filter_: bytes,
        reporting: Reporting | None,
        *,
        arm: str,
        stderr: int,
        plan: Plan | None,
        is_nested: bool,
        importer: Importer | None = None,
    ) -> None:
        """`program`: the id of the process to confine.  `importer`: the helper's importer, if not that of `reporting`."""
        self.program = program
        self.key = plan.key if plan else Key()
        self.filter = self.key.passing(filter_, installs=bool(plan))
        self.reporting = reporting
        self.duty: Duty | None = None
        """What answers calls; None if nothing does, or before `begin`."""
        self._importer = importer
        self.arm = arm
        self.plan = plan
        self.stderr = stderr
        self.is_nested = is_nested
        self.is_spawned = importer is not None
        """Whether the process is a client of a spawner, which does not write to the log."""

    def descriptors(self) -> tuple[int, ...]:
        """Return the descriptors that the helper needs, -1 for none."""
        return (self.stderr, *(self.reporting.descriptors if self.reporting else ()))

    def begin(self, pidfd: int) -> Duty | None:
        """Begin to answer calls, in the helper; return what does, None if nothing does.  `pidfd`: the program's.  Raises
        OSError."""
        if self.plan:
            import callfence.enforcer.arming.phases  # noqa: F401  # before imports are restricted
        if self.reporting:
            from callfence.enforcer.duty import Duty

            is_quiet = self.plan is not None and self.plan.is_quiet
            self.duty = Duty(self.reporting, follows=bool(self.plan), is_quiet=is_quiet, importer=self._importer)
            self.duty.start(pidfd, self.program)
        return self.duty


def follow(work: Work, pidfd: int) -> NoReturn:
    """Run the helper of a seized program: confine it at its execve, and answer its calls.  `pidfd`: the program's; -1 if
    there is nothing to answer."""
    try:
        if work.arm != "now":
            _arm(work, pidfd)
        if work.plan and work.duty:
            from callfence.enforcer.arming.phases import Follower

            Follower(work.program, work.plan, work.duty, work.stderr, is_executed=work.arm != "now").run()
            work.duty.finish()
    except GoneError:  # not executed, or killed by another process: its own status says so
        if work.duty:
            work.duty.never_ran(has_said=not work.is_spawned)
        os._exit(0)
    if work.duty:
        work.duty.serve()
    os._exit(0)


def begin_before(work: Work, pidfd: int) -> Duty | None:
    """Begin to answer calls of a seized program that confines itself, and stop it; return what answers, None if nothing does.
    On failure, end both as `_arm` does."""
    try:
        if duty := work.begin(pidfd):
            duty.follow(listens=not (work.plan and work.plan.is_quiet))
            stop(work.program)
        return duty
    except GoneError:
        raise
    except Exception as error:
        stop(work.program)
        _refuse(work, error)


def _arm(work: Work, pidfd: int) -> None:
    """Follow the seized process to its execve or entry point, install the filter on it, and detach it unless it has phases.  On
    failure, print the reason and end the program with status FAILED, and this process."""
    program, problem = work.program, None
    try:
        try:
            if duty := work.begin(pidfd):
                work.filter = duty.shielded(work.filter)
        except Exception as error:  # the program runs until its execve
            problem = error
        until_exec(program)
        if problem:
            raise problem
        if work.arm == "entry":
            until_entry(program)
        surgery = inject.Surgery(program)
        listener = inject.install(surgery, work.key, work.filter, -1 if work.plan else pidfd, is_first=not work.is_nested)
        surgery.close()
        if work.plan and duty:
            duty.follow(listens=not work.plan.is_quiet)
            return
        if duty:
            duty.begin(listener)
        linux.ptrace(linux.PTRACE_DETACH, program)
    except ProcessLookupError as error:
        raise GoneError from error
    except GoneError:
        raise
    except Exception as error:
        _refuse(work, error)


def _refuse(work: Work, error: Exception) -> NoReturn:
    """Print why the program is not run, and end it, which is stopped, and this process.

    The program ends with status FAILED, or by SIGKILL if its memory cannot be written or another filter denies the exit."""
    reason = str(error)
    if not isinstance(error, CallfenceError):
        reason = str(refused(error)) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    helper.write(work.stderr, f"enforce: the program was not run: {reason}\n".encode())
    if work.duty:
        work.duty.end_stand_in()  # otherwise waiting for all children would never end
    try:
        inject.Surgery(work.program).exit_group(FAILED, work.key)
    except OSError:
        os.kill(work.program, linux.SIGKILL)
        inject.reap(work.program)
    os._exit(0)


def stop(pid: int) -> None:
    """Stop a seized process that runs.  Raises GoneError if it has died."""
    linux.ptrace(linux.PTRACE_INTERRUPT, pid)
    inject.wait(pid)


def until_exec(pid: int) -> None:
    """Follow a seized process to the exit stop of its first successful execve.  Raises GoneError if the process ends before,
    and ArmError, with the process at the exit of a call, if it starts a thread or a process before."""
    while (kind := _next_event(pid)) != EXECUTED:
        if kind == CREATED:
            _end_new(pid)
            raise ArmError("it started a thread or a process before its execve, and the filter would not confine that")
        inject.resume(linux.PTRACE_CONT, pid)
    _leave_call(pid)


def until_entry(pid: int) -> None:
    """Follow a process from its execve's exit stop to its ELF entry point, where its dynamic loader ends.

    The breakpoint is in the processor's debug registers, which the process cannot change itself.  Raises ArmError, with the
    process at the exit of a call, if before the entry point it exits, starts a thread or a process, which the filter would not
    confine, or makes a call that dynamic loaders do not make."""
    while True:
        registers = MACHINE.registers(pid)
        convention = MACHINE.convention(registers)
        entry, mode = MACHINE.target(convention, _entry_point(pid, convention.pointer))
        if registers[convention.ip] == entry:  # no dynamic loader
            return
        try:
            MACHINE.set_breakpoint(pid, entry, mode)
        except ProcessLookupError:
            raise
        except OSError as error:
            raise ArmError(f"no breakpoint can be set at its entry point ({error.strerror}); {_HINT}") from error
        inject.resume(linux.PTRACE_SYSCALL, pid)
        if _is_reached(pid, entry):
            MACHINE.clear_breakpoint(pid)
            return


def _is_reached(pid: int, entry: int) -> bool:
    """Follow the running process: return True at its entry point, False at the exit of an execve that it made before."""
    while True:
        stop = inject.wait(pid)
        if stop.kind == EXECUTED:
            _leave_call(pid)
            return False
        if stop.kind == CREATED:
            _end_new(pid)
            raise ArmError(f"it started a thread or a process before its entry point, which is not confined; {_HINT}")
        if stop.kind == CALL:
            _judge(pid)
            inject.resume(linux.PTRACE_SYSCALL, pid)
        elif stop.kind == SIGNAL and stop.signal == SIGTRAP and _is_at(pid, entry):
            return True
        else:
            inject.go_on(linux.PTRACE_SYSCALL, pid, stop)


def _is_at(pid: int, address: int) -> bool:
    registers = MACHINE.registers(pid)
    return registers[MACHINE.convention(registers).ip] == address


def _judge(pid: int) -> None:
    """At a call's entry: if the call must not be made before the entry point, make it fail and raise ArmError."""
    call = kernel.CallStop()
    call.read(pid)
    if call.op != linux.PTRACE_SYSCALL_INFO_ENTRY:
        return
    number, flags = call.number & ~MACHINE.foreign_bit, call.arguments[0]
    if number in _CLONE3.get(call.arch, ()):
        flags = kernel.peek(pid, flags)
    if number in EXITS.get(call.arch, ()):
        reason = "it exits before its entry point, so it would never be confined"
    elif number in _RUNNING.get(call.arch, ()):
        reason = f"its own code runs before its entry point (call number {number}), unconfined"
    elif number in _FORKS.get(call.arch, ()) and flags & linux.CLONE_UNTRACED:
        reason = "it starts a thread or a process before its entry point, which cannot be traced and confined"
    else:
        return
    MACHINE.set_register(pid, MACHINE.of(call.arch).number, NO_CALL)
    _leave_call(pid)
    raise ArmError(f"{reason}; {_HINT}")


def _next_event(pid: int) -> str:
    """Follow the running process to its next ptrace event, and return the kind of stop.  Signals take effect as usual."""
    while (stop := inject.wait(pid)).kind in (SIGNAL, GROUP, TRAP, CALL):
        inject.go_on(linux.PTRACE_CONT, pid, stop)
    return stop.kind


def _leave_call(pid: int) -> None:
    """Resume a process from an event stop, which is inside a call, to that call's exit stop.  Raises ArmError."""
    inject.resume(linux.PTRACE_SYSCALL, pid)
    if (stop := inject.wait(pid)).kind != CALL:
        raise ArmError(f"it stopped ({stop.kind}) instead of leaving its call")


def _end_new(pid: int) -> None:
    """At the event stop of a fork or clone: kill the new process, and resume the old one to the exit of its call."""
    new = kernel.event_message(pid)
    if not os.path.exists(f"{proc()}/{pid}/task/{new}"):
        os.kill(new, linux.SIGKILL)  # a process; a thread goes with the program
    _leave_call(pid)


def _entry_point(pid: int, pointer: int) -> int:
    entry = linux.entry_point(f"{proc()}/{pid}", pointer)
    if entry is None:
        raise ArmError("its entry point is not known: no AT_ENTRY in its auxiliary vector")
    return entry
