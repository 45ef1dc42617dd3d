"""Put a filter on a stopped process, and take its listener out, by calls that filters of ours know by a secret.

The helper makes these calls in the program, and they run, whatever the policy.  A filter sees the registers of a call, also
those that the call does not use.  The helper puts random words into these, so a process can be given the filter of a phase
though its own filter denies seccomp(2), and no answer of the helper is needed.  Who may look into a stopped thread of the
program sees the words (/proc/TID/syscall).  They are worth little: filters only take away, the memory that can be mapped is not
executable, and close_range(2) closes what the program may close as well.
"""

from __future__ import annotations

import errno
import os

from enforcer import kernel
from enforcer.arming.inject import COMPAT, LONG
from enforcer.bpf import ARCH, ARGUMENTS, EQUAL, JUMP, LOAD, NUMBER, RETURN, assembled
from enforcer.errors import BUSY
from tracer import linux
from tracer.errors import KernelError
from tracer.proc import fields_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from enforcer.arming.inject import Convention, Surgery
    from enforcer.bpf import Line

_SPARE = (3, 4, 5)
"""Arguments that seccomp(2), close_range(2) and mprotect(2) do not have."""
_DESCRIPTOR = 4
"""The argument of mmap(2) that counts for nothing with MAP_ANONYMOUS."""


class Key:
    """The secret of one start of `enforce`."""

    __slots__ = ("_words",)

    def __init__(self) -> None:
        self._words = [int.from_bytes(os.urandom(8), "little") for _ in _SPARE]

    def spare(self, convention: Convention) -> tuple[int, ...]:
        """The last three arguments of a call that has three."""
        mask = (1 << 8 * convention.pointer) - 1
        return tuple(word & mask for word in self._words)

    def is_in(self, call: tuple[int, int], arguments: Sequence[int]) -> bool:
        """Whether the program makes a call that filters take for one of the helper's (AUDIT_ARCH_* and number)."""
        convention = LONG if call[0] == LONG.audit else COMPAT
        word = self.spare(convention)[0]
        if call[1] == convention.mmap:
            return arguments[_DESCRIPTOR] == word
        return call[1] in (convention.seccomp, convention.mprotect) and arguments[_SPARE[0]] == word

    def passing(self, filter_: bytes, *, installs: bool) -> bytes:
        """The filter, and instructions before it that let the helper close a descriptor; with `installs`, also install the next
        filter."""
        lines: list[Line] = []
        for convention in (LONG, COMPAT):
            arch, words = convention.audit, self.spare(convention)
            lines += [(LOAD, ARCH), (EQUAL, arch, "", f"not {arch}"), (LOAD, NUMBER)]
            lines.append((EQUAL, convention.close_range, f"spare {arch}", ""))
            if installs:
                lines += [(EQUAL, convention.seccomp, f"spare {arch}", ""), (EQUAL, convention.mmap, f"mmap {arch}", "")]
                lines += [(EQUAL, convention.mprotect, f"mprotect {arch}", ""), (JUMP, "end")]
                lines += [f"mprotect {arch}", *_equal(2, linux.PROT_READ)]
            else:
                lines.append((JUMP, "end"))
            lines.append(f"spare {arch}")
            for argument, word in zip(_SPARE, words, strict=True):
                lines += _equal(argument, word)
            lines.append((JUMP, "pass"))
            if installs:
                lines += [f"mmap {arch}", *_equal(2, linux.PROT_READ_WRITE), *_equal(3, linux.MAP_SHARED_ANONYMOUS)]
                lines += [*_equal(_DESCRIPTOR, words[0]), (JUMP, "pass")]
            lines.append(f"not {arch}")
        return assembled([*lines, (JUMP, "end"), "pass", (RETURN, linux.SECCOMP_RET_ALLOW), "end"]) + filter_


def _equal(argument: int, value: int) -> list[Line]:
    """Go on only if an argument has that value, 64 bits."""
    low, high = value & 0xFFFFFFFF, value >> 32
    place = ARGUMENTS + 8 * argument
    return [(LOAD, place), (EQUAL, low, "", "end"), (LOAD, place + 4), (EQUAL, high, "", "end")]


def probe_listener(pidfd: int) -> None:
    """Raise OSError if no listener could be taken out of the process.  It is tried with descriptor 0, open or not."""
    try:
        os.close(kernel.pidfd_getfd(pidfd, 0))
    except OSError as error:
        if error.errno != errno.EBADF:
            raise


def install(
    surgery: Surgery, key: Key, program: bytes, pidfd: int, *, threads: bool = False, is_first: bool = False
) -> int:
    """Put the filter on a stopped process, and return its listener, taken out through `pidfd`: the process keeps no copy.

    Without a pidfd (-1) there is no listener (-1).  With `threads`, the filter is put on all threads of the process.
    `is_first`: it has no filter yet, so seccomp(2) returns what the kernel says; else the filters are counted.  The
    filters that the process has, and this one, must know `key`.  Raises KernelError, OSError or GoneError; if the process has
    the filter then, `surgery.is_confined` says so.
    """
    flags = linux.SECCOMP_FILTER_FLAG_TSYNC | linux.SECCOMP_FILTER_FLAG_TSYNC_ESRCH if threads else 0
    convention, spare = surgery.convention, key.spare(surgery.convention)
    pointer = convention.pointer

    def data(address: int) -> bytes:  # struct sock_fprog {unsigned short len; struct sock_filter *filter}, then the filter
        length = (len(program) // 8).to_bytes(pointer, "little")
        return (length + (address + 2 * pointer).to_bytes(pointer, "little")) + program

    def load(flags: int) -> int:
        return surgery.call_with(convention.seccomp, linux.SECCOMP_SET_MODE_FILTER, flags, data=data, spare=spare)

    before = -1 if is_first else filters(surgery.pid)
    if pidfd >= 0:
        flags |= linux.SECCOMP_FILTER_FLAG_NEW_LISTENER
        # Since Linux 5.19 signals need not interrupt a call that is being answered; before, the kernel asks about it again.
        result = load(flags | linux.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
        if result == -errno.EINVAL:
            result = load(flags)
        if result == -errno.EBUSY:
            raise KernelError(BUSY, "seccomp", errno.EBUSY)
    else:
        result = load(flags)
    _checked(result, "seccomp", "the kernel refused the filter")
    if before >= 0 and filters(surgery.pid) <= before:
        raise KernelError("a filter of its own pretends that this one was installed", "seccomp", errno.EPERM)
    surgery.is_confined = True
    if pidfd < 0:
        return -1
    listener = kernel.pidfd_getfd(pidfd, result)
    closed = surgery.call(convention.close_range, result, result, 0, *spare)
    _checked(closed, "close_range", "the listener could not be closed in the program")
    return listener


def filters(task: int) -> int:
    """How many filters a task has (proc(5), since Linux 5.9); -1 if that is not known."""
    return int(fields_of(task).get("Seccomp_filters", -1))


def _checked(result: int, call: str, what: str) -> int:
    if result < 0:
        raise KernelError(f"{what}: {os.strerror(-result)}", call, -result)
    return result
