"""`learn --default`: what a policy does with calls that it does not allow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from callfence.policygen.language.document import parse_file
from callfence.policygen.model import KILL, Action, ActionKind

_EPERM = Action(ActionKind.ERRNO, 1)


def run(folder: Path, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    what = [sys.executable, "-m", "callfence", command, *arguments]
    return subprocess.run(what, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def learn(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "learn", "-o", "it.policy", *arguments)


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("errno EPERM", _EPERM),
        ("  errno\t1 ", _EPERM),
        ("trap", Action(ActionKind.TRAP)),
        ("kill", KILL),
    ],
)
def test_a_new_policy_has_it(tmp_path: Path, text: str, action: Action) -> None:
    assert learn(tmp_path, "-q", "--default", text, "true").returncode == 0
    assert parse_file(tmp_path / "it.policy").policy.default == action


def test_denied_calls_fail(tmp_path: Path) -> None:
    learn(tmp_path, "-q", "--default", "errno EPERM", "sh", "-c", ":")
    done = run(tmp_path, "enforce", "-p", "it.policy", "sh", "-c", "kill -0 1; echo alive")
    assert done.returncode == 0, done.stderr
    assert "alive" in done.stdout
    assert "Operation not permitted" in done.stderr


def test_an_existing_policy_is_changed_and_keeps_what_it_allows(tmp_path: Path) -> None:
    learn(tmp_path, "-q", "mkdir", "made")
    before = parse_file(tmp_path / "it.policy").policy
    done = learn(tmp_path, "--default", "errno EPERM", "true")
    after = parse_file(tmp_path / "it.policy").policy
    assert "errno EPERM, was kill" in done.stderr
    assert (before.default, after.default, after.entries) == (KILL, _EPERM, before.entries)
    learn(tmp_path, "-q", "true")
    assert parse_file(tmp_path / "it.policy").policy == after


def test_what_the_old_default_let_run_is_learned(tmp_path: Path) -> None:
    (tmp_path / "it.policy").write_text("default log\n")
    learn(tmp_path, "-q", "--default", "kill", "mkdir", "made")
    assert "mkdir" in (tmp_path / "it.policy").read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("errno EPREM", "no errno is named EPREM: did you mean EPERM?\n"),
        ("errno 5000", "4095"),
        ("errno", "expected the name or number of an errno, but the line ends\n"),
        ("", "an action"),
        ("deny", "deny is the default action"),
        ("kill\nreboot: allow", "reboot"),
        ("allow", "nothing to learn"),
        ("log", "nothing to learn"),
    ],
)
def test_other_texts_are_refused_before_the_program_runs(tmp_path: Path, text: str, said: str) -> None:
    done = learn(tmp_path, "--default", text, "touch", "ran")
    assert done.returncode == 125
    assert done.stderr.startswith("learn: --default ")
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_check_writes_nothing_so_takes_no_default(tmp_path: Path) -> None:
    done = learn(tmp_path, "--check", "--default", "kill", "true")
    assert done.returncode == 125
    assert "--check cannot be given with" in done.stderr
