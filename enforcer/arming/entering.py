"""Put a process into a phase: at a call that leads to the phase, install the phase's filter on all threads of the process.

The task is stopped at the call's entry, makes calls of ours instead (`enforcer.arming.detour`), and then its own.
"""

from __future__ import annotations

import errno
import os
import time

from callfence.enforcer import helper, kernel
from callfence.enforcer.arming import inject
from callfence.enforcer.arming.detour import Detour
from callfence.enforcer.errors import ArmError, GoneError, HeldUpError
from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.errors import KernelError
from callfence.tracer.machine import MACHINE
from callfence.tracer.proc import proc, state

if TYPE_CHECKING:
    from callfence.enforcer.arming.inject import Stops
    from callfence.enforcer.arming.phase_plan import Plan, Stage
    from callfence.enforcer.arming.processes import Call, Process, Processes
    from callfence.enforcer.duty import Duty

_PRCTL = MACHINE.calls("prctl")
_SENDS = {call: MACHINE.of(call[0]).pointer for call in MACHINE.calls("sendmsg", "sendto", "write")}
"""The calls with which a program may tell a service manager that it is ready, and the size of a pointer in bytes for each."""
_SENDMSG = MACHINE.calls("sendmsg")
_SECCOMP = MACHINE.calls("seccomp")
RESTARTED = MACHINE.calls(
    "futex", "futex_time64", "poll", "ppoll", "ppoll_time64", "select", "_newselect", "pselect6", "pselect6_time64",
    "nanosleep", "clock_nanosleep", "clock_nanosleep_time64", "wait4", "waitid", "waitpid", "rt_sigsuspend", "sigsuspend",
    "pause",
)  # fmt: skip
"""Calls that are restarted after a ptrace stop; others, such as epoll_wait, fail with EINTR (signal(7))."""
_UNREADABLE = "its memory cannot be read (PR_SET_DUMPABLE)"
_FULL = "it cannot open another descriptor"
_HELPER_FULL = "the helper cannot open another descriptor"
_SHARED = "it shares its memory with a process that is in a later phase"
_UNHEARD = {errno.EBUSY: "it has a listener already", errno.EMFILE: _FULL, errno.ENFILE: _FULL}
"""The errnos with which seccomp(2) refuses only the listener, each with the reason to print."""
_STOPPED = ("", "t", "T", "X", "Z")
"""The states of a task that has ended or is stopped: what was in a call is at its end."""
_MAPPING = MACHINE.calls(
    "mmap", "mmap2", "munmap", "mremap", "mprotect", "pkey_mprotect", "madvise", "process_madvise", "remap_file_pages", "shmat",
    "shmdt", "ipc",
)  # fmt: skip
"""Calls that change what is mapped: one that has begun would put another filter in the place of ours."""
_RUNS = ("R", "D")
"""The states of a task that executes a call, or waits for memory or a processor in it."""
_MAPS = 10.0
"""Seconds to wait until no other task is in such a call."""
_SETTLES = 1.0
"""Seconds to wait until the other threads of a process have left their calls or sleep in them."""
_DELAY = 0.0002
"""Seconds between two checks of these threads."""


class Entrance:
    """Puts processes into the phases of a plan."""

    def __init__(self, plan: Plan, processes: Processes, stops: Stops, duty: Duty, stderr: int) -> None:
        self._plan = plan
        self._stages = plan.stages
        self._key = plan.key
        self._processes = processes
        self._stops = stops
        self._duty = duty
        self._stderr = stderr
        self._triggers = {trigger: number for number, stage in enumerate(self._stages, 1) for trigger in stage.triggers}
        self._notified = next((number for number, stage in enumerate(self._stages, 1) if stage.is_notified), 0)
        """The number of the phase that begins when the program tells a service manager that it is ready; 0 if there is none."""
        has_entered = any(stage.is_entered for stage in self._stages)
        self.calls = (_PRCTL if has_entered else set()) | set(self._triggers)
        self.calls.update(_SENDS if self._notified else ())
        """The calls that may lead to a phase."""
        self._unreported: set[str] = set()
        """The reasons, printed already, why the denied calls of some processes are not reported."""

    def is_claim(self, call: Call, stop: kernel.CallStop) -> bool:
        """Return whether the call is the prctl by which a program enters a phase (include/callfence.h)."""
        return call in _PRCTL and stop.arguments[0] == linux.CALLFENCE_ENTER

    def enter(self, pid: int, process: Process, call: Call, stop: kernel.CallStop) -> bool:
        """Put the process into the phase that this call leads to, if any.  Return True if the task is ready to be resumed, at
        the beginning of its call or after it; False if nothing was done at this stop."""
        entered = self._entered_phase(pid, process, stop) if call in _PRCTL else 0
        number = entered or self._triggers.get(call, 0)
        if number <= process.reached < self._notified and call in _SENDS and self._is_ready(pid, process, call, stop):
            number = self._notified
        if not entered and number <= process.reached:
            return False
        surgery = None
        try:
            surgery = Detour(pid, call[0], self._key, self._stops)
            for each in range(process.reached + 1, number + 1):  # also those that it passes over: `_reached` counts filters
                self._put(surgery, process, each)
        except GoneError as error:
            if error.signal == linux.SIGSYS:  # all signals are blocked, so a filter has killed it for a call of ours
                self._failed(process, "a filter of its own kills for a call that enforce makes in it", is_confined=True)
            raise
        except ProcessLookupError:  # it is dying
            raise
        except (ArmError, OSError, KernelError) as error:
            is_lost = isinstance(error, HeldUpError) or bool(surgery and surgery.is_confined)
            self._failed(process, _reason(error), is_confined=is_lost)
            process.is_stuck = True
            if surgery is None:
                return False
        if not entered:
            surgery.close()
        else:
            surgery.finish(-errno.EINVAL if process.is_stuck else 0)
        return True

    def _entered_phase(self, pid: int, process: Process, stop: kernel.CallStop) -> int:
        """Return the number of the phase that a prctl enters; 0 for another prctl, or a phase that is not in the plan."""
        if stop.arguments[0] != linux.CALLFENCE_ENTER:
            return 0
        try:
            name = kernel.peek_string(pid, stop.arguments[1])
        except ProcessLookupError:
            raise
        except OSError:
            self._failed(process, _UNREADABLE)
            return 0
        named = {os.fsencode(stage.name): number for number, stage in enumerate(self._stages, 1) if stage.is_entered}
        return named.get(name, 0)

    def _is_ready(self, pid: int, process: Process, call: Call, stop: kernel.CallStop) -> bool:
        """Return whether the call tells a service manager that the program is ready."""
        from callfence.enforcer.waiting import WaitingTask  # with tables, which most programs do without
        from callfence.tracer.abi.waits import is_ready

        caller = WaitingTask(pid, process.pid)
        if not caller.can_be_read:
            self._failed(process, _UNREADABLE)
        return is_ready(stop.arguments, caller.read, pointer=_SENDS[call], is_sendmsg=call in _SENDMSG)

    def _put(self, surgery: Detour, process: Process, number: int) -> None:
        """Install the filter of phase `number` on a process.  Raises ArmError, KernelError, OSError or GoneError."""
        if process.is_behind:
            raise ArmError(_SHARED)
        self._require_no_change(process, surgery.pid)
        stage = self._stages[number - 1]
        is_last = number == len(self._stages)
        surgery.is_confined = False  # by this filter: those of phases that were passed over need no listener
        if is_last and not self._plan.is_quiet:
            if why := self._put_listening(surgery, process, stage):
                surgery.unmap(self._stages[process.reached - 1].filter if process.reached else self._plan.start)
                if self._plan.needs_listener:
                    raise ArmError(why)
                program = self._key.passing(self._plan.installed_in(stage), installs=False)
                inject.install(surgery, self._key, program, -1, threads=True)
                self._say_unreported(process, stage, why)
        else:
            program = stage.filter if is_last else self._plan.installed_in(stage)
            program = self._key.passing(program, installs=not is_last)
            inject.install(surgery, self._key, program, -1, threads=True)
        surgery.unmap(stage.filter)
        process.reached = process.memory.reached = number
        self.fail_behind(process)
        if is_last:
            self._call_back(process, surgery.pid)

    def fail_behind(self, process: Process) -> None:
        """Have those fail that share the memory of a process, and are in an earlier phase than another one that does."""
        for other in self._processes.behind(process.memory):
            try:
                self._failed(other, _SHARED)
            except (GoneError, ProcessLookupError):
                continue  # it has been killed, or has ended

    def _put_listening(self, surgery: Detour, process: Process, stage: Stage) -> str:
        """Install the filter of the last phase on a process, with a listener, and answer its calls from now on.  Return "", or
        the reason why it cannot have a listener.  Raises KernelError, OSError or GoneError."""
        if process.shares:
            return "it shares its table of descriptors with another process"
        self._settle(process, surgery.pid)
        pidfd = -1
        try:
            self._duty.begin_answering()  # before the filter is there: without descriptors, the kernel alone answers
            pidfd = kernel.pidfd_of_thread(surgery.pid, process.pid)
            try:
                helper.probe_listener(pidfd)
            except ProcessLookupError:
                return "its first thread has ended"
            program = self._key.passing(stage.filter, installs=False)
            self._duty.answer_listener(inject.install(surgery, self._key, program, pidfd, threads=True), stage.name)
        except OSError as error:
            if surgery.is_confined or error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            return _HELPER_FULL
        except KernelError as error:
            if surgery.is_confined or error.errno not in _UNHEARD:
                raise
            return _UNHEARD[error.errno]
        finally:
            if pidfd >= 0:
                os.close(pidfd)
        return ""

    def _require_no_change(self, process: Process, but: int) -> None:
        """Wait until no task with the memory of a process, except `but`, installs a filter, which would be counted as ours
        if it is installed on all threads, or changes what is mapped.  Raises ArmError if one does not end."""
        start = time.monotonic()
        for task in [task for task, other in self._processes.tasks.items() if other.memory is process.memory and task != but]:
            while (call := self._processes.inside.get(task)) in _SECCOMP or call in _MAPPING:
                now, waited = state(f"{proc()}/{task}"), time.monotonic() - start
                if now in _STOPPED or (call in _MAPPING and now not in _RUNS):
                    break
                if waited >= (_MAPS if call in _MAPPING else _SETTLES):
                    does = "changes what is mapped" if call in _MAPPING else "installs a filter"
                    raise ArmError(f"another of its threads {does}, and does not end")
                time.sleep(_DELAY)

    def _say_unreported(self, process: Process, stage: Stage, why: str) -> None:
        """Print that denied calls of a process are not reported, once for each reason."""
        if why not in self._unreported:
            self._unreported.add(why)
            self._say(
                f"denied calls of process {process.pid} in {stage.name} are not reported, because {why}; "
                "for later such processes, this is not printed again"
            )

    def _settle(self, process: Process, but: int) -> None:
        """Wait until each thread of a process, except `but`, has stopped at the end of its call or sleeps in it.  A thread that
        copies descriptors at this moment would otherwise get the listener, though it could not use it."""
        end = time.monotonic() + _SETTLES
        for task in process.threads - {but}:
            while task in self._processes.inside and state(f"{proc()}/{task}") == "R" and time.monotonic() < end:
                time.sleep(_DELAY)

    def _call_back(self, process: Process, but: int) -> None:
        """Stop, to detach it, each thread but `but` in a call that is restarted after a stop; others stop when it ends."""
        for task in process.threads - {but}:
            if self._processes.inside.get(task) in RESTARTED:
                try:
                    linux.ptrace(linux.PTRACE_INTERRUPT, task)
                except ProcessLookupError:
                    continue

    def _failed(self, process: Process, why: str, *, is_confined: bool = False) -> None:
        """Print, once for each process, that it cannot enter its phase and why; then kill it and raise GoneError.

        The process is not killed if the policy, or --audit, lets it go on, except with `is_confined`: then a filter of the
        phase may be on it already, and nothing would answer its calls."""
        goes_on = (self._plan.is_optional or self._plan.is_audit) and not is_confined
        if not process.is_reported:
            process.is_reported = True
            rest = "keeps its start-up permissions" if goes_on else "is killed"
            self._say(f"process {process.pid} cannot enter its phase and {rest}, because {why}")
        if not goes_on:
            process.kill()
            raise GoneError

    def _say(self, text: str) -> None:
        helper.write(self._stderr, f"enforce: {text}\n".encode(errors="replace"))


def _reason(error: Exception) -> str:
    """Return why a filter could not be installed on a process, as a clause."""
    if not isinstance(error, OSError):
        return str(error)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return _HELPER_FULL
    if error.errno == errno.EIO or str(error.filename).endswith("/mem"):
        return _UNREADABLE
    return f"{error.filename}: {error.strerror}"
