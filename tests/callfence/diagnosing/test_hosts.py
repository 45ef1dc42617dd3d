"""Where this user's programs cannot have lines about hosts, `doctor` and `learn --hosts` say so before `enforce` does."""

from __future__ import annotations

from pathlib import Path

import pytest

from callfence.commands import doctor
from callfence.enforcer.hosts import granted
from callfence.learning.options import parse
from callfence.learning.prepare import prepare

SAID = "kernel.yama.ptrace_scope is 1"


def test_doctor_has_a_line_about_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(granted, "problem", lambda: "")
    assert (doctor._hosts().works, doctor._hosts in doctor.CHECKS) == (True, True)
    monkeypatch.setattr(granted, "problem", lambda: SAID)
    found = doctor._hosts()
    assert (found.works, found.needed, found.advice) == (False, False, f"a policy with such lines is refused: {SAID}")


def test_learn_says_it_before_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for problem, options, said in (
        (SAID, ["--hosts"], f"learn: `enforce` refuses lines about hosts here: {SAID}\n"),
        (SAID, [], ""),
        ("", ["--hosts"], ""),
    ):
        monkeypatch.setattr(granted, "problem", lambda problem=problem: problem)
        prepare(parse([*options, "true"]), "true")
        assert capsys.readouterr().err == said
