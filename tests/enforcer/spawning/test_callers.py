"""What a command has of its caller: everything, since the client becomes the program."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("status", [0, 3, 125, 255])
def test_the_status_is_the_programs(spawner, status):
    assert spawner.run("sh", "-c", f"exit {status}").returncode == status


def test_a_death_by_signal_is_the_programs(spawner):
    assert spawner.run("sh", "-c", "kill -SEGV $$").returncode == -signal.SIGSEGV


def test_what_is_not_found_or_not_executable(spawner):
    done = spawner.run("nothing")
    assert (done.returncode, done.stderr) == (127, "callfence-run: nothing: not found\n")
    (spawner.folder / "plain").write_text("")
    done = spawner.run("./plain")
    assert (done.returncode, done.stderr) == (126, "callfence-run: ./plain: Permission denied\n")
    (spawner.folder / "plain").write_text("#!/nonexistent\n")
    (spawner.folder / "plain").chmod(0o755)
    done = spawner.run("./plain")
    assert done.returncode == 127
    assert "interpreter" in done.stderr


def test_a_script_without_an_interpreter_line(spawner):
    (spawner.folder / "script").write_text('echo "$0 $1"\n')
    (spawner.folder / "script").chmod(0o755)
    assert spawner.run("./script", "word").stdout == "./script word\n"


def test_what_it_sees_of_itself(spawner):
    """All is what it is without a spawner."""
    limits = "ulimit -n 77; ulimit -c 0; ulimit -Ss 4096; umask 037; trap '' USR1; exec 7</dev/null 9</etc/passwd; cd /usr; "
    words = [sys.executable, "-I", "-S", HERE / "view.py", "", "a b", "\udcff"]
    environment = spawner.environment | {"X": "1\n2", "EMPTY": "", "\udcfe": "\udcfd"}
    client = " ".join(map(str, [spawner.client, "-s", spawner.socket, "-p", spawner.folder / "it.policy"]))
    both = []
    for before in ("", f"{client} "):
        command = ["nice", "-n", "3", "bash", "-c", f'{limits}exec {before}"$@"', "x", *words]
        done = subprocess.run(command, capture_output=True, env=environment, check=False, timeout=60)
        assert done.stderr == b""
        both.append(done.stdout)
    assert both[0] == both[1] != b""


def test_the_environment_is_the_callers_byte_for_byte(spawner):
    """Also what libc would not write so: no `=`, a name twice."""
    script = "import os,sys; os.execve(sys.argv[1], sys.argv[1:], {b'A': b'1', b'B': b'\\xff\\n'})"
    words = [sys.executable, "-c", script, *spawner.words("/usr/bin/env", "-0")]
    done = subprocess.run(words, cwd=spawner.folder, capture_output=True, check=False)
    assert done.stdout == b"A=1\0B=\xff\n\0"
    assert done.stderr == b""


@pytest.mark.parametrize("closed", ["0", "1", "2", "0 1", "1 2", "0 1 2"])
def test_closed_descriptors_stay_closed(spawner, closed):
    redirections = " ".join(f"{number}>&-" for number in closed.split())
    script = 'for n in 0 1 2 3 4 5; do if [ -e /proc/$$/fd/$n ]; then printf "$n "; fi; done >found'
    command = f'exec "$@" {redirections}'
    done = subprocess.run(
        ["bash", "-c", command, "x", *spawner.words("bash", "-c", script)],
        **spawner.options({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 60}),
        check=False,
    )
    assert done.returncode == 0
    found = {*(spawner.folder / "found").read_text().split()} - {"3"}
    assert found | {"1"} == {"0", "1", "2"} - {*closed.split()} | {"1"}  # 1 is the file that the loop writes


def test_inherited_descriptors_are_the_programs(spawner):
    reader, writer = os.pipe()
    with spawner.start("bash", "-c", f"echo here >&{writer}", pass_fds=[writer]) as started:
        os.close(writer)
        assert os.read(reader, 100) == b"here\n"
        assert os.read(reader, 100) == b""  # nobody else has it
        os.close(reader)
        assert started.wait() == 0


def test_signals_reach_the_program(spawner):
    script = "trap 'echo got; exit 4' TERM; echo ready; while :; do sleep 0.01; done"
    with spawner.start("sh", "-c", script, stdout=subprocess.PIPE) as started:
        assert started.stdout.readline() == b"ready\n"
        started.terminate()
        assert started.stdout.read() == b"got\n"
        assert started.wait() == 4


def test_a_pid_is_kept(spawner):
    with spawner.start("sh", "-c", "echo $$ $PPID", stdout=subprocess.PIPE) as started:
        assert started.stdout.read().split() == [b"%d" % started.pid, b"%d" % os.getpid()]


TERMINAL = """
import os, pty, sys, time
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
seen = b""
def expect(text):
    global seen
    while text not in seen:
        try:
            more = os.read(terminal, 1000)
        except OSError as error:
            sys.exit(f"missing {text!r} in {seen!r}: {error}")
        seen += more
    seen = seen[seen.index(text) + len(text):]
expect(b"tty 1 ready")
if os.tcgetpgrp(terminal) != pid: sys.exit("not in the foreground")
os.write(terminal, b"\\x03")
expect(b"interrupted")
os.write(terminal, b"word\\n")
expect(b"read word")
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
ON_TERMINAL = """
import os, signal, sys
signal.signal(signal.SIGINT, lambda *_: os.write(1, b"interrupted"))
open("/dev/tty").close()
os.write(1, b"tty %d ready" % (os.tcgetpgrp(0) == os.getpgrp()))
os.write(1, b"read " + os.read(0, 100))
sys.exit(5)
"""


def test_on_a_terminal(spawner):
    """It is in the foreground, ^C reaches it, and the terminal stays its controlling terminal."""
    words = [sys.executable, "-c", TERMINAL, *spawner.words(sys.executable, "-c", ON_TERMINAL)]
    done = subprocess.run(words, **spawner.options({"capture_output": True, "text": True, "timeout": 60, "check": False}))
    assert done.stderr == ""
    assert done.stdout == "5\n"


def test_interrupted_while_it_starts(spawner):
    """A signal at any moment ends the client as it would end the program, and nothing is left."""
    for number in range(40):
        with spawner.start("sleep", "60", stderr=subprocess.PIPE) as started:
            time.sleep(number * 0.0005)
            started.send_signal(signal.SIGINT)
            assert started.wait(60) == -signal.SIGINT
            assert started.stderr.read() == b""
    spawner.wait_for_helpers()
    spawner.works()


def test_stopped_while_it_starts(spawner):
    for number in range(20):
        with spawner.start("true", stderr=subprocess.PIPE) as started:
            time.sleep(number * 0.0005)
            started.send_signal(signal.SIGSTOP)
            time.sleep(0.01)
            started.send_signal(signal.SIGCONT)
            assert started.wait(60) == 0
            assert started.stderr.read() == b""


def test_limits_of_the_caller_do_not_bind_the_helper(spawner):
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 20
    command = ["bash", "-c", 'ulimit -n 6; ulimit -f 0; exec "$@"', "x", *spawner.words("sh", "-c", "ulimit -n; ulimit -f")]
    done = subprocess.run(command, **spawner.options({"capture_output": True, "text": True, "timeout": 60, "check": False}))
    assert done.stdout.split() == ["6", "0"], done.stderr
