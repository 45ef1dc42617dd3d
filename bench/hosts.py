"""What lines about hosts add: to connections, to calls on established ones, and to a program's start."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from enforce import rows
from harness import ENFORCE, Figure, Section, alternate, scratch, table, timed

from tracer.abi import Arch, table as calls_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TITLE = "hosts"
ROUNDS, STARTS = 9, 20
CONNECTS, MESSAGES, DATAGRAMS = 3000, 30_000, 5000
PROGRAM = f"""
import socket, sys, time
what = sys.argv[1]
served = socket.socket()
served.bind(("127.0.0.1", 0))
served.listen(128)
def connected():
    s = socket.create_connection(served.getsockname())
    return s, served.accept()[0]
begin = time.perf_counter()
if what == "connect":
    for _ in range({CONNECTS}):
        a, b = connected()
        a.close()
        b.close()
elif what == "send":
    a, b = connected()
    for _ in range({MESSAGES}):
        a.send(b"x")
        b.recv(1)
elif what == "sendmsg":
    a, b = connected()
    for _ in range({DATAGRAMS}):
        a.sendmsg([b"x"])
        b.recv(1)
elif what == "sendto":
    a, b = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    b.bind(("127.0.0.1", 0))
    for _ in range({DATAGRAMS}):
        a.sendto(b"x", b.getsockname())
        b.recv(1)
print(time.perf_counter() - begin)
"""
COUNTS = {"connect": CONNECTS, "send": MESSAGES, "sendmsg": DATAGRAMS, "sendto": DATAGRAMS}
LINES = ("tcp connect 127.0.0.1: any", "tcp connect api.example.org: 443", "udp send 127.0.0.1: any", "unix connect: none")


def section() -> Section:
    """The measurements."""
    with scratch() as folder, scratch() as home:
        (folder / "program.py").write_text(PROGRAM)
        _policy(folder / "plain.policy")
        _policy(folder / "hosts.policy", *LINES)
        calls = {}
        for what, count in COUNTS.items():
            sides = {
                name: _printed([ENFORCE, "-p", f"{name}.policy", "--", sys.executable, "program.py", what], folder, count)
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
    head = ["callfence 1", "arch x86_64", "default errno EPERM", "unknown errno ENOSYS", *lines]
    path.write_text("\n".join([*head, *(f"{name}: allow" for name in sorted(calls_of(Arch.X86_64).by_name)), ""]))
