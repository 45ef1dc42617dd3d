"""The program cannot tell that it was started by enforce, except by what a filter is: no_new_privs and seccomp."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).parent / "driver.py"
EXPECTED = {b"NoNewPrivs:\t0": b"NoNewPrivs:\t1", b"Seccomp:\t0": b"Seccomp:\t2"}


def enforced(*argv, arm="exec"):
    return [sys.executable, DRIVER, arm, "", *argv]


@pytest.mark.parametrize("arm", ["now", "exec", "entry"])
def test_the_view_from_inside(arm, build, tmp_path):
    """Ids, descriptors, limits, signals, timers, terminal, children, environment ...: each line as without enforce."""

    def view(command):
        environment = {b"A": b"1", b"B": b"\xff\x01 =", b"SHELL": b""}  # no LC_*: CPython would set LC_CTYPE
        with subprocess.Popen(
            [build("odd"), *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path, env=environment
        ) as process:
            output, _ = process.communicate(timeout=60)
        assert process.returncode == 42, output
        return output.replace(b"pid %d " % process.pid, b"pid OWN ").replace(b"pgid %d " % process.pid, b"pgid OWN ")

    program = [build("inside"), "", b"\xfe\xff", "two words"]
    plain = view(program).split(b"\n")
    confined = view(enforced(*program, arm=arm)).split(b"\n")
    assert confined == [EXPECTED.get(line, line) for line in plain]
    assert b"pid OWN ppid %d pgid OWN sid %d" % (os.getpid(), os.getsid(0)) in plain


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_descriptors_stay_closed(closed, build, tmp_path):
    def descriptors(command):
        script = f'exec "$@" {closed}'
        output = tmp_path / "output"
        subprocess.run(
            ["sh", "-c", script, "sh", *command], check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=60
        )
        return output.read_text()

    program = [build("descriptors"), tmp_path / "output"]
    assert descriptors(enforced(*program)) == descriptors(program)


def test_statuses_and_signals_are_the_programs_own(drive):
    assert drive("exec", (), "sh", "-c", "exit 33").returncode == 33
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGSEGV):
        assert drive("exec", (), "sh", "-c", f"ulimit -c 0; kill -{int(number)} $$").returncode == -number


def test_standard_input_is_a_pipe(drive):
    done = drive("exec", (), "cat", stdin=None, input=b"through\n")
    assert (done.stdout, done.returncode) == (b"through\n", 0)


def test_interrupted_pipes_end_the_program_as_usual(drive):
    """CPython ignores SIGPIPE; the program must not."""
    done = drive("exec", (), "bash", "-c", "yes | head -n 1; echo ${PIPESTATUS[*]}")
    assert done.stdout == b"y\n141 0\n"


def test_systemds_services_keep_sigpipe_ignored(build):
    shell = "trap '' PIPE; export SYSTEMD_EXEC_PID=$$; exec \"$@\""
    command = ["sh", "-c", shell, "sh", *enforced("sh", "-c", "grep SigIgn /proc/self/status")]
    done = subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert int(done.stdout.split()[1], 16) & 1 << signal.SIGPIPE - 1


def test_under_timeout(build):
    done = subprocess.run(["timeout", "0.5", *enforced("sleep", "60")], check=False, timeout=60)
    assert done.returncode == 124


def test_an_unprivileged_user(nobody):
    driver = nobody.folder / "driver.py"
    shutil.copy(DRIVER, driver)
    command = [*nobody.python, driver, "exec", "", "id", "-u"]
    done = subprocess.run(command, check=False, capture_output=True, timeout=60)
    assert (done.stdout, done.returncode, done.stderr) == (b"65534\n", 0, b"")


def test_on_a_terminal_in_the_foreground_and_in_the_background(build):
    """The program keeps the terminal's foreground group; ^C ends it, and the shell sees a job that can be stopped."""
    script = r"""
import os, pty, sys, time
pid, terminal = pty.fork()
if pid == 0:
    os.execvp("bash", ["bash", "--norc", "-i"])
def expect(text):
    seen = b""
    end = time.monotonic() + 20
    while text not in seen:
        assert time.monotonic() < end, seen
        seen += os.read(terminal, 1024)
    return seen
command = " ".join("'%s'" % one for one in sys.argv[1:])
os.write(terminal, b"stty -echo; PS1=; set -m\n")
os.write(terminal, command.encode() + b" sh -c 'echo rea\"\"dy; exec sleep 50'\n")
expect(b"ready")
os.write(terminal, b"\x1a")
expect(b"Stopped")
os.write(terminal, b"bg; jobs; echo in\"\"background\n")
expect(b"inbackground")
os.write(terminal, b"fg\n")
while os.tcgetpgrp(terminal) == pid:
    time.sleep(0.01)
os.write(terminal, b"\x03")
os.write(terminal, b"echo status=$?\n")
expect(b"status=130")
os.write(terminal, b"exit\n")
os.waitpid(pid, 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, enforced())], check=False, capture_output=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
