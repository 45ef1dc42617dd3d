"""Calls that wait, in the start of a program with phases: all else goes on meanwhile; and what the helper keeps of them."""

from __future__ import annotations

import re
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from calls import allowing_all

from callfence.tracer.abi import NATIVE, table
from tests.enforcer.conftest import wait_until

if TYPE_CHECKING:
    from tests.enforcer.conftest import Workplace

PROGRAM = Path(__file__).with_name("waits.py")
CHILD, DENIED = "child: full\n", "denied\n"


@pytest.mark.parametrize(
    ("what", "status", "printed"),
    [
        ("interrupted", 0, f"{CHILD}interrupted\n{DENIED}"),
        ("serving", 0, f"{CHILD}interrupted\n{DENIED}"),
        ("stopped", 0, f"{CHILD}connected\n{DENIED}"),
        ("enters", 0, f"{CHILD}connected\n{DENIED}"),
        ("executes", 0, f"{CHILD}executed\n"),
        ("killed", -9, CHILD),
    ],
)
def test_all_else_goes_on(place: Workplace, what: str, status: int, printed: str) -> None:
    text = allowing_all("phase serving after sched_yield", f"unix connect {place.folder}/full")
    text = "".join(line for line in text.splitlines(keepends=True) if line != "mkdir: allow\n")
    place.policy(text.replace("\nmkdirat: allow\n", "\nmkdirat: allow until serving\n"), "it.policy")
    shutil.copy(PROGRAM, place.folder)
    done = place.enforce("-p", "it.policy", sys.executable, "waits.py", what, timeout=30)
    assert (done.returncode, done.stdout) == (status, printed), done.stderr
    assert "cannot" not in done.stderr
    place.wait_for_helpers(10)


SENDING = """
import ctypes, os, socket, struct, threading
libc = ctypes.CDLL(None)
content = os.urandom(1 << 20)
pairs = [socket.socketpair() for _ in range(100)]
at = ctypes.create_string_buffer(content, len(content))
part = ctypes.create_string_buffer(struct.pack("PN", ctypes.addressof(at), len(content)))
head = struct.pack("PIPNPNi4x", 0, 0, ctypes.addressof(part), 1, 0, 0, 0)
results = []
threads = [threading.Thread(target=lambda s=s: results.append(libc.sendmsg(s.fileno(), head, 0))) for s, _ in pairs]
for thread in threads: thread.start()
input()
for _, end in pairs:
    received = b""
    while len(received) < len(content): received += end.recv(1 << 20)
    assert received == content
for thread in threads: thread.join()
print({*results})
"""


def test_what_waits_to_be_sent_takes_no_memory_of_the_helper(place: Workplace) -> None:
    """100 MiB, of 1 MiB of the program's."""
    place.policy(allowing_all("unix connect /run/none"), "it.policy")
    process = place.start("-p", "it.policy", sys.executable, "-c", SENDING)
    waiting = f"{table(NATIVE).by_name['sendmsg'].number} "
    tasks = Path(f"/proc/{process.pid}/task")
    wait_until(lambda: sum((task / "syscall").read_text().startswith(waiting) for task in tasks.iterdir()) == 100)
    time.sleep(0.5)  # until the last of them has been received
    taken = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{place.helper()}/status").read_text())
    output, errors = process.communicate("\n", timeout=60)
    assert (process.returncode, output) == (0, "{1048576}\n"), errors
    assert taken
    assert int(taken[1]) < 60 << 10


KILLED = """
import os, select, signal, socket
ours, theirs = socket.socketpair()
ours.setblocking(False)
try:
    while True: ours.sendmsg([bytes(1 << 16)])
except BlockingIOError: pass
ours.setblocking(True)
if not (child := os.fork()): ours.sendmsg([bytes(1 << 16)])
ours.close()
input()
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
poller = select.poll()
poller.register(theirs, select.POLLRDHUP)
print(bool(poller.poll(5000)))
"""


def test_the_helper_keeps_no_socket_of_who_was_killed(place: Workplace) -> None:
    """Its peer would wait for the end of the connection."""
    place.policy(allowing_all("unix connect /run/none"), "it.policy")
    process = place.start("-p", "it.policy", sys.executable, "-c", KILLED)
    waiting = f"{table(NATIVE).by_name['sendmsg'].number} "
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(lambda: (child := children.read_text()) and Path(f"/proc/{int(child)}/syscall").read_text().startswith(waiting))
    time.sleep(0.5)  # until it has been received
    output, errors = process.communicate("\n", timeout=60)
    assert (process.returncode, output) == (0, "True\n"), errors
