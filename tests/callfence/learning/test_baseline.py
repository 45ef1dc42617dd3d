"""`learn --within`: a baseline is never exceeded, and what the program did that it forbids is shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CALLFENCE = [sys.executable, "-m", "callfence"]
DOCKER = Path(__file__).parents[2] / "data" / "profiles" / "docker.json"


def run(folder: Path, *words: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run([*words], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == status, ran.stderr
    return ran


def learn(folder: Path, *words: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    return run(folder, *CALLFENCE, "learn", "-o", "it.policy", *words, status=status)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """All that `true` does, and errors for the rest."""
    run(tmp_path, *CALLFENCE, "learn", "-q", "--exact", "-o", "true.policy", "true")
    text = (tmp_path / "true.policy").read_text().replace("default kill  ", "default errno EPERM")
    (tmp_path / "base.policy").write_text(text)
    return tmp_path / "base.policy"


def test_what_the_baseline_forbids_is_shown_and_not_allowed(base: Path, tmp_path: Path) -> None:
    ran = learn(tmp_path, "--within", base, "--", "sh", "-c", "echo hello; exit 3", status=3)
    assert ran.stdout == "hello\n"
    assert f"{base} denies " in ran.stderr
    assert "1 x write(fd=1, buf=0x" in ran.stderr
    assert "by /usr/bin/dash: errno EPERM" in ran.stderr
    assert f"  implied      nothing: {base} allows too little of it; the policy is exact\n" in ran.stderr
    assert "\nwrite: errno EPERM\n" in (tmp_path / "it.policy").read_text()
    run(tmp_path, *CALLFENCE, "diff", "--not-wider", base, "it.policy")
    before = (tmp_path / "it.policy").read_bytes()
    again = learn(tmp_path, "-q", "--within", base, "--", "sh", "-c", "echo hello; exit 3", status=3)
    assert "they were not added to the policy" in again.stderr
    assert (tmp_path / "it.policy").read_bytes() == before


def test_a_policy_that_exceeds_it_is_cut_back(base: Path, tmp_path: Path) -> None:
    learn(tmp_path, "-q", "--", "sh", "-c", "echo hello")
    ran = learn(tmp_path, "--within", base, "--", "sh", "-c", "echo hello")
    assert "write(fd=1" in ran.stderr, "what the policy allowed is seen, too"
    assert "the policy is exact" in ran.stderr
    text = (tmp_path / "it.policy").read_text()
    assert "\nwrite: errno EPERM\n" in text
    assert "\nimplied" not in text and ": deny" not in text
    run(tmp_path, *CALLFENCE, "diff", "--not-wider", base, "it.policy")
    again = learn(tmp_path, "--within", base, "--", "sh", "-c", "echo hello")
    assert "the policy is exact" not in again.stderr, "it was exact before"
    assert (tmp_path / "it.policy").read_text() == text


def test_check_tells_what_the_policy_denies_explicitly(base: Path, tmp_path: Path) -> None:
    learn(tmp_path, "-q", "--within", base, "--", "sh", "-c", "echo hello")
    (tmp_path / "wider.policy").write_text(base.read_text() + "write: allow\n")
    ran = learn(tmp_path, "--check", "--within", "wider.policy", "--", "sh", "-c", "echo hello")
    assert "it.policy: nothing new\n" in ran.stderr
    assert "\n  refused: write: the policy denies it explicitly; unchanged\n" in ran.stderr


def test_a_baseline_with_an_implied_set_gives_it(tmp_path: Path) -> None:
    run(tmp_path, *CALLFENCE, "learn", "-q", "-o", "base.policy", "true")
    with (tmp_path / "base.policy").open("a") as file:
        file.write("umask: errno EPERM\n")
    ran = learn(tmp_path, "--within", "base.policy", "--", "sh", "-c", "umask 022; echo hello")
    assert " x umask(mask=" in ran.stderr
    lines = (tmp_path / "it.policy").read_text().splitlines()
    assert any(line.startswith("implied 1 ") for line in lines)
    assert lines[-1] == "umask: errno EPERM"
    learn(tmp_path, "--check", "--within", "base.policy", "--", "sh", "-c", "umask 022; echo hello")


def test_check_writes_nothing_and_fails_for_what_may_be_added_alone(base: Path, tmp_path: Path) -> None:
    learn(tmp_path, "-q", "--within", base, "--", "true")
    before = (tmp_path / "it.policy").read_bytes()
    only_forbidden = learn(tmp_path, "--check", "--within", base, "--", "sh", "-c", "echo hello")
    assert "they were not added to the policy" in only_forbidden.stderr
    (tmp_path / "wider.policy").write_text(base.read_text() + "write: allow\n")
    new = learn(tmp_path, "--check", "--within", "wider.policy", "--", "sh", "-c", "echo hello", status=1)
    assert "+ write: allow" in new.stderr
    assert (tmp_path / "it.policy").read_bytes() == before


@pytest.mark.long
def test_a_container_profile_is_a_baseline(tmp_path: Path) -> None:
    ran = learn(tmp_path, "--within", DOCKER, "--", "unshare", "--user", "true")
    assert "unshare(unshare_flags=CLONE_NEWUSER)" in ran.stderr
    text = (tmp_path / "it.policy").read_text()
    assert "\nimplied 1 " in text
    assert "\nmseal: deny\n" in text
    assert text.endswith("\nunshare: errno EPERM\n")
    quiet = learn(tmp_path, "--fresh", "--within", DOCKER, "--", "cat", "/etc/passwd")
    assert "they were not added to the policy" not in quiet.stderr


@pytest.mark.parametrize("option", ["--exact", "--tight"])
def test_an_implied_set_cannot_be_exact(option: str, tmp_path: Path) -> None:
    text = "implied 1\nexecve: allow\n"
    (tmp_path / "it.policy").write_text(text)
    ran = learn(tmp_path, option, "--", "touch", "ran", status=125)
    assert ran.stderr == (
        f"learn: it.policy has `implied 1`, and {option} writes a policy without it: "
        "remove the line, or start over with --fresh\n"
    )
    assert not (tmp_path / "ran").exists()
    assert (tmp_path / "it.policy").read_text() == text


def test_a_baseline_that_cannot_be_read_stops_before_the_program_runs(tmp_path: Path) -> None:
    for name, content, told in (("none", None, "none: No such file"), ("bad", "nosuchcall: 1\n", "bad:1:1: ")):
        if content is not None:
            (tmp_path / name).write_text(content)
        ran = learn(tmp_path, "--within", name, "--", "touch", "ran", status=125)
        assert told in ran.stderr
        assert not (tmp_path / "ran").exists()
    (tmp_path / "base").write_text("exit: 1\n")
    (tmp_path / "it.policy").write_text("default allow\n")
    ran = learn(tmp_path, "--within", "base", "--", "touch", "ran", status=125)
    assert "the policy's default allows calls" in ran.stderr
    assert not (tmp_path / "ran").exists()
