"""When the filter takes effect, and that a program which cannot be confined does not run."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from callfence.tracer.abi import COMPAT, NATIVE, table

GETPPID, GETPPID_OF_32_BITS = ([table(arch).by_name["getppid"].number] for arch in (NATIVE, COMPAT))
EXECVE, OPENAT, MMAP, WAIT4 = (table(NATIVE).by_name[name].number for name in ("execve", "openat", "mmap", "wait4"))
DRIVER = Path(__file__).parents[1] / "driver.py"
STRACE = ("strace", "-o", "/dev/null", "-e", "trace=none")
KINDS = {"dynamic": (), "static": ("-static",), "32 bits": ("-m32",), "32 bits static": ("-m32", "-static")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arm", ["now", "exec", "entry"])
def test_every_process_of_every_kind_of_program_is_confined(arm, kind, build, drive):
    program = build("parent", *KINDS[kind])
    for argv in ([program], [program, "again"]):
        done = drive(arm, GETPPID_OF_32_BITS if "-m32" in KINDS[kind] else GETPPID, *argv)
        assert (done.returncode, done.stderr) == (7, b"")
        assert done.stdout == b"1" * (2 + len(argv))


@pytest.mark.parametrize("arm", ["exec", "entry"])
def test_the_execve_that_starts_the_program_is_not_judged(arm, build, drive):
    assert drive(arm, (EXECVE,), build("parent")).returncode == 7
    refused = drive(arm, (EXECVE,), build("parent"), "again")
    assert (refused.returncode, refused.stdout) == (1, b"0")


def test_arm_now_judges_the_execve(build, drive):
    done = drive("now", (EXECVE,), build("parent"))
    assert done.returncode == 126
    assert b"Operation not permitted" in done.stderr


def test_arm_exec_confines_the_dynamic_loader_and_arm_entry_does_not(build, drive):
    done = drive("exec", (OPENAT, MMAP), build("parent"))
    assert done.returncode == 127
    assert b"error while loading shared libraries" in done.stderr
    assert drive("entry", (OPENAT,), build("parent")).returncode == 7


@pytest.mark.parametrize("what", ["thread", "fork", "vfork"])
def test_arm_entry_refuses_what_starts_before_the_entry_point(what, build, drive):
    library = build("early", "-shared", "-fPIC")
    done = drive("entry", GETPPID, f"LD_PRELOAD={library}", f"EARLY={what}", build("parent"))
    assert done.returncode == 125
    assert done.stdout == b""
    assert b"it started a thread or a process before its entry point" in done.stderr
    assert b"--arm exec" in done.stderr


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("untraced", b"it starts a thread or a process before its entry point"),
        ("ends", b"it exits before its entry point"),
        ("waits", b"its own code runs before its entry point (call number %d)" % WAIT4),
    ],
)
def test_arm_entry_ends_what_never_gets_to_the_entry_point(what, why, build, drive):
    library = build("early", "-shared", "-fPIC")
    done = drive("entry", GETPPID, f"LD_PRELOAD={library}", f"EARLY={what}", build("parent"))
    assert done.returncode == 125
    assert done.stdout in (b"", b"unconfined\n" if what == "ends" else b"")
    assert why in done.stderr


def test_arm_entrys_breakpoint_is_not_in_memory(build, drive):
    """Where a constructor could take it out, and the program would run unconfined."""
    library = build("early", "-shared", "-fPIC")
    done = drive("entry", GETPPID, f"LD_PRELOAD={library}", "EARLY=breakpoint", build("parent"))
    assert (done.returncode, done.stdout) == (7, b"111"), done.stderr


def test_arm_entry_lets_a_signal_come_before_the_entry_point(build, drive):
    library = build("early", "-shared", "-fPIC")
    done = drive("entry", GETPPID, f"LD_PRELOAD={library}", "EARLY=signal", build("parent"))
    assert (done.returncode, done.stdout, done.stderr) == (7, b"handled\n111", b"")


def test_arm_entry_follows_an_execve_made_before_the_entry_point(build, drive):
    library = build("early", "-shared", "-fPIC")
    done = drive("entry", (), f"LD_PRELOAD={library}", "EARLY=x", build("parent"))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"executed\n", b"")


def test_a_filter_that_is_too_long(build, drive):
    done = drive("exec", range(2048), build("parent"))
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"the filter has 4115 instructions; the kernel permits at most 4096" in done.stderr


@pytest.mark.parametrize("arm", ["exec", "entry"])
def test_a_stack_without_room_for_the_filter(arm, build, drive):
    """Below the stack pointer execve maps no more than RLIMIT_STACK permits."""
    shell = 'ulimit -s 32; exec "$@"'  # with 16, some programs crash without us where the environment takes 5 KiB
    inner = drive(arm, range(500, 2500), build("parent", "-static"))
    assert inner.returncode == 7, inner.stderr
    done = drive(arm, range(500, 2500), "sh", "-c", shell, "sh", build("parent"))
    assert done.returncode == 7, "a limit that the program sets later matters to nobody"


def test_a_script_is_confined_with_its_interpreter(build, drive, tmp_path):
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\necho \"$0 $*\"\nexec {build('parent')}\n")
    script.chmod(0o755)
    done = drive("exec", GETPPID, "./script", "a", b"\xff b")
    assert (done.returncode, done.stdout) == (7, b"./script a \xff b\n111")


def test_a_traced_program_is_refused_and_told_about_arm_now(build, drive):
    done = drive("exec", GETPPID, build("parent"), under=STRACE)
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"already traced by pid" in done.stderr
    assert b"--arm now" in done.stderr
    done = drive("now", GETPPID, build("parent"), under=STRACE)
    assert done.stdout == b"111"


GONE = """
import os
from callfence.enforcer import helper
from callfence.enforcer.arming.seized import _help
program = os.fork()
if not program:
    os._exit(0)
os.waitpid(program, 0)
(commands, command), (answer, answers) = os.pipe(), os.pipe()
WHEN
os.close(answer)
helper.guarded(lambda: _help(None, program, None, (commands, answers, 2), confines_itself=False))
"""


@pytest.mark.parametrize("when", ["", "os.write(command, b'!')"], ids=["before the helper answers", "before it is traced"])
def test_a_program_that_is_killed_before_it_is_confined_is_no_failure_of_the_helper(when):
    done = subprocess.run([sys.executable, "-c", GONE.replace("WHEN", when)], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


FAILING = """
import sys
from callfence.enforcer.duty import Duty
from callfence.enforcing.command import main
def fails(*_, **__):
    raise {}
Duty.{} = fails
sys.exit(main())
"""
ERRORS = {"OSError(24, 'Too many open files', 'pipe')": "pipe: Too many open files", "MemoryError()": "MemoryError: "}


@pytest.mark.parametrize("error", ERRORS, ids=["descriptors", "memory"])
@pytest.mark.parametrize("method", ["start", "begin"], ids=["before the filter is installed", "after that"])
@pytest.mark.parametrize("arm", ["exec", "entry"])
def test_a_helper_that_cannot_answer_calls_ends_the_program(arm, method, error, place):
    """With status 125, also where the policy denies every exit."""
    place.policy("default kill\n")
    place.command = (sys.executable, "-c", FAILING.format(error, method))
    done = place.enforce("-p", "calls.policy", "--arm", arm, place.calls(), timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (125, "", f"enforce: the program was not run: {ERRORS[error]}\n")


def test_a_helper_without_descriptors_does_not_blame_ptrace(place):
    place.policy("default allow\n")
    script = FAILING.replace("enforcer.duty import Duty", "enforcer import kernel").replace("Duty.{}", "kernel.{}")
    place.command = (sys.executable, "-c", script.format("OSError(24, 'Too many open files', 'pidfd_open')", "pidfd_open"))
    done = place.enforce("-p", "calls.policy", place.calls())
    assert (done.returncode, done.stdout, done.stderr) == (125, "", "enforce: pidfd_open: Too many open files\n")


@pytest.mark.parametrize(
    ("allowed", "status", "lines"),
    [((), -signal.SIGSEGV, ("the helper failed",)), (("write", "exit_group"), 125, ("the helper failed", "the helper proc"))],
)
def test_arm_now_waits_for_no_helper_that_ended_with_the_filter_installed(allowed, status, lines, place):
    """Its listener is open in the process itself, where each denied call would wait for an answer."""
    place.policy("default kill\n" + "".join(f"{call}: allow\n" for call in ("execve", *allowed)))
    place.command = (sys.executable, "-c", FAILING.format("OSError", "begin"))
    done = place.enforce("-p", "calls.policy", "--arm", "now", place.calls(), timeout=20)
    assert (done.returncode, done.stdout) == (status, "")
    assert all(any(line.startswith(f"enforce: {text}") for line in done.stderr.splitlines()) for text in lines)


def test_arm_now_waits_for_no_helper_that_failed_before_the_filter_was_installed(place):
    place.policy("default allow\n")
    place.command = (sys.executable, "-c", FAILING.format("OSError", "start"))
    done = place.enforce("-p", "calls.policy", "--arm", "now", place.calls(), timeout=15)
    assert (done.returncode, done.stdout) == (125, "")
    assert "the helper process ended or hung before it was ready, so the program was not run" in done.stderr


DENIED = """
import os, sys
sys.path.insert(0, {!r})
from callfence.enforcer import kernel
from callfence.enforcer.arming import confining, inject, seized
from driver import program
ready, begun = os.pipe()
child = os.fork()
if not child:
    kernel.set_no_new_privs()
    kernel.install(program([{}]), 0)
    os.write(begun, b"!")
    while True:
        pass
os.read(ready, 1)
seized.seize(child)
confining.stop(child)
inject.reap = lambda pid: print(os.waitpid(pid, 0)[1])
inject.Surgery(child).exit_group(125, inject.Key())
"""


def test_a_filter_of_others_that_denies_the_exit_does_not_let_a_refused_program_go_on():
    script = DENIED.format(str(DRIVER.parent), table(NATIVE).by_name["exit_group"].number)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=20, check=False, text=True)
    assert (done.stdout, done.stderr) == (f"{int(signal.SIGKILL)}\n", "")
