"""The filters of a program that is learned with late filters: which known calls they allow, and which code they are for.

A known call may run without a stop if the tracer has nothing to do at the call, and it maps no code.  A filter stays installed
over an execve, although the known calls of one program are not those of the next.  The two usually have their code at different
addresses: so a filter that applies only to calls by the code of one program does not stop calls by the next one."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final

from callfence.tracer import linux
from callfence.tracer.abi import NATIVE, Event, table
from callfence.tracer.calls import SET_MODE, WRITES, is_readable
from callfence.tracer.kernel import RET_RECORD
from callfence.tracer.named import NamedTuple
from callfence.tracer.unwinding.maps import Mapped, Maps

Spans = Sequence[tuple[int, int]]
"""Where code is: the first and the last address that the kernel gives for a call by it, each span within 4 GiB."""

_LOAD, _AND, _JEQ, _JGT, _JGE, _RET, _JA = 0x20, 0x54, 0x15, 0x25, 0x35, linux.BPF_RET_K, linux.BPF_JA  # linux/bpf_common.h
_ARCH, _IP, _ARGUMENTS = 4, 8, 16
"""Offsets in struct seccomp_data (linux/seccomp.h); the number is at 0."""
_VSYSCALL: Final = 0xFFFFFFFF_FF600000
"""The vsyscall page, the last one that user code can jump to (asm/vsyscall.h, VSYSCALL_ADDR)."""
_WORD = 0xFFFFFFFF
_FIRST: Final = (1 << 64) - 1 << 64
"""The first argument's register in a key."""
MAX_INSTRUCTIONS: Final = 2000
"""The most instructions of one late filter."""
MAX_WEIGHT: Final = 16384
"""Most that our filters of a task may weigh together: half of what the kernel allows, MAX_INSNS_PER_PATH (kernel/seccomp.c)."""
_MAX_COMPARISONS: Final = 4
"""The most call numbers that a filter compares one after the other."""
_EXTRA_WEIGHT: Final = 3 + 4
"""The weight of a filter besides its own instructions: those that bpf_convert_filter puts before them, and a penalty for each
filter."""

_Instruction = tuple[int, int, int, int]


def _encoded(program: Iterable[_Instruction]) -> bytes:
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


UNSEEN: Final = _encoded(
    [
        (_LOAD, 0, 0, _IP + 4),
        (_JEQ, 0, 3, _VSYSCALL >> 32),
        (_LOAD, 0, 0, _IP),
        (_JGE, 0, 1, _VSYSCALL & _WORD),
        (_RET, 0, 0, RET_RECORD),
        (_RET, 0, 0, linux.SECCOMP_RET_ALLOW),
    ]
)
"""A filter that stops only the calls that PTRACE_SYSCALL does not show: those through the vsyscall page."""
_HEAD: Final = ((_LOAD, 0, 0, _ARCH), (_JEQ, 1, 0, NATIVE.audit), (_RET, 0, 0, RET_RECORD))
"""Stops the calls of other architectures."""


class Key(NamedTuple):
    """A set of native calls: those whose number and registers, as one integer (`tally.Recorder`: `raw`), equal `value` in the
    bits of `mask`."""

    mask: int
    value: int

    @property
    def number(self) -> int:
        return self.value & _WORD

    @property
    def name(self) -> str:
        """The name of the call; "" if no call has this number."""
        call = table(NATIVE).by_number.get(self.number)
        return call.name if call else ""

    def argument(self, index: int) -> int:
        """Return the 64-bit register of an argument, as far as the key determines it: bits that are not in the mask are 0."""
        return self.value >> 64 * (index + 1) & (1 << 64) - 1

    def with_first(self, registers: Iterable[int]) -> Iterator[Key]:
        """Yield, for each value in `registers` (64 bits) that is consistent with this key, the key of those calls whose first
        argument's register has exactly this value."""
        for register in registers:
            if not (self.value ^ register << 64) & self.mask & _FIRST:
                yield Key(self.mask | _FIRST, self.value | register << 64)

    def with_zero(self, index: int) -> Iterator[Key]:
        """Yield the key of those calls in which the register of the argument `index` is 0 as well, if there are any."""
        register = (1 << 64) - 1 << 64 * (index + 1)
        if not self.value & self.mask & register:
            yield Key(self.mask | register, self.value & ~register)


# The filters


def allowing_filter(keys: Iterable[Key]) -> bytes:
    """Return a filter that allows the native calls in `keys`, and stops all others.  If the filter would be too long, the last
    keys are left out, so that their calls stop as well.

    The keys of a number are compared in their order, so the most frequent calls should come first."""
    bodies: dict[int, list[_Instruction]] = {}
    length = len(_HEAD) + 2
    for key in keys:
        comparison = _comparison(key)
        length += len(comparison) + (0 if key.number in bodies else 5)
        if length > MAX_INSTRUCTIONS:
            break
        bodies.setdefault(key.number, []).extend(comparison)
    return _encoded([*_HEAD, (_LOAD, 0, 0, 0), *_choice(sorted(bodies.items()))])


def _choice(bodies: Sequence[tuple[int, list[_Instruction]]]) -> list[_Instruction]:
    """Return instructions that go to the body for the number that was loaded.  A tree, since the kernel follows a new filter
    for each number of its table (seccomp_cache_prepare): that takes more time than all else in its installation."""
    if len(bodies) > _MAX_COMPARISONS:
        middle = len(bodies) // 2
        less, rest = _choice(bodies[:middle]), _choice(bodies[middle:])
        return [(_JGE, 0, 1, bodies[middle][0]), (_JA, 0, 0, len(less)), *less, *rest]
    program: list[_Instruction] = []
    for number, body in bodies:
        program += [(_JEQ, 1, 0, number), (_JA, 0, 0, len(body) + 1), *body, (_RET, 0, 0, RET_RECORD)]
    return [*program, (_RET, 0, 0, RET_RECORD)]


def _comparison(key: Key) -> list[_Instruction]:
    """Return instructions that return ALLOW if the registers have the key's values, and go on to the next ones if not."""
    program: list[_Instruction] = [(_RET, 0, 0, linux.SECCOMP_RET_ALLOW)]
    for half in reversed(range(12)):  # from the last, since each jumps over those after it
        mask, value = (word >> 32 * (half + 2) & _WORD for word in key)
        if mask:
            test = (_JEQ, 0, len(program), value)
            reduce = [(_AND, 0, 0, mask)] if mask != _WORD else []
            program = [(_LOAD, 0, 0, _ARGUMENTS + 4 * half), *reduce, test, *program]
    return program


def for_calls_within(spans: Spans, filter_: bytes) -> bytes:
    """Return `filter_`, limited to native calls by instructions in `spans`: it allows all calls by instructions elsewhere."""
    program: list[_Instruction] = []
    for remaining, (first, last) in zip(reversed(range(len(spans))), spans, strict=True):
        program += [
            (_LOAD, 0, 0, _IP + 4),
            (_JEQ, 0, 4, first >> 32),
            (_LOAD, 0, 0, _IP),
            (_JGE, 0, 2, first & _WORD),
            (_JGT, 1, 0, last & _WORD),
            (_JA, 0, 0, 6 * remaining + 1),
        ]
    head = linux.BPF_INSTRUCTION * len(_HEAD)
    return filter_[:head] + _encoded([*program, (_RET, 0, 0, linux.SECCOMP_RET_ALLOW)]) + filter_[head:]


@lru_cache(64)
def weight(filter_: bytes) -> int:
    """Return how much a filter counts towards the kernel's limit for all filters of a task, in instructions of the internal
    form that the kernel translates it into (net/core/filter.c)."""
    total = _EXTRA_WEIGHT
    for code, if_true, if_false, k in struct.iter_unpack("=HBBI", filter_):
        total += 1
        if code == _RET:
            total += 1
        elif code in (_JEQ, _JGT, _JGE):
            total += bool(if_true and if_false) + (k >> 31)
    return total


# Which known calls may run

_STOPPING: Final = (*linux.OPAQUE, "ptrace", "sched_getaffinity", "sched_setaffinity", "sched_setattr", "seccomp", "")
"""Calls that always stop."""
_FLAGS: Final = {"open": 1, "openat": 2}
"""Which argument of a call that opens files has the flags."""
_FAST_OPEN: Final = {"sendto": 3, "sendmsg": 2, "sendmmsg": 3}
"""Which argument of a call that sends has MSG_*."""


def may_allow(key: Key, *, opens: bool, writes: bool) -> bool:
    """Return whether the recorded native calls of a key may run without a stop.  `opens`: opening a file for reading may, too,
    although the file may show affinities (`SharedProcessor`).  `writes`: calls that can write to a terminal may, too."""
    name = key.name
    if name in _STOPPING:
        return False
    if name == "clone":
        return not key.argument(0) & linux.CLONE_UNTRACED
    if name in _FAST_OPEN:
        return not key.argument(_FAST_OPEN[name]) & linux.MSG_FASTOPEN  # it connects
    if name == "socket":  # whose ports Landlock does not see
        is_tcp = key.argument(0) & _WORD in linux.TCP_FAMILIES or key.argument(2) & _WORD in linux.TCP_PROTOCOLS
        return not is_tcp
    if name == "prctl":
        return key.argument(0) & _WORD not in (linux.PR_GET_SECCOMP, linux.PR_SET_SECCOMP)
    return (opens or not opens_for_reading(key)) and (writes or not may_write(key))


def opens_for_reading(key: Key) -> bool:
    """Return whether the calls of a key open a file whose content can then be read."""
    return key.name in _FLAGS and is_readable(key.argument(_FLAGS[key.name]))


def may_write(key: Key) -> bool:
    """Return whether the calls of a key can write to a terminal."""
    return key.name in WRITES


def installs_filter(event: Event) -> bool:
    """Return whether a call of the native architecture requests seccomp for its task: a filter, or strict mode."""
    name, option = Key(0, event.number).name, event.arguments[0] & _WORD
    return (name == "prctl" and option == linux.PR_SET_SECCOMP) or (name == "seccomp" and option in SET_MODE)


# Code: where it is, and what may bring more

_NEAR: Final = 1 << 28
"""Bytes before and between pieces of code that belong to the same span: the libraries of a program lie side by side, and each
further one is put before those that are there (Documentation/arch/x86/x86_64/mm.rst; mmap_base)."""
_MAX_SPANS: Final = 16
"""The most spans with which it is worth comparing the address of each call."""
_FIXED: Final = 0x10 | 0x100000  # MAP_FIXED, MAP_FIXED_NOREPLACE: linux/mman.h
_PROT_EXEC: Final = 4  # asm-generic/mman-common.h
_SHM_EXEC: Final = 0o100000  # linux/shm.h
_QUERY: Final = 0xFFFFFFFF
"""The argument of personality(2) that changes nothing."""
_MAP_VDSO: Final = range(0x2001, 0x2004)
"""Options of arch_prctl(2) that map code (asm/prctl.h)."""
_CODE_BITS: Final = {**dict.fromkeys(("mmap", "mprotect", "pkey_mprotect"), (2, _PROT_EXEC)), "shmat": (2, _SHM_EXEC)}
"""The argument, and its bit, that makes memory code."""
BRINGS_CODE: Final = (
    *_CODE_BITS, "mremap", "personality", "remap_file_pages", "arch_prctl", "modify_ldt", "uselib", "mmap2", "ipc"
)  # fmt: skip
"""The calls that may bring code, of all architectures."""


def mappings(pid: int) -> list[Mapped]:
    """Return the mappings of a process; an empty list if they cannot be read."""
    try:
        return Maps.of(pid).all()
    except OSError:
        return []


def code_spans(pid: int) -> Spans:
    """Return the address ranges that have the code of a process now, or may have it later; the vsyscall page is left out.

    The result is empty if the ranges are not known, are too many to be worth comparing, or include a stack or heap, which can
    grow unnoticed."""
    joined: list[list[int]] = []
    for mapped in mappings(pid):
        start, end, name = mapped.start, mapped.end, mapped.file[2]
        if mapped.permissions[2] != "x" or name == "[vsyscall]":
            continue
        if name in ("[stack]", "[heap]"):
            return ()
        if joined and start - joined[-1][1] < _NEAR:
            joined[-1][1] = end
        else:
            joined.append([max(start - _NEAR, 0), end])
    spans: list[tuple[int, int]] = []
    for start, end in joined:
        while start >> 32 != end >> 32:
            spans.append((start, start | _WORD))
            start = (start | _WORD) + 1
        spans.append((start, end))
    return spans if len(spans) <= _MAX_SPANS else ()


def brings_code(event: Event, code: Spans, pid: int) -> bool:
    """Return whether a call may give the process `pid` code outside of the address ranges `code`.  Always True for
    calls that are not native; the caller asks only about calls in BRINGS_CODE."""
    if event.arch != NATIVE.audit:
        return True
    name, (start, length, *_, flags, _, _) = Key(0, event.number).name, event.arguments
    if name == "personality":
        return start & _QUERY != _QUERY
    if name == "arch_prctl":
        return start & _WORD in _MAP_VDSO
    if name == "mremap":
        end = start + length
        return any(mapped.permissions[2] == "x" and mapped.start < end and start < mapped.end for mapped in mappings(pid))
    index, bit = _CODE_BITS.get(name, (0, 0))
    if bit and not event.arguments[index] & bit:
        return False
    is_placed = name in ("mprotect", "pkey_mprotect") or (name == "mmap" and flags & _FIXED)
    return not (is_placed and any(first <= start and start + length <= last for first, last in code))


def may_bring_code(key: Key) -> bool:
    """Return whether calls of a key may give a process more code, wherever it is."""
    name = key.name
    if name == "arch_prctl" and key.mask >> 64 & _WORD == _WORD:
        return key.argument(0) & _WORD in _MAP_VDSO
    index, bit = _CODE_BITS.get(name, (0, 0))
    return name in BRINGS_CODE and not (bit and key.mask >> 64 * (index + 1) & bit and not key.argument(index) & bit)
