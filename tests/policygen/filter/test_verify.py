"""The proof: it follows any program, refutes wrong filters with a call, and z3 comes to the same verdict."""

from __future__ import annotations

import random
from collections.abc import Callable

import oracle
import pytest
import strategies
from calls import at, event, point_of
from filters import CODES, HIGH, IS_7, LOW, dup_filter, random_program
from hypothesis import HealthCheck, given, settings
from strategies import EXAMPLES

from callfence.policygen.evaluate import evaluate
from callfence.policygen.filter import bpf, libseccomp, symbolic
from callfence.policygen.filter.bpf import Instruction
from callfence.policygen.filter.compile import CompileError, compile_policy
from callfence.policygen.filter.symbolic import UnsupportedError
from callfence.policygen.filter.verify import verify
from callfence.policygen.model import ALLOW, KILL, Action, ActionKind, And, Condition, Entry, Expression, Operator, Or, Policy
from callfence.policygen.sets.algebra import Space, TooComplexError
from callfence.policygen.sets.region import BITS
from callfence.policygen.values import replace
from callfence.tracer.abi import X32_BIT, Arch, Event, table

EPERM = Action(ActionKind.ERRNO, 1)
GETPPID = 110


def errno(number: int) -> Instruction:
    return Instruction(bpf.RET | bpf.K, k=bpf.ret(Action(ActionKind.ERRNO, number)))


FOLLOWED = [
    code
    for code in CODES
    if code & 7 != bpf.ALU
    or (code & 0xF0 not in (bpf.MUL, bpf.DIV) and code not in (bpf.ALU | bpf.LSH | bpf.X, bpf.ALU | bpf.RSH | bpf.X))
]


def test_random_programs_are_followed_exactly() -> None:
    """The function of the symbolic execution is what the interpreter returns, on programs of nearly every opcode."""
    source = random.Random(2)
    followed = 0
    for _ in range(10 * EXAMPLES):
        compared = Instruction(bpf.JMP | bpf.JGT | bpf.K, 0, 1, source.choice([0, 31, 1 << 31, source.getrandbits(32)]))
        program = bpf.encode([*random_program(source, 10, FOLLOWED), compared, errno(1), errno(2)])
        space = Space(BITS, limit=20_000)
        try:
            function = symbolic.function(space, program)
        except TooComplexError:  # sums of words that are far apart
            continue
        followed += 1
        for _ in range(20):
            words = [source.choice([0, 1, 31, 1 << 31, source.getrandbits(32)]) for _ in range(12)]
            one = event(GETPPID, *(low | high << 32 for low, high in zip(words[:6], words[6:], strict=True)))
            assert space.value(at(space, function, point_of(one))) == symbolic.meaning(bpf.run(program, one))
    assert followed > 4 * EXAMPLES


@pytest.mark.parametrize(
    "body",
    [
        [Instruction(bpf.LD | bpf.IMM, k=2), Instruction(bpf.ALU | bpf.MUL | bpf.K, k=7)],
        [Instruction(bpf.LD | bpf.IMM, k=100), Instruction(bpf.LDX | bpf.IMM, k=7), Instruction(bpf.ALU | bpf.DIV | bpf.X)],
        [Instruction(bpf.LDX | bpf.IMM, k=33), Instruction(bpf.ALU | bpf.LSH | bpf.X)],
        [Instruction(bpf.LDX | bpf.IMM, k=33), Instruction(bpf.ALU | bpf.RSH | bpf.X)],
    ],
    ids=["product", "quotient", "left by more than the width", "right by more than the width"],
)
def test_what_is_computed_with_constants_is_followed(body: list[Instruction]) -> None:
    load, test = Instruction(bpf.LD | bpf.ABS, k=16), Instruction(bpf.JMP | bpf.JEQ | bpf.K, 0, 1, 14)
    program, space = bpf.encode([load, *body, test, errno(1), errno(2)]), Space(BITS)
    function = symbolic.function(space, program)
    for one in (event(GETPPID, word) for word in (0, 7, 14, 28, 1 << 31, bpf.WORD)):
        assert space.value(at(space, function, point_of(one))) == bpf.run(program, one)


@pytest.mark.parametrize(
    "body",
    [
        [Instruction(bpf.ALU | bpf.MUL | bpf.K, k=3)],
        [Instruction(bpf.ALU | bpf.DIV | bpf.K, k=3)],
        [Instruction(bpf.LDX | bpf.IMM, k=0), Instruction(bpf.ALU | bpf.DIV | bpf.X)],
        [Instruction(bpf.MISC | bpf.TAX), Instruction(bpf.ALU | bpf.RSH | bpf.X)],
    ],
    ids=["product", "quotient", "division by zero", "shift by the input"],
)
def test_what_cannot_be_followed_is_not_judged(body: list[Instruction]) -> None:
    load, test = Instruction(bpf.LD | bpf.ABS, k=16), Instruction(bpf.JMP | bpf.JEQ | bpf.K, 0, 1, 6)
    with pytest.raises(UnsupportedError):
        verify(bpf.encode([load, *body, test, errno(1), errno(2)]), Policy({}))


def test_a_program_that_counts_along_its_paths_is_not_judged() -> None:
    count = [
        instruction
        for bit in range(20)
        for instruction in (
            Instruction(bpf.LD | bpf.ABS, k=16),
            Instruction(bpf.JMP | bpf.JSET | bpf.K, 0, 3, 1 << bit),
            Instruction(bpf.LD | bpf.MEM, k=0),
            Instruction(bpf.ALU | bpf.ADD | bpf.K, k=3**bit),
            Instruction(bpf.ST, k=0),
        )
    ]
    ends = [Instruction(bpf.LD | bpf.MEM, k=0), Instruction(bpf.JMP | bpf.JEQ | bpf.K, 0, 1, 7), errno(1), errno(2)]
    with pytest.raises(TooComplexError, match="states"):
        verify(bpf.encode([Instruction(bpf.ST, k=0), *count, *ends]), Policy({}))


def test_a_return_value_from_the_input_is_not_judged() -> None:
    program = bpf.encode([Instruction(bpf.LD | bpf.ABS, k=16), Instruction(bpf.RET | bpf.A)])
    with pytest.raises(UnsupportedError):
        verify(program, Policy({}))


def test_a_program_that_the_kernel_would_refuse_is_not_judged() -> None:
    with pytest.raises(bpf.InvalidProgramError):
        verify(b"", Policy({}))


LSEEK, DUP, MREMAP = 8, 32, 25
DUP_7 = Policy({Arch.X86_64: {DUP: Entry(Condition(0, Operator.EQ, 7))}})


def test_a_right_filter_written_by_hand_is_accepted() -> None:
    assert verify(dup_filter(LOW, IS_7), DUP_7) is None


WRONG: list[tuple[str, bytes, Callable[[Event], bool]]] = [
    (
        "garbage in the upper half is refused",
        dup_filter(HIGH, Instruction(bpf.JMP | bpf.JEQ | bpf.K, 0, 2, 0), LOW, IS_7),
        lambda one: one.arguments[0] >> 32 != 0 and one.arguments[0] & bpf.WORD == 7,
    ),
    (
        "the other half is compared",
        dup_filter(HIGH, IS_7),
        lambda one: one.number == DUP,
    ),
    (
        "only some bits are compared",
        dup_filter(LOW, Instruction(bpf.ALU | bpf.AND | bpf.K, k=0xFFFF), IS_7),
        lambda one: one.arguments[0] & bpf.WORD != 7 and one.arguments[0] & 0xFFFF == 7,
    ),
    (
        "x32 calls are not told apart",
        dup_filter(LOW, IS_7, x32=0x50026),
        lambda one: one.arch == Arch.X86_64.audit and one.number & 0xC0000000 == X32_BIT,
    ),
    (
        "i386 calls are let through",
        dup_filter(LOW, IS_7, foreign=0x7FFF0000),
        lambda one: one.arch != Arch.X86_64.audit,
    ),
    (
        "a new call fails with EPERM",
        dup_filter(LOW, IS_7, unknown=0x50001),
        lambda one: one.number > table(Arch.X86_64).newest((6, 18)),
    ),
    (
        "the thread is killed, not the process",
        dup_filter(LOW, IS_7, foreign=bpf.KILL_THREAD),
        lambda one: one.arch != Arch.X86_64.audit,
    ),
    (
        "the call succeeds without being made",
        dup_filter(LOW, IS_7, foreign=0x50000),
        lambda one: one.arch != Arch.X86_64.audit,
    ),
]


@pytest.mark.parametrize(("name", "program", "shows"), WRONG, ids=[name for name, _, _ in WRONG])
def test_a_wrong_filter_is_refuted(name: str, program: bytes, shows: Callable[[Event], bool]) -> None:
    found = verify(program, DUP_7)
    assert found is not None
    assert shows(found)
    assert symbolic.meaning(bpf.run(program, found)) != bpf.ret(evaluate(DUP_7, found))


def test_a_handler_sees_the_datum_of_a_trap() -> None:
    trapping = replace(DUP_7, unknown=Action(ActionKind.TRAP))
    assert verify(dup_filter(LOW, IS_7, unknown=0x30000), trapping) is None
    assert verify(dup_filter(LOW, IS_7, unknown=0x30007), trapping) is not None


def test_a_sign_is_not_extended() -> None:
    """A filter that wants all 64 bits of -1 denies an `int` whose upper half the program left at 0."""
    policy = Policy({Arch.X86_64: {95: Entry(Condition(0, Operator.EQ, -1))}})  # umask(int)
    ones = Instruction(bpf.JMP | bpf.JEQ | bpf.K, 0, 2, bpf.WORD)
    program = dup_filter(HIGH, ones, LOW, Instruction(bpf.JMP | bpf.JEQ | bpf.K, 1, 0, bpf.WORD))
    instructions = [one._replace(k=95) if one.k == DUP else one for one in bpf.decode(program)]
    found = verify(bpf.encode(instructions), policy)
    assert found is not None
    assert found.arguments[0] & bpf.WORD == bpf.WORD
    assert found.arguments[0] >> 32 != bpf.WORD


def ordered(*comparisons: tuple[int, Operator, int]) -> Expression:
    return And(tuple(Condition(index, operator, value) for index, operator, value in comparisons))


GE, LE, LT, GT, EQ = Operator.GE, Operator.LE, Operator.LT, Operator.GT, Operator.EQ
MISCOMPILED = [
    ([((0, GE, 3), (2, GE, 4)), ((0, GE, 2), (1, LE, 0))], (2, 1, 4)),
    ([((0, GE, 0xFFFFFFFFFFFFFFF0),), ((0, LE, 1),)], (0xFFFFFFFF, 0, 0)),
    ([((0, LT, 6), (1, GT, 1)), ((0, GT, 3),)], (4, 1, 5)),
]
"""Rules over three 64-bit arguments that libseccomp miscompiles, and a call that shows it."""

Rules = list[tuple[tuple[int, Operator, int], ...]]


def mremap_policy(rules: Rules) -> Policy:
    entry = Entry(Or(tuple(ordered(*rule) for rule in rules)))
    return Policy({Arch.X86_64: {MREMAP: entry}}, unknown=KILL)


def handed_over_raw(rules: Rules, seconds: float = 20) -> bytes:
    """What libseccomp makes of rules with orderings."""
    pyseccomp = libseccomp.pyseccomp()

    def work() -> bytes:
        program = pyseccomp.SyscallFilter(pyseccomp.KILL_PROCESS)
        program.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
        for rule in rules:
            comparisons = [pyseccomp.Arg(i, getattr(pyseccomp, operator.name), value) for i, operator, value in rule]
            program.add_rule(pyseccomp.ALLOW, MREMAP, *comparisons)
        return libseccomp._exported(program)

    return libseccomp._in_child(work, seconds)


@pytest.mark.parametrize(("rules", "call"), MISCOMPILED)
def test_what_libseccomp_miscompiles(rules: Rules, call: tuple[int, int, int]) -> None:
    policy = mremap_policy(rules)
    shown = event(MREMAP, *call)
    raw = handed_over_raw(rules)
    assert bpf.action(bpf.run(raw, shown)) != evaluate(policy, shown)
    found = verify(raw, policy)
    assert found is not None
    assert bpf.action(bpf.run(raw, found)) != evaluate(policy, found)
    program = compile_policy(policy)
    assert bpf.action(bpf.run(program, shown)) == evaluate(policy, shown)
    assert verify(program, policy) is None


def test_what_libseccomp_hangs_on() -> None:
    rules: Rules = [((0, GT, 5), (1, LT, 7)), ((0, GT, 5), (1, EQ, 9))]
    with pytest.raises(libseccomp.LibseccompError, match="did not compile the policy within 1 s"):
        handed_over_raw(rules, seconds=1)
    assert verify(compile_policy(mremap_policy(rules)), mremap_policy(rules)) is None


def test_libseccomp_alone_is_accepted_where_it_is_right() -> None:
    rules: Rules = [((0, EQ, 5), (1, EQ, 7)), ((0, EQ, 6),)]
    assert verify(handed_over_raw(rules), mremap_policy(rules)) is None


@settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
@given(strategies.policies(max_entries=3))
def test_z3_agrees_on_random_policies(policy: Policy) -> None:
    try:
        program = compile_policy(policy)
    except CompileError as error:
        assert "instructions" in str(error) or "masked comparisons" in str(error)
        return
    assert verify(program, policy) is None
    assert oracle.difference(program, policy) is None


MUTATED = Policy(
    {
        Arch.X86_64: {
            0: Entry(Condition(0, Operator.EQ, 3)),
            1: Entry(Or((Condition(0, Operator.LE, 2), Condition(2, Operator.EQ, 1 << 40)))),
            9: Entry(And((Condition(2, Operator.IN, 3), Condition(3, Operator.HAS, 2))), otherwise=EPERM),
            32: Entry(Condition(0, Operator.NE, 0), EPERM),
            39: Entry(Or(()), otherwise=ALLOW),
        },
        Arch.I386: {4: Entry(Condition(0, Operator.ONE_OF, values=(1, 2, 7)))},
    }
)
CHANGED = [
    *(bpf.JMP | jump | bpf.K for jump in bpf.JUMPS),
    bpf.JMP | bpf.JA,
    *(bpf.ALU | operation | bpf.K for operation in (bpf.AND, bpf.OR, bpf.XOR, bpf.ADD, bpf.LSH)),
    bpf.LD | bpf.ABS,
    bpf.LD | bpf.IMM,
    bpf.RET | bpf.K,
    bpf.MISC | bpf.TXA,
]


def mutant(source: random.Random, program: tuple[Instruction, ...]) -> list[Instruction]:
    """The program with one field of one instruction changed."""
    instructions = list(program)
    place = source.randrange(len(instructions))
    one = instructions[place]
    match source.randrange(4):
        case 0:
            one = one._replace(k=one.k ^ 1 << source.randrange(32))
        case 1:
            one = one._replace(k=source.choice([0, 4, 16, 20, 24, bpf.WORD, *(other.k for other in instructions)]))
        case 2:
            one = one._replace(jt=source.randrange(8), jf=source.randrange(8))
        case _:
            one = one._replace(code=source.choice(CHANGED))
    instructions[place] = one
    return instructions


def test_mutants_are_caught_or_equivalent() -> None:
    source = random.Random(3)
    original = bpf.decode(compile_policy(MUTATED))
    judged = equivalent = 0
    while judged < max(200, EXAMPLES):
        instructions = mutant(source, original)
        program = bpf.encode(instructions)
        try:
            bpf.decode(program)
        except bpf.InvalidProgramError:
            continue
        if tuple(instructions) == original:
            continue
        judged += 1
        found = verify(program, MUTATED)
        if found is None:
            equivalent += 1
            assert oracle.difference(program, MUTATED) is None, bpf.disassemble(program)
        else:
            assert symbolic.meaning(bpf.run(program, found)) != bpf.ret(evaluate(MUTATED, found))
    assert equivalent < judged / 2
