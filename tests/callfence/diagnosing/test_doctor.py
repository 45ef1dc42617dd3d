"""What `callfence doctor` says where something does not work."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from callfence.commands import doctor
from callfence.commands.doctor import CheckResult
from callfence.diagnosing import report
from callfence.policygen.filter.compile import CompileError
from callfence.tracer.errors import UserError


def test_each_kind_of_result_has_its_mark(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    results = [
        CheckResult(True, "all"),
        CheckResult(False, "a", "do so", names_files=True),
        CheckResult(False, "b", "or so", needed=False),
    ]
    monkeypatch.setattr(doctor, "CHECKS", [lambda result=result: result for result in results])
    monkeypatch.setattr(doctor, "_features", list)
    assert doctor.main([]) == 1
    assert capsys.readouterr().out == "ok    all\nFAIL  a\n      -> do so\nnote  b\n      -> or so\n"
    assert doctor.main(["--report"]) == 1
    out = capsys.readouterr().out
    assert "FAIL  a\n      -> the report leaves out the names of files\nnote  b\n      -> or so\n" in out
    results[1:2] = []
    monkeypatch.setattr(doctor, "CHECKS", [lambda result=result: result for result in results])
    assert (doctor.main([]), doctor.main(["--report"])) == (0, 0)


@pytest.mark.parametrize(
    ("fields", "works", "needed", "said"),
    [
        ({"Seccomp": "0", "TracerPid": "0"}, True, False, ""),
        ({}, True, False, ""),
        ({"Seccomp": "2", "TracerPid": "0"}, False, False, "this process already has a seccomp filter "),
        ({"Seccomp": "0", "TracerPid": "7"}, False, True, "this process is traced, so programs "),
        ({"Seccomp": "2", "TracerPid": "7"}, False, True, "programs besides callfence's; this process is traced"),
    ],
)
def test_a_filter_of_others_and_a_tracer(
    fields: dict[str, str], works: bool, needed: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.proc, "fields", lambda _: fields)
    result = doctor._surroundings()
    assert (result.works, result.needed) == (works, needed) and said in result.advice
    assert bool(said) == bool(result.advice)


@pytest.mark.parametrize(
    ("available", "works", "advice"),
    [
        ("kill_process errno trace user_notif log", True, ""),
        ("errno trace log", False, "the kernel lacks kill_process, user_notif: Linux 5.9 or newer is needed"),
        (None, False, "/actions is missing: use a kernel with CONFIG_SECCOMP_FILTER"),
    ],
)
def test_the_actions_of_the_kernel(
    available: str | None, works: bool, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if available is not None:
        (tmp_path / "actions").write_text(available)
    monkeypatch.setattr(doctor, "Path", lambda _: tmp_path / "actions")
    result = doctor._actions()
    assert result.works == works and (works or result.advice.endswith(advice))


def test_a_command_that_does_not_end_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def command(code: str) -> None:
        monkeypatch.setattr(doctor.start, "command", lambda *_: [sys.executable, "-c", code])

    command("import time; time.sleep(60)")
    monkeypatch.setattr(doctor, "SECONDS", 0.1)
    result = doctor._probe("enforce", "works", "see so")
    assert (result.works, result.advice) == (False, "enforce did not end within 0.1 s; see so")
    monkeypatch.setattr(doctor, "SECONDS", 60)
    for code, reason in (("exit('first\\nlast')", "last"), ("exit(3)", "status 3")):
        command(code)
        assert doctor._probe("learn", "works", "see so") == CheckResult(False, "learn works", f"{reason}; see so")
    command("")
    assert doctor._probe("learn", "works", "see so").works


def test_filters_are_proved_as_long_as_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def cached() -> Iterator[tuple[str, str, str]]:
        yield "one", "a.policy", ""
        yield "two", "?", "not used: it is old"
        yield "three", "c.policy", "it is wider"

    monkeypatch.setattr("callfence.enforcing.compile.check_cached", cached)
    wrong = "three does not match its policy c.policy: it is wider; remove the file"
    assert doctor._cache() == CheckResult(False, "3 cached filters, each equivalent to its policy", wrong, names_files=True)
    monkeypatch.setattr(doctor, "SECONDS", -1)
    late = "there are too many filters to prove them all here: `callfence verify --cached` does that"
    assert doctor._cache() == CheckResult(False, "1 cached filter, each equivalent to its policy", late, names_files=True)


def test_libseccomp_that_does_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> bytes:
        raise CompileError("it is missing")

    assert doctor._libseccomp().works
    monkeypatch.setattr("callfence.policygen.filter.compile.compile_policy", fails)
    assert doctor._libseccomp() == CheckResult(False, "libseccomp compiles policies", "it is missing")


@pytest.mark.parametrize("text", ['{"a":' * 100_000, "[" * 100_000, '{"a": 1}\n', '{"event": "denied"}\n5\n'])
def test_a_file_of_another_kind_is_not_attached(text: str, tmp_path: Path) -> None:
    (tmp_path / "it").write_text(text)
    with pytest.raises(UserError, match=" is neither a policy nor a log of enforce, so it is not attached: "):
        report.report([], [os.fspath(tmp_path / "it")], masks=False)


def test_a_filter_shows_in_the_result(tmp_path: Path) -> None:
    (tmp_path / "any.policy").write_text("default allow\n")
    code = "from callfence.commands import doctor; print(doctor._surroundings())"
    command = [sys.executable, "-m", "callfence", "enforce", "-p", "any.policy", "--", sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    assert "this process already has a seccomp filter" in done.stdout
