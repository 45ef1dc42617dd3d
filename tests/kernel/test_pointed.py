"""What pointers point to, as `learn` records it and `enforce` reports it: hostile names, edges of memory, secrets."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from calls import native

from callfence.policygen.recording import recording_file
from callfence.tracer.abi import NATIVE, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Commands

SOURCE = Path(__file__).parent / "programs" / "pointed.c"
EXPECTED = {
    "connect": {
        "uservaddr=192.0.2.1:9",
        "uservaddr=[2001:db8::1:0:0:2]:9",
        'uservaddr=unix:"/sys/nonexistent/x.sock"',
        'uservaddr=unix:"@hidden"',
    },
    "bind": {"umyaddr=AF_NETLINK", "umyaddr=192.0.2.1:9"},
    "sendto": {"addr=192.0.2.1:9"},
    "sendmsg": {"msg=192.0.2.1:9"},
    "unlink": {'pathname="/edge"', 'pathname="/bad\\x1b[31m\\x0a\\x22name\\xff\\*"'},
    "rmdir": {'pathname="/tmp/sort*"', 'pathname="/' + "x" * 64 + '*"'},
    "chmod": {'filename="/across/pages"', 'filename="/proc/*/nothing"'},
    "mkdir": {'pathname="/tmp/sort*"'},
    "symlink": {'oldname=text:"../target"', 'newname="/sys/nonexistent/link"'},
    "mount": {'dev_name=text:"none"', 'dir_name="/sys/nonexistent"', 'type=text:"tmpfs"'},
    "unlinkat": {'pathname="/usr/lib/relative/name"', 'pathname="./here"'},
    "execve": {
        'filename="/sys/nonexistent/client"',
        'filename="/sys/nonexistent/git"',
        'filename="/sys/nonexistent/broken"',
        'argv=["client", "--password", ...]',
        'argv=["git", "commit", "-m", ...]',
    },
}
"""What each call's observations have to hold, and no more; several calls of x86_64 may be one elsewhere (unlinkat)."""
EXPECTED = {
    native(name): set().union(*(held for other, held in EXPECTED.items() if native(other) == native(name))) for name in EXPECTED
}


def evidence(recording: Path, program: Path) -> dict[str, set[str]]:
    """By call, what the pointers of one program's calls were recorded to point to."""
    found: dict[str, set[str]] = defaultdict(set)
    for seen in recording_file.load(recording).observations:
        if seen.executable == str(program):
            found[table(NATIVE).by_number[seen.number].name].update(seen.evidence)
    return found


@pytest.fixture
def program(compile_c: Callable[..., Path]) -> Path:
    return compile_c(SOURCE)


def test_learn_records_what_pointers_point_to(commands: Commands, program: Path, tmp_path: Path) -> None:
    ran = commands.learn(tmp_path / "p.policy", [program], tmp_path)
    assert ran.returncode == 0, ran.stderr
    found = evidence(tmp_path / ".callfence" / "p.rec", program)
    assert {name: found[name] for name in EXPECTED} == EXPECTED
    assert b"hunter2" not in (tmp_path / ".callfence" / "p.rec").read_bytes()


def test_learn_without_evidence(commands: Commands, program: Path, tmp_path: Path) -> None:
    commands.learn(tmp_path / "p.policy", [program], tmp_path, "--no-evidence")
    assert not any(evidence(tmp_path / ".callfence" / "p.rec", program).values())


def test_a_call_that_is_made_again_and_again_is_looked_at_a_few_times(
    commands: Commands, program: Path, tmp_path: Path
) -> None:
    """What is seen in the first of them is enough to say that there are many."""
    commands.learn(tmp_path / "p.policy", [program, "5000"], tmp_path)
    (seen,) = (
        one
        for one in recording_file.load(tmp_path / ".callfence" / "p.rec").observations
        if table(NATIVE).by_number[one.number].name == native("unlink")
    )
    assert seen.evidence == ('pathname="/sys/nonexistent/**"',)


@pytest.mark.parametrize("flags", [(), ("--audit",)])
def test_enforce_reports_what_pointers_point_to(
    commands: Commands, program: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    policy = tmp_path / "p.policy"
    commands.learn(policy, [program, "0"], tmp_path)
    policy.write_text(policy.read_text().replace("default kill", "default errno EPERM"))
    log = commands.enforce(policy, [program], tmp_path, *flags).violations
    denied: dict[str, set[str]] = {}
    for one in log:
        denied.setdefault(one["call"].partition("(")[0], set()).update(one["evidence"])
    told = {name: those for name, those in denied.items() if name in EXPECTED and name != "unlinkat"}  # in this test's folder
    assert told == {name: EXPECTED[name] for name in told}
    assert {"connect", "execve", "mount"} <= told.keys()
    assert "hunter2" not in str(log)


def test_a_report_shows_names_as_given(commands: Commands, program: Path, tmp_path: Path) -> None:
    policy = tmp_path / "p.policy"
    commands.learn(policy, [program, "0"], tmp_path)
    policy.write_text(policy.read_text().replace("default kill", "default errno EPERM"))
    ran = commands.plain([Path(sys.executable).parent / "enforce", "-p", policy, "--", program], tmp_path)
    lines = ran.stderr.decode().splitlines()
    first = "/edge" if native("unlink") == "unlinkat" else "here"  # of those that differ in the name alone
    assert f'enforce: denied unlinkat(dfd=AT_FDCWD, pathname="{first}", flag=0): it fails with EPERM' in lines
    assert (f'  "here" is {tmp_path}/here' in lines) == (first == "here")
    assert not any("\x1b" in line or "hunter2" in line for line in lines)


def test_a_report_without_evidence_shows_addresses(commands: Commands, program: Path, tmp_path: Path) -> None:
    policy = tmp_path / "p.policy"
    commands.learn(policy, [program, "0"], tmp_path)
    policy.write_text(policy.read_text().replace("default kill", "default errno EPERM"))
    log = commands.enforce(policy, [program], tmp_path, "--no-evidence").violations
    assert any(one["call"].startswith(("unlink(pathname=0x", "unlinkat(dfd=AT_FDCWD, pathname=0x")) for one in log)
    assert not any(one["evidence"] for one in log)
