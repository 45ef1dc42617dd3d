"""Calls of ours before a call of the program: memory for the filter, what the program's call returns, stops in between."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from callfence.enforcer.arming import detour
from callfence.enforcer.arming.detour import Detour
from callfence.enforcer.arming.inject import ALL_SIGNALS, Key
from callfence.enforcer.bpf import ALL_RUN, RETURN, assembled
from callfence.enforcer.errors import ArmError
from callfence.tracer import linux
from callfence.tracer.machine import MACHINE
from callfence.tracer.machine.model import NO_CALL, Registers
from callfence.tracer.stops import CALL, GROUP, SIGNAL, Stop

if TYPE_CHECKING:
    from callfence.tracer.machine.model import Convention

PAGE, HERE = 4096, 0x7F0000001000
UNPROTECTED = "ArmError: the memory of the filter could not be protected from changes"


class Patient:
    """A task at the entry of a call, with numbered registers; what is done to it is noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, convention: Convention = MACHINE.native, *stops: Stop) -> None:
        self.convention = convention
        self.registers: Registers = [*range(100, 140)]
        self.registers[convention.ip] = 0x401002
        self.written: list[Registers] = []
        self.masks: list[int] = []
        self.resumed: list[tuple[object, ...]] = []
        self.word = bytes(8 - len(convention.instruction)) + convention.instruction
        stops_left = iter([*stops, Stop(CALL)])
        monkeypatch.setattr(MACHINE, "registers", lambda pid: [*self.registers])
        monkeypatch.setattr(MACHINE, "of_call", lambda audit, registers: convention)
        monkeypatch.setattr(MACHINE, "set_registers", lambda pid, registers: self.written.append([*registers]))
        monkeypatch.setattr(detour.kernel, "peek", self.peek)
        monkeypatch.setattr(detour.kernel, "swap_signal_mask", lambda pid, mask: self.masks.append(mask) or 5)
        monkeypatch.setattr(detour, "resume", lambda way, pid: self.resumed.append((way, pid)))
        monkeypatch.setattr(detour, "go_on", lambda way, pid, stop: self.resumed.append((way, pid, stop.kind)))
        monkeypatch.setattr(detour.linux, "ptrace", lambda way, pid: self.resumed.append((way, pid)))
        self.stops: Any = SimpleNamespace(of=lambda pid: next(stops_left))
        self.key = Key()

    def peek(self, pid: int, address: int) -> int:
        assert (pid, address) == (7, 0x401002 - 8)
        return int.from_bytes(self.word, "little")

    def begin(self, *, calls: bool = True) -> Detour:
        return Detour(7, self.convention.audit, self.key, self.stops, calls=calls)


@pytest.mark.parametrize("convention", MACHINE.conventions)
def test_another_call_is_made_in_its_place_which_does_nothing(monkeypatch: pytest.MonkeyPatch, convention: Convention) -> None:
    patient = Patient(monkeypatch, convention)
    made = patient.begin()
    (written,) = patient.written
    arguments = [written[register] for register in convention.arguments]
    assert arguments == [0xFFFFFFFF, 0xFFFFFFFF, 0, *patient.key.spare(convention)]
    assert (written[convention.number], written[convention.ip]) == (convention.number_of("close_range"), 0x401002)
    assert (patient.masks, patient.resumed, made.is_confined) == ([ALL_SIGNALS], [(linux.PTRACE_SYSCALL, 7)], False)


def test_an_instruction_that_cannot_be_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    patient = Patient(monkeypatch)
    patient.word = bytes(8)
    with pytest.raises(ArmError, match="it made its call by an unusual instruction"):
        patient.begin()
    assert (patient.written, patient.masks, patient.resumed) == ([], [], [])
    patient.begin(calls=False)
    assert patient.masks == [ALL_SIGNALS]


@pytest.mark.parametrize("stopped", [False, True])
def test_it_goes_on_with_a_result_and_stops_again_if_its_process_was_stopped(
    monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    patient = Patient(monkeypatch, MACHINE.native, Stop(SIGNAL, 10), *[Stop(GROUP, 19)] * stopped)
    made, native = patient.begin(), MACHINE.native
    step = (linux.PTRACE_SYSCALL, 7)
    assert patient.resumed == [step, (*step, SIGNAL), *[step] * stopped]
    del patient.resumed[:]
    made.finish(-errno.EPERM)
    expected = [*patient.registers]
    expected[native.result], expected[native.number] = (1 << 64) - errno.EPERM, NO_CALL
    assert (patient.written[1:], patient.masks) == ([expected], [ALL_SIGNALS, 5])
    assert patient.resumed == [(linux.PTRACE_INTERRUPT, 7)] * stopped


def test_its_own_call_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    patient = Patient(monkeypatch)
    patient.begin().close()
    assert (patient.written[1:], patient.masks) == ([MACHINE.again(patient.registers)], [ALL_SIGNALS, 5])


class Calls:
    """What a task answers to calls, by name; `content`: what its memory has afterwards, None for what was written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, made: Detour, content: bytes | None = None, **answers: int) -> None:
        self.made: list[tuple[object, ...]] = []
        self.memory = (0, b"")
        self.content = content
        self.answers = {"mmap": HERE, "mprotect": 0, "munmap": 0, "seccomp": 9, **answers}
        monkeypatch.setattr(made, "call", self.call)
        monkeypatch.setattr(made, "write", self.write)
        monkeypatch.setattr(made, "read", lambda at, length: self.memory[1] if self.content is None else self.content)

    def call(self, name: str, *arguments: int) -> int:
        self.made.append((name, *arguments))
        return self.answers[name]

    def write(self, address: int, content: bytes) -> None:
        self.memory = address, content


@pytest.mark.parametrize("length", [1, PAGE, PAGE + 1])
def test_the_data_of_a_call_are_in_memory_of_their_own_that_nobody_can_write(
    monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    patient = Patient(monkeypatch)
    made = patient.begin()
    calls, spare, size = Calls(monkeypatch, made), patient.key.spare(MACHINE.native), PAGE * -(-length // PAGE)
    assert made.call_with("seccomp", 1, 8, data=lambda address: bytes([address >> 12 & 1]) * length, spare=(3, 4)) == 9
    assert calls.made == [
        ("mmap", 0, size, linux.PROT_READ_WRITE, linux.MAP_SHARED_ANONYMOUS, spare[0], 0),
        ("mprotect", HERE, size, linux.PROT_READ, *spare),
        ("seccomp", 1, 8, HERE, 3, 4),
    ]
    assert (calls.memory, made.mapped) == ((HERE, b"\x01" * length), (HERE, size))
    del calls.made[:]
    made.unmap(assembled([(RETURN, linux.SECCOMP_RET_KILL_PROCESS)]))
    assert calls.made == []
    made.unmap(ALL_RUN)
    assert calls.made == [("munmap", HERE, size)]


def test_where_nothing_was_mapped_nothing_is_unmapped(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Patient(monkeypatch).begin()
    calls = Calls(monkeypatch, made)
    made.unmap(ALL_RUN)
    assert calls.made == []


def test_an_address_of_32_bits_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Patient(monkeypatch, MACHINE.compat).begin()
    calls = Calls(monkeypatch, made, mmap=-0x10000000)
    assert made.call_with("seccomp", data=lambda address: b"x") == 9
    assert calls.made[-1] == ("seccomp", 0xF0000000)


@pytest.mark.parametrize(
    ("content", "answers", "error", "made"),
    [
        (None, {"mmap": -errno.ENOMEM}, "OSError: [Errno 12] Cannot allocate memory: 'mmap'", ["mmap"]),
        (None, {"mmap": -4095}, "OSError: [Errno 4095] Unknown error 4095: 'mmap'", ["mmap"]),
        (None, {"mprotect": -errno.ENOMEM}, UNPROTECTED, ["mmap", "mprotect"]),
        (b"y", {}, UNPROTECTED, ["mmap", "mprotect"]),
    ],
)  # fmt: skip
def test_without_memory_that_is_safe_there_is_no_call(
    monkeypatch: pytest.MonkeyPatch, content: bytes | None, answers: dict[str, int], error: str, made: list[str]
) -> None:
    surgery = Patient(monkeypatch).begin()
    calls = Calls(monkeypatch, surgery, content, **answers)
    with pytest.raises((OSError, ArmError)) as raised:
        surgery.call_with("seccomp", data=lambda address: b"x")
    assert (f"{type(raised.value).__name__}: {raised.value}", [call[0] for call in calls.made]) == (error, made)


def test_a_filter_that_was_exchanged_while_the_kernel_read_it_confines_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    surgery = Patient(monkeypatch).begin()
    calls = Calls(monkeypatch, surgery)

    def call(name: str, *arguments: int) -> int:
        if name == "seccomp":
            calls.content = b"y"
        return calls.call(name, *arguments)

    monkeypatch.setattr(surgery, "call", call)
    with pytest.raises(ArmError, match="changed while the kernel read it"):
        surgery.call_with("seccomp", data=lambda address: b"x")
    assert surgery.is_confined, "by another filter, so the process cannot go on as before"
