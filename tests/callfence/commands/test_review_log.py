"""`callfence review --log` on a terminal: of hostile and cut logs, of two people, of a policy that changes meanwhile."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from terminal import Terminal

from callfence.policygen.recording import recording_file
from tests.callfence.commands.test_from_log import POLICY, violation

CALLFENCE = [sys.executable, "-m", "callfence"]
QUESTION = r"\[\?\]: "
LOG = violation("mkdir", 1, 0o700) + violation("connect", 3, 1, 16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.policy").write_text(POLICY)
    (tmp_path / "log").write_text(LOG)
    return tmp_path


@pytest.fixture
def review(folder: Path) -> Iterator[Callable[[], Terminal]]:
    """A terminal on which a review of the log has asked its first question."""
    opened: list[Terminal] = []

    def start() -> Terminal:
        opened.append(Terminal([*CALLFENCE, "review", "app.policy", "--log", "log"], folder))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def seen(folder: Path) -> set[int]:
    path = folder / ".callfence" / "app.rec"
    return {one.number for one in recording_file.load(path).observations} if path.exists() else set()


def answered(terminal: Terminal, *answers: str) -> str:
    """What is said at the end."""
    for answer in answers:
        terminal.expect(QUESTION)
        terminal.send(f"{answer}\n")
    terminal.wait()
    return str(terminal.rest())


def test_each_is_asked_with_who_made_it(folder: Path, review: Callable[[], Terminal]) -> None:
    terminal = review()
    first = terminal.expect(rf"(?s).*{QUESTION}")[0]
    assert "note: connect: it newly connects to addresses [connect]" in first
    assert "seen    /usr/bin/app, first at libc.so.6+0x10: 1 call, such as" in first
    terminal.send("r\n")
    assert "app.policy: 1 accepted, 1 rejected" in answered(terminal, "a")
    text = (folder / "app.policy").read_text()
    assert "mkdir: allow" in text and "connect" not in text and "unlink: deny" in text
    assert seen(folder) == {83}  # what was not accepted is not in the recording, and is asked again
    assert "connect" in review().expect(rf"(?s).*{QUESTION}")[0]


def test_what_is_not_decided_is_not_written(folder: Path, review: Callable[[], Terminal]) -> None:
    before = (folder / "app.policy").stat()
    assert "app.policy: 2 undecided" in answered(review(), "q")
    terminal = review()
    terminal.expect(QUESTION)
    terminal.key("\x03")
    terminal.expect("app.policy: unchanged")
    terminal.wait()
    after = (folder / "app.policy").stat()
    assert (after.st_mtime_ns, after.st_ino, seen(folder)) == (before.st_mtime_ns, before.st_ino, set())


def test_two_reviews_at_once(folder: Path, review: Callable[[], Terminal]) -> None:
    """The one that ends later writes nothing, and says so; what the other one decided stays."""
    one, other = review(), review()
    for terminal in (one, other):
        terminal.expect(QUESTION)
        terminal.send("a\n")
        terminal.expect(QUESTION)
    one.send("a\n")
    one.expect("app.policy: 2 accepted")
    assert one.wait() == 0
    text, known = (folder / "app.policy").read_text(), seen(folder)
    other.send("r\n")
    other.expect("app.policy has changed during the review: nothing was written; review again")
    assert other.wait() == 2
    assert ((folder / "app.policy").read_text(), seen(folder)) == (text, known)


def test_a_policy_that_changes_under_the_review(folder: Path, review: Callable[[], Terminal]) -> None:
    terminal = review()
    terminal.expect(QUESTION)
    (folder / "app.policy").write_text(POLICY + "fsync: deny\n")
    terminal.send("all\n")
    terminal.expect("app.policy has changed during the review: nothing was written")
    assert terminal.wait() == 2
    assert (folder / "app.policy").read_text() == POLICY + "fsync: deny\n"
    (folder / "app.policy").write_text("no policy\n")
    assert "app.policy:1:" in answered(review())


def test_comments_that_come_meanwhile_stay(folder: Path, review: Callable[[], Terminal]) -> None:
    terminal = review()
    terminal.expect(QUESTION)
    (folder / "app.policy").write_text(f"# written meanwhile\n{POLICY}")
    terminal.send("all\n")
    terminal.expect("app.policy has changed during the review: nothing was written")
    assert terminal.wait() == 2
    assert (folder / "app.policy").read_text() == f"# written meanwhile\n{POLICY}"


def test_a_hostile_log_cannot_drive_the_terminal(folder: Path, review: Callable[[], Terminal]) -> None:
    evil = "/tmp/\x1b]0;title\x07\x1b[2J\u202e\r\n(1 of 1)"
    said = {"executable": evil, "site": "\x1b[2K+0x1", "evidence": ['pathname="\x1b[31m"'], "call": "\x1b[2J"}
    (folder / "log").write_text(violation("mkdir", 1, 0o700, **said))
    terminal = review()
    shown = terminal.expect(rf"(?s).*{QUESTION}")[0]
    assert not [c for c in shown if not c.isprintable() and c not in "\r\n"]
    assert r"/tmp/\x1b]0;title\x07\x1b[2J\x202e\x0d\x0a(1 of 1)" in shown
    assert shown.count("(1 of 1)\r\n") == 1


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (LOG + violation("rmdir", 1)[:60], "log: lines that are cut: 1, first at line 3"),
        (LOG + "x" * (10 << 20) + "\n", "log: lines of more than 256 KiB: 1, first at line 3"),
        (LOG + "\x00\x01\n", "log: lines that are no JSON: 1, first at line 3"),
    ],
    ids=["truncated", "a line of 10 MB", "rubbish"],
)
def test_what_cannot_be_read_is_said_and_the_rest_is_asked(folder: Path, log: str, said: str) -> None:
    (folder / "log").write_text(log)
    words = [*CALLFENCE, "review", "--accept-all", "app.policy", "--log", "log"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, said in done.stderr) == (0, "app.policy: 2 accepted\n", True), done.stderr


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (LOG.replace("app.policy", "other.policy"), "log: it has no violation of app.policy, but of other.policy"),
        (LOG.replace('"count"', '"times"'), "log:1: its `count` is not as `enforce --log` writes it"),
        ('{"type": "SECCOMP", "syscall": 83}\n', "version None is unknown (this callfence reads 1): is it a log of"),
        ("", "log: it has no violation as `enforce --log` writes them"),
    ],
    ids=["of another policy", "of another version", "of another program", "empty"],
)
def test_a_log_that_does_not_fit_changes_nothing(folder: Path, log: str, said: str) -> None:
    (folder / "log").write_text(log)
    words = [*CALLFENCE, "review", "--accept-all", "app.policy", "--log", "log"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, said in done.stderr) == (2, "", True), done.stderr
    assert (folder / "app.policy").read_text() == POLICY
