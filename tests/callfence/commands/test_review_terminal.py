"""`callfence review`, answered on a terminal and refused without one."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from needed import needs
from terminal import Terminal

from callfence.commands import review as review_command

REVIEW = [sys.executable, "-m", "callfence", "review"]
OLD = """\
callfence 1
arch x86_64
table 6.18
arm exec
default kill
unknown errno ENOSYS

path .: read

close: allow
# reads
openat: flags in O_CLOEXEC  # plainly
read: fd == 0
"""
NEW = OLD.replace("O_CLOEXEC", "O_CLOEXEC|O_DIRECTORY") + "    || fd == 5\nexecve: allow\nsync: allow\n"
"""In the order of the questions: execve, openat, read, sync."""
QUESTION = r"\[\?\]: "


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "old.policy").write_text(OLD)
    (tmp_path / "app.policy").write_text(NEW)
    return tmp_path


@pytest.fixture
def review(folder: Path) -> Iterator[Callable[..., Terminal]]:
    """`review("a", "r")`: the terminal after these answers, each given to a question."""
    opened: list[Terminal] = []

    def start(*answers: str, command: tuple[str, ...] = (), against: str = "old.policy") -> Terminal:
        opened.append(Terminal([*command, *REVIEW, "--against", against, "app.policy"], folder))
        for answer in answers:
            opened[-1].expect(QUESTION)
            opened[-1].send(f"{answer}\n")
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def canonical(folder: Path, text: str) -> str:
    path = folder / "expected.policy"
    path.write_text(text)
    subprocess.run([sys.executable, "-m", "callfence", "show", "--write", path], check=True, timeout=60)
    return path.read_text()


def test_what_is_shown(review: Callable[..., Terminal]) -> None:
    terminal = review()
    shown = terminal.expect(rf"(?s).*{QUESTION}")[0].replace("\r\n", "\n")
    assert shown.startswith(
        "\n(1 of 4)\n"
        "warning: execve: it newly starts other programs [execute]\n"
        "  why     any program on the machine can then be started, a shell too, all under this policy\n"
        "  safer   start what must be started from a separate process, with its own policy\n"
        "  + execve: allow\n"
        "  allows  execve(filename=NULL, argv=NULL, envp=NULL)\n"
        "  seen    in no recorded run\n"
        "[a]ccept "
    )
    terminal.send("s\n")
    shown = terminal.expect(rf"(?s).*{QUESTION}")[0].replace("\r\n", "\n")
    assert "  - openat: flags in O_CLOEXEC\n  + openat: flags in O_DIRECTORY|O_CLOEXEC\n  new     flags" in shown
    terminal.send("s\n")
    assert "\n  seen    in no recorded run\n" in terminal.expect(rf"(?s).*{QUESTION}")[0].replace("\r\n", "\n")


SHELL = "execve: allow\nsocket: allow\nconnect: allow\n"


@pytest.mark.parametrize(
    ("old", "new", "first"),
    [
        ("socket: allow\n", "execve: allow\nsocket: allow\n", "danger: execve, with socket: it starts programs that use"),
        (SHELL, f"implied 1\n{SHELL}", "danger: dup, dup2, dup3 and fcntl, with connect, execve and socket: it gives a shell"),
        ("default kill\nread: allow\n", "default allow\nread: allow\n", "danger: default kill -> allow: calls that no entry"),
        ("read: fd == 0\n", "read: allow\n", "  - read: fd == 0\n"),
    ],
)
def test_what_a_change_makes_possible_comes_first(
    old: str, new: str, first: str, folder: Path, review: Callable[..., Terminal]
) -> None:
    """A combination that a call, or the implied set, completes; a setting; and nothing of that kind."""
    (folder / "old.policy").write_text(f"arch x86_64\n{old}")
    (folder / "app.policy").write_text(f"arch x86_64\n{new}")
    shown = review().expect(rf"(?s).*{QUESTION}")[0].replace("\r\n", "\n")
    assert shown.startswith(f"\n(1 of 1)\n{first}")


def test_each_is_judged(folder: Path, review: Callable[..., Terminal]) -> None:
    terminal = review("r", "reject", "a", "s")
    terminal.expect(r"app.policy: 1 accepted, 2 rejected, 1 undecided\r\n  - execve: allow")
    terminal.expect(r"commit app.policy")
    assert terminal.wait() == 1
    assert (folder / "app.policy").read_text() == canonical(folder, OLD + "    || fd == 5\nsync: allow\n")


def test_a_reason_is_kept(folder: Path, review: Callable[..., Terminal]) -> None:
    terminal = review("a")
    terminal.expect(r"reason for[^\n]*none\): ")
    terminal.send("one\u200btwo\n")
    terminal.expect(r"reason for[^\n]*none\): ")
    terminal.send("it runs the hooks\n")
    terminal.expect(QUESTION)
    terminal.send("all\n")
    assert terminal.wait() == 0
    assert "execve: allow                  # why: it runs the hooks\n" in (folder / "app.policy").read_text()
    lint = [sys.executable, "-m", "callfence", "lint", "app.policy"]
    assert subprocess.run(lint, cwd=folder, capture_output=True, timeout=60, check=False).returncode == 0
    again = review()
    again.expect(r"execve: allow")
    again.expect(QUESTION)
    again.send("a\n")
    assert again.expect(rf"reason for|{QUESTION}")[0] != "reason for"


def test_back_and_help(folder: Path, review: Callable[..., Terminal]) -> None:
    terminal = review("r", "b", "?")
    terminal.expect("leave the file unchanged")
    terminal.expect(QUESTION)
    terminal.send("a\n")
    terminal.expect(r"reason for[^\n]*none\): ")
    terminal.send("\n")
    quit_(terminal, "1 accepted, 3 undecided")
    assert (folder / "app.policy").read_text() == NEW


@pytest.mark.parametrize("end", ["q\n", "\x04"])
def test_to_quit_keeps_what_is_decided(folder: Path, review: Callable[..., Terminal], end: str) -> None:
    terminal = review("r")
    terminal.expect(QUESTION)
    terminal.send(end)
    terminal.expect(r"app.policy: 1 rejected, 3 undecided")
    assert terminal.wait() == 1
    assert (folder / "app.policy").read_text() == canonical(folder, NEW.replace("execve: allow\n", ""))


def test_an_interrupt_leaves_the_file(folder: Path, review: Callable[..., Terminal]) -> None:
    before = (folder / "app.policy").stat()
    terminal = review("r", "r")
    terminal.expect(QUESTION)
    terminal.key("\x03")
    terminal.expect("app.policy: unchanged")
    assert terminal.wait() == -signal.SIGINT
    after = (folder / "app.policy").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def test_to_edit_on_the_line(folder: Path, review: Callable[..., Terminal]) -> None:
    terminal = review("s", "s", "e", command=("sh", "-c", 'stty echo; exec "$@"', "sh"))
    terminal.expect(r"edit \(empty: unchanged\): read: fd == 5")
    terminal.send("\x15read: fd = 6\n")  # ^U empties the line
    terminal.expect(r"LINE:1:10: ")
    terminal.expect(r"\n           \^\r\n")
    terminal.expect(r"edit \(empty: unchanged\): read: fd = 6")
    terminal.send("\x15write: fd == 6\n")
    terminal.expect("the line must be an entry of read, and the only one")
    terminal.expect(r"edit \(")
    terminal.send("\x15read: errno EPERM\n")
    terminal.expect("the action must not change, only the conditions")
    terminal.expect(r"edit \(")
    terminal.send("\x15read: fd in {6, 7}\n")
    terminal.expect(r"\(3 of 4\)\r\n")
    terminal.expect(r"\+ read: fd in \{6, 7\}")
    terminal.expect(QUESTION)
    terminal.send("a\n")
    terminal.expect(QUESTION)
    terminal.send("q\n")
    assert terminal.wait() == 1
    expected = NEW.replace("|| fd == 5", "|| fd in {6, 7}")
    assert (folder / "app.policy").read_text() == canonical(folder, expected)


def test_to_edit_with_an_editor(folder: Path, review: Callable[..., Terminal]) -> None:
    script = "cat $1 >> seen\nread -r line < next; echo \"$line\" > $1; echo 'read: fd == 9' > next\n"
    (folder / "edit").write_text(f"#!/bin/sh\n{script}")
    (folder / "edit").chmod(0o755)
    (folder / "next").write_text("read: fd == FOO\n")
    terminal = review("s", "s", "e", command=("env", "EDITOR=./edit"))
    terminal.expect(r"LINE:1:")
    terminal.expect(r"Enter edits the line again")
    terminal.send("\n")
    terminal.expect(r"\+ read: fd == 9")
    terminal.expect(QUESTION)
    terminal.send("all\n")
    assert terminal.wait() == 1
    assert (folder / "app.policy").read_text() == canonical(folder, NEW.replace("|| fd == 5", "|| fd == 9"))
    assert (folder / "seen").read_text() == "read: fd == 5\nread: fd == FOO\n"


def quit_(terminal: Terminal, decided: str) -> None:
    """Type q at the next question: what was decided before is kept."""
    terminal.expect(QUESTION)
    terminal.send("q\n")
    terminal.expect(f"app.policy: {decided}")
    assert terminal.wait() == 1


def test_bytes_that_are_not_utf8_lose_no_decision(review: Callable[..., Terminal]) -> None:
    terminal = review("a", command=("env", "PYTHONIOENCODING=utf-8:strict"))  # as a locale such as de_DE.UTF-8 has it
    terminal.expect(r"reason for[^\n]*none\): ")
    terminal.send(b"gr\xfcn\n")
    terminal.expect("byte 0xfc is not UTF-8")
    terminal.expect(r"reason for[^\n]*none\): ")
    terminal.send("it runs the hooks\n")
    terminal.expect(QUESTION)
    terminal.send(b"\xe4\n")
    terminal.expect("leave the file unchanged")
    quit_(terminal, "1 accepted, 3 undecided")


def test_what_an_editor_leaves_may_be_no_text_or_no_file(folder: Path, review: Callable[..., Terminal]) -> None:
    script = "if [ -e again ]; then rm $1; else touch again; printf 'read: fd == 7 # \\377\\n' > $1; fi"
    (folder / "edit").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "edit").chmod(0o755)
    terminal = review("r", "s", "e", command=("env", "EDITOR=./edit"))
    terminal.expect(r"LINE:1:17: byte 0xff is not UTF-8")
    terminal.expect(r"Enter edits the line again")
    terminal.send("\n")
    terminal.expect("the file that ./edit was given cannot be read: No such file or directory; the line is unchanged")
    quit_(terminal, "1 rejected, 3 undecided")


def test_what_is_learned_meanwhile_is_undecided(folder: Path, review: Callable[..., Terminal]) -> None:
    terminal = review("r", "a", "a")
    terminal.expect(QUESTION)  # it has read the file
    (folder / "app.policy").write_text(NEW + "fsync: allow\n")
    terminal.send("a\n")
    terminal.expect(r"3 accepted, 1 rejected, 1 undecided")
    assert terminal.wait() == 1
    assert (folder / "app.policy").read_text() == canonical(folder, NEW.replace("execve", "fsync"))


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*REVIEW, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_without_a_terminal(folder: Path) -> None:
    done = run(folder, "--against", "old.policy", "app.policy")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--accept-all or --reject-all" in done.stderr and "callfence diff" in done.stderr
    assert (folder / "app.policy").read_text() == NEW
    done = run(folder, "--accept-all", "--against", "old.policy", "app.policy")
    assert (done.returncode, (folder / "app.policy").read_text()) == (0, NEW)
    assert done.stdout.startswith("app.policy: 4 accepted\n")
    done = run(folder, "--reject-all", "--against", "old.policy", "app.policy")
    assert (done.returncode, (folder / "app.policy").read_text()) == (0, canonical(folder, OLD))
    done = run(folder, "--against", "old.policy", "app.policy")
    assert (done.returncode, done.stdout) == (
        0,
        "app.policy: nothing to review: the policy allows no more than old.policy does\n",
    )


def test_what_a_rejected_line_had_covered_is_named(folder: Path) -> None:
    (folder / "old.policy").write_text("tcp connect: none\nread: allow\n")
    (folder / "app.policy").write_text("tcp connect: any\ntcp connect a.example: 443\nread: allow\n")
    named = "had covered it, so review again: tcp connect a.example\n"
    for status, said in ((1, named), (0, "  - tcp connect a.example: 443\n")):
        done = run(folder, "--reject-all", "--against", "old.policy", "app.policy")
        assert (done.returncode, said in done.stdout) == (status, True), done.stdout


@needs("git")
def test_the_committed_version(folder: Path) -> None:
    assert "not a revision of a git repository in the current folder" in run(folder, "app.policy").stderr
    git = ["git", "-c", "user.name=x", "-c", "user.email=x"]
    (folder / "app.policy").write_text(OLD)
    for command in (["init", "-q"], ["add", "app.policy"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], cwd=folder, check=True, timeout=60)
    (folder / "app.policy").write_text(NEW)
    for name in ("app.policy", str(folder / "app.policy")):
        assert run(folder, "--accept-all", name).stdout.splitlines()[0] == f"{name}: 4 accepted"
    outside = folder.parent / f"{folder.name}.policy"
    outside.write_text(NEW)
    assert run(folder, "--reject-all", f"../{outside.name}").returncode == 2
    assert outside.read_text() == NEW
    outside.unlink()


@pytest.mark.parametrize("spoil", ["read: fd = 0\n", "", None])
def test_bad_input(folder: Path, spoil: str | None) -> None:
    if spoil is None:
        (folder / "app.policy").unlink()
    else:
        (folder / "app.policy").write_text(spoil or OLD + "\0")
    done = run(folder, "--reject-all", "--against", "old.policy", "app.policy")
    assert done.returncode == 2
    assert done.stderr.startswith(("app.policy:", "callfence review: app.policy:"))


def test_what_grants_nothing_takes_one_line_after_a_rejection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old.policy").write_text("implied 1\nread: allow\n")
    (tmp_path / "app.policy").write_text("implied 1\nopenat: flags == O_WRONLY\nread: allow\n")
    assert review_command.main(["--reject-all", "--against", str(tmp_path / "old.policy"), str(tmp_path / "app.policy")]) == 0
    first, *rest, last = capsys.readouterr().out.splitlines()
    assert first.endswith(": 1 rejected")
    assert [line.split(":")[0] for line in rest if line.startswith("  - ")] == ["  - openat"]
    assert last.startswith("- no longer allowed, and granted nothing beyond the rest (")


@pytest.mark.parametrize("answer", ["", "  ", "x", "acceptt"])
def test_what_is_no_answer_decides_nothing(folder: Path, review: Callable[..., Terminal], answer: str) -> None:
    """Enter alone, above all: the change in question is dangerous."""
    terminal = review(answer)
    terminal.expect("leave the file unchanged")
    terminal.expect(QUESTION)
    terminal.send("q\n")
    terminal.expect("4 undecided")
    assert (folder / "app.policy").read_text() == NEW
