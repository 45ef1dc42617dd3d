"""The system calls that the tracer must handle, besides counting them: it changes, fails or reports them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Final

from callfence.tracer import kernel, linux
from callfence.tracer.abi import COMPAT, NATIVE, Arch, Event, table
from callfence.tracer.errors import PtraceError
from callfence.tracer.kernel import event_of
from callfence.tracer.linux import OPAQUE
from callfence.tracer.machine import MACHINE
from callfence.tracer.proc import has_filter
from callfence.tracer.processor import SharedProcessor
from callfence.tracer.task import Task, Way

Handler = Callable[["Task", Event], None]
ExitHandler = Callable[["Task", Event, int], None]
"""Its last argument is what the call returned, 64 bits, signed."""

ENOSYS: Final = 38  # asm-generic/errno.h
SET_MODE: Final = (linux.SECCOMP_SET_MODE_STRICT, linux.SECCOMP_SET_MODE_FILTER)
O_ACCMODE: Final = 3  # asm-generic/fcntl.h
WRITES: Final = ("write", "writev", "pwritev2", "sendfile", "splice")
"""Calls that can write to a terminal.  io_uring can too, but is seldom used for that."""
_WRITES: Final = [(arch.audit, table(arch).by_name[name].number) for arch in (NATIVE, COMPAT) for name in WRITES]


def is_readable(flags: int) -> bool:
    """Return whether the flags of an open let the file's content be read: neither O_WRONLY nor O_DIRECTORY, since a folder has
    no content.  True, to be safe, for O_PATH too."""
    return flags & O_ACCMODE != os.O_WRONLY and not flags & os.O_DIRECTORY


class Calls:
    """The handlers of the calls of a run, by architecture and number.  The tracer calls `handle` at each stop at a call."""

    def __init__(
        self, tasks: dict[int, Task], processor: SharedProcessor, allow_opaque: frozenset[str], gap: Callable[[str], None]
    ) -> None:
        """`tasks`: the program's tasks by tid.  `allow_opaque`: names of OPAQUE calls that are allowed.  `gap` is called with a
        sentence for the user about what cannot be observed."""
        self._changed: dict[int, tuple[int, int]] = {}
        """By tid: the register that was changed for a clone, and its former value."""
        self._tasks = tasks
        self._processor = processor
        self._gap = gap
        self.handlers: dict[tuple[int, int], list[Handler]] = {}
        """By AUDIT_ARCH_* and number: the handlers that are called at the stops of a call, in this order."""
        self._before_output: Callable[[], None] = lambda: None
        self.started = False
        """Whether the tracer has started the program, so that one of its filters is in force, at least `late.filter.UNSEEN`."""
        self.draws = False
        """Whether the progress line is drawn on the terminal that the program writes to."""
        self.writes_run = False
        """Whether calls by which the program can write to a terminal may run without a stop."""
        self.always: set[int] = set()
        """Numbers of the native calls that must stop each time."""
        self.first: dict[int, Callable[[str], frozenset[int] | None]] = {}
        """By number of a native call: a function that takes an executable and returns the values of the first argument (64
        bits) with which recorded calls need not stop, or None if no value needs a stop."""
        self.zeros: dict[int, int] = {}
        """By number of a native call: the index of an argument; recorded calls need not stop if its register is 0."""
        self.exits: dict[tuple[int, int], ExitHandler] = {}
        """By AUDIT_ARCH_* and number: the handler that is called at the exit of a call, if its task is watched (`watch`)."""
        self.lapsed: Callable[[Task], None] = lambda task: None
        """Called when a task has made all the calls for which it was watched."""
        by_name: dict[str, Handler] = {
            "clone": self._clone,
            "clone3": self._clone3,
            "sched_getaffinity": self._affinity,
            "sched_setaffinity": self._setaffinity,
            "sched_setattr": self._affinity,  # a deadline is only for a task that may use all processors (sched(7))
            "open": self._open,
            "openat": self._open,
            "seccomp": self._seccomp,
            "prctl": self._prctl,
            "ptrace": self._ptrace,
        }
        by_name |= {name: self._opaque for name in OPAQUE if name not in allow_opaque}
        for name, handler in by_name.items():
            self.also_named(name, handler, always=False)

    def also(self, arch: int, number: int, handler: Handler, *, always: bool = True) -> None:
        """Have `handler` called at the stops of the call `number` (of the architecture `arch`, AUDIT_ARCH_*), before the
        handlers that the call has already.  Unless `always`, the call may run without a stop once it has been recorded."""
        self.handlers.setdefault((arch, number), []).insert(0, handler)
        if arch == NATIVE.audit and always:
            self.always.add(number)

    def also_named(self, name: str, handler: Handler, *, always: bool = True) -> None:
        """Register a handler, as `also` does, for the call `name` on those of this machine's two architectures that have it."""
        for arch in (NATIVE, COMPAT):
            if call := table(arch).by_name.get(name):
                self.also(arch.audit, call.number, handler, always=always)

    def handle(self, task: Task, info: bytearray) -> None:
        """Call the handlers of a call at its stop, before it runs; `info` is its struct ptrace_syscall_info."""
        event = event_of(info, task.tid)
        with contextlib.suppress(PtraceError, OSError):  # the task is dying
            for handler in [*self.handlers.get((event.arch, event.number), ())]:
                handler(task, event)

    def watch(self, task: Task, event: Event, number: int, *, whole: bool = False) -> None:
        """At `event`, a call of `task`: have this call and the next `number` calls of the task stop at their entry and their
        exit, whatever its filters let run.  `whole`: also the next ones of the other threads of its process.

        A thread that waits in a call returns from it: most such calls are made again by the kernel, but epoll_wait(2) fails
        with EINTR (signal(7))."""
        task.call = event if (event.arch, event.number) in self.exits else None
        for other in [*self._tasks.values()] if whole else [task]:
            if other.tgid != task.tgid:
                continue
            runs = other.way is Way.RUN
            other.watched = max(other.watched, number)
            if runs and other is not task:
                other.counted = False  # its next stop may be that of a filter, without one at the entry
                with contextlib.suppress(PtraceError):  # it is ending
                    kernel.interrupt(other.tid)

    def unwatch(self, tgid: int) -> None:
        """End what `watch` began in all threads of a process."""
        for task in self._tasks.values():
            if task.tgid == tgid:
                task.watched = 0

    def enter(self, task: Task, info: bytearray) -> None:
        """At the entry of a call of a watched task, whose struct ptrace_syscall_info is `info`: note the call for `leave`."""
        task.watched -= 1
        if not task.watched:
            task.call = None
            self.lapsed(task)
            return
        event = event_of(info, task.tid)
        task.call = event if (event.arch, event.number) in self.exits else None

    def leave(self, task: Task, result: int) -> None:
        """At the exit of a call that `enter` or `watch` has noted: call its handler."""
        event, task.call = task.call, None
        if event is not None:
            with contextlib.suppress(PtraceError, OSError):  # the task is dying
                self.exits[event.arch, event.number](task, event, result)

    def may_skip(self, task: Task) -> bool:
        """Return whether the call at which a task is stopped can be skipped (`kernel.skip_call`): if that is at its entry, it
        reaches the program's own filter as -1, for which that may kill."""
        return task.filtered or not (task.other_filter if self.started else has_filter(task.tid))

    def _opaque(self, task: Task, event: Event) -> None:
        if not self.may_skip(task):
            what = "made calls whose arguments no filter can see; learn cannot fail them under the program's own filter"
            self._gap(f"{task.executable} {what}")
            return
        kernel.skip_call(task.tid, ENOSYS)
        name = table(Arch.from_audit(event.arch) or NATIVE).by_number[event.number].name
        if name != "clone3":  # every libc does without it
            self._gap(f"{name} of {task.executable} failed with ENOSYS; if the program needs it, use --allow-opaque {name}")

    def _clone(self, task: Task, event: Event) -> None:
        """Remove CLONE_UNTRACED: in an untraced child, the filter that it inherits would fail all calls."""
        flags = event.arguments[0]
        if flags & linux.CLONE_UNTRACED:
            convention = MACHINE.of(event.arch)
            register = convention.arguments[0]
            kernel.set_register(task.tid, register, flags & ~linux.CLONE_UNTRACED)
            if register != convention.result:
                self._changed[task.tid] = (register, flags)

    def _clone3(self, task: Task, event: Event) -> None:
        """Fail an allowed clone3 that has CLONE_UNTRACED: libc then calls clone, whose flags can be changed."""
        if kernel.peek(task.tid, event.arguments[0]) & linux.CLONE_UNTRACED:  # struct clone_args begins with the flags
            self._opaque(task, event)

    def announced(self, task: Task, child: Task) -> None:
        """When the kernel reports that `task` has created `child`: if a register was changed for that call, restore it in
        `task`; `restore` does so in `child`."""
        if changed := self._changed.pop(task.tid, None):
            self._changed[child.tid] = changed
            kernel.set_register(task.tid, *changed)

    def restore(self, child: Task) -> None:
        """At the first stop of `child`: restore the register that was changed in its creator for the clone, which `child` has a
        copy of."""
        if changed := self._changed.pop(child.tid, None):
            kernel.set_register(child.tid, *changed)

    def _affinity(self, task: Task, event: Event) -> None:
        """Restore a task's affinity before it reads it.  If the call is for another task, restore all and stop sharing: the pid
        may be one of another namespace."""
        if event.arguments[0] & 0xFFFFFFFF in (0, task.tid):
            self._processor.release(task.tid)
            task.checked = 0.0  # so that it is not pinned again at this stop
        else:
            self._processor.disable()

    def _setaffinity(self, task: Task, event: Event) -> None:
        self._affinity(task, event)
        task.own_affinity = True

    def _open(self, task: Task, event: Event) -> None:
        """Stop sharing the processor before a task opens a file named `status`: /proc/PID/status shows affinities."""
        if not self._processor.in_use:
            return
        call = table(Arch.from_audit(event.arch) or NATIVE).by_number[event.number]
        index = int(call.name != "open")
        flags = event.arguments[index + 1]
        if not is_readable(flags):
            return
        path = kernel.read_path(task.tid, event.arguments[index])
        if path.rstrip(b"/").endswith(b"status"):
            self._processor.disable()

    def _prctl(self, task: Task, event: Event) -> None:
        option = event.arguments[0] & 0xFFFFFFFF
        if option == linux.PR_SET_SECCOMP:
            self._expose(task, "one")
        elif option == linux.PR_GET_SECCOMP and self.started and not task.other_filter:
            kernel.skip_call(task.tid)  # the only filter is ours

    def _seccomp(self, task: Task, event: Event) -> None:
        if event.arguments[0] & 0xFFFFFFFF in SET_MODE:
            self._expose(task, "all" if event.arguments[1] & linux.SECCOMP_FILTER_FLAG_TSYNC else "one")

    def _expose(self, task: Task, threads: str) -> None:
        """Stop the task at the entry of each call from now on, before all filters: a filter that it installs may answer a call
        before the tracer's filter does.  `threads`: 'one', or 'all' of its process."""
        task.installing = threads
        for other in self._filtered_by(task, threads):
            runs = other.way is Way.RUN
            other.exposed = True
            if runs and other is not task:
                with contextlib.suppress(PtraceError):  # it is ending
                    kernel.interrupt(other.tid)

    def installed(self, task: Task, failed: bool) -> None:
        """At the exit of a call for which `_expose` was called: end the stops at the entry of each call that it began, and
        unless the call `failed`, note that the tasks have a new filter that is not the tracer's."""
        threads, task.installing = task.installing, ""
        for other in self._filtered_by(task, threads):
            other.exposed = False
            other.other_filter |= not failed

    def _filtered_by(self, task: Task, threads: str) -> list[Task]:
        """Return the tasks that get a filter by a call of `task`: itself ('one') or 'all' threads of its process."""
        tasks = [other for other in list(self._tasks.values()) if other.tgid == task.tgid]
        return tasks if threads == "all" else [task]

    def _ptrace(self, task: Task, event: Event) -> None:
        self._gap(f"{task.executable} uses ptrace, which fails because learn traces the program")

    def before_output(self, action: Callable[[], None]) -> bool:
        """Have `action` called once, before the program's next call that can write to a terminal, and return True.  Return
        False, and do nothing, if such calls may run without a stop."""
        if self.writes_run:
            return False
        self._before_output = action
        for call in _WRITES:
            if self._output not in self.handlers.get(call, ()):
                self.also(*call, self._output, always=False)
        return True

    def let_writes_run(self) -> None:
        """Allow calls that can write to a terminal to run without a stop from now on.  Such a call can no longer trigger the
        pending action of `before_output`, so that action is called now."""
        self.writes_run = True
        if self._output in self.handlers.get(_WRITES[0], ()):
            self._output()

    def _output(self, task: Task | None = None, event: Event | None = None) -> None:
        for call in _WRITES:
            handlers = [handler for handler in self.handlers.pop(call, ()) if handler != self._output]
            if handlers:
                self.handlers[call] = handlers
        self._before_output()
