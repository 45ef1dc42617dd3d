"""What a program sees of the faults that the tracer injects."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from callfence.tracer import faults, kernel
from callfence.tracer.abi import NATIVE, table
from callfence.tracer.calls import Calls
from callfence.tracer.faults import Effect, Exhaust, Fail, Fault, Injector, Send, Shorten, Witness
from callfence.tracer.machine import MACHINE

HERE = Path(__file__).parent
PLAIN = ["open 0", "read 64", "read 64", "dup 0", "malloc 0", "caught 0"]


def lines(compile_c: Callable[..., Path], call: str, nth: int, effect: str) -> list[str]:
    program = compile_c(HERE / "programs" / "fails.c", "-D_GNU_SOURCE")
    command = [sys.executable, HERE.parent / "support/fault.py", program, call, str(nth), effect]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, stdin=subprocess.DEVNULL)
    return [line.rstrip() for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("call", "nth", "effect", "changed"),
    [
        ("openat", 1, "Fail(2)", {0: "open -1 ENOENT", 1: "read -1 EBADF", 2: "read -1 EBADF"}),
        ("read", 1, "Fail(5)", {1: "read -1 EIO"}),
        ("read", 1, "Shorten(2)", {1: "read 32"}),
        ("openat", 1, "Exhaust(7)", {0: "open -1 EMFILE", 1: "read -1 EBADF", 2: "read -1 EBADF", 3: "dup -1 EMFILE"}),
        ("mmap", 1, "Exhaust(9)", {4: "malloc -1 ENOMEM"}),
        ("getppid", 1, "Send(15)", {5: "caught 15"}),
    ],
)
def test_a_fault_changes_what_it_is_to_change(
    compile_c: Callable[..., Path], call: str, nth: int, effect: str, changed: dict[int, str]
) -> None:
    expected = [changed.get(index, line) for index, line in enumerate(PLAIN)]
    assert lines(compile_c, call, nth, effect) == [*expected, "injected 0"]


def test_the_call_that_is_counted_fails_and_no_other(compile_c: Callable[..., Path]) -> None:
    reads = 1 + _loads(compile_c)
    found = lines(compile_c, "read", reads + 1, "Fail(4)")
    assert found == ["open 0", "read 64", "read -1 EINTR", *PLAIN[3:], "injected 0"]


def _loads(compile_c: Callable[..., Path]) -> int:
    """How many reads the dynamic loader makes: the first one that can fail is the program's own."""
    for nth in range(1, 20):
        if lines(compile_c, "read", nth, "Fail(4)")[1] == "read 64":
            return nth - 2
    raise AssertionError("no read fails")


def test_nothing_fails_before_the_entry_point(compile_c: Callable[..., Path]) -> None:
    """The loader reserves memory for libraries with mmap and makes parts of it unwritable, the program does not."""
    assert lines(compile_c, "mprotect", 1, "Fail(12)") == [*PLAIN, "not injected 0"]


def test_a_signal_without_a_handler_is_not_sent(compile_c: Callable[..., Path]) -> None:
    assert lines(compile_c, "getppid", 1, "Send(2)") == [*PLAIN, "not injected 0"]


def test_a_broken_pipe_comes_with_its_signal(compile_c: Callable[..., Path]) -> None:
    """The program ignores it, and its only write, at the end, fails."""
    assert lines(compile_c, "write", 1, "Fail(32, 13)") == ["injected 0"]


HANDLER, ADDRESS = 0x401000, 0x7000


@pytest.mark.parametrize(
    ("name", "arguments", "handler", "caught", "reads"),
    [
        ("rt_sigaction", (15, ADDRESS), HANDLER, {15}, False),
        ("rt_sigaction", (15 | 1 << 32, ADDRESS), HANDLER, {15}, False),
        ("rt_sigaction", (15, ADDRESS), 0, set(), False),  # SIG_DFL
        ("rt_sigaction", (15, ADDRESS), 1, set(), False),  # SIG_IGN
        ("rt_sigaction", (15, ADDRESS), 2, {15}, False),
        ("rt_sigaction", (15, 0), HANDLER, set(), False),
        ("read", (0,), 0, set(), True),
        ("read", (1 << 32,), 0, set(), True),
        ("readv", (0,), 0, set(), True),
        ("read", (3,), 0, set(), False),
        ("write", (0,), 0, set(), False),
    ],
)
def test_what_a_plain_run_shows(
    name: str, arguments: tuple[int, ...], handler: int, caught: set[int], reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "peek", lambda tid, address: {(7, ADDRESS): handler}[tid, address])
    calls, witness = Calls({}, SimpleNamespace(), frozenset(), print), Witness()  # type: ignore[arg-type]
    witness.attach(calls)
    registers = (*arguments, *[0] * 6)[:6]
    info = bytearray(struct.pack("<4xIQ8xQ6Q", NATIVE.audit, 0, table(NATIVE).by_name[name].number, *registers))
    calls.handle(SimpleNamespace(tid=7), info)  # type: ignore[arg-type]
    assert (witness.caught, witness.reads_input) == (caught, reads)


GETPPID = table(NATIVE).by_name["getppid"].number
READ = table(NATIVE).by_name["read"].number


class Run:
    """A run with a fault: what is done to the program."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, effect: Effect, nth: int = 1, **facts: Any) -> None:
        self.done: list[tuple[object, ...]] = []
        self.loading = False
        note = self.done.append
        monkeypatch.setattr(os, "kill", lambda *words: note(("kill", *words)))
        monkeypatch.setattr(kernel, "skip_call", lambda *words: note(("skip", *words)))
        monkeypatch.setattr(kernel, "set_register", lambda *words: note(("set", *words)))
        monkeypatch.setattr(faults, "is_caught", lambda tid, signum: (tid, signum) == (7, 15))
        monkeypatch.setattr(faults.resource, "prlimit", self.prlimit)
        monkeypatch.setattr(faults, "_used", lambda pid, kind: {(6, 7): 20, (6, 9): 4096}[pid, kind])
        self.hard = 100
        fault = Fault(NATIVE.audit, READ, "/bin/app", lambda event: event.arguments[0] == 3, nth, effect)
        self.injector = Injector(fault, [Exhaust(9, 5)], lambda path: path.replace("/real", ""))
        self.calls = Calls({}, SimpleNamespace(), frozenset(), print)  # type: ignore[arg-type]
        self.injector.attach(self.calls, lambda pid: self.loading and pid == 6)
        self.task: Any = SimpleNamespace(tid=7, tgid=6, executable="/real/bin/app", leaving=False, pending=False, **facts)

    def prlimit(self, pid: int, kind: int, limits: tuple[int, int] | None = None) -> tuple[int, int]:
        if limits:
            self.done.append(("limit", pid, kind, *limits))
        return (0, self.hard)

    def call(self, *arguments: int, number: int = READ) -> list[tuple[object, ...]]:
        """What is done at a call."""
        del self.done[:]
        registers = (*arguments, *[0] * 6)[:6]
        self.calls.handle(self.task, bytearray(struct.pack("<4xIQ8xQ6Q", NATIVE.audit, 0, number, *registers)))
        return [*self.done]


@pytest.mark.parametrize(
    ("effect", "done"),
    [
        (Fail(5), [("skip", 7, 5)]),
        (Fail(32, 13), [("kill", 6, 13), ("skip", 7, 32)]),
        (Shorten(2), [("set", 7, MACHINE.native.arguments[2], 4)]),
        (Exhaust(7), [("limit", 6, 7, 20, 100)]),
        (Exhaust(7, 30), [("limit", 6, 7, 50, 100)]),
        (Exhaust(7, 90), [("limit", 6, 7, 100, 100)]),
        (Send(15), [("kill", 6, 15)]),
        (Send(14), []),
    ],
)
def test_what_a_fault_does(monkeypatch: pytest.MonkeyPatch, effect: Effect, done: list[tuple[object, ...]]) -> None:
    run = Run(monkeypatch, effect)
    assert (run.call(4, 0, 9), run.call(3, 0, 9, number=GETPPID), run.injector.fired) == ([], [], False)
    assert run.call(3, 0, 9) == done
    assert run.injector.fired == (done != [])
    if done:
        assert run.call(3, 0, 9) == [], "it happens once"


def test_a_limit_that_is_endless_is_lowered_too(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, Exhaust(7, 90))
    run.hard = faults.resource.RLIM_INFINITY
    assert run.call(3) == [("limit", 6, 7, 110, run.hard)]


def test_at_the_entry_point_resources_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, Fail(5))
    run.injector.entered(run.task)
    assert run.done == [("limit", 6, 9, 100, 100)]


@pytest.mark.parametrize("loaded_at", [1, 2, 3, 5])
def test_calls_of_the_loader_count_and_do_not_fail(monkeypatch: pytest.MonkeyPatch, loaded_at: int) -> None:
    run, failed = Run(monkeypatch, Fail(5), nth=3), []
    for number in range(1, 7):
        run.loading = number < loaded_at
        failed += [number] * (run.call(3) != [])
    assert failed == [max(3, loaded_at)]


def test_another_executable_does_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, Fail(5))
    run.task.executable = "/bin/other"
    assert (run.call(3), run.injector.fired) == ([], False)
    assert Injector(None).fired


@pytest.mark.parametrize(
    ("count", "leaving", "halved"), [(2, False, 1), (9, False, 4), (1, False, 0), (0, False, 0), (9, True, 0)]
)
def test_a_count_is_what_it_was_after_the_call(monkeypatch: pytest.MonkeyPatch, count: int, leaving: bool, halved: int) -> None:
    run, register = Run(monkeypatch, Shorten(2)), MACHINE.native.arguments[2]
    run.task.leaving = leaving
    assert run.call(3, 0, count) == ([("set", 7, register, halved)] if halved else [])
    assert (run.task.pending, run.injector.fired) == (halved > 0, halved > 0)
    for _ in range(2):
        run.injector.returned(run.task)
    assert (run.task.pending, run.done[1:]) == (False, [("set", 7, register, count)] if halved else [])


def test_how_much_a_process_uses() -> None:
    own, page = os.getpid(), resource.getpagesize()
    size = faults._used(own, resource.RLIMIT_AS)
    listed = Path(f"/proc/{own}/status").read_text().partition("VmSize:")[2].split()[0]
    assert size % page == 0 and abs(size - 1024 * int(listed)) < 1 << 24
    highest = os.dup2(0, 900)
    try:
        assert faults._used(own, resource.RLIMIT_NOFILE) == highest + 1
    finally:
        os.close(highest)
    assert faults._used(own, resource.RLIMIT_FSIZE) == 0
