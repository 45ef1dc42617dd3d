"""Several filters as one."""

from __future__ import annotations

from itertools import pairwise, product

import pytest

from callfence.enforcer.bpf import (
    ALL_RUN,
    AND,
    ARCH,
    ARGUMENTS,
    AT_LEAST,
    EQUAL,
    GREATER,
    HAS,
    LISTENER_ROOM,
    LOAD,
    NUMBER,
    RETURN,
    Filter,
    assembled,
    chain,
)  # fmt: skip
from callfence.policygen.filter import bpf
from callfence.policygen.filter.bpf import Instruction
from callfence.tracer.abi import Event
from callfence.tracer.linux import BPF_MAXINSNS

ALLOW, LOG, KILL, TRAP, ERRNO, NOTIFY = 0x7FFF0000, 0x7FFC0000, 0x80000000, 0x00030000, 0x00050001, 0x7FC00000
X86_64 = 0xC000003E


def answering(number, answer, otherwise):
    """The filter that answers one number so, and all others otherwise."""
    return bpf.encode(
        [
            Instruction(bpf.LD | bpf.ABS, k=0),
            Instruction(bpf.JMP | bpf.JEQ | bpf.K, 0, 1, number),
            Instruction(bpf.RET | bpf.K, k=answer),
            Instruction(bpf.RET | bpf.K, k=otherwise),
        ]
    )


ORDER = (KILL, TRAP, ERRNO, NOTIFY, LOG, ALLOW)
"""The strictest first: seccomp(2)."""


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("reports", [False, True])
def test_the_strictest_answer_counts_whatever_the_order(length, reports):
    order = (KILL, NOTIFY, TRAP, ERRNO, LOG, ALLOW) if reports else ORDER
    pairs = [(ALLOW, KILL), (KILL, ALLOW), (ERRNO, ALLOW), (NOTIFY, ERRNO), (TRAP, LOG), (LOG, NOTIFY)]
    for chosen in product(pairs, repeat=length):
        whole = chain([answering(1, *pair) for pair in chosen], reports=reports)
        for number, index in ((1, 0), (2, 1)):
            assert bpf.run(whole, Event(X86_64, number)) == min((pair[index] for pair in chosen), key=order.index)


def test_of_several_errors_the_first_counts():
    filters = [answering(1, ERRNO, ALLOW), answering(1, ERRNO + 1, ALLOW)]
    assert bpf.run(chain(filters), Event(X86_64, 1)) == ERRNO
    assert bpf.run(chain(filters[::-1]), Event(X86_64, 1)) == ERRNO + 1


@pytest.mark.parametrize("reports", [False, True])
def test_errors_are_kept_while_later_filters_run(reports):
    order = [answer >> 16 for answer in ((KILL, NOTIFY, TRAP, ERRNO, LOG, ALLOW) if reports else ORDER)]
    pairs = [(ERRNO, ERRNO + 1), (ERRNO + 2, ALLOW), (ERRNO - 1, TRAP + 5), (TRAP + 6, NOTIFY), (LOG, KILL), (ALLOW, ERRNO)]
    for chosen in product(pairs, repeat=4):
        whole = chain([answering(1, *pair) for pair in chosen], reports=reports)
        for number, index in ((1, 0), (2, 1)):
            strictest = min((pair[index] for pair in chosen), key=lambda answer: order.index(answer >> 16))
            assert bpf.run(whole, Event(X86_64, number)) == strictest
            assert Filter(whole).answer(X86_64, number, 0, [0] * 6) == strictest


def test_the_length_grows_alike_with_each_filter():
    lengths = [len(chain([answering(1, ERRNO + count, KILL) + ALL_RUN * 100] * count)) for count in range(1, 9)]
    steps = [after - before for before, after in pairwise(lengths)]
    assert max(steps) == min(steps)


def test_what_all_filters_allow_needs_no_run():
    """The kernel tries a filter with each number, and gives up at all instructions but these (kernel/seccomp.c)."""
    program = bpf.decode(chain([answering(number, ERRNO + number, ALLOW) for number in range(1, 5)]))
    place = 0
    while program[place].code != bpf.RET | bpf.K:
        code, _, if_false, operand = program[place]
        assert code in (bpf.LD | bpf.ABS, bpf.JMP | bpf.JEQ | bpf.K, bpf.JMP | bpf.JA)
        place += 1 + (operand if code == bpf.JMP | bpf.JA else if_false)
    assert program[place].k == ALLOW


def test_one_filter_is_unchanged():
    assert chain([answering(1, ALLOW, LOG)]) == answering(1, ALLOW, LOG)


def test_nothing_and_too_much():
    with pytest.raises(ValueError, match="no filter"):
        chain([])
    half = answering(1, ALLOW, KILL) * ((BPF_MAXINSNS - LISTENER_ROOM) // 8)
    assert len(chain([half, half])) == 2 * len(half), "a kill needs no copy of what follows"
    with pytest.raises(ValueError, match=r"\d+ instructions; the kernel permits at most 4096"):
        chain([half, half, answering(1, ALLOW, KILL) * LISTENER_ROOM])


JUDGING = assembled(
    [
        (LOAD, ARCH), (EQUAL, X86_64, "", "kill"), (LOAD, NUMBER), (EQUAL, 1, "one", ""), (EQUAL, 2, "two", ""),
        (EQUAL, 3, "notify", ""), (EQUAL, 4, "fail", ""), (GREATER, 7, "log", ""), (AT_LEAST, 7, "trap", "allow"),
        "one", (LOAD, ARGUMENTS), (AND, 6), (EQUAL, 4, "allow", "kill"),
        "two", (LOAD, ARGUMENTS + 8), (HAS, 5, "fail", "notify"),
        "allow", (RETURN, ALLOW), "log", (RETURN, LOG), "notify", (RETURN, NOTIFY), "fail", (RETURN, ERRNO),
        "trap", (RETURN, TRAP), "kill", (RETURN, KILL),
    ]
)  # fmt: skip
"""Answers by architecture, number and argument."""
FIRST, SECOND = ARGUMENTS, ARGUMENTS + 8


@pytest.mark.parametrize(
    ("number", "known", "answer", "may"),
    [
        (1, {}, None, True), (1, {FIRST: 4}, ALLOW, True), (1, {FIRST: 13}, ALLOW, True), (1, {FIRST: 6}, KILL, False),
        (2, {}, None, None), (2, {SECOND: 2}, NOTIFY, None), (2, {SECOND: 4}, ERRNO, False), (3, {}, NOTIFY, None),
        (4, {}, ERRNO, False), (5, {}, ALLOW, True), (6, {}, ALLOW, True), (7, {}, TRAP, False), (8, {}, LOG, True),
    ],
)  # fmt: skip
def test_what_is_known_of_a_call(number, known, answer, may):
    """`may`: None if only a supervisor that is not the helper could let it run."""
    judging = Filter(JUDGING)
    assert judging.constant({ARCH: X86_64, NUMBER: number, **known}) == answer
    assert judging.may_allow(X86_64, number, reports=True, known=known) is bool(may)
    assert judging.may_allow(X86_64, number, reports=False, known=known) is (may is not False)
    assert not judging.may_allow(0, number, reports=False)
    kept = Filter(chain([JUDGING, JUDGING], reports=True))
    assert kept.may_allow(X86_64, number, reports=True) or not may
    if answer is not None:
        arguments = [known.get(FIRST, 0), known.get(SECOND, 0), 0, 0, 0, 0]
        assert judging.answer(X86_64, number, 0, arguments) == answer
        assert judging.allows(X86_64, number, 0, arguments) is (answer in (ALLOW, LOG))
