"""Sections of several architectures in one filter: proved for each of them, and read back equal."""

from __future__ import annotations

import pytest
import strategies
from hypothesis import HealthCheck, given, settings, strategies as st
from strategies import EXAMPLES

from callfence.policygen.comparing.compare import compare
from callfence.policygen.evaluate import evaluate
from callfence.policygen.filter import bpf
from callfence.policygen.filter.compile import compile_policy
from callfence.policygen.filter.lift import lift
from callfence.policygen.filter.verify import verify
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.language.document import parse
from callfence.policygen.model import ALLOW, ENOSYS, KILL, Action, ActionKind, Policy
from callfence.tracer.abi import COMPAT, NATIVE, Arch, Event, table

TEXT = """\
callfence 1
arch x86_64
table 6.12
arm exec
default errno EPERM
unknown errno ENOSYS

open: flags == O_RDONLY|O_DIRECTORY
read: fd == 0

arch i386

mmap2: prot in PROT_READ|PROT_WRITE
socketcall: call == SYS_SOCKET

arch aarch64

mprotect: prot in PROT_READ|PROT_WRITE|PROT_BTI|PROT_MTE
openat: flags == O_RDONLY|O_DIRECTORY

arch arm

cacheflush: flags == 0
openat: flags == O_RDONLY|O_DIRECTORY
pread64: fd == 3
set_tls: allow
"""
EPERM = Action(ActionKind.ERRNO, 1)
POLICY = parse(TEXT).policy


def event(arch: Arch, call: str | int, *arguments: int) -> Event:
    number = call if isinstance(call, int) else table(arch).by_name[call].number
    a, b, c, d, e, f = (*arguments, *(0,) * (6 - len(arguments)))
    return Event(arch.audit, number, (a, b, c, d, e, f))


VERDICTS = [
    (event(Arch.X86_64, "open", 0, 0x10000), ALLOW),
    (event(Arch.X86_64, "open", 0, 0x4000), EPERM),
    (event(Arch.AARCH64, "openat", 0, 0, 0x4000), ALLOW),
    (event(Arch.AARCH64, "openat", 0, 0, 0x10000), EPERM),
    (event(Arch.AARCH64, "mprotect", 0, 0, 0x31), ALLOW),
    (event(Arch.AARCH64, "mprotect", 0, 0, 0x14), EPERM),
    (event(Arch.ARM, "openat", 0, 0, 0x4000), ALLOW),
    (event(Arch.ARM, "openat", 0, 0, 0x10000), EPERM),
    (event(Arch.ARM, "pread64", 3, 0, 0, 99), ALLOW),  # the padding is free
    (event(Arch.ARM, "cacheflush", 0, 4096, 0), ALLOW),
    (event(Arch.ARM, "cacheflush", 0, 4096, 1), EPERM),
    (event(Arch.ARM, "set_tls", 0xBEEF), ALLOW),
    (event(Arch.ARM, "get_tls"), EPERM),  # private, so no newer than the table
    (event(Arch.ARM, 0xF0000), ENOSYS),
    (event(Arch.ARM, 0xF0007), ENOSYS),
    (event(Arch.ARM, 463), ENOSYS),
    (event(Arch.ARM, 0x40000000), ENOSYS),  # x86_64 alone has x32
    (event(Arch.AARCH64, 0xF0005), ENOSYS),
    (event(Arch.X86_64, 0x40000000), KILL),
    (Event(0xC00000F3, 0), KILL),  # riscv64
]


@pytest.mark.parametrize(("one", "action"), VERDICTS, ids=str)
def test_verdicts(one: Event, action: Action) -> None:
    assert evaluate(POLICY, one) == action
    assert bpf.run(compile_policy(POLICY), one) == bpf.ret(action)


def test_the_text_is_canonical() -> None:
    assert parse(TEXT).text() == TEXT


def test_the_filter_is_proved_and_read_back() -> None:
    program = compile_policy(POLICY)
    assert verify(program, POLICY) is None
    lifted = lift(program)
    assert lifted.remarks == ()
    assert compare(lifted.policy, POLICY).differences == ()


@pytest.mark.parametrize("arch", Arch)
def test_each_architecture_alone(arch: Arch) -> None:
    """What a section means does not depend on the machine that looks at it, nor on the other sections."""
    alone = Policy({arch: POLICY.entries[arch]}, POLICY.table, default=POLICY.default)
    program = compile_policy(alone)
    assert verify(program, alone) is None
    assert compare(lift(program).policy, alone).differences == ()
    assert list(lift(program).policy.entries) == [arch]
    for one, action in VERDICTS:
        assert evaluate(alone, one) == (action if one.arch == arch.audit else KILL)


@pytest.mark.long
@pytest.mark.hypothesis
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_filters_of_several_architectures(data: st.DataObject) -> None:
    policy = data.draw(strategies.policies(max_entries=3))
    program = compile_policy(policy)
    for _ in range(5):
        one = data.draw(strategies.events(policy))
        assert bpf.run(program, one) == bpf.ret(evaluate(policy, one))


@pytest.mark.long
@pytest.mark.parametrize("arch", Arch)
def test_an_implied_set_of_each_architecture(arch: Arch) -> None:
    policy = parse(f"implied 1\narch {arch}\nopenat: flags == O_RDONLY\n").policy
    program = compile_policy(policy)
    assert verify(program, policy) is None
    read = lift(program)
    assert not read.remarks and compare(read.policy, resolved(policy).written()).differences == ()


def test_a_text_without_an_architecture_is_this_machines() -> None:
    assert list(parse("read: fd == 0\n").policy.entries) == [NATIVE]
    assert NATIVE.compat is COMPAT
