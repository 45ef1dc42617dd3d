"""Installing a filter on a process: what is passed to seccomp(2), and that no failure of it is taken for success."""

from __future__ import annotations

import errno
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from callfence.enforcer.arming import confining, inject
from callfence.enforcer.arming.inject import Key, install
from callfence.enforcer.errors import ArmError
from callfence.tracer import linux
from callfence.tracer.errors import KernelError
from callfence.tracer.machine import MACHINE
from callfence.tracer.stops import CALL, GROUP, SIGNAL, TRAP, Stop

PROGRAM = bytes(range(24))
NEW = linux.SECCOMP_FILTER_FLAG_NEW_LISTENER
KILLABLE = linux.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
THREADS = linux.SECCOMP_FILTER_FLAG_TSYNC | linux.SECCOMP_FILTER_FLAG_TSYNC_ESRCH


class Patient:
    """A process in which seccomp(2) has these results, one after the other, and close_range(2) that one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, results: list[int], filters: list[int], closed: int = 0) -> None:
        self.pid, self.convention, self.is_confined = 7, MACHINE.native, False
        self.flags: list[int] = []
        self.closed: list[tuple[object, ...]] = []
        self.results, self.filters, self._close = [*results], [*filters], closed
        monkeypatch.setattr(inject, "filters", lambda _pid: self.filters.pop(0))
        monkeypatch.setattr(inject.kernel, "pidfd_getfd", lambda pidfd, number: (pidfd, number))

    def call_with(self, name: str, operation: int, flags: int, *, data: Any, spare: tuple[int, ...]) -> int:
        assert (name, operation) == ("seccomp", linux.SECCOMP_SET_MODE_FILTER) and len(spare) == 3
        pointer = self.convention.pointer
        fields = data(0x1000)
        assert [int.from_bytes(fields[at : at + pointer], "little") for at in (0, pointer)] == [3, 0x1000 + 2 * pointer]
        assert fields[2 * pointer :] == PROGRAM
        self.flags.append(flags)
        return self.results.pop(0)

    def call(self, *call: object) -> int:
        self.closed.append(call[:4])
        return self._close


@pytest.mark.parametrize(
    ("pidfd", "settings", "results", "filters", "flags"),
    [
        (-1, {}, [0], [1, 2], [0]),
        (-1, {"threads": True}, [0], [1, 2], [THREADS]),
        (-1, {}, [0], [-1], [0]),  # they are not counted by this kernel
        (-1, {"is_first": True}, [0], [], [0]),
        (5, {}, [4], [0, 1], [NEW | KILLABLE]),
        (5, {"threads": True}, [-errno.EINVAL, 4], [0, 1], [THREADS | NEW | KILLABLE, THREADS | NEW]),
    ],
)
def test_a_filter_is_installed(
    monkeypatch: pytest.MonkeyPatch,
    pidfd: int,
    settings: dict[str, bool],
    results: list[int],
    filters: list[int],
    flags: list[int],
) -> None:
    patient: Any = Patient(monkeypatch, results, filters)
    assert install(patient, Key(), PROGRAM, pidfd, **settings) == (-1 if pidfd < 0 else (5, 4))
    assert (patient.flags, patient.is_confined, patient.results, patient.filters) == (flags, True, [], [])
    assert patient.closed == ([] if pidfd < 0 else [("close_range", 4, 4, 0)])


@pytest.mark.parametrize(
    ("pidfd", "results", "filters", "closed", "reason", "number", "is_confined"),
    [
        (-1, [0], [1, 1], 0, "a filter of its own prevents seccomp", errno.EPERM, False),
        (-1, [-errno.EACCES], [1], 0, "the kernel refused the filter: Permission denied", errno.EACCES, False),
        (-1, [-errno.EINVAL], [1], 0, "the kernel refused the filter: Invalid argument", errno.EINVAL, False),
        (5, [-errno.EBUSY], [1], 0, "another filter has a listener already", errno.EBUSY, False),
        (5, [-errno.EINVAL, -errno.EINVAL], [1], 0, "the kernel refused the filter", errno.EINVAL, False),
        (5, [4], [1, 2], -errno.EPERM, "the listener could not be closed in the program", errno.EPERM, True),
    ],
)
def test_no_failure_is_taken_for_success(
    monkeypatch: pytest.MonkeyPatch,
    pidfd: int,
    results: list[int],
    filters: list[int],
    closed: int,
    reason: str,
    number: int,
    is_confined: bool,
) -> None:
    patient: Any = Patient(monkeypatch, results, filters, closed)
    with pytest.raises(KernelError, match=reason) as caught:
        install(patient, Key(), PROGRAM, pidfd)
    assert (caught.value.errno, patient.is_confined) == (number, is_confined)


@pytest.mark.parametrize(
    ("stop", "request_", "signal"),
    [(Stop(GROUP, 19), linux.PTRACE_LISTEN, 0), (Stop(SIGNAL, 10), 24, 10), (Stop(TRAP, 5), 24, 0)],
)
def test_a_task_goes_on_as_if_it_were_not_traced(
    monkeypatch: pytest.MonkeyPatch, stop: Stop, request_: int, signal: int
) -> None:
    resumed = []
    monkeypatch.setattr(inject.linux, "ptrace", lambda *call: resumed.append(call))
    inject.go_on(24, 7, stop)
    assert resumed == [(request_, 7, 0, signal)]


def test_the_end_of_a_stopped_task_is_told_from_other_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, expected in ((errno.ESRCH, inject.GoneError), (errno.EIO, OSError)):
        monkeypatch.setattr(inject, "linux", SimpleNamespace(ptrace=raising(OSError(number, "why"))))
        with pytest.raises(expected) as caught:
            inject.resume(24, 7)
        assert isinstance(caught.value, inject.GoneError) is (number == errno.ESRCH)


def raising(error: Exception) -> Any:
    def fails(*_: object) -> None:
        raise error

    return fails


MEMORY = """
import os
from callfence.enforcer.arming import confining, inject, seized
child = os.fork()
if not child:
    while True:
        pass
seized.seize(child)
confining.stop(child)
surgery = inject.Surgery(child)
place = (surgery._registers[surgery.convention.sp] - 8192) & ~7
by_file = inject.Surgery._memory
for length in (1, 7, 8, 9, 16, 21):
    before, content = surgery.read(place, 32), os.urandom(length)
    inject.Surgery._memory = lambda self, mode: None
    former = surgery.write(place, content)
    assert former[:length] == before[:length] and len(former) == -(-length // 8) * 8
    assert surgery.read(place, length) == content
    inject.Surgery._memory = by_file
    assert surgery.read(place, 32) == content + before[length:]
    assert surgery.write(place, before) == content + before[length:]
os.kill(child, 9)
print("the same")
"""


def test_memory_is_the_same_by_words_as_by_the_file() -> None:
    """Where the file cannot be opened: it is another user's, or Landlock denies it."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, timeout=30, check=False, text=True)
    assert (done.stdout, done.stderr) == ("the same\n", "")


@pytest.mark.parametrize("kind", [SIGNAL, GROUP, TRAP, CALL])
def test_a_process_that_does_not_leave_its_call_is_not_taken_for_one_that_has(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    resumed: list[tuple[int, int]] = []
    monkeypatch.setattr(inject, "resume", lambda way, pid: resumed.append((way, pid)))
    monkeypatch.setattr(inject, "wait", lambda pid: Stop(kind))
    reason = rf"it stopped \({kind}\) instead of leaving its call"
    with nullcontext() if kind == CALL else pytest.raises(ArmError, match=reason):
        confining._leave_call(7)
    assert resumed == [(linux.PTRACE_SYSCALL, 7)]
