"""What commands say where a user has gone wrong, or may misunderstand."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

CALLFENCE = [sys.executable, "-m", "callfence"]


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CALLFENCE, *words], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_a_profile_with_which_no_container_starts(tmp_path: Path) -> None:
    (tmp_path / "a.policy").write_text("read: allow\n")
    done = run(tmp_path, "export", "--to", "k8s", "-o", "a.json", "a.policy")
    assert (done.returncode, "no container will start" in done.stderr) == (0, True)
    done = run(tmp_path, "export", "--to", "k8s", "--strict", "-o", "b.json", "a.policy")
    assert (done.returncode, "--strict: the result was not written" in done.stderr) == (1, True)
    assert not (tmp_path / "b.json").exists()
    done = run(tmp_path, "export", "--to", "k8s", "--runtime", "runc", "-o", "c.json", "a.policy")
    assert "no container will start" not in done.stderr


@pytest.mark.parametrize(
    ("option", "hint"), [("--chekc", "; did you mean --check?"), ("--quiett=3", "; did you mean --quiet?"), ("-Z", ";")]
)
def test_a_misspelt_option(option: str, hint: str, tmp_path: Path) -> None:
    done = run(tmp_path, "learn", option, "true")
    assert (done.returncode, done.stderr) == (125, f"learn: unrecognized arguments: {option}{hint} see learn --help\n")


def test_check_says_what_its_status_is_of(tmp_path: Path) -> None:
    assert run(tmp_path, "learn", "-q", "-o", "it.policy", "sh", "-c", ":").returncode == 0
    new = ("learn", "--check", "-o", "it.policy", "sh", "-c", "mkdir d; exit $0")
    done = run(tmp_path, *new, "0")
    said = "the program succeeded: exit status 1 says that there is new behaviour"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, said)
    (tmp_path / "d").rmdir()
    done = run(tmp_path, *new, "5")
    assert done.stderr.splitlines()[-1] == "the program failed, exit status 5: the exit status is its own"
    assert done.returncode == 5


def test_a_policy_that_is_gone_is_said(tmp_path: Path) -> None:
    words = ("learn", "-o", "it.policy", "true")
    assert "is gone" not in run(tmp_path, *words).stderr
    (tmp_path / "it.policy").unlink()
    assert "learn: it.policy does not exist, but .callfence/it.rec does" in run(tmp_path, *words).stderr
    (tmp_path / "it.policy").unlink()
    assert "is gone" not in run(tmp_path, "learn", "--fresh", "-o", "it.policy", "true").stderr


@pytest.mark.parametrize(("words", "red"), [(("diff", "a.policy", "b.policy"), "danger"), (("lint", "b.policy"), "danger")])
def test_dangers_are_red_on_a_terminal(words: tuple[str, ...], red: str, tmp_path: Path) -> None:
    (tmp_path / "a.policy").write_text("read: allow\n")
    (tmp_path / "b.policy").write_text("read: allow\nptrace: allow\n")
    plain = subprocess.run([*CALLFENCE, *words], cwd=tmp_path, capture_output=True, timeout=60, check=False).stdout
    shown = on_a_terminal(tmp_path, words, {})
    (line,) = [line for line in shown.splitlines() if f"{red}: ".encode() in line][:1]
    assert line.startswith(b"\x1b[1;31m")
    assert b"\x1b" not in plain
    assert on_a_terminal(tmp_path, words, {"NO_COLOR": "1"}).replace(b"\r\n", b"\n") == plain


def test_denials_are_red_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "true.policy").write_text("exit_group: allow\n")
    enforce = str(Path(sys.executable).parent / "enforce")
    for environment, start in (({}, b"\x1b[1;31menforce: denied "), ({"NO_COLOR": "1"}, b"enforce: denied ")):
        shown = on_a_terminal(tmp_path, ("true",), environment, [enforce])
        assert shown.startswith(start), shown
        assert b"to allow it: callfence allow true.policy" in shown
        assert (b"\x1b" in shown) is (not environment)


def on_a_terminal(
    folder: Path, words: tuple[str, ...], environment: dict[str, str], command: list[str] = CALLFENCE
) -> bytes:
    """What a command writes to a terminal."""
    master, slave = pty.openpty()
    plain = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    with subprocess.Popen(
        [*command, *words], cwd=folder, stdin=slave, stdout=slave, stderr=slave, env=plain | {"TERM": "xterm"} | environment
    ):
        os.close(slave)
        found = b""
        try:
            while piece := os.read(master, 4096):
                found += piece
        except OSError:  # EIO: it has ended
            pass
    os.close(master)
    return found


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("lint", "--acepted", "a.policy"), " error: unrecognized arguments: --acepted; did you mean --accepted?\n"),
        (("enforce", "--audti", "true"), "enforce: unknown option --audti: did you mean --audit?\n"),
        (("merge", "--zzz", "a.policy"), "callfence merge: error: unrecognized arguments: --zzz\n"),
    ],
)
def test_a_misspelt_option_of_other_commands(words: tuple[str, ...], hint: str, tmp_path: Path) -> None:
    assert run(tmp_path, *words).stderr.endswith(hint)


def test_an_architecture_by_another_name(tmp_path: Path) -> None:
    """`arm64` resembles `arm`, which is that of 32-bit programs."""
    (tmp_path / "a.policy").write_text("read: allow\n")
    said = "argument --to: 'arm64' is not one of x86_64, i386, aarch64, arm; it is written aarch64\n"
    assert run(tmp_path, "carry", "--to", "arm64", "a.policy").stderr.endswith(said)


@pytest.mark.parametrize(
    "words",
    [
        ("report", "-o", "./a.policy", "a.policy"), ("report", "--against", "a.policy", "-o", "a.policy", "b.policy"),
        ("export", "--to", "oci", "-o", "a.policy", "a.policy"), ("export", "--to", "oci", "--losses", "a.policy", "a.policy"),
        ("compile", "-o", "a.policy", "a.policy"), ("import", "--from", "oci", "-o", "a.policy", "a.policy"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_is_read_is_not_overwritten(words: tuple[str, ...], tmp_path: Path) -> None:
    for name in ("a.policy", "b.policy"):
        (tmp_path / name).write_text("read: allow\n")
    done = run(tmp_path, *words)
    written = "./a.policy" if "./a.policy" in words else "a.policy"
    said = f"callfence {words[0]}: {written} is the file that is read, and would be lost: name another file to write to\n"
    assert (done.returncode, done.stderr, (tmp_path / "a.policy").read_text()) == (2, said, "read: allow\n")


def test_two_revisions_have_two_dots_between_them(tmp_path: Path) -> None:
    said = "callfence diff: --git main...topic: two revisions are written OLD..NEW, with two dots\n"
    assert run(tmp_path, "diff", "--git", "main...topic", "a.policy").stderr == said


NAME = "b\udcff.policy"


@pytest.mark.parametrize(
    "words",
    [
        ("lint", NAME), ("lint", "--format", "json", NAME), ("lint", "--format", "sarif", NAME), ("show", "--check", NAME),
        ("diff", "--format", "md", "a.policy", NAME), ("diff", "--format", "sarif", "a.policy", NAME),
        ("allow", NAME, "write: allow"), ("review", "--accept-all", "--against", "a.policy", NAME), ("why", NAME, "read"),
        ("learn", "-o", NAME, "--default", "kill", "true"), ("learn", "--check", "-o", NAME, "true"),
        ("learn", "-q", "-o", "a.policy", "./b\udcff"), ("enforce", "-p", NAME, "true"), ("enforce", "-p", "b\udcff", "true"),
        ("report", "-o", "-", NAME), ("export", "--to", "systemd", NAME), ("verify", NAME, "b\udcff"), ("doctors\udcff",),
    ],
    ids=" ".join,
)  # fmt: skip
def test_names_that_are_not_utf8_are_printed_alike(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "a.policy").write_text("read: allow\n")
    (tmp_path / NAME).write_text("ptrace: allow\nread: allow\n")
    command = [*CALLFENCE, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=False)
    said = done.stdout + done.stderr
    shown = rb"(b|doctors)(\\\\?xff|%FF)" if "sarif" in words or "json" in words else rb"(b|doctors)\\xff"
    assert re.search(shown, said), said
    assert b"Traceback" not in said and b"udcff" not in said and b"\xff" not in said, said
