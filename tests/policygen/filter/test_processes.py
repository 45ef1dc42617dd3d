"""Which policies let a program change other processes than its own."""

from __future__ import annotations

import pytest

from callfence.policygen.filter.processes import names_processes
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.language.document import parse


def names(lines: str) -> bool:
    return names_processes(resolved(parse(lines).policy))


@pytest.mark.parametrize(
    "lines",
    [
        "prlimit64: allow",
        "prlimit64: pid != 0",
        "prlimit64: pid in {0, 1}",
        "sched_setaffinity: len == 8",
        "setpriority: which == PRIO_USER && who == 0",
        "setpriority: which == PRIO_PROCESS && who != 0",
        "ioprio_set: which == IOPRIO_WHO_USER && who == 0",
        "prctl: option == PR_SCHED_CORE",
        "kcmp: pid1 == 0",
        "pidfd_open: allow",
        "process_vm_readv: allow",
        "prlimit64: pid == 0 else notify",
        "default allow\nprlimit64: errno EPERM",
        "arch i386\nprlimit64: allow",
    ],
)
def test_it_can_change_another_process(lines: str) -> None:
    assert names(f"arch x86_64\n{lines}\n")


@pytest.mark.parametrize(
    "lines",
    [
        "",
        "prlimit64: pid == 0",
        "sched_setaffinity: pid == 0\nsched_setscheduler: pid == 0 && policy == SCHED_RR",
        "setpriority: which == PRIO_PROCESS && who == 0",
        "prctl: option in {PR_SET_NAME, PR_SET_DUMPABLE}",
        "kcmp: pid1 == 0 && pid2 == 0",
        "kill: allow\ntgkill: allow\npidfd_send_signal: allow\nfcntl: allow",
        "getpriority: allow\nwait4: allow\nsched_getaffinity: allow\nsetpgid: allow",
        "arch i386\nprlimit64: pid == 0",
    ],
)
def test_it_cannot(lines: str) -> None:
    assert not names(f"arch x86_64\n{lines}\n")


def test_the_kernel_ignores_the_upper_half_of_an_id() -> None:
    assert not names("arch x86_64\nprlimit64: pid & 0xffffffff == 0\n")
