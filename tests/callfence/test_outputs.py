"""Where output goes: to closed and full streams, to a reader that has enough, to `-`; and what ^C leaves of it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from callfence.tracer.abi import NATIVE

CALLFENCE = f"{sys.executable} -m callfence"
POLICY = f"callfence 1\narch {NATIVE}\ntable 6.18\narm exec\ndefault kill\nunknown errno ENOSYS\n\nread: allow\nwrite: allow\n"
PRINTING = ("--help", "-V", "show --help", "help show", "show it.policy", "lint it.policy", "report it.policy", "why it.policy")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "it.policy").write_text(POLICY)
    return tmp_path


def shell(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "LC_ALL": "C.UTF-8"}
    environment.pop("PYTHONUNBUFFERED", None)
    line = line.replace("callfence ", f"{CALLFENCE} ", 1)
    command = ["sh", "-c", line]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("command", ["show", "lint", "why", "report"])
def test_what_the_encoding_does_not_have_is_escaped(folder: Path, command: str) -> None:
    (folder / "it.policy").rename(folder / "ö.policy")
    done = shell(folder, f"PYTHONIOENCODING=ascii callfence {command} ö.policy")
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1), done.stderr


@pytest.mark.parametrize("command", PRINTING)
@pytest.mark.parametrize(("where", "why"), [(">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")])
def test_what_cannot_be_printed_is_told(folder: Path, command: str, where: str, why: str) -> None:
    done = shell(folder, f"callfence {command} {where}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].endswith(f": standard output: {why}")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_git_setup_names_standard_output(folder: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    done = shell(folder, "PYTHONUNBUFFERED=1 callfence git-setup >/dev/full")
    assert (done.returncode, done.stderr) == (2, "callfence git-setup: standard output: No space left on device\n")


def test_an_empty_name_is_shown(folder: Path) -> None:
    assert shell(folder, "callfence show ''").stderr == "callfence show: '': No such file or directory\n"


def test_a_standard_input_that_was_closed(folder: Path) -> None:
    done = shell(folder, "callfence show - <&-")
    assert (done.returncode, done.stderr) == (2, "callfence show: -: Bad file descriptor\n")


def test_errors_do_not_go_to_standard_output_if_nobody_wants_them(folder: Path) -> None:
    told = shell(folder, "callfence export --to bpf it.policy | cksum")
    untold = shell(folder, "callfence export --to bpf it.policy 2>&- | cksum")
    assert told.stderr
    assert (untold.returncode, untold.stdout, untold.stderr) == (0, told.stdout, "")


@pytest.mark.parametrize("command", PRINTING)
def test_a_reader_that_has_gone(folder: Path, command: str) -> None:
    done = shell(folder, f"{{ callfence {command}; echo $? >&2; }} 2>it.err | true")
    assert done.returncode == 0
    assert (folder / "it.err").read_text().splitlines()[-1] in ("0", "141")
    assert "Traceback" not in (folder / "it.err").read_text()


def test_help_of_a_command(folder: Path) -> None:
    assert shell(folder, "callfence help show").stdout == shell(folder, "callfence show --help").stdout


@pytest.mark.parametrize("command", ["export --to oci", "report", "import --from oci"])
def test_an_output_named_by_a_dash_is_standard_output(folder: Path, command: str) -> None:
    if command.startswith("import"):
        (folder / "it.policy").write_text('{"defaultAction": "SCMP_ACT_ERRNO"}')
    plain = shell(folder, f"callfence {command} it.policy").stdout
    assert plain
    assert shell(folder, f"callfence {command} -o - it.policy").stdout == plain
    assert not (folder / "-").exists()


def test_learn_wants_a_file(folder: Path) -> None:
    done = shell(folder, "callfence learn -o - true")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("learn: -o -: learn cannot write a policy to standard output")
    assert not (folder / "-").exists()


def test_a_full_disk_for_the_summary_is_no_failure_to_learn(folder: Path) -> None:
    done = shell(folder, "callfence learn -o new.policy sh -c 'exit 3' 2>/dev/full")
    assert done.returncode == 3
    assert "openat: flags == O_RDONLY" in (folder / "new.policy").read_text()


def test_an_interrupt(folder: Path) -> None:
    """It ends a command as it ends a program that does not know of it, and without a word."""
    command = [sys.executable, "-m", "callfence", "show", "-"]
    process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None and process.stderr is not None
    with process:
        process.stdin.write(b"read: 1\n")
        process.stdin.flush()
        while fcntl.ioctl(process.stdin, termios.FIONREAD, b"....") != b"\0\0\0\0":  # it has not begun to read
            time.sleep(0.01)
        end = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end:  # between two reads, Python does not notice it
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
        said = process.stderr.read().decode()
    assert (process.returncode, said) == (-signal.SIGINT, "")
