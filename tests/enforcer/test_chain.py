"""Several filters as one."""

from __future__ import annotations

from itertools import product

import pytest

from enforcer.chain import MAX_INSTRUCTIONS, chain
from policygen.filter import bpf
from policygen.filter.bpf import Instruction
from tracer.abi import Event

ALLOW, LOG, KILL, ERRNO, NOTIFY = 0x7FFF0000, 0x7FFC0000, 0x80000000, 0x00050001, 0x7FC00000
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


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_first_filter_that_does_not_allow_decides(length):
    answers = [(ALLOW, KILL), (KILL, ALLOW), (ERRNO, ALLOW), (NOTIFY, ERRNO), (ALLOW, ALLOW)]
    for chosen in product(answers, repeat=length):
        filters = [answering(1, *pair) for pair in chosen]
        for number, index in ((1, 0), (2, 1)):
            expected = next((pair[index] for pair in chosen if pair[index] != ALLOW), ALLOW)
            assert bpf.run(chain(filters), Event(X86_64, number)) == expected


def test_log_passes_on_and_counts_in_the_last():
    assert bpf.run(chain([answering(1, LOG, ALLOW), answering(1, KILL, ALLOW)]), Event(X86_64, 1)) == KILL
    assert bpf.run(chain([answering(1, LOG, ALLOW), answering(1, ALLOW, ALLOW)]), Event(X86_64, 1)) == ALLOW
    assert bpf.run(chain([answering(1, ALLOW, ALLOW), answering(1, LOG, ALLOW)]), Event(X86_64, 1)) == LOG


def test_one_filter_is_unchanged():
    assert chain([answering(1, ALLOW, LOG)]) == answering(1, ALLOW, LOG)


def test_nothing_and_too_much():
    with pytest.raises(ValueError, match="no filter"):
        chain([])
    half = answering(1, ALLOW, KILL) * (MAX_INSTRUCTIONS // 8)
    assert len(chain([half, half])) == 8 * MAX_INSTRUCTIONS
    with pytest.raises(ValueError, match="4100 instructions, and the kernel takes 4096"):
        chain([half, half, answering(1, ALLOW, KILL)])
