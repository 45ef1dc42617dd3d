"""Job control on a terminal, under learn and around it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from terminal import Terminal

LEARN = f"{sys.executable} -m callfence learn -q -o p.policy "
BASH = "bash --norc --noprofile -i"


@pytest.fixture
def terminal(tmp_path):
    opened = []

    def start(command):
        opened.append(Terminal(command.split(), tmp_path))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.mark.parametrize("prefix", ["", LEARN])
def test_jobs_of_a_learned_shell(terminal, prefix):
    shell = terminal(prefix + BASH)
    shell.prompt()
    shell.command("sleep 300")
    shell.key("\x1a")
    shell.expect(r"Stopped +sleep 300")
    shell.prompt()
    shell.send("jobs\n")
    shell.expect(r"\[1]\+ +Stopped +sleep 300")
    shell.send("bg\n")
    shell.expect(r"\[1]\+ sleep 300 &")
    shell.send("jobs\n")
    shell.expect(r"Running +sleep 300")
    shell.command("fg")
    shell.expect("sleep 300")
    shell.key("\x03")
    shell.prompt()
    shell.send("echo status $?\n")
    shell.expect("status 130")
    shell.command("cat | tr a-z A-Z")
    shell.send("word\n\x04")
    shell.expect("WORD")
    shell.prompt()
    shell.send("exit 6\n")
    assert shell.wait() == 6


@pytest.mark.parametrize("prefix", ["", LEARN])
def test_learn_as_a_job(terminal, prefix):
    shell = terminal(BASH)
    shell.prompt()
    shell.command(f"{prefix}sh -c 'echo up; read word; echo got $word; sleep 300'")
    shell.expect("up\r\n")
    shell.key("\x1a")
    shell.expect(r"\[1]\+ +Stopped  +")
    shell.prompt()
    shell.command("fg")
    shell.send("something\n")
    shell.expect("got something")
    shell.key("\x1a")
    shell.expect(r"\[1]\+ +Stopped  +")
    shell.prompt()
    shell.send("bg\n")
    shell.prompt()
    shell.send("jobs\n")
    shell.expect(r"Running")
    shell.command("fg")
    shell.expect("sh -c")
    shell.key("\x03")
    shell.prompt()
    shell.send("echo status $?\n")
    shell.expect("status 130")
    shell.send("exit\n")
    assert shell.wait() == 0


@pytest.mark.parametrize("prefix", ["", LEARN])
def test_a_background_job_that_reads_is_stopped(terminal, prefix):
    shell = terminal(BASH)
    shell.prompt()
    shell.send(f"{prefix}cat &\n")
    shell.prompt()
    shell.send("sleep 1.5; echo; jobs\n")
    shell.expect(r"Stopped[^\n]*cat")
    shell.command("fg")
    shell.expect("cat")
    shell.send("hello\n")
    shell.expect("hello\r\n")
    shell.send("\x04")
    shell.prompt()
    shell.send("exit\n")
    assert shell.wait() == 0


@pytest.mark.parametrize("prefix", ["", LEARN])
def test_interrupts_reach_the_program_once(terminal, prefix):
    command = "sh -c 'n=0; trap \"n=\\$((n+1)); echo n is \\$n\" INT; echo up; while :; do sleep 0.1; done'"
    shell = terminal(BASH)
    shell.prompt()
    shell.command(f"{prefix}{command}")
    shell.expect("up\r\n")
    for count in (1, 2, 3):
        shell.key("\x03")
        assert shell.expect(r"n is (\d)")[1] == str(count)
    shell.key("\x1c")
    shell.prompt()
    shell.send("echo status $?\n")
    shell.expect("status 131")
    shell.send("exit\n")
    assert shell.wait() == 0


@pytest.mark.parametrize("prefix", ["", LEARN])
def test_a_hangup_reaches_the_program(terminal, tmp_path, prefix):
    (tmp_path / "program.py").write_text(HANGS_UP)
    one = terminal(f"{prefix}{sys.executable} -u program.py")
    one.expect("up\r\n")
    one.close()
    assert (tmp_path / "hung-up").exists()


HANGS_UP = """
import os, signal, time
signal.signal(signal.SIGHUP, lambda *_: (open("hung-up", "w"), exit(3)))
os.write(1, b"up\\n")
time.sleep(20)
"""
