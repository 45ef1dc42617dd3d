"""The spawner itself: its socket, its end, many commands at once, and that nothing passes from one to another."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from calls import allowing_all

from callfence.enforcer.errors import EnforceError, GoneError
from callfence.enforcer.spawning import protocol, serving
from callfence.tracer import machine
from callfence.tracer.errors import UserError

DENIES = allowing_all().replace("\nuname: allow", "")
MANY = 100


@pytest.mark.long
def test_many_at_once(spawner):
    """Each gets its own status, output, and explanation."""
    spawner.policy(DENIES)
    spawner.works()  # the policy is compiled once
    script = "read word; uname; echo $word $$; exit $((word % 100))"
    captured = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = [spawner.start("sh", "-c", script, **captured) for _ in range(MANY)]
    for number, process in enumerate(started):
        process.stdin.write(b"%d\n" % number)
        process.stdin.close()
    for number, process in enumerate(started):
        with process:
            assert process.stdout.read() == b"%d %d\n" % (number, process.pid)
            errors = process.stderr.read().decode()
            assert errors.count("enforce: denied uname(") == 1
            assert f"(pid {process.pid}" in errors or "by /usr/bin/uname" in errors
        assert process.returncode == number % 100
    spawner.wait_for_helpers()
    spawner.wait_until(lambda: len(spawner.processes()) == 2)


def test_a_killed_spawner_leaves_its_commands(idle):
    """They are confined and explained as before; the next spawner takes the place of its socket."""
    idle.listen().policy(DENIES)
    captured = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    with idle.start("sh", "-c", "read word; uname; exit 4", **captured) as started:
        idle.wait_until(lambda: Path(f"/proc/{started.pid}/comm").read_text() == "sh\n")
        idle.process.kill()
        idle.process.wait()
        idle.wait_until(lambda: len(idle.helpers()) == len(idle.processes()) == 2)  # the helper and its stand-in
        done = idle.run("true")  # a process that ends has no command line a moment before its socket is closed
        assert done.returncode == 125
        assert "Connection refused" in done.stderr or "has not answered" in done.stderr
        _, errors = started.communicate(b"word\n")
        assert b"enforce: denied uname(" in errors
        assert started.returncode == 4
    idle.process.stderr.close()
    idle.wait_until(lambda: not idle.processes())
    idle.listen().works()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_ends_on_a_signal(idle, number):
    idle.listen()
    with idle.start("sh", "-c", "read word; exit 4", stdin=subprocess.PIPE) as started:
        idle.wait_until(lambda: Path(f"/proc/{started.pid}/comm").read_text() == "sh\n")
        idle.process.send_signal(number)
        assert idle.process.wait(20) == 0
        assert not idle.socket.exists()
        assert started.poll() is None
        started.communicate(b"word\n")
        assert started.returncode == 4
    idle.wait_until(lambda: not idle.processes())


@pytest.mark.long
def test_it_ends_when_nobody_comes(idle):
    process = subprocess.Popen([*idle.command(), "--idle", "5"], env=idle.environment, stderr=subprocess.PIPE)
    with process:
        assert b"ready" in process.stderr.readline()
        idle.works()
        assert process.wait(60) == 0
        assert not idle.socket.exists()


def test_the_default_place(idle):
    environment = idle.environment | {"XDG_RUNTIME_DIR": str(idle.folder)}
    with subprocess.Popen(idle.command()[:3], env=environment, stderr=subprocess.PIPE) as process:
        try:
            assert b"ready" in process.stderr.readline()
            for variables in ({}, {"CALLFENCE_SPAWN": "callfence/spawn"}):
                words = [idle.client, "-p", "it.policy", "sh", "-c", "exit 4"]
                done = subprocess.run(words, **idle.options({"env": environment | variables}), check=False, timeout=60)
                assert done.returncode == 4
        finally:
            process.terminate()
    assert not (idle.folder / "callfence" / "spawn").exists()


def refused(idle, *under):
    settings = {"env": idle.environment, "capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run(idle.command(*under), check=False, **settings)
    assert done.returncode == 2
    return done.stderr


def test_only_one_listens(spawner):
    assert "another process listens at" in refused(spawner)
    spawner.works()


def test_a_file_in_the_way(idle):
    idle.socket.write_text("mine")
    assert "is no socket of this user" in refused(idle)
    assert idle.socket.read_text() == "mine"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_folder_of_others(idle, mode):
    idle.socket.parent.chmod(mode)
    assert "other users may write to" in refused(idle)
    assert not idle.socket.exists()


def test_a_folder_that_others_may_rename(idle):
    idle.folder.chmod(0o777)
    assert "other users may rename what is in" in refused(idle)
    idle.folder.chmod(0o755)


def test_only_its_user_may_connect(spawner):
    assert spawner.socket.stat().st_mode & 0o777 == 0o600


def test_a_long_path(idle):
    idle.socket = idle.folder / ("x" * 100) / "socket"
    assert "can have 107 bytes at most" in refused(idle)


def test_under_a_filter_of_its_own(idle):
    """It could not tell whether a client has the same."""
    filtered = "kernel.set_no_new_privs(); kernel.install(struct.pack('HBBI', 6, 0, 0, 0x7fff0000), 0)"
    script = f"from callfence.enforcer import kernel; import os, struct, sys; {filtered}; os.execv(sys.argv[1], sys.argv[1:])"
    assert "it has a seccomp filter" in refused(idle, sys.executable, "-c", script)


def state(pid):
    """What could pass from one process to another."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    links = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        links[int(entry.name)] = os.readlink(entry)
    terminal = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[4]
    return status, links, terminal, os.readlink(f"/proc/{pid}/cwd")


def test_nothing_passes_from_the_spawner_to_a_helper(idle):
    """Nor to another command's: no descriptor, folder, terminal, umask, disposition of a signal."""
    if os.geteuid():
        pytest.skip("helpers let only root look")
    idle.policy(DENIES)
    before = "umask 027; trap '' USR2; exec 7</etc/passwd 8</etc/group"
    idle.listen("bash", "-c", f'{before}; exec "$@"', "x")
    reader, writer = os.pipe()
    script = "read word; exit 0"
    first = idle.start("sh", "-c", script, stdin=subprocess.PIPE, stdout=writer, stderr=subprocess.PIPE, umask=0o011)
    idle.wait_until(lambda: Path(f"/proc/{first.pid}/comm").read_text() == "sh\n")
    idle.wait_until(lambda: len(idle.helpers()) == 2)
    second = idle.start("sh", "-c", script, stdin=subprocess.PIPE, stderr=subprocess.PIPE, umask=0o022)
    idle.wait_until(lambda: Path(f"/proc/{second.pid}/comm").read_text() == "sh\n")
    idle.wait_until(lambda: len(idle.helpers()) == 4)
    idle.wait_until(lambda: all("\nSeccomp:\t2\n" in Path(f"/proc/{pid}/status").read_text() for pid in idle.helpers()))
    pipes = {os.readlink(f"/proc/self/fd/{process.stderr.fileno()}") for process in (first, second)}
    for pid in idle.helpers():
        status, links, terminal, folder = state(pid)
        assert terminal == "0"
        assert folder == "/proc"
        assert status["Umask"].strip() in ("0011", "0022")
        assert int(status["SigIgn"], 16) & (1 << (signal.SIGCHLD - 1)) == 0
        kinds = sorted({re.sub(r"\d+", "N", link) for link in links.values()})
        assert not {"/etc/passwd", "/etc/group", str(idle.socket.parent)} & {*links.values()}
        kinds = {kind for kind in kinds if not kind.startswith("anon_inode:")}  # pidfds, an epoll, the listener
        assert kinds <= {"/dev/null", "/dev/full", "pipe:[N]"}
        mine = pipes & {*links.values()}
        assert len(mine) == 1, links  # of one command, and of no other
        assert os.readlink(f"/proc/self/fd/{reader}") not in links.values()
    for process in (first, second):
        process.communicate(b"word\n")
        assert process.returncode == 0
    os.close(reader)
    os.close(writer)
    idle.wait_for_helpers()


def test_nothing_passes_from_one_command_to_the_next(spawner):
    words, secret = ("sh", "-c", "umask; env; ls /proc/self/fd; pwd"), spawner.environment | {"SECRET": "1"}
    done = spawner.run(*words, umask=0o077, env=secret, cwd="/usr", policy=spawner.folder / "it.policy")
    assert "SECRET" in done.stdout
    done = spawner.run(*words)
    lines = done.stdout.splitlines()
    assert lines[0] != "0077"
    assert "SECRET" not in done.stdout
    assert lines[-5:] == ["0", "1", "2", "3", str(spawner.folder)]


def test_a_changed_callfence_is_refused(idle, tmp_path):
    """Its modules may not fit those that are loaded."""
    copy = tmp_path / "copy"
    shutil.copytree(idle.here.parents[2] / "callfence", copy / "callfence", ignore=shutil.ignore_patterns("__pycache__"))
    code = f"import sys; sys.path.insert(0, {str(copy)!r}); from callfence.cli import main; sys.argv[0] = 'callfence'; main()"
    words = [sys.executable, "-c", code, "spawn", "--socket", idle.socket]
    with subprocess.Popen(words, env=idle.environment, stderr=subprocess.PIPE) as started:
        try:
            assert b"ready" in started.stderr.readline()
            idle.works()
            text = (copy / "callfence" / "start.py").read_text()
            time.sleep(0.02)
            (copy / "callfence" / "start.py").write_text(text)
            done = idle.run("true")
            assert done.returncode == 125
            assert "callfence was changed" in done.stderr
            shutil.rmtree(copy)
            assert "callfence was changed" in idle.run("true").stderr
        finally:
            started.terminate()


def test_what_is_denied_is_described_without_reading_files(idle, tmp_path):
    """Also when the files are gone: all code was loaded before."""
    copy = tmp_path / "copy"
    shutil.copytree(idle.here.parents[2] / "callfence", copy / "callfence", ignore=shutil.ignore_patterns("__pycache__"))
    code = f"import sys; sys.path.insert(0, {str(copy)!r}); from callfence.cli import main; sys.argv[0] = 'callfence'; main()"
    idle.policy(DENIES)
    words = [sys.executable, "-c", code, "spawn", "--socket", idle.socket]
    with subprocess.Popen(words, env=idle.environment, stderr=subprocess.PIPE) as started:
        try:
            assert b"ready" in started.stderr.readline()
            captured = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
            with idle.start("sh", "-c", "read word; uname", **captured) as command:
                idle.wait_until(lambda: Path(f"/proc/{command.pid}/comm").read_text() == "sh\n")
                idle.wait_until(lambda: "Seccomp:\t2" in Path(f"/proc/{command.pid}/status").read_text())
                shutil.rmtree(copy)
                _, errors = command.communicate(b"word\n")
            assert b"enforce: denied uname(" in errors
            assert b"to allow it: callfence allow it.policy 'uname: allow'" in errors
        finally:
            started.terminate()


def test_the_socket_is_that_of_a_stranger(idle):
    """The client looks at who listens before it sends anything: here nobody answers."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(idle.socket))
        listener.listen()
        with idle.start("true", stderr=subprocess.PIPE) as started:
            connection, _ = listener.accept()
            connection.close()
            assert b"`callfence spawn` has not answered" in started.stderr.read()
        assert started.returncode == 125
        with idle.start("true", stderr=subprocess.PIPE) as started:
            connection, _ = listener.accept()
            connection.sendall(b"x" * 24)
            connection.close()  # which holds the client's standard error
            assert b"`callfence spawn` has" in started.stderr.read()
        assert started.returncode == 125
        idle.socket.unlink()


def test_all_that_a_helper_may_need_is_loaded(idle):
    """The rest is for mistakes in policies, which are reported before, and for a moment that is never."""
    done = subprocess.run([sys.executable, idle.here / "imports.py"], capture_output=True, text=True, check=False)
    (other,) = {"x86_64", "aarch64"} - {machine.NAME}
    others = [
        "callfence.enforcer.arming.early callfence.enforcer.launch",
        f"callfence.tracer.machine.{other} callfence.tracer.machine",
        "difflib callfence.policygen.errors",
        "hashlib callfence.enforcer.reporting.events",
    ]
    assert done.stdout.splitlines() == others, done.stderr


def test_the_process_that_waits_is_killed(spawner):
    """Another one takes its place."""
    for _ in range(5):
        spawner.wait_until(lambda: not spawner.helpers() and len(spawner.processes()) == 2)
        (waiting,) = (pid for pid in spawner.processes() if pid != spawner.process.pid)
        os.kill(waiting, signal.SIGKILL)
        spawner.works()


WITHOUT_PIDFD = """
import errno, os, sys
from callfence import cli
from callfence.enforcer import kernel
def fails(pid):
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "pidfd_open")
kernel.pidfd_open = fails
cli.main(sys.argv[1:])
"""


def test_a_spawner_without_descriptors_ends(idle):
    """Else it starts a process for the next client again and again, none of which it knows."""
    command = [sys.executable, "-c", WITHOUT_PIDFD, "spawn", "--socket", idle.socket]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr.splitlines()[1:]) == (2, ["callfence spawn: pidfd_open: Too many open files"])
    assert not idle.socket.exists()


@pytest.mark.parametrize("language", ["C", "Python"])
def test_a_message_of_the_client_that_cannot_be_written(idle, language):
    use(idle, language)
    with open("/dev/full", "w") as full:
        done = subprocess.run([idle.client, "-s", "nowhere", "true"], stderr=full, check=False, timeout=60)
    assert done.returncode == 125


def use(idle, language):
    if language == "Python":
        idle.client = idle.folder / "client"
        script = idle.here.parents[2] / "callfence" / "enforcer" / "spawning" / "client.py"
        idle.client.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {script} "$@"\n')
        idle.client.chmod(0o755)


TRACER = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
child = os.fork()
if child == 0:
    libc.ptrace(0, 0, None, None)  # PTRACE_TRACEME
    os.execv(sys.argv[1], sys.argv[1:])
while os.WIFSTOPPED(status := os.waitpid(child, 0)[1]):
    libc.ptrace(7, child, None, None)  # PTRACE_CONT
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize("under", [(), (sys.executable, "-c", TRACER)], ids=["", "traced"])
@pytest.mark.parametrize("language", ["C", "Python"])
def test_an_impostor_cannot_run_a_program_unconfined(idle, language, under):
    """A confined program of the user may have bound the socket; but it cannot trace the client.  A debugger may."""
    use(idle, language)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(idle.socket))
        listener.listen()
        with idle.start("echo", "unconfined", under=under, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as started:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 20)
                connection.sendall(protocol.answer(0, b"/bin/echo\0", first=2))
            assert started.stdout.read() == b""
            assert b"does not trace this process" in started.stderr.read()
        assert started.returncode == 125
        idle.socket.unlink()


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (EnforceError("two\nlines"), (125, "two\nlines")),
        (UserError("not \x1b[1mshown"), (125, "not \\x1b[1mshown")),
        (EnforceError("no such program", 127), (127, "no such program")),
        (OSError(errno.EMFILE, "Too many", "/proc/7/status"), (125, "the spawner: /proc/7/status: Too many")),
        (MemoryError(), (125, "the spawner has not enough memory")),
        (GoneError(), None),
    ],
)  # fmt: skip
def test_why_a_program_is_not_run(monkeypatch, error, answer):
    """Whatever fails, the client goes on untraced, and gets the reason."""
    ours, client = socket.socketpair()
    released, ended = [], []

    def end(status):
        ended.append(status)
        raise SystemExit

    def fails(*_):
        raise error

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(serving.helper, "close_all_but", lambda _: None)
    monkeypatch.setattr(serving, "Peer", lambda _: SimpleNamespace(release=lambda: released.append(7)))
    monkeypatch.setattr(serving, "_received", fails)
    with client:
        with ours, pytest.raises(SystemExit):
            serving.Spawner(None, None, None, None)._take(ours)
        expected = protocol.answer(answer[0], answer[1].encode()) if answer else b""
        assert (client.recv(4096), released, ended) == (expected, [7] * bool(answer), [0])


SPINS = """
import os, sys
from types import SimpleNamespace
from callfence.enforcer.spawning import listening
listening._DELAY = 60
def begin():
    os.write(1, b"x")
    os._exit(0)
reader, writer = os.pipe()
listening.serve(SimpleNamespace(socket=os.fdopen(reader, "rb")), begin)
"""


def test_processes_that_end_before_they_have_a_client_are_not_started_without_a_pause():
    with subprocess.Popen([sys.executable, "-c", SPINS], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.read(1) == b"x"
            time.sleep(0.1)
        finally:
            process.kill()
        assert process.stdout.read() == b""
