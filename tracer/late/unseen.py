"""Which known calls may run unseen, so that a late filter may let them: where the tracer has nothing to do, and no code comes.

A filter is inherited over execve, and what it says of a program's calls means nothing for those of the next one.  The code of
both is at other addresses, as a rule; so a filter that is for calls by the code of one program lets those of the next one be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracer import linux
from tracer.abi import Arch, table
from tracer.calls import CLONE_UNTRACED, SET_MODE, WRITES, is_readable
from tracer.proc import proc
from tracer.unwind.walk import Maps

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tracer.abi import Event
    from tracer.late.filter import Key
    from tracer.unwind.walk import Mapped

WATCHED: Final = frozenset((*linux.OPAQUE, "ptrace", "sched_getaffinity", "sched_setaffinity", "sched_setattr", "seccomp"))
_FLAGS: Final = {"open": 1, "openat": 2}
"""Which argument of a call that opens files has the flags."""
_FAST_OPEN: Final = {"sendto": 3, "sendmsg": 2, "sendmmsg": 3}
"""Which argument of a call that sends has MSG_*."""
_MSG_FASTOPEN: Final = 0x20000000  # linux/socket.h: connects, which learning of ports looks at
_NEAR: Final = 1 << 28
"""Bytes before and between pieces of code that belong to the same span: the libraries of a program lie side by side, and each
further one is put before those that are there (Documentation/arch/x86/x86_64/mm.rst; mmap_base)."""
_MOST: Final = 16
"""Spans up to which it is worth to compare the address of each call with them."""
_FIXED: Final = 0x10 | 0x100000  # MAP_FIXED, MAP_FIXED_NOREPLACE: linux/mman.h
_PROT_EXEC: Final = 4  # asm-generic/mman-common.h
_SHM_EXEC: Final = 0o100000  # linux/shm.h
_QUERY: Final = 0xFFFFFFFF
"""What personality(2) is given if nothing is to be changed."""
_MAP_VDSO: Final = range(0x2001, 0x2004)
"""Options of arch_prctl(2) that map code (asm/prctl.h)."""
_BITS: Final = {**dict.fromkeys(("mmap", "mprotect", "pkey_mprotect"), (2, _PROT_EXEC)), "shmat": (2, _SHM_EXEC)}
"""The argument, and its bit, that makes memory code."""
BRINGS_CODE: Final = (*_BITS, "mremap", "personality", "remap_file_pages", "arch_prctl", "modify_ldt", "uselib", "mmap2", "ipc")
"""The calls that may bring code, of x86_64 and i386."""


def may_run(key: Key, *, opens: bool, writes: bool) -> bool:
    """Whether a known call of x86_64 may run without a stop.  `opens`: also one that opens a file for reading, which may be
    one that shows affinities (`SharedProcessor`).  `writes`: also one that may write to a terminal."""
    call = table(Arch.X86_64).by_number.get(key.number)
    if call is None or call.name in WATCHED:
        return False
    if call.name == "clone":
        return not key.argument(0) & CLONE_UNTRACED
    if call.name in _FAST_OPEN:
        return not key.argument(_FAST_OPEN[call.name]) & _MSG_FASTOPEN
    if call.name == "prctl":
        return key.argument(0) & 0xFFFFFFFF not in (linux.PR_GET_SECCOMP, linux.PR_SET_SECCOMP)
    return (opens or not opens_for_reading(key)) and (writes or not may_write(key))


def opens_for_reading(key: Key) -> bool:
    """Whether a call of x86_64 opens a file so that it can be read."""
    call = table(Arch.X86_64).by_number.get(key.number)
    return call is not None and call.name in _FLAGS and is_readable(key.argument(_FLAGS[call.name]))


def may_write(key: Key) -> bool:
    """Whether a call of x86_64 can write to a terminal."""
    call = table(Arch.X86_64).by_number.get(key.number)
    return call is not None and call.name in WRITES


def installs_filter(event: Event) -> bool:
    """Whether a call of x86_64 is to put the task under a seccomp filter."""
    call = table(Arch.X86_64).by_number.get(event.number)
    option = event.arguments[0] & 0xFFFFFFFF
    return call is not None and (
        (call.name == "prctl" and option == linux.PR_SET_SECCOMP) or (call.name == "seccomp" and option in SET_MODE)
    )


# Code: where it is, and what may bring more


def mappings(pid: int) -> list[Mapped]:
    """The mappings of a process; none if they cannot be read."""
    try:
        with open(f"{proc()}/{pid}/maps", encoding="utf-8", errors="surrogateescape") as file:
            return Maps(file.read()).all()
    except OSError:
        return []


def spans(pid: int) -> Sequence[tuple[int, int]]:
    """Where the code of a process is or will be, but for the vsyscall page: the first and the last address that the kernel
    gives for a call by it, each span within 4 GiB.

    None if that is not known, or if there is code that may grow without a call, on a stack."""
    joined: list[list[int]] = []
    for one in mappings(pid):
        start, end, name = one.start, one.end, one.file[2]
        if one.permissions[2] != "x" or name == "[vsyscall]":
            continue
        if name in ("[stack]", "[heap]"):
            return ()
        if joined and start - joined[-1][1] < _NEAR:
            joined[-1][1] = end
        else:
            joined.append([max(start - _NEAR, 0), end])
    found = [one for start, end in joined for one in _within_4_gib(start, end)]
    return found if len(found) <= _MOST else ()


def _within_4_gib(first: int, last: int) -> Iterator[tuple[int, int]]:
    while first >> 32 != last >> 32:
        yield first, first | 0xFFFFFFFF
        first = (first | 0xFFFFFFFF) + 1
    yield first, last


def brings_code(event: Event, code: Sequence[tuple[int, int]], pid: int) -> bool:
    """Whether a call may give a process code outside of these spans; of i386, each of BRINGS_CODE."""
    if event.arch != Arch.X86_64.audit:
        return True
    name, (start, length, *_, flags, _, _) = table(Arch.X86_64).by_number[event.number].name, event.arguments
    if name == "personality":
        return start & _QUERY != _QUERY
    if name == "arch_prctl":
        return start & 0xFFFFFFFF in _MAP_VDSO
    if name == "mremap":
        ended = start + length
        return any(one.permissions[2] == "x" and one.start < ended and start < one.end for one in mappings(pid))
    index, bit = _BITS.get(name, (0, 0))
    if bit and not event.arguments[index] & bit:
        return False
    is_placed = name in ("mprotect", "pkey_mprotect") or (name == "mmap" and flags & _FIXED)
    return not (is_placed and any(first <= start and start + length <= last for first, last in code))


def may_bring_code(key: Key) -> bool:
    """Whether a call of x86_64 with this key may do so."""
    name = table(Arch.X86_64).by_number[key.number].name
    if name == "arch_prctl" and key.mask >> 64 & 0xFFFFFFFF == 0xFFFFFFFF:
        return key.argument(0) & 0xFFFFFFFF in _MAP_VDSO
    index, bit = _BITS.get(name, (0, 0))
    return name in BRINGS_CODE and not (bit and key.mask >> 64 * (index + 1) & bit and not key.argument(index) & bit)
