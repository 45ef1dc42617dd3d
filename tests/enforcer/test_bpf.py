"""Several filters as one."""

from __future__ import annotations

from itertools import product

import pytest

from callfence.enforcer.bpf import LISTENER_ROOM, chain
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


def test_one_filter_is_unchanged():
    assert chain([answering(1, ALLOW, LOG)]) == answering(1, ALLOW, LOG)


def test_nothing_and_too_much():
    with pytest.raises(ValueError, match="no filter"):
        chain([])
    half = answering(1, ALLOW, KILL) * ((BPF_MAXINSNS - LISTENER_ROOM) // 8)
    assert len(chain([half, half])) == 2 * len(half), "a kill needs no copy of what follows"
    with pytest.raises(ValueError, match=r"\d+ instructions; the kernel permits at most 4096"):
        chain([half, half, answering(1, ALLOW, KILL) * LISTENER_ROOM])
