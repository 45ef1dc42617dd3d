"""A spawned command is confined and reported as `enforce` does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess

import pytest
from calls import allowing_all, native

from callfence.tracer.abi import NATIVE

HEAD = f"callfence 1\narch {NATIVE}\ntable 6.18\n"


def without(*calls, lines=(), default="kill"):
    """A policy that allows all calls but these, and but those that install filters; so denials are explained."""
    names = {*calls, "seccomp", "prctl"}
    text = allowing_all(*lines).replace("default errno EPERM", f"default {default}")
    return "".join(f"{line}\n" for line in text.splitlines() if line.partition(":")[0] not in names)


DENIES = without("uname")


def test_a_denied_call_is_explained_on_the_clients_standard_error(spawner):
    spawner.policy(DENIES)
    done = spawner.run("uname")
    assert done.returncode == -signal.SIGSYS
    assert done.stderr.startswith("enforce: denied uname(")
    assert "to allow it: callfence allow it.policy" in done.stderr
    spawner.wait_for_helpers()


def test_a_denied_call_is_logged(spawner):
    """In the client's folder, with its umask; the start is that of the client's process."""
    spawner.policy(DENIES)
    (spawner.folder / "sub").mkdir()
    settings = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, "cwd": spawner.folder / "sub", "umask": 0o027}
    with spawner.start("--log", "log", "uname", policy="../it.policy", **settings) as started:
        assert started.stderr.read() == b""
    assert started.returncode == -signal.SIGSYS
    spawner.wait_for_helpers()
    log = spawner.folder / "sub" / "log"
    assert log.stat().st_mode & 0o777 == 0o640
    start, denied, end = (json.loads(line) for line in log.read_text().splitlines())
    assert (start["event"], start["pid"], start["parent"]) == ("start", started.pid, os.getpid())
    assert start["folder"] == str(spawner.folder / "sub")
    assert denied["call"].startswith("uname(")
    assert (end["event"], end["signal"]) == ("end", "SIGSYS")


def test_a_program_that_is_not_executed_is_logged(spawner):
    """The client says why, and the log that it was not run."""
    spawner.policy(f"{HEAD}default errno EPERM\nimplied 1\npath /etc: read\n")
    done = spawner.run("--log", "log", "true")
    assert done.returncode == 126
    spawner.wait_for_helpers()
    events = [json.loads(line) for line in (spawner.folder / "log").read_text().splitlines()]
    assert [(event["event"], event["status"]) for event in events] == [("refused", 126)]


@pytest.mark.parametrize("log", ["-", "fd:1", "/dev/stdout", "/proc/self/fd/1"])
def test_a_log_that_is_a_descriptor_is_refused(spawner, log):
    done = spawner.run("--log", log, "true")
    assert done.returncode == 125
    assert "--log cannot be a descriptor" in done.stderr


def test_the_default_policy_is_in_the_clients_folder(spawner):
    spawner.policy(DENIES, "uname.policy")
    assert spawner.run("uname", policy=None).returncode == -signal.SIGSYS
    done = spawner.run("true", policy=None)
    assert done.returncode == 125
    assert "the policy true.policy cannot be read" in done.stderr


def test_files_are_confined(spawner):
    lines = ("path /: read, execute", "path ./data: read, write, create", "path $HOME/own: create, write")
    spawner.policy(without(lines=lines))
    for name in ("data", "own"):
        (spawner.folder / name).mkdir()
    script = "echo a >data/a; echo b >own/b; echo c >c; cat data/a own/b"
    done = spawner.run("sh", "-c", script)
    assert done.stdout == "a\nb\n"
    assert "c: Permission denied" in done.stderr
    assert not (spawner.folder / "c").exists()


def test_its_own_process_is_its_own(spawner):
    """/proc/self in a policy is the program, and no other process."""
    code = "".join(f"path /{name}: read, execute\n" for name in ("usr", "bin", "lib", "lib64"))
    spawner.policy(f"{HEAD}default allow\n{code}path /proc/self: read\n")
    done = spawner.run("sh", "-c", "read a </proc/$$/comm && echo $a; read b </proc/1/comm || echo denied")
    assert done.stdout == "sh\ndenied\n", done.stderr
    assert spawner.run("nothing/here").returncode == 127
    (spawner.folder / "mtab").symlink_to("/proc/mounts")
    spawner.policy(f"{HEAD}default allow\n{code}path ./mtab: read\npath /proc/net: read\n")
    done = spawner.run("sh", "-c", "read a <mtab && read b </proc/net/dev && echo it")
    assert done.stdout == "it\n", done.stderr


def test_a_program_that_is_not_granted(spawner):
    spawner.policy(f"{HEAD}default allow\npath /etc: read\n")
    done = spawner.run("true")
    assert done.returncode == 126
    assert "the policy may not grant `read, execute`" in done.stderr
    spawner.wait_for_helpers()


def test_ports_are_confined(spawner):
    spawner.policy(f"{HEAD}default allow\ntcp connect: 1\ntcp bind: none\n")
    script = "exec 3<>/dev/tcp/127.0.0.1/1 || exec 3<>/dev/tcp/127.0.0.1/2"
    done = spawner.run("bash", "-c", f"({script})")
    assert "Connection refused" in done.stderr
    done = spawner.run("bash", "-c", script.replace("/1 ||", "/2 ||"))
    assert "Permission denied" in done.stderr


@pytest.mark.parametrize("log", [(), ("--log", "log")])
def test_files_are_reported(spawner, log):
    """With --explain, so that it does not matter whether another test has turned the kernel's audit on."""
    spawner.policy(f"{HEAD}default allow\npath /: read, execute\n")
    done = spawner.run("--explain", *log, "sh", "-c", "echo >denied")
    spawner.wait_for_helpers()
    text = (spawner.folder / "log").read_text() if log else done.stderr
    assert "path .: write, create" in text


def test_audit_runs_everything_and_reports_it(spawner):
    spawner.policy(DENIES)
    done = spawner.run("--audit", "sh", "-c", "uname; exit 3")
    assert (done.returncode, done.stdout) == (3, "Linux\n")
    assert "enforce: audit: nothing is enforced" in done.stderr
    assert "enforce: would deny uname(" in done.stderr


@pytest.mark.parametrize("arm", ["now", "exec", "entry"])
def test_each_moment(spawner, arm):
    """`now` is `exec` here: the execve is not denied, which the client makes."""
    spawner.policy(without("uname", "execve", lines=[f"arm {arm}"]))
    done = spawner.run("sh", "-c", "exec uname")
    assert done.returncode == -signal.SIGSYS
    assert "denied execve" in done.stderr
    assert spawner.run("--arm", arm, "true").returncode == 0


def test_phases(spawner, build):
    shutil.copy(build("phased"), spawner.folder / "phased")
    text = f"default errno EPERM\nimplied 1\nphase serving after {native('poll')}\nsocket: family == AF_UNIX until serving\n"
    text += "".join(f"{call}: allow\n" for call in ("clone", native("poll"), "write"))
    spawner.policy(f"{HEAD}{text}")
    words = ["./phased", "socket", "poll", "socket"]
    plain = subprocess.run(words, cwd=spawner.folder, capture_output=True, text=True, check=False)
    done = spawner.run(*words)
    assert plain.stdout != done.stdout
    assert "in phase serving" in done.stderr or "serving" in done.stderr, done.stderr
    spawner.wait_for_helpers()


@pytest.mark.parametrize(
    "option", ["--close-fds", "--die-with-parent", "--drop-caps", "--quiet-kernel", "--keep-fd=3", "--ask"]
)
def test_options_about_the_process_are_refused(spawner, option):
    done = spawner.run(option, "true")
    assert done.returncode == 125
    assert f"{option.partition('=')[0]} is not possible with `callfence spawn`" in done.stderr


def test_mistakes_are_reported_once(spawner):
    spawner.policy("nonsense\n")
    done = spawner.run("true")
    assert done.returncode == 125
    assert done.stderr.startswith("callfence-run: it.policy:1:")
    done = spawner.run("--nonsense", "true")
    assert done.stderr.startswith("callfence-run: unknown option --nonsense")
    assert spawner.run(policy=None).stderr.startswith("callfence-run: no program given")


def test_sockets_that_the_helper_would_have_to_be_kept_from(spawner):
    spawner.policy(f"{HEAD}default allow\nscope abstract sockets\nunix connect /run/x\n")
    done = spawner.run("true")
    assert done.returncode == 125
    assert "has `scope abstract sockets`" in done.stderr


def test_several_policies(spawner):
    spawner.policy(DENIES, "other.policy")
    assert spawner.run("-p", "other.policy", "uname").returncode == -signal.SIGSYS


def test_the_helper_outlives_the_program_as_long_as_its_children(spawner):
    spawner.policy(DENIES)
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    done = spawner.run("sh", "-c", "(sleep 0.3; uname; echo $? >status) & exit 0", **nowhere)
    assert done.returncode == 0
    status = spawner.folder / "status"
    spawner.wait_until(lambda: status.exists() and status.read_text() == "159\n")
    spawner.wait_for_helpers()


def test_a_set_user_id_program_gets_no_privilege(spawner):
    if os.geteuid():
        pytest.skip("takes root to make one of another user")
    shutil.copy("/usr/bin/id", spawner.folder / "id")
    os.chown(spawner.folder / "id", 65534, 65534)
    (spawner.folder / "id").chmod(0o4755)
    done = spawner.run("./id", "-u")
    assert done.stdout == "0\n"
    assert "without the privilege" in done.stderr
