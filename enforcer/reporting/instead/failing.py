"""Which calls fail in place of being denied, as they could without a policy: the call does nothing then, whatever its path or
address means, so it makes no difference if the task changes that meanwhile.

What a kernel or machine may not have, for which programs have another way, is in policygen/implied/unavailable.tsv.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from callfence.enforcer.waiting import WaitingTask
from callfence.policygen.implied.tables import is_in_cache
from callfence.tracer.abi import Arch, Event, Kind, Syscall, table
from callfence.tracer.linux import O_EMPTYPATH, int_in
from callfence.tracer.proc import begin_of, fields_of, is_in_own_user_namespace, numbers_in, open_files_limit

if TYPE_CHECKING:
    from callfence.enforcer.reporting.verdict import Verdict

_DAEMONS = (b"/run/nscd/socket", b"/var/run/nscd/socket", b"/dev/log")
"""The sockets that C libraries connect to by themselves, and do without: glibc nscd/nscd-client.h and misc/syslog.c, musl
src/passwd/nscd.h and src/misc/syslog.c."""
OPENS = {"openat": 1, "open": 0}
"""The index of the path among the arguments of each call that opens a file."""
_ASKS = {"newfstatat": 1, "fstatat64": 1, "statx": 1, "stat": 0, "stat64": 0, "lstat": 0, "lstat64": 0}
"""The same of calls that ask about a file."""
_MAKES_FOLDER = {"mkdirat": 1, "mkdir": 0}
"""The same of calls that make a folder."""
_REMOVES = {"unlink": 0, "unlinkat": 1}
"""The same of calls that remove a file; the second takes flags as well."""
_WRITES = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
"""The flags of which a call has none that opens a file only for reading."""
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


def error_of(arch: Arch, syscall: Syscall, verdict: Verdict) -> int:
    """Return the errno with which a call fails in place of being denied; 0 if it does not.  The task must still wait in the
    call when the errno is used.  Raises OSError and KeyError if the task has ended."""
    event = verdict.event
    caller = WaitingTask(event.task, event.task)
    if number := _lacks_path(syscall, event, caller):
        return number
    if _lacks_descriptors(syscall, event):
        return errno.EMFILE
    if _updates_cache(syscall, event, caller) or _reads_source(syscall, event, caller):
        return errno.EACCES
    if _removes_output(arch, syscall, verdict):
        return errno.EACCES
    return errno.ENOENT if syscall.name == "connect" and _asks_daemon(event, caller) else 0


def may_ask_status(arch: Arch, verdict: Verdict) -> bool:
    """Return whether the caller may ask for the status of files, and the helper sees them as the caller does."""
    asks = Event(arch.audit, table(arch).by_name["fstatat64" if arch.bits == 32 else "newfstatat"].number, (0,) * 6)
    return verdict.allows(asks) and is_in_own_user_namespace(verdict.event.task)


def _lacks_path(syscall: Syscall, event: Event, caller: WaitingTask) -> int:
    """Return the errno of a call of which a path is NULL, as in programs that remove a file which they have not made yet, or
    empty, as a shell's `> "$unset"`; 0 of any other."""
    if syscall.name not in _NEEDS_PATHS:
        return 0
    arguments = zip(syscall.arguments, event.arguments, strict=False)
    paths = [argument.value(register) for argument, register in arguments if argument.kind is Kind.PATH]
    if not all(paths):
        return errno.EFAULT
    if syscall.name in OPENS and event.arguments[OPENS[syscall.name] + 1] & O_EMPTYPATH:
        return 0
    return errno.ENOENT if any(caller.read(path, 1) == b"\0" for path in paths) else 0


def _lacks_descriptors(syscall: Syscall, event: Event) -> bool:
    """Return whether a call makes more descriptors than the task may have: what a program does otherwise then, it did not do
    when it was learned.  The task's other threads may close some meanwhile."""
    count = _DESCRIPTORS.get(syscall.name, 0)
    if not count:
        return False
    limit = open_files_limit(event.task)
    if int(fields_of(event.task).get("FDSize", 0)) < limit:  # there are not so many places for them yet
        return False
    return limit - sum(number < limit for number in numbers_in(f"{event.task}/fd")) < count


def _updates_cache(syscall: Syscall, event: Event, caller: WaitingTask) -> bool:
    """Return whether a call opens a file for writing, or makes a folder, in a cache of `is_in_cache`."""
    index = (OPENS | _MAKES_FOLDER).get(syscall.name)
    if index is None or _only_reads(syscall, event):
        return False
    return is_in_cache(caller.path(event.arguments[index]))


def _reads_source(syscall: Syscall, event: Event, caller: WaitingTask) -> bool:
    """Return whether a call opens the source of a Python module for reading, or asks about it, as a traceback does to show its
    lines: without, it is printed without them (Lib/linecache.py, Python/traceback.c)."""
    index = (OPENS | _ASKS).get(syscall.name)
    if index is None or (syscall.name in OPENS and not _only_reads(syscall, event)):
        return False
    return caller.path(event.arguments[index]).endswith(b".py")


def _only_reads(syscall: Syscall, event: Event) -> bool:
    """Return whether a call opens a file only for reading."""
    return syscall.name in OPENS and not event.arguments[OPENS[syscall.name] + 1] & _WRITES


def _removes_output(arch: Arch, syscall: Syscall, verdict: Verdict) -> bool:
    """Return whether a call removes a file of the caller's user that was changed after the caller's process had started, as
    programs do with an output that they have not finished when the disk is full or a signal ends them."""
    index, event = _REMOVES.get(syscall.name, -1), verdict.event
    if index < 0 or (index and int_in(event.arguments[2])) or not may_ask_status(arch, verdict):
        return False
    caller = WaitingTask(event.task, event.task)
    try:
        status = caller.status(event.arguments[index], event.arguments[0] if index else None)
    except (OSError, ValueError):
        return False
    fields = fields_of(event.task)
    is_own = stat.S_ISREG(status.st_mode) and status.st_uid == int(fields["Uid"].split()[3])
    return is_own and status.st_ctime >= begin_of(int(fields["Tgid"]))


def _asks_daemon(event: Event, caller: WaitingTask) -> bool:
    """Return whether a connect(2) is to one of _DAEMONS, as getpwuid(3) and syslog(3) do."""
    address, length = event.arguments[1:3]
    name = caller.read_on(address, min(length & 0xFFFFFFFF, _MAX_ADDRESS))
    return name[:2] == _UNIX and name[2:].partition(b"\0")[0] in _DAEMONS
