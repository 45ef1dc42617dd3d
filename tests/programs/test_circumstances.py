"""Who runs learn and enforce, and from where: without privileges, as in a container, from a pipe, on a terminal."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from callfence.tracer.abi import NATIVE, table
from tests.enforcer.conftest import wait_until

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Sequence

    from conftest import Commands, Nobody

TIMEOUT = 60
CONTAINER = ("setpriv", "--inh-caps=-sys_admin,-sys_ptrace", "--bounding-set=-sys_admin,-sys_ptrace")
"""Root, but without what Docker does not give it by default."""
NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
"""A user with no capability anywhere, whose files belong to root outside."""


@pytest.fixture(scope="module")
def victim(compile_c: Callable[..., Path]) -> Path:
    return compile_c(Path(__file__).parent / "attacks" / "victim.c")


def learn_and_enforce(prefix: Sequence[str], victim: Path, commands: Commands, folder: Path) -> None:
    """Learn the benign run, enforce it, and see an attack stopped, each started by the words of `prefix`."""
    environment = {**commands.environment, "HOME": str(folder)}
    policy, log = folder / "victim.policy", folder / "log"
    learned = commands.plain([*prefix, *commands.learning(policy), victim, "benign"], folder, env=environment)
    assert (learned.returncode, learned.stdout) == (0, b"benign work done\n"), learned.stderr.decode()
    benign = commands.plain([*prefix, *commands.enforcing(policy, log), victim, "benign"], folder, env=environment)
    assert (benign.returncode, benign.stdout, benign.stderr) == (0, b"benign work done\n", b"")
    assert commands.violations(log) == []
    attack = commands.plain([*prefix, *commands.enforcing(policy, log), victim, "mmap_wx"], folder, env=environment)
    assert attack.returncode in (-signal.SIGSYS, 128 + signal.SIGSYS)  # the latter where `prefix` waits for it
    assert attack.stdout == b"benign work done\n"
    (violation,) = commands.violations(log)
    assert violation["call"].startswith("mmap(")


def test_root_without_the_capabilities_that_containers_drop(victim: Path, commands: Commands, tmp_path: Path) -> None:
    learn_and_enforce(CONTAINER, victim, commands, tmp_path)


def test_no_capabilities_in_a_user_namespace(victim: Path, commands: Commands, tmp_path: Path) -> None:
    learn_and_enforce(NAMESPACE, victim, commands, tmp_path)


@pytest.mark.long
def test_an_unprivileged_user(victim: Path, commands: Commands, nobody: Nobody) -> None:
    program, work = nobody.folder / "victim", nobody.folder / "work"
    shutil.copy(victim, program)
    work.mkdir()
    os.chown(work, 65534, 65534)
    learn, enforce = ([*nobody.python, "-m", "callfence", command, "--"] for command in ("learn", "enforce"))
    learned = commands.plain([*learn, program, "benign"], work)
    assert (learned.returncode, learned.stdout) == (0, b"benign work done\n"), learned.stderr.decode()
    assert (work / "victim.policy").stat().st_uid == 65534
    benign = commands.plain([*enforce, program, "benign"], work)
    assert (benign.returncode, benign.stdout, benign.stderr) == (0, b"benign work done\n", b"")
    attack = commands.plain([*enforce, program, "mmap_wx"], work)
    assert (attack.returncode, attack.stdout) == (-signal.SIGSYS, b"benign work done\n")
    assert b"mmap(" in attack.stderr


def test_standard_input_is_a_pipe(commands: Commands, tmp_path: Path) -> None:
    text = b"".join(b"line %d\n" % number for number in range(100_000))
    policy = tmp_path / "tr.policy"
    learned = commands.learn(policy, ["tr", "a-z", "A-Z"], tmp_path, stdin=None, input=text)
    assert (learned.returncode, learned.stdout) == (0, text.upper())
    enforced = commands.enforce(policy, ["tr", "a-z", "A-Z"], tmp_path, stdin=None, input=text)
    assert (enforced.ran.returncode, enforced.ran.stdout, enforced.ran.stderr) == (0, text.upper(), b"")


ASK = ("sh", "-c", 'test -t 0 && test -t 1 && printf "name? " && read -r name && echo "hello $name" && stty size')


def test_standard_input_is_a_terminal(commands: Commands, tmp_path: Path) -> None:
    policy, log = tmp_path / "ask.policy", tmp_path / "log"
    plain = on_terminal(ASK, commands, tmp_path)
    assert plain == (0, b"name? you\r\nhello you\r\n24 80\r\n")
    assert on_terminal([*commands.learning(policy), *ASK], commands, tmp_path) == plain
    assert on_terminal([*commands.enforcing(policy, log), *ASK], commands, tmp_path) == plain
    assert commands.violations(log) == []


def test_control_c_on_a_terminal_reaches_the_program(commands: Commands, tmp_path: Path) -> None:
    """It arrives once, and what was seen until then is kept."""
    policy, log = tmp_path / "trap.policy", tmp_path / "log"
    trap = ("sh", "-c", "trap 'echo caught; exit 3' INT; printf 'name? '; while read -r name; do :; done; exit 4")
    expected = (3, b"name? ^Ccaught\r\n")
    assert on_terminal(trap, commands, tmp_path, typed=b"\x03") == expected
    learning = commands.learning(policy, "--exact")
    assert on_terminal([*learning, *trap], commands, tmp_path, typed=b"\x03") == expected
    assert "rt_sigreturn" in policy.read_text()
    enforced = on_terminal([*commands.enforcing(policy, log), *trap], commands, tmp_path, typed=b"\x03")
    assert (enforced, commands.violations(log)) == (expected, [])


def on_terminal(
    words: Sequence[str | Path], commands: Commands, folder: Path, typed: bytes = b"you\n"
) -> tuple[int, bytes]:
    """Exit status and what the terminal showed of a command that is its session's leader there.

    `typed` goes in once the command has printed its prompt, "name? ".  Standard error goes to a file.
    """
    ours, theirs = os.openpty()
    subprocess.run(["stty", "rows", "24", "cols", "80"], stdin=theirs, check=True)
    shown = b""
    with (folder / "errors").open("wb") as errors, closing(os.fdopen(ours, "r+b", buffering=0)) as terminal:
        running = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *words], cwd=folder, env=commands.environment,
            stdin=theirs, stdout=theirs, stderr=errors,
        )
        os.close(theirs)
        timer = threading.Timer(TIMEOUT, running.kill)  # `setsid` gone, the terminal hangs up and the rest ends
        timer.start()
        try:
            while chunk := read_terminal(terminal):
                if b"name? " in chunk + shown and b"name? " not in shown:
                    wait_until(lambda: reads(os.tcgetpgrp(terminal.fileno())))  # before, ^C would not end its read(2)
                    terminal.write(typed)
                shown += chunk
            status = running.wait(TIMEOUT)
        finally:
            timer.cancel()
            running.kill()
    return status, shown


def reads(group: int) -> bool:
    """Whether a shell of the process group waits for input."""
    call = table(NATIVE).by_name["read"].number
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (
                int((process / "stat").read_text().rpartition(")")[2].split()[2]) == group
                and (process / "comm").read_text() == "sh\n"
                and (process / "syscall").read_text().startswith(f"{call} 0x0 ")
            ):
                return True
        except OSError:  # it has ended
            continue
    return False


def read_terminal(terminal: io.FileIO) -> bytes:
    """What the terminal shows next; b"" at its end, for which Linux answers EIO (pty(7))."""
    try:
        return terminal.read(4096)
    except OSError:
        return b""
