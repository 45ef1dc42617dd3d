"""The instructions that keep the program from its helper."""

from __future__ import annotations

import errno
from pathlib import Path

import make_helper_filter
import pytest

import callfence.enforcer.bpf
from callfence.enforcer.bpf import (
    ALL_RUN,
    ARGUMENTS,
    EQUAL,
    LOAD,
    RECEIVING_ROOM,
    RETURN,
    SHIELD_ROOM,
    assembled,
    chain,
    notifying_filter,
    shielded,
)
from callfence.policygen.filter import bpf
from callfence.policygen.filter.bpf import Instruction
from callfence.tracer import linux, pids
from callfence.tracer.abi import COMPAT, NATIVE, Arch, Event, table
from callfence.tracer.machine import MACHINE
from callfence.tracer.machine.numbers import column

ALLOW, DENIED = 0x7FFF0000, 0x00050000 | errno.EPERM
HELPER, STAND_IN, OTHER = 70001, 70002, 70003
FILTER = shielded(bpf.encode([Instruction(bpf.RET | bpf.K, k=ALLOW)]), (HELPER, STAND_IN))
ARCHITECTURES = (NATIVE, COMPAT)
UPPER = 0xABCD << 32
"""The kernel ignores the upper half of a register that is an int."""
DENYING = (pids.SIGNALS, pids.CHANGES)
NUMBERED = [row for effect in DENYING for row in pids.rows(effect, pids.REGISTER)]
OF_USERS = [row for effect in DENYING for row in pids.rows(effect, pids.USER)]
HERE = {name for arch in ARCHITECTURES for name in column(arch.audit)}
OTHERS = [row for row in pids.ROWS if row.name in HERE and row not in NUMBERED and row not in OF_USERS]


def answer(arch: Arch, name: str, *arguments: int) -> int:
    registers = [argument & 0xFFFFFFFFFFFFFFFF for argument in arguments]
    event = Event(arch.audit, table(arch).by_name[name].number, (*registers, *[0] * (6 - len(registers))))
    return bpf.run(FILTER, event)


def named(row: pids.Row) -> str:
    return f"{row.name}-{row.argument}-{row.place}"


def on_each(row: pids.Row, value: int, selected: int = 0) -> list[int]:
    """What the filter answers if that value is the process, on each architecture that has the call."""
    answers = []
    for arch in ARCHITECTURES:
        if (number := column(arch.audit).get(row.name)) is not None:
            registers = [0] * 6
            if row.selector:
                registers[row.selector[0]] = selected
            registers[row.argument] = value & 0xFFFFFFFFFFFFFFFF
            answers.append(bpf.run(FILTER, Event(arch.audit, number, tuple(registers))))
    return answers


@pytest.mark.parametrize("row", NUMBERED, ids=named)
def test_calls_that_name_the_helper_are_denied(row: pids.Row) -> None:
    for selected in row.selector[1:] or (0,):
        for pid in (HELPER, STAND_IN):
            for value in (pid, pid | UPPER):
                assert {*on_each(row, value, selected)} == {DENIED}
                assert {*on_each(row, value, selected | UPPER)} == {DENIED}
        for value in (OTHER, OTHER | UPPER, -OTHER, 0):
            assert {*on_each(row, value, selected)} == {ALLOW}
    if row.selector:
        assert {*on_each(row, HELPER, 2)} == {ALLOW}, "fcntl's F_SETFD, prctl's PR_GET_PDEATHSIG"


def test_their_process_groups_are_denied() -> None:
    for name, selected in (("kill", 0), ("fcntl", 8), ("fcntl64", 8)):
        (row,) = (row for row in NUMBERED if row.name == name)
        for pid in (HELPER, STAND_IN):
            assert {*on_each(row, -pid, selected)} == {*on_each(row, -pid & 0xFFFFFFFF, selected)} == {DENIED}


@pytest.mark.parametrize("row", OF_USERS, ids=named)
def test_all_processes_of_a_user_are_denied(row: pids.Row) -> None:
    """Whoever the user is: the program's may be the helper's."""
    _, *values = row.selector
    for selected in values:
        for value in (0, 1000, HELPER):
            assert {*on_each(row, value, selected), *on_each(row, value, selected | UPPER)} == {DENIED}
    assert {*on_each(row, OTHER, 1)} == {ALLOW}


@pytest.mark.parametrize("row", OTHERS, ids=named)
def test_what_a_filter_does_not_see_or_what_only_reads_is_not(row: pids.Row) -> None:
    """Landlock denies signals by descriptors, and by owners that are in memory; the helper is not dumpable."""
    shared = {other.name for other in NUMBERED}
    for selected in row.selector[1:] or (0,):
        if row.name not in shared or row.selector:
            assert {*on_each(row, HELPER, selected)} == {ALLOW}


@pytest.mark.parametrize("arch", ARCHITECTURES, ids=str)
def test_what_stops_every_process_is_denied(arch: Arch) -> None:
    assert answer(arch, "kill", -1, 9) == answer(arch, "kill", -1, 19) == DENIED
    for pid, signal in ((-1, 15), (-1, 0), (0, 9), (OTHER, 9), (-OTHER, 9)):
        assert answer(arch, "kill", pid, signal) == ALLOW


def test_no_other_call_changes() -> None:
    for arch in Arch:
        known = column(arch.audit) if arch in ARCHITECTURES else {}
        shielded_from = {known.get(row.name) for row in NUMBERED + OF_USERS}
        for number in set(table(arch).by_number) - shielded_from:
            for values in ((HELPER,) * 6, (-STAND_IN & 0xFFFFFFFF,) * 6):
                assert bpf.run(FILTER, Event(arch.audit, number, values)) == ALLOW


def test_the_room_that_it_takes() -> None:
    assert len(FILTER) == 8 * (SHIELD_ROOM + 1)


def receiving(address: int, flags: int = 0) -> Event:
    return Event(NATIVE.audit, table(NATIVE).by_name["recvfrom"].number, (3, 0, 0, flags, address, 0))


@pytest.mark.parametrize("is_allowed", [True, False])
def test_what_is_received_without_an_address_is_judged_first(is_allowed: bool) -> None:
    """Where it runs whatever its other arguments are."""
    no_peeking = assembled([(LOAD, ARGUMENTS + 8 * 3), (EQUAL, 2, "", "else"), (RETURN, DENIED), "else", (RETURN, ALLOW)])
    judged = chain([ALL_RUN if is_allowed else no_peeking, notifying_filter([], [*MACHINE.calls("recvfrom")])], reports=True)
    filter_ = shielded(judged, (HELPER, STAND_IN))
    assert len(filter_) == len(judged) + 8 * (SHIELD_ROOM + RECEIVING_ROOM * is_allowed)
    for address, flags in ((0, 0), (1, 0), (1 << 32, 0), (0, 2)):
        assert bpf.run(filter_, receiving(address, flags)) == bpf.run(judged, receiving(address, flags))
    if is_allowed:
        assert bpf.run(filter_[: 8 * RECEIVING_ROOM] + assembled([(RETURN, DENIED)]), receiving(0)) == ALLOW
    assert bpf.run(filter_, receiving(1 << 32)) == linux.SECCOMP_RET_USER_NOTIF


def test_the_instructions_are_those_of_the_table() -> None:
    """`make commands` writes them."""
    for name, machine in make_helper_filter.MACHINES.items():
        path = Path(callfence.enforcer.bpf.__file__).with_name("filters") / name / "shield.filter"
        assert path.read_bytes() == make_helper_filter.shield(machine)
