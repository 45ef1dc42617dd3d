"""Warm learning: what the policy knows runs without a stop, what it does not is recorded, and nothing else changes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from callfence.policygen.language.layout import NO_START

LEARN = [sys.executable, "-m", "callfence", "learn", "-o", "it.policy"]


def learn(folder: Path, *command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    arguments = [*LEARN, *options, *command]
    return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def runs(folder: Path) -> list[dict[str, object]]:
    lines = (folder / ".callfence" / "it.rec").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "id" in row]


def counts(folder: Path, run: int) -> int:
    """How many calls are recorded of a run, by its place."""
    lines = (folder / ".callfence" / "it.rec").read_text().splitlines()
    return sum(row["counts"][run] for row in map(json.loads, lines) if "counts" in row)


DD = ("dd", "if=/dev/zero", "of=/dev/null", "bs=1", "count=2000", "status=none")


def test_the_second_run_stops_rarely_and_changes_nothing(tmp_path: Path) -> None:
    assert learn(tmp_path, *DD, options=("--every-call",)).returncode == 0
    first = (tmp_path / "it.policy").read_bytes()
    second = learn(tmp_path, *DD)
    assert second.returncode == 0
    assert (tmp_path / "it.policy").read_bytes() == first
    assert counts(tmp_path, 0) > 4000
    assert counts(tmp_path, 1) < 20
    assert [run["warm"] for run in runs(tmp_path)] == [False, True]
    assert "new          nothing" in second.stderr


def test_of_what_is_known_nothing_is_recorded_and_nothing_is_rewritten(tmp_path: Path) -> None:
    """Processes and their ends, and calls that are failed for all: none of them stops."""
    command = ("sh", "-c", "i=0; while [ $i -lt 9 ]; do /bin/true; i=$((i+1)); done | cat; exit 3")
    assert learn(tmp_path, *command, options=("-q",)).returncode == 3
    policy = tmp_path / "it.policy"
    before = policy.read_bytes(), policy.stat().st_ino
    for _ in range(2):
        done = learn(tmp_path, *command, options=("-q",))
        assert (done.returncode, done.stderr) == (3, "")
    assert (policy.read_bytes(), policy.stat().st_ino) == before
    assert [counts(tmp_path, run) > 0 for run in range(3)] == [True, False, False]
    executed = [run["executed"] for run in runs(tmp_path)]
    assert executed[0] == executed[1] == executed[2] != []


def test_where_nothing_is_new_no_evidence_is_looked_for(tmp_path: Path) -> None:
    words = [sys.executable, "-X", "importtime", *LEARN[1:], "-q", "ls", "/"]
    loaded = [
        "callfence.policygen.evidence" in subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stderr
        for _ in range(2)
    ]
    assert loaded == [True, False]


def test_a_policy_by_hand_gets_its_floor_even_if_nothing_is_new(tmp_path: Path) -> None:
    (tmp_path / "it.policy").write_text("default allow\n")
    assert learn(tmp_path, "true", options=("-q",)).returncode == 0
    policy = (tmp_path / "it.policy").read_text()
    learned = learn(tmp_path, "true")
    assert "new          nothing" in learned.stderr
    assert (tmp_path / "it.policy").read_text() == policy
    (tmp_path / "it.policy").write_text(policy.replace("rt_sigreturn: allow", "rt_sigreturn: deny") + "# by hand\n")
    assert learn(tmp_path, "true", options=("-q", "--arm", "entry")).returncode == 0
    assert "arm entry\n" in (tmp_path / "it.policy").read_text()


def test_a_quiet_run_with_nothing_new_completes_a_policy_that_lacks_the_start(tmp_path: Path) -> None:
    assert learn(tmp_path, "true", options=("-q",)).returncode == 0
    policy = tmp_path / "it.policy"
    whole = policy.read_text()
    policy.write_text(f"{NO_START}\n{whole}")
    assert learn(tmp_path, "true", options=("-q",)).returncode == 0
    assert policy.read_text() == whole


def test_a_quiet_run_learns_another_port_though_no_call_is_new(tmp_path: Path) -> None:
    for port in (1, 1, 3):
        assert learn(tmp_path, "bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}", options=("-q",)).returncode == 1
    assert "tcp connect: 1, 3\n" in (tmp_path / "it.policy").read_text()
    assert [counts(tmp_path, run) > 0 for run in range(3)] == [True, False, False]


def test_what_is_new_is_learned(tmp_path: Path) -> None:
    learn(tmp_path, *DD, options=("--exact",))
    again = learn(tmp_path, "dd", "if=/dev/zero", "of=out", "bs=1", "count=3", "conv=fsync", "status=none")
    assert "+ fsync: allow" in again.stderr
    assert "fsync: allow" in (tmp_path / "it.policy").read_text()
    assert (tmp_path / "out").read_bytes() == bytes(3)


@pytest.mark.parametrize("option", ["--fresh", "--tight"])
def test_everything_is_recorded_again(tmp_path: Path, option: str) -> None:
    learn(tmp_path, *DD, options=("--exact",))
    learn(tmp_path, *DD, options=(option, "--every-call"))
    assert len(runs(tmp_path)) == (1 if option == "--fresh" else 2)
    assert runs(tmp_path)[-1]["warm"] is False
    assert counts(tmp_path, -1) > 4000


def test_what_the_policy_refuses_still_runs(tmp_path: Path) -> None:
    """Learning is not enforcing: an entry that denies is respected in the policy, not done to the program."""
    learn(tmp_path, "true")
    policy = tmp_path / "it.policy"
    policy.write_text(policy.read_text() + "getppid: errno EPERM\n")
    done = learn(tmp_path, sys.executable, "-I", "-S", "-c", "import os; print(os.getppid() > 0)")
    assert done.stdout == "True\n"
    assert "getppid: errno EPERM" in policy.read_text()
    assert "refused" in done.stderr


def test_a_broken_policy_is_told_before_the_program_runs(tmp_path: Path) -> None:
    (tmp_path / "it.policy").write_text("read: fd = 1\n")
    done = learn(tmp_path, "touch", "ran")
    assert done.returncode == 125
    assert "it.policy:1:10" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_threads_and_processes_are_followed(tmp_path: Path) -> None:
    thread = "t = threading.Thread(target=print, args=('x',)); t.start(); t.join()"
    program = f"import threading, subprocess; {thread}; subprocess.run(['true'])"
    command = (sys.executable, "-c", program)
    assert learn(tmp_path, *command).stdout == "x\n"
    first = (tmp_path / "it.policy").read_bytes()
    again = learn(tmp_path, *command)
    assert (again.returncode, again.stdout) == (0, "x\n")
    assert (tmp_path / "it.policy").read_bytes() == first
