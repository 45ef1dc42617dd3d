"""What lines about hosts add: to connections, to calls on established ones, and to a program's start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from enforce import rows
from harness import ENFORCE, Figure, Section, alternate, scratch, table, timed

from callfence.policygen.language.document import newest_table
from callfence.tracer.abi import Arch, table as calls_of

if TYPE_CHECKING:
    from collections.abc import Callable

TITLE = "hosts"
ROUNDS, STARTS = 9, 20
COUNTS = {"connect": 3000, "connect while 1,000 others wait": 1000, "send": 30_000, "sendmsg": 5000, "sendto": 5000}
"""How often program.py makes each call."""
PROGRAM = Path(__file__).with_name("program.py")
LINES = ("tcp connect 127.0.0.1: any", "tcp connect api.example.org: 443", "udp send 127.0.0.1: any", "unix connect: none")


def section() -> Section:
    """The measurements."""
    with scratch() as folder, scratch() as home:
        _policy(folder / "plain.policy")
        _policy(folder / "hosts.policy", *LINES)
        calls = {}
        for what, count in COUNTS.items():
            sides = {
                name: _printed([ENFORCE, "-p", f"{name}.policy", "--", sys.executable, PROGRAM, what, count], folder, count)
                for name in ("plain", "hosts")
            }
            calls[what] = {name: spread.least for name, spread in alternate(sides, ROUNDS).items()}
        starts = alternate(
            {
                "enforce, calls alone": timed([ENFORCE, "-p", "plain.policy", "--", "true"], folder, home),
                "enforce, with lines about hosts": timed([ENFORCE, "-p", "hosts.policy", "--", "true"], folder, home),
            },
            STARTS,
        )
    each = [(what, *(f"{microseconds:.1f}" for microseconds in sides.values())) for what, sides in calls.items()]
    text = (
        f"One call, and its answer, by a Python program under `enforce`: least of {ROUNDS}.\n\n"
        f"{table(('', 'calls alone, us', 'with lines about hosts, us'), each)}\n"
        f"Starting `true`, wall clock: median of {STARTS} (least-most).\n\n{table(('', 'ms'), rows(starts))}"
    )
    plain_start, hosts_start = (one.median for one in starts.values())
    return Section(
        text,
        (
            Figure("a connect more", 60, calls["connect"]["hosts"] - calls["connect"]["plain"], " us"),
            Figure("send on an established connection / without", 1.02, calls["send"]["hosts"] / calls["send"]["plain"]),
            Figure("a start more", 3, (hosts_start - plain_start) * 1000, " ms"),
        ),
    )


def _printed(command: list[object], folder: Path, count: int) -> Callable[[], float]:
    """Return a function that runs a command, and returns the microseconds a call that it prints in seconds for all."""

    def measure() -> float:
        ran = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True, check=True)
        return float(ran.stdout) * 1e6 / count

    return measure


def _policy(path: Path, *lines: str) -> None:
    """Write a policy that allows every call, with these lines."""
    head = ["callfence 1", newest_table().strip(), "arch x86_64", "default errno EPERM", "unknown errno ENOSYS", *lines]
    path.write_text("\n".join([*head, *(f"{name}: allow" for name in sorted(calls_of(Arch.X86_64).by_name)), ""]))
