"""`learn --phases`: the boundary is found, what falls away is marked, and later learning keeps to it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from calls import native

from callfence.tracer.abi import waits

PROGRAM = Path(__file__).parent.parent.parent / "enforcer" / "programs" / "phased.c"
CLONED = Path(__file__).parent / "programs" / "cloned.c"
START = ("socket", "fork", "socket")
"""A child goes on after the fork; only it waits."""
POLL = native("poll")


@pytest.fixture
def app(compile_c: Callable[..., Path], tmp_path: Path) -> Path:
    copy = tmp_path / "app"
    copy.write_bytes(compile_c(PROGRAM, "-pthread").read_bytes())
    copy.chmod(0o755)
    return copy


def callfence(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "callfence", *words]
    settings: dict[str, Any] = {"stdin": subprocess.DEVNULL, "timeout": 100, "capture_output": True, "text": True}
    return subprocess.run(command, cwd=folder, check=False, **settings)


def entries(folder: Path) -> list[str]:
    lines = (folder / "app.policy").read_text().splitlines()
    return lines[lines.index("") + 1 :]


def test_the_boundary_is_found(app: Path) -> None:
    done = callfence(app.parent, "learn", "--phases", "./app", *START, "poll", "status")
    assert f"  phases       serving after {POLL}: 1 of 4 entries are left, without clone\n" in done.stderr
    lines = [line for line in entries(app.parent) if line and not line.startswith("tcp ") and "until serving" not in line]
    assert lines == ["openat: flags == O_RDONLY"]
    rows = [json.loads(line) for line in (app.parent / ".callfence" / "app.rec").read_text().splitlines()]
    forked, in_poll = 1 << 28, 1 << 28 | 1 << waits.CANDIDATES.index(POLL)
    assert rows[1]["waits"] == [0, in_poll]
    assert {tuple(row["after"]) for row in rows[2:]} == {(0,), (0, forked), (0, forked, in_poll), (forked, in_poll), (in_poll,)}


def test_the_program_says_that_it_is_ready(app: Path) -> None:
    done = callfence(app.parent, "learn", "--phases", "./app", *START, "say", "notify", "status")
    assert "  phases       serving after sd_notify: " in done.stderr
    assert "phase serving after sd_notify\n" in (app.parent / "app.policy").read_text()
    assert "socketpair: family == AF_UNIX && type & 0xf == SOCK_DGRAM && protocol == 0 until serving" in entries(app.parent)
    again = callfence(app.parent, "learn", "./app", *START, "say", "notify", "status")
    assert "nothing" in again.stderr


def test_a_rehearsed_shutdown_is_part_of_the_phase(app: Path) -> None:
    rehearse = ("--rehearse", "--rehearse-only", "SIGTERM")
    callfence(app.parent, "learn", "-q", "--phases", *rehearse, "./app", "socket", "serve")
    assert any(line.startswith(f"{native('unlink')}: ") for line in entries(app.parent))
    assert "socket: family == AF_UNIX && type & 0xf == SOCK_STREAM && protocol == 0 until serving" in entries(app.parent)


SOCKET = "socket: family == AF_UNIX && type & 0xf == SOCK_STREAM && protocol == 0"


@pytest.mark.long
def test_what_a_thread_does_beside_the_one_that_waits_may_come_later(app: Path) -> None:
    callfence(app.parent, "learn", "-q", "--phases", "./app", "fork", "stay", "knock", "poll")
    assert SOCKET in entries(app.parent)
    done = callfence(app.parent, "enforce", "./app", "fork", "stay", "poll", "knock")
    assert "thread 0 \n" in done.stdout, done.stderr


def test_any_thread_that_waits_may_be_the_first_the_next_time(app: Path) -> None:
    """Knot makes a socket and polls; a thread that it started before sleeps by poll(2), mostly later."""
    callfence(app.parent, "learn", "-q", "--phases", "./app", "fork", "stay", "socket", "poll", "nap")
    assert SOCKET in entries(app.parent)
    done = callfence(app.parent, "enforce", "./app", "fork", "stay", "nap", "socket", "poll")
    assert "socket 0 \n" in done.stdout, done.stderr


def test_what_came_before_that_thread_or_from_one_that_has_ended_does_not(app: Path) -> None:
    for steps in (("socket", "stay", "poll"), ("thread", "wake", "poll")):
        (app.parent / "app.policy").unlink(missing_ok=True)
        callfence(app.parent, "learn", "-q", "--phases", "--fresh", "./app", "fork", *steps)
        assert f"{SOCKET} until serving" in entries(app.parent)


def test_a_thread_that_is_reported_as_a_fork_is_one(compile_c: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "app").write_bytes(compile_c(CLONED).read_bytes())
    (tmp_path / "app").chmod(0o755)
    done = callfence(tmp_path, "learn", "-q", "--phases", "./app")
    assert [line for line in entries(tmp_path) if line.startswith("mkdirat")] == ["mkdirat: allow"], done.stderr


def test_that_filters_of_its_own_may_prevent_it_is_said(app: Path) -> None:
    done = callfence(app.parent, "learn", "--phases", "./app", *START, "poll")
    policy = app.parent / "app.policy"
    policy.write_text(policy.read_text() + "seccomp: allow until serving\n")
    again = callfence(app.parent, "learn", "./app", *START, "poll")
    assert [text.count("it may install filters") for text in (done.stderr, again.stderr)] == [0, 1]


def test_what_is_seen_later_moves_into_the_phase(app: Path) -> None:
    callfence(app.parent, "learn", "-q", "--phases", "./app", *START, "poll")
    before = entries(app.parent)
    assert "socket: family == AF_UNIX && type & 0xf == SOCK_STREAM && protocol == 0 until serving" in before
    none = callfence(app.parent, "learn", "./app", "socket")
    assert "  phases       no process of this run has entered serving\n" in none.stderr
    again = callfence(app.parent, "learn", "./app", *START, "poll")
    assert ("nothing" in again.stderr, entries(app.parent)) == (True, before)  # warm: the start stops, and is known
    check = callfence(app.parent, "learn", "--check", "./app", "poll", "socket")
    assert "  (in serving as well)\n" in check.stderr
    callfence(app.parent, "learn", "-q", "./app", "poll", "socket")
    after = entries(app.parent)
    assert "socket: family == AF_UNIX && type & 0xf == SOCK_STREAM && protocol == 0" in after
    assert {*before} ^ {*after} == {line for line in (*before, *after) if line.startswith("socket")}
    assert callfence(app.parent, "enforce", "./app", "poll", "socket").stdout.endswith("socket 0 \n")


def test_each_run_with_the_option_chooses_anew(app: Path) -> None:
    callfence(app.parent, "learn", "-q", "--phases", "./app", *START, "poll", "sigsuspend")
    assert "phase serving after rt_sigsuspend\n" in (app.parent / "app.policy").read_text()
    done = callfence(app.parent, "learn", "--phases", "./app", *START, "poll", "socket")
    assert f"  phases       serving after {POLL}: " in done.stderr
    assert f"phase serving after {POLL}\n" in (app.parent / "app.policy").read_text()
    assert "socket: family == AF_UNIX && type & 0xf == SOCK_STREAM && protocol == 0" in entries(app.parent)


def test_a_phase_that_was_changed_by_hand_is_kept(app: Path) -> None:
    callfence(app.parent, "learn", "-q", "--phases", "./app", *START, "poll", "sigsuspend")
    policy = app.parent / "app.policy"
    policy.write_text(policy.read_text() + "ptrace: allow until serving\n")
    done = callfence(app.parent, "learn", "--phases", "./app", *START, "poll")
    assert "phase serving after rt_sigsuspend\n" in policy.read_text()
    assert "  phases       kept: the policy's phases differ from those that" in done.stderr


def test_who_accepts_connections_enters_the_phase(app: Path) -> None:
    """The first process only accepts; its child waits for a signal, too."""
    steps = ("socket", "accept", "fork", "sigsuspend")
    done = callfence(app.parent, "learn", "--phases", "./app", *steps)
    assert "  phases       serving after accept" in done.stderr
    policy = app.parent / "app.policy"
    policy.write_text(re.sub("after accept4?", "after rt_sigsuspend", policy.read_text()))
    done = callfence(app.parent, "learn", "--phases", "./app", *steps)
    assert "  phases       a process that accepts connections never entered serving, and keeps its start-up " in done.stderr


@pytest.mark.long
def test_merged_recordings_have_the_phase_that_learning_finds(app: Path) -> None:
    """Of a machine with a phase, and of one whose runs show no times: what only that did stays allowed."""
    for name, options, more in (("with", ("--phases",), ()), ("without", (), ("thread", "wake", "status"))):
        callfence(app.parent, "learn", "-q", *options, "-o", f"{name}.policy", "./app", *START, "poll", *more)
    learned = rules(app.parent / "with.policy")
    recordings = (".callfence/with.rec", ".callfence/without.rec")
    callfence(app.parent, "merge", "-o", "all.rec", *recordings)
    done = callfence(app.parent, "import", "--from", "recording", "all.rec")
    assert f"import: phases: serving after {POLL}: 2 of 4 entries are left, without clone; runs without" in done.stderr
    (app.parent / "printed.policy").write_text(done.stdout)
    callfence(app.parent, "import", "--from", "recording", "-o", "written.policy", "all.rec")
    for recording in recordings:
        callfence(app.parent, "import", "--from", "recording", "-o", "one-by-one.policy", recording)
    for name in ("printed", "written", "one-by-one"):
        assert f"phase serving after {POLL}\n" in (app.parent / f"{name}.policy").read_text()
        found = rules(app.parent / f"{name}.policy")
        assert found - learned == {"|| clone_flags == SIGCHLD until serving", THREADS, OPEN}, name
        assert learned - found == {f"{rule} until serving" for rule in ("clone: clone_flags == SIGCHLD", OPEN)}


THREADS = "clone: clone_flags == CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD"
OPEN = "openat: flags == O_RDONLY"


def rules(policy: Path) -> set[str]:
    lines = policy.read_text().splitlines()
    return {line.strip() for line in lines[lines.index("") + 1 :]}


def test_a_policy_with_a_phase_keeps_it_without_its_recording(app: Path) -> None:
    callfence(app.parent, "learn", "-q", "--phases", "./app", *START, "poll")
    (app.parent / ".callfence" / "app.rec").unlink()
    before = (app.parent / "app.policy").read_text()
    callfence(app.parent, "learn", "-q", "-o", "other.policy", "./app", *START, "poll")
    callfence(app.parent, "import", "--from", "recording", "-o", "app.policy", ".callfence/other.rec")
    assert (app.parent / "app.policy").read_text() == before


def test_no_phase_where_runs_disagree(app: Path) -> None:
    callfence(app.parent, "learn", "-q", "--phases", "./app", "socket", "sigsuspend")
    done = callfence(app.parent, "learn", "--phases", "./app", *START, "poll")
    assert "  phases       no phase: there is no call in which each run waits for work\n" in done.stderr
    assert "phase" not in (app.parent / "app.policy").read_text()


@pytest.mark.parametrize("options", [("--check",), ("--pid", "1")])
def test_options_that_exclude_it(app: Path, options: tuple[str, ...]) -> None:
    done = callfence(app.parent, "learn", "--phases", *options, *(() if "--pid" in options else ("./app",)))
    assert done.returncode == 125 and "--phases cannot be given with" in done.stderr
