"""What is read of a process that runs already: its filters."""

from __future__ import annotations

import errno
import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from callfence.tracer import kernel, linux
from callfence.tracer.errors import PtraceError, TracerError
from callfence.tracer.running import attach
from callfence.tracer.task import Task

FILTERS = [b"newest", b"", b"oldest"]


@pytest.mark.parametrize(
    ("error", "filters"),
    [(errno.ENOENT, FILTERS), (errno.EINVAL, FILTERS), (errno.ENOENT, []), (errno.EACCES, []), (errno.ESRCH, FILTERS)],
)
def test_all_filters_of_a_task_are_read(monkeypatch: pytest.MonkeyPatch, error: int, filters: list[bytes]) -> None:
    """Until the kernel has no more of them; another error is one."""

    def length(pid: int, index: int) -> int:
        if index == len(filters):
            raise PtraceError("no", "PTRACE_SECCOMP_GET_FILTER", error)
        return len(filters[index])

    def content(pid: int, index: int, size: int) -> bytes:
        assert (pid, size) == (7, len(filters[index]))
        return filters[index]

    monkeypatch.setattr(kernel, "filter_length", length)
    monkeypatch.setattr(kernel, "filter_content", content)
    if error in (errno.ENOENT, errno.EINVAL):
        assert attach._filters(7) == filters
    else:
        with pytest.raises(PtraceError):
            attach._filters(7)


def test_the_filters_of_each_thread_are_counted_where_the_kernel_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    status = {8: {"Seccomp_filters": "3"}, 7: {"Seccomp_filters": "0"}, 9: {}}
    monkeypatch.setattr(attach, "numbers_in", lambda path: {"7/task": {9, 8, 7}}[path])
    monkeypatch.setattr(attach, "fields_of", status.__getitem__)
    assert attach.filter_counts(7) == {7: 0, 8: 3}


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ESRCH, "there is no such process"),
        (errno.EPERM, "not permitted, or it is traced already (TracerPid in /proc/7/status)"),
        (errno.EACCES, "it needs CAP_SYS_ADMIN, and no filter on this process"),
        (errno.EIO, "this kernel was built without CONFIG_CHECKPOINT_RESTORE"),
        (errno.EMEDIUMTYPE, "the kernel has not kept what they were made from"),
        (errno.EBUSY, "Device or resource busy"),
        (0, "Invalid argument"),
    ],
)
def test_why_it_cannot_be_followed(number: int, reason: str) -> None:
    assert attach._reason(PtraceError("no", "ptrace", number), 7) == reason


@pytest.mark.parametrize(
    ("status", "passed_over"),
    [
        ({}, True),
        ({"State": "Z (zombie)", "TracerPid": "0"}, True),
        ({"State": "X (dead)", "TracerPid": "0"}, True),
        ({"State": "S (sleeping)", "TracerPid": f"{os.getpid()}"}, True),
        ({"State": "S (sleeping)", "TracerPid": "0"}, False),
        ({"State": "t (tracing stop)", "TracerPid": f"{os.getpid() + 1}"}, False),
    ],
)
def test_a_thread_that_cannot_be_seized(monkeypatch: pytest.MonkeyPatch, status: dict[str, str], passed_over: bool) -> None:
    """One that is dead, or that the kernel has attached already, is passed over; what starts meanwhile is seized too."""
    threads, seized = iter([{7, 8}, {7, 8, 9, 10}, {7, 8, 9, 10}]), []

    def seize(tid: int, options: int) -> None:
        if tid in (8, 10):
            raise PtraceError("no", "ptrace", errno.ESRCH if tid == 10 else errno.EPERM)
        seized.append(tid)

    monkeypatch.setattr(attach, "numbers_in", lambda path: {"7/task": next(threads)}[path])
    monkeypatch.setattr(attach, "fields_of", lambda tid: {8: status}[tid])
    monkeypatch.setattr(kernel, "seize", seize)
    monkeypatch.setattr(kernel, "interrupt", lambda tid: seized.append(-tid))
    added: dict[int, Task] = {}
    loop: Any = SimpleNamespace(family=SimpleNamespace(add=lambda tid, tgid: added.setdefault(tid, Task(tid, tgid))))
    if passed_over:
        attach._seize_threads(loop, 7)
        assert seized == [7, -7, 9, -9]
        assert [(task.tid, task.tgid, task.filtered, task.covered) for task in added.values()] == [
            (7, 7, False, False), (9, 7, False, False),
        ]  # fmt: skip
    else:
        with pytest.raises(TracerError, match=r"^cannot attach to 8: the kernel does not permit ptrace here"):
            attach._seize_threads(loop, 7)


def test_what_processes_have_started(monkeypatch: pytest.MonkeyPatch) -> None:
    parents = {1: 0, 5: 1, 6: 5, 7: 6, 8: 5, 9: 1, 10: 9, 11: 10}
    monkeypatch.setattr(attach, "numbers_in", lambda path: {"": {*parents}}[path])
    monkeypatch.setattr(attach, "kin_of", lambda pid: (pid, parents[pid]))
    assert [*attach.descendants([5]).items()] == [(6, 5), (8, 5), (7, 6)]
    assert [*attach.descendants([5, 6, 10]).items()] == [(7, 6), (8, 5), (11, 10)]
    assert attach.descendants([11]) == {}


@pytest.mark.parametrize(
    ("seize", "ended", "text"),
    [
        (errno.EIO, False, "process 7 cannot be stopped: this kernel was built without CONFIG_CHECKPOINT_RESTORE"),
        (errno.ESRCH, False, "process 7 cannot be stopped: there is no such process"),
        (0, True, "process 7 has ended"),
        (0, False, "the filters of process 7 cannot be read: it needs CAP_SYS_ADMIN, and no filter on this process"),
    ],
)
def test_filters_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, seize: int, ended: bool, text: str) -> None:
    def fails(number: int) -> None:
        if number:
            raise PtraceError("no", "ptrace", number)

    done: list[tuple[object, ...]] = []
    stopped = 0 if ended else signal.SIGUSR1 << 8 | 0x7F
    monkeypatch.setattr(kernel, "seize", lambda pid, options: fails(seize))
    monkeypatch.setattr(kernel, "interrupt", lambda pid: None)
    monkeypatch.setattr(kernel, "resume", lambda *words: done.append(words))
    monkeypatch.setattr(kernel, "filter_length", lambda pid, index: fails(errno.EACCES))
    monkeypatch.setattr(os, "waitpid", lambda pid, options: (pid, stopped))
    with pytest.raises(TracerError) as raised:
        attach.read_filters(7)
    monkeypatch.undo()
    assert str(raised.value) == text
    assert done == ([] if seize else [(linux.PTRACE_DETACH, 7, 0 if ended else signal.SIGUSR1)])
