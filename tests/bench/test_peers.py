"""The other filters in the benchmarks have the same rules as ours."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from needed import needs

from callfence.policygen.filter import bpf, symbolic
from callfence.policygen.filter.symbolic import decisions
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.language.document import parse_file
from callfence.policygen.model import ALLOW
from callfence.policygen.sets import region
from callfence.policygen.sets.algebra import constant
from callfence.tracer.abi import Arch, Event, table

if TYPE_CHECKING:
    from types import ModuleType

    from callfence.policygen.model import Policy

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "bench")
    return import_module("peers")


def differs(program: bytes, policy: Policy) -> Event | None:
    """A call of x86_64 in the policy's table that the program answers otherwise."""
    space = region.space()
    newest = constant(table(Arch.X86_64).newest(policy.table), 32)
    known = space.and_(
        space.equal(region.arch_word(space), constant(Arch.X86_64.audit, 32)),
        space.invert(space.greater(region.number_word(space), newest)),
    )
    other = space.terminal(None)
    theirs, ours = symbolic.function(space, program), decisions(space, resolved(policy))
    point = space.difference(space.ite(known, theirs, other), space.ite(known, ours, other))
    return None if point is None else region.event(point)


@pytest.mark.parametrize("name", ["httpd", "notes", "pipeline"])
def test_the_peers_have_the_same_rules(peers: ModuleType, name: str) -> None:
    policy = resolved(parse_file(ROOT / "samples" / f"{name}.policy").policy).written()
    for program in (peers.libseccomp(policy, tree=False), peers.libseccomp(policy, tree=True), peers.linear(policy)):
        assert differs(program, policy) is None
        assert differs(bpf.encode([bpf.Instruction(bpf.RET | bpf.K, k=bpf.ret(ALLOW))]), policy) is not None


@needs("golang-github-containers-common")
def test_podmans_profile_is_what_it_is_known_for(peers: ModuleType) -> None:
    program = peers.containers()
    calls = table(Arch.X86_64).by_name
    for name, arguments, verdict in [
        ("read", (), "allow"),
        ("personality", (8,), "allow"),
        ("personality", (1,), "errno 38"),
        ("bpf", (), "errno 1"),
        ("arch_prctl", (), "allow"),
        ("socket", (16, 0, 9), "errno 22"),
        ("socket", (2, 1, 6), "allow"),
    ]:
        event = Event(Arch.X86_64.audit, calls[name].number, (*arguments, *(0,) * (6 - len(arguments))))
        assert bpf.action_text(bpf.run(program, event)) == verdict, name
    assert bpf.action_text(bpf.run(program, Event(Arch.I386.audit, 3, (0,) * 6))) == "allow"


def test_the_steps_are_those_of_the_kernel(peers: ModuleType) -> None:
    """A call is free only where nothing but its number decides that it is allowed."""
    bench = import_module("filter_cost")
    policy = resolved(parse_file(ROOT / "samples" / "httpd.policy").policy).written()
    program = peers.linear(policy)
    assert bench._steps((program,), "read") == "-"
    assert bench._steps((program, peers.libseccomp(policy, tree=True)), "read") == "-"
    assert int(bench._steps((program,), "openat+close")) > 10
    denied = Event(Arch.X86_64.audit, table(Arch.X86_64).by_name["ptrace"].number, (0,) * 6)
    assert bench._walk(program, denied)[1] is False
