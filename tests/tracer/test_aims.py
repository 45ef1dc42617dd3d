"""Which processes a program signals or inspects: whether they are its own, and which of them it is known to have signalled."""

from __future__ import annotations

import ctypes
import os
import struct
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from callfence.tracer.abi import COMPAT, NATIVE, Arch, Event, table
from callfence.tracer.aims import Aims
from callfence.tracer.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from callfence.tracer.calls import Handler

ME, PARENT, GONE = os.getpid(), os.getppid(), 1 << 24
OTHER, THIRD = 1 << 22, 1 << 23
"""Two more tasks of the program."""
INSIDE, OUTSIDE, NOTHING = [False], [True], []
AT_FDCWD, WORD = -100, 0xFFFFFFFF
KEPT: list[object] = []


class Program:
    """A program of three tasks, of which this process is one, and what is reported of its calls."""

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}
        self.first: dict[int, Callable[[str], frozenset[int] | None]] = {}
        self.sender = Task(ME, ME)
        self.sender.executable = "/bin/app"
        self.tasks = {ME: self.sender, **{tid: Task(tid, tid) for tid in (OTHER, THIRD)}}
        self.found: list[bool] = []
        self.stopping: list[str] = []
        """The calls that stop each time."""

        def also_named(name: str, handler: Handler, *, always: bool) -> None:
            self.handlers[name] = handler
            self.stopping += [name] * always

        Aims(self.tasks, self.found.append).attach(SimpleNamespace(first=self.first, also_named=also_named))  # type: ignore[arg-type]

    def call(self, name: str, *arguments: int | bytes, arch: Arch = NATIVE) -> list[bool]:
        """What is reported of a call of this process; `bytes` are passed by their address."""
        registers = [memory(word) if isinstance(word, bytes) else word & (1 << 64) - 1 for word in arguments]
        registers += [0] * (6 - len(registers))
        del self.found[:]
        event = Event(arch.audit, table(arch).by_name[name].number, tuple(registers), 0, self.sender.tid)  # type: ignore[arg-type]
        self.handlers[name](self.sender, event)
        return [*self.found]


def number(name: str) -> int:
    return table(NATIVE).by_name[name].number


def memory(content: bytes) -> int:
    KEPT.append(buffer := ctypes.create_string_buffer(content, len(content)))
    return ctypes.addressof(buffer)


def of(path: str, pid: int) -> bytes:
    return f"/proc/{pid}/{path}\0".encode()


def test_targets_are_the_programs_own_tasks_while_they_live() -> None:
    program = Program()
    targets = program.first[number("kill")]
    assert [program.call("kill", pid) for pid in (OTHER, THIRD, PARENT)] == [INSIDE, INSIDE, OUTSIDE]
    for pid in (0, -2, GONE):
        program.call("kill", pid)
    assert targets("/bin/app") == {OTHER, THIRD}
    del program.tasks[OTHER]
    assert targets("/bin/app") == {THIRD}
    program.tasks[OTHER] = Task(OTHER, OTHER)
    assert targets("/bin/app") == {THIRD}, "another task, with the same number"


@pytest.mark.parametrize(
    ("call", "arguments", "reported"),
    [
        ("kill", (GONE,), INSIDE),  # nobody is reached
        ("kill", (-1,), OUTSIDE),
        ("kill", (-OTHER,), INSIDE),  # a group of its own
        ("kill", (-PARENT,), OUTSIDE),
        ("fcntl", (3, 8, PARENT), OUTSIDE),  # F_SETOWN
        ("fcntl", (3, 8, -PARENT), OUTSIDE),
        ("fcntl", (3, 8, OTHER), INSIDE),
        ("fcntl", (3, 8, 0), NOTHING),  # no owner any more
        ("fcntl", (3, 9, PARENT), NOTHING),  # F_GETOWN
        ("fcntl", (3, 15, struct.pack("ii", 1, PARENT)), OUTSIDE),  # F_SETOWN_EX, F_OWNER_PID
        ("fcntl", (3, 15, struct.pack("ii", 1, GONE)), INSIDE),
        ("fcntl", (3, 15, struct.pack("ii", 2, GONE)), OUTSIDE),  # F_OWNER_PGRP
        ("fcntl", (3, 15, struct.pack("ii", 2, OTHER)), INSIDE),
        ("ioctl", (3, 0x8901, struct.pack("i", PARENT)), OUTSIDE),  # FIOSETOWN
        ("ioctl", (3, 0x8902, struct.pack("i", PARENT)), OUTSIDE),  # SIOCSPGRP
        ("ioctl", (3, 0x8902, struct.pack("i", OTHER)), INSIDE),
        ("ioctl", (3, 0x5401, struct.pack("i", PARENT)), NOTHING),  # TCGETS
        ("process_vm_readv", (PARENT,), OUTSIDE),
        ("process_vm_readv", (OTHER,), NOTHING),
        ("process_vm_readv", (GONE,), NOTHING),
        ("process_vm_writev", (PARENT,), OUTSIDE),
        ("ptrace", (16, PARENT), OUTSIDE),  # PTRACE_ATTACH
        ("ptrace", (0, 0), NOTHING),  # PTRACE_TRACEME
        ("kcmp", (ME, PARENT), OUTSIDE),
        ("kcmp", (PARENT, ME), OUTSIDE),
        ("kcmp", (ME, OTHER), NOTHING),
        ("perf_event_open", (0, PARENT), OUTSIDE),
        ("perf_event_open", (0, -1), NOTHING),
        ("prctl", (62, 0, PARENT), OUTSIDE),  # PR_SCHED_CORE
        ("prctl", (38, 1, PARENT), NOTHING),  # PR_SET_NO_NEW_PRIVS
        ("readlinkat", (AT_FDCWD, of("exe", PARENT)), OUTSIDE),
        ("readlinkat", (AT_FDCWD, of("exe", OTHER)), NOTHING),
        ("readlinkat", (AT_FDCWD, b"/proc/self/exe\0"), NOTHING),
        ("readlinkat", (AT_FDCWD, b"/proc/%d\0" % PARENT), NOTHING),
        ("readlinkat", (AT_FDCWD, b"/etc/%d/exe\0" % PARENT), NOTHING),
        ("openat", (AT_FDCWD, of("mem", PARENT)), OUTSIDE),
        ("openat", (AT_FDCWD, of("status", PARENT)), NOTHING),  # anybody may read it
        ("openat", (AT_FDCWD, of("mem", ME)), NOTHING),
    ],
)
def test_whom_a_call_reaches(call: str, arguments: tuple[int | bytes, ...], reported: list[bool]) -> None:
    assert Program().call(call, *arguments) == reported
    assert Program().call(call, *arguments, arch=COMPAT) == reported


@pytest.mark.parametrize(("call", "path"), [("readlink", "exe"), ("open", "mem")])
def test_paths_without_a_folder_before_them(call: str, path: str) -> None:
    for arch in (NATIVE, COMPAT):
        if call in table(arch).by_name:
            assert Program().call(call, of(path, PARENT), arch=arch) == OUTSIDE
            assert Program().call(call, of(path, OTHER), arch=arch) == NOTHING


def test_groups_of_processes() -> None:
    program = Program()
    assert program.call("kill", 0) == [os.getpgrp() not in program.tasks]
    program.tasks |= {group: Task(group, group) for group in (os.getpgrp(), 1)}
    assert (program.call("kill", 0), program.call("kill", -1)) == (INSIDE, OUTSIDE)


def test_a_signal_by_a_descriptor_stops_each_time() -> None:
    """Another process may have the descriptor's number the next time."""
    assert Program().stopping == ["pidfd_send_signal"]


def test_whom_a_descriptor_reaches(tmp_path: Path) -> None:
    def reached(descriptor: int) -> list[bool]:
        try:
            return Program().call("pidfd_send_signal", descriptor, 0)
        finally:
            os.close(descriptor)

    assert reached(os.pidfd_open(PARENT)) == reached(os.open(f"/proc/{PARENT}", os.O_RDONLY)) == OUTSIDE
    assert reached(os.pidfd_open(ME)) == reached(os.open(f"/proc/{ME}", os.O_RDONLY)) == INSIDE
    (tmp_path / str(ME)).mkdir()
    assert reached(os.open(tmp_path / str(ME), os.O_RDONLY)) == OUTSIDE, "it is no process, and the call fails"
    assert Program().call("pidfd_send_signal", 1 << 20, 0) == NOTHING


def test_in_a_pid_namespace_of_its_own_a_program_names_its_own_processes_alone() -> None:
    program = Program()
    program.sender.namespaces = 2
    assert program.call("kill", PARENT) == INSIDE
    assert program.call("process_vm_readv", PARENT) == NOTHING


def test_a_task_that_cannot_be_looked_at_may_have_signalled_anybody() -> None:
    program = Program()
    program.sender = program.tasks[OTHER]
    assert program.call("kill", ME) == OUTSIDE


def test_the_first_files_and_links_of_each_executable_are_looked_at() -> None:
    program = Program()
    known = program.first[number("readlinkat")]
    for name in ("readlinkat", "openat"):
        for _ in range(1023):
            program.call(name, AT_FDCWD, b"/etc/passwd\0")
        assert (known("/bin/app"), known("/bin/other")) == (frozenset() if name == "readlinkat" else None, frozenset())
        assert program.call(name, AT_FDCWD, of("exe", PARENT)) == OUTSIDE
    assert program.call("openat", AT_FDCWD, of("exe", PARENT)) == NOTHING
    program.sender.executable = "/bin/other"
    assert program.call("openat", AT_FDCWD, of("exe", PARENT)) == OUTSIDE
