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
    from collections.abc import Iterable, Iterator, Sequence

_LOAD, _AND, _JEQ, _JGT, _JGE, _RET, _JA = 0x20, 0x54, 0x15, 0x25, 0x35, linux.BPF_RET_K, linux.BPF_JA  # linux/bpf_common.h
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
_BESIDE: Final = 4
"""Numbers that are compared one after the other."""
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
_HEAD: Final = ((_LOAD, 0, 0, _ARCH), (_JEQ, 1, 0, Arch.X86_64.audit), (_RET, 0, 0, RET_RECORD))
"""Stops the calls of other architectures."""


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


def free_filter(keys: Iterable[Key]) -> bytes:
    """Return a filter that lets exactly these calls of x86_64 run, as far as there is ROOM.

    The first keys of a number are compared first, so they should be those of the most calls."""
    bodies: dict[int, list[_Instruction]] = {}
    length = len(_HEAD) + 2
    for key in keys:
        comparison = _comparison(key)
        length += len(comparison) + (0 if key.number in bodies else 5)
        if length > ROOM:
            break
        bodies.setdefault(key.number, []).extend(comparison)
    return _encoded([*_HEAD, (_LOAD, 0, 0, 0), *_choice(sorted(bodies.items()))])


def _choice(bodies: Sequence[tuple[int, list[_Instruction]]]) -> list[_Instruction]:
    """Instructions that go to the body for the number that was loaded.

    A tree, since the kernel follows a new filter for each number of its table (seccomp_cache_prepare): that takes more time
    than all else in its installation."""
    if len(bodies) > _BESIDE:
        middle = len(bodies) // 2
        less, rest = _choice(bodies[:middle]), _choice(bodies[middle:])
        return [(_JGE, 0, 1, bodies[middle][0]), (_JA, 0, 0, len(less)), *less, *rest]
    program: list[_Instruction] = []
    for number, body in bodies:
        program += [(_JEQ, 1, 0, number), (_JA, 0, 0, len(body) + 1), *body, (_RET, 0, 0, RET_RECORD)]
    return [*program, (_RET, 0, 0, RET_RECORD)]


def for_calls_within(spans: Iterable[tuple[int, int]], filter_: bytes) -> bytes:
    """`filter_`, for calls of x86_64 by instructions at these addresses; it lets all calls by others run.

    `spans`: the first and the last address of each, in the same 4 GiB."""
    tests = [
        (
            (_LOAD, 0, 0, _IP + 4),
            (_JEQ, 0, 4, first >> 32),
            (_LOAD, 0, 0, _IP),
            (_JGE, 0, 2, first & _WORD),
            (_JGT, 1, 0, last & _WORD),
        )
        for first, last in spans
    ]
    left = [(len(test) + 1) * (len(tests) - index) - len(test) for index, test in enumerate(tests)]
    program = [one for test, more in zip(tests, left, strict=True) for one in (*test, (_JA, 0, 0, more))]
    head = linux.BPF_INSTRUCTION * len(_HEAD)
    return filter_[:head] + _encoded([*program, (_RET, 0, 0, linux.SECCOMP_RET_ALLOW)]) + filter_[head:]


@lru_cache(64)
def weight(filter_: bytes) -> int:
    """What the kernel counts of a filter: its own instructions, into which it translates them (net/core/filter.c)."""
    total = _EACH
    for code, if_true, if_false, k in struct.iter_unpack("=HBBI", filter_):
        total += 1
        if code == _RET:
            total += 1
        elif code in (_JEQ, _JGT, _JGE):
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
