"""What is said of each machine, without a task."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from callfence.tracer import machine
from callfence.tracer.abi import COMPAT, NATIVE, Arch
from callfence.tracer.machine import MACHINE
from callfence.tracer.machine.aarch64 import Arm
from callfence.tracer.machine.model import NO_CALL
from callfence.tracer.machine.x86_64 import X86

MACHINES = {"x86_64": X86(), "aarch64": Arm()}


def x86(**values: int) -> list[int]:
    registers = [0] * 27
    one = X86().native
    for name, value in values.items():
        registers[getattr(one, name)] = value & NO_CALL
    return registers


def test_this_machine_is_one_of_them() -> None:
    assert machine.IS_KNOWN
    assert type(MACHINE) is type(MACHINES[machine.NAME])
    assert (NATIVE.audit, COMPAT.audit) == tuple(one.audit for one in MACHINE.conventions)
    assert os.uname().machine in machine.UNKNOWN


@pytest.mark.parametrize("name", MACHINES)
def test_results_are_signed(name: str) -> None:
    for convention, bits in zip(MACHINES[name].conventions, (64, 32), strict=True):
        top = 1 << bits - 1
        values = {0: 0, 7: 7, top - 1: top - 1, top: -top, 2 * top - 14: -14, 2 * top - 1: -1, 2 * top: 0, 2 * top + 7: 7}
        assert {value: convention.signed(value) for value in values} == values


NAMES = {"x86_64": "X86", "i686": "X86", "aarch64": "Arm", "armv8l": "Arm", "riscv64": "X86"}
"""What uname(2) may say of a machine -> its class."""
ELSEWHERE = """
import os, sys
os.uname = lambda: os.uname_result(("Linux", "", "6.18", "", sys.argv[1]))
from callfence.tracer import machine
print(type(machine.MACHINE).__name__, machine.IS_KNOWN)
"""


@pytest.mark.parametrize("name", NAMES)
def test_the_machine_is_chosen_by_its_name(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, name], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [NAMES[name], str(name != "riscv64")]


@pytest.mark.parametrize("name", MACHINES)
def test_conventions(name: str) -> None:
    one = MACHINES[name]
    for convention, bits in zip(one.conventions, (64, 32), strict=True):
        arch = Arch.from_audit(convention.audit)
        assert arch
        assert arch.bits == 8 * convention.pointer == bits
        assert len({*convention.arguments}) == 6
        assert one.of(convention.audit) is convention
    assert one.of(0) is one.native
    assert one.native.number_of("mmap") == one.native.numbers["mmap"]
    assert one.compat.number_of("mmap") == one.compat.numbers["mmap2"]
    assert (one.native.signed(NO_CALL), one.compat.signed(0xFFFFFFFE), one.compat.signed(5)) == (-1, -2, 5)


def test_a_call_is_made_again_by_its_own_instruction() -> None:
    changed = X86().again(x86(ip=1000, result=-38, number=1))
    assert [changed[index] for index in (X86().native.ip, X86().native.result, X86().native.number)] == [998, 1, NO_CALL]
    registers = [*range(34), 64]
    changed = Arm().again(registers)
    assert changed[32] == 28
    assert changed[8] == 64, "x8, in which the program put the number"
    assert changed[0] == 0
    assert changed[34] == NO_CALL


@pytest.mark.parametrize(
    ("result", "ip", "returned", "number"),
    [
        (512, 998, 7, NO_CALL),
        (513, 998, 7, NO_CALL),
        (514, 998, 7, NO_CALL),
        (516, 1000, -4 & NO_CALL, NO_CALL),
        (11, 1000, -11 & NO_CALL, 7),
    ],
)
def test_an_interrupted_call_of_x86_64_is_made_again(result: int, ip: int, returned: int, number: int) -> None:
    """By ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND; ERESTART_RESTARTBLOCK; EAGAIN."""
    one = X86().native
    changed = X86().after_interrupt(x86(ip=1000, result=-result, number=7))
    assert (changed[one.ip], changed[one.result], changed[one.number]) == (ip, returned, number)


def test_a_task_between_two_calls_stays_as_it_is() -> None:
    registers = x86(ip=1000, result=-512, number=NO_CALL)
    assert X86().after_interrupt(registers) == registers
    assert Arm().after_interrupt([5] * 35) == [5] * 35


def test_a_call_elsewhere_is_no_target_of_a_jump() -> None:
    """At the entry point of a program with BTI, to which the loader has jumped."""
    registers = [*range(34), NO_CALL]
    registers[33] = 0x60000800
    assert Arm().anywhere(registers) == [*range(33), 0x60000000, NO_CALL]
    assert X86().anywhere(x86(ip=1)) == x86(ip=1)
    thumb = [0x800] * 19
    assert Arm().anywhere(thumb) == thumb


def test_modes_of_32_bit_tasks() -> None:
    arm, thumb = [0] * 19, [0] * 19
    thumb[16] = 1 << 5
    assert Arm().convention(arm) is Arm().compat
    assert Arm().convention(thumb).instruction == b"\x00\xdf"
    assert Arm().of_call(Arm().compat.audit, thumb).instruction == b"\x00\xdf"
    assert Arm().target(Arm().compat, 0x8001) == (0x8000, Arm().convention(thumb))
    assert Arm().target(Arm().convention(thumb), 0x8000) == (0x8000, Arm().compat)
    assert Arm().target(Arm().native, 0x8001) == (0x8001, Arm().native)
    in_64_bit_code = x86()
    in_64_bit_code[17] = 0x33
    assert X86().convention(in_64_bit_code) is X86().native
    assert X86().of_call(X86().compat.audit, in_64_bit_code) is X86().compat, "int 0x80 of a 64-bit program"


def test_who_steps_through_its_own_instructions() -> None:
    """By TF of the flags (asm/processor-flags.h), or PSTATE.SS (asm/ptrace.h)."""
    registers = x86()
    assert not X86().is_stepping(registers)
    registers[18] = 1 << 8
    assert X86().is_stepping(registers)
    registers[18] = 0xFFFF & ~(1 << 8)
    assert not X86().is_stepping(registers)
    of_arm = [0] * 35
    assert not Arm().is_stepping(of_arm)
    of_arm[33] = 1 << 21
    assert Arm().is_stepping(of_arm)
    assert not Arm().is_stepping([1 << 21] * 19), "of a 32-bit task they are others"


def test_what_call_frame_information_names() -> None:
    """x86-64 psABI, 3.6.2: rbp, rsp, the return address; AArch64 DWARF, 4.1: x29, SP, x30; of an address, 48 bits."""
    assert {name: one.unwinding for name, one in MACHINES.items()} == {
        "x86_64": (6, 7, 16, 0xFFFFFFFF_FFFFFFFF), "aarch64": (29, 31, 30, 0xFFFF_FFFFFFFF),
    }  # fmt: skip
    assert NO_CALL == 0xFFFFFFFF_FFFFFFFF


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x86_64", (0xC000003E, 8, "0f05", "cc", True, (14, 13, 12, 7, 9, 8), 16, 19, 4, -1, 10, 15, 10)),
        ("i386", (0x40000003, 4, "cd80", "cc", True, (5, 11, 12, 13, 14, 4), 16, 19, 4, -1, 10, 15, 10)),
        ("aarch64", (0xC00000B7, 8, "010000d4", "000020d4", False, (0, 1, 2, 3, 4, 5), 32, 31, 29, 30, 0, 34, 8)),
        ("arm", (0x40000028, 4, "000000ef", "f001f0e7", False, (0, 1, 2, 3, 4, 5), 15, 13, -1, 14, 0, 18, 7)),
    ],
)
def test_where_the_registers_of_a_convention_are(name: str, expected: tuple[object, ...]) -> None:
    """In sys/user.h: struct user_regs_struct; in asm/ptrace.h: struct user_pt_regs, and r0 to r17 of arm, then the number."""
    (one,) = (each for machine_ in MACHINES.values() for each in machine_.conventions if Arch.from_audit(each.audit) == name)
    fields = (
        one.audit, one.pointer, one.instruction.hex(), one.breakpoint.hex(), one.is_past, one.arguments, one.ip, one.sp,
        one.frame, one.link, one.result, one.number, one.selects,
    )  # fmt: skip
    assert fields == expected
