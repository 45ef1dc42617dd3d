"""Answer calls that the policy's default denies without denying them, if the answer grants the program nothing.

The helper gives it descriptors of /dev/null and /dev/full and none of /dev/tty, /dev/console and of how many processors there
are, lets it send signals to itself, set the ids that it has, give files the owners that they have, read its limits, touch files
that it may write to, and name itself where the policies allow what a call does to its caller; it fails signals to processes
that do not exist, signal 0 to others, calls with NULL or nothing for a path, those for which no descriptor is left, those that
would bring a cache up to date (caches.tsv), those that remove an output which the program has not finished, those by which
Python shows the lines of a traceback, those that ask a daemon which a machine may lack, and what a kernel or machine may not
have, for which programs have another way (unavailable.tsv).
Where Landlock keeps signals among the program's processes, it lets a process signal those that it has started: the kernel
denies all others.  By a pidfd, which the program could exchange while it waits, the helper sends that signal itself.
Anything else, and anything that cannot be found out, is denied.  docs/implied.md says why each is harmless.
"""

from __future__ import annotations

import errno
import os
import stat
from functools import cache
from typing import TYPE_CHECKING

from callfence.enforcer import kernel
from callfence.enforcer.waiting import WaitingTask
from callfence.policygen.holds import holds
from callfence.policygen.implied.tables import is_in_cache, stated_entry, unavailable
from callfence.tracer.abi import Arch, Event, Kind, Syscall, table
from callfence.tracer.linux import O_EMPTYPATH, int_in
from callfence.tracer.proc import (
    begin_of,
    fields_of,
    is_in_own_user_namespace,
    kin_of,
    numbers_in,
    open_files_limit,
    proc,
    process_of,
)

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
_DAEMONS = (b"/run/nscd/socket", b"/var/run/nscd/socket", b"/dev/log")
"""The sockets that C libraries connect to by themselves, and do without: glibc nscd/nscd-client.h and misc/syslog.c, musl
src/passwd/nscd.h and src/misc/syslog.c."""
_TERMINALS = ("/dev/pts/", "/dev/tty", "/dev/console")
"""How the paths of terminals begin."""
_OPENS = "flags in O_ACCMODE|O_CREAT|O_TRUNC|O_APPEND|O_CLOEXEC|O_NONBLOCK|O_NOCTTY|O_LARGEFILE|O_NOFOLLOW|O_SYNC"
"""The flags with which these devices may be opened."""
_PATH = {"openat": 1, "open": 0}
"""The index of the path among the arguments of each call."""
_ASKS = {"newfstatat": 1, "fstatat64": 1, "statx": 1, "stat": 0, "stat64": 0, "lstat": 0, "lstat64": 0}
"""The same of calls that ask about a file."""
_WRITES = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
"""The flags of which a call has none that opens a file only for reading."""
_IDS = {"setuid": 1, "setgid": 1, "setreuid": 2, "setregid": 2, "setresuid": 3, "setresgid": 3, "setfsuid": 1, "setfsgid": 1}
"""How many arguments of each call are ids."""
_UNCHANGED, _UNCHANGED_SHORT = 0xFFFFFFFF, 0xFFFF
_SHORT = frozenset(_IDS)
"""The calls that read only 16 bits of each id on 32-bit architectures; those named *32 read all (kernel/uid16.c)."""
_CAP_CHOWN, _CAP_KILL, _CAP_SETGID = 1, 1 << 5, 1 << 6  # linux/capability.h
_OWNERS = {"chown": 0, "lchown": 0, "fchown": 0, "fchownat": 1}
"""The index of the argument before the two ids of each call: a path, or a descriptor."""
_REMOVES = {"unlink": 0, "unlinkat": 1}
"""The index of the path among the arguments of each call; the second takes flags as well."""
_AT_SYMLINK_NOFOLLOW, _AT_EMPTY_PATH = 0x100, 0x1000  # linux/fcntl.h
_ONE_TASK = {"setpriority": 0, "ioprio_set": 1}
"""The first argument with which `who` is a task: PRIO_PROCESS, IOPRIO_WHO_PROCESS (linux/resource.h, linux/ioprio.h)."""
_READING = {"prlimit64": (2, 0), "personality": (0, 0xFFFFFFFF)}
"""Calls that set nothing if an argument has a value, but return what is set: its index, and the value."""
_AT_FDCWD = 0xFFFFFF9C
_NEEDS_PATHS = frozenset(
    {"open", "openat", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "rename", "renameat", "renameat2", "symlink",
     "symlinkat", "chmod", "fchmodat", "truncate"}
)  # fmt: skip
"""Calls that do nothing where a path is NULL or empty (fs/namei.c, getname_flags); others, as utimensat(2), take it for an open
file, or do with AT_EMPTY_PATH."""
_DESCRIPTORS = dict.fromkeys(
    ("open", "openat", "creat", "socket", "accept", "accept4", "epoll_create", "epoll_create1", "eventfd", "eventfd2",
     "timerfd_create", "inotify_init", "inotify_init1", "memfd_create", "pidfd_open"), 1
) | dict.fromkeys(("pipe", "pipe2", "socketpair"), 2)  # fmt: skip
"""How many descriptors each call makes."""
_UNIX, _MAX_ADDRESS = b"\1\0", 110
"""AF_UNIX (linux/socket.h) as a struct sockaddr_un has it, and how long that is (linux/un.h)."""
_GENERATIONS = 100
"""How many ancestors of a process are examined at most."""


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
        """Answer the call if that grants nothing; return whether it was answered.  Raises OSError if its task has ended."""
        arch = Arch.from_audit(self._event.arch)
        syscall = table(arch).by_number.get(self._event.number) if arch else None
        if arch is None or syscall is None:
            return False
        if syscall.name in _NEEDS_PATHS and (number := self._lacks_path(syscall)):
            self._fail(number)
            return True
        if self._lacks_descriptors(syscall):
            self._fail(errno.EMFILE)
            return True
        if self._updates_cache(syscall) or self._reads_source(syscall) or self._removes_output(arch, syscall):
            self._fail(errno.EACCES)
            return True
        if syscall.name in _PATH:
            return self._opens_device(arch, syscall.name)
        if syscall.name == "connect" and self._asks_daemon():
            self._fail(errno.ENOENT)
            return True
        if syscall.name in ("kill", "tgkill", "tkill"):
            return self._signals(syscall.name)
        if syscall.name == "pidfd_send_signal":
            return self._signals_by_descriptor()
        if syscall.name.removesuffix("32") in _IDS or syscall.name == "setgroups":
            is_short = arch.bits == 32 and syscall.name in _SHORT
            return self._keeps_ids(syscall.name.removesuffix("32"), _UNCHANGED_SHORT if is_short else _UNCHANGED)
        if syscall.name.removesuffix("32") in _OWNERS and self._keeps_owner(syscall.name.removesuffix("32"), arch, syscall):
            self._request.finish(0)
            return True
        if self._is_of_itself(syscall) or self._touches(arch, syscall):
            return True
        number = unavailable(self._event)
        if number:
            self._fail(number)
        return bool(number)

    def _fail(self, number: int) -> None:
        self._request.fail(number)
        self.error = number

    def _lacks_path(self, syscall: Syscall) -> int:
        """Return the errno of a call of which a path is NULL, as in programs that remove a file which they have not made yet,
        or empty, as a shell's `> "$unset"`; 0 of any other."""
        arguments = zip(syscall.arguments, self._event.arguments, strict=False)
        paths = [argument.value(register) for argument, register in arguments if argument.kind is Kind.PATH]
        if not all(paths):
            return errno.EFAULT
        if syscall.name in _PATH and self._event.arguments[_PATH[syscall.name] + 1] & O_EMPTYPATH:
            return 0
        caller = WaitingTask(self._event.task, self._event.task)
        is_empty = any(caller.read(path, 1) == b"\0" for path in paths)
        return errno.ENOENT if is_empty and self._request.is_waiting() else 0

    def _lacks_descriptors(self, syscall: Syscall) -> bool:
        """Return whether a call makes more descriptors than the task may have: what a program does otherwise then, it did not
        do when it was learned.  The task's other threads may close some meanwhile: the call does nothing in any case."""
        count = _DESCRIPTORS.get(syscall.name, 0)
        if not count:
            return False
        limit = open_files_limit(self._event.task)
        if int(fields_of(self._event.task).get("FDSize", 0)) < limit:  # there are not so many places for them yet
            return False
        free = limit - sum(number < limit for number in numbers_in(f"{self._event.task}/fd"))
        return free < count and self._request.is_waiting()

    def _updates_cache(self, syscall: Syscall) -> bool:
        """Return whether a call opens a file for writing, or makes a folder, in a cache of `is_in_cache`.

        The call fails whatever its path means, so it makes no difference if the task changes that meanwhile."""
        path = {**_PATH, "mkdirat": 1, "mkdir": 0}.get(syscall.name)
        if path is None or (syscall.name in _PATH and not self._event.arguments[path + 1] & _WRITES):
            return False
        named = WaitingTask(self._event.task, self._event.task).path(self._event.arguments[path])
        return is_in_cache(named) and self._request.is_waiting()

    def _removes_output(self, arch: Arch, syscall: Syscall) -> bool:
        """Return whether a call removes a file of the caller's user that was changed after the caller's process had started, as
        programs do with an output that they have not finished when the disk is full or a signal ends them.

        The call fails whatever its path means, so it makes no difference if the task changes that meanwhile."""
        index = _REMOVES.get(syscall.name, -1)
        if index < 0 or (index and int_in(self._event.arguments[2])) or not self._may_ask_status(arch):
            return False
        try:
            status = self._status_of(syscall.name, self._event.arguments[index], _AT_SYMLINK_NOFOLLOW)
        except (OSError, ValueError):
            return False
        caller = fields_of(self._event.task)
        is_own = stat.S_ISREG(status.st_mode) and status.st_uid == int(caller["Uid"].split()[3])
        return is_own and status.st_ctime >= begin_of(int(caller["Tgid"])) and self._request.is_waiting()

    def _may_ask_status(self, arch: Arch) -> bool:
        """Return whether the caller may ask for the status of files, and the helper sees them as the caller does."""
        asks = Event(self._event.arch, table(arch).by_name["fstatat64" if arch.bits == 32 else "newfstatat"].number, (0,) * 6)
        return self._verdict.allows(asks) and is_in_own_user_namespace(self._event.task)

    def _reads_source(self, syscall: Syscall) -> bool:
        """Return whether a call opens the source of a Python module for reading, or asks about it, as a traceback does to show
        its lines: without, it is printed without them (Lib/linecache.py, Python/traceback.c).

        The call fails whatever its path means, so it makes no difference if the task changes that meanwhile."""
        path = {**_PATH, **_ASKS}.get(syscall.name)
        if path is None or (syscall.name in _PATH and self._event.arguments[path + 1] & _WRITES):
            return False
        named = WaitingTask(self._event.task, self._event.task).path(self._event.arguments[path])
        return named.endswith(b".py") and self._request.is_waiting()

    def _asks_daemon(self) -> bool:
        """Return whether a call connects to one of _DAEMONS, as getpwuid(3) and syslog(3) do.

        The call fails whatever its address means, so it makes no difference if the task changes that meanwhile."""
        address, length = self._event.arguments[1:3]
        name = WaitingTask(self._event.task, self._event.task).read_on(address, min(length & 0xFFFFFFFF, _MAX_ADDRESS))
        family, path = name[:2], name[2:].partition(b"\0")[0]
        return family == _UNIX and path in _DAEMONS and self._request.is_waiting()

    def _is_of_itself(self, syscall: Syscall) -> bool:
        """Let a call run that names its own process or thread by number, if the policies allow the call with 0, which means the
        same; or one that only reads what is set for its caller.  Return whether the call was answered."""
        if self._event.arguments[0] != _ONE_TASK.get(syscall.name, self._event.arguments[0]):
            return False
        named = [index for index, argument in enumerate(syscall.arguments) if argument.kind is Kind.TASK]
        a, b, c, d, e, f = (0 if index in named else value for index, value in enumerate(self._event.arguments))
        with_zero = self._event._replace(arguments=(a, b, c, d, e, f))
        is_named = with_zero != self._event
        if not _only_reads(syscall, with_zero) and not (is_named and self._verdict.allows(with_zero)):
            return False
        caller = fields_of(self._event.task)
        if is_named and len(caller.get("NSpid", "").split()) != 1:  # another pid namespace: the number is another process
            return False
        own = {0, self._event.task, int(caller["Tgid"])}
        if not all(int_in(self._event.arguments[index]) in own for index in named) or not self._request.is_waiting():
            return False
        self._request.let_run()  # registers alone decide, and the number stays its own while it waits
        return True

    def _keeps_owner(self, name: str, arch: Arch, syscall: Syscall) -> bool:
        """Return whether a call gives a file the owner and group that it has, as `tar x` does with what it has made.

        Such a call does nothing, so it need not run, and it makes no difference what its path means later."""
        index, arguments = _OWNERS[name], self._event.arguments
        flags = arguments[4] if name == "fchownat" else _AT_SYMLINK_NOFOLLOW if name == "lchown" else 0
        unchanged = _UNCHANGED_SHORT if arch.bits == 32 and syscall.name in ("chown", "lchown", "fchown") else _UNCHANGED
        user, group = (value & unchanged for value in arguments[index + 1 : index + 3])
        if not self._may_ask_status(arch):
            return False
        try:
            status = self._status_of(name, arguments[index], flags)
        except (OSError, ValueError):
            return False
        caller = fields_of(self._event.task)
        may = int(caller["CapEff"], 16) & _CAP_CHOWN or status.st_uid == int(caller["Uid"].split()[3])
        is_same = user in (status.st_uid, unchanged) and group in (status.st_gid, unchanged)
        is_link = stat.S_ISLNK(status.st_mode) and not flags & _AT_SYMLINK_NOFOLLOW
        return bool(may and is_same and not is_link and not status.st_mode & 0o6000 and self._request.is_waiting())

    def _status_of(self, name: str, file: int, flags: int) -> os.stat_result:
        """Return the status of the file that a call of _OWNERS or _REMOVES names; of a link, its own.  Raises OSError."""
        own = f"{proc()}/{self._event.task}"
        descriptor = int_in(file if name == "fchown" else self._event.arguments[0] if name.endswith("at") else _AT_FDCWD)
        folder = f"{own}/cwd" if descriptor == int_in(_AT_FDCWD) else f"{own}/fd/{descriptor}"
        path = b"" if name == "fchown" else WaitingTask(self._event.task, self._event.task).path(file)
        if not path:
            return os.stat(folder if name == "fchown" or flags & _AT_EMPTY_PATH else "")
        return os.lstat(os.fsencode(f"{own}/root" if path.startswith(b"/") else f"{folder}/") + path)

    def _touches(self, arch: Arch, syscall: Syscall) -> bool:
        """Let a call run that sets the times of a file to now, as touch(1) does, if the policies allow opening any file for
        writing, which does so, too; return whether the call was answered.

        Landlock does not restrict it, so it does not run where files are confined."""
        if syscall.name not in ("utimensat", "utimensat_time64") or any(self._event.arguments[2:4]):  # times, flags
            return False
        writes = Event(self._event.arch, table(arch).by_name["openat"].number, (_AT_FDCWD, 0, os.O_WRONLY, 0, 0, 0))
        if self._verdict.confines_files or not self._verdict.allows(writes) or not self._request.is_waiting():
            return False
        self._request.let_run()  # registers alone decide
        return True

    def _opens_device(self, arch: Arch, name: str) -> bool:
        """Answer an open of /dev/null or /dev/full with a descriptor of it; one of /dev/tty, /dev/console, or the terminal that
        a standard stream is, with ENXIO, as if there were no terminal; and one of _PROCESSORS with ENOENT.  Return whether the
        call was answered.

        The task gets no other file, even if it changes the path meanwhile."""
        path, arguments = _PATH[name], table(arch).by_name[name].arguments
        if not holds(_opens(arch, name), arguments, self._event.arguments):
            return False
        caller = WaitingTask(self._event.task, self._event.task)
        opened = caller.read_on(self._event.arguments[path], _MAX_NAME)
        is_terminal = opened.startswith((_TERMINAL, _CONSOLE)) or _is_own_terminal(caller, self._event.arguments[path])
        if not self._request.is_waiting():
            return False
        if is_terminal or opened.startswith(_PROCESSORS):
            self._fail(errno.ENXIO if is_terminal else errno.ENOENT)
            return True
        flags = self._event.arguments[path + 1]
        device = -1
        if opened.startswith(_NULL):
            device = self._null
        elif opened.startswith(_FULL) and flags & os.O_ACCMODE == os.O_WRONLY:  # reading it would never end
            device = self._full
        if device < 0:
            return False
        try:
            self._request.give(device, inherited=not flags & os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.EMFILE:
                return False
            self._fail(errno.EMFILE)
        return True

    def _signals(self, name: str) -> bool:
        """Let a process signal itself, and the processes and groups that it has started if the kernel denies all others;
        answer a signal to a missing process with ESRCH, and signal 0 to another with EPERM.  Return whether that was
        done."""
        caller = fields_of(self._event.task)
        target = int_in(self._event.arguments[0])
        if len(caller.get("NSpid", "").split()) != 1:  # another pid namespace: the same number is another process
            return False
        process = int(caller["Tgid"])
        is_itself = target == self._event.task if name == "tkill" else target == process
        if name == "tgkill" and fields_of(int_in(self._event.arguments[1])).get("Tgid") != caller["Tgid"]:
            return False
        if not self._request.is_waiting():
            return False
        if is_itself:
            # Nothing but registers decides what the call does, and the program cannot change them while it waits.
            self._request.let_run()
            return True
        if name != "kill" or target in (-1, 1):
            return False
        return self._signals_other(process, target) if target > 0 else self._signals_group(caller, -target)

    def _signals_group(self, caller: dict[str, str], group: int) -> bool:
        """Let a process signal the process group of one that it has started, with what that one has started in turn, or its own
        (0, or by number) if it leads that, as timeout(1) does.  Return whether the call was answered.

        A second thread of the caller could change which group its own is."""
        process, own = int(caller["Tgid"]), int(caller["NSpgid"])
        leads = own == process and group in (0, own) and (group or caller["Threads"] == "1")
        is_below = group > 0 and fields_of(group).get("NSpgid") == str(group) and _is_below(group, process)
        if self._keeps_signals and (leads or is_below):
            self._request.let_run()
            return True
        return False

    def _signals_by_descriptor(self) -> bool:
        """Send a signal to the caller itself, or to a process that it has started, by a copy of its pidfd, if the kernel would
        let the caller send it; fail with ESRCH if that process has ended.  Return whether the call was answered.

        Landlock does not judge what the helper sends.  So a process below must have the filters of its caller, which one that
        was there before the program lacks; and who is the helper's own parent adopts others' processes, too."""
        number, information, flags = self._event.arguments[1:4]
        caller = fields_of(self._event.task)
        process = int(caller["Tgid"])
        if information or int_in(flags) or not self._keeps_signals or not is_in_own_user_namespace(self._event.task):
            return False
        if _is_below(os.getpid(), process):
            return False
        try:
            pidfd = kernel.descriptor_of(self._event.task, process, int_in(self._event.arguments[0]))
        except OSError:
            return False
        try:
            target = process_of(pidfd)
            is_own = target == process or (target > 0 and _is_below(target, process))
            may = is_own and _has_filters_of(target, self._event.task) and _may_signal(caller, fields_of(target))
            if not (target < 0 or may) or not self._request.is_waiting():
                return False
            kernel.send_signal(pidfd, int_in(number))
        except OSError as error:
            self._fail(error.errno or errno.EPERM)
        else:
            self._request.finish(0)
        finally:
            os.close(pidfd)
        return True

    def _keeps_ids(self, name: str, unchanged: int) -> bool:
        """Let a call run that sets the ids which the task already has, and fail a setgroups(2) for which it lacks the
        capability; return whether the call was answered.

        `unchanged`: -1 in the 16 or 32 bits that the kernel reads of a register."""
        caller = fields_of(self._event.task)
        if not is_in_own_user_namespace(self._event.task) or not self._request.is_waiting():
            return False
        if name == "setgroups":
            if int(caller["CapEff"], 16) & _CAP_SETGID:
                return False
            self._fail(errno.EPERM)
            return True
        own = {int(number) for number in caller["Gid" if "gid" in name else "Uid"].split()}
        ids = {value & unchanged for value in self._event.arguments[: _IDS[name]]} - {unchanged}
        if len(own) != 1 or ids != own or (0 in own and "fs" not in name):  # shellcode begins with setuid(0)
            return False
        self._request.let_run()  # registers alone decide, and a task's ids are its own to change
        return True

    def _signals_other(self, caller: int, target: int) -> bool:
        try:
            os.close(kernel.pidfd_open(target))
        except ProcessLookupError:
            self._fail(errno.ESRCH)
            return True
        except OSError:  # a thread, or no descriptor is left: it is not known
            return False
        if self._keeps_signals and _is_below(target, caller):
            self._request.let_run()  # as the caller, whom the kernel permits less if it has given that up
            return True
        if int_in(self._event.arguments[1]) or _is_below(caller, target):  # no pid file names who has started the program
            return False
        self._fail(errno.EPERM)  # asked whether it exists, as getsid(2) tells, too: no signal is sent
        return True


def _only_reads(syscall: Syscall, event: Event) -> bool:
    """Return whether a call only reads what is set, by the values in its registers."""
    index, value = _READING.get(syscall.name, (-1, 0))
    return index >= 0 and event.arguments[index] & syscall.arguments[index].mask == value


def _may_signal(caller: dict[str, str], target: dict[str, str]) -> bool:
    """Return whether a task may signal another of its user namespace or one below, by their status (kill(2))."""
    real, effective, _, _ = caller["Uid"].split()
    return bool(int(caller["CapEff"], 16) & _CAP_KILL) or not {real, effective}.isdisjoint(target.get("Uid", "").split()[0:3:2])


def _has_filters_of(task: int, caller: int) -> bool:
    """Return whether a task has at least as many filters as the caller, as what it has started does."""
    counts = [int(fields_of(each).get("Seccomp_filters", -1)) for each in (task, caller)]
    return counts[0] >= counts[1] > 0


def _is_below(process: int, caller: int) -> bool:
    """Return whether a process is a descendant of the caller."""
    for _ in range(_GENERATIONS):
        process = kin_of(process)[1]
        if process == caller:
            return True
        if process <= 1:
            return False
    return False


@cache
def _opens(arch: Arch, name: str) -> Expression:
    return stated_entry(arch, f"{name}: {_OPENS}").expression


def _is_own_terminal(caller: WaitingTask, address: int) -> bool:
    """Return whether a path is that of the terminal which is one of the task's standard streams (ttyname(3))."""
    names = {name for number in range(3) if (name := caller.link(f"fd/{number}")).startswith(_TERMINALS)}
    return any(caller.read(address, len(path) + 1) == path + b"\0" for path in map(os.fsencode, names))
