"""The one fork: whatever happens in the child, it ends there, and the caller's code goes on once."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAD = """
import os, signal, struct, sys
from callfence.tracer.running.child import fork
from callfence.tracer.running.launch import Dispositions, Launch, Program
from callfence.tracer.errors import TracerError
PARENT = os.getpid()

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def begins():
    # Python calls this before each line: at line AT of the child, a SIGINT arrives.
    count = 0
    def trace(frame, event, argument):
        nonlocal count
        if os.getpid() != PARENT:
            count += 1
            if count == AT:
                os.kill(os.getpid(), signal.SIGINT)
        return trace
    return trace
"""
FORK = """
try:
    pid = fork(work)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
except BaseException as error:
    say("raised", type(error).__name__)
finally:
    say("finally", "parent" if os.getpid() == PARENT else "child")
say("status", status)
"""
LAUNCH = """
ALLOW = struct.pack("HBBI", 6, 0, 0, 0x7FFF0000)
dispositions = Dispositions()
try:
    launch = Launch(Program(b"/bin/true", (b"true",), (), prepare), dispositions, ALLOW)
    dispositions.restore()
    launch.go()
    launch.check()
    say("started")
except TracerError as error:
    say("refused", error)
finally:
    say("finally", "parent" if os.getpid() == PARENT else "child")
say("status", os.waitstatus_to_exitcode(os.waitpid(launch.pid, 0)[1]))
"""
RAISED = ["ValueError('wrong')", "KeyboardInterrupt", "SystemExit(0)", "MemoryError", "GeneratorExit", "OSError(13, 'no')"]


def run(script: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", HEAD + script], capture_output=True, text=True, timeout=60, check=False)
    assert not done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("raised", RAISED)
def test_what_the_work_raises_ends_the_child(raised: str) -> None:
    assert run(f"def work(): raise {raised}\n{FORK}") == ["finally parent", "status 125"]


def test_the_work_is_done() -> None:
    assert run(f"def work(): say('worked')\n{FORK}") == ["worked", "finally parent", "status 0"]


def test_a_report_that_fails_ends_the_child() -> None:
    script = FORK.replace("fork(work)", "fork(work, work)")
    assert run(f"def work(error=None): raise ValueError\n{script}") == ["finally parent", "status 125"]


def interrupted(script: str) -> list[list[str]]:
    """What a script prints with a SIGINT at lines of the child, from the first on until there are no more."""
    at, ends = 1, [run(script.format(at=1))]
    while ends[-1][-1] != "status 0":
        at += 1 + at // 20
        ends.append(run(script.format(at=at)))
    return ends


@pytest.mark.long
def test_an_interrupt_at_any_line_of_the_child_ends_it_alone() -> None:
    ends = interrupted(f"AT = {{at}}\ndef work():\n  x = 1\n  y = 2\nsys.settrace(begins())\n{FORK}")
    assert len(ends) > 20
    assert all(lines == ["finally parent", "status -2"] for lines in ends[:-1])
    assert ends[-1] == ["finally parent", "status 0"]


def test_a_handler_of_the_caller_does_not_run_in_the_child() -> None:
    handler = "signal.signal(signal.SIGTERM, lambda *_: say('handled'))\n"
    assert run(f"{handler}def work(): os.kill(os.getpid(), 15)\n{FORK}") == ["finally parent", "status -15"]


def test_the_mask_is_the_callers() -> None:
    masks = "say(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))"
    script = f"signal.pthread_sigmask(signal.SIG_SETMASK, [10])\ndef work(): {masks}\n{FORK}{masks}\n"
    assert run(script) == ["[<Signals.SIGUSR1: 10>]", "finally parent", "status 0", "[<Signals.SIGUSR1: 10>]"]


def test_an_interrupt_of_the_caller_leaves_no_child() -> None:
    """It arrives while signals are blocked, and is raised once they are not."""
    script = """
real = os.fork
def late():
    pid = real()
    if pid:
        os.kill(os.getpid(), signal.SIGINT)
    return pid
os.fork = late
def work(): signal.pause()
"""
    lines = run(f"{script}status = None\n{FORK}\ntry: os.wait()\nexcept ChildProcessError: say('no child')\n")
    assert lines == ["raised KeyboardInterrupt", "finally parent", "status None", "no child"]


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        ("ValueError('wrong')", "ValueError: wrong"),
        ("KeyboardInterrupt", "KeyboardInterrupt"),
        ("SystemExit(0)", "SystemExit: 0"),
        ("MemoryError", "Cannot allocate memory"),
        ("OSError(13, 'no')", "Permission denied"),
    ],
)
def test_a_program_that_cannot_be_prepared(raised: str, told: str) -> None:
    lines = run(f"def prepare(): raise {raised}\n{LAUNCH}")
    assert lines == [f"refused the program cannot be started: prepare: {told}", "finally parent", "status 125"]


@pytest.mark.long
def test_an_interrupt_at_any_line_before_the_execve_ends_the_program_alone() -> None:
    ends = interrupted(f"AT = {{at}}\ndef prepare():\n  x = 1\n  y = 2\nsys.settrace(begins())\n{LAUNCH}")
    assert len(ends) > 20
    assert all(lines == ["started", "finally parent", "status -2"] for lines in ends[:-1])
    assert ends[-1] == ["started", "finally parent", "status 0"]
