"""Which filters a program with phases begins with and has in each, and why a program cannot be traced."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace
from typing import Any

import pytest

from callfence.enforcer.arming import seized
from callfence.enforcer.arming.phase_plan import Plan, Stage
from callfence.enforcer.bpf import ALL_RUN, RETURN, assembled
from callfence.tracer.linux import SECCOMP_RET_ERRNO, SECCOMP_RET_USER_NOTIF

FAILS, NOTIFIES = (assembled([(RETURN, answer)]) for answer in (SECCOMP_RET_ERRNO | errno.EPERM, SECCOMP_RET_USER_NOTIF))


@pytest.mark.parametrize(
    ("silent", "is_quiet", "is_audit", "expected"),
    [
        (b"", False, False, (b"start", b"serving", NOTIFIES)),
        (b"", True, False, (b"start", b"serving", FAILS)),
        (b"silent", False, False, (b"silent", b"silent", FAILS)),
        (b"silent", True, False, (b"silent", b"silent", FAILS)),
        (b"", False, True, (ALL_RUN, ALL_RUN, NOTIFIES)),
        (b"silent", False, True, (ALL_RUN, ALL_RUN, FAILS)),
    ],
)
def test_what_is_installed(silent: bytes, is_quiet: bool, is_audit: bool, expected: tuple[bytes, bytes, bytes]) -> None:
    stage = Stage("serving", [(1, 2)], b"serving", silent)
    settings = {"is_quiet": is_quiet, "is_audit": is_audit, "is_optional": False, "has_own_filters": False}
    plan = Plan(b"start", silent, [stage], **settings, refusals=FAILS)
    assert (plan.installed, plan.installed_in(stage), plan.installed_refusals) == expected


def test_a_phase_with_other_filters_begins_as_before() -> None:
    assert Stage("serving", [], b"serving").facts == ("serving", frozenset(), b"serving", False, False)
    for is_entered, is_notified in ((True, False), (False, True)):
        stage = Stage("serving", [(1, 2), (1, 3)], b"serving", is_entered=is_entered, is_notified=is_notified)
        assert stage.facts == ("serving", {(1, 2), (1, 3)}, b"serving", is_entered, is_notified)
        other = stage.with_filters(b"other", b"silent")
        assert (other.facts, other.silent) == (("serving", {(1, 2), (1, 3)}, b"other", is_entered, is_notified), b"silent")


@pytest.mark.parametrize(
    ("refusal", "tracer", "scope", "text"),
    [
        ("fork: Cannot allocate memory", "7", "3", "fork: Cannot allocate memory"),
        ("pidfd_open: Too many open files", "", "1", "pidfd_open: Too many open files"),
        ("pipe2: Too many open files in system", "", "1", "pipe2: Too many open files in system"),
        ("ptrace: No", "7", "3", "this process is already traced by pid 7, so {}"),
        ("ptrace: No", "", "2", "/proc/sys/kernel/yama/ptrace_scope is 2, so {}"),
        ("ptrace: No", "", "3", "/proc/sys/kernel/yama/ptrace_scope is 3, so {}"),
        ("ptrace: No", "", "1", "ptrace: No: ptrace is denied here (by a container?), so {}"),
        ("ptrace: No", "", "", "ptrace: No: ptrace is denied here (by a container?), so {}"),
    ],
)
def test_why_a_program_cannot_be_confined_at_its_execve(
    monkeypatch: pytest.MonkeyPatch, refusal: str, tracer: str, scope: str, text: str
) -> None:
    monkeypatch.setattr(seized, "tracer", lambda: tracer)
    monkeypatch.setattr(seized.linux, "yama_scope", lambda: scope)
    advice = "the filter cannot be installed at the execve; use --arm now, with a policy that allows execve"
    error = seized._explained(refusal)
    assert (str(error), error.call) == (text.format(advice), "ptrace")


@pytest.mark.parametrize(("listed", "pid"), [({"TracerPid": "0"}, ""), ({}, ""), ({"TracerPid": "70"}, "70")])
def test_who_traces_this_process(monkeypatch: pytest.MonkeyPatch, listed: dict[str, str], pid: str) -> None:
    monkeypatch.setattr(seized, "fields", lambda path: {"/proc/self": listed}[path])
    assert seized.tracer() == pid


@pytest.mark.parametrize(
    ("answers", "result"),
    [
        ([b"70\n", b"ok\n"], b"filter"),
        ([b"70\n", b"ok 70 71\n"], b"shield 70 71, filter"),
        ([b"70\n", b"ok 70 71\n", b"exec"], b"shield 70 71, filter"),
        ([b"70\n", b"ok 70 71\n", b"now"], b"shield 70 71, key, filter"),
        ([b""], "EnforceError: the helper process ended before it was ready, so the program was not run"),
        ([b"70\n", b""], "KernelError: explained: the helper process died"),
        ([b"70\n", b"okay"], "KernelError: explained: okay"),
        ([b"70\n", b"ptrace: No"], "KernelError: explained: ptrace: No"),
    ],
)
def test_what_the_helper_answers(monkeypatch: pytest.MonkeyPatch, answers: list[bytes], result: object) -> None:
    """The program permits its helper to trace it before it tells it to go on, and closes all pipes in any case."""
    before, done, left = {*os.listdir("/proc/self/fd")}, [], iter(answers)
    passing = SimpleNamespace(passing=lambda filter_, installs: b"key, " * installs + filter_)
    plan: Any = SimpleNamespace(key=passing) if len(answers) > 2 else None
    arm = answers[2].decode() if plan else "now"
    monkeypatch.setattr(seized.helper, "in_helper", lambda: False)
    monkeypatch.setattr(seized.kernel, "allow_tracer", done.append)
    monkeypatch.setattr(seized, "shielded", lambda filter_, pids: b"shield %d %d, " % (*pids,) + filter_)
    monkeypatch.setattr(seized, "_explained", lambda text: seized.KernelError(f"explained: {text}"))
    monkeypatch.setattr(seized.os, "read", lambda descriptor, most: next(left))
    monkeypatch.setattr(seized.os, "write", lambda descriptor, data: done.append(data))
    try:
        given: object = seized.be_seized(b"filter", None, arm=arm, stderr=2, plan=plan)
    except (seized.EnforceError, seized.KernelError) as error:
        given = f"{type(error).__name__}: {error}"
    monkeypatch.undo()
    assert given == result
    assert done == ([70, b"!"] if len(answers) > 1 else [])
    assert {*os.listdir("/proc/self/fd")} <= before
