"""Find out what `enforce` can do under a filter that is in force already, that of a container or an outer `enforce`.

That filter may deny ptrace(2), or have a listener, and a process can have only one (seccomp(2), EBUSY).  It may also kill for
denied calls, so a cloned process tries them first.  Without such a filter, nothing is tried.
"""

from __future__ import annotations

import errno
import os

from callfence.enforcer import kernel
from callfence.enforcer.bpf import ALL_RUN
from callfence.enforcer.listener import RECEIVE, Notification
from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.errors import KernelError
from callfence.tracer.machine import MACHINE

if TYPE_CHECKING:
    from collections.abc import Callable

_BUSY = "another filter has a listener already (a container's, or that of an outer enforce)"


_DEAF = "a filter that is in force already denies answering notifications (that of an outer enforce)"


def problems(arm: str, *, listens: bool, traces: bool) -> tuple[str, str]:
    """Return why denied calls cannot be reported, and why a process cannot be traced; "" each if that is possible.

    `listens` and `traces`: which of the two to try.  "" also if trying merely fails: then `enforce` reports the failure with a
    remedy when it happens."""
    flags = linux.CLONE_FILES if arm == "now" else 0  # as the helper is cloned (callfence.enforcer.arming)

    def trace(*, listens: bool) -> None:
        _trace(is_entry=arm == "entry", listens=listens)

    def both() -> None:
        trace(listens=True)
        _listen(flags, leaves=False)

    deaf = _DEAF if listens and not _may_receive() else ""
    if listens and traces and not _tried(both, "ptrace", 0):
        return deaf, ""
    unreported = _tried(lambda: _listen(flags, leaves=True), "seccomp", flags) if listens else ""
    unreported = unreported or deaf
    untraced = _tried(lambda: trace(listens=listens and not unreported), "ptrace", 0) if traces else ""
    return unreported, untraced


def _may_receive() -> bool:
    """Return whether a notification could be received: an outer `enforce` denies it to all but its own helper."""
    try:
        kernel.ioctl(-1, RECEIVE, Notification())
    except OSError as error:
        return error.errno == errno.EBADF
    return True


def _tried(work: Callable[[], None], call: str, flags: int) -> str:
    """Do some work in a clone, and return why it failed; "" if it did not.  `call` is the system call to name for a kill,
    `flags` are those of clone(2)."""
    reader, writer = os.pipe()
    try:
        child = kernel.clone(flags)
    except OSError:
        os.close(reader)
        os.close(writer)
        return ""
    if child == 0:
        try:
            os.write(writer, _outcome(work, flags))
        finally:
            os._exit(0)
    os.waitpid(child, linux.WALL)  # before anything is closed, for it may share our descriptors at first
    os.close(writer)
    answer = os.read(reader, 4096)
    os.close(reader)
    if answer == b"+":
        return ""
    return answer.decode() or f"a filter that is in force already kills a process that uses {call}, or calls that go with it"


def _outcome(work: Callable[[], None], flags: int) -> bytes:
    """Do some work in a process that was cloned with `flags`; return b"+" if it succeeded, the reason if it did not, or b"" if
    a process that it started was killed."""
    try:
        if flags & linux.CLONE_FILES:
            kernel.unshare_files()
        work()
    except OSError as error:
        if str(error.filename).startswith("/"):
            return f"a file that ptrace takes cannot be opened ({error.strerror})".encode()
        if not error.filename:  # not from `enforcer.kernel`
            return f"no helper process can run here ({error.strerror})".encode()
        number = error.errno
    except KernelError as error:
        number = error.errno
    else:
        return b"+"
    return _BUSY.encode() if number == errno.EBUSY else b"" if number == errno.ESRCH else b"+"


def _listen(flags: int, *, leaves: bool) -> None:
    """Make the calls that a helper makes to listen; the listener comes first, since there may be one already."""
    from callfence.enforcer import confinement, helper

    confinement.confine(ALL_RUN, listens=True)
    if kernel.clone(flags) == 0:
        os._exit(0)
    if leaves:
        helper.leave()
    os.close(kernel.pidfd_open(os.getpid()))


def _trace(*, is_entry: bool, listens: bool) -> None:
    """Make the calls by which a helper traces and confines the program, on a waiting child.  Yama lets a parent trace its child
    (admin-guide/LSM/Yama.rst); whether it lets the helper trace the program is found out later."""
    from callfence.enforcer import helper
    from callfence.enforcer.arming import confining, inject, seized
    from callfence.enforcer.arming.inject import Key

    waiting, ended = os.pipe()
    child = kernel.clone()
    if child == 0:
        os.close(ended)
        os.read(waiting, 1)
        os._exit(0)
    os.close(waiting)
    helper.leave()
    kernel.set_no_new_privs()
    pidfd = kernel.pidfd_open(child) if listens else -1
    seized.seize(child)
    confining.stop(child)
    if is_entry:
        MACHINE.clear_breakpoint(child)
        kernel.CallStop().read(child)
    surgery = inject.Surgery(child)
    listener = inject.install(surgery, Key(), ALL_RUN, pidfd)
    surgery.close()
    linux.ptrace(linux.PTRACE_DETACH, child)
    os.close(ended)
    for descriptor in (listener, pidfd):
        if descriptor >= 0:
            os.close(descriptor)
    os.waitpid(child, linux.WALL)
