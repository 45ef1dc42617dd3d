"""The work of the helper and its stand-in: the helper answers calls, and the stand-in waits for the helper's end.

If the helper is killed, the stand-in takes its place and starts another stand-in, so that denied calls are still answered and
reported.  If both are killed at once, the kernel fails every call that they would have answered (ENOSYS).

A program whose signals reach only its own processes (Landlock) can kill neither.  If it may make no other call that changes
them, the stand-in is started when the program has run for a while (`_SETTLED`), for a clone takes a millisecond of each start.
A program whose signals reach other processes is killed as soon as the helper or the stand-in dies: each holds one end of a pipe
and the other process the other end, and the kernel sends SIGKILL to the program when an end is closed.
"""

from __future__ import annotations

import errno
import os
import select
import time

from callfence.enforcer import bpf, confinement, helper, kernel
from callfence.enforcer.errors import BUSY, FAILED
from callfence.enforcer.importer import Importer
from callfence.enforcer.listener import Descriptors, Notification, StoppedRequest, shared, wake_here
from callfence.enforcer.reporting.answer import Answers
from callfence.enforcer.reporting.loaded import attempt
from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from callfence.enforcer.reporting.settings import Reporting

_NONE = -1
_SETTLED = 0.02
"""Seconds after which a program that can reach no helper nor stand-in has one: most commands of a build end before."""
_NEVER = float("inf")


class Duty:
    """The state of the helper and its stand-in.  Files are read, and descriptors opened and shared, before the program runs."""

    __slots__ = (
        "_answers", "_armed", "_capabilities", "_children", "_descriptors", "_devices", "_due", "_filter", "_following",
        "_follows", "_former", "_fuse", "_hub", "_importer", "_is_fused", "_listeners", "_notification", "_pid", "_ready",
        "_records", "_reporting", "_shield", "_started", "_starts_late", "_waiting", "_watched", "program", "stand_in",
    )  # fmt: skip

    def __init__(
        self, reporting: Reporting, *, follows: bool = False, is_quiet: bool = False, importer: Importer | None = None
    ) -> None:
        """Read what the helper needs.  `follows`: the helper follows the program through its phases.  `is_quiet`: it answers no
        calls afterwards.  `importer`: the importer, if not that of the note of `reporting`."""
        self._importer = importer or Importer(reporting.to_import)
        self._descriptors: Descriptors
        makes = reporting.hosts is not None
        self._capabilities = confinement.CONNECTING * makes | confinement.ACTING * reporting.listens
        self._capabilities |= confinement.FINDING * bool(reporting.reach)
        """Those that this process retains besides."""
        # Under --audit the program may make every call, too, and its exit status may have to be changed (`listener.exit_with`).
        renews = reporting.destination.folder >= 0
        self._filter = b"" if reporting.audit else confinement.read(renews_log=renews, makes_calls=makes)
        self._following = confinement.read_follower(makes_calls=makes) if follows and not reporting.audit else b""
        self._shield = bpf.read_shield()
        self._follows = follows
        self._is_fused = not (reporting.keeps_signals or reporting.audit or is_quiet)
        self._starts_late = reporting.is_out_of_reach and not follows
        """Whether the stand-in is started while the program runs, whose filter then cannot deny calls that name it."""
        self._fuse: tuple[int, ...] = ()
        """The ends of two pipes: the kernel kills the program when this process ends and so closes them."""
        self._armed: tuple[int, ...] = ()
        """Those ends that are open here by which the kernel kills it when the other end is closed."""
        self._reporting = reporting
        self._records = reporting.records.descriptor if reporting.records else _NONE
        self._listeners: dict[int, str] = {}
        """The phase of the processes whose calls each listener receives, by listener; "" where there are no phases."""
        self._devices: tuple[int, int] = _NONE, _NONE
        """Descriptors of /dev/null and /dev/full, to hand to the program when it opens these; -1 for a missing device."""
        self._children = _NONE
        """A descriptor that is readable when a child has stopped or ended, while the program is followed."""
        self._hub = _NONE
        """The descriptor of what the calls that are made for the program wait for, once there is such a call."""
        self.program = _NONE
        """A pidfd of the first confined process."""
        self.stand_in = _NONE
        """The id of the stand-in; -1 while there is none."""
        self._former: Answers | None = None
        """The helper's, of which a stand-in is a copy: deleting them would close numbers that others have by then."""
        self._due = _NEVER
        """When a stand-in has to be started (CLOCK_MONOTONIC, seconds)."""
        self._started = 0.0
        """When the last one was started while the program ran: no more than one in `_SETTLED` seconds, for a limit on this
        process may end each at once."""
        self._watched = _NONE
        """A pidfd of the stand-in."""

    def start(self, program: int, pid: int) -> None:
        """Restrict imports to the noted files, and start the stand-in, unless it is started later.  `program` is a pidfd of the
        first confined process, whose id is `pid`.  Raises OSError."""
        self.program = program
        self._pid = pid
        self._notification, self._waiting = shared()  # the stand-in answers what the helper leaves if it dies
        self._devices = helper.opened("/dev/null", os.O_RDWR), helper.opened("/dev/full", os.O_WRONLY)
        self._importer.seal()
        if not self._starts_late:
            self._start_first(pid)

    def _start_first(self, pid: int) -> None:
        """Start the stand-in before the program `pid` runs; it gets the listeners later, by a shared table of descriptors."""
        own = os.getpid()
        self._ready = os.pipe()
        pipes = helper.fuses(pid) if self._is_fused else ()
        self.stand_in = kernel.clone(linux.CLONE_FILES)
        place = int(self.stand_in == 0)
        self._fuse = tuple(pipe[(place + number) % 2] for number, pipe in enumerate(pipes))
        self._armed = tuple(pipe[0] for pipe in pipes)
        if self.stand_in == 0:
            helper.guarded(lambda: self._stand_by(own))

    def shielded(self, filter_: bytes) -> bytes:
        """Return the filter after instructions that deny calls on the helper, this process, and on a stand-in that is there."""
        return bpf.shielded(filter_, [pid for pid in (os.getpid(), self.stand_in) if pid != _NONE], self._shield)

    def begin(self, listener: int) -> None:
        """Give the listener to a stand-in that is there, and confine this process, before the program runs.  Raises OSError."""
        self._listeners = {listener: ""}
        wake_here(listener)
        self._hand_over()
        self._watch()
        self._become_answerer(self._descriptors.fileno(), self._watched)  # last: until then the program can be ended in order

    # While the program is followed through its phases (`enforcer.arming.phases`)

    def follow(self, *, listens: bool) -> None:
        """Confine this process as far as following the program permits, and prepare it to answer calls.  Raises OSError, and
        KernelError if `listens` and another filter has a listener already."""
        self._answers = self._new_answers()
        try:
            confinement.confine(self._following, self._capabilities, listens=listens, traces=True)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise KernelError(BUSY, "seccomp", errno.EBUSY) from error

    def answer_listener(self, listener: int, phase: str) -> None:
        """Answer the calls that a listener receives, from now on; they are calls of processes in `phase`.  To be called after
        `begin_answering`."""
        wake_here(listener)
        self._descriptors.add_listener(listener)
        self._listeners[listener] = phase

    def begin_answering(self) -> None:
        """Open what answering takes while the program is followed, unless that is open.  Raises OSError."""
        if not self.is_answering:
            self._descriptors = Descriptors()
            self._descriptors.add(self.program)
            self._children = kernel.signal_descriptor(linux.SIGCHLD)
            self._descriptors.add(self._children)

    @property
    def is_answering(self) -> bool:
        """Whether there is something to answer besides stops, while the program is followed: a listener, or what calls that
        were made for the program wait for."""
        return self._children >= 0

    def answer_until_child(self) -> None:
        """Wait for events and answer calls once; return also when a child may have stopped or ended."""
        for descriptor, events in self._events():
            if descriptor == self._children:
                os.read(descriptor, 4096)
            else:
                self._happened(descriptor, events)

    def _events(self) -> Sequence[tuple[int, int]]:
        """Wait for events and return them; meanwhile, read the code that describes calls, and report counts that are due.
        Return none when a stand-in has to be started, and when calls that are answered later may have been."""
        while not (events := self._descriptors.wait(self._pause())):
            if not self._importer.is_read:
                self._importer.read_one()
                if self._importer.is_read:
                    self._answers.get_ready()
            elif self._due <= time.monotonic():
                break
            else:
                self._answers.quiet()
                break
        return events

    def _pause(self) -> float | None:
        """Return how many seconds may pass without an event before there is something else to do; None for any."""
        if not self._importer.is_read:
            return 0
        pause = self._answers.pause()
        if self._due == _NEVER:
            return pause
        left = max(0.0, self._due - time.monotonic())
        return left if pause is None else min(pause, left)

    def _happened(self, descriptor: int, events: int) -> None:
        """Handle an event of the program's pidfd or of a listener."""
        if descriptor == self.program:
            self._descriptors.remove(descriptor)
            self._answers.program_ended()
        elif descriptor == self._hub:
            self._answers.go_on()
        elif descriptor == self._records:
            self._answers.read_records()
        elif events & select.POLLIN:
            self._answers.next(descriptor, self._listeners[descriptor])
            self._watch_hub()
        else:  # POLLHUP: no task has the filter any more
            self._descriptors.remove(descriptor)
            os.close(descriptor)
            del self._listeners[descriptor]

    def make_listen(self, call: Notification, phase: str) -> int | None:
        """Make the listen(2) of a stopped task, and return 0 or an errno; None for another call, or if the task may make it."""
        return self._answers.make_listen(call, phase)

    def make_call(self, call: Notification, phase: str) -> StoppedRequest | None:
        """Make the call of a stopped task that reaches another host, now or later, and return the request that has or will have
        its result; None for another call."""
        result = self._answers.make_call(call, phase)
        if self._answers.hub != _NONE:
            self.begin_answering()
            self._watch_hub()
        return result

    def _watch_hub(self) -> None:
        if self._answers.hub != self._hub:  # it has just been made
            self._hub = self._answers.hub
            self._descriptors.add(self._hub)

    def judge_and_report(self, call: Notification, phase: str) -> int | None:
        """Return what a stopped task's call is to return, 0 or a negative errno, or None for a kill; report a denied one."""
        return self._answers.judge_and_report(call, phase)

    def hides_a_loss(self, call: Notification) -> bool:
        """Return whether the program is about to exit with a status that hides that a report was lost."""
        return self._answers.hides_a_loss(call)

    def never_ran(self, *, has_said: bool) -> None:
        """Write the records of a program that ended before it was confined, unless it has said so itself (`enforce` has not
        become the program); without `has_said`, it has not."""
        self._answers = self._new_answers()
        self._answers.never_ran(has_said=has_said)

    def program_ended(self) -> None:
        """Write the reports that are due when the program's first process has ended."""
        self._answers.program_ended()

    def finish(self) -> NoReturn:
        """Serve as for a program without phases, now that no process is traced any more; exit if there is no listener."""
        if not self._listeners:
            self.end_stand_in()
            self._answers.finish()
            os._exit(0)
        self._hand_over()
        self._descriptors.close()  # here, since its number will be another descriptor's
        helper.close_all_but((*self._kept(), *self._answers.descriptors()))
        confinement.drop_capabilities(self._capabilities)
        if self._filter:
            kernel.install(self._filter, 0)
        self._watch()
        self.serve()

    # Once every process is in its last phase

    def serve(self) -> NoReturn:
        """Answer calls until the last confined task has ended."""
        while self._listeners:
            if self._due <= time.monotonic() and (helper_ := self._clone_stand_in()):
                self._stand_by_now(helper_)
            for descriptor, events in self._events():
                if descriptor == self._watched:
                    os.close(self._watched)
                    os.waitpid(self.stand_in, linux.WALL)
                    self.stand_in = self._watched = _NONE
                    self._due = self._started + _SETTLED
                else:
                    self._happened(descriptor, events)
        self.end_stand_in()  # else it would write the end as well; and a listener keeps the program's Landlock domain
        self._answers.finish()
        os._exit(0)

    def _watch(self) -> None:
        """Open the epoll and the pidfd that `serve` needs, before the program runs: later, limits may prevent that."""
        self._descriptors = Descriptors()
        self._add_all()
        self._descriptors.add(self.program)
        if self.stand_in == _NONE:
            self._due = time.monotonic() + _SETTLED
        else:
            self._watch_stand_in()
        if self._hub != _NONE:
            self._descriptors.add(self._hub)

    def _add_all(self) -> None:
        """Wait for the listeners, and the kernel's records if they are read."""
        for listener in self._listeners:
            self._descriptors.add_listener(listener)
        if self._records != _NONE:
            self._descriptors.add(self._records)

    def _hand_over(self) -> None:
        """Send the listeners' numbers and phases to the stand-in, if there is one; stop sharing the table of descriptors."""
        if self.stand_in != _NONE:
            lines = "".join(f"{listener} {phase}\n" for listener, phase in self._listeners.items())
            os.write(self._ready[1], f"{lines}\n".encode())
        self._unshare()

    def _unshare(self) -> None:
        """Stop sharing the table of descriptors."""
        kernel.unshare_files()
        self._armed = tuple(end for end in self._armed if end in self._fuse)

    def end_stand_in(self) -> None:
        """End the stand-in, if there is one, before this process ends; a process that is not answered for may go on."""
        for end in self._armed:
            os.close(end)  # one by one: the kernel closes those of one call, or of an exit, in an order of its own
        if self.stand_in != _NONE:
            os.kill(self.stand_in, linux.SIGKILL)
            os.waitpid(self.stand_in, linux.WALL)

    def _become_answerer(self, *others: int) -> None:
        """Close all descriptors that answering does not need, except `others`; make what answers; then install the helper's
        filter."""
        helper.close_all_but((*self._kept(), *others))
        self._answers = self._new_answers()
        confinement.confine(self._filter, self._capabilities)

    def _kept(self) -> tuple[int, ...]:
        """Return the descriptors that answering needs, -1 for none."""
        return self.program, *self._listeners, *self._devices, *self._fuse, *self._reporting.descriptors

    def _new_answers(self) -> Answers:
        return Answers(self._notification, self._waiting, self._reporting, self._pid, self.program, self._devices)

    def _stand_by(self, helper_: int) -> NoReturn:
        """Run a stand-in that was started before the program: wait for the listeners, then for the end of the helper, whose pid
        is `helper_`."""
        ready, other = self._ready[0], self._watch_parent(helper_)
        self._descriptors.add(ready)
        if ready not in dict(self._descriptors.wait(None if other != _NONE else 0)):
            if self._follows:  # processes that are not traced any more would go on, and nothing would answer their calls
                attempt(lambda: kernel.send_signal(self.program, linux.SIGKILL))
            os._exit(0)  # else nothing was confined
        lines = b""
        while not lines.endswith(b"\n\n"):
            lines += os.read(ready, 1 << 16)
        fields = (line.partition(" ") for line in lines.decode().splitlines() if line)
        self._listeners = {int(listener): phase for listener, _, phase in fields}
        self._descriptors.remove(ready)
        self._unshare()
        self._become_answerer(self._descriptors.fileno(), other)
        self._wait(other)
        self.serve()

    def _wait(self, other: int) -> None:
        """Wait for the end of the helper, whose pidfd is `other` (-1: it has ended); then take its place if a confined task is
        left, else end.  This opens no descriptor, since limits may prevent that."""
        self._descriptors.add(self.program)
        while other != _NONE and other not in (ready := dict(self._descriptors.wait(None))):
            if self.program in ready:
                self._descriptors.remove(self.program)
                self._reporting.give_back()
                attempt(lambda: kernel.send_signal(other, linux.SIGCONT))  # a helper that was stopped has to give it back too
        if other != _NONE:
            self._descriptors.remove(other)
        self._add_all()
        ready = dict(self._descriptors.wait(0))
        if all(ready.get(listener, 0) & select.POLLHUP for listener in self._listeners):
            for listener in self._listeners:
                os.close(listener)
            self._answers.take_over({})
            self._answers.finish()
            os._exit(0)
        self.stand_in, self._due = _NONE, 0.0
        self._answers.take_over(self._listeners)

    def _clone_stand_in(self) -> int:
        """Start a stand-in while the program runs, if that is possible, and add its pidfd to the epoll.  Return the id of the
        helper in the stand-in, 0 in the helper."""
        own = os.getpid()
        self._due, self._started = _NEVER, time.monotonic()
        try:
            self.stand_in = kernel.clone()
        except (OSError, MemoryError):  # RLIMIT_NPROC, or a limit that was put on this process
            if os.getpid() != own:
                os._exit(FAILED)
            self.stand_in = _NONE
            return 0
        if self.stand_in == 0:
            return own
        self._watch_stand_in()
        return 0

    def _stand_by_now(self, helper_: int) -> None:
        """Stand in for the helper, without what that holds for calls that it makes; return when it has taken its place."""
        self._former = self._answers
        self._hub = _NONE
        self._descriptors.close()
        helper.close_all_but(self._kept())
        try:
            other = self._watch_parent(helper_)
        except OSError:  # a limit that was put on this process: the helper starts another one
            os._exit(FAILED)
        self._answers = self._new_answers()
        self._wait(other)

    def _watch_parent(self, pid: int) -> int:
        """Create an epoll for this process and add the parent's pidfd to it; return the pidfd, -1 if the parent has ended.
        Raises OSError."""
        self._descriptors = Descriptors()
        other = helper.parent(pid)
        if other != _NONE:
            self._descriptors.add(other)
        return other

    def _watch_stand_in(self) -> None:
        """Add the stand-in's pidfd to the epoll, if that is possible."""
        self._watched = _NONE
        try:
            pidfd = kernel.pidfd_open(self.stand_in)
            self._descriptors.add(pidfd)
        except OSError:
            return
        self._watched = pidfd
