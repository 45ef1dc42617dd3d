"""The instructions that keep the program from its helper."""

from __future__ import annotations

import errno

import pytest

from enforcer.chain import SHIELD
from enforcer.shield import shielded
from policygen.filter import bpf
from policygen.filter.bpf import Instruction
from tracer.abi import Arch, Event, table

ALLOW, DENIED = 0x7FFF0000, 0x00050000 | errno.EPERM
HELPER, STAND_IN, OTHER = 70001, 70002, 70003
FILTER = shielded(bpf.encode([Instruction(bpf.RET | bpf.K, k=ALLOW)]), (HELPER, STAND_IN))
PID_FIRST = (
    "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open", "prlimit64", "sched_setscheduler",
    "sched_setparam", "sched_setaffinity", "sched_setattr", "process_vm_readv", "process_vm_writev", "kill",
)
PID_SECOND = ["setpriority", "ioprio_set", "ptrace"]


def answer(arch: Arch, name: str, *arguments: int) -> int:
    registers = [argument & 0xFFFFFFFFFFFFFFFF for argument in arguments]
    event = Event(arch.audit, table(arch).by_name[name].number, (*registers, *[0] * (6 - len(registers))))
    return bpf.run(FILTER, event)


@pytest.mark.parametrize("arch", [Arch.X86_64, Arch.I386], ids=str)
@pytest.mark.parametrize("pid", [HELPER, STAND_IN])
def test_calls_that_name_the_helper_are_denied(arch: Arch, pid: int) -> None:
    for name in PID_FIRST:
        assert answer(arch, name, pid, 9) == DENIED, name
        assert answer(arch, name, pid | 0xABCD << 32, 9) == DENIED, f"{name}: the kernel ignores the upper half"
        assert answer(arch, name, OTHER, pid) == ALLOW, name
    for name in PID_SECOND:
        assert answer(arch, name, 0, pid) == DENIED, name
        assert answer(arch, name, pid, OTHER) == ALLOW, name
    assert answer(arch, "kill", -pid, 15) == DENIED, "its process group"
    for name in ("fcntl", *(["fcntl64"] if arch is Arch.I386 else [])):
        assert answer(arch, name, 3, 8, pid) == answer(arch, name, 3, 8, -pid) == DENIED, "F_SETOWN"
        assert answer(arch, name, 3, 2, pid) == ALLOW, "F_SETFD"


@pytest.mark.parametrize("arch", [Arch.X86_64, Arch.I386], ids=str)
def test_what_stops_every_process_is_denied(arch: Arch) -> None:
    assert answer(arch, "kill", -1, 9) == answer(arch, "kill", -1, 19) == DENIED
    for pid, signal in ((-1, 15), (-1, 0), (0, 9), (OTHER, 9), (-OTHER, 9)):
        assert answer(arch, "kill", pid, signal) == ALLOW


def test_no_other_call_changes() -> None:
    for arch in Arch:
        for number, call in table(arch).by_number.items():
            if arch is Arch.AARCH64 or call.name not in {*PID_FIRST, *PID_SECOND, "fcntl", "fcntl64"}:
                assert bpf.run(FILTER, Event(arch.audit, number, (HELPER,) * 6)) == ALLOW


def test_the_room_that_it_takes() -> None:
    assert len(FILTER) == 8 * (SHIELD + 1)
