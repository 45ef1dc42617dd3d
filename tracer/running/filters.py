"""The filters of a running process, read back from the kernel.  The process is stopped meanwhile, and not changed."""

from __future__ import annotations

import errno
import os

from tracer import kernel, linux
from tracer.errors import PtraceError, TracerError
from tracer.proc import fields_of, numbers_in


def read_filters(pid: int) -> list[bytes]:
    """Return the filters of a process or thread, each an array of struct sock_filter, in the order in which they were
    installed (kernel/seccomp.c, get_nth_filter; ptrace(2) says the opposite).

    Raises TracerError if they cannot be read: that needs CAP_SYS_ADMIN, no filter on this process itself, a kernel with
    CONFIG_CHECKPOINT_RESTORE (ptrace(2), PTRACE_SECCOMP_GET_FILTER), and a process that is not traced."""
    try:
        kernel.seize(pid, 0)
    except PtraceError as error:
        raise _refused(error, f"process {pid} cannot be stopped: {_reason(error, pid)}") from error
    pending = 0
    try:
        kernel.interrupt(pid)
        pending = _stopped(pid)
        return _filters(pid)
    except PtraceError as error:
        raise _refused(error, f"the filters of process {pid} cannot be read: {_reason(error, pid)}") from error
    finally:
        kernel.resume(linux.PTRACE_DETACH, pid, pending)


def filter_counts(pid: int) -> dict[int, int]:
    """Return how many filters each thread of a process has, by thread id (proc_pid_status(5), Seccomp_filters, Linux 5.9).
    Threads whose number cannot be read are left out."""
    fields = {tid: fields_of(tid) for tid in numbers_in(f"{pid}/task")}
    return {tid: int(found["Seccomp_filters"]) for tid, found in sorted(fields.items()) if "Seccomp_filters" in found}


def _stopped(pid: int) -> int:
    """Wait for the stop.  Return the signal that it kept from being delivered, which detaching must deliver, or 0."""
    _, status = os.waitpid(pid, linux.WALL)
    if not os.WIFSTOPPED(status):
        raise TracerError(f"process {pid} has ended", "ptrace", errno.ESRCH)
    return 0 if status >> 16 else os.WSTOPSIG(status)


def _filters(pid: int) -> list[bytes]:
    found: list[bytes] = []
    while True:
        try:
            length = kernel.filter_length(pid, len(found))
        except PtraceError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL):  # no more of them; no filters at all
                return found
            raise
        found.append(kernel.filter_content(pid, len(found), length))


def _refused(error: PtraceError, message: str) -> TracerError:
    return TracerError(message, error.call, error.errno)


def _reason(error: PtraceError, pid: int) -> str:
    match error.errno:
        case errno.ESRCH:
            return "there is no such process"
        case errno.EPERM:
            return f"not permitted, or it is traced already (TracerPid in /proc/{pid}/status)"
        case errno.EACCES:
            return "it needs CAP_SYS_ADMIN, and no filter on this process"
        case errno.EIO:
            return "this kernel was built without CONFIG_CHECKPOINT_RESTORE"
        case errno.EMEDIUMTYPE:
            return "the kernel has not kept what they were made from"
        case number:
            return os.strerror(number or errno.EINVAL)
