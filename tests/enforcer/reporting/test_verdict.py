"""Judging calls: what a line allows that was granted meanwhile, and how many verdicts are remembered."""

from __future__ import annotations

import pytest
from calls import event, parse

from callfence.enforcer.reporting import verdict
from callfence.enforcer.reporting.verdict import Verdicts
from callfence.tracer.abi import Arch, Event


def denying(judged: Verdicts, *calls: Event) -> list[list[str]]:
    """The policies that deny each call."""
    return [[file for file, _ in judged.of(call, "").denying] for call in calls]


def test_a_granted_line_holds_for_what_it_names_and_in_its_file_alone() -> None:
    """Also where the policy has compared no argument of that call, and the call has been judged before."""
    judged = Verdicts([(name, parse("default errno EACCES\n").policy) for name in ("a", "b")])
    calls = [event("dup", descriptor) for descriptor in (7, 8)]
    assert denying(judged, *calls) == [["a", "b"], ["a", "b"]]
    judged.grant((("a", "dup: fildes == 7"), ("b", "dup: fildes <= 8")))
    assert denying(judged, *calls) == [[], ["a"]]
    judged.grant((("a", "dup: fildes == 8"),))
    assert denying(judged, *calls, event("dup", 9)) == [[], [], ["a", "b"]]


def test_a_program_that_varies_arguments_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "_MAX_REMEMBERED", 3)
    judged = Verdicts([("a", parse("dup: fildes == 7\n").policy)])
    calls = [event("dup", descriptor) for descriptor in range(20)]
    sizes = []
    for call in (*calls, *calls):
        assert denying(judged, call) == [[] if call.arguments[0] == 7 else ["a"]]
        sizes.append(len(judged._known))
    assert sizes[:5] == [1, 2, 3, 1, 2]


@pytest.mark.parametrize(
    ("lines", "call", "what", "line"),
    [
        ("", Event(Arch.X86_64.audit, 5000), "no policy can allow it", ""),
        ("", Event(5, 0), "no policy can allow it", ""),
        ("table 6.1\ndefault allow\n", event("mseal"), "to allow it, edit a by hand: ", ""),
        ("dup: deny\n", event("dup", 7), "a denies it explicitly", ""),
        ("dup: fildes == 7\n", event("dup", 8), "to allow it: callfence allow a 'dup: fildes == 8'", "dup: fildes == 8"),
    ],
)
def test_advice(lines: str, call: Event, what: str, line: str) -> None:
    policy = parse(f"arch x86_64\n{lines}").policy
    advice = verdict.advise(policy, "a", call)
    assert (advice.what.startswith(what), advice.line) == (True, line)
    assert verdict.rule_of(Verdicts([("a", policy)]).of(call, "")) == ((("a", line),) if line else ())


def test_the_risk_of_a_line_is_the_most_serious() -> None:
    risk = verdict.risk_of("ptrace: allow")
    assert risk is not None and risk["level"] == "danger"
    assert (verdict.risk_of("getppid: allow"), verdict.risk_of("no line"), verdict.risk_of("nonsense: allow")) == (None,) * 3
