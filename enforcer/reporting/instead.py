"""Answers other than a denial, for calls that the policy's default denies and whose answer gives the program nothing.

The helper gives it descriptors of /dev/null and /dev/full and none of /dev/tty, lets it send signals to itself and set the
ids that it has, sends signals to processes that it has started, fails those to processes that do not exist, and fails what a
kernel or machine may not have, for which programs have another way (unavailable.tsv).  Anything else, and anything that
cannot be found out, is denied.  docs/implied.md says why each is harmless.
"""

from __future__ import annotations

import errno
import os
from contextlib import closing
from functools import cache
from typing import TYPE_CHECKING

from enforcer import kernel
from enforcer.reporting.caller import Caller
from enforcer.reporting.process import status
from enforcer.reporting.report import event_of
from policygen.holds import holds
from policygen.implied.cells import read_entries
from policygen.implied.unavailable import unavailable
from tracer.abi import Arch, table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enforcer.kernel import Notification
    from policygen.model import Expression

_NULL = b"/dev/null\0"
_FULL = b"/dev/full\0"
_TERMINAL = b"/dev/tty\0"
_OPENS = "flags in O_ACCMODE|O_CREAT|O_TRUNC|O_APPEND|O_CLOEXEC|O_NONBLOCK|O_NOCTTY|O_LARGEFILE|O_NOFOLLOW|O_SYNC"
"""How these can be opened."""
_PATH = {"openat": 1, "open": 0}
"""Which argument is the path."""
_IDS = {"setuid": 1, "setgid": 1, "setreuid": 2, "setregid": 2, "setresuid": 3, "setresgid": 3, "setfsuid": 1, "setfsgid": 1}
"""How many arguments are ids."""
_UNCHANGED = 0xFFFFFFFF
_CAP_SETGID = 1 << 6  # linux/capability.h
_GENERATIONS = 100
"""Parents that are looked at, at most."""


class Instead:
    """Answers calls that wait at the listener."""

    def __init__(self, listener: int, devices: tuple[int, int], program: int) -> None:
        self._listener = listener
        self._null, self._full = devices
        """Descriptors of /dev/null, for reading and writing, and of /dev/full, for writing; -1 if there is none."""
        self._program = program
        """A pidfd of the first confined process."""

    def answered(self, asked: Notification) -> bool:
        """Answer the call, if that gives the program nothing.  Raises OSError if its task has ended."""
        arch = Arch.from_audit(asked.arch)
        syscall = table(arch).by_number.get(asked.number) if arch else None
        if arch is None or syscall is None:
            return False
        if syscall.name in _PATH:
            return self._opens_device(asked, arch, syscall.name)
        if syscall.name in ("kill", "tgkill", "tkill"):
            return self._signals(asked, syscall.name)
        if syscall.name.removesuffix("32") in _IDS or syscall.name == "setgroups":
            return self._keeps_ids(asked, syscall.name.removesuffix("32"))
        number = unavailable(event_of(asked))
        if number:
            kernel.fail(self._listener, asked.id, number)
        return bool(number)

    def _opens_device(self, asked: Notification, arch: Arch, name: str) -> bool:
        """Give a descriptor of /dev/null or /dev/full to a task that opens it; fail to open a terminal, as where there is none.

        The task gets no other file, whatever it does to the path."""
        path, arguments = _PATH[name], table(arch).by_name[name].arguments
        if not holds(_opens(arch, name), arguments, tuple(asked.arguments)):
            return False
        with closing(Caller(asked.task, asked.task)) as caller:
            opened = caller.read(asked.arguments[path], len(_NULL))
        if not kernel.is_waiting(self._listener, asked.id):
            return False
        if opened.startswith(_TERMINAL):
            kernel.fail(self._listener, asked.id, errno.ENXIO)
            return True
        flags = asked.arguments[path + 1]
        device = -1
        if opened == _NULL:
            device = self._null
        elif opened == _FULL and flags & os.O_ACCMODE == os.O_WRONLY:  # reading it would never end
            device = self._full
        if device < 0:
            return False
        try:
            kernel.give(self._listener, asked.id, device, inherited=not flags & os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.EMFILE:
                return False
            kernel.fail(self._listener, asked.id, errno.EMFILE)
        return True

    def _signals(self, asked: Notification, name: str) -> bool:
        """Let a process signal itself and those that it, or the first confined process, has started; fail if there is none."""
        caller = status(asked.task)
        target = _int(asked.arguments[0])
        if len(caller.get("NSpid", "").split()) != 1:  # another pid namespace: the same number is another process
            return False
        process = int(caller["Tgid"])
        is_itself = target == asked.task if name == "tkill" else target == process
        if name == "tgkill" and status(_int(asked.arguments[1])).get("Tgid") != caller["Tgid"]:
            return False
        if not kernel.is_waiting(self._listener, asked.id):
            return False
        if is_itself:
            # Nothing but registers decides what the call does, and the program cannot change them while it waits.
            kernel.let_run(self._listener, asked.id)
            return True
        if name != "kill" or target <= 1:
            return False
        return self._signals_other(asked, caller, target, _int(asked.arguments[1]))

    def _keeps_ids(self, asked: Notification, name: str) -> bool:
        """Run a call that sets ids which the task has already, and fail what the kernel would, for want of a privilege."""
        caller = status(asked.task)
        if not _is_in_own_user_namespace(asked.task) or not kernel.is_waiting(self._listener, asked.id):
            return False
        if name == "setgroups":
            if int(caller["CapEff"], 16) & _CAP_SETGID:
                return False
            kernel.fail(self._listener, asked.id, errno.EPERM)
            return True
        own = {int(one) for one in caller["Gid" if "gid" in name else "Uid"].split()}
        wanted = {value & _UNCHANGED for value in asked.arguments[: _IDS[name]]} - {_UNCHANGED}
        if len(own) != 1 or wanted != own or (0 in own and "fs" not in name):  # shellcode begins with setuid(0)
            return False
        kernel.let_run(self._listener, asked.id)  # registers alone decide, and a task's ids are its own to change
        return True

    def _signals_other(self, asked: Notification, caller: Mapping[str, str], target: int, number: int) -> bool:
        try:
            pidfd = kernel.pidfd_open(target)  # from now on the process with this number is this one, or has ended
        except ProcessLookupError:
            kernel.fail(self._listener, asked.id, errno.ESRCH)
            return True
        except OSError:
            return False
        try:
            if not self._is_below(target, int(caller["Tgid"])) or not _may_signal(caller, status(target)):
                return False
            kernel.send_signal(pidfd, number)
        except OSError:
            return False
        finally:
            os.close(pidfd)
        kernel.succeed(self._listener, asked.id)
        return True

    def _is_below(self, process: int, caller: int) -> bool:
        """Whether a process is the first confined one, or was started by that or by the caller: it has the same filter then."""
        above = (caller, _pid(self._program))
        for _ in range(_GENERATIONS):
            if process in above:
                return True
            process = int(status(process).get("PPid", "0"))
            if process <= 1:
                return False
        return False


@cache
def _opens(arch: Arch, name: str) -> Expression:
    found = read_entries(arch, [f"{name}: {_OPENS}"])[0]
    assert found is not None
    return found[1].expression


def _may_signal(caller: Mapping[str, str], target: Mapping[str, str]) -> bool:
    """Whether the kernel would permit it (kill(2)), without capabilities: the helper may have others than the caller."""
    real, effective, *_ = caller["Uid"].split()
    target_real, _, target_saved, _ = target["Uid"].split()
    return effective == "0" or not {real, effective}.isdisjoint((target_real, target_saved))


def _is_in_own_user_namespace(task: int) -> bool:
    """Whether the same number is the same user for a task as for this process."""
    try:
        return os.readlink(f"/proc/{task}/ns/user") == os.readlink("/proc/self/ns/user")
    except OSError:
        return False


def _pid(pidfd: int) -> int:
    """The process of a pidfd; -1 if it has ended (pidfd_open(2), /proc/PID/fdinfo)."""
    with open(f"/proc/self/fdinfo/{pidfd}") as file:
        return int(next((line.split()[1] for line in file if line.startswith("Pid:")), "-1"))


def _int(register: int) -> int:
    """A register as the kernel takes it for an int."""
    return (register & 0xFFFFFFFF ^ 0x80000000) - 0x80000000
