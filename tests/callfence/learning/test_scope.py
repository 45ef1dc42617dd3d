"""`scope`: what signals reach by default, what is learned of it, how it is enforced, compared and merged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from calls import event

from callfence.policygen.comparing.compare import Verdict, compare
from callfence.policygen.formats import Direction, FormatOptions, exported
from callfence.policygen.language.document import parse
from callfence.policygen.learning.scope import scope
from callfence.policygen.merging import merge_documents, unite
from callfence.policygen.recording.model import Observation, Recording, Run, recorded_values
from callfence.policygen.review.changes import SettingChange, changes
from callfence.tracer.abi import Arch, table

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Commands

SELF = "os.kill(os.getpid(), 0)"
CHILD = "p = subprocess.Popen(['sleep', '60']); p.{}; p.wait()"
FORK = "p = os.fork()\nif p == 0: os._exit(0)\n"
NESTED = "subprocess.run(['unshare', '-pf', sys.executable, '-c', 'import os; os.kill(1, 0)'], check=True)"
CASES = {
    "nobody": ("", ""),
    "itself": (SELF, "family"),
    "a child": (CHILD.format("terminate()"), "family"),
    "a child by its pidfd": (CHILD.format("poll(); signal.pidfd_send_signal(os.pidfd_open(p.pid), 15)"), "family"),
    "one that has ended": (f"{FORK}os.waitpid(p, 0)\ntry: os.kill(p, 0)\nexcept OSError: pass", "family"),
    "a zombie": (f"{FORK}os.waitid(os.P_PID, p, os.WEXITED | os.WNOWAIT)\nos.kill(p, 0)", "family"),
    "a group of its own": ("os.setsid(); os.kill(0, 0); os.killpg(os.getpid(), 0)", "family"),
    "a thread": ("signal.pthread_kill(threading.get_ident(), 0)", "family"),
    "the group it was started in": ("os.kill(0, 0)", "others"),
    "its parent": ("os.kill(os.getppid(), 0)", "others"),
    "its parent, after itself": (f"{SELF}; os.kill(os.getppid(), 0)", "others"),
    "its parent by a pidfd": ("f = os.pidfd_open(os.getppid()); signal.pidfd_send_signal(f, 0)", "others"),
    "the first process of a pid namespace": (f"{SELF}; {NESTED}", "family"),
    "everybody, as a user of its own": ("os.setresuid(4242, 4242, 4242)\ntry: os.kill(-1, 0)\nexcept OSError: pass", "others"),
    "its parent's executable": (f"{SELF}; os.readlink(f'/proc/{{os.getppid()}}/exe')", "others"),
    "its own executable": (f"{SELF}; os.readlink(f'/proc/{{os.getpid()}}/exe')", "family"),
}
IMPORTS = "import os, signal, subprocess, sys, threading\n"


def learn(commands: Commands, folder: Path, code: str, *flags: str) -> subprocess.CompletedProcess[bytes]:
    return commands.learn(folder / "it.policy", [sys.executable, "-c", IMPORTS + code], folder, *flags)


def signalled(folder: Path) -> list[str]:
    lines = map(json.loads, (folder / ".callfence" / "it.rec").read_text().splitlines())
    return [line["signals"] for line in lines if "signals" in line]


@pytest.mark.parametrize("whom", CASES)
def test_a_recording_tells_whom_a_program_signalled(whom: str, commands: Commands, tmp_path: Path) -> None:
    code, expected = CASES[whom]
    if os.geteuid() != 0 and ("4242" in code or NESTED in code):
        pytest.skip("a user, or a pid namespace, of its own takes root")
    done = learn(commands, tmp_path, code)
    assert signalled(tmp_path) == [expected], done.stderr
    has_line = "\nscope none " in (tmp_path / "it.policy").read_text()
    assert has_line == (expected == "others")
    assert (b"signals  " in done.stderr) == has_line
    assert (b": `scope none`" in done.stderr) == has_line


@pytest.mark.long
def test_a_run_that_signals_others_adds_the_line(commands: Commands, tmp_path: Path) -> None:
    """Although the policy allows the call: it is looked at while signals are to stay inside."""
    learn(commands, tmp_path, CHILD.format("kill()"))
    assert learn(commands, tmp_path, CHILD.format("kill()"), "--check").returncode == 0
    outside = CHILD.format("kill()") + "; signal.signal(15, signal.SIG_IGN); os.kill(os.getppid(), 15)"
    ignoring = ["sh", "-c", 'trap "" TERM; "$@"', "sh"]
    for flags, status in ((("--check",), 1), ((), 0)):
        command = [*ignoring, *commands.learning(tmp_path / "it.policy", *flags), sys.executable, "-c", IMPORTS + outside]
        done = commands.plain(command, tmp_path)
        assert (done.returncode, b"it signals other processes" in done.stderr) == (status, True), done.stderr
    assert "\nscope none " in (tmp_path / "it.policy").read_text()


@pytest.mark.long
def test_a_quiet_run_adds_the_line(commands: Commands, tmp_path: Path) -> None:
    """Where nothing is new, it reads no policy."""
    for code, has_line in ((f"import sys\n{SELF}", False), (f"{SELF}; sys.argv[1:] and os.kill(os.getppid(), 0)", True)):
        (tmp_path / "it.py").write_text(IMPORTS + code)
        for words in ([], ["others"][: int(has_line)]):
            commands.learn(tmp_path / "it.policy", [sys.executable, "it.py", *words], tmp_path, "-q")
        assert ("\nscope none " in (tmp_path / "it.policy").read_text()) == has_line


def test_a_line_that_a_person_wrote_stays(commands: Commands, tmp_path: Path) -> None:
    learn(commands, tmp_path, SELF)
    policy = tmp_path / "it.policy"
    policy.write_text(policy.read_text().replace("implied 1", "scope none\nimplied 1"))
    learn(commands, tmp_path, f"{SELF}; os.umask(0)")
    assert "scope none" in policy.read_text()


ITSELF, OTHERS, UNKNOWN = ({"signals": whom} for whom in ("family", "others", ""))
OWN_SOCKET, SOCKETS = ({"files": (("abstract sockets", whom, "/app"),)} for whom in ("family", "others"))


@pytest.mark.parametrize(
    ("before", "old", "new", "policy", "expected"),
    [
        (None, UNKNOWN, UNKNOWN, "read: allow", "signals"),
        (None, UNKNOWN, UNKNOWN, "kill: allow", ""),
        (None, UNKNOWN, UNKNOWN, "kill: log", ""),
        (None, UNKNOWN, UNKNOWN, "kill: sig == SIGTERM", ""),
        (None, UNKNOWN, UNKNOWN, "kill: deny", "signals"),
        (None, UNKNOWN, UNKNOWN, "kill: errno EPERM", "signals"),
        (None, UNKNOWN, UNKNOWN, "arch aarch64\ntkill: allow", ""),
        (None, UNKNOWN, ITSELF, "kill: allow", "signals"),
        (None, UNKNOWN, OTHERS, "read: allow", ""),
        ("read: allow", UNKNOWN, UNKNOWN, "kill: allow", ""),
        ("kill: allow", ITSELF, UNKNOWN, "kill: allow", "signals"),
        ("kill: allow", ITSELF, OTHERS, "kill: allow", ""),
        ("scope none\nread: allow", UNKNOWN, ITSELF, "kill: allow", ""),
        (None, UNKNOWN, OWN_SOCKET, "read: allow", "signals, abstract sockets"),
        (None, UNKNOWN, SOCKETS, "read: allow", "signals"),
        ("read: allow", UNKNOWN, OWN_SOCKET, "read: allow", "signals, abstract sockets"),
        ("read: allow", OWN_SOCKET, OWN_SOCKET, "read: allow", "signals"),
        ("scope signals, abstract sockets\nread: allow", OWN_SOCKET, UNKNOWN, "read: allow", "signals, abstract sockets"),
        ("scope abstract sockets\nread: allow", OWN_SOCKET, SOCKETS, "read: allow", ""),
    ],
)  # fmt: skip
def test_what_is_learned_of_runs(
    before: str | None, old: dict[str, Any], new: dict[str, Any], policy: str, expected: str
) -> None:
    """`new` was recorded after `old`, which `before` was learned from."""
    first, second = (Run(str(at), at, ("app",), 0, True)._replace(**run) for at, run in enumerate((old, new)))
    learned, written = (parse(text).policy if text else None for text in (before, policy))
    assert written is not None
    assert scope(Recording((first,), ()), Recording((first, second), ()), learned, written) == expected


@pytest.mark.parametrize(
    ("name", "registers", "expected"),
    [
        ("fcntl", (3, 8, 7), ""), ("fcntl", (3, 8 | 1 << 32, 7), ""), ("fcntl", (3, 15, 7), ""), ("ioctl", (3, 0x8901, 7), ""),
        ("fcntl", (3, 9, 7), "signals"), ("ioctl", (8, 3, 8), "signals"), ("read", (3, 8, 8), "signals"),
    ],
)  # fmt: skip
def test_signals_of_the_kernel_reach_whom_a_log_does_not_say(name: str, registers: tuple[int, ...], expected: str) -> None:
    made = event(name, *registers)
    call = table(Arch.X86_64).by_name[name]
    values = recorded_values(table(Arch.X86_64), made)
    seen = Observation(Arch.X86_64.audit, call.number, values, "/app", (1,), "?", made.arguments)
    recording = Recording((Run("a", 1, ("app",), 0, True),), (seen,))
    assert scope(Recording(), recording, None, parse("read: allow\n").policy) == expected


PARENT = "try: os.kill(os.getppid(), 0)\nexcept OSError as error: print(error.errno)\nelse: print('sent')"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [((), b"1\n"), (("--quiet-kernel",), b"1\n"), (("--scope", "none"), b"sent\n"), (("--audit",), b"sent\n")],
    ids=str,
)
def test_enforce_keeps_signals_inside(flags: tuple[str, ...], expected: bytes, commands: Commands, tmp_path: Path) -> None:
    policy = tmp_path / "it.policy"
    policy.write_text("default allow\nscope signals\n")
    command = [*commands.enforcing(policy, tmp_path / "log", *flags), sys.executable, "-c", IMPORTS + PARENT]
    if "--quiet-kernel" in flags:
        command = [word for word in command if word not in ("--log", tmp_path / "log")]
    for _ in range(2):  # compiled, then from the cache
        done = commands.plain(command, tmp_path)
        assert done.stdout == expected, done.stderr


def test_a_kernel_without_scopes_runs_the_program_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "it.policy").write_text("default allow\nscope signals, abstract sockets\n")
    start = "import sys; import callfence.enforcer.kernel as s; s.landlock_abi = lambda: 5\n"
    start += "from callfence.enforcing.command import main; sys.exit(main())"
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", start, "-p", "it.policy"]
    done = subprocess.run([*command, "true"], cwd=tmp_path, env=environment, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr.count(b"needs Linux 6.12")) == (0, 1)
    asked = [*command, "--scope", "signals", "true"]
    done = subprocess.run(asked, cwd=tmp_path, env=environment, capture_output=True, check=False, timeout=60)
    assert (done.returncode, b"needs version 6 of Landlock" in done.stderr) == (125, True)


WITH, WITHOUT = (parse(f"callfence 1\n{line}kill: allow\n", "it.policy") for line in ("", "scope none\n"))


def test_the_line_survives_a_round_trip() -> None:
    for text in ("", "scope none", "scope signals, abstract sockets", "scope abstract sockets"):
        document = parse(f"callfence 1\n{text}\nkill: allow\n", "it.policy")
        assert parse(document.text(), "it.policy").policy == document.policy
        assert [line for line in document.text().splitlines() if line.startswith("scope")] == [text] * bool(text)
    assert parse("scope signals\nkill: allow\n").policy == WITH.policy


def test_without_it_a_policy_is_wider() -> None:
    assert compare(WITH.policy, WITHOUT.policy).verdict is Verdict.WIDER
    assert compare(WITHOUT.policy, WITH.policy).verdict is Verdict.NARROWER
    (change,) = changes(WITH.policy, WITHOUT.policy)
    assert isinstance(change, SettingChange)
    assert (change.word, change.before, change.after) == ("scope", "signals", "none")
    assert changes(WITHOUT.policy, WITH.policy) == ()


def test_merges() -> None:
    assert unite(WITH, WITH).policy.scope == "signals"
    assert unite(WITH, WITHOUT).policy.scope == unite(WITHOUT, WITH).policy.scope == ""
    for base, ours, theirs in ((WITH, WITHOUT, WITH), (WITH, WITH, WITHOUT)):
        document, conflicts = merge_documents(base, ours, theirs)
        assert (document.policy.scope, conflicts) == ("", ())
    document, conflicts = merge_documents(WITHOUT, WITH, WITHOUT)
    assert (document.policy.scope, conflicts) == ("signals", ())


@pytest.mark.parametrize("name", ["oci", "systemd", "bwrap", "minijail"])
def test_an_export_tells_that_it_is_lost(name: str) -> None:
    lost = exported(name, WITH.policy, FormatOptions(name="it")).losses
    assert [one.direction for one in lost if "does not restrict signals" in one.what] == [Direction.WIDER]
    assert not [one for one in exported(name, WITHOUT.policy, FormatOptions(name="it")).losses if "signals" in one.what]


