"""`enforce --ask`: denied calls wait for an answer, one question a rule, and nothing runs that was not answered yes."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from calls import allowing_all
from terminal import Terminal

import callfence
from callfence.asking.listener import Question
from callfence.tracer.abi import COMPAT
from tests.enforcer.conftest import START, wait_until
from tests.enforcer.reporting.test_events import checked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.enforcer.conftest import Workplace

FLOOR = "read: allow\nwrite: allow\nexit_group: allow\n"
ERRNO = f"default errno EACCES\n{FLOOR}"
SOME = allowing_all().replace("\nchroot: allow\n", "\n").replace("seccomp: allow\n", "")
"""All calls but chroot, and the one by which a program has a listener of its own."""
CONNECT = "\nconnect: allow"
DENIED = "-13\n"
HERE = Path(__file__).parents[1]
HARNESS = HERE.parents[1] / "samples" / "agent" / "harness.py"


class Answerer:
    """A program that answers, of which a test decides each message."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ask"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._listener.settimeout(20)
        self._connection: socket.socket | None = None
        self._lines: Any = None

    def connected(self) -> socket.socket:
        if self._connection is None:
            self._connection, _ = self._listener.accept()
            self._connection.settimeout(20)
            self._lines = self._connection.makefile("rb")
        return self._connection

    def message(self) -> dict[str, Any]:
        self.connected()
        return json.loads(self._lines.readline())

    def answer(self, answer: str, **other: Any) -> dict[str, Any]:
        """Answer the next question, and return it."""
        question = self.message()
        assert question["type"] == "question"
        self.say({"id": question["id"], "answer": answer, **other})
        return question

    def say(self, fields: object) -> None:
        self.connected().sendall(json.dumps(fields).encode() + b"\n")

    def close(self) -> None:
        for each in (self._lines, self._connection, self._listener):
            if each is not None:
                each.close()
        self._lines = self._connection = None


@pytest.fixture
def answerer(tmp_path: Path) -> Iterator[Answerer]:
    made = Answerer(tmp_path)
    yield made
    made.close()


def ask(place: Workplace, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    return place.start(f"--ask=unix:{place.folder}/ask", "--log", "log", *arguments, **options)


def answers(place: Workplace) -> list[tuple[str, str | None]]:
    place.wait_for_helpers()
    checked(place.records())
    return [(record["answer"], record["who"]) for record in place.records() if record["event"] == "answered"]


@pytest.mark.parametrize(
    ("given", "output"),
    [
        (["once", "no"], ["pid", "-13"]),
        (["run"], ["pid", "pid"]),
        (["no"], ["-13", "-13"]),
        (["once", "once"], ["pid", "pid"]),
    ],
)
def test_each_answer(place: Workplace, answerer: Answerer, given: list[str], output: list[str]) -> None:
    place.policy(ERRNO)
    process = ask(place, place.calls(), "getppid", "getppid")
    for answer in given:
        question = answerer.answer(answer, name="me")
        assert [each["line"] for each in question["rule"]] == ["getppid: allow"]
        assert (question["takes_effect"], question["timeout"]) == ("now", 60)
        assert question["record"]["call"] == "getppid()"
        assert answerer.message() == {"version": 1, "type": "done", "id": question["id"], "answer": answer}
    printed, errors = process.communicate(timeout=20)
    assert ["-13" if line == "-13" else "pid" for line in printed.split()] == output, errors
    assert answers(place) == [(answer, "me") for answer in given]


@pytest.mark.parametrize("default", ["kill", "errno EACCES"])
def test_kill(place: Workplace, answerer: Answerer, default: str) -> None:
    place.policy(f"default {default}\n{FLOOR}")
    process = ask(place, place.calls(), "getppid", "getpid")
    answerer.answer("kill")
    assert process.communicate(timeout=20)[0] == ""
    assert process.returncode == -signal.SIGSYS
    assert actions(place) == ["kill"]


def actions(place: Workplace) -> list[str]:
    place.wait_for_helpers()
    return [record["action"] for record in place.records() if record["event"] == "denied"]


def test_no_is_what_the_policy_says(place: Workplace, answerer: Answerer) -> None:
    place.policy(f"default kill\n{FLOOR}")
    process = ask(place, place.calls(), "getppid")
    answerer.answer("no")
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGSYS
    place.wait_for_helpers()
    assert [record["event"] for record in place.records()] == ["start", "answered", "denied", "end"]


def test_other_calls_go_on_while_one_waits(place: Workplace, answerer: Answerer) -> None:
    place.policy(SOME, "sh.policy")
    wait = "i=0; while [ ! -e go ] && [ $i -lt 1000000 ]; do i=$((i+1)); done"  # it ends, whatever becomes of the test
    script = f"(chroot / true; echo first) & ({wait}; echo second); wait"
    command = ("-p", "sh.policy", "sh", "-c", script)
    process = ask(place, *command)
    question = answerer.message()
    (place.folder / "go").touch()
    assert process.stdout.readline() == "second\n"
    answerer.say({"id": question["id"], "answer": "no"})
    assert process.stdout.readline() == "first\n"
    answerer.close()
    process.communicate(timeout=20)


def test_what_a_policy_denies_explicitly_is_not_asked(place: Workplace, answerer: Answerer) -> None:
    place.policy(f"{ERRNO}getppid: deny\n")
    process = ask(place, place.calls(), "getppid")
    assert process.communicate(timeout=20)[0] == DENIED
    assert answers(place) == []


def test_a_time_out_is_no(place: Workplace, answerer: Answerer) -> None:
    place.policy(ERRNO)
    began = time.monotonic()
    process = ask(place, "--ask-timeout", "0.5", place.calls(), "getppid", "getppid", "wait")
    question = answerer.message()
    assert question["timeout"] == 0.5
    assert answerer.message() == {"version": 1, "type": "expired", "id": 1}
    answerer.say({"id": 1, "answer": "run"})
    assert answerer.message()["message"] == "no question of this number is open"
    assert process.communicate(timeout=20)[0] == DENIED * 2
    assert time.monotonic() - began >= 0.5
    assert answers(place) == [("no", "nobody, in time")]


def test_signals_come_while_a_call_waits_and_it_is_made_again(place: Workplace, answerer: Answerer) -> None:
    """As a call that blocks and is restarted; a handler that does not return ends the program at once."""
    place.policy(SOME, "py.policy")
    program = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b'handled\\n'))\n"
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])\n"
        "os.write(1, b'ready\\n')\n"
        "try: os.chroot('/')\n"
        "except OSError as error: print(error.strerror)\n"
        "else: print('done')\n"
    )
    process = ask(place, "-p", "py.policy", sys.executable, "-I", "-S", "-c", program)
    seen = []

    def handled() -> bool:
        return "handled\n" in seen

    thread = threading.Thread(target=lambda: seen.extend(process.stdout), daemon=True)
    thread.start()
    question = answerer.message()
    os.kill(process.pid, signal.SIGUSR1)
    time.sleep(0.3)
    answerer.say({"id": question["id"], "answer": "once"})
    threading.Thread(target=lambda: _repeat(answerer, "once"), daemon=True).start()  # if the call is made again just then
    thread.join(20)
    assert seen == ["ready\n", "handled\n", "done\n"], process.stderr.read()
    assert handled()
    process.communicate(timeout=20)


SENDS = """
import socket, sys
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try:
    made.connect(("127.0.0.1", int(sys.argv[1])))
    print(made.send(b"x"))
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize("given", ["once", "run"])
def test_whoever_grants_a_call_grants_no_host_by_that(place: Workplace, answerer: Answerer, given: str) -> None:
    place.policy(f"{SOME.replace(CONNECT, '')}udp send: none\n", "py.policy")
    assert CONNECT in SOME
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        process = ask(place, "-p", "py.policy", sys.executable, "-I", "-S", "-c", SENDS, str(port))
        assert [each["line"].split()[0] for each in answerer.answer(given)["rule"]] == ["connect:"]
        assert answerer.message()["type"] == "done"
        assert [each["line"] for each in answerer.answer("no")["rule"]] == [f"udp send 127.0.0.1: {port}"]
        assert process.communicate(timeout=20)[0] == "Permission denied\n"


def test_kill_for_a_host(place: Workplace, answerer: Answerer) -> None:
    place.policy(f"{SOME}udp send: none\n", "py.policy")
    process = ask(place, "-p", "py.policy", sys.executable, "-I", "-S", "-c", SENDS, "9")
    assert [each["line"] for each in answerer.answer("kill")["rule"]] == ["udp send 127.0.0.1: 9"]
    assert process.communicate(timeout=20)[0] == ""
    assert process.returncode == -signal.SIGSYS
    assert actions(place) == ["kill"]


@pytest.mark.only_on("x86_64")
@pytest.mark.parametrize("descriptor", [3, 4, 30])
def test_a_call_with_its_arguments_in_memory_is_judged_again(
    place: Workplace, answerer: Answerer, compile_c: Callable[..., Path], descriptor: int
) -> None:
    """asked.c: whatever the descriptor, which comes first in memory, as which call of socketcall(2) does in the registers."""
    place.policy(f"{SOME}udp send: none\narch {COMPAT}\nsocketcall: allow\n", "asked.policy")
    program = compile_c(HERE / "attacks" / "hosts" / "asked.c", "-w", "-pthread")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        process = ask(place, "-p", "asked.policy", str(program), str(descriptor), str(port))
        question = answerer.message()
        assert [each["line"] for each in question["rule"]] == ["udp send 127.0.0.1: 1"]
        assert question["record"]["call"].startswith("socketcall(call=SYS_SENDTO, ")
        assert process.stdin and process.stdout
        process.stdin.write("x")
        process.stdin.flush()
        assert process.stdout.readline() == "changed\n"
        answerer.say({"id": question["id"], "answer": "once"})
        assert answerer.message()["type"] == "done"
        assert [each["line"] for each in answerer.answer("no")["rule"]] == [f"udp send 127.0.0.1: {port}"]
        assert process.communicate(timeout=20)[0] == "EACCES\n"
        with pytest.raises(BlockingIOError):
            server.recv(9, socket.MSG_DONTWAIT)


def test_what_no_filter_can_judge_is_not_asked_about(place: Workplace, answerer: Answerer) -> None:
    """Rings connect, and openat2 opens, in memory: they fail as where a policy allows them."""
    denied = ("io_uring_setup", "openat2")
    some = "".join(line for line in SOME.splitlines(keepends=True) if not line.startswith(denied))
    place.policy(f"{some}udp send: none\npath /: read, execute\n")
    process = ask(place, "--ask-timeout", "1", place.calls(), "425,0,0", "437,0,0,0,0")
    assert process.communicate(timeout=20)[0] == "-38\n-38\n"
    assert answers(place) == []


# Whoever answers, lies or dies


def test_answers_that_are_none_are_errors_and_decide_nothing(place: Workplace, answerer: Answerer) -> None:
    place.policy(ERRNO)
    process = ask(place, place.calls(), "getppid", "getppid")
    question = answerer.message()
    for wrong, why in (
        ({"id": 99, "answer": "run"}, "no question of this number is open"),
        ({"id": True, "answer": "run"}, "`id` must be the question's number"),
        ({"id": question["id"], "answer": "yes"}, "`answer` must be one of once, run, always, no, kill"),
        ({"id": question["id"], "answer": "always"}, "this question takes only: once, run, no, kill"),
        ({"id": question["id"], "answer": "once", "reason": "x" * 2000}, "at most 1000 characters"),
        (["once"], "an answer is a JSON object"),
    ):
        answerer.say(wrong)
        told = answerer.message()
        assert (told["type"], why in told["message"]) == ("error", True), told
    for garbage in (b"no JSON", b"\0" * 100, b"\xff\xfe{\0"):  # JSON's other encodings would have to be imported
        answerer.connected().sendall(garbage + b"\n")
        assert answerer.message()["type"] == "error"
    answerer.say({"id": question["id"], "answer": "once"})
    assert answerer.message()["type"] == "done"
    second = answerer.message()
    answerer.say({"id": question["id"], "answer": "run"})  # again, to the first
    assert answerer.message()["message"] == "no question of this number is open"
    answerer.say({"id": second["id"], "answer": "no"})
    printed = process.communicate(timeout=20)[0].split()
    assert (printed[0] != "-13", printed[1]) == (True, "-13")


@pytest.mark.parametrize("how", ["closes", "says too much", "before the question"])
def test_whoever_answers_dies(place: Workplace, answerer: Answerer, how: str) -> None:
    place.policy(ERRNO)
    process = ask(place, place.calls(), "wait", "getppid", "getpid", "getppid")
    connection = answerer.connected()
    if how == "before the question":
        answerer.close()
        time.sleep(0.2)
    process.stdin.write("x")
    process.stdin.flush()
    if how != "before the question":
        answerer.message()
    if how == "says too much":
        with suppress(BrokenPipeError):
            connection.sendall(b"x" * (1 << 18))
    elif how == "closes":
        answerer.close()
    assert process.communicate(timeout=20)[0] == DENIED * 3
    place.wait_for_helpers()
    assert sum("nobody answers any more" in text for text in place.messages()) == 1


def test_an_answer_after_the_process_has_gone(place: Workplace, answerer: Answerer) -> None:
    place.policy(ERRNO)
    process = ask(place, place.calls(), "getppid")
    question = answerer.message()
    process.kill()
    process.wait(timeout=20)
    with suppress(BrokenPipeError):
        answerer.say({"id": question["id"], "answer": "run"})
    assert answerer.message()["type"] in ("done", "expired", "error")
    process.communicate()


@pytest.mark.parametrize("answer", ["once", "run", "no"])
def test_many_processes_that_ask_the_same_ask_once(place: Workplace, answerer: Answerer, answer: str) -> None:
    place.policy(SOME, "py.policy")
    program = (
        "import os\n"
        "children = []\n"
        "for _ in range(100):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        try: os.chroot('/')\n"
        "        except OSError: os._exit(1)\n"
        "        os._exit(0)\n"
        "    children.append(child)\n"
        "os.write(1, b'forked\\n')\n"
        "print(sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 for child in children))\n"
    )
    process = ask(place, "-p", "py.policy", sys.executable, "-I", "-S", "-c", program)
    question = answerer.message()
    assert process.stdout.readline() == "forked\n"
    time.sleep(1)  # they come to wait; those that come later are asked about again after `once`
    answerer.say({"id": question["id"], "answer": answer})
    threading.Thread(target=lambda: _repeat(answerer, answer), daemon=True).start()
    assert process.stdout.readline() == ("0\n" if answer == "no" else "100\n")
    process.communicate(timeout=20)
    given = [each for each in answers(place) if each[0] == answer]
    assert len(given) == 1 if answer != "once" else len(given) < 60


def _repeat(answerer: Answerer, answer: str) -> None:
    try:
        while True:
            message = answerer.message()
            if message["type"] == "question":
                answerer.say({"id": message["id"], "answer": answer})
    except (OSError, ValueError, AttributeError):
        return


# What is written


def test_always_writes_the_policy_with_reason_and_name_within_the_baseline(place: Workplace, answerer: Answerer) -> None:
    place.policy(f"# mine\n{ERRNO}")
    place.policy(f"default kill\n{FLOOR}getppid: allow\n", "base.policy")
    process = ask(place, "--within", "base.policy", place.calls(), "getppid", "getpid", "getppid")
    answerer.answer("always", reason="it is\nharmless", name="me")
    assert answerer.message()["type"] == "done"
    question = answerer.answer("always", name="me")
    told = answerer.message()
    why = "the policy of --within does not grant all that this line would: getpid: allow"
    assert (told["type"], told["message"]) == ("error", why)
    answerer.say({"id": question["id"], "answer": "no"})
    printed = process.communicate(timeout=20)[0].split()
    assert [line == "-13" for line in printed] == [False, True, False]
    text = (place.folder / "calls.policy").read_text()
    assert text.startswith("# mine\n")
    assert "getppid: allow" in text
    assert "# why: it is harmless (me)" in text
    assert "getpid:" not in text
    assert place.enforce(place.calls(), "getppid").stdout != DENIED


def test_files_count_from_the_next_start(place: Workplace, answerer: Answerer, build: Callable[..., Path]) -> None:
    program = build("files", "-static")
    (place.folder / "key").write_text("text")
    place.policy(f"default allow\npath {program}: read, execute\n", "files.policy")
    place.policy("default allow\n", "base.policy")
    process = ask(place, "--within", "base.policy", "-p", "files.policy", str(program), "read:key")
    assert process.communicate(timeout=20)[0] == "EACCES\n"
    question = answerer.message()
    assert (question["takes_effect"], question["answers"]) == ("next start", ["always", "no"])
    assert [each["line"] for each in question["rule"]] == ["path ./key: read"]
    answerer.say({"id": question["id"], "answer": "always"})
    assert answerer.message()["type"] == "done"
    assert place.enforce("-p", "files.policy", str(program), "read:key").stdout == "ok\n"


def test_a_look_up_is_granted_at_once(place: Workplace, answerer: Answerer) -> None:
    """The program asks its name server again."""
    place.policy(f"{SOME}tcp connect other.example: 443\n", "names.policy")
    place.policy("default allow\n", "base.policy")
    script = "import socket\ntry: socket.getaddrinfo('x.example', 443)\nexcept OSError: pass"
    process = ask(place, "--within", "base.policy", "-p", "names.policy", sys.executable, "-c", script)
    question = answerer.message()
    assert [each["line"] for each in question["rule"]] == ["tcp connect x.example: 443"]
    assert (question["takes_effect"], question["answers"]) == ("now", ["run", "always", "no"])
    answerer.say({"id": question["id"], "answer": "no"})
    process.communicate(timeout=60)
    assert answers(place) == [("no", "a program")]


def deep(folder: Path, character: bytes) -> bytes:
    """The path of a new file that is as long as paths can be."""
    path = os.fsencode(folder)
    place = os.open(folder, os.O_PATH)
    while len(path) < 3800:
        name = character * 240
        os.mkdir(name, dir_fd=place)
        inner = os.open(name, os.O_PATH, dir_fd=place)
        os.close(place)
        place, path = inner, path + b"/" + name
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=place))
    os.close(place)
    return path + b"/f"


def test_a_question_that_is_too_long_is_a_no_and_others_are_asked(
    place: Workplace, answerer: Answerer, build: Callable[..., Path]
) -> None:
    """Names of files in each of several policies are longer than a message between processes may be."""
    program = build("files", "-static")
    options = []
    for name, calls in (("1.policy", SOME), *((f"{number}.policy", "default allow\n") for number in (2, 3, 4))):
        place.policy(f"{calls}path {program}: read, execute\n", name)
        options += ["-p", name]
    names = [deep(place.folder, character) for character in (b"\xff", b"\xfe")]
    process = ask(place, *options, str(program), b"rename:" + names[0] + b"," + names[1], "chroot:/")
    answerer.answer("once")
    assert process.communicate(timeout=20)[0] == "EACCES\nok\n"
    assert answers(place) == [("no", None), ("once", "a program")]


@pytest.mark.long
def test_a_thousand_questions_about_files_leave_those_about_calls(
    place: Workplace, answerer: Answerer, build: Callable[..., Path]
) -> None:
    program = build("files", "-static")
    names = [f"file{number}" for number in range(1010)]
    for name in names:
        (place.folder / name).touch()
    place.policy(f"{SOME}path {program}: read, execute\n", "files.policy")
    process = ask(place, "-p", "files.policy", str(program), *[f"read:{name}" for name in names], "chroot:/")
    while (question := answerer.message())["takes_effect"] != "now":
        pass
    answerer.say({"id": question["id"], "answer": "once"})
    assert process.communicate(timeout=20)[0].split()[-1] == "ok"


# Starts


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--ask=unix:none"], "the program at none cannot be asked: No such file or directory"),
        (["--ask=file"], "--ask=file: write --ask for the terminal, --ask=unix:PATH or --ask=fd:NUMBER"),
        (["--ask=unix:"], "write --ask for the terminal"),
        (["--ask=fd:x"], "write --ask for the terminal"),
        (["--ask=fd:99"], "the program at fd:99 cannot be asked: Bad file descriptor"),
        (["--ask=fd:99999999999"], "the program at fd:99999999999 cannot be asked: Bad file descriptor"),
        (["--ask"], "the terminal (/dev/tty) cannot be asked"),
        (["--ask=unix:ask", "--ask-timeout", "soon"], "--ask-timeout soon: the value must be a number of seconds above 0"),
        (["--ask=unix:ask", "--ask-timeout", "-1"], "--ask-timeout -1: the value must be"),
        (["--ask=unix:ask", "--within", "none.policy"], "--within none.policy: No such file or directory"),
        (["--within", "calls.policy"], "--within requires --ask"),
        (["--ask-timeout", "1"], "--ask-timeout requires --ask"),
        (["--ask=unix:ask", "--audit"], "--audit denies nothing that --ask could ask about"),
        (["--ask=unix:ask", "--quiet-kernel"], "--ask needs the helper process"),
        (["--ask=unix:ask", "-p", "phased.policy"], "--ask does not work with phases"),
    ],
)
def test_where_nobody_can_be_asked_nothing_runs(place: Workplace, answerer: Answerer, options: list[str], reason: str) -> None:
    place.policy(ERRNO)
    phases = "phase serving after getpid\ngetpid: allow\nbind: allow until serving\n"
    place.policy(f"default errno EACCES\n{phases}{FLOOR}", "phased.policy")
    done = place.enforce(*options, place.calls(), "getppid", under=("setsid", "--wait"))
    assert (done.returncode, done.stdout) == (125, "")
    assert reason in done.stderr
    assert answerer.path.exists()


# The terminal


@pytest.fixture
def terminal(place: Workplace) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*words: str) -> Terminal:
        opened.append(Terminal([sys.executable, "-c", f"{START}  # {place.folder}", *words], place.folder))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def until(screen: Terminal, pattern: str) -> str:
    """What the terminal shows up to a pattern."""
    found = screen.expect(pattern)
    return found.string[: found.end()]


def letters(shown: str) -> str:
    """The letters that a yes takes."""
    return re.findall(r"a yes    takes (\w{3}) after it", shown)[-1]


def test_a_person_is_asked_and_shown_what_is_dangerous(place: Workplace, terminal: Callable[..., Terminal]) -> None:
    place.policy(ERRNO)
    screen = terminal("--ask", place.calls(), "ptrace,0,0,0,0", "getppid")
    shown = until(screen, r"\[\?\].*: ")
    assert "rule     ptrace: " in shown
    assert "danger" in shown
    screen.send("what\n")
    assert "deny it, and do not ask again" in until(screen, r"\[\?\]: ")
    screen.send("n\n")
    shown = until(screen, r"rule     getppid: allow[\s\S]*\[\?\].*: ")
    assert f", as in `once {letters(shown)}`" in shown
    screen.send("always\n")
    other = until(screen, r"\[\?\]: ")
    assert letters(other) != letters(shown)
    screen.send(f"always {letters(other)}\n")
    until(screen, "reason .*: ")
    screen.send("it asks for its parent\n")
    wait_until(lambda: "# why: it asks for its parent (" in (place.folder / "calls.policy").read_text())


def test_a_program_cannot_type_the_answer(place: Workplace, terminal: Callable[..., Terminal]) -> None:
    place.policy(f"{ERRNO}ioctl: allow\n")
    letter = place.folder / "letter"
    screen = terminal("--ask", place.calls(), "ioctl,0,21522,0", "getppid")  # TIOCSTI
    assert "-1" in until(screen, r"\[\?\].*: ")
    screen.send("n\n")
    until(screen, "-13")
    assert not letter.exists()


def test_what_was_typed_before_a_question_is_no_answer(place: Workplace, terminal: Callable[..., Terminal]) -> None:
    """The program has asked for it, perhaps; and before that it gets what is typed."""
    place.policy(ERRNO)
    screen = terminal("--ask", place.calls(), "wait", "getppid")
    screen.send("run\nrun\n")
    assert "danger" not in until(screen, r"\[\?\].*: ")
    screen.send("n\n")
    until(screen, "-13")


def test_an_answer_is_a_whole_line(place: Workplace, terminal: Callable[..., Terminal]) -> None:
    """Also if the program has switched off that the terminal waits for one."""
    place.policy(ERRNO)
    screen = terminal("--ask", place.calls(), "getppid")
    until(screen, r"\[\?\].*: ")
    attributes = termios.tcgetattr(screen._master)
    attributes[3] &= ~termios.ICANON
    termios.tcsetattr(screen._master, termios.TCSANOW, attributes)
    screen.send("r")
    time.sleep(0.3)  # it would be the answer
    screen.send("ight\n")
    assert "deny it, and do not ask again" in until(screen, r"\[\?\]: ")
    screen.send("n\r")
    until(screen, "-13")


@pytest.mark.parametrize(
    ("typed", "erases", "is_answer"),
    # w: neither in `once` nor among the letters that a yes takes
    [("no", "n", False), ("kill", "k", False), ("o", "w", False), ("on", "w", False), ("onc", "w", True)],
)
def test_what_is_left_of_a_refusal_grants_nothing(
    place: Workplace, terminal: Callable[..., Terminal], typed: str, erases: str, is_answer: bool
) -> None:
    """The program may set the key that erases, or read a part of what is typed."""
    place.policy(ERRNO)
    screen = terminal("--ask", place.calls(), "getppid")
    proof = letters(until(screen, r"\[\?\].*: "))
    attributes = termios.tcgetattr(screen._master)
    attributes[6][termios.VERASE] = erases.encode()
    termios.tcsetattr(screen._master, termios.TCSANOW, attributes)
    screen.send(f"{typed} {proof}\n" if is_answer else f"{typed}\n")
    if is_answer:
        until(screen, r"(?m)^\d+\r\n")
    else:
        assert "deny it, and do not ask again" in until(screen, r"\[\?\]: ")
        attributes[6][termios.VERASE] = b"\x7f"
        termios.tcsetattr(screen._master, termios.TCSANOW, attributes)
        screen.send("no\n")
        until(screen, "-13")


def test_the_terminal_grants_nothing_that_the_program_has_it_type(
    place: Workplace, terminal: Callable[..., Terminal], build: Callable[..., Path]
) -> None:
    """Terminals report where the cursor is, as `ESC [ 1 ; 1 R`.  By keys that the program sets, `R` is left of that: `run`."""
    place.policy(SOME, "types.policy")
    screen = terminal("--ask", "-p", "types.policy", str(build("types")))
    assert "chroot" in until(screen, r"\[\?\].*: ")
    for _ in range(3):
        screen.expect(r"\x1b\[6n")
        screen.send("\x1b[1;1R")
    assert "a yes " in until(screen, r"\[\?\]: ")
    screen.send("no\n")
    assert "not answered" not in until(screen, "-1 ")


def test_letters_cannot_be_guessed(place: Workplace, terminal: Callable[..., Terminal]) -> None:
    place.policy(ERRNO)
    screen = terminal("--ask", place.calls(), "getppid", "getuid")
    until(screen, r"\[\?\].*: ")
    for _ in range(9):
        screen.send("run aaa\n")
        until(screen, r"\[\?\]: ")
    screen.send("run aaa\n")
    assert "there is only a no" in until(screen, "-13")
    proof = letters(until(screen, r"rule     getuid: allow[\s\S]*\[\?\].*: "))
    screen.send(f"run {proof}\n")
    until(screen, "-13")


@pytest.mark.long
def test_a_program_in_the_background_takes_nothing_that_is_typed_for_the_shell(place: Workplace) -> None:
    """Its question is open until its time is over, or until the program is in the foreground again."""
    place.policy(ERRNO)
    words = [sys.executable, "-c", f"{START}  # {place.folder}", "--ask", "--ask-timeout", "6", place.calls(), "getppid"]
    (place.folder / "start.sh").write_text(shlex.join(words))
    screen = Terminal(["bash", "--norc", "-i"], place.folder)
    screen.prompt()
    screen.send("sh ./start.sh &\n")
    shown = until(screen, r"\[\?\].*: ")
    for number in range(5):
        screen.send(f"echo typed{number}\n")
        found = screen.expect(f"typed{number}\r", 5)
        shown += found.string[: found.end()]
    while "not answered: no" not in shown or "-13" not in shown:  # in either order
        shown += until(screen, "\n")
    screen.close()


def test_a_terminal_that_the_program_has_stopped_holds_no_question_open(place: Workplace) -> None:
    place.policy(f"{ERRNO}ioctl: allow\n")
    words = [sys.executable, "-c", f"{START}  # {place.folder}", "--ask", "--ask-timeout", "1", place.calls()]
    stop = f"ioctl,0,{termios.TCXONC},{termios.TCOOFF}"
    (place.folder / "printed").touch()
    (place.folder / "start.sh").write_text(f"exec {shlex.join([*words, stop, 'getppid'])} > printed")
    screen = Terminal(["sh", "./start.sh"], place.folder)
    wait_until(lambda: (place.folder / "printed").read_text() == "0\n-13\n")
    screen.close()


def test_what_the_program_has_read_holds_no_question_open(place: Workplace) -> None:
    """It may read a line after that was seen, and before it is read here."""
    script = "from callfence.asking.terminal import Terminal; print(Terminal()._part())"
    screen = Terminal([sys.executable, "-c", script], place.folder)
    assert screen.expect("None", 20)
    screen.close()


def test_a_call_that_waits_is_asked_about_before_files(
    place: Workplace, terminal: Callable[..., Terminal], build: Callable[..., Path]
) -> None:
    """Else a program could have a person answer a thousand questions first, of which none is about this start."""
    program = build("files", "-static")
    for name in "abc":
        (place.folder / name).touch()
    place.policy(f"{SOME}path {program}: read, execute\n", "files.policy")
    screen = terminal("--ask", "-p", "files.policy", str(program), "read:a", "read:b", "read:c", "chroot:/")
    assert "rule     path ./a: read" in until(screen, r"\[\?\].*: ")
    time.sleep(0.5)  # until chroot waits
    screen.send("no\n")
    assert "rule     chroot: allow" in until(screen, r"\[\?\].*: ")
    screen.send("no\n")


def test_a_person_is_asked_about_each_command_of_a_shell(place: Workplace, terminal: Callable[..., Terminal]) -> None:
    """The shell makes a group of processes for each, and only the one in the foreground may read the terminal."""
    place.policy(SOME.replace("getpriority: allow\n", ""), "shell.policy")
    screen = terminal("--ask", "-p", "shell.policy", "bash", "--norc", "-i")
    screen.prompt()
    for answer in ("once", "no"):
        screen.send(f"{place.calls()} getpriority,0,0\n")
        proof = letters(until(screen, r"\[\?\].*: "))
        assert os.tcgetpgrp(screen._master) != screen._process.pid
        screen.send(f"{answer} {proof}\n" if answer == "once" else "no\n")
        screen.expect(r"(?m)^\d+\r" if answer == "once" else r"(?m)^-1\r")
        screen.prompt()


# The Python API


def test_nobody_else_answers_for_a_harness(place: Workplace) -> None:
    """There is no name by which a confined program could be asked instead; and the program does not inherit the socket."""
    place.policy("default allow\n", "all.policy")
    code = "for number in range(3, 1000):\n try: print(os.readlink(f'/proc/self/fd/{number}'))\n except OSError: pass"
    place.environment["TMPDIR"] = str(place.folder / "temporary")
    (place.folder / "temporary").mkdir()
    settings = {"cwd": place.folder, "env": place.environment, "capture_output": True, "text": True, "timeout": 60}
    words = [sys.executable, "-I", "-S", "-c", f"import os\n{code}"]
    done = callfence.run(words, "all.policy", lambda _: "no", **settings)
    assert (done.stdout, done.stderr) == ("", "")
    assert [*(place.folder / "temporary").iterdir()] == []


def test_a_listener_answers_programs_that_are_run(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    place.policy(ERRNO)
    asked: list[callfence.Question] = []

    def decide(question: callfence.Question) -> str | tuple[str, str]:
        asked.append(question)
        if question.lines == ("getpid: allow",):
            raise ValueError("what")
        return ("no", "too much") if question.danger else "run"

    settings = {"cwd": place.folder, "env": place.environment, "capture_output": True, "text": True, "timeout": 60}
    words = [place.calls(), "getppid", "getpid", "ptrace,0,0,0,0"]
    done = callfence.run(words, "calls.policy", decide, name="test", options=["--log", "log"], **settings)
    first, *rest = done.stdout.split()
    assert (first != "-13", rest) == (True, ["-13", "-13"]), done.stderr
    assert [question.lines[0].partition(":")[0] for question in asked] == ["getppid", "getpid", "ptrace"]
    assert asked[-1].danger.startswith("it ")
    wait_until(lambda: len([r for r in place.records() if r["event"] == "end"]) == 1)
    assert [(r["answer"], r["who"]) for r in place.records() if r["event"] == "answered"] == [
        ("run", "test"), ("no", "test"), ("no", "test"),
    ]  # fmt: skip


def test_the_harness_of_the_samples(place: Workplace) -> None:
    place.policy(ERRNO)
    words = [sys.executable, str(HARNESS), "calls.policy", place.calls(), "getppid", "ptrace,0,0,0,0"]
    settings = {"cwd": place.folder, "env": place.environment, "capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run(words, check=False, **settings)
    first, second = done.stdout.split()
    assert (first != "-13", second) == (True, "-13"), done.stderr
    assert "to the model: `getppid()` was denied. Why does the command need it?" in done.stderr


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("getppid: allow", "run"), ("arch i386\nbpf: cmd == BPF_MAP_CREATE", "no"), ("udp send 192.0.2.1: 53", "no"),
        ("udp send api.example.org: 443", "run"), ("tcp connect: 443", "no"), ("unix connect /run/docker.sock", "no"),
    ],
)  # fmt: skip
def test_the_harness_asks_its_model_about_no_other_host(line: str, answer: str) -> None:
    decide = runpy.run_path(str(HARNESS))["decide"]
    rule = ({"file": "it.policy", "line": line, "risk": None},)
    given = decide(Question(rule, {"call": "x()"}, ("once", "run", "no", "kill"), "now"))
    assert (given if isinstance(given, str) else given[0]) == answer
