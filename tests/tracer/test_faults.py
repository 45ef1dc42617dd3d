"""What a program sees of the faults that the tracer injects."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from callfence.tracer import kernel
from callfence.tracer.abi import NATIVE, table
from callfence.tracer.calls import Calls
from callfence.tracer.faults import Witness

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
