"""The commands of a review, on a program that is learned once: why, allow, lint, learn --check."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from callfence.policygen.language.document import parse_file
from callfence.tracer.abi import COMPAT, NATIVE, table
from tests.formats.outputs import check_output

CALLFENCE = [sys.executable, "-m", "callfence"]
PROGRAM = ("sh", "-c", "read line < /proc/self/cmdline; kill -0 $$; exit ${STATUS:-0}")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*CALLFENCE, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learned")
    assert run(folder, "learn", "-q", "-o", "it.policy", *PROGRAM).returncode == 0
    return folder


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_why_tells_run_program_place_and_example(learned: Path) -> None:
    done = run(learned, "why", "it.policy", "kill")
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines[0] == "kill: sig == 0"
    assert lines[1] == "learned; at least 1 call in run 1"
    assert re.match(r"(sh \()?\S*/(sh|dash)\)?, first at (sh|dash)\+0x", lines[2]), "not libc, which makes the call"
    assert lines[3].startswith("kill(pid=") and lines[3].endswith(", sig=0)")
    assert "wider than recorded: pid: any value" in lines
    (ran,) = (line for line in lines if line.startswith("run 1"))
    assert "status 0" in ran and "sh -c" in ran


def test_why_tells_what_is_implied_and_handwriting(learned: Path, tmp_path: Path) -> None:
    text = (learned / "it.policy").read_text()
    (tmp_path / "it.policy").write_text(text.replace("kill: sig == 0", "kill: sig == 0 && pid > 0") + "sync: allow\n")
    (tmp_path / ".callfence").symlink_to(learned / ".callfence")
    assert "implied 1: ends the thread, the process" in run(tmp_path, "why", "it.policy", "exit").stdout
    assert "written by hand" in run(tmp_path, "why", "it.policy", "sync").stdout
    assert "changed by hand" in run(tmp_path, "why", "it.policy", "kill").stdout
    whole = run(tmp_path, "why", "it.policy").stdout
    assert "changed by hand" in whole and "sync: allow" in whole


def test_why_of_a_call_newer_than_the_table(tmp_path: Path) -> None:
    (tmp_path / "it.policy").write_text("arch x86_64\ntable 5.10\ndefault allow\nread: allow\n")
    assert "so its `unknown` applies: errno ENOSYS" in run(tmp_path, "why", "it.policy", "cachestat").stdout
    assert "so its `unknown`, for calls newer" in run(tmp_path, "why", "it.policy", "cachestat(fd=0)").stdout


def test_why_without_an_entry(learned: Path) -> None:
    done = run(learned, "why", "it.policy", "reboot")
    assert (done.returncode, done.stdout) == (1, "reboot: the policy has no entry, so its default applies: kill\n")
    done = run(learned, "why", "it.policy", "reboto")
    assert done.returncode == 2
    assert "did you mean reboot?" in done.stderr


@pytest.mark.parametrize(
    ("call", "status", "said"),
    [
        ("enforce: denied kill(pid=7, sig=SIGKILL): killed", 1, "condition not met: sig == 0 (sig is SIGKILL)"),
        ("kill(pid=7, sig=0)", 0, "the policy says: allow"),
        ("reboot(magic1=1)", 1, "no entry"),
        ("kill(pid=7, sgi=0)", 2, "no argument sgi"),
        ("kil(pid=7)", 2, "did you mean kill"),
        ("kill(sig=SIGFOO)", 2, "SIGFOO"),
    ],
)
def test_why_a_call_is_denied(learned: Path, call: str, status: int, said: str) -> None:
    done = run(learned, "why", "it.policy", call)
    assert done.returncode == status
    assert said in done.stdout + done.stderr


def test_why_names_values_by_the_rule_that_they_are_in(tmp_path: Path) -> None:
    rule = "family == AF_INET && type == SOCK_STREAM && protocol == IPPROTO_TCP"
    (tmp_path / "it.policy").write_text(f"socket: {rule}\n")
    said = run(tmp_path, "why", "it.policy", "socket(family=AF_INET6)").stdout
    mark = "condition not met: "
    fails = [line.strip().removeprefix(mark).rpartition(" (")[0] for line in said.splitlines() if mark in line]
    assert fails == rule.split(" && ")


def test_what_why_suggests_allows_the_call(learned: Path, tmp_path: Path) -> None:
    policy = tmp_path / "it.policy"
    policy.write_text((learned / "it.policy").read_text().replace("kill: ", "# liveness\nkill: "))
    call = "kill(pid=7, sig=SIGTERM)"
    said = run(tmp_path, "why", "it.policy", call).stdout.splitlines()[-1]
    command = shlex.split(said)
    assert command[-4:] == ["callfence", "allow", "it.policy", "kill: sig == SIGTERM"]
    done = run(tmp_path, *command[-3:])
    assert (done.returncode, done.stdout) == (0, "it.policy: kill\n  + kill: sig == SIGTERM\n")
    assert run(tmp_path, "why", "it.policy", call).returncode == 0
    assert "# liveness\nkill: sig == 0\n   || sig == SIGTERM\n" in policy.read_text()
    before = state(tmp_path)
    assert "already allowed" in run(tmp_path, "allow", "it.policy", "kill: sig == SIGTERM").stdout
    assert state(tmp_path) == before


def test_what_an_entry_constrains_stays_constrained(tmp_path: Path) -> None:
    (tmp_path / "a.policy").write_text("read: allow\n\narch i386\nread: fd == 0\n")
    said = run(tmp_path, "why", "--arch", "i386", "a.policy", "read(fd=5, buf=NULL, count=1)").stdout.splitlines()[-1]
    command = shlex.split(said)
    assert command[-3:] == ["i386", "a.policy", "read: fd == 5"]
    assert run(tmp_path, *command[-5:]).returncode == 0
    assert "read: fd == 0\n   || fd == 5\n" in (tmp_path / "a.policy").read_text()


def test_allow_covers_what_is_narrower(tmp_path: Path) -> None:
    (tmp_path / "a.policy").write_text("read: fd == 0  # input\n   || fd == 1\nclose: allow\n")
    done = run(tmp_path, "allow", "a.policy", "read: fd in {0, 1, 2}")
    assert done.stdout.splitlines()[1:] == ["  - read: fd == 0", "  - read: fd == 1", "  + read: fd in {0, 1, 2}"]
    assert "# input" in (tmp_path / "a.policy").read_text()


def test_what_is_refused_stays_refused(tmp_path: Path) -> None:
    (tmp_path / "a.policy").write_text("clone3: errno ENOSYS\nread: allow\n")
    before = state(tmp_path)
    done = run(tmp_path, "allow", "a.policy", "write: allow", "clone3: allow")
    assert (done.returncode, done.stdout) == (1, "")
    assert "clone3: errno ENOSYS" in done.stderr and "--force" in done.stderr
    assert state(tmp_path) == before
    assert run(tmp_path, "allow", "--force", "a.policy", "clone3: allow").returncode == 0
    entries = parse_file(tmp_path / "a.policy").policy.entries[NATIVE]
    assert entries[table(NATIVE).by_name["clone3"].number].action.kind == "allow"


@pytest.mark.parametrize(
    "line", ["read: deny", "read: errno EPERM", "read: fd == 0 else errno EPERM", "read: fd = 0", "", "red: allow"]
)
def test_lines_that_do_not_just_allow(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.policy").write_text("close: allow\n")
    before = state(tmp_path)
    done = run(tmp_path, "allow", "a.policy", line)
    assert done.returncode == 2
    assert done.stderr.startswith("LINE:1:")
    assert state(tmp_path) == before


def test_a_line_of_another_architecture_opens_its_section(tmp_path: Path) -> None:
    (tmp_path / "a.policy").write_text("close: allow\n")
    assert run(tmp_path, "allow", "a.policy", f"arch {COMPAT}\nread: fd == 0").returncode == 0
    assert list(parse_file(tmp_path / "a.policy").policy.entries) == [NATIVE, COMPAT]


def test_lint_formats_and_status(tmp_path: Path) -> None:
    (tmp_path / "a.policy").write_text("path .: read\n\n# a comment\nsys_ptrace: allow\nexecve: allow  # why: a shell\n")
    done = run(tmp_path, "lint", "a.policy")
    assert done.returncode == 1
    assert done.stdout.startswith("a.policy:4: danger: ptrace: it reads and changes")
    assert "execve" not in done.stdout
    assert done.stdout.endswith("1 danger; 1 accepted\n")
    done = run(tmp_path, "lint", "--format", "json", "--accepted", "a.policy")
    found = check_output("lint", done.stdout)["findings"]
    assert [(one["rule"], one["line"], one["accepted"]) for one in found] == [
        ("ptrace", 4, None),
        ("execute", 5, "a shell"),
    ]
    (tmp_path / "a.policy").write_text("read: allow\n")
    assert run(tmp_path, "lint", "a.policy").returncode == 0
    (tmp_path / "b.policy").write_text("read: fd = 0\n")
    assert run(tmp_path, "lint", "a.policy", "b.policy").returncode == 2


def test_check_finds_nothing_new_and_writes_nothing(learned: Path) -> None:
    before = state(learned)
    done = run(learned, "learn", "--check", "-o", "it.policy", *PROGRAM)
    assert (done.returncode, done.stderr) == (0, "it.policy: nothing new\n")
    assert state(learned) == before


def test_check_tells_what_is_new_and_how_to_accept_it(learned: Path, tmp_path: Path) -> None:
    (tmp_path / "it.policy").write_bytes((learned / "it.policy").read_bytes())
    before = state(tmp_path)
    script = "read line < /proc/self/cmdline; kill -0 $$; kill -s WINCH $$; kill -s CONT $$; exit $0"
    for status, expected in (("0", 1), ("5", 5)):
        done = run(tmp_path, "learn", "--check", "-o", "it.policy", "sh", "-c", script, status)
        assert done.returncode == expected, done.stderr
        assert "  + kill: sig == SIGCONT\n  +    || sig == SIGWINCH\n" in done.stderr
        assert state(tmp_path) == before
    command = done.stderr.splitlines()[-2]
    subprocess.run(command.replace("learn", f"{sys.executable} -m callfence learn", 1), shell=True, cwd=tmp_path, check=False)
    assert run(tmp_path, "learn", "--check", "-q", "-o", "it.policy", "sh", "-c", script, "0").returncode == 0


def test_check_needs_a_policy(tmp_path: Path) -> None:
    done = run(tmp_path, "learn", "--check", "touch", "ran")
    assert done.returncode == 125
    assert "no policy to compare with" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_reader_that_has_enough(tmp_path: Path) -> None:
    (tmp_path / "a.policy").write_text("socket: allow\nptrace: allow\n")
    many = " ".join(["a.policy"] * 40)  # more than a pipe holds (pipe(7)), so that it is closed before all is written
    shell = f"{sys.executable} -m callfence lint --format json {many} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("141\n", "")


def test_lint_shows_a_reason_that_comes_with_the_change(tmp_path: Path) -> None:
    (tmp_path / "old.policy").write_text("path .: read\nexecve: allow  # why: hooks\n")
    (tmp_path / "new.policy").write_text("path .: read\nexecve: allow  # why: hooks\nptrace: allow  # why: a debugger\n")
    assert run(tmp_path, "lint", "new.policy").stdout == "no findings; 2 accepted\n"
    done = run(tmp_path, "lint", "--against", "old.policy", "new.policy")
    assert done.returncode == 0
    assert done.stdout.startswith("new.policy:3: danger: ptrace: it reads and changes")
    assert "accepted in this change, for this reason: a debugger" in done.stdout
    assert "hooks" not in done.stdout
    log = json.loads(run(tmp_path, "lint", "--against", "old.policy", "--format", "sarif", "new.policy").stdout)
    suppressed = {one["ruleId"]: "suppressions" in one for one in log["runs"][0]["results"]}
    assert suppressed == {"ptrace": False, "execute": True}


@pytest.mark.parametrize(
    ("settings", "status", "said"),
    [
        ("", 0, "it.policy: table 5.10 -> 6.18: other calls that Linux 6.18 has and 5.10 has not get `default` (kill)"),
        ("default allow\n", 2, "newer than the policy's table, and with a newer table `default` lets all such calls run"),
        ("unknown allow\n", 0, "it.policy: cachestat: already allowed"),
    ],
)
def test_allow_of_a_call_newer_than_the_table(settings: str, status: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "it.policy").write_text(f"arch x86_64\ntable 5.10\n{settings}read: allow\n")
    done = run(tmp_path, "allow", "it.policy", "cachestat: allow")
    assert (done.returncode, said in done.stdout + done.stderr) == (status, True), done


@pytest.mark.parametrize(("line", "version"), [("listns: flags == 0", "6.19"), ("arch x86_64\nfchroot: allow", "7.3")])
def test_allow_of_a_call_that_came_after_what_new_policies_name(line: str, version: str, tmp_path: Path) -> None:
    (tmp_path / "it.policy").write_text("arch x86_64\ntable 6.18\nread: allow\n")
    done = run(tmp_path, "allow", "it.policy", line)
    assert (done.returncode, done.stderr) == (0, "")
    text = (tmp_path / "it.policy").read_text()
    assert f"\ntable {version}\n" in text and line.split("\n")[-1] in text
