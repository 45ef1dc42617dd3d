"""`enforce --log`: a line for each violation, JSON only, and nothing lost in silence."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest
from whole_records import records

from callfence.enforcer.kernel import landlock_abi
from callfence.tracer.abi import COMPAT, NATIVE
from tests.enforcer.conftest import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.enforcer.conftest import Workplace

FLOOR = "read: allow\nwrite: allow\nexit_group: allow\n"
ERRNO = "default errno EACCES\n" + FLOOR


def lines(path: Path) -> list[dict[str, object]]:
    return records(path)


def calls(path: Path) -> list[object]:
    """The denied calls of a log."""
    return [record["call"] for record in lines(path) if record["event"] == "denied"]


def test_one_call_does_not_silence_others(place: Workplace) -> None:
    """Each call has descriptions of its own; how many more there were is a line too."""
    place.policy(ERRNO)
    calls = [f"ioctl,{descriptor},{0x5401 + command}" for descriptor in range(2) for command in range(100)]
    done = place.enforce("--log", "log", place.calls(), *calls, "getppid")
    assert done.stderr == ""
    place.wait_for_helpers()
    found = lines(place.folder / "log")
    assert "getppid()" in [line.get("call") for line in found]
    assert sum(str(line.get("call")).startswith("ioctl(") and line["count"] == 1 for line in found) == 50
    (more,) = place.messages()
    assert more.endswith(f"more violations of ioctl ({NATIVE}) were not described")


def test_a_fifo_that_nobody_reads(place: Workplace) -> None:
    place.policy(ERRNO)
    os.mkfifo(place.folder / "fifo")
    done = place.enforce("--log", "fifo", place.calls(), "getppid", timeout=20)
    assert (done.returncode, done.stdout) == (125, "")
    assert "the log fifo cannot be opened: it is a FIFO that no process reads" in done.stderr


@pytest.mark.long
def test_a_fifo_whose_reader_is_slow_or_gone(place: Workplace) -> None:
    place.policy(ERRNO)
    os.mkfifo(place.folder / "fifo")
    reader = os.open(place.folder / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    calls = [f"mprotect,{4096 * page},1,{bits}" for page in range(40) for bits in range(8)]
    calls += [f"mmap,0,1,3,{bits}" for bits in range(100)]
    calls += [f"fcntl,{fd},{cmd}" for fd in range(3) for cmd in range(1030, 1090)]
    began = time.monotonic()
    done = place.enforce("--log", "fifo", place.calls(), *calls)
    assert done.stdout == "-13\n" * len(calls)
    assert time.monotonic() - began < 30
    content = os.read(reader, 1 << 20)
    os.close(reader)
    written = [json.loads(line) for line in content.decode().splitlines()]
    assert "records of the log could not be written" in done.stderr or len(written) > 100


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to mount a small file system")
def test_a_disk_that_becomes_full(place: Workplace) -> None:
    """No line is half written, and what was lost is reported."""
    place.policy(ERRNO)
    disk = place.folder / "disk"
    disk.mkdir()
    ends = f'while [ -n "$(find /proc/[0-9]*/fd -lname {disk}/log 2>/dev/null)" ]; do sleep 0.02; done'  # the helper has
    script = f'mount -t tmpfs -o size=16k none {disk} && "$@"; {ends}; cp {disk}/log copy'
    under = ("unshare", "--mount", "sh", "-c", script, "sh")
    calls = [f"mprotect,{4096 * page},1,{bits}" for page in range(6) for bits in range(8)]
    calls += [f"mmap,0,1,3,{bits}" for bits in range(99)]
    done = place.enforce("--log", f"{disk}/log", place.calls(), *calls, under=under)
    assert done.stdout == "-13\n" * len(calls)
    written = lines(place.folder / "copy")
    assert 5 < len(written) < len(calls)
    assert "records of the log could not be written" in done.stderr


def test_the_start_is_in_the_log_while_the_program_runs(place: Workplace) -> None:
    """Though nothing is denied."""
    place.policy(ERRNO)
    process = place.start("--log", "log", place.calls(), "wait")
    wait_until(lambda: [record["event"] for record in lines(place.folder / "log")] == ["start"])
    process.communicate("x", timeout=30)


def test_a_full_disk_is_told(place: Workplace) -> None:
    place.policy(ERRNO)
    done = place.enforce("--log", "/dev/full", place.calls(), "getppid", "getpid")
    assert (done.returncode, done.stdout) == (9, "-13\n" * 2)
    # The record of the end comes after the program, when standard error is no longer written to.
    assert done.stderr == "enforce: 3 records of the log could not be written\n"


def test_a_full_disk_is_told_though_nothing_is_denied(place: Workplace) -> None:
    place.policy(ERRNO)
    done = place.enforce("--log", "/dev/full", place.calls())
    assert done.stderr == "enforce: 1 record of the log could not be written\n"


def test_it_is_said_in_the_log_that_a_helper_was_replaced(place: Workplace) -> None:
    place.policy(ERRNO)
    process = place.start("--log", "log", place.calls(), "getppid", "wait", "getpid")
    assert process.stdout.readline() == "-13\n"
    place.both()
    os.kill(place.helper(), 9)
    output, errors = process.communicate("x", timeout=30)
    assert (output, errors) == ("-13\n", "")
    place.wait_for_helpers()
    start, first, message, second, end = lines(place.folder / "log")
    assert (start["event"], first["call"], second["call"]) == ("start", "getppid()", "getpid()")
    assert "replaced" in str(message["message"])
    assert (end["event"], end["status"], end["complete"]) == ("end", 9, False)


@pytest.mark.parametrize("begins_anew", ["moved", "removed", "replaced"])
def test_a_log_that_is_moved_is_begun_anew(place: Workplace, begins_anew: str) -> None:
    """As logrotate does it: what comes later is in a file of the same name, also after the helper was replaced."""
    place.policy(ERRNO)
    process = place.start("--log", "log", place.calls(), "getppid", "wait", "getpid", "wait", "getuid")
    assert process.stdout.readline() == "-13\n"
    wait_until(lambda: len(calls(place.folder / "log")) == 1)
    (place.folder / "log").rename(place.folder / "log.1")
    if begins_anew == "removed":
        (place.folder / "log.1").unlink()
    elif begins_anew == "replaced":
        (place.folder / "log").write_text('{"event": "message", "message": "begun by another"}\n')
    process.stdin.write("x")
    process.stdin.flush()
    assert process.stdout.readline() == "-13\n"
    wait_until(lambda: calls(place.folder / "log") == ["getpid()"])
    (place.folder / "log").rename(place.folder / "log.2")
    place.both()
    os.kill(place.helper(), 9)
    output, errors = process.communicate("x", timeout=30)
    assert (output, errors) == ("-13\n", "")
    place.wait_for_helpers()
    assert calls(place.folder / "log") == ["getuid()"]
    assert calls(place.folder / "log.2") == ["getpid()"]
    if begins_anew != "removed":
        assert calls(place.folder / "log.1") == ["getppid()"]


@pytest.mark.skipif(not landlock_abi(), reason="needs Landlock")
def test_a_log_is_not_opened_by_a_link_that_the_program_may_have_made(place: Workplace) -> None:
    place.policy("default allow\npath /: read, execute\npath ./data: write, create, remove, symlink\n")
    (place.folder / "data").mkdir()
    (place.folder / "data" / "log").symlink_to("../start-up")
    done = place.enforce("-p", "calls.policy", "--log", "data/log", "/bin/true")
    assert (done.returncode, (place.folder / "start-up").exists()) == (125, False)
    reason = "it is reached by a symbolic link, and the program may make or move such links there"
    assert f"the log data/log cannot be opened: {reason}" in done.stderr
    (place.folder / "link").symlink_to("start-up")
    assert place.enforce("-p", "calls.policy", "--log", "link", "/bin/true").returncode == 0
    assert (place.folder / "start-up").exists(), "where the program makes no links, they are followed"


@pytest.mark.parametrize("kind", ["a link", "a file with two names", "a folder"])
def test_a_log_is_not_begun_anew_in_another_file(place: Workplace, kind: str) -> None:
    place.policy(ERRNO)
    process = place.start("--log", "log", place.calls(), "getppid", "wait", "getpid")
    assert process.stdout.readline() == "-13\n"
    wait_until(lambda: len(calls(place.folder / "log")) == 1)
    (place.folder / "log").rename(place.folder / "log.1")
    (place.folder / "other").write_text("")
    if kind == "a link":
        (place.folder / "log").symlink_to("other")
    elif kind == "a folder":
        (place.folder / "log").mkdir()
    else:
        (place.folder / "log").hardlink_to(place.folder / "other")
    assert process.communicate("x", timeout=30) == ("-13\n", "")
    place.wait_for_helpers()
    assert (place.folder / "other").read_text() == ""
    assert calls(place.folder / "log.1") == ["getppid()", "getpid()"]


@pytest.mark.parametrize("arm", ["now", "exec", "entry"])
@pytest.mark.parametrize("flags", [(), ("-m32",)], ids=["64", "32"])
def test_audit_that_lost_a_report_ends_with_125(place: Workplace, arm: str, flags: tuple[str, ...]) -> None:
    arches = (COMPAT, NATIVE) if flags else (NATIVE,)
    place.policy("default errno EACCES\n" + "".join(f"arch {one}\n{FLOOR}execve: allow\n" for one in arches))
    target = place.calls(*flags)
    done = place.enforce("--audit", "--arm", arm, "--log", "/dev/full", target, "getppid")
    assert (done.returncode, done.stdout.strip().isdigit()) == (125, True)
    assert "2 records of the log could not be written" in done.stderr
    done = place.enforce("--audit", "--arm", arm, "--log", "log", target, "getppid")
    assert (done.returncode, done.stdout.strip().isdigit()) == (9, True)
    place.wait_for_helpers()
    assert calls(place.folder / "log") == ["getppid()"]


@pytest.mark.parametrize("arm", ["now", "exec", "entry"])
@pytest.mark.parametrize("flags", [(), ("-m32",)], ids=["64", "32"])
@pytest.mark.parametrize("before", [(), ("poll,0,0,0",)], ids=["start", "serving"])
def test_audit_that_lost_a_report_in_a_phase_ends_with_125(
    place: Workplace, before: tuple[str, ...], arm: str, flags: tuple[str, ...]
) -> None:
    lines = f"{FLOOR}execve: allow\npoll: allow\ngetuid: allow until serving\n"
    arches = (COMPAT, NATIVE) if flags else (NATIVE,)
    place.policy("default errno EACCES\nphase serving after poll\n" + "".join(f"arch {one}\n{lines}" for one in arches))
    target = place.calls(*flags)
    done = place.enforce("--audit", "--arm", arm, "--log", "/dev/full", target, *before, "getppid")
    assert (done.returncode, done.stdout.split()[-1].isdigit()) == (125, True)
    done = place.enforce("--audit", "--arm", arm, "--log", "log", target, *before, "getppid")
    assert (done.returncode, done.stdout.split()[-1].isdigit()) == (9, True)


def test_audit_whose_helper_was_killed_ends_with_125(place: Workplace) -> None:
    place.policy(ERRNO)
    process = place.start("--audit", place.calls(), "getppid", "wait", "getpid")
    assert process.stdout.readline().strip().isdigit()
    place.both()
    os.kill(place.helper(), 9)
    _, errors = process.communicate("x", timeout=30)
    assert process.returncode == 125
    assert "the helper process was killed and has been replaced" in errors


def test_audit_without_a_place_for_reports_ends_with_125(place: Workplace) -> None:
    place.policy(ERRNO)
    closed = ("sh", "-c", 'exec "$@" 2>&-', "sh")
    done = place.enforce("--audit", place.calls(), "getppid", under=closed)
    assert (done.returncode, done.stdout.strip().isdigit()) == (125, True)
    done = place.enforce("--audit", place.calls(), "wait", under=closed)
    assert done.returncode != 125


def test_audit_without_a_loss_keeps_every_exit_status(place: Workplace, build) -> None:
    """Also that of a process whose threads and children exit, and of one that a signal ends."""
    place.policy("default errno EACCES\n")
    for script, status in (("exit 3", 3), ("(exit 4); exit $?", 4), ("kill -TERM $$", -15), ("sh -c 'exit 5' & wait $!", 5)):
        done = place.enforce("--audit", "--log", "log", "-p", "calls.policy", "sh", "-c", script)
        assert done.returncode == status, done.stderr
