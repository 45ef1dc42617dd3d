"""`callfence.confine`, in processes of their own: a script learned without it, then confined by it."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from calls import native

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from conftest import Commands

SCRIPT = """
import os, socket, sys, threading
import callfence

if "--free" not in sys.argv:
    callfence.confine(*sys.argv[1:2])
print(open("/proc/self/status").read().partition("Seccomp:")[2].split()[0], flush=True)
thread = threading.Thread(target=print, args=["thread"])
thread.start()
thread.join()
sys.stdout.flush()
if "--more" in sys.argv:
    socket.socket(socket.AF_INET)
"""


@dataclass(frozen=True, slots=True)
class Learned:
    """`script.py`, with its policy in the same folder."""

    folder: Path
    commands: Commands

    def run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return self.commands.plain([sys.executable, *arguments], self.folder)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, commands: Commands) -> Learned:
    folder = tmp_path_factory.mktemp("confine")
    (folder / "script.py").write_text(SCRIPT)
    ran = commands.learn(folder / "script.py.policy", [sys.executable, "script.py", "--free"], folder)
    assert (ran.returncode, ran.stdout) == (0, b"2\nthread\n"), ran.stderr.decode()
    return Learned(folder, commands)


@pytest.mark.parametrize("policy", [(), ("script.py.policy",)], ids=["by the script's name", "named"])
def test_a_learned_script_runs_as_before(learned: Learned, policy: tuple[str, ...]) -> None:
    for _ in range(2):  # from the policy, from the cache
        ran = learned.run("script.py", *policy)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"2\nthread\n", b"")


def test_more_than_was_learned_is_killed_in_silence(learned: Learned) -> None:
    ran = learned.run("script.py", "script.py.policy", "--more")
    assert (ran.returncode, ran.stdout, ran.stderr) == (-signal.SIGSYS, b"2\nthread\n", b"")


CONFINE = """
import socket, callfence
try:
    {}
except Exception as error:
    print(error)
else:
    print("confined")
socket.socket(socket.AF_INET)
print("free")
"""


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("callfence.confine('nosuch.policy')", b"the policy nosuch.policy cannot be read: No such file"),
        ("callfence.confine('wrong.policy')", b"wrong.policy:1:10: "),
        ("callfence.confine('.')", b"the policy . cannot be read: Is a directory"),
        ("callfence.confine()", b"the policy's name cannot be derived, because no script is running"),
    ],
)
def test_what_cannot_be_established_changes_nothing(learned: Learned, call: str, message: bytes) -> None:
    (learned.folder / "wrong.policy").write_text("read: fd = 1\n")
    ran = learned.run("-c", CONFINE.format(call))
    assert ran.returncode == 0, ran.stderr.decode()
    assert ran.stdout.startswith(message)
    assert ran.stdout.endswith(b"\nfree\n")


def test_threads_that_run_already_are_confined(learned: Learned) -> None:
    ran = learned.run(
        "-c",
        "import os, threading, callfence\n"
        f"open('busy.policy', 'w').write('default allow\\nunknown allow\\n{native('mkdir')}: errno EBUSY')\n"
        "go = threading.Event(); seen = []\n"
        "def other():\n    go.wait()\n    try: os.mkdir('/x')\n    except OSError as e: seen.append(e.errno)\n"
        "t = threading.Thread(target=other); t.start()\n"
        "callfence.confine('busy.policy'); go.set(); t.join(); print(seen)",
    )
    assert (ran.returncode, ran.stdout) == (0, b"[16]\n"), ran.stderr.decode()


def test_a_thread_with_a_filter_of_its_own(learned: Learned) -> None:
    """Not all threads could be confined, so none is."""
    ran = learned.run(
        "-c",
        "import os, threading, callfence\n"
        "from callfence.enforcer import kernel\n"
        f"open('busy.policy', 'w').write('default allow\\nunknown allow\\n{native('mkdir')}: errno EBUSY')\n"
        "ready = threading.Event(); go = threading.Event()\n"
        "def other():\n    kernel.set_no_new_privs()\n    kernel.install(bytes.fromhex('060000000000ff7f'), 0)\n"
        "    ready.set()\n    go.wait()\n"
        "t = threading.Thread(target=other); t.start(); ready.wait()\n"
        "try: callfence.confine('busy.policy')\nexcept Exception as e: print(e)\n"
        "go.set(); t.join()\n"
        "try: os.mkdir('/proc/x')\nexcept OSError as e: print(e.errno)",
    )
    assert ran.returncode == 0, ran.stderr.decode()
    message, errno = ran.stdout.splitlines()
    assert message.endswith(b"has a filter of its own, so no filter can be installed on all threads")
    assert errno != b"16"
