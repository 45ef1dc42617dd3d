"""Job control on a terminal, under learn and around it."""

from __future__ import annotations

import re
import sys
import time

import pytest
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
    end = time.monotonic() + 60
    shell.send("jobs; echo li''sted\n")
    while not re.search(r"Stopped[^\n]*cat", shell.expect(r"(?s)^.*?listed\r\n")[0]):
        assert time.monotonic() < end
        shell.prompt()
        shell.send("sleep 0.3; jobs; echo li''sted\n")
    shell.prompt()
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
while True:  # a signal that comes before the call does not end it
    time.sleep(0.05)
"""


DRAWN = re.compile("\x1b\\[J\x1bD\x1bM\x1b7\x1bE\x1b\\[2mlearning [^\x1b]*\x1b\\[m\x1b8")
"""The progress line, drawn below the cursor, which is put back."""
SLOW = "for i in 1 2 3; do echo line $i; sleep 0.4; done; printf prompt:; read word; echo got $word"


def test_progress_is_erased_before_the_program_writes(terminal, tmp_path):
    (tmp_path / "slow.sh").write_text(SLOW)
    learn = terminal(f"env TERM=xterm {sys.executable} -m callfence learn -o p.policy sh slow.sh")
    before_prompt = learn.expect("(?s)^.*prompt:").group()
    after_prompt = learn.expect(DRAWN).group()
    assert after_prompt.startswith("\x1b[J")
    learn.send("word\n")
    before_prompt += learn.expect("(?s)^.*?\x1b\\[Jgot word").group().removesuffix("got word")
    assert learn.wait() == 0
    assert DRAWN.search(before_prompt)
    for after in DRAWN.split(before_prompt)[1:]:
        assert after in ("", "\r\n") or after.startswith("\x1b[J"), before_prompt
    assert DRAWN.sub("", before_prompt).replace("\x1b[J", "").split() == ["line", "1", "line", "2", "line", "3", "prompt:"]


@pytest.mark.long
@pytest.mark.parametrize("why_not", ["TERM=dumb", "TERM=xterm again"])
def test_no_progress_where_it_could_not_be_erased(terminal, tmp_path, why_not):
    (tmp_path / "slow.sh").write_text(SLOW)
    environment, *again = why_not.split()
    command = f"env {environment} {sys.executable} -m callfence learn -o p.policy sh slow.sh"
    if again:  # known writes do not stop
        learn = terminal(command)
        learn.send("word\n")
        assert learn.wait() == 0
    learn = terminal(command)
    assert learn.expect("(?s)^.*prompt:").group().split() == ["line", "1", "line", "2", "line", "3", "prompt:"]
    learn.send("word\n")
    learn.expect("got word")
    assert learn.wait() == 0
