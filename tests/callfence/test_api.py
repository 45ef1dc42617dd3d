"""`callfence.apply`, in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from calls import native

from callfence.tracer.abi import NATIVE, table

CALLS = "brk close exit exit_group fstat futex ioctl lseek madvise mmap munmap read rt_sigaction rt_sigprocmask write"
INTERPRETER = "".join(f"{call}: 1\n" for call in CALLS.split(" "))
"""What Python itself needs until its end."""
MKDIR, RMDIR = native("mkdir"), native("rmdir")


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    start = f"import os, sys, threading, callfence\nINTERPRETER = {INTERPRETER!r}\n{program}"
    return subprocess.run([sys.executable, "-c", start, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_a_text_is_applied_at_once() -> None:
    done = run(
        "callfence.apply('default errno EPERM\\n' + INTERPRETER)\nprint('on')\n"
        "try: os.mkdir('/x')\nexcept OSError as e: print(e.errno)"
    )
    assert (done.stdout, done.returncode) == ("on\n1\n", 0), done.stderr


def test_the_default_kills() -> None:
    done = run("callfence.apply(INTERPRETER)\nos.write(1, b'on')\nos.mkdir('/x')\nprint('off')")
    assert (done.stdout, done.returncode) == ("on", -signal.SIGSYS)


def test_names_and_numbers() -> None:
    """Of getpid and exit_group, the numbers; write is allowed to standard output alone."""
    getpid, exit_group = (table(NATIVE).by_name[name].number for name in ("getpid", "exit_group"))
    done = run(
        f"callfence.apply({{{getpid}: 'errno EACCES', 'sys_write': 'fd == 1', {exit_group}: 1, 'exit': 1, '{MKDIR}': 'kill',"
        " 'rt_sigaction': 1,"
        " 'munmap': 1, 'futex': 1, 'brk': 1, 'mmap': 1})\nos.write(1, b'a')\nos.write(2, b'b')"
    )
    assert (done.stdout, done.stderr, done.returncode) == ("a", "", -signal.SIGSYS)


def test_each_further_call_reduces() -> None:
    done = run(
        f"callfence.apply('default allow\\nunknown allow\\n{MKDIR}: errno EPERM')\n"
        f"callfence.apply('default allow\\nunknown allow\\n{MKDIR}: allow\\n{RMDIR}: errno EBUSY')\n"
        "for call in os.mkdir, os.rmdir:\n    try: call('/x')\n    except OSError as e: print(e.errno)"
    )
    assert (done.stdout, done.returncode) == ("1\n16\n", 0), done.stderr


def test_every_thread_is_confined() -> None:
    done = run(
        "go = threading.Event(); seen = []\n"
        "def other():\n    go.wait()\n    try: os.mkdir('/x')\n    except OSError as e: seen.append(e.errno)\n"
        "t = threading.Thread(target=other); t.start()\n"
        f"callfence.apply('default allow\\nunknown allow\\n{MKDIR}: errno EBUSY'); go.set(); t.join(); print(seen)"
    )
    assert (done.stdout, done.returncode) == ("[16]\n", 0), done.stderr


def test_on_exec_confines_what_is_executed() -> None:
    lines = "".join(f"{call}: errno EBUSY\\n" for call in sorted({MKDIR, "mkdirat"}))
    done = run(
        f"callfence.apply('default allow\\n{lines}execve: kill', when='on_exec')\n"
        "os.mkdir(sys.argv[1] + 'a'); os.rmdir(sys.argv[1] + 'a')\n"
        "os.execvp('mkdir', ['mkdir', sys.argv[1]])",
        "/tmp/callfence-test-api",
    )
    assert done.returncode == 1
    assert "busy" in done.stderr


def test_on_exec_leaves_no_child_and_keeps_the_pid() -> None:
    done = run(
        f"callfence.apply('default allow\\nunknown allow\\n{MKDIR}: errno EBUSY', when='on_exec')\n"
        "print(os.getpid(), flush=True)\n"
        "os.execvp('sh', ['sh', '-c', 'echo $$; grep Seccomp_filters /proc/$$/status; cat /proc/$$/task/$$/children'])"
    )
    first, second, filters, *children = done.stdout.splitlines()
    assert first == second
    assert filters.split() == ["Seccomp_filters:", "1"]
    assert len("".join(children).split()) <= 1  # cat itself


A_THREAD = "threading.Thread(target=threading.Event().wait, daemon=True).start()"
STARTS = ["os.fork()", "import subprocess; subprocess.run(['true'])", "threading.Thread(target=print).start()"]


@pytest.mark.parametrize("start", STARTS)
def test_nothing_gets_away_before_the_execve(start: str) -> None:
    done = run(f"callfence.apply('default allow', when='on_exec')\n{start}\nprint('away')")
    assert (done.stdout, done.returncode) == ("", 125)
    assert "started a thread or a process before its execve" in done.stderr


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("callfence.apply('read: fd = 1')", "<filters>:1:10"),
        ("callfence.apply({'read': 'fd == 1', 'nosuch': 1})", "nosuch"),
        ("callfence.apply({'read': 'allow\\nwrite: allow'})", "an entry is one line"),
        ("callfence.apply('read: 1', when='later')", "when must be 'now' or 'on_exec'"),
        (f"{A_THREAD}; callfence.apply('', when='on_exec')", "2 threads"),
        ("callfence.apply('', when='on_exec'); callfence.apply('', when='on_exec')", "already traced by pid"),
    ],
)
def test_mistakes_change_nothing(program: str, message: str) -> None:
    done = run(f"try:\n    {program}\nexcept Exception as e: print(e)\nos.getppid()")
    assert message in done.stdout
    assert done.returncode == 0


def test_importing_is_cheap() -> None:
    done = run("print([name for name in ('callfence.policygen', 'callfence.enforcer', 'ctypes') if name in sys.modules])")
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("when", ["now", "on_exec"])
@pytest.mark.parametrize("line", ["unix connect /run/x.sock", "tcp connect 192.0.2.1: 443"])
def test_lines_about_hosts_and_sockets_are_refused(line: str, when: str) -> None:
    done = run(f"callfence.apply('default allow\\narch {NATIVE}\\nmkdir: deny\\n{line}\\n', {when!r})")
    assert done.returncode == 1
    assert "needs the helper that `enforce` starts" in done.stderr
