"""The options of `enforce` that are not about calls, each seen from inside the program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ARMS = pytest.mark.parametrize("options", [("--arm", "exec"), ("--arm", "now"), ("--quiet-kernel",)], ids="".join)
PYTHON = (sys.executable, "-I", "-S", "-c")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "all.policy").write_text("default allow\n")
    return tmp_path


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "callfence", "enforce", "-p", "all.policy", *words]


def enforce(folder: Path, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
    settings = {"cwd": folder, "capture_output": True, "text": True, "timeout": 60, "check": False} | options
    return subprocess.run(command(*words), **settings)  # type: ignore[call-overload, no-any-return]


def inside(folder: Path, script: str, *options: str, **settings: object) -> str:
    done = enforce(folder, *options, *PYTHON, script, **settings)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.strip()


@ARMS
def test_die_with_parent(work: Path, options: tuple[str, ...]) -> None:
    """The parent starts enforce, tells the program's pid and ends; what is read then ends with the program."""
    script = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    words = command("--die-with-parent", *options, *PYTHON, script)
    parent = f"import subprocess, sys; p = subprocess.Popen({words!r}, stdout=subprocess.PIPE, text=True);"
    parent += "print(p.stdout.readline(), end='', flush=True)"
    begun = time.monotonic()
    done = subprocess.run([*PYTHON, parent], cwd=work, capture_output=True, text=True, timeout=50, check=True)
    pid = int(done.stdout)
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < begun + 50, "it lives on"
        time.sleep(0.02)


@ARMS
def test_chdir(work: Path, options: tuple[str, ...]) -> None:
    """The program starts there; `.` of the policy, and names of files in options, are those of the current folder."""
    (work / "below").mkdir()
    (work / "below" / "run").write_text("#!/bin/sh\npwd; cat < ../key; : > made\n")
    (work / "below" / "run").chmod(0o755)
    (work / "key").write_text("text\n")
    (work / "all.policy").write_text("default allow\npath /: read, execute\npath ./below/made: write\npath /dev: write\n")
    (work / "below" / "made").touch()
    done = enforce(work, "--chdir", "below", *options, "./run")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{work}/below\ntext\n", "")
    (work / "all.policy").write_text("default allow\npath /: read, execute\npath ./made: write\npath /dev: write\n")
    (work / "made").touch()
    done = enforce(work, "--chdir", "below", *options, "./run")
    assert "made: Permission denied" in done.stderr


def test_a_folder_that_is_not_there(work: Path) -> None:
    done = enforce(work, "--chdir", "none", "true")
    assert (done.returncode, done.stderr) == (125, "enforce: --chdir none: No such file or directory\n")


@ARMS
def test_close_fds(work: Path, options: tuple[str, ...]) -> None:
    script = "import os; print(sorted(os.listdir('/proc/self/fd')))"
    first, second = os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)
    try:
        opened = {"pass_fds": (first, second)}
        shown = inside(work, script, *options, **opened)
        assert str(first) in shown
        assert str(second) in shown
        assert inside(work, script, "--close-fds", *options, **opened) == "['0', '1', '2', '3']", "3 is the listing"
        kept = inside(work, script, "--close-fds", "--keep-fd", str(second), *options, **opened)
        assert f"'{second}'" in kept
        assert f"'{first}'" not in kept.replace("'3'", "")
    finally:
        os.close(first)
        os.close(second)


@ARMS
def test_drop_caps(work: Path, options: tuple[str, ...]) -> None:
    """Emptying the bounding set takes a capability; without one the set gives none either."""
    sets = ("CapInh", "CapPrm", "CapEff", "CapAmb", *(["CapBnd"] if os.geteuid() == 0 else []))
    script = f"print([l.split()[1].strip('0') for l in open('/proc/self/status') if l.startswith({sets})])"
    assert inside(work, script, "--drop-caps", *options) == str([""] * len(sets))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to drop")
def test_a_program_without_capabilities_cannot_get_them_back(work: Path) -> None:
    script = "import subprocess; print(subprocess.run(['chown', '1:1', '.'], capture_output=True).returncode)"
    assert inside(work, script) == "0"
    assert inside(work, script, "--drop-caps") == "1"


@ARMS
def test_scope_signals(work: Path, options: tuple[str, ...]) -> None:
    """A child can be signalled, the parent cannot, and files can still be renamed across folders."""
    script = (
        "import os, signal\n"
        "child = os.fork()\n"
        "if not child: signal.pause()\n"
        "os.kill(child, 9); print(os.waitstatus_to_exitcode(os.wait()[1]), end=' ')\n"
        "os.mkdir('to'); open('file', 'w'); os.rename('file', 'to/file')\n"
        "try: os.kill(os.getppid(), 0); print('reached')\n"
        "except PermissionError: print('out of reach')\n"
    )
    done = enforce(work, "--scope", "signals", *options, *PYTHON, script)
    if "this kernel has" in done.stderr:
        pytest.skip(done.stderr)
    assert done.stdout == "-9 out of reach\n", done.stderr
    (work / "to" / "file").unlink()
    (work / "to").rmdir()
    assert inside(work, script, "--scope", "none", *options) == "-9 reached"


def test_the_helper_is_out_of_the_scopes_reach(work: Path) -> None:
    """The program looks for it by its parent, which ended: it belongs to a session of its own."""
    script = (
        "import os\n"
        "def reached(pid):\n"
        "    try: os.kill(pid, 0)\n"
        "    except PermissionError: return False\n"
        "    except ProcessLookupError: return None\n"
        "    return True\n"
        "print(sum(reached(int(p)) is True for p in os.listdir('/proc') if p.isdigit() and int(p) != os.getpid()))\n"
    )
    done = enforce(work, "--scope", "signals", *PYTHON, script)
    if "this kernel has" in done.stderr:
        pytest.skip(done.stderr)
    assert done.stdout == "0\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--keep-fd", "7"), "--keep-fd requires --close-fds"),
        (("--close-fds", "--keep-fd", "x"), "must be the number of a descriptor"),
        (("--close-fds", "--keep-fd", "77"), "--keep-fd 77: Bad file descriptor"),
        (("--scope", "files"), "--scope files: the value must be signals"),
    ],
)
def test_mistakes_are_told_and_nothing_runs(work: Path, options: tuple[str, ...], said: str) -> None:
    done = enforce(work, *options, "touch", "ran")
    assert done.returncode == 125
    assert said in done.stderr
    assert not (work / "ran").exists()


def test_the_signal_that_ends_the_program_is_that_of_its_parents_end(work: Path) -> None:
    """Nothing else of the program changes: it ends with its own status otherwise."""
    assert enforce(work, "--die-with-parent", "sh", "-c", "exit 7").returncode == 7
    assert enforce(work, "--die-with-parent", "sh", "-c", "kill -TERM $$").returncode == -signal.SIGTERM
