"""Where the code of a process is, and which of its calls may bring more.

A filter is inherited over execve, and what it says of a program's calls means nothing for those of the next one.  The code of
both is at other addresses, as a rule; so a filter that is for calls by the code of one program lets those of the next one be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracer.abi import Arch, table
from tracer.named import NamedTuple
from tracer.task import proc

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tracer.abi import Event
    from tracer.late.filter import Key

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


class Mapping(NamedTuple):
    """A line of /proc/PID/maps (proc_pid_maps(5))."""

    start: int
    end: int
    permissions: bytes
    name: bytes


def mappings(pid: int) -> list[Mapping]:
    """The mappings of a process; none if they cannot be read."""
    try:
        with open(f"{proc()}/{pid}/maps", "rb") as file:
            lines = [line.split(None, 5) for line in file.read().split(b"\n")]
    except OSError:
        return []
    found = []
    for addresses, permissions, _, _, _, *name in filter(None, lines):
        start, _, end = addresses.partition(b"-")
        found.append(Mapping(int(start, 16), int(end, 16), permissions, b"".join(name)))
    return found


def spans(pid: int) -> Sequence[tuple[int, int]]:
    """Where the code of a process is or will be, but for the vsyscall page: the first and the last address that the kernel
    gives for a call by it, each span within 4 GiB.

    None if that is not known, or if there is code that may grow without a call, on a stack."""
    joined: list[list[int]] = []
    for start, end, permissions, name in mappings(pid):
        if permissions[2:3] != b"x" or name == b"[vsyscall]":
            continue
        if name in (b"[stack]", b"[heap]"):
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
        return any(one.permissions[2:3] == b"x" and one.start < ended and start < one.end for one in mappings(pid))
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
