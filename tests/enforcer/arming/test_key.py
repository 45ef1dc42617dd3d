"""The instructions by which our filters let the helper's own calls in a process run."""

from __future__ import annotations

from itertools import product

import pytest

from callfence.enforcer.arming.inject import Key
from callfence.policygen.filter import bpf
from callfence.policygen.model import ALLOW, KILL
from callfence.tracer import linux
from callfence.tracer.abi import Event
from callfence.tracer.machine import MACHINE

NONE = bpf.encode([bpf.Instruction(bpf.RET | bpf.K, 0, 0, bpf.ret(KILL))])
CALLS = ("close_range", "exit_group", "seccomp", "mprotect", "mmap", "another")


def is_own(name, arguments, words, *, installs):
    """Whether the helper makes such a call, as far as the filter looks at it."""
    if name == "mmap":
        return installs and arguments[2:5] == (linux.PROT_READ_WRITE, linux.MAP_SHARED_ANONYMOUS, words[0])
    is_marked = arguments[3:] == words
    if name == "mprotect":
        return installs and is_marked and arguments[2] == linux.PROT_READ
    return is_marked and (name in ("close_range", "exit_group") or (name == "seccomp" and installs))


@pytest.mark.parametrize("convention", MACHINE.conventions, ids=lambda convention: hex(convention.audit))
@pytest.mark.parametrize("installs", [False, True])
def test_exactly_the_calls_of_the_helper_run(convention, installs):
    key = Key()
    program, words = key.passing(NONE, installs=installs), key.spare(convention)
    thirds = 0, linux.PROT_READ, linux.PROT_READ_WRITE
    likely = [(0, 4096, third, *rest) for third in thirds for rest in (words, (linux.MAP_SHARED_ANONYMOUS, words[0], 0))]
    wrong = [(*each[:at], each[at] ^ 1 << bit, *each[at + 1 :]) for each in likely for at in (2, 3, 4, 5) for bit in (0, 31)]
    ran = set()
    for name, arguments in product(CALLS, [*likely, *wrong]):
        number = 1000 if name == "another" else convention.number_of(name)
        answer = bpf.run(program, Event(convention.audit, number, arguments, 0))
        assert answer == bpf.ret(ALLOW if is_own(name, arguments, words, installs=installs) else KILL), (name, arguments)
        ran |= {name} if answer == bpf.ret(ALLOW) else set()
    assert ran == {"close_range", "exit_group", *(("seccomp", "mprotect", "mmap") if installs else ())}


@pytest.mark.parametrize("convention", MACHINE.conventions, ids=lambda convention: hex(convention.audit))
def test_a_program_that_makes_calls_with_the_secret_is_seen(convention):
    """A filter takes only these calls for the helper's that installs the next one."""
    key = Key()
    word = key.spare(convention)[0]
    places = {"seccomp": 3, "mprotect": 3, "mmap": 4}
    for name, at in product(CALLS, range(6)):
        number = 1000 if name == "another" else convention.number_of(name)
        arguments = [0] * 6
        arguments[at] = word
        assert key.is_in((convention.audit, number), arguments) is (places.get(name) == at), (name, at)
        assert not key.is_in((convention.audit, number), [word ^ 1] * 6)
