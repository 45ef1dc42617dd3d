"""The calls that the helper makes in the program, which a filter of ours knows by a secret and lets run, whatever the policy.

A filter sees the registers of a call, also those that the call does not use.  The helper puts random words into these, so a
process can be given the filter of a phase though its own filter denies seccomp(2), and no answer of the helper is needed.
Who may look into a stopped thread of the program sees the words (/proc/TID/syscall).  They are worth little: filters only
take away, the memory that can be mapped is not executable, and close_range(2) closes what the program may close as well.
"""

from __future__ import annotations

import os

from enforcer.arming.inject import COMPAT, LONG
from enforcer.bpf import ARCH, ARGUMENTS, EQUAL, JUMP, LOAD, NUMBER, RETURN, assembled
from tracer import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from enforcer.arming.inject import Convention
    from enforcer.bpf import Line

PROT_READ, PROT_WRITE, MAP_SHARED_ANONYMOUS = 1, 2, 0x21  # asm-generic/mman-common.h, linux/mman.h
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
                lines += [f"mprotect {arch}", *_equal(2, PROT_READ)]
            else:
                lines.append((JUMP, "end"))
            lines.append(f"spare {arch}")
            for argument, word in zip(_SPARE, words, strict=True):
                lines += _equal(argument, word)
            lines.append((JUMP, "pass"))
            if installs:
                lines += [f"mmap {arch}", *_equal(2, PROT_READ | PROT_WRITE), *_equal(3, MAP_SHARED_ANONYMOUS)]
                lines += [*_equal(_DESCRIPTOR, words[0]), (JUMP, "pass")]
            lines.append(f"not {arch}")
        return assembled([*lines, (JUMP, "end"), "pass", (RETURN, linux.SECCOMP_RET_ALLOW), "end"]) + filter_


def _equal(argument: int, value: int) -> list[Line]:
    """Go on only if an argument has that value, 64 bits."""
    low, high = value & 0xFFFFFFFF, value >> 32
    place = ARGUMENTS + 8 * argument
    return [(LOAD, place), (EQUAL, low, "", "end"), (LOAD, place + 4), (EQUAL, high, "", "end")]
