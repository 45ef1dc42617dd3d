"""One denied call, which may be answered otherwise.

The helper gives the program descriptors of /dev/null and /dev/full, and none of terminals and of how many processors there are;
lets it signal itself and what it has started, set the ids that it has, give files the owners that they have, read its limits,
touch files that it may write to, and name itself where the policies allow what a call does to its caller; and fails what can
fail without a policy (failing.py, and policygen/implied/unavailable.tsv).
Anything else, and anything that cannot be found out, is denied.
"""

from __future__ import annotations

import errno
import os
import stat
from functools import cache
from typing import TYPE_CHECKING

from callfence.enforcer.reporting.instead import ANSWERED, DENIED, DONE, RUNS, failing, signals
from callfence.enforcer.waiting import AT_FDCWD, WaitingTask
from callfence.policygen.holds import holds
from callfence.policygen.implied.tables import stated_entry, unavailable
from callfence.tracer.abi import Arch, Event, Kind, Syscall, table
from callfence.tracer.linux import int_in
from callfence.tracer.proc import fields_of, is_in_own_user_namespace

if TYPE_CHECKING:
    from callfence.enforcer.listener import Request
    from callfence.enforcer.reporting.verdict import Verdict
    from callfence.policygen.model import Expression

_NULL = b"/dev/null\0"
_FULL = b"/dev/full\0"
_TERMINAL, _CONSOLE = b"/dev/tty\0", b"/dev/console\0"
_PROCESSORS = (b"/sys/devices/system/cpu/online\0", b"/proc/stat\0")
"""Where glibc's get_nprocs(3) looks before it asks sched_getaffinity(2) (sysdeps/unix/sysv/linux/getsysstats.c): malloc(3)
does so once a program has many threads."""
_MAX_NAME = max(map(len, (_CONSOLE, *_PROCESSORS)))
_TERMINALS = ("/dev/pts/", "/dev/tty", "/dev/console")
"""How the paths of terminals begin."""
_OPENS = "flags in O_ACCMODE|O_CREAT|O_TRUNC|O_APPEND|O_CLOEXEC|O_NONBLOCK|O_NOCTTY|O_LARGEFILE|O_NOFOLLOW|O_SYNC"
"""The flags with which these devices may be opened."""
_IDS = {"setuid": 1, "setgid": 1, "setreuid": 2, "setregid": 2, "setresuid": 3, "setresgid": 3, "setfsuid": 1, "setfsgid": 1}
"""How many arguments of each call are ids."""
_OWNERS = {"chown": 0, "lchown": 0, "fchown": 0, "fchownat": 1}
"""The index of the argument before the two ids of each call: a path, or a descriptor."""
_SHORT = frozenset({*_IDS, "chown", "lchown", "fchown"})
"""The calls that read only 16 bits of each id on 32-bit architectures; those named *32 read all (kernel/uid16.c)."""
_CAP_CHOWN, _CAP_SETGID = 1, 1 << 6  # linux/capability.h
_AT_SYMLINK_NOFOLLOW, _AT_EMPTY_PATH = 0x100, 0x1000  # linux/fcntl.h
_ONE_TASK = {"setpriority": 0, "ioprio_set": 1}
"""The first argument with which `who` is a task: PRIO_PROCESS, IOPRIO_WHO_PROCESS (linux/resource.h, linux/ioprio.h)."""
_READING = {"prlimit64": (2, 0), "personality": (0, 0xFFFFFFFF)}
"""Calls that set nothing if an argument has a value, but return what is set: its index, and the value."""


class Instead:
    """One call that may be answered without denying it."""

    def __init__(self, request: Request, verdict: Verdict, devices: tuple[int, int], *, keeps_signals: bool) -> None:
        self._request = request
        self._verdict = verdict
        self._event = verdict.event
        self._null, self._full = devices
        """Descriptors of /dev/null, for reading and writing, and of /dev/full, for writing; -1 for a missing device."""
        self.error = 0
        """The errno with which the call was failed; 0 if it was not."""
        self._keeps_signals = keeps_signals
        """Whether the kernel denies the program's signals to all processes but its own."""

    def answer(self) -> bool:
        """Answer the call if that grants nothing; return whether it needs no other answer: it was answered, or interrupted
        meanwhile.  Raises OSError and KeyError if its task has ended."""
        arch = Arch.from_audit(self._event.arch)
        syscall = table(arch).by_number.get(self._event.number) if arch else None
        if arch is None or syscall is None:
            return False
        outcome = self._outcome(arch, syscall)
        if outcome == DENIED:
            return False
        if outcome == ANSWERED or not self._request.is_waiting():
            return True
        if outcome == RUNS:
            self._request.let_run()
        elif outcome == DONE:
            self._request.finish(0)
        else:
            self._request.fail(outcome)
            self.error = outcome
        return True

    def _outcome(self, arch: Arch, syscall: Syscall) -> int:
        """Return what becomes of the call: ANSWERED, DENIED, RUNS, DONE or an errno.  What runs is decided by registers alone,
        which the program cannot change while it waits."""
        if number := failing.error_of(arch, syscall, self._verdict):
            return number
        name = syscall.name.removesuffix("32")
        unchanged = 0xFFFF if arch.bits == 32 and syscall.name in _SHORT else 0xFFFFFFFF
        if name in failing.OPENS:
            return self._opens_device(arch, name)
        if name in signals.BY_NUMBER:
            return signals.by_number(name, self._event, keeps_signals=self._keeps_signals)
        if name == signals.BY_DESCRIPTOR:
            return signals.by_descriptor(self._request, self._event, keeps_signals=self._keeps_signals)
        if name == "setgroups":
            return self._lacks_groups()
        if name in _IDS:
            return RUNS if self._keeps_ids(name, unchanged) else DENIED
        if name in _OWNERS and failing.may_ask_status(arch, self._verdict) and self._keeps_owner(name, unchanged):
            return DONE
        if self._is_of_itself(syscall) or self._touches(arch, syscall):
            return RUNS
        return unavailable(self._event) or DENIED

    def _opens_device(self, arch: Arch, name: str) -> int:
        """Answer an open of /dev/null or /dev/full with a descriptor of it.  Return what becomes of the call: ENXIO for an open
        of /dev/tty, /dev/console, or the terminal that a standard stream is, as if there were no terminal; ENOENT for one of
        _PROCESSORS.

        The task gets no other file, even if it changes the path meanwhile."""
        index, arguments = failing.OPENS[name], self._event.arguments
        if not holds(_opens(arch, name), table(arch).by_name[name].arguments, arguments):
            return DENIED
        caller = WaitingTask(self._event.task, self._event.task)
        opened = caller.read_on(arguments[index], _MAX_NAME)
        if opened.startswith((_TERMINAL, _CONSOLE)) or _is_own_terminal(caller, arguments[index]):
            return errno.ENXIO
        if opened.startswith(_PROCESSORS):
            return errno.ENOENT
        flags, device = arguments[index + 1], -1
        if opened.startswith(_NULL):
            device = self._null
        elif opened.startswith(_FULL) and flags & os.O_ACCMODE == os.O_WRONLY:  # reading it would never end
            device = self._full
        if device < 0:
            return DENIED
        try:
            if self._request.is_waiting():
                self._request.give(device, inherited=not flags & os.O_CLOEXEC)
        except OSError as error:
            return errno.EMFILE if error.errno == errno.EMFILE else DENIED
        return ANSWERED

    def _is_of_itself(self, syscall: Syscall) -> bool:
        """Return whether a call names its own process or thread by number, and the policies allow the call with 0, which means
        the same; or only reads what is set for its caller.  The number stays its own while it waits."""
        if self._event.arguments[0] != _ONE_TASK.get(syscall.name, self._event.arguments[0]):
            return False
        named = [index for index, argument in enumerate(syscall.arguments) if argument.kind is Kind.TASK]
        a, b, c, d, e, f = (0 if index in named else value for index, value in enumerate(self._event.arguments))
        with_zero = self._event._replace(arguments=(a, b, c, d, e, f))
        is_named = with_zero != self._event
        if not _sets_nothing(syscall, with_zero) and not (is_named and self._verdict.allows(with_zero)):
            return False
        caller = fields_of(self._event.task)
        if is_named and len(caller.get("NSpid", "").split()) != 1:  # another pid namespace: the number is another process
            return False
        own = {0, self._event.task, int(caller["Tgid"])}
        return all(int_in(self._event.arguments[index]) in own for index in named)

    def _keeps_owner(self, name: str, unchanged: int) -> bool:
        """Return whether a call gives a file the owner and group that it has, as `tar x` does with what it has made.

        Such a call does nothing, so it need not run, and it makes no difference what its path means later.  `unchanged`: as in
        `_keeps_ids`."""
        index, arguments = _OWNERS[name], self._event.arguments
        flags = arguments[4] if name == "fchownat" else _AT_SYMLINK_NOFOLLOW if name == "lchown" else 0
        user, group = (value & unchanged for value in arguments[index + 1 : index + 3])
        caller = WaitingTask(self._event.task, self._event.task)
        try:
            if name == "fchown":
                status = caller.status(0, arguments[0], may_be_empty=True)
            else:
                folder, may_be_empty = arguments[0] if index else None, bool(flags & _AT_EMPTY_PATH)
                status = caller.status(arguments[index], folder, may_be_empty=may_be_empty)
        except (OSError, ValueError):
            return False
        fields = fields_of(self._event.task)
        may = int(fields["CapEff"], 16) & _CAP_CHOWN or status.st_uid == int(fields["Uid"].split()[3])
        is_same = user in (status.st_uid, unchanged) and group in (status.st_gid, unchanged)
        is_link = stat.S_ISLNK(status.st_mode) and not flags & _AT_SYMLINK_NOFOLLOW
        return bool(may and is_same and not is_link and not status.st_mode & 0o6000)

    def _touches(self, arch: Arch, syscall: Syscall) -> bool:
        """Return whether a call sets the times of a file to now, as touch(1) does, and the policies allow opening any file for
        writing, which does so, too.

        Landlock does not restrict it, so it does not run where files are confined."""
        if syscall.name not in ("utimensat", "utimensat_time64") or any(self._event.arguments[2:4]):  # times, flags
            return False
        writes = Event(self._event.arch, table(arch).by_name["openat"].number, (AT_FDCWD & 0xFFFFFFFF, 0, os.O_WRONLY, 0, 0, 0))
        return not self._verdict.confines_files and self._verdict.allows(writes)

    def _keeps_ids(self, name: str, unchanged: int) -> bool:
        """Return whether a call sets the ids which the task already has; a task's ids are its own to change.

        `unchanged`: -1 in the 16 or 32 bits that the kernel reads of a register.  Raises KeyError if the task has ended."""
        is_here = is_in_own_user_namespace(self._event.task)  # first: of a task that has ended, it is False
        own = {int(number) for number in fields_of(self._event.task)["Gid" if "gid" in name else "Uid"].split()}
        ids = {value & unchanged for value in self._event.arguments[: _IDS[name]]} - {unchanged}
        begins_shellcode = 0 in own and "fs" not in name  # setuid(0)
        return is_here and len(own) == 1 and ids == own and not begins_shellcode

    def _lacks_groups(self) -> int:
        """Return EPERM for a setgroups(2) of a task that lacks the capability for it."""
        is_here = is_in_own_user_namespace(self._event.task)  # first, as above
        has_capability = int(fields_of(self._event.task)["CapEff"], 16) & _CAP_SETGID
        return errno.EPERM if is_here and not has_capability else DENIED


def _sets_nothing(syscall: Syscall, event: Event) -> bool:
    """Return whether a call only returns what is set, by the values in its registers."""
    index, value = _READING.get(syscall.name, (-1, 0))
    return index >= 0 and event.arguments[index] & syscall.arguments[index].mask == value


@cache
def _opens(arch: Arch, name: str) -> Expression:
    return stated_entry(arch, f"{name}: {_OPENS}").expression


def _is_own_terminal(caller: WaitingTask, address: int) -> bool:
    """Return whether a path is that of the terminal which is one of the task's standard streams (ttyname(3))."""
    names = {name for number in range(3) if (name := caller.link(f"fd/{number}")).startswith(_TERMINALS)}
    return any(caller.read(address, len(path) + 1) == path + b"\0" for path in map(os.fsencode, names))
