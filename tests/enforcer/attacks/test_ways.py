"""Ways to keep what the phase denies, to survive a kill, or to hold up the helper: ways/ways.c, one row a way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

INCLUDE = Path(__file__).parents[3] / "include"

POLICY = (
    "default {}\nimplied 1\nphase serving after epoll_wait\n{}clone: allow\nepoll_create1: allow\nepoll_pwait: allow\n"
    "epoll_wait: allow\nmmap: allow\nmprotect: allow\nopenat: allow\nrt_sigaction: allow\nsocket: allow until serving\n"
)
FAKING = "seccomp: allow\nsetgroups: allow\n"
COUNTED = "clock_nanosleep: allow\nioctl: allow\npread64: allow\nseccomp: allow\nuserfaultfd: allow\n"
LATER = "phase later after select\nlisten: allow until later\n"
ROOT = {"faking", "counted"}
"""What needs capabilities: CAP_SETGID, or CAP_SYS_PTRACE for userfaultfd(2)."""
KILLED = "cannot enter its phase and is killed, because "
SHARES = "it shares its memory with a process that is in a later phase"


@pytest.mark.long
@pytest.mark.parametrize(
    ("way", "default", "entries", "rounds", "status", "stdout", "stderr"),
    [
        ("plain", "errno EACCES", "", 1, (0,), "late: denied\n", ""),
        ("handlers", "kill", "", 2, (0,), "", f"{KILLED}{SHARES}"),  # SIGSYS is ignored from outside
        ("overwrite", "errno EACCES", "", 5, (0, -9), "late: denied\n", ""),  # it loses some races
        ("memory", "errno EACCES", "", 5, (-9,), "", f"{KILLED}{SHARES}"),
        ("behind", "errno EACCES", "", 1, (0,), "late: denied\n", f"{KILLED}{SHARES}"),
        ("behind", "errno EACCES", LATER, 1, (0,), "late: denied\n", f"{KILLED}{SHARES}"),
        ("orphaned", "errno EACCES", "wait4: allow\n", 1, (0,), "late: denied\n", f"{KILLED}{SHARES}"),
        ("leader", "errno EACCES", "", 1, (0,), "late: denied\n", ""),
        ("replaced", "errno EACCES", "execve: allow\n", 1, (1,), "late: denied\n", ""),
        ("untraced", "errno EACCES", "clone3: allow\n", 1, (0,), "", ""),
        ("listener", "errno EACCES", "seccomp: allow\n", 1, (-9,), "", f"{KILLED}a filter of its own notifies a listener"),
        ("faking", "errno EACCES", FAKING, 1, (-9,), "", f"{KILLED}a filter of its own prevents seccomp(2)"),
        ("counted", "errno EACCES", COUNTED, 5, (-9,), "", f"{KILLED}another of its threads installs a filter"),
        ("forbidding", "errno EACCES", "seccomp: allow\n", 1, (-31,), "", f"{KILLED}a filter of its own kills for a call that"),
    ],
)  # fmt: skip
def test_no_way_leads_around_the_phase(place, attacker, way, default, entries, rounds, status, stdout, stderr):
    if way in ROOT and os.getuid() != 0:
        pytest.skip("it takes root")
    (place.folder / attacker("ways/ways", f"-I{INCLUDE}")).rename(place.folder / "program")
    place.policy(POLICY.format(default, entries), "program.policy")
    for _ in range(rounds):
        done = place.enforce("-p", "program.policy", "./program", way, timeout=30)
        assert done.returncode in status, done.stderr
        assert done.stdout in ({stdout, ""} if -9 in status else {stdout}), done.stderr
        assert stderr in done.stderr
        place.wait_for_helpers(10)


@pytest.mark.long
def test_a_process_that_is_born_as_another_thread_enters_the_phase_does_not_stay_behind(place, attacker):
    """It shares the memory of its parent, and the helper heard of it too late (7 of 30 starts)."""
    (place.folder / attacker("ways/ways", f"-I{INCLUDE}")).rename(place.folder / "program")
    place.policy(POLICY.format("errno EACCES", ""), "program.policy")
    seen = ""
    for _ in range(25):
        done = place.enforce("-p", "program.policy", "./program", "born", timeout=30)
        assert (done.returncode, set(done.stdout.splitlines())) == (0, {"late: denied"}), done.stderr
        seen += done.stderr
    assert f"{KILLED}{SHARES}" in seen
