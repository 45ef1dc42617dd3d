"""What becomes of calls that a policy's default denies and whose answer gives the program nothing."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import time
from types import SimpleNamespace

import pytest
from calls import event

from callfence.enforcer.reporting.instead import call as otherwise, failing, signals
from callfence.tracer.abi import Arch

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
        ("last-pair", "0"),  # gearmand with few descriptors
        ("terminal", "-1 ENXIO"),
        ("console", "-1 ENXIO"),  # redir was killed as it said that its port is taken
        ("itself", str(signal.SIGUSR1.value)),
        ("own-thread", str(signal.SIGUSR1.value)),
        ("child", str(signal.SIGTERM.value)),
        ("ended", "-1 ESRCH"),
        ("another", "-1 EPERM"),
        ("file-ids", "0"),  # ncurses looks for the terminal's description so
        ("daemon", "-1 EAFNOSUPPORT"),
        ("tcp-info", "-1 ENOPROTOOPT"),
        ("no-path", "-1 EFAULT"),
        ("empty-path", "-1 ENOENT"),
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


@pytest.mark.parametrize("what", ["own-group", "group"])
def test_a_process_signals_its_own_group_and_those_that_it_has_started(made, what):
    done, denied = made(f"{IMPLIED}setpgid: pid == 0\n", what)
    assert (done.returncode, done.stdout.strip(), done.stderr, denied) == (0, f"{what} {signal.SIGTERM.value}", "", [])


@pytest.mark.parametrize("what", ["name-daemon", "log-daemon"])
def test_a_daemon_that_c_libraries_ask_is_not_there_for_who_has_unix_sockets_and_connects_to_none(made, what):
    """caddy listens on a unix socket, and asks for its user's home when it is started without HOME."""
    policy = f"{IMPLIED}socket: family == AF_UNIX && type & 0xf == SOCK_STREAM && protocol == 0\n"
    done, denied = made(policy, what)
    assert (done.returncode, done.stdout.strip(), denied) == (0, f"{what} -1 ENOENT", [])
    assert made(policy, "other-daemon")[1][0].startswith("connect(")


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
        ("last-one", "socket("),
        ("outside", "kill("),
        ("everyone", "kill("),
        ("ended-group", "kill("),
        ("other-ids", "setresuid("),
        ("parents-limits", "prlimit64("),
        ("set-core", "prlimit64("),
        ("set-personality", "personality("),
        ("peer", "socket("),
        ("no-name", "utimensat("),
        ("read-cache", "openat("),
        ("beside-cache", "openat("),
        ("anew", "openat("),
        ("other-folder", "mkdir("),
    ],
)
def test_everything_else_is_denied(made, what, call):
    done, denied = made(IMPLIED, what)
    assert (done.returncode, done.stdout) == (-signal.SIGSYS, "")
    assert [one.startswith(call) for one in denied] == [True]


@pytest.mark.parametrize(("what", "call"), [("parent", "kill"), ("parent-pidfd", "pidfd_send_signal")])
def test_a_process_does_not_signal_its_parent(made, what, call):
    done, denied = made(IMPLIED + "pidfd_open: allow\n", what)
    assert (done.stdout, [call.partition("(")[0] for call in denied]) == (f"{what} -1 0\n", [call])


@pytest.mark.parametrize(
    ("what", "result"),
    [
        ("pidfd-child", str(signal.SIGTERM.value)),
        ("pidfd-ended", "-1 ESRCH"),
        ("pidfd-itself", str(signal.SIGUSR2.value)),
        ("pidfd-outside", None),
        ("pidfd-queued", None),
        ("pidfd-none", None),
    ],
)
@pytest.mark.parametrize("probe", ["", "pidfd_send_signal: sig == 0 && flags == 0\n"], ids=["no line", "Go's probe"])
def test_a_process_signals_those_that_it_has_started_by_a_pidfd(made, what, result, probe):
    done, denied = made(f"{IMPLIED}pidfd_open: allow\n{probe}", what)
    answer = (0, f"{what} {result}", []) if result else (-signal.SIGSYS, "", ["pidfd_send_signal"])
    assert (done.returncode, done.stdout.strip(), [call.partition("(")[0] for call in denied]) == answer


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


@pytest.mark.parametrize(
    ("what", "result"),
    [("owner-same", "0"), *((f"owner-{what}", "-1 EPERM") for what in ("other", "missing", "bits", "link"))],
)
def test_a_file_keeps_the_owner_that_it_has(made, what, result):
    makes = " || flags in O_RDWR|O_CREAT|O_EXCL && mode == 0600\nsymlink: allow\nchmod: allow\nfchmod: allow"
    done, denied = made(IMPLIED.replace("openat: flags == O_RDONLY", f"openat: flags == O_RDONLY{makes}"), what)
    assert (done.returncode, done.stdout.strip(), denied) == (0, f"{what} {result}", [])


WRITES = " || flags == O_WRONLY|O_CREAT|O_EXCL && mode == 0600\nsymlink: allow\nfchown: allow"
REMOVES = IMPLIED.replace("openat: flags == O_RDONLY", f"openat: flags == O_RDONLY{WRITES}")


def test_an_output_that_a_program_cannot_finish_is_not_removed(made):
    done, denied = made(REMOVES, "output")
    assert (done.returncode, done.stdout.strip(), done.stderr, denied) == (0, "output -1 EACCES", "", [])


@pytest.mark.parametrize(
    "what", ["input", "output-folder", "output-link", *(["output-owner"] if os.geteuid() == 0 else [])]
)
def test_removing_another_file_is_denied(made, what):
    time.sleep(0.05)  # /proc says in hundredths of a second when a process was started
    done, denied = made(REMOVES, what)
    assert (done.returncode, done.stdout) == (-signal.SIGSYS, "")
    assert [call.startswith("unlink") for call in denied] == [True]


@pytest.mark.parametrize("more", ["newfstatat: deny\nstat: deny", "unlink: deny"])
def test_nor_is_it_asked_whose_a_file_is_for_a_program_that_may_not(made, more):
    _, denied = made(f"{REMOVES}{more}\n", "output")
    assert [call.partition("(")[0] for call in denied] == ["unlink"]


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


PHASED = IMPLIED.replace("openat", "phase serving after poll\nbind: allow until serving\nopenat")


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("daemon", "EAFNOSUPPORT"), ("attributes", "EOPNOTSUPP"), ("ended", "ESRCH"), ("no-path", "EFAULT"),
        ("empty-path", "ENOENT"), ("cache", "EACCES"),
    ],
)  # fmt: skip
def test_what_fails_otherwise_does_so_before_a_phase_too(made, what, error):
    """A server asks for the process of a pid file that a killed one has left as it starts."""
    done, denied = made(f"{PHASED}kill: sig == SIGKILL\n", what)
    assert (done.returncode, done.stdout.strip(), done.stderr, denied) == (0, f"{what} -1 {error}", "", [])


def test_a_file_keeps_the_owner_that_it_has_before_a_phase_too(made):
    """NSD gives its log to the user that it runs as: itself, if root has not started it."""
    makes = " || flags in O_RDWR|O_CREAT|O_EXCL && mode == 0600"
    done, denied = made(PHASED.replace("openat: flags == O_RDONLY", f"openat: flags == O_RDONLY{makes}"), "owner-same")
    assert (done.returncode, done.stdout.strip(), done.stderr, denied) == (0, "owner-same 0", "", [])


@pytest.mark.parametrize("what", ["itself", "null", "own-ids", "own-limits"])
def test_nothing_that_is_denied_runs_before_a_phase(made, what):
    done, denied = made(PHASED, what)
    assert (done.returncode, done.stdout, len(denied)) == (-signal.SIGSYS, "", 1)


def test_processors_are_counted_without_the_files_that_a_phase_denies(made):
    """stunnel, privoxy and tinyproxy were killed under load, in malloc(3) of their threads."""
    serving = IMPLIED.replace("openat: flags == O_RDONLY", "phase serving after poll\nopenat: flags == O_RDONLY until serving")
    done, denied = made(serving, "processors")
    counted = f"processors {len(os.sched_getaffinity(0))}"
    assert (done.returncode, done.stdout.strip(), done.stderr, denied) == (0, counted, "", [])


def test_a_traceback_is_printed_without_the_sources_that_a_phase_denies(made):
    """carbon, a server in Python, was killed as it logged an exception."""
    serving = IMPLIED.replace("openat: flags == O_RDONLY", "phase serving after poll\nopenat: flags == O_RDONLY until serving")
    done, denied = made(serving, "source")
    assert (done.returncode, done.stdout.strip(), done.stderr, denied) == (0, "source -1 EACCES", "", [])


def test_an_audit_lets_it_run_and_reports_it(made):
    done, denied = made(IMPLIED, "daemon", "null", options=("--audit",))
    assert (done.returncode, done.stdout) == (0, "daemon 3 \nnull 4 \n")
    assert [one.partition("(")[0] for one in denied] == ["socket", "openat"]


def test_an_audit_says_how_it_would_fail(place, made, shared_policy):
    made(IMPLIED, "daemon")
    done = place.enforce("-p", shared_policy(IMPLIED, "instead.policy"), "--audit", "--", "./instead", "daemon", "other-file")
    assert [line.rpartition(": ")[2] for line in done.stderr.splitlines() if "would deny" in line] == [
        "it would fail with EAFNOSUPPORT", "the process would be killed"
    ]  # fmt: skip


# Decided by what /proc says of the caller


ME, OTHER = 70, 80
SELF = {"Tgid": "70", "NSpid": "70", "CapEff": "0", "Uid": "5\t5\t5\t5", "Gid": "6\t6\t6\t6", "Seccomp_filters": "2"}
SELF |= {"NSpgid": "70", "Threads": "1"}


@pytest.fixture
def answered(monkeypatch):
    """answered(call, *arguments, ...) -> how thread 71 of process 70 is answered: "runs", an errno, or None for a denial."""

    def run(call, *arguments, arch=Arch.X86_64, allowed=(), own_namespace=True, waits=True, keeps_signals=False, **changed):
        tasks = {ME: {**SELF, **changed}, 71: {**SELF, "Tgid": "70", **changed}, OTHER: {**SELF, "Tgid": "80", "NSpgid": "80"}}
        for module in (otherwise, failing, signals):
            monkeypatch.setattr(module, "fields_of", lambda task: tasks.get(task, {}))
            monkeypatch.setattr(module, "is_in_own_user_namespace", lambda _task: own_namespace)
        done = []
        request = SimpleNamespace(
            fail=done.append, finish=done.append, let_run=lambda: done.append("runs"), is_waiting=lambda: waits
        )  # fmt: skip
        one = event(call, *arguments, arch=arch)._replace(task=71)
        verdict = SimpleNamespace(event=one, confines_files=False, allows=lambda other: other.arguments in allowed)
        made = otherwise.Instead(request, verdict, (-1, -1), keeps_signals=keeps_signals)
        assert made.answer() is bool(done) or not (waits or done)
        assert made.error == (done[0] if done and done != ["runs"] else 0)
        return done[0] if done else None

    return run


@pytest.mark.parametrize("call", [("setfsuid", 5), ("setgid", 6), ("setgroups", 0, 0)])
def test_a_task_that_has_ended_is_not_taken_for_one_of_another_namespace(monkeypatch, call):
    """It was killed while it waited; to report that as a denial would be wrong (`Answers` looks whether it waits still)."""
    for name, value in (("fields_of", {}), ("is_in_own_user_namespace", False)):
        monkeypatch.setattr(otherwise, name, lambda _task, value=value: value)
    verdict = SimpleNamespace(event=event(*call, arch=Arch.X86_64), confines_files=False, allows=lambda _: False)
    with pytest.raises(KeyError):
        otherwise.Instead(SimpleNamespace(), verdict, (-1, -1), keeps_signals=False).answer()


@pytest.mark.parametrize(
    ("call", "result"),
    [
        (("kill", ME, 15), "runs"),
        (("kill", 0, 15), None),
        (("kill", 1, 0), None),
        (("kill", -1 & 0xFFFFFFFF, 15), None),
        (("kill", -ME & 0xFFFFFFFF, 15), None),
        (("tkill", 71, 15), "runs"),
        (("tkill", ME, 15), None),  # another thread
        (("tgkill", ME, 71, 15), "runs"),
        (("tgkill", ME, OTHER, 15), None),
        (("tgkill", OTHER, 71, 15), None),
        (("setuid", 5), "runs"),
        (("setuid", 6), None),
        (("setgid", 6), "runs"),
        (("setresuid", 5, 0xFFFFFFFF, 5), "runs"),
        (("setresuid", 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF), None),
        (("setreuid", 5, 6), None),
        (("setgroups", 0, 0), errno.EPERM),
    ],
)
def test_who_names_itself_is_answered_while_its_call_waits_in_its_own_namespaces(answered, call, result):
    assert answered(*call) == result
    assert answered(*call, waits=False) is None
    if call[0].startswith("set"):
        assert answered(*call, own_namespace=False) is None
    else:
        assert answered(*call, NSpid="70 7") is None


@pytest.mark.parametrize(
    ("call", "changed", "result"),
    [
        (("setgroups", 0, 0), {"CapEff": "40"}, None),  # CAP_SETGID
        (("setgroups", 0, 0), {"CapEff": "bf"}, errno.EPERM),
        (("setuid", 5), {"Uid": "5 6 5 5"}, None),
        (("setuid", 0), {"Uid": "0 0 0 0"}, None),
        (("setfsuid", 0), {"Uid": "0 0 0 0"}, "runs"),
    ],
)
def test_ids_that_may_be_set(answered, call, changed, result):
    assert answered(*call, **changed) == result


@pytest.mark.parametrize(
    ("name", "value", "result"), [("setuid", 0x10005, "runs"), ("setuid32", 0x10005, None), ("setuid32", 5, "runs")]
)
def test_calls_of_32_bits_that_read_16(answered, name, value, result):
    assert answered(name, value, arch=Arch.I386) == result


@pytest.mark.parametrize(
    ("who", "changed", "result"),
    [(ME, {}, "runs"), (71, {}, "runs"), (OTHER, {}, errno.EPERM), (0, {}, errno.EPERM), (ME, {"NSpid": "70 7"}, errno.EPERM)],
)
def test_who_may_change_its_priority_may_do_so_by_its_number(answered, who, changed, result):
    allowed = [(0, 0, 5, 0, 0, 0)]
    assert answered("setpriority", 0, who, 5, allowed=allowed, **changed) == result
    assert answered("setpriority", 0, who, 5, allowed=allowed, waits=False, **changed) is None
    assert answered("setpriority", 0, who, 5, **changed) == errno.EPERM, "as on a machine that permits less (unavailable.tsv)"


@pytest.mark.parametrize(
    ("target", "of", "changed", "result"),
    [
        (0, {}, {}, "runs"),
        (-ME, {}, {"Threads": "2"}, "runs"),
        (0, {}, {"Threads": "2"}, None),
        (0, {}, {"NSpgid": "75"}, None),
        (-ME, {}, {"NSpgid": "75"}, None),
        (-75, {}, {"NSpgid": "75"}, None),
        (0, {}, {"keeps_signals": False}, None),
        (-OTHER, {OTHER: ME}, {}, "runs"),
        (-OTHER, {OTHER: ME}, {"keeps_signals": False}, None),
        (-OTHER, {}, {}, None),
        (-OTHER, {OTHER: ME}, {"NSpid": "70 7"}, None),
        (-1, {}, {}, None),
        (-99, {99: ME}, {}, None),
    ],
)
def test_signals_to_groups(monkeypatch, answered, target, of, changed, result):
    """timeout(1) signals its own group, ninja and Python's os.killpg that of a process which they have started."""
    monkeypatch.setattr(signals, "kin_of", lambda pid: (0, of.get(pid, 1)))
    assert answered("kill", target & 0xFFFFFFFF, 15, **{"keeps_signals": True, **changed}) == result
    assert answered("kill", target & 0xFFFFFFFF, 0, **{"keeps_signals": True, **changed}) is None, "it only asks"


@pytest.mark.parametrize(
    ("target", "number", "of", "keeps_signals", "result"),
    [
        (OTHER, 0, {}, True, errno.EPERM),
        (OTHER, 15, {}, True, None),
        (OTHER, 15, {OTHER: 75, 75: ME}, True, "runs"),
        (OTHER, 15, {OTHER: 75, 75: ME}, False, None),
        (OTHER, 0, {ME: 75, 75: OTHER}, True, None),
        (99, 15, {}, False, errno.ESRCH),
        (98, 15, {}, True, None),
    ],
    ids=["another", "a signal", "a descendant", "without Landlock", "an ancestor", "none", "not known"],
)
def test_signals_to_others(monkeypatch, answered, target, number, of, keeps_signals, result):
    def pidfd_open(pid):
        if pid == 99:
            raise ProcessLookupError
        if pid == 98:
            raise OSError(errno.EMFILE, "why")
        return os.open(os.devnull, os.O_RDONLY)

    monkeypatch.setattr(signals.kernel, "pidfd_open", pidfd_open)
    monkeypatch.setattr(signals, "kin_of", lambda pid: (0, of.get(pid, 1)))
    assert answered("kill", target, number, keeps_signals=keeps_signals) == result


@pytest.mark.parametrize(
    ("target", "changed", "result"),
    [
        (OTHER, {}, 0),
        (ME, {}, 0),
        (-1, {}, 0),  # it has ended: the kernel says so
        (0, {}, None),
        (90, {}, None),
        (OTHER, {"own_namespace": False}, None),
        (OTHER, {"keeps_signals": False}, None),
        (OTHER, {"Seccomp_filters": "3"}, None),
        (OTHER, {"adopts": ME}, None),
        (OTHER, {"waits": False}, None),
        (OTHER, {"Uid": "9\t9\t5\t5"}, None),
        (OTHER, {"Uid": "9\t5\t9\t9"}, 0),
        (OTHER, {"Uid": "9\t9\t5\t5", "CapEff": "20"}, 0),
    ],
    ids=(
        "child", "itself", "ended", "no pidfd", "another", "namespace", "no Landlock", "unfiltered", "adopted", "gone",
        "other user", "effective user", "CAP_KILL",
    ),
)  # fmt: skip
def test_by_a_pidfd_only_those_below_are_signalled_whom_the_caller_may(monkeypatch, answered, target, changed, result):
    sent = []
    monkeypatch.setattr(signals.kernel, "descriptor_of", lambda *_: os.open(os.devnull, os.O_RDONLY))
    monkeypatch.setattr(signals.kernel, "send_signal", lambda _, number: sent.append(number))
    monkeypatch.setattr(signals, "process_of", lambda _: target)
    parents = {OTHER: 75, 75: ME, os.getpid(): changed.get("adopts", 1)}
    changed = {"keeps_signals": True, **{name: value for name, value in changed.items() if name != "adopts"}}
    monkeypatch.setattr(signals, "kin_of", lambda pid: (0, parents.get(pid, 1)))
    assert answered("pidfd_send_signal", 3, 15, **changed) == result
    assert sent == [15] * (result == 0)
    assert answered("pidfd_send_signal", 3, 15, 0, 4, **changed) == answered("pidfd_send_signal", 3, 15, 9, **changed) is None


def test_an_ancestor_is_looked_for_among_a_hundred(monkeypatch):
    monkeypatch.setattr(signals, "kin_of", lambda pid: (0, pid - 1))
    assert (signals.is_below(200, 100), signals.is_below(200, 99), signals.is_below(50, 200)) == (True, False, False)


@pytest.mark.parametrize(
    ("caller", "powers", "target", "may"),
    [
        ("1 1 1 1", "0", "1 1 1 1", True),
        ("1 2 3 4", "0", "1 9 9 9", True),
        ("1 2 3 4", "0", "2 9 9 9", True),
        ("1 2 3 4", "0", "9 9 1 9", True),
        ("1 2 3 4", "0", "9 9 2 9", True),
        ("1 2 3 4", "0", "9 1 9 2", False),
        ("1 2 3 4", "0", "3 4 3 4", False),
        ("1 2 3 4", "20", "9 9 9 9", True),
        ("1 2 3 4", "1fffdf", "9 9 9 9", False),
        ("1 2 3 4", "0", "", False),
    ],
)
def test_who_may_signal_whom(caller, powers, target, may):
    """The real or effective user is the other's real or saved one, or there is CAP_KILL."""
    assert signals.may_signal({"Uid": caller, "CapEff": powers}, {"Uid": target} if target else {}) == may
