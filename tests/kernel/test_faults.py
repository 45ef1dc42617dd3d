"""Calls of learn itself that strace makes fail: learn ends in time, with a message, and leaves no half-written file."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from needed import needs

pytestmark = needs("strace")

LEARN = (sys.executable, "-m", "callfence", "learn", "-q")
STEP = int(os.environ.get("CALLFENCE_FAULT_STEP", "23"))
"""1 tries every call."""


def under_fault(folder, fault, command):
    policy = folder / "f.policy"
    strace = ["strace", "-o", folder / "trace", "-e", f"inject={fault}"]
    done = subprocess.run([*strace, *LEARN, "-o", policy, *command], capture_output=True, text=True, timeout=30, check=False)
    assert not [name for name in os.listdir(folder) if name not in ("trace", "f.policy", ".callfence")]
    if policy.exists():
        checked = subprocess.run([sys.executable, "-m", "callfence", "show", "--check", policy], check=False)
        assert checked.returncode == 0
    assert "Traceback" not in done.stderr
    return done


def count(folder, name, command):
    trace = folder / "count"
    run = ["strace", "-o", trace, "-e", f"trace={name}", *LEARN, "-o", folder / "c.policy", *command]
    assert subprocess.run(run, capture_output=True, check=False, timeout=60).returncode == 0
    return len(re.findall(rf"^{name}\(", trace.read_text(), re.MULTILINE))


@pytest.mark.long
@pytest.mark.parametrize("error", ["ESRCH", "EPERM"])
def test_ptrace_fails(tmp_path, tmp_path_factory, error):
    command = ["sh", "-c", "true & wait; exit 0"]
    total = count(tmp_path_factory.mktemp("counted"), "ptrace", command)
    assert total > 100
    for when in (1, 2, 3, *range(4, total, STEP)):
        done = under_fault(tmp_path, f"ptrace:error={error}:when={when}", command)
        assert done.returncode in (0, 125), (when, done)
        assert (done.returncode == 125) == bool(done.stderr), (when, done)


@pytest.mark.parametrize("error", ["EPERM", "EFAULT"])
@pytest.mark.parametrize("when", ["40", "70", "100"])
def test_ptrace_goes_on_failing(tmp_path, error, when):
    """Only a task that is dying is asked again and again."""
    done = under_fault(tmp_path, f"ptrace:error={error}:when={when}+", ["sh", "-c", "true & wait; exit 0"])
    assert done.returncode == 125
    assert done.stderr.startswith("learn: ptrace request 0x"), done
    assert not (tmp_path / "f.policy").exists()


@pytest.mark.parametrize("fault", ["wait4:error=EINTR:when=3+5", "rt_sigtimedwait:error=EINTR:when=1+2"])
def test_interrupted_waits(tmp_path, fault):
    assert under_fault(tmp_path, fault, ["sh", "-c", "(exit 4); sleep 0.1"]).returncode == 0


@pytest.mark.parametrize("fault", ["prctl:error=EINVAL", "seccomp:error=ENOMEM"])
@pytest.mark.parametrize("command", [["true"]])
def test_no_filter(tmp_path, fault, command):
    """strace sees learn only, not its child, which installs the filter."""
    assert under_fault(tmp_path, fault, command).returncode == 0
    assert "openat: flags == O_RDONLY\n" in (tmp_path / "f.policy").read_text()


@pytest.mark.parametrize("fault", ["fsync:error=EIO", "write:error=ENOSPC:when=3+", "renameat:error=EIO", "rename:error=EIO"])
def test_files_that_cannot_be_written(tmp_path, fault):
    done = under_fault(tmp_path, fault, ["true"])
    assert done.returncode in (0, 125), done
    assert done.returncode == 125 or (tmp_path / "f.policy").exists()
    assert done.returncode == 0 or done.stderr.startswith("learn: ") or "write" in fault


LIBRARY = """
#include <errno.h>
int prctl(int option, ...) { if (option == 22) { errno = %s; return -1; } return 0; }
"""


@pytest.mark.parametrize(("error", "text"), [("EINVAL", "Invalid argument"), ("ENOMEM", "Cannot allocate memory")])
def test_the_filter_cannot_be_installed(tmp_path, compile_c, error, text):
    (tmp_path / "library.c").write_text(LIBRARY % error)
    library = compile_c(tmp_path / "library.c", "-shared", "-fPIC", "-w")
    environment = os.environ | {"LD_PRELOAD": str(library)}
    command = [*LEARN, "-o", tmp_path / "f.policy", "true"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=30, check=False)
    assert done.returncode == 125
    assert done.stderr.startswith("learn: cannot install the recording filter") and text in done.stderr
    assert not (tmp_path / "f.policy").exists()
