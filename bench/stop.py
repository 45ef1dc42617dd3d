"""What one learned call costs against the least that a stop can cost: the same loop in C, on one processor."""

from __future__ import annotations

import ctypes
import os
import subprocess
import timeit

from harness import LEARN, Figure, Section, alternate, compiled, run, scratch, table
from ptrace.binding.func import ptrace

from callfence.tracer import kernel, linux

TITLE = "one stop"
ROUNDS = 9
CALLS, FEWER = 120_000, 20_000
REQUESTS = 20_000
GOAL = 1.8


def section() -> Section:
    """The measurements."""
    with scratch() as folder:
        floor = compiled("floor.c", folder)
        calls = compiled("calls.c", folder)

        def stopped_in_c() -> float:
            ns, _ = subprocess.run([floor, str(CALLS)], check=True, capture_output=True, text=True).stdout.split()
            return float(ns) / 1e9

        def learned() -> float:
            """The difference of two runs, so that the start and the end of learn do not count."""
            more, fewer = (
                run([LEARN, "--fresh", "-q", "--every-call", "-o", "b.policy", "--", calls, str(count)], folder).seconds
                for count in (CALLS, FEWER)
            )
            return (more - fewer) / (CALLS - FEWER)

        spread = alternate({"a loop in C (floor.c)": stopped_in_c, "learn": learned}, ROUNDS)
    least, ours = (one.median for one in spread.values())
    rows = [(name, f"{one.median * 1e6:.1f} ({one.least * 1e6:.1f}-{one.most * 1e6:.1f})") for name, one in spread.items()]
    text = (
        f"A getppid that stops for the tracer; median of {ROUNDS} (least-most).\n\n{table(('', 'us'), rows)}\n"
        f"One request to the kernel, PTRACE_GET_SYSCALL_INFO of a stopped process: the least of {ROUNDS}.\n\n"
        f"{table(('', 'us'), requests())}"
    )
    return Section(text, (Figure("a learned call / the floor in C", GOAL, ours / least),))


def requests() -> list[tuple[str, str]]:
    """A request through python-ptrace's wrapper, and as the hot loop makes it."""
    info = kernel.SyscallInfo()
    with subprocess.Popen(["sleep", "60"]) as child:
        pid = child.pid
        kernel.seize(pid, 0)
        kernel.interrupt(pid)
        os.waitpid(pid, linux.WALL)
        buffer = ctypes.create_string_buffer(linux.INFO_SIZE)
        address = ctypes.addressof(buffer)
        ways = {
            "through python-ptrace": lambda: ptrace(linux.PTRACE_GET_SYSCALL_INFO, pid, linux.INFO_SIZE, address),
            "directly (tracer/kernel.py)": lambda: info.read(pid),
        }
        least = {name: min(timeit.repeat(way, number=REQUESTS, repeat=ROUNDS)) for name, way in ways.items()}
        child.kill()
    return [(name, f"{seconds / REQUESTS * 1e6:.2f}") for name, seconds in least.items()]


if __name__ == "__main__":
    print(section().text)
