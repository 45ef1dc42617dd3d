"""What a caller gives to learn reaches the program, and its result comes back; unusual ways to start."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time

import pytest
from needed import needs, needs_root

LEARN = (sys.executable, "-m", "callfence", "learn")
SIGNALS = ("TERM", "KILL", "SEGV", "ABRT", "HUP", "PIPE", "USR1", "TRAP", "SYS", "XCPU", "INT", "QUIT", "ALRM", "RTMIN+2")


def shell(command, *learn_options):
    """`LEARN` in a shell's command is learn, with its options."""
    words = " ".join(map(str, (*LEARN, "-q", *learn_options)))
    return ("sh", "-c", command.replace("LEARN", words))


@pytest.mark.parametrize("status", [0, 1, 125, 126, 127, 255])
def test_exit_status(same, status):
    assert same("sh", "-c", f"exit {status}").done.returncode == status


@pytest.mark.parametrize("name", SIGNALS)
def test_death_by_signal(program, same, name):
    number = signal.SIGRTMIN + 2 if name == "RTMIN+2" else signal.Signals[f"SIG{name}"]
    assert same(program("inside"), "raises", str(int(number))).done.returncode == -number


def test_only_the_program_dumps_core(program, plain, learn, tmp_path):
    plain_folder, learn_folder = tmp_path / "plain", tmp_path / "learn"
    plain_folder.mkdir(), learn_folder.mkdir()
    assert plain(program("inside"), "dumps_core", cwd=plain_folder).returncode == -signal.SIGABRT
    assert learn(program("inside"), "dumps_core", cwd=learn_folder).done.returncode == -signal.SIGABRT
    assert len(list(learn_folder.glob("*core*"))) == len(list(plain_folder.glob("*core*")))


@pytest.mark.parametrize(
    ("command", "status"),
    [("./missing", 127), ("./folder", 126), ("./not-executable", 126), ("./bad-interpreter", 127), ("missing", 127)],
)
def test_what_cannot_be_run(tmp_path, learn, command, status):
    (tmp_path / "folder").mkdir()
    (tmp_path / "not-executable").write_text("#!/bin/sh\n")
    (tmp_path / "bad-interpreter").write_text("#!/nowhere\n")
    (tmp_path / "bad-interpreter").chmod(0o755)
    learned = learn(command)
    assert learned.done.returncode == status
    assert learned.done.stderr.startswith(b"learn: ") and learned.done.stderr.count(b"\n") == 1
    assert not learned.policy.exists()


def test_a_script_without_interpreter_runs_as_in_a_shell(tmp_path, learn):
    script = tmp_path / "script"
    script.write_text("echo $1; exit 5\n")
    script.chmod(0o755)
    done = learn("./script", "word").done
    assert (done.returncode, done.stdout) == (5, b"word\n")


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-", "0<&- 2>&- 3</dev/null 7>&1"])
def test_the_program_gets_the_callers_descriptors(program, plain, tmp_path, closed):
    found = []
    for prefix in ("", "LEARN "):
        command = f"{prefix}{program('inside')} descriptors 9>{tmp_path}/seen {closed}"
        done = plain(*shell(command, "-o", tmp_path / "d.policy"))
        assert done.returncode == 0, done.stderr
        found.append((tmp_path / "seen").read_text())
    assert found[0] == found[1] != ""


@pytest.mark.parametrize("check", ["arguments", "belongings"])
def test_the_program_gets_all_that_the_caller_has(program, same, check):
    same(program("inside"), check, "", "two words", "new\nline", b"\xff\xfe", "x" * 131071)


def test_odd_environment_mask_and_dispositions(program, plain, learn, tmp_path):
    oddly, inside, signals = (program("inside"), "oddly"), program("inside"), program("signals")
    wanted = [plain(*oddly, inside, "arguments"), plain(*oddly, signals, "state")]
    found = [learn(inside, "arguments", under=oddly).done, learn(signals, "state", under=oddly).done]
    assert [done.stdout for done in found] == [done.stdout for done in wanted]
    assert [done.returncode for done in found] == [0, 0]
    assert learn("/bin/sh", "-c", "exit 5", under=oddly).done.returncode == 5  # SIGCHLD is ignored there


def test_many_arguments(program, same):
    same(program("inside"), "arguments", *["y" * 1000] * 1900)


@pytest.mark.parametrize("under", [("timeout", "30"), ("nohup",), ("env", "-i", "PATH=/usr/bin:/bin"), ("setsid", "-w")])
def test_under_others(plain, learn, under):
    under = (*under, f"PYTHONPATH={os.environ['PYTHONPATH']}") if under[0] == "env" and "PYTHONPATH" in os.environ else under
    command = ("sh", "-c", "trap '' USR1; trap; env | grep -v PYTHONPATH | sort; exit 3")
    expected = plain(*under, *command)
    found = learn(*command, under=under).done
    assert (found.returncode, found.stdout) == (expected.returncode, expected.stdout)


def test_in_a_pipeline(plain, tmp_path):
    done = plain(*shell("seq 100000 | LEARN cat | head -2; seq 3 | LEARN tail -1", "-o", tmp_path / "p.policy"))
    assert (done.returncode, done.stdout) == (0, b"1\n2\n3\n")


def test_in_the_background(plain, tmp_path):
    done = plain(*shell("LEARN sh -c 'sleep 0.2; exit 9' & wait $!; echo $?", "-o", tmp_path / "p.policy"))
    assert done.stdout == b"9\n"


def test_a_child_from_before_the_execve_is_not_waited_for(plain, tmp_path):
    before = time.monotonic()
    done = plain(*shell("(sleep 20 >&- 2>&- & exec LEARN sh -c 'exit 4')", "-o", tmp_path / "p.policy"))
    assert done.returncode == 4
    assert time.monotonic() - before < 19


@needs_root
@pytest.mark.parametrize("options", [("--pid", "--fork"), ("--pid", "--fork", "--mount-proc")])
def test_pid_1_of_a_namespace(learn, options):
    inner = "test $PPID = 1; echo $?; (exit 3) & wait $!; kill -9 $$"
    learned = learn("sh", "-c", inner, under=("unshare", *options))
    assert learned.done.stdout == b"0\n", learned.done.stderr
    assert learned.done.returncode == 137  # pid 1 cannot kill itself
    assert any("pid namespace" in gap for gap in learned.gaps()) == ("--mount-proc" not in options)


def test_learn_under_learn_says_why_it_cannot(learn, tmp_path):
    learned = learn(*LEARN, "-q", "-o", tmp_path / "inner.policy", "true")
    assert learned.done.returncode == 125
    assert b"traced already" in learned.done.stderr
    assert not (tmp_path / "inner.policy").exists()
    assert any("ptrace" in gap for gap in learned.gaps())


@needs("strace")
def test_strace_and_learn(learn, tmp_path):
    inside = learn("strace", "-o", tmp_path / "trace", "true")
    assert inside.done.returncode == 1
    assert any("ptrace" in gap for gap in inside.gaps())
    assert learn("true", under=("strace", "-o", tmp_path / "trace")).done.returncode == 0
    both = learn("true", under=("strace", "-f", "-o", tmp_path / "trace"))
    assert both.done.returncode == 125
    assert b"traced already" in both.done.stderr


def test_a_deleted_folder(program, plain, tmp_path):
    target = tmp_path / "d.policy"
    command = f"mkdir gone; cd gone; rmdir ../gone; LEARN {program('inside')} arguments word"
    done = plain(*shell(command, "-o", target), timeout=20)
    assert done.returncode == 0, done.stderr
    assert target.exists()


@pytest.mark.parametrize("name", [b"new\nline", b"\xff\xfe", b"-dash", b"two words"])
def test_odd_names(program, plain, tmp_path, name):
    target = os.path.join(os.fsencode(tmp_path), name)
    shutil.copy(program("inside"), target)
    done = plain(*LEARN, "-q", "--", os.path.join(b".", name), "arguments", "word")
    assert done.returncode == 0, done.stderr
    assert os.path.exists(target + b".policy")


@needs_root
def test_an_unreadable_program_as_another_user(program, learn, shown_path):
    shown_path.chmod(0o777)
    target = shown_path / "unreadable"
    shutil.copy(program("ways"), target)
    target.chmod(0o111)
    other = ("setpriv", "--reuid=61234", "--regid=61234", "--clear-groups")
    if subprocess.run([*other, sys.executable, "-c", "import callfence"], capture_output=True, check=False).returncode:
        pytest.skip("another user cannot read this installation")
    assert learn(target, "odd_numbers", under=other).done.returncode == 0


@needs_root
def test_a_set_user_id_program_runs_unprivileged_and_the_recording_says_so_once(program, learn, shown_path):
    target = shown_path / "set-user-id"
    shutil.copy(program("inside"), target)
    target.chmod(0o755 | stat.S_ISUID)
    command = f"{target} arguments; {target} arguments"
    learned = learn("setpriv", "--reuid=61234", "--regid=61234", "--clear-groups", "sh", "-c", command)
    assert learned.done.returncode == 0
    assert len([gap for gap in learned.gaps() if "set-user-id" in gap]) == 1


SLOW = {
    "none": "pass",
    "signals": "wait = kernel.wait_for_signal; kernel.wait_for_signal = lambda *words: (wait(*words), time.sleep(0.1))[0]",
    "stops": "sender = kernel.sender; kernel.sender = lambda tid: (time.sleep(0.1), sender(tid))[1]",
}
"""What makes a thread of learn slow, as if it got a processor late: that which takes signals, and that which handles stops."""


def learn_slowly(slow, *words):
    """Start learn with a thread that is slow; the program has written a line when this returns."""
    text = f"import time; from callfence.tracer import kernel; {SLOW[slow]}\nfrom callfence.cli import main; main()"
    command = [sys.executable, "-c", text, "learn", "-q", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.parametrize("slow", SLOW)
@pytest.mark.parametrize("whom", ["learn", "group"])
def test_a_signal_arrives_once(program, tmp_path, whom, slow):
    process = learn_slowly(slow, "-o", tmp_path / "s.policy", program("inside"), "counts_terms")
    (os.kill if whom == "learn" else os.killpg)(process.pid, signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == b"1\n"
    assert process.returncode == 0


@pytest.mark.parametrize("slow", SLOW)
def test_a_signal_to_learn_ends_a_program_that_never_sleeps(tmp_path, slow):
    process = learn_slowly(slow, "-o", tmp_path / "s.policy", "sh", "-c", "echo ready; while :; do kill -0 $$; done")
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=20) == -signal.SIGTERM
    process.stdout.close()


def test_a_program_that_signals_its_group(program, same):
    same(program("inside"), "sends_to_group", start_new_session=True)


@pytest.mark.long
def test_an_alarm_set_before_the_execve(program, learn):
    learned = learn(program("inside"), "waits_for_alarm", under=(program("inside"), "with_alarm"))
    assert (learned.done.returncode, learned.done.stdout) == (0, b"rang\n"), learned.done.stderr


def test_when_learn_is_killed_so_is_the_program(tmp_path):
    command = [*LEARN, "-q", "-o", tmp_path / "k.policy", "sh", "-c", "echo $$; while :; do :; done"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    program = int(process.stdout.readline())
    process.kill()
    process.communicate(timeout=60)  # ends only when the program's descriptor is closed too
    end = time.monotonic() + 10
    while os.path.exists(f"/proc/{program}"):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert not (tmp_path / "k.policy").exists()
