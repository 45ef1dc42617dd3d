"""What becomes of a call that the policy does not allow, and what is said about it."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from callfence.enforcer.reporting import report as repeated
from callfence.shared.text import command_line
from callfence.tracer.abi import COMPAT, NATIVE, table
from callfence.tracer.machine import MACHINE

FLOOR = "read: allow\nwrite: allow\nexit_group: allow\n"
KILL = FLOOR
ERRNO = "default errno EACCES\n" + FLOOR
EACCES = "-13\n"
LIBC = "".join(
    f"{name}: allow\n"
    for line in (
        "arch_prctl brk exit_group fstat getrandom mmap mprotect munmap newfstatat prlimit64 read readlinkat readlink",
        "rseq rt_sigaction rt_sigprocmask set_robust_list set_tid_address write",
    )
    for name in line.split()
)


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def normalised(text, process=None):
    """Without what differs between two runs: pids and places in the code."""
    return re.sub(r"\(pid \d+\) at calls\+0x[0-9a-f]+", "(pid PID) at SITE", text)


def test_a_killed_call_is_explained(place):
    place.policy(KILL)
    done = place.enforce(place.calls(), "mprotect,4096,8192,5", "getppid")
    assert (done.returncode, done.stdout) == (-signal.SIGSYS, "")
    assert normalised(done.stderr) == (
        "enforce: denied mprotect(start=0x1000, len=8192, prot=PROT_READ|PROT_EXEC): the process is killed\n"
        f"  by {place.folder}/calls (pid PID) at SITE\n"
        "  to allow it: callfence allow calls.policy 'mprotect: prot == PROT_READ|PROT_EXEC'\n"
    )


def test_a_failed_call_is_explained_and_the_program_goes_on(place):
    place.policy(ERRNO + "mprotect: prot == PROT_READ\n")
    done = place.enforce(place.calls(), "mprotect,4096,8192,3", "getppid")
    assert (done.returncode, done.stdout) == (9, EACCES * 2)
    assert normalised(done.stderr) == (
        "enforce: denied mprotect(start=0x1000, len=8192, prot=PROT_READ|PROT_WRITE): it fails with EACCES\n"
        f"  by {place.folder}/calls (pid PID) at SITE\n"
        "  to allow it: callfence allow calls.policy 'mprotect: prot == PROT_READ|PROT_WRITE'\n"
        "enforce: denied getppid(): it fails with EACCES\n"
        f"  by {place.folder}/calls (pid PID) at SITE\n"
        "  to allow it: callfence allow calls.policy 'getppid: allow'\n"
    )


def test_the_line_that_is_named_does_allow_the_call(place):
    place.policy(ERRNO)
    argument = "mprotect,65536,131072,3"  # whole pages, of whatever size
    line = shlex.split(place.enforce(place.calls(), argument).stderr.splitlines()[-1])[-1]
    place.policy(ERRNO + line + "\n")
    done = place.enforce(place.calls(), argument)
    assert (done.stdout, done.stderr) == ("-12\n", ""), "ENOMEM: it reached the kernel"


def test_the_address_is_that_of_the_call(place, build):
    place.policy(ERRNO)
    done = place.enforce(place.calls(), "getppid")
    offset = int(re.search(r"at calls\+(0x[0-9a-f]+)", done.stderr)[1], 16)
    instruction = MACHINE.native.instruction
    assert (place.folder / "calls").read_bytes()[:offset].endswith(instruction), "behind the call's instruction"


def last_counts(errors):
    """The denials of reports, and of each call's counts the last: a helper that is held up for a second counts anew."""
    lines = {}
    for line in errors.splitlines():
        if line.startswith("enforce"):
            key = re.sub(r"denied \d+ times", "", line)
            lines.pop(key, None)
            lines[key] = line
    return [*lines.values()]


def test_repeated_violations_are_counted(place):
    place.policy(ERRNO)
    done = place.enforce(place.calls(), "123xgetppid", "getppid", "3xmprotect,4096,0,1")
    assert done.stdout == EACCES * 127
    assert last_counts(done.stderr) == [
        "enforce: denied getppid(): it fails with EACCES",
        "enforce: denied mprotect(start=0x1000, len=0, prot=PROT_READ): it fails with EACCES",
        f"enforce: denied 124 times, by {place.folder}/calls: getppid()",
        f"enforce: denied 3 times, by {place.folder}/calls: mprotect(start=0x1000, len=0, prot=PROT_READ)",
    ]


@pytest.mark.long
def test_a_burst_is_one_line_and_then_its_count(place):
    """The count comes after a second without calls, and not only at the end; then after two seconds."""
    place.policy(ERRNO + "poll: allow\n")
    log = place.folder / "violations"
    began = time.monotonic()
    running = place.start("--log", "violations", place.calls(), "500xgetppid", "poll,0,0,2000", "4xgetppid", "poll,0,0,60000")

    def counts():
        return [record["count"] for record in place.denials("violations")] if log.exists() else []

    wait_until(lambda: max(counts(), default=0) >= 500)
    assert time.monotonic() - began >= 1
    wait_until(lambda: 504 in counts())
    assert len(counts()) < 10 and running.poll() is None, "it goes on"
    running.kill()
    running.communicate()


def test_a_burst_that_does_not_end_is_told_of_all_the_same(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(repeated.time, "monotonic", lambda: clock[0])
    counts = repeated.Counts()
    one = repeated.Repeated("violation", "evidence", 1)
    counts.add(("key",), one)
    told = []
    for second in range(86_400):
        clock[0] = float(second)
        assert counts.again(("key",), 1) is one
        told += [(second, each.count) for each in counts.due_in_a_burst()]
    assert len(told) < 40 and told[0] == (60, 62) and told[-1][0] > 86_400 - 3_700
    assert [each.count for each in counts.rest()] == [86_401] and counts.pause() is None


def test_a_written_answer_is_given_by_the_kernel_in_silence(place):
    place.policy(KILL + "getppid: errno ENOENT\n")
    done = place.enforce(place.calls(), "getppid")
    assert (done.returncode, done.stdout, done.stderr) == (9, "-2\n", "")


def test_numbers_newer_than_the_table_fail_in_silence(place):
    place.policy(KILL)
    done = place.enforce(place.calls(), "4000")
    assert (done.stdout, done.stderr) == ("-38\n", "")


@pytest.mark.only_on("x86_64")
@pytest.mark.parametrize(("call", "said"), [("i64", "getppid()"), ("1073741934", "x32 getppid()")])
def test_other_ways_into_the_kernel_kill_whatever_the_default(call, said, place):
    """`int 0x80` from 64-bit code, and the x32 numbers."""
    place.policy(ERRNO)
    done = place.enforce(place.calls(), call)
    assert (done.returncode, done.stdout) == (-signal.SIGSYS, "")
    assert done.stderr.startswith(f"enforce: denied {said}: the process is killed\n")


def test_an_i386_program(place):
    place.policy(f"arch {COMPAT}\n" + ERRNO.replace("default errno EACCES\n", ""))
    done = place.enforce(place.calls("-m32"), "getpid")
    assert done.returncode == -signal.SIGSYS
    assert normalised(done.stderr).endswith(
        "  to allow it: callfence allow calls.policy 'getpid: allow'\n"
    )
    place.policy(FLOOR)
    done = place.enforce(place.calls("-m32"), "getpid")
    assert done.returncode == -signal.SIGSYS
    assert normalised(done.stderr).endswith(
        f"  to allow it: callfence allow --arch {COMPAT} calls.policy 'getpid: allow'\n"
    )


def test_a_denied_close_does_not_keep_the_listener_in_the_program(place):
    """It is taken out by a call that the filter knows by a secret; what the policy denies explicitly is not reported."""
    for line in ("", "close: errno EPERM\n", "close: fd == 77\n", "close_range: errno EPERM\n"):
        place.policy(ERRNO + line)
        done = place.enforce(place.calls(), "close,3", "close,77", "close_range,3,77")
        first = "-1\n" if "close: errno" in line else EACCES
        last = "-1\n" if "range" in line else EACCES
        assert done.stdout == first + ("-9\n" if "77" in line else first) + last
        assert ("enforce: denied close(fd=3)" in done.stderr) == ("close: errno" not in line)


def test_sigsys_cannot_be_caught_blocked_or_ignored(place, build):
    place.policy(LIBC)
    for how in ("catch", "block", "ignore"):
        done = place.enforce("-p", "calls.policy", build("sigsys", "-static"), how)
        assert (done.returncode, done.stdout) == (-signal.SIGKILL, f"{how}\n")
        assert "denied getppid(): the process is killed" in done.stderr


@pytest.mark.skipif(Path("/proc/sys/kernel/core_pattern").read_text()[0] in "|/", reason="cores go elsewhere")
def test_a_killed_process_dumps_its_whole_core(place, build):
    place.policy(LIBC)
    under = ("sh", "-c", 'ulimit -c unlimited; exec "$@"', "sh")
    done = place.enforce("-p", "calls.policy", build("sigsys", "-static"), "dump", under=under)
    assert (done.returncode, done.stdout) == (-signal.SIGSYS, "dump\n")
    (core,) = place.folder.glob("core*")
    content = core.read_bytes()
    core.unlink()
    assert len(content) > 64 << 20 and bytes([1]) * (64 << 20) in content


@pytest.mark.parametrize("second", ["getpid", pytest.param("i20", marks=pytest.mark.only_on("x86_64"))])
def test_audit_allows_and_says_so(place, second):
    place.policy(KILL)
    done = place.enforce("--audit", place.calls(), "getppid", second)
    assert done.returncode == 9
    parent, pid = done.stdout.split()
    assert int(parent) == os.getpid()
    assert int(pid) > 0
    lines = done.stderr.splitlines()
    assert lines[0] == "enforce: audit: nothing is enforced, violations are only reported"
    assert lines[1] == "enforce: would deny getppid(): the process would be killed"


@pytest.mark.parametrize(
    ("entry", "call"),
    [("getppid: kill", "getppid"), ("mprotect: prot == 1 else kill", "mprotect,4096,0,3"), ("unknown kill", "500")],
)
def test_a_kill_that_the_policy_states_is_reported(place, entry, call):
    place.policy(ERRNO.replace("read:", f"{entry}\nread:", 1))
    done = place.enforce(place.calls(), call)
    assert (done.returncode, done.stdout) == (-signal.SIGSYS, "")
    assert "the process is killed" in done.stderr
    done = place.enforce("--audit", place.calls(), call)
    assert done.returncode == 9, done.stderr
    assert "the process would be killed" in done.stderr


@pytest.mark.parametrize("action", ["errno EXDEV", "trap"])
def test_audit_enforces_no_action_of_the_policy(place, action):
    """Otherwise such an entry answers in silence: the program is expected to be answered so."""
    place.policy(f"{ERRNO}getppid: {action}\n")
    done = place.enforce(place.calls(), "getppid")
    assert "denied" not in done.stderr
    done = place.enforce("--audit", place.calls(), "getppid")
    assert (done.returncode, int(done.stdout) > 0) == (9, True)
    assert "would deny getppid()" in done.stderr


def test_audit_lets_run_what_is_answered_otherwise_when_enforced(place):
    """The log has it, so that it can be allowed: the program may need what the kernel answers."""
    place.policy(f"implied 1\n{KILL}")
    setsockopt, sendfile, clone3 = "setsockopt,99,6,1,0,0", "sendfile,99,99,0,1", "clone3,0,0"
    done = place.enforce("--audit", "--log", "log", place.calls(), setsockopt, sendfile, clone3)
    assert done.stdout.split() == ["-9", "-9", "-38"]  # EBADF; clone3 fails when it is learned, too
    place.wait_for_helpers()
    logged = [record["call"].partition("(")[0] for record in place.denials()]
    assert logged == ["setsockopt", "sendfile"]
    done = place.enforce("--log", "log", place.calls(), setsockopt, sendfile, clone3)
    assert done.stdout.split() == ["-92", "-22", "-38"]  # ENOPROTOOPT, EINVAL


def test_quiet_kernel_answers_in_silence(place):
    place.policy(KILL)
    done = place.enforce("--quiet-kernel", place.calls(), "getppid")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGSYS, "", "")


def test_the_log(place):
    place.policy(ERRNO)
    for _ in range(2):
        done = place.enforce("--log", "violations", place.calls(), "mprotect,4096,8192,3", "3xgetppid")
        assert (done.stdout, done.stderr) == (EACCES * 4, "")
        place.wait_for_helpers()
    lines = place.denials("violations")
    lines = [line for line in lines if line["count"] in (1, 3)]  # of a helper that is held up for a second, more counts
    assert len(lines) == 6, "it is appended to"
    assert [(line["call"], line["count"]) for line in lines[:3]] == [
        ("mprotect(start=0x1000, len=8192, prot=PROT_READ|PROT_WRITE)", 1),
        ("getppid()", 1),
        ("getppid()", 3),
    ]
    first = lines[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first.pop("time"))
    assert re.fullmatch(r"calls\+0x[0-9a-f]+", first.pop("site"))
    assert first.pop("pid") > 0
    assert lines[1]["run"] == lines[2]["run"] != lines[4]["run"]
    assert re.fullmatch("[0-9a-f]{8}", first.pop("run"))
    assert first.pop("parent") == os.getpid()
    assert first.pop("arguments")[:3] == ["0x1000", "0x2000", "0x3"]
    assert first == {
        "call": "mprotect(start=0x1000, len=8192, prot=PROT_READ|PROT_WRITE)",
        "arch": NATIVE,
        "number": table(NATIVE).by_name["mprotect"].number,
        "version": 1,
        "event": "denied",
        "host": os.uname().nodename,
        "unit": first["unit"],
        "sequence": 2,
        "policies": [{"file": "calls.policy", "sha256": hashlib.sha256(ERRNO.encode()).hexdigest()}],
        "action": "errno EACCES",
        "verdict": "denied",
        "ungranted": [],
        "ungrantable": [],
        "phase": None,
        "command": ["./calls", "mprotect,4096,8192,3", "3xgetppid"],
        "folder": str(place.folder),
        "executable": f"{place.folder}/calls",
        "evidence": [],
        "allow": [{"file": "calls.policy", "line": "mprotect: prot == PROT_READ|PROT_WRITE", "risk": None}],
        "count": 1,
    }


def test_several_policies_must_all_allow(place):
    place.policy(ERRNO + "getppid: allow\ngetpid: allow\n", "a.policy")
    place.policy(KILL + "getppid: allow\nmprotect: allow\n", "b.policy")
    both = ("-p", "a.policy", "-p", "b.policy", place.calls())
    assert place.enforce(*both, "getppid").returncode == 9
    done = place.enforce(*both, "mprotect,0,0,1")
    assert (done.returncode, done.stdout) == (9, EACCES)
    assert "callfence allow a.policy 'mprotect: prot == PROT_READ'\n" in done.stderr
    assert "b.policy" not in done.stderr
    done = place.enforce(*both, "getpid")
    assert done.returncode == -signal.SIGSYS
    assert "callfence allow b.policy 'getpid: allow'\n" in done.stderr
    done = place.enforce(*both, "getuid")
    assert done.returncode == -signal.SIGSYS, "the stricter action counts"
    assert "callfence allow a.policy 'getuid: allow'\n" in done.stderr
    assert "callfence allow b.policy 'getuid: allow'\n" in done.stderr
    for quiet in ((), ("--quiet-kernel",)):
        assert place.enforce(*quiet, *both, "getppid").returncode == 9
        assert place.enforce(*quiet, *both, "getpid").returncode == -signal.SIGSYS


def test_arm_now_reports_as_well(place):
    place.policy("arm now\n" + ERRNO)
    done = place.enforce(place.calls(), "getppid")
    assert done.returncode == 126
    assert done.stderr.startswith("enforce: denied execve("), "from the filter to the execve, nothing is called"
    place.policy("arm now\n" + ERRNO + "execve: allow\n")
    done = place.enforce(place.calls(), "getppid", "close,3", "close,4", "close,5")
    assert done.stdout == EACCES * 4
    assert "denied getppid()" in done.stderr


def test_names_from_the_program_cannot_drive_the_terminal(place):
    place.policy(ERRNO)
    os.symlink(place.calls(), place.folder / "plain")
    name = "\x1b[31m\nenforce: denied\udcff"
    (place.folder / "calls").rename(place.folder / name)
    done = place.enforce("-p", "calls.policy", f"./{name}", "getppid")
    assert done.stdout == EACCES
    assert f"  by {place.folder}/\\x1b[31m\\x0aenforce: denied\\xff (pid " in done.stderr


def test_a_process_whose_name_is_no_text_is_killed_too(place):
    """The name stands in /proc/PID/status, which is read to kill it."""
    place.policy(KILL)
    place.calls()
    (place.folder / "calls").rename(place.folder / "b\udcff")
    done = place.enforce("-p", "calls.policy", "./b\udcff", "getppid")
    assert (done.returncode, done.stdout) == (-signal.SIGSYS, "")
    assert f"denied getppid(): the process is killed\n  by {place.folder}/b\\xff (pid " in done.stderr


@pytest.mark.parametrize("proc", [["--mount-proc"], []], ids=["its own proc", "another proc"])
def test_the_first_process_of_a_namespace_can_be_killed(proc, place):
    """It ignores signals from inside its namespace, where the helper is.  In the other namespace's /proc its number is that of
    another process, whose memory is left alone."""
    if os.getuid() != 0:
        pytest.skip("needs root to make a pid namespace")
    place.policy(KILL)
    under = ("unshare", "--pid", "--fork", *proc)
    done = place.enforce(place.calls(), "getpid", under=under)
    assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
    assert "denied getpid()" in done.stderr
    place.policy(KILL + "getpid: allow\nwait4: allow\n")
    done = place.enforce(place.calls(), "getpid", "wait4,-1", under=under)
    assert (done.returncode, done.stdout) == (9, "1\n-10\n"), "and it has no child to wait for"


@pytest.mark.parametrize("name", ["-x.policy", "two\nlines'.policy", "\x1b[31m \\x41\udcff.policy"])
def test_what_is_suggested_can_be_pasted_whatever_the_file_is_called(name, place, tmp_path):
    place.policy(KILL, name)
    done = place.enforce(f"--policy={name}", place.calls(), "getppid")
    suggested = done.stderr.splitlines()[-1].removeprefix("  to allow it: ")
    assert suggested.isprintable()
    for line in (suggested, command_line(["printf", "%s", name])):
        ours = line.replace("callfence allow", f"{sys.executable} -m callfence allow", 1)
        done = subprocess.run(["bash", "-c", ours], cwd=place.folder, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == os.fsencode(name)
    assert "getppid: allow" in (place.folder / name).read_text()


def test_three_policies_with_implied_sets_fit_into_one_filter(place):
    """As `learn` writes them, with several errors beside the kill: one filter of theirs has 600 instructions."""
    learned = "default kill\nunknown errno ENOSYS\nimplied 1\n"
    place.policy(learned + "openat: flags == O_RDONLY\nptrace: errno EBUSY\n", "a.policy")
    place.policy(learned + "openat: allow\nptrace: allow\nsetsockopt: allow\n", "b.policy")
    place.policy(learned + "openat: allow\nptrace: errno EINTR\nsetsockopt: errno EDOM\n", "c.policy")
    all_ = ("-p", "a.policy", "-p", "b.policy", "-p", "c.policy", place.calls())
    done = place.enforce(*all_, "ptrace")
    assert (done.returncode, done.stdout) == (9, "-16\n")
    assert place.enforce(*all_, "setsockopt").returncode == -signal.SIGSYS
    done = place.enforce("-p", "c.policy", "-p", "a.policy", *all_, "getppid")
    assert done.returncode == 125
    assert re.fullmatch(
        r"enforce: the filter has \d+ instructions; the kernel permits at most 4096; "
        r"`callfence merge --intersect` makes one policy of two\n",
        done.stderr,
    )
