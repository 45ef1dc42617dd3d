"""Programs that attack the helper, or how it kills: none survives the call that the policy kills for, and each is reported."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING

import pytest

from callfence.policygen.language.document import newest_table
from callfence.tracer import pids
from callfence.tracer.abi import NATIVE, table

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from tests.enforcer.conftest import Workplace

CALLS = [call.name for call in table(NATIVE).by_number.values() if call.name != "getppid"]
ALL_BUT_ONE = newest_table() + "".join(f"{name}: allow\n" for name in CALLS)
WITHOUT_FILTERS = newest_table() + "".join(f"{name}: allow\n" for name in CALLS if name not in ("seccomp", "prctl"))
CHANGING = {row.name for row in pids.rows(pids.CHANGES)}
NAMING_NOBODY = "".join(f"{name}: allow\n" for name in CALLS if name not in {"seccomp", *CHANGING}) + "prlimit64: pid == 0\n"
NAMING_NOBODY = newest_table() + NAMING_NOBODY
"""Under which the stand-in is started later than the program."""
NAMING_THE_HELPER = (
    "kill", "stop", "group", "everybody", "everybody_stop", "tkill", "tgkill", "sigqueue", "tgsigqueue", "pidfd",
    "descriptors", "processor", "memory", "filesize", "affinity", "scheduler", "parameters", "nice", "ioprio", "ptrace",
    "read_memory", "write_memory", "owner", "owner_group", "upper_half",
)


def attacked(place: Workplace, program: Path, name: str, policy: str) -> subprocess.Popen[str]:
    """The program, attacking the helper and the stand-in that it has."""
    place.policy(policy)
    process = place.start("-p", "calls.policy", program, name)
    assert process.stdout.readline() == "ready\n"
    helper = place.helper() if place.helpers() else 0
    others = [pid for pid in place.helpers() if pid != helper]
    process.stdin.write(f"{helper} {[*others, helper][0]}\n")
    process.stdin.flush()
    return process


@pytest.mark.parametrize("name", NAMING_THE_HELPER)
def test_calls_that_name_the_helper_fail(name: str, place: Workplace, build: Callable[..., Path]) -> None:
    process = attacked(place, build("hostile"), name, WITHOUT_FILTERS)
    output, errors = process.communicate(timeout=30)
    assert output == f"{errno.EPERM} {errno.EPERM} "
    assert process.returncode == -signal.SIGSYS
    assert "denied getppid(): the process is killed" in errors
    assert "replaced" not in errors


@pytest.mark.parametrize("name", ["own_filter", "own_filter_prctl"])
def test_a_filter_of_its_own_does_not_save_it(name: str, place: Workplace, build: Callable[..., Path]) -> None:
    """Its answer, an errno, would outrank a notification of the helper."""
    process = attacked(place, build("hostile"), name, ALL_BUT_ONE)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (-signal.SIGSYS, "")
    assert "install seccomp filters of its own, so a call for which it is killed is not explained" in errors


def test_a_tracer_cannot_take_the_signal_away(place: Workplace, build: Callable[..., Path]) -> None:
    process = attacked(place, build("hostile"), "traced", WITHOUT_FILTERS)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (0, f"{int(signal.SIGKILL)}\n")
    assert "denied getppid(): the process is killed" in errors


@pytest.mark.parametrize("attempt", range(20))
def test_a_thread_that_ignores_the_signal_in_time_does_not_save_it(
    attempt: int, place: Workplace, build: Callable[..., Path]
) -> None:
    process = attacked(place, build("hostile"), "flip", WITHOUT_FILTERS)
    output, errors = process.communicate(timeout=30)
    assert process.returncode in (-signal.SIGSYS, -signal.SIGKILL)
    assert output == ""
    assert "denied getppid(): the process is killed" in errors


@pytest.mark.parametrize("limit", ["RLIMIT_NOFILE", "RLIMIT_AS", "RLIMIT_FSIZE", "RLIMIT_STACK", "RLIMIT_DATA", "RLIMIT_NPROC"])
@pytest.mark.parametrize("policy", [WITHOUT_FILTERS, NAMING_NOBODY], ids=["naming others", "naming nobody"])
def test_it_kills_under_any_limit(policy: str, limit: str, place: Workplace, build: Callable[..., Path]) -> None:
    """That something else than the program has put on the helper."""
    import resource

    place.policy(policy)
    process = place.start("-p", "calls.policy", build("hostile"), "nothing")
    assert process.stdout.readline() == "ready\n"
    for pid in place.helpers():
        resource.prlimit(pid, getattr(resource, limit), (0, 0))
    output, errors = process.communicate("1 1\n", timeout=30)
    assert process.returncode in (-signal.SIGSYS, -signal.SIGKILL), (process.returncode, output, errors)
    assert output == "0 0 "


@pytest.mark.long
def test_a_limit_of_processor_time_replaces_it(place: Workplace, build: Callable[..., Path]) -> None:
    import resource

    place.policy("default errno EACCES\n" + WITHOUT_FILTERS)
    process = place.start("-p", "calls.policy", place.calls(), "wait", "30000xgetppid", "getppid")
    while "calls" not in (os.readlink(f"/proc/{process.pid}/exe")):
        pass
    resource.prlimit(place.helper(), resource.RLIMIT_CPU, (1, 1))
    output, errors = process.communicate("x", timeout=120)
    assert set(output.splitlines()) == {"-13"}
    assert "denied getppid(): it fails with EACCES" in errors


@pytest.mark.parametrize("name", ["open_memory", "open_descriptors"])
def test_its_memory_and_descriptors_are_not_open_to_its_user(
    name: str, place: Workplace, build: Callable[..., Path]
) -> None:
    under = ["--drop-caps"] if os.getuid() == 0 else []
    place.policy(WITHOUT_FILTERS)
    process = place.start(*under, "-p", "calls.policy", build("hostile"), name)
    assert process.stdout.readline() == "ready\n"
    helper = place.helper()
    output, _ = process.communicate(f"{helper} {helper}\n", timeout=30)
    assert output == f"{errno.EACCES} {errno.EACCES} "
    assert process.returncode == -signal.SIGSYS
