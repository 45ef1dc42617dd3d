"""From what enforce logged back to the policy: `import --from violations`, `allow --log`, `review --log`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from callfence.tracer.abi import Arch, table

CALLFENCE = [sys.executable, "-m", "callfence"]
POLICY = "arch x86_64\nimplied 1\nexecve: allow\nexit_group: allow\nunlink: deny\n"


def violation(name: str, *arguments: int, policy: str = "app.policy", **other: Any) -> str:
    registers = [f"{register:#x}" for register in (*arguments, *[0] * (6 - len(arguments)))]
    found = {
        "version": 1, "event": "denied", "time": "2026-01-02T03:04:05.678+00:00",
        "arch": "x86_64", "number": table(Arch.X86_64).by_name[name].number,
        "arguments": registers, "executable": "/usr/bin/app", "site": "libc.so.6+0x10", "count": 1,
        "allow": [{"file": f"/etc/{policy}", "line": "x"}],
    }  # fmt: skip
    return json.dumps({**found, **other}) + "\n"


LOG = violation("mkdir", 1, 0o700) + violation("mkdir", 1, 0o755, count=2) + violation("connect", 3, 1, 16)


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CALLFENCE, *words], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "app.policy").write_text(f"# a comment\n{POLICY}")
    (tmp_path / "log").write_text(LOG)
    return tmp_path


def test_all_at_once(folder: Path) -> None:
    done = run(folder, "allow", "app.policy", "--log", "log")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "app.policy: connect\n  + connect: allow\napp.policy: mkdir\n  + mkdir: allow\n"
    text = (folder / "app.policy").read_text()
    assert text.startswith("# a comment\n") and "unlink: deny" in text
    assert (
        run(folder, "allow", "app.policy", "--log", "log").stdout
        == "app.policy: unchanged, because it already allows all calls in the log\n"
    )
    assert (folder / "app.policy").read_text() == text
    why = run(folder, "why", "app.policy", "mkdir").stdout
    assert "/usr/bin/app, first at libc.so.6+0x10" in why and "by hand" not in why


def test_one_call_of_several_machines(folder: Path) -> None:
    (folder / "log2").write_text(violation("rmdir", 1, time="2026-01-03T00:00:00+00:00"))
    both = ("--log", "log", "--log", "log2")
    done = run(folder, "allow", "app.policy", *both, "--only", "mkdir", "--only", "rmdir")
    assert done.returncode == 0
    assert [text for text in done.stdout.splitlines() if text.startswith("  ")] == ["  + mkdir: allow", "  + rmdir: allow"]
    done = run(folder, "allow", "app.policy", *both, "--only", "rename")
    assert (done.returncode, done.stderr) == (
        2, "callfence allow: there is no violation of rename in the log; the log has violations of: connect, mkdir, rmdir\n"
    )  # fmt: skip


def test_what_is_denied_explicitly_stays_denied(folder: Path) -> None:
    (folder / "log").write_text(violation("unlink", 1) + violation("mkdir", 1, 0o700))
    done = run(folder, "allow", "app.policy", "--log", "log")
    assert done.returncode == 1
    assert done.stderr == (
        "app.policy: not allowed: unlink(pathname=0x1): the policy denies it explicitly: unlink: deny\n"
    )
    assert "  + mkdir: allow" in done.stdout
    assert "unlink: deny" in (folder / "app.policy").read_text()


@pytest.mark.parametrize("command", [("allow",), ("review", "--accept-all")])
def test_what_would_let_other_calls_run_is_named(folder: Path, command: tuple[str, ...]) -> None:
    (folder / "app.policy").write_text("table 5.10\ndefault allow\nread: allow\n")
    (folder / "log").write_text(violation("cachestat", 1))
    done = run(folder, *command, "app.policy", "--log", "log")
    assert (done.returncode, "it is newer than the policy's table" in done.stdout + done.stderr) == (1, True)
    assert "table 5.10" in (folder / "app.policy").read_text()


def test_a_log_of_another_policy(folder: Path) -> None:
    before = (folder / "app.policy").read_text()
    (folder / "log").write_text(violation("mkdir", 1, 0o700, policy="redis.policy"))
    for command in (("allow",), ("review", "--accept-all")):
        done = run(folder, *command, "app.policy", "--log", "log")
        assert (done.returncode, "no violation of app.policy, but of redis.policy" in done.stderr) == (2, True)
    assert (folder / "app.policy").read_text() == before


@pytest.mark.long
def test_review_takes_all_or_nothing_without_a_terminal(folder: Path) -> None:
    before = (folder / "app.policy").read_text()
    done = run(folder, "review", "app.policy", "--log", "log")
    assert (done.returncode, "asking needs a terminal" in done.stderr) == (2, True)
    assert run(folder, "review", "--reject-all", "app.policy", "--log", "log").stdout == "app.policy: 2 rejected\n"
    assert (folder / "app.policy").read_text() == before
    assert not (folder / ".callfence").exists()
    assert run(folder, "review", "--accept-all", "app.policy", "--log", "log").stdout == "app.policy: 2 accepted\n"
    assert "mkdir: allow\n" in (folder / "app.policy").read_text()
    assert "nothing to review" in run(folder, "review", "app.policy", "--log", "log").stdout


def test_import_makes_a_recording_and_a_policy(folder: Path) -> None:
    done = run(folder, "import", "--from", "violations", "-o", "app.policy", "log")
    assert done.returncode == 0, done.stderr
    assert "connect: allow" in (folder / "app.policy").read_text()
    assert (folder / ".callfence" / "app.rec").exists()


def test_hostile_logs_change_nothing(folder: Path) -> None:
    before = (folder / "app.policy").read_text()
    for text in ("", "no log\n", violation("mkdir", 1, arch="\x1b[2J"), violation("mkdir", 1, executable=3), LOG + "[]\n"):
        (folder / "log").write_text(text)
        done = run(folder, "allow", "app.policy", "--log", "log")
        assert (done.returncode, done.stdout, "\x1b" in done.stderr) == (2, "", False)
        assert done.stderr.startswith("callfence allow: log")
    assert (folder / "app.policy").read_text() == before


@pytest.mark.parametrize("words", [("app.policy",), ("app.policy", "mkdir: allow", "--log", "log"),
                                   ("app.policy", "mkdir: allow", "--only", "mkdir"),
                                   ("app.policy", "--log", "log", "--force")])  # fmt: skip
def test_options_that_do_not_fit(words: tuple[str, ...], folder: Path) -> None:
    assert run(folder, "allow", *words).returncode == 2


def test_audit_then_allow_then_nothing_is_denied(tmp_path: Path) -> None:
    """From an audited run to a policy under which the same run passes, in one command."""
    enforce = Path(sys.executable).parent / "enforce"
    script = "mkdir d; echo x > d/f; rm d/f; rmdir d"
    program = ["sh", "-c", script]
    learned = run(tmp_path, "learn", "-q", "-o", "it.policy", "sh", "-c", "ls /; rm -f nothing")
    assert learned.returncode == 0, learned.stderr

    def enforced(*options: str) -> subprocess.CompletedProcess[bytes]:
        words = [enforce, *options, "-p", "it.policy", *program]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, timeout=60, check=False)

    audited = enforced("--audit", "--log", "log")
    assert audited.returncode == 0, audited.stderr
    done = run(tmp_path, "allow", "it.policy", "--log", "log")
    assert (done.returncode, "+ openat: flags == O_WRONLY\n" in done.stdout) == (0, True), done.stderr
    ended = enforced()
    assert (ended.returncode, ended.stderr) == (0, b"")
