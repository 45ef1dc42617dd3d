"""The filters of a program that is learned with the late filter: what stops for the tracer, and what runs."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from tracer import linux
from tracer.abi import Arch
from tracer.kernel import RET_RECORD
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LOAD, _AND, _JEQ, _JGE, _RET, _JA = 0x20, 0x54, 0x15, 0x35, linux.BPF_RET_K, linux.BPF_JA  # linux/bpf_common.h
_ARCH, _IP, _ARGUMENTS = 4, 8, 16
"""Offsets in struct seccomp_data (linux/seccomp.h); the number is at 0."""
_VSYSCALL: Final = 0xFFFFFFFF_FF600000
"""The vsyscall page, the last one that user code can jump to (asm/vsyscall.h, VSYSCALL_ADDR)."""
_WORD = 0xFFFFFFFF
_FIRST: Final = (1 << 64) - 1 << 64
"""The first argument's register in a key."""
ROOM: Final = 2000
"""Most instructions of a filter."""
CHAIN: Final = 16384
"""Most that our filters of a task may weigh together: half of what the kernel allows, MAX_INSNS_PER_PATH (kernel/seccomp.c)."""
_EACH: Final = 3 + 4
"""What a filter weighs besides its instructions: what bpf_convert_filter begins with, and a penalty for each filter."""

_Instruction = tuple[int, int, int, int]


def _encoded(program: Iterable[_Instruction]) -> bytes:
    return b"".join(struct.pack("=HBBI", *one) for one in program)


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
"""Stops the calls that PTRACE_SYSCALL does not show: those through the vsyscall page."""


class Key(NamedTuple):
    """The calls whose number and registers have this value under this mask (`tally.Recorder`: `raw`)."""

    mask: int
    value: int

    @property
    def number(self) -> int:
        return self.value & _WORD

    def argument(self, index: int) -> int:
        """A register, where the mask has it; its other bits are 0."""
        return self.value >> 64 * (index + 1) & (1 << 64) - 1

    def with_first(self, registers: Iterable[int]) -> Iterator[Key]:
        """Those of its calls whose first register (64 bits) is one of these: a key for each."""
        for register in registers:
            if not (self.value ^ register << 64) & self.mask & _FIRST:
                yield Key(self.mask | _FIRST, self.value | register << 64)


class Free:
    """What the late filters of a task let run; equal only to itself."""

    __slots__ = ("keys",)

    def __init__(self, keys: Iterable[Key]) -> None:
        self.keys = frozenset(keys)


def free_filter(keys: Iterable[Key]) -> tuple[bytes, Free]:
    """Return a filter that lets exactly these calls of x86_64 run, as far as there is ROOM, and what it lets run.

    The first keys are compared first, so they should be those of the most calls."""
    bodies: dict[int, list[_Instruction]] = {}
    length, taken = 4, []
    for key in keys:
        comparison = _comparison(key)
        length += len(comparison) + (0 if key.number in bodies else 3)
        if length > ROOM:
            break
        bodies.setdefault(key.number, []).extend(comparison)
        taken.append(key)
    program: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_JEQ, 1, 0, Arch.X86_64.audit),
        (_RET, 0, 0, RET_RECORD),
        (_LOAD, 0, 0, 0),
    ]
    for number, body in bodies.items():
        program += [(_JEQ, 1, 0, number), (_JA, 0, 0, len(body) + 1), *body, (_RET, 0, 0, RET_RECORD)]
    program.append((_RET, 0, 0, RET_RECORD))
    return _encoded(program), Free(taken)


@lru_cache(64)
def weight(filter_: bytes) -> int:
    """What the kernel counts of a filter: its own instructions, into which it translates them (net/core/filter.c)."""
    total = _EACH
    for code, if_true, if_false, k in struct.iter_unpack("=HBBI", filter_):
        total += 1
        if code == _RET:
            total += 1
        elif code in (_JEQ, _JGE):
            total += bool(if_true and if_false) + (k >> 31)
    return total


def _comparison(key: Key) -> list[_Instruction]:
    """Instructions that return ALLOW if the registers have the key's values, and fall through to the next ones if not."""
    program: list[_Instruction] = [(_RET, 0, 0, linux.SECCOMP_RET_ALLOW)]
    for half in reversed(range(12)):  # from the last, since each jumps over those after it
        mask, value = (word >> 32 * (half + 2) & _WORD for word in key)
        if mask:
            test = (_JEQ, 0, len(program), value)
            reduce = [(_AND, 0, 0, mask)] if mask != _WORD else []
            program = [(_LOAD, 0, 0, _ARGUMENTS + 4 * half), *reduce, test, *program]
    return program
