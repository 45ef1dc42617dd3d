"""What becomes of calls that a policy's default denies and whose answer gives the program nothing."""

from __future__ import annotations

import os
import shutil
import signal

import pytest

RUNS = (
    "callfence 1\nopenat: flags == O_RDONLY\nmmap: prot == PROT_READ|PROT_EXEC && flags == MAP_PRIVATE\n"
    "clone: clone_flags == SIGCHLD\n"
)
IMPLIED = RUNS.replace("\n", "\nimplied 1\n", 1)

START = (
    "brk munmap mprotect read write fstat close pread64 access arch_prctl set_tid_address set_robust_list rseq prlimit64 "
    "getrandom rt_sigaction exit_group newfstatat getpid getgid geteuid"
)
WITHOUT = "mmap: allow\nopenat: flags in O_CLOEXEC\n" + "".join(f"{name}: allow\n" for name in START.split())


@pytest.fixture
def made(place, build, shared_policy):
    """made(policy, what, ...) -> the finished process, and the denied calls."""
    shutil.copy(build("instead"), place.folder)

    def run(policy, *what, options=(), **settings):
        command = ("--log", "log", "--", "./instead", *what)
        done = place.enforce("-p", shared_policy(policy, "instead.policy"), *options, *command, **settings)
        return done, [record["call"] for record in place.denials()]

    return run


@pytest.mark.parametrize(
    ("what", "result"),
    [
        ("null", "3"),  # 3 is the lowest free number: --log is the helper's
        ("null-kept", "1"),  # FD_CLOEXEC
        ("null-full", "-1 EMFILE"),
        ("full", "3"),
        ("terminal", "-1 ENXIO"),
        ("itself", str(signal.SIGUSR1.value)),
        ("own-thread", str(signal.SIGUSR1.value)),
        ("child", str(signal.SIGTERM.value)),
        ("ended", "-1 ESRCH"),
        ("another", "-1 EPERM"),
        ("file-ids", "0"),  # ncurses looks for the terminal's description so
        ("daemon", "-1 EAFNOSUPPORT"),
        ("no-path", "-1 EFAULT"),
        ("no-family", "-1 EAFNOSUPPORT"),
        ("cache", "-1 EACCES"),
        ("attributes", "-1 EOPNOTSUPP"),
        ("own-limits", "0"),
        ("own-core", "0"),  # ulimit -a
        ("own-personality", "0"),
        ("own-handle", "-1 ENOSYS"),
    ],
)
def test_it_is_answered_without_a_denial(made, what, result):
    done, denied = made(IMPLIED, what)
    assert (done.returncode, done.stdout.strip(), done.stderr, denied) == (0, f"{what} {result}", "", [])


@pytest.mark.parametrize(
    ("what", "result", "denied"),
    [("own-terminal", "-1 ENXIO", []), ("settings", "-1 EPERM", []), ("other-terminal", None, ["openat("])],
)
def test_on_a_terminal_it_is_as_without(made, what, result, denied):
    """Node.js opens its terminal by name and sets it back at the end; it may have been learned with its output in a file."""
    main, own = os.openpty()
    try:
        done, calls = made(IMPLIED, what, stdin=own)
    finally:
        os.close(main)
        os.close(own)
    assert [call.partition("(")[0] + "(" for call in calls] == denied
    assert result is None or (done.returncode, done.stdout.strip(), done.stderr) == (0, f"{what} {result}", "")


@pytest.mark.parametrize(
    ("what", "call"),
    [
        ("other-file", "openat("),
        ("null-folder", "openat("),
        ("full-read", "openat("),
        ("outside", "kill("),
        ("everyone", "kill("),
        ("ended-group", "kill("),
        ("other-ids", "setresuid("),
        ("parents-limits", "prlimit64("),
        ("set-core", "prlimit64("),
        ("set-personality", "personality("),
        ("peer", "socket("),
        ("no-name", "utimensat("),
        ("beside-cache", "openat("),
        ("other-folder", "mkdir("),
    ],
)
def test_everything_else_is_denied(made, what, call):
    done, denied = made(IMPLIED, what)
    assert (done.returncode, done.stdout) == (-signal.SIGSYS, "")
    assert [one.startswith(call) for one in denied] == [True]


def test_a_process_does_not_signal_its_parent(made):
    done, denied = made(IMPLIED, "parent")
    assert (done.stdout, [call.partition("(")[0] for call in denied]) == ("parent -1 0\n", ["kill"])


@pytest.mark.parametrize("what", ["itself", "own-ids", "daemon", "attributes"])
def test_an_explicit_denial_stays_one(made, what):
    done, denied = made(IMPLIED + "kill: deny\nsetgid: deny\nsocket: deny\nfsetxattr: deny\n", what)
    assert (done.returncode, done.stdout, len(denied)) == (-signal.SIGSYS, "", 1)


@pytest.mark.parametrize(
    ("own", "what", "result"),
    [
        ("setpriority: which == PRIO_PROCESS && who == 0", "own-priority", "0"),
        ("setpriority: who == 0", "own-priority", "0"),
        ("setpriority: which == PRIO_PROCESS && who == 0", "parents-priority", "-1 EPERM"),
        ("setpriority: who == 0", "group-priority", "-1 EPERM"),
        ("setpriority: which == PRIO_PGRP && who == 0", "own-priority", "-1 EPERM"),
    ],
)
def test_a_process_may_name_itself_where_the_policy_allows_what_it_does_to_itself(made, own, what, result):
    done, denied = made(f"{IMPLIED}{own}\n", what)
    assert (done.returncode, done.stdout.strip(), done.stderr, denied) == (0, f"{what} {result}", "", [])


@pytest.mark.parametrize("what", ["touch", "touch-name"])
def test_who_writes_files_may_touch_them(made, what):
    writes = IMPLIED.replace("openat: flags == O_RDONLY", "openat: flags == O_RDONLY || flags == O_WRONLY")
    done, denied = made(writes, what)
    assert (done.stdout, denied) == (f"{what} 0 \n", [])


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ("", "touch"),
        ("", "touch-name"),
        (" || flags == O_WRONLY", "set-times"),
        (" || flags == O_WRONLY\nutimensat: deny", "touch"),
        (" || flags == O_WRONLY\npath /: read, execute", "touch"),
        (" || flags == O_WRONLY\npath /: read, execute", "touch-name"),
    ],
)
def test_nobody_else_sets_times(made, more, what):
    done, denied = made(IMPLIED.replace("openat: flags == O_RDONLY", f"openat: flags == O_RDONLY{more}"), what)
    assert (done.stdout, [call.partition("(")[0] for call in denied]) == ("", ["utimensat"])


def test_root_does_not_take_its_ids_back(made):
    done, denied = made(IMPLIED, "own-ids")
    answer = ("own-ids 0 \n", []) if os.getuid() else ("", ["setgid(gid=0)"])
    assert (done.stdout, denied) == answer


@pytest.mark.parametrize("what", ["null", "itself", "own-ids", "daemon", "attributes"])
def test_a_policy_without_an_implied_set_denies_it(made, what):
    done, denied = made(WITHOUT, what)
    assert (done.returncode, done.stdout, len(denied)) == (-signal.SIGSYS, "", 1)


def test_with_another_default_too(made):
    done, denied = made(IMPLIED.replace("implied", "default errno EACCES\nimplied"), "daemon", "null")
    assert (done.stdout, denied) == ("daemon -1 EAFNOSUPPORT\nnull 3 \n", [])


@pytest.mark.parametrize("what", ["daemon", "attributes"])
def test_what_may_be_unavailable_fails_before_a_phase_too(made, what):
    phased = IMPLIED.replace("openat", "phase serving after poll\nbind: allow until serving\nopenat")
    done, denied = made(phased, what)
    assert (done.returncode, done.stdout[len(what) : len(what) + 3], done.stderr, denied) == (0, " -1", "", [])


def test_an_audit_lets_it_run_and_reports_it(made):
    done, denied = made(IMPLIED, "daemon", "null", options=("--audit",))
    assert (done.returncode, done.stdout) == (0, "daemon 3 \nnull 4 \n")
    assert [one.partition("(")[0] for one in denied] == ["socket", "openat"]
