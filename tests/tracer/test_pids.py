"""The table of calls that name another process, held against the tables of all calls and constants."""

from __future__ import annotations

import re

import pytest

from callfence.tracer import pids
from callfence.tracer.abi import Arch, table
from callfence.tracer.abi.constants import value
from callfence.tracer.abi.model import Argument, Kind
from callfence.tracer.machine.numbers import column

ARCHITECTURES = tuple(Arch)
NAMES = re.compile(r"(u|t|pg|s)?pid\d?|pidfd|who|process|task|tid|sid")
"""Arguments with such a name are processes, tasks, or descriptors of them."""
WITHOUT_A_ROW = {
    ("getrusage", "who"): "the caller, its threads or its children",
    ("pidfd_open", "flags"): "PIDFD_THREAD says what a pid is, and names nothing",
}
IN_MEMORY_OR_BY_OTHER_NAMES = {
    ("fcntl", 2), ("fcntl64", 2), ("ioctl", 2), ("open_by_handle_at", 1), ("prctl", 2), ("setns", 0), ("timer_create", 1),
}  # fmt: skip
"""Rows whose argument does not look like a process."""
SELECTORS = {
    "fcntl": {"F_SETOWN", "F_SETOWN_EX"},
    "ioctl": {"FIOSETOWN", "SIOCSPGRP"},
    "ioprio_set": {"IOPRIO_WHO_USER"},
    "prctl": {"PR_SCHED_CORE"},
    "setpriority": {"PRIO_USER"},
    "waitid": {"P_PIDFD"},
}
"""By call."""


def looks_like_a_process(argument: Argument) -> bool:
    if argument.kind == Kind.POINTER:
        return False
    return "pid_t" in argument.ctype.split() or argument.kind.value == "task" or NAMES.fullmatch(argument.name) is not None


@pytest.mark.parametrize("row", pids.ROWS, ids=lambda row: f"{row.name}-{row.argument}-{row.place}")
def test_a_row_is_right(row: pids.Row) -> None:
    for arch in ARCHITECTURES:
        if call := table(arch).by_name.get(row.name):
            argument = call.arguments[row.argument]
            assert looks_like_a_process(argument) != ((row.name, row.argument) in IN_MEMORY_OR_BY_OTHER_NAMES)
            assert (row.place == pids.MEMORY) <= (argument.width == 64 or arch.bits == 32)
            assert not row.selector or row.selector[0] < row.argument < len(call.arguments)


@pytest.mark.parametrize("arch", ARCHITECTURES, ids=str)
def test_every_process_that_a_call_names_has_a_row(arch: Arch) -> None:
    """One for each argument, and one that has the call's number; a new call of a later kernel fails here until it has one."""
    rows = {(column(arch.audit).get(row.name), row.argument) for row in pids.ROWS}
    without = {
        (call.name, argument.name)
        for call in table(arch).by_number.values()
        for place, argument in enumerate(call.arguments)
        if looks_like_a_process(argument) and (call.number, place) not in rows
    }
    assert without <= set(WITHOUT_A_ROW)


@pytest.mark.parametrize("arch", ARCHITECTURES, ids=str)
def test_values_of_selectors_are_the_kernels(arch: Arch) -> None:
    values: dict[str, set[int | None]] = {}
    for row in pids.ROWS:
        if row.selector:
            values.setdefault(row.name.removesuffix("64"), set()).update(row.selector[1:])
    assert values == {call: {value(name, arch) for name in names} for call, names in SELECTORS.items()}


def test_rows_are_found_by_what_they_do_and_where_they_name_the_process() -> None:
    assert [row.name for row in pids.rows(pids.SIGNALS, pids.DESCRIPTOR)] == ["pidfd_send_signal"]
    assert {row.name for row in pids.rows(pids.CHANGES, pids.USER)} == {"setpriority", "ioprio_set"}
    every = [row for effect in (pids.SIGNALS, pids.CHANGES, pids.READS, pids.OWN) for row in pids.rows(effect)]
    assert sorted(map(id, every)) == sorted(map(id, pids.ROWS))
