"""Programs that pass ever new values: policy and recording stay small, and a reviewer sees what is not constrained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Commands

PROGRAMS = Path(__file__).parents[2] / "enforcer" / "attacks" / "learn"
MANY = "for too many values were seen to list them"
KINDS = {"ioctl": 1, "socket": 2, "number": 3, "fcntl": 4, "keyctl": 5}


@pytest.fixture
def one(compile_c: Callable[..., Path]) -> Path:
    return compile_c(PROGRAMS / "one.c")


def sizes(folder: Path, name: str) -> tuple[int, int]:
    """Lines of the policy and of the recording."""
    recording = folder / ".callfence" / f"{name}.rec"
    return len((folder / f"{name}.policy").read_text().splitlines()), len(recording.read_text().splitlines())


@pytest.mark.long
@pytest.mark.parametrize("flag", ["--arm=exec", "--exact", "--phases", "--every-call"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_does_not_grow_with_the_values(
    kind: str, flag: str, one: Path, commands: Commands, tmp_path: Path
) -> None:
    written = []
    for count in ("3000", "6000"):
        policy = tmp_path / f"{count}.policy"
        for _ in range(3):
            ran = commands.learn(policy, [one, count, str(KINDS[kind])], tmp_path, flag)
            assert ran.returncode == 0, ran.stderr
        written.append(sizes(tmp_path, count))
    assert written[0][0] == written[1][0]
    assert max(*written[0], *written[1]) < 400


@pytest.mark.long
@pytest.mark.parametrize("kind", ["ioctl", "fcntl"])
def test_a_reviewer_sees_which_argument_may_have_any_value(kind: str, one: Path, commands: Commands, tmp_path: Path) -> None:
    policy = tmp_path / "it.policy"
    ran = commands.learn(policy, [one, "2000", str(KINDS[kind])], tmp_path, "--write-evidence")
    assert f"any value    {kind}: any cmd, {MANY}; review it" in ran.stderr.decode()
    assert f"# many: any cmd, {MANY}" in policy.read_text()
    callfence = one_of(commands)
    assert f"many: any cmd, {MANY}" in callfence("why", policy, kind)
    if kind == "ioctl":
        assert "[any-ioctl]" in callfence("lint", policy)
    (line,) = (line for line in (tmp_path / "it.evidence").read_text().splitlines() if f" {kind}(" in line)
    assert f"{kind}()" in line  # no value stands for the others
    commands.learn(policy, [one, "20", str(KINDS["socket"])], tmp_path, "--write-evidence")
    lines = (tmp_path / "it.evidence").read_text().splitlines()
    assert line in lines and len(lines) == len(set(lines))


def one_of(commands: Commands) -> Callable[..., str]:
    from tests.conftest import COMMANDS

    def callfence(*words: str | Path) -> str:
        return commands.plain([COMMANDS / "callfence", *words], Path(words[1]).parent).stdout.decode()

    return callfence


def test_check_names_the_argument(one: Path, commands: Commands, tmp_path: Path) -> None:
    policy = tmp_path / "it.policy"
    assert commands.learn(policy, [one, "10", "1"], tmp_path).returncode == 0
    before = policy.read_text()
    ran = commands.learn(policy, [one, "1000", "1", "100"], tmp_path, "--check")
    assert ran.returncode == 1
    assert "+ ioctl: allow" in ran.stderr.decode()
    assert f"any value: ioctl: any cmd, {MANY}; review it" in ran.stderr.decode()
    assert policy.read_text() == before


@pytest.mark.long
def test_runs_that_each_bring_new_values(one: Path, commands: Commands, tmp_path: Path) -> None:
    """None is beyond the bound alone."""
    policy = tmp_path / "it.policy"
    for run in range(5):
        ran = commands.learn(policy, [one, "200", "1", str(200 * run)], tmp_path)
        assert ran.returncode == 0, ran.stderr
    assert "ioctl: allow" in policy.read_text()
    assert max(sizes(tmp_path, "it")) < 60
    assert commands.enforce(policy, [one, "100", "1", "999999"], tmp_path).violations == []


def test_numbers_that_are_no_call(one: Path, commands: Commands, tmp_path: Path) -> None:
    ran = commands.learn(tmp_path / "it.policy", [one, "3000", "3"], tmp_path)
    lines = [line for line in ran.stderr.decode().splitlines() if "not observed" in line]
    assert len(lines) < 60
    assert "more than 256 numbers that belong to no call: the others are not recorded" in lines[0]
    assert lines[-1].endswith("... and 217 more")
    seen = map(json.loads, (tmp_path / ".callfence" / "it.rec").read_text().splitlines())
    assert sum(isinstance(one, dict) and "call" in one for one in seen) <= 400


def test_all_kinds_at_once(commands: Commands, compile_c: Callable[..., Path], tmp_path: Path) -> None:
    distinct = compile_c(PROGRAMS / "distinct.c")
    ran = commands.learn(tmp_path / "it.policy", [distinct, "3000"], tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert max(sizes(tmp_path, "it")) < 400
    enforced = commands.enforce(tmp_path / "it.policy", [distinct, "300"], tmp_path)
    assert not enforced.ran.returncode
    assert not [one for one in enforced.violations if one["syscall"] != "?" and not str(one["syscall"]).isdigit()]
