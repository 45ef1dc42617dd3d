"""Calls that wait at a listener for the helper's answer (seccomp_unotify(2)): receive them, answer them, or end the process
that made one before the call returns, whatever the process does to prevent that.
"""

from __future__ import annotations

import os
import select

from callfence.enforcer import kernel
from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.machine import MACHINE
from callfence.tracer.proc import fields_of, handles, owner

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from callfence.tracer.abi import Event

# SECCOMP_IOCTL_NOTIF_*, linux/seccomp.h
RECEIVE, _SEND, _ID_VALID, _ADDFD, _SET_FLAGS = map(
    linux.c_ulong, (0xC0502100, 0xC0182101, 0x40082102, 0x40182103, 0x40082104)
)
_SYNC_WAKE_UP = 1  # SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
_ADDFD_FLAG_SEND = 2  # SECCOMP_ADDFD_FLAG_SEND
_FLAG_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
_EVENTS = 16
"""The most events that one wait of an epoll returns: room for a thousand, the default, may not be had under a limit on this
process."""


class Notification(linux.Structure):
    """struct seccomp_notif with its struct seccomp_data unfolded (linux/seccomp.h): 80 bytes."""

    _fields_ = (
        ("id", linux.c_uint64),
        ("task", linux.c_uint32),
        ("flags", linux.c_uint32),
        ("number", linux.c_uint32),
        ("arch", linux.c_uint32),
        ("ip", linux.c_uint64),
        ("arguments", linux.c_uint64 * 6),
    )
    id: int
    task: int
    flags: int
    number: int
    arch: int
    ip: int
    arguments: Any


_SIZE = linux.sizeof(Notification)
_Bytes = linux.c_char * _SIZE


class _Response(linux.Structure):
    """struct seccomp_notif_resp (linux/seccomp.h)."""

    _fields_ = (("id", linux.c_uint64), ("val", linux.c_int64), ("error", linux.c_int32), ("flags", linux.c_uint32))


class _Given(linux.Structure):
    """struct seccomp_notif_addfd (linux/seccomp.h)."""

    _fields_ = (
        ("id", linux.c_uint64),
        ("flags", linux.c_uint32),
        ("descriptor", linux.c_uint32),
        ("number", linux.c_uint32),
        ("descriptor_flags", linux.c_uint32),
    )


class Request:
    """A call whose task waits for an answer by the listener."""

    __slots__ = ("arguments", "call", "listener", "phase")
    is_stopped = False

    def __init__(self, call: Notification, listener: int, phase: str) -> None:
        if call.arch == MACHINE.compat.audit:
            for place in range(6):  # code of 64 bits may leave other bits there (int 0x80)
                call.arguments[place] &= 0xFFFFFFFF
        self.call = call
        self.arguments: Sequence[int] = call.arguments
        """The six arguments: those of the registers, or, of socketcall(2), what they point to."""
        self.listener = listener
        self.phase = phase
        """The phase of the process; "" where there are none."""

    @property
    def identity(self) -> tuple[int, ...]:
        """What is the same if the call is made again after a signal."""
        return (self.call.number, *self.call.arguments)

    def event(self) -> Event:
        """Return the call as an event."""
        from callfence.tracer.abi import Event  # not at each start

        call = self.call
        return Event(call.arch, call.number, tuple(call.arguments), call.ip, call.task)

    def kept(self) -> Request:
        """Return the request with a copy of its call, for the next call overwrites that."""
        return Request(Notification.from_buffer_copy(self.call), self.listener, self.phase)

    def without_answer(self) -> StoppedRequest:
        """Return a request for the same call that needs no answer."""
        return StoppedRequest(Notification.from_buffer_copy(self.call), self.phase)

    def is_waiting(self) -> bool:
        """Return whether the call still waits.  Only then does what was read from /proc/TASK before belong to the caller."""
        try:
            kernel.ioctl(self.listener, _ID_VALID, linux.c_uint64(self.call.id))
        except OSError:
            return False
        return True

    # Answers.  Each raises OSError; ENOENT: the task has died or been interrupted meanwhile.

    def fail(self, number: int) -> None:
        """Make the call fail with the errno `number`, without running it."""
        kernel.ioctl(self.listener, _SEND, _Response(self.call.id, 0, -number, 0))

    def let_run(self) -> None:
        """Let the call run (Linux 5.5)."""
        kernel.ioctl(self.listener, _SEND, _Response(self.call.id, 0, 0, _FLAG_CONTINUE))

    def finish(self, result: int) -> None:
        """Make the call return `result`, or fail with a negative errno, without running it."""
        kernel.ioctl(self.listener, _SEND, _Response(self.call.id, max(result, 0), min(result, 0), 0))

    def give(self, descriptor: int, *, inherited: bool) -> None:
        """Make the call return a copy of this process's `descriptor`, without running it (Linux 5.14).  The copy has the lowest
        free number, and is closed at an execve unless `inherited`."""
        flags = 0 if inherited else os.O_CLOEXEC
        kernel.ioctl(self.listener, _ADDFD, _Given(self.call.id, _ADDFD_FLAG_SEND, descriptor, 0, flags))


class StoppedRequest(Request):
    """A call whose task is stopped at the call's entry: its tracer carries out what the answer says."""

    __slots__ = ("is_gone", "result", "runs")
    is_stopped = True

    def __init__(self, call: Notification, phase: str) -> None:
        super().__init__(call, -1, phase)
        self.result: int | None = None
        """What the call is to return, or a negative errno; None if that is not known yet."""
        self.runs = False
        """Whether the call is to run."""
        self.is_gone = False
        """Whether the task has ended, or has executed another program."""

    def kept(self) -> StoppedRequest:
        return self.without_answer()

    def is_waiting(self) -> bool:
        return not self.is_gone

    def fail(self, number: int) -> None:
        self.result = -number

    def let_run(self) -> None:
        self.runs = True

    def finish(self, result: int) -> None:
        self.result = result


def wake_here(listener: int) -> None:
    """Have the kernel wake this process on the processor of the program, which waits for it, and the program on that of this
    process: waking another processor takes longer than an answer.  Do nothing before Linux 6.6."""
    linux.functions.ioctl(listener, _SET_FLAGS, linux.c_ulong(_SYNC_WAKE_UP))


class Descriptors:
    """Descriptors that are waited for: listeners, and others.

    Listeners are waited for by poll(2), since an epoll forgets which processor is to be woken (`wake_here`), and an answer then
    takes longer by half.  Where RLIMIT_NOFILE has been lowered for this process poll(2) fails: then by the epoll too."""

    __slots__ = ("_epoll", "_is_limited", "_listeners", "_poll")

    def __init__(self) -> None:
        """Raises OSError."""
        self._epoll = select.epoll()
        self._poll = select.poll()
        self._poll.register(self._epoll, select.POLLIN)
        self._listeners: set[int] = set()
        self._is_limited = False

    def fileno(self) -> int:
        """Return the number of the descriptor that this opened."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Close that descriptor."""
        self._epoll.close()

    def add(self, descriptor: int) -> None:
        """Wait for a descriptor too: until it can be read, or what it is of has ended.  Raises OSError."""
        self._epoll.register(descriptor, select.EPOLLIN)

    def add_listener(self, listener: int) -> None:
        """Wait for the calls of a listener too.  Raises OSError."""
        if self._is_limited:
            self.add(listener)
        self._poll.register(listener, select.POLLIN)
        self._listeners.add(listener)

    def remove(self, descriptor: int) -> None:
        """Do not wait for a descriptor any more, which is still open.  Raises OSError."""
        if descriptor in self._listeners:
            self._poll.unregister(descriptor)
            self._listeners.remove(descriptor)
            if not self._is_limited:
                return
        self._epoll.unregister(descriptor)

    def wait(self, pause: float | None) -> list[tuple[int, int]]:
        """Wait for at most `pause` seconds (None: for ever).  Return the descriptors that are ready, of those that are no
        listeners at most 16, each with its POLLIN and POLLHUP.  Raises OSError."""
        if not self._is_limited:
            try:
                ready = self._poll.poll(None if pause is None else pause * 1000)
            except OSError:  # EINVAL
                self._is_limited = True
                for listener in self._listeners:
                    self.add(listener)
            else:
                if not ready or ready[0][0] != self._epoll.fileno():
                    return ready
                return self._epoll.poll(0, _EVENTS) + ready[1:]
        return self._epoll.poll(pause, _EVENTS + len(self._listeners))


def received(listener: int, call: Notification, phase: str) -> Request:
    """Wait for the next call at a listener, store it in `call`, which is empty (`clear`), and return its request.  Raises
    OSError; ENOENT: its task has died or been interrupted meanwhile."""
    kernel.ioctl(listener, RECEIVE, call)
    return Request(call, listener, phase)


def clear(call: Notification) -> None:
    """Make `call` empty, as the kernel wants it: before the next call comes, since a signal ends one until it is received."""
    _Bytes.from_address(linux.addressof(call)).raw = bytes(_SIZE)


class Waiting:
    """The ids of calls that are answered later, in memory that this process shares with those that it clones from now on: if
    the helper is killed, the stand-in answers them."""

    __slots__ = ("_free", "_ids", "_length", "_places", "_used")

    def __init__(self, address: int, length: int) -> None:
        """`address`: of memory for so many ids, 8 bytes each, all 0."""
        self._ids = (linux.c_uint64 * length).from_address(address)
        self._length = length
        self._used = 0
        """How many places have had an id: the kernel gives no memory to the others."""
        self._free: list[int] = []
        """Those of them that have none now."""
        self._places: dict[int, int] = {}
        """The place of each id that this process has added."""

    def add(self, id_: int) -> None:
        """Add a call; do nothing if there is no place left."""
        if not self._free and self._used < self._length:
            self._free.append(self._used)
            self._used += 1
        if self._free:
            self._places[id_] = place = self._free.pop()
            self._ids[place] = id_

    def remove(self, id_: int) -> None:
        """Remove a call that has been answered."""
        if (place := self._places.pop(id_, None)) is not None:
            self._ids[place] = 0
            self._free.append(place)

    def take_over(self) -> list[int]:
        """Remove all calls, and return their ids."""
        ids = {place: id_ for place, id_ in enumerate(self._ids) if id_}
        for place in ids:
            self._ids[place] = 0
        return [*ids.values()]


_SHARED = 1 << 20
_WAITING = 128
"""Bytes of the memory that processes share, room for 131,056 calls that wait, and where the ids of these begin in it."""


def shared() -> tuple[Notification, Waiting]:
    """Return an empty notification and no waiting calls, in memory shared with processes that this one clones from now on."""
    address = kernel.shared_memory(_SHARED)
    return Notification.from_address(address), Waiting(address + _WAITING, (_SHARED - _WAITING) // 8)


_ERESTARTNOINTR = 513  # linux/errno.h
_LOOK = 0.005
"""Seconds between two checks whether SIGSYS has ended a process."""
_MAX_CHECKS = 1000
"""The most checks: 5 s of them."""


def end_process(request: Request) -> None:
    """Kill the process that waits for this answer, by SIGSYS as SECCOMP_RET_KILL_PROCESS does, or else by SIGKILL.

    SIGSYS kills only a process that does not block, ignore or catch it and is not traced, and the process's other threads may
    change that at any time: so SIGKILL follows if the process stops instead, or has not died within 5 s.
    Raises OSError if this process may not kill it: the call then waits for ever."""
    try:
        fields = fields_of(request.call.task)
    except MemoryError:  # prlimit(2) has taken it
        fields = {}
    pidfd = _opened(fields)
    try:
        if not request.is_waiting():
            return  # it has died; what was read may have been about another process
        if fields.get("Tgid", str(request.call.task)) == "1":
            _end_namespace(request.call.task)
        if pidfd < 0:
            os.kill(request.call.task, linux.SIGKILL)  # kill(2) takes a thread for its process
        elif not (_dies_of_sigsys(fields) and _by_sigsys(request, pidfd, int(fields["Tgid"]))):
            kernel.send_signal(pidfd, linux.SIGKILL)
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def trap(request: Request) -> None:
    """Send SIGSYS to the thread that waits, without the siginfo of SECCOMP_RET_TRAP, which only the kernel sends."""
    process = owner(request.call.task)
    if request.is_waiting():
        kernel.kill_thread(process, request.call.task, linux.SIGSYS)


def exit_with(code: int, request: Request) -> None:
    """Make a task that waits in exit(2) or exit_group(2) exit with the status `code` instead.

    The call is answered with ERESTARTNOINTR while ptrace stops the task, so the task makes it again, with that status.  A task
    that cannot be traced (because it is traced already, or by Yama) is killed, so that its status does not say success."""
    register = MACHINE.of(request.call.arch).arguments[0]
    if not request.is_waiting():
        return
    try:
        linux.ptrace(linux.PTRACE_SEIZE, request.call.task)
    except OSError:
        os.kill(request.call.task, linux.SIGKILL)
        return
    linux.ptrace(linux.PTRACE_INTERRUPT, request.call.task)
    try:  # noqa: SIM105  contextlib takes a millisecond of each start
        request.fail(_ERESTARTNOINTR)
    except FileNotFoundError:
        pass  # before Linux 5.19, the stop alone makes it repeat the call; or it was killed
    _, stop = os.waitpid(request.call.task, linux.WALL)
    if os.WIFSTOPPED(stop):
        MACHINE.set_register(request.call.task, register, code)
        linux.ptrace(linux.PTRACE_DETACH, request.call.task)


def _opened(fields: dict[str, str]) -> int:
    """Return a pidfd of the process whose status has these fields; -1 if /proc is another namespace's, or none is left."""
    try:
        return kernel.pidfd_open(int(fields["Tgid"]))
    except (OSError, KeyError):
        return -1


def _dies_of_sigsys(fields: dict[str, str]) -> bool:
    if not fields:
        return False
    is_default = not handles(fields, linux.SIGSYS, "SigBlk", "SigIgn", "SigCgt")
    return is_default and fields["TracerPid"] == "0" and fields.get("NSpid", "").split()[-1:] != ["1"]


def _by_sigsys(request: Request, pidfd: int, process: int) -> bool:
    """Send SIGSYS to the process, and return whether it dies of that within 5 s.

    The call is answered with ERESTARTNOINTR while a signal is pending: it never returns to the program, and if SIGSYS does not
    kill, the process is stopped, or makes the call again."""
    try:
        waiting = Descriptors()
    except OSError:
        return False
    try:
        waiting.add(pidfd)
        kernel.kill_thread(process, request.call.task, linux.SIGSYS)
        # If SIGSYS was ignored at that moment it is lost, and only a task with a signal restarts the call: this one cannot be
        # ignored, comes after SIGSYS (SYNCHRONOUS_MASK, kernel/signal.c), and holds the process until SIGKILL.
        kernel.kill_thread(process, request.call.task, linux.SIGSTOP)
        request.fail(_ERESTARTNOINTR)
        for _ in range(_MAX_CHECKS):
            # While it dumps core, its threads have all been stopped for good (fs/coredump.c, zap_threads).
            if waiting.wait(_LOOK) or fields_of(process).get("CoreDumping") == "1":
                return True
            if fields_of(request.call.task).get("State", "R")[0] in "Tt":  # by SIGSTOP
                return False
    except OSError:  # it has died meanwhile
        return False
    finally:
        waiting.close()
    return False


def _end_namespace(task: int) -> None:
    """Kill the first process of our own pid namespace, which ignores even SIGKILL from inside (pid_namespaces(7)).  `task` is
    its thread that waits.

    It cannot ignore the SIGKILL that the kernel sends when a tracer with PTRACE_O_EXITKILL ends.  All other processes of the
    namespace, this one included, die with it.  The kernel closes our listener before that, so that the call fails: the
    thread is interrupted, so that it stops then."""
    try:
        linux.ptrace(linux.PTRACE_SEIZE, task, 0, linux.PTRACE_O_EXITKILL)
        linux.ptrace(linux.PTRACE_INTERRUPT, task)
    finally:
        os._exit(0)
