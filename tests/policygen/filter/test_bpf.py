"""Classic BPF: what the kernel loads, what it computes, and how both are written."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest
from calls import event
from filters import random_program
from strategies import EXAMPLES

from callfence.policygen.filter import bpf
from callfence.policygen.filter.bpf import Instruction
from callfence.policygen.model import ALLOW, ENOSYS, KILL, Action, ActionKind
from callfence.tracer.abi import Event

if TYPE_CHECKING:
    from probe import Probe

ALLOWED = Instruction(bpf.RET | bpf.K, k=0x7FFF0000)
GETPPID = 110  # takes no argument: all six registers are the filter's alone


REFUSED = [
    ("no instruction", []),
    ("too many", [Instruction(bpf.LD | bpf.IMM)] * 4096 + [ALLOWED]),
    ("no return at the end", [ALLOWED, Instruction(bpf.LD | bpf.IMM)]),
    ("load of a byte", [Instruction(0x30, k=0), ALLOWED]),
    ("load of half a word", [Instruction(0x28, k=0), ALLOWED]),
    ("load from an index", [Instruction(0x40, k=0), ALLOWED]),
    ("load between words", [Instruction(bpf.LD | bpf.ABS, k=2), ALLOWED]),
    ("load beyond the data", [Instruction(bpf.LD | bpf.ABS, k=64), ALLOWED]),
    ("modulo", [Instruction(0x94, k=3), ALLOWED]),
    ("division by zero", [Instruction(bpf.ALU | bpf.DIV | bpf.K, k=0), ALLOWED]),
    ("shift by the width", [Instruction(bpf.ALU | bpf.LSH | bpf.K, k=32), ALLOWED]),
    ("shift to the right by the width", [Instruction(bpf.ALU | bpf.RSH | bpf.K, k=32), ALLOWED]),
    ("jump to the end", [Instruction(bpf.JMP | bpf.JA, k=1), ALLOWED]),
    ("jump that wraps", [Instruction(bpf.JMP | bpf.JA, k=0xFFFFFFFF), ALLOWED]),
    ("true branch to the end", [Instruction(bpf.JMP | bpf.JEQ | bpf.K, 1, 0, 0), ALLOWED]),
    ("false branch to the end", [Instruction(bpf.JMP | bpf.JEQ | bpf.K, 0, 1, 0), ALLOWED]),
    ("no such scratch word", [Instruction(bpf.ST, k=16), ALLOWED]),
    ("scratch word not written", [Instruction(bpf.LD | bpf.MEM, k=1), ALLOWED]),
    (
        "scratch word written on one path only",
        [
            Instruction(bpf.JMP | bpf.JEQ | bpf.K, 0, 1, 0),
            Instruction(bpf.ST, k=1),
            Instruction(bpf.LD | bpf.MEM, k=1),
            ALLOWED,
        ],
    ),
    (
        "scratch word written on the other path only",
        [
            Instruction(bpf.JMP | bpf.JEQ | bpf.K, 1, 0, 0),
            Instruction(bpf.ST, k=1),
            Instruction(bpf.LD | bpf.MEM, k=1),
            ALLOWED,
        ],
    ),
    (
        "scratch word whose write is passed over",
        [Instruction(bpf.JMP | bpf.JA, k=1), Instruction(bpf.ST, k=1), Instruction(bpf.LD | bpf.MEM, k=1), ALLOWED],
    ),
    ("opcode beyond 8 bits", [Instruction(0x106, k=0x7FFF0000)]),
]
TAKEN = [
    ("the largest", [Instruction(bpf.LD | bpf.IMM)] * 4095 + [ALLOWED]),
    ("length of the data", [Instruction(bpf.LD | bpf.LEN), Instruction(bpf.LDX | bpf.LEN), ALLOWED]),
    ("fields that are not used", [Instruction(bpf.LD | bpf.ABS, 200, 200, 60), ALLOWED]),
    ("return of the accumulator", [Instruction(bpf.LD | bpf.IMM, k=0x7FFF0000), Instruction(bpf.RET | bpf.A)]),
    (
        "scratch word written on both paths",
        [
            Instruction(bpf.JMP | bpf.JEQ | bpf.K, 0, 2, 0),
            Instruction(bpf.ST, k=1),
            Instruction(bpf.JMP | bpf.JA, k=1),
            Instruction(bpf.STX, k=1),
            Instruction(bpf.LD | bpf.MEM, k=1),
            ALLOWED,
        ],
    ),
]


@pytest.mark.parametrize(("name", "instructions"), REFUSED, ids=[name for name, _ in REFUSED])
def test_programs_that_the_kernel_refuses(name: str, instructions: list[Instruction], probe: Probe) -> None:
    program = bpf.encode(instructions)
    with pytest.raises(bpf.InvalidProgramError):
        bpf.decode(program)
    [[outcome]] = probe.run([(program, [event(GETPPID)])])
    assert outcome.error == 22  # EINVAL


@pytest.mark.parametrize(("name", "instructions"), TAKEN, ids=[name for name, _ in TAKEN])
def test_programs_that_the_kernel_loads(name: str, instructions: list[Instruction], probe: Probe) -> None:
    program = bpf.encode(instructions)
    assert bpf.decode(program) == tuple(instructions)
    [[outcome]] = probe.run([(program, [event(GETPPID)])])
    assert (outcome.error, outcome.returned) == (0, True)


def test_not_a_whole_number_of_instructions() -> None:
    with pytest.raises(bpf.InvalidProgramError, match="12 bytes"):
        bpf.decode(bpf.encode([ALLOWED]) + b"abcd")


def test_the_kernel_computes_the_same(probe: Probe) -> None:
    """Random programs of every opcode, whose accumulator is returned as an errno, 12 bits at a time."""
    source = random.Random(1)
    jobs = []
    for _ in range(2 * EXAMPLES):
        body = random_program(source, 12)
        for shift in (0, 12, 24):
            show = [
                Instruction(bpf.ALU | bpf.RSH | bpf.K, k=shift),
                Instruction(bpf.ALU | bpf.AND | bpf.K, k=0x7FF),
                Instruction(bpf.ALU | bpf.OR | bpf.K, k=0x50800),
                Instruction(bpf.RET | bpf.A),
            ]
            events = [event(GETPPID, *(source.choice([0, 1, 31, source.getrandbits(64)]) for _ in range(6))) for _ in range(2)]
            jobs.append((bpf.encode([*body, *show]), events))
    for (program, events), outcomes in zip(jobs, probe.run(jobs), strict=True):
        for one, outcome in zip(events, outcomes, strict=True):
            ret = bpf.run(program, one)
            assert outcome.error == 0
            if ret == bpf.KILL_THREAD:  # division by zero
                assert not outcome.returned, bpf.disassemble(program)
            else:
                assert outcome.result == -bpf.action(ret).errno, bpf.disassemble(program)


@pytest.mark.parametrize(
    ("ret", "action"),
    [
        (0x7FFF0000, ALLOW),
        (0x7FFF1234, ALLOW),
        (0x80000000, KILL),
        (0x00050026, ENOSYS),
        (0x0005FFFF, Action(ActionKind.ERRNO, 4095)),
        (0x00030000, Action(ActionKind.TRAP)),
        (0x7FFC0000, Action(ActionKind.LOG)),
        (0x7FC00000, Action(ActionKind.NOTIFY)),
        (0x12340000, KILL),
        (0xFFFFFFFF, KILL),
    ],
)
def test_return_values(ret: int, action: Action, probe: Probe) -> None:
    assert bpf.action(ret) == action
    probe.agrees(bpf.encode([Instruction(bpf.RET | bpf.K, k=ret)]), [(event(GETPPID), action)])


@pytest.mark.parametrize("kind", list(ActionKind))
def test_return_value_of_an_action(kind: ActionKind) -> None:
    action = Action(kind, 11 if kind is ActionKind.ERRNO else 0)
    assert bpf.action(bpf.ret(action)) == action


@pytest.mark.parametrize("ret", [0x00000000, 0x00000007, 0x7FF00001, 0x00050000])
def test_return_values_without_action(ret: int) -> None:
    with pytest.raises(ValueError, match=r"not an action|errno 0"):
        bpf.action(ret)


def test_words_are_those_of_the_kernel() -> None:
    one = Event(0xC000003E, 0xFFFFFFFF, (1, 2 << 32, 3, 4, 5, (6 << 32) + 7), (8 << 32) + 9)
    memory = struct.pack("<II7Q", one.number, one.arch, one.ip, *one.arguments)
    assert bpf.words(one) == struct.unpack("<16I", memory)


def test_disassembly() -> None:
    program = bpf.encode(
        [
            Instruction(bpf.LD | bpf.ABS, k=4),
            Instruction(bpf.JMP | bpf.JEQ | bpf.K, 0, 7, 0xC000003E),
            Instruction(bpf.LD | bpf.ABS, k=28),
            Instruction(bpf.ALU | bpf.AND | bpf.K, k=0xFF),
            Instruction(bpf.MISC | bpf.TAX),
            Instruction(bpf.STX, k=3),
            Instruction(bpf.LD | bpf.MEM, k=3),
            Instruction(bpf.JMP | bpf.JSET | bpf.X, 0, 1),
            Instruction(bpf.RET | bpf.K, k=0x50001),
            Instruction(bpf.RET | bpf.K, k=0),
            Instruction(bpf.LDX | bpf.IMM, k=5),
            Instruction(bpf.ST, k=2),
            Instruction(bpf.ALU | bpf.NEG),
            Instruction(bpf.MISC | bpf.TXA),
            Instruction(bpf.JMP | bpf.JA, k=1),
            Instruction(bpf.LD | bpf.LEN),
            Instruction(bpf.RET | bpf.A),
        ]
    )
    assert bpf.disassemble(program).splitlines() == [
        "   0: ld arch",
        "   1: jeq 0xc000003e, 2, 9",
        "   2: ld args[1].high",
        "   3: and 0xff",
        "   4: tax",
        "   5: stx m[3]",
        "   6: ld m[3]",
        "   7: jset x, 8, 9",
        "   8: ret errno 1",
        "   9: ret 0x00000000",
        "  10: ldx 0x5",
        "  11: st m[2]",
        "  12: neg",
        "  13: txa",
        "  14: ja 16",
        "  15: ld len",
        "  16: ret a",
    ]
