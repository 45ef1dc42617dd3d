"""Filters that are not made by `compile_policy`: random ones, and one written by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from callfence.policygen.filter import bpf
from callfence.policygen.filter.bpf import Instruction
from callfence.tracer.abi import X32_BIT, Arch, table

if TYPE_CHECKING:
    import random

CODES = sorted(bpf.OPCODES - {bpf.RET | bpf.K, bpf.RET | bpf.A})


def random_program(source: random.Random, length: int, codes: list[int] = CODES) -> list[Instruction]:
    """A valid program of such opcodes, without a return."""
    instructions: list[Instruction] = []
    # words are written first, so that a read on any path is of a written one
    for word in range(3):
        instructions += [Instruction(bpf.LD | bpf.ABS, k=4 * source.randrange(4, 16)), Instruction(bpf.ST, k=word)]
    instructions += [
        Instruction(bpf.LD | bpf.ABS, k=4 * source.randrange(4, 16)),
        Instruction(bpf.MISC | bpf.TAX),
        Instruction(bpf.LD | bpf.ABS, k=4 * source.randrange(4, 16)),
    ]
    for left in range(length, 0, -1):
        code = source.choice(codes)
        k = source.choice([0, 1, 3, 31, 0x80000000, 0xFFFFFFFF, source.getrandbits(32)])
        jt = jf = 0
        if code == bpf.LD | bpf.ABS:
            k = 4 * source.choice([0, 1, *range(4, 16)])  # not the instruction pointer, which no caller chooses
        elif code in (bpf.LD | bpf.MEM, bpf.LDX | bpf.MEM, bpf.ST, bpf.STX):
            k = source.randrange(3)
        elif code in (bpf.ALU | bpf.LSH | bpf.K, bpf.ALU | bpf.RSH | bpf.K):
            k &= 31
        elif code == bpf.ALU | bpf.DIV | bpf.K:
            k = k or 7
        elif code == bpf.JMP | bpf.JA:
            k = source.randrange(left)
        elif code & 7 == bpf.JMP:
            jt, jf = source.randrange(left), source.randrange(left)
        instructions.append(Instruction(code, jt, jf, k))
    return instructions


DUP = 32


def dup_filter(
    *comparison: Instruction, x32: int = bpf.KILL_PROCESS, foreign: int = bpf.KILL_PROCESS, unknown: int = 0x50026
) -> bytes:
    """A filter written by hand for `dup: fildes == 7`, x86_64, default kill."""
    newest = table(Arch.X86_64).newest((6, 18))
    start = [
        Instruction(bpf.LD | bpf.ABS, k=4),
        Instruction(bpf.JMP | bpf.JEQ | bpf.K, 1, 0, Arch.X86_64.audit),
        Instruction(bpf.RET | bpf.K, k=foreign),
        Instruction(bpf.LD | bpf.ABS, k=0),
        Instruction(bpf.JMP | bpf.JGT | bpf.K, 0, 4, newest),
        Instruction(bpf.JMP | bpf.JSET | bpf.K, 1, 0, 0x80000000),
        Instruction(bpf.JMP | bpf.JSET | bpf.K, 1, 0, X32_BIT),
        Instruction(bpf.RET | bpf.K, k=unknown),
        Instruction(bpf.RET | bpf.K, k=x32),
        Instruction(bpf.JMP | bpf.JEQ | bpf.K, 0, len(comparison), DUP),
    ]
    ends = [Instruction(bpf.RET | bpf.K, k=bpf.KILL_PROCESS), Instruction(bpf.RET | bpf.K, k=0x7FFF0000)]
    return bpf.encode([*start, *comparison, *ends])


LOW, HIGH = Instruction(bpf.LD | bpf.ABS, k=16), Instruction(bpf.LD | bpf.ABS, k=20)
IS_7 = Instruction(bpf.JMP | bpf.JEQ | bpf.K, 1, 0, 7)
