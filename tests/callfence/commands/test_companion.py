"""`learn --evidence`: a file that a reviewer's clone has, where the recording is not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.formats.outputs import check_output

if TYPE_CHECKING:
    from conftest import Commands

CALLFENCE = Path(sys.executable).parent / "callfence"
SCRIPT = "sort /etc/passwd > sorted; cp sorted copy; rm copy"


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=x", "-c", "user.email=x@localhost")
    return subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def clone(commands: Commands, tmp_path: Path) -> Path:
    """A repository with a policy, its evidence and no recording, in which the policy has a change."""
    git(tmp_path, "init", "-q")
    policy = tmp_path / "app.policy"
    (tmp_path / ".gitignore").write_text(".callfence\n*.log\n")
    commands.learn(policy, ["sh", "-c", ":"], tmp_path, "--write-evidence")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "1")
    commands.learn(policy, ["sh", "-c", SCRIPT], tmp_path)
    git(tmp_path, "add", ".")
    shutil.rmtree(tmp_path / ".callfence")
    return tmp_path


def call(commands: Commands, folder: Path, *words: str) -> str:
    done = commands.plain([CALLFENCE, *words], folder)
    assert done.returncode in (0, 1) and not done.stderr, done.stderr
    return done.stdout.decode()


@pytest.mark.long
def test_a_clone_shows_programs_and_files(commands: Commands, clone: Path) -> None:
    why = call(commands, clone, "why", "app.policy", "execve")
    assert "  learned\n" in why and "/dash, at dash, such as" in why and 'argv=["cp", "sorted", "copy"]' in why
    assert all(f'filename="/usr/bin/{name}"' in why for name in ("cp", "rm", "sort"))
    assert "run 1" not in why and " call" not in why, "it has no counts"
    review = call(commands, clone, "review", "--no-terminal", "app.policy")
    assert 'openat(filename="./copy", flags=O_WRONLY|O_CREAT|O_EXCL, mode=0)' in review
    assert review.endswith("undecided\n")
    comment = call(commands, clone, "diff", "--format", "md", "--git", "HEAD", "app.policy")
    assert "Recorded calls that need it:" in comment and '`argv=["rm", "copy"]`' in comment
    page = call(commands, clone, "report", "app.policy")
    assert "Committed evidence" in page and "./copy" in page and "1 call" not in page
    report = check_output("report", call(commands, clone, "report", "--format", "json", "app.policy"))
    assert (report["recording"], report["evidence"], report["runs"]) == (None, "app.evidence", [])
    (execve,) = (rule for rule in report["rules"] if rule["rule"] == "execve: allow")
    assert execve["calls"] is None and 'argv=["rm", "copy"]' in execve["sites"][0]["evidence"]


def test_evidence_that_does_not_fit_is_told_and_not_used(commands: Commands, clone: Path) -> None:
    file = clone / "app.evidence"
    forged = 'x86_64 connect() by "/usr/bin/nice": uservaddr=192.0.2.1:80\n=======\n'
    file.write_text(file.read_text() + forged)
    done = commands.plain([CALLFENCE, "why", "app.policy"], clone)
    assert "nice" not in done.stdout.decode()
    lines = done.stderr.decode().splitlines()
    count = len(file.read_text().splitlines())
    assert lines == [
        f"callfence why: app.evidence: ignored 1 line that cannot be parsed, the first being line {count}",
        "callfence why: app.evidence: ignored evidence of 1 call that app.policy does not allow: connect",
    ]
    commands.learn(clone / "app.policy", ["sh", "-c", SCRIPT], clone)
    assert "connect" not in file.read_text() and "=====" not in file.read_text()


@pytest.mark.long
def test_what_a_clone_learns_is_added(commands: Commands, clone: Path) -> None:
    """A clone has no recording, so what others have seen is in the file alone."""
    before = (clone / "app.evidence").read_text()
    commands.learn(clone / "app.policy", ["sh", "-c", f"{SCRIPT}; ln -s sorted made"], clone)
    after = (clone / "app.evidence").read_text()
    assert {*before.splitlines()} < {*after.splitlines()} and 'newname="./made"' in after


@pytest.mark.long
def test_learning_afresh_replaces_it(commands: Commands, clone: Path) -> None:
    commands.learn(clone / "app.policy", ["sh", "-c", ":"], clone, "--fresh")
    assert "execve" not in (clone / "app.evidence").read_text()


def test_it_is_not_written_unless_asked_for(commands: Commands, tmp_path: Path) -> None:
    commands.learn(tmp_path / "app.policy", ["true"], tmp_path)
    assert not (tmp_path / "app.evidence").exists()


def test_another_file_of_that_name_is_left_as_it_is(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "app.evidence").write_text("mine\n")
    done = commands.learn(tmp_path / "app.policy", ["true"], tmp_path, "--write-evidence")
    assert done.returncode == 0 and b"app.evidence: is not a file of evidence" in done.stderr
    assert (tmp_path / "app.evidence").read_text() == "mine\n" and (tmp_path / "app.policy").exists()


@pytest.mark.parametrize("other", ["--no-evidence", "--check"])
def test_options_that_contradict_each_other(commands: Commands, tmp_path: Path, other: str) -> None:
    done = commands.learn(tmp_path / "app.policy", ["true"], tmp_path, "--write-evidence", other)
    assert done.returncode == 125 and b"--write-evidence cannot be given with" in done.stderr


@pytest.mark.long
def test_git_merges_the_lines_of_two_branches(commands: Commands, clone: Path) -> None:
    call(commands, clone, "git-setup")
    git(clone, "add", ".")
    git(clone, "commit", "-q", "-m", "2")
    main = git(clone, "branch", "--show-current").strip()
    for branch in ("left", "right"):
        git(clone, "checkout", "-q", "-b", branch, main)
        commands.learn(clone / "app.policy", ["sh", "-c", f"ln -s any {branch}"], clone)
        git(clone, "commit", "-q", "-a", "-m", branch)
    git(clone, "merge", "-q", "-m", "both", "left")
    assert "<<<<" not in (clone / "app.evidence").read_text()
    shutil.rmtree(clone / ".callfence")
    why = call(commands, clone, "why", "app.policy", "symlinkat")
    assert "./left" in why and "./right" in why
