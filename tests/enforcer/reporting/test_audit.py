"""Denied files and ports from the kernel's audit records: which are the program's own, what the log has of them, and what is
said of those that are lost."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from callfence.enforcer.kernel import landlock_abi
from callfence.enforcer.reporting import audit
from callfence.tracer.linux import LANDLOCK_RECORDS

GET, SET = 1000, 1001  # linux/audit.h
ENABLED, BACKLOG_LIMIT = 1, 0x10  # AUDIT_STATUS_*
LOCK = "/tmp"  # a folder that is locked, for two tests at once would restore each other's state
FLOOD = 20_000
SHELL = "default allow\npath /usr: read, execute\npath /lib: read, execute\npath /lib64: read\npath /etc: read\n"


def request(kind, content=b""):
    """Send a request to the kernel's audit, and return the content of its answer.  Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9) as asked:
        asked.settimeout(5)
        asked.send(struct.pack("=IHHII", 16 + len(content), kind, 5, 1, 0) + content)  # NLM_F_REQUEST | NLM_F_ACK
        while True:
            answer = asked.recv(1 << 14)
            found = struct.unpack("=H", answer[4:6])[0]
            if found == 2 and (number := -struct.unpack("=i", answer[16:20])[0]):
                raise OSError(number, os.strerror(number))
            if found == kind or (found == 2 and kind != GET):
                return answer[16:]


def state():
    """Return whether audit is on, and the most records that wait."""
    words = struct.unpack("=11I", request(GET)[:44])
    return words[1], words[5]


def change(enabled, limit):
    words = [0] * 11
    words[0], words[1], words[5] = ENABLED | BACKLOG_LIMIT, enabled, limit
    request(SET, struct.pack("=11I", *words))


@pytest.fixture
def on():
    """Audit is on, and is afterwards what it was before."""
    if os.geteuid() or landlock_abi() < LANDLOCK_RECORDS:
        pytest.skip("needs root and Landlock's ABI 7 (Linux 6.15)")
    lock = os.open(LOCK, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            before = state()
            change(1, 8192)
        except OSError as error:
            pytest.skip(f"audit cannot be turned on here: {error}")
        yield
        change(*before)
    finally:
        os.close(lock)


@pytest.fixture
def run(place, build, on):
    """run(lines, *operations) -> the log's records, without the first, which says where they come from."""
    for folder in ("data/inner", "other"):
        (place.folder / folder).mkdir(parents=True)
    for name in ("data/a", "data/b", "other/a", "data/inner/c", 'data/odd "\N{BULLET}" name'):
        (place.folder / name).write_text("text")
    program = build("files", "-static")

    def ran(lines, *operations, options=()):
        place.policy(f"default allow\npath {program}: read, execute\n{lines}", "files.policy")
        done = place.enforce("-p", "files.policy", "--log", "log", *options, program, *operations)
        assert (done.returncode, done.stderr) == (0, "")
        return read(place)

    return ran


def read(place):
    place.wait_for_helpers()
    start, first, *rest = place.records()
    assert (start["event"], first["level"], first["message"]) == ("start", "note", audit.NOTE)
    return rest[:-1] if rest[-1]["event"] == "end" else rest


def lines(records):
    return [line for record in records for line in record.get("ungranted", [])]


DENIALS = (
    ("path ./data: read", "read:other/a", ["path ./other/a: read"]),
    ("path ./other: read", "list:data", ["path ./data: list"]),
    ("path ./data: read", "write:data/a", ["path ./data/a: write"]),
    ("path ./data: read", "truncate:data/a", ["path ./data/a: write"]),
    ("path ./data: write", "create:data/n", ["path ./data: create"]),
    ("path ./data: read", "mkdir:data/n", ["path ./data: create"]),
    ("path ./data: read", "unlink:data/a", ["path ./data: remove"]),
    ("path ./data: read", "rename:data/a,data/b", ["path ./data: create, remove"]),
    ("path ./data: create, remove", "rename:data/a,data/inner/n", ["path ./data: move", "path ./data/inner: move"]),
    ("path ./data: read", "symlink:data/n", ["path ./data: symlink"]),
    ("path ./data: read", "fifo:data/n", ["path ./data: fifo"]),
    ("path ./data: read", "socket:data/n", ["path ./data: socket"]),
    ("path ./data: read", "read:/proc/self/status", ["path /proc/self/status: read"]),
    ("path ./data: read", "read:/proc/2/status", ["path /proc: read"]),
    ("path ./other: read", 'read:data/odd "\N{BULLET}" name', ['path "./data/odd \\"\N{BULLET}\\" name": read']),
    ("tcp connect: 443", "connect:9", ["tcp connect: 9"]),
    ("tcp bind: 443", "bind:0", ["tcp bind: 0"]),
)


@pytest.mark.parametrize(("granted", "operation", "expected"), DENIALS, ids=[row[1] for row in DENIALS])
def test_each_denial_is_a_record_with_the_line_that_would_grant_it(run, granted, operation, expected):
    records = run(granted, operation)
    assert lines(records) == expected
    for record in records:
        (allow,) = record["allow"]
        assert (allow["file"], allow["line"]) == ("files.policy", record["ungranted"][0])
        assert record["action"] == ("errno EXDEV" if record["ungranted"][0].endswith(": move") else "errno EACCES")
        names = ("call", "arch", "number", "arguments", "pid", "executable", "site")
        assert [record[name] for name in names] == [None] * len(names)


def test_repetitions_are_counted(run):
    records = run("path ./data: read", *["read:other/a"] * 20, "read:data/a")
    first, *_, last = [(record["ungranted"], record["count"]) for record in records]
    assert (first, last) == ((["path ./other/a: read"], 1), (["path ./other/a: read"], 20))


def test_what_no_line_grants_is_a_note(place, on):
    place.policy(f"scope signals\n{SHELL}")
    place.enforce("-p", "calls.policy", "--log", "log", "sh", "-c", f"kill -0 {os.getpid()}")
    (record,) = read(place)
    assert record["message"] == "denied by Landlock, and no line about files or ports grants it: scope.signal (1 times)"


def test_the_log_becomes_a_policy(run, place, build):
    run("path ./data: read\ntcp connect: 443", "read:other/a", "connect:9")
    words = [sys.executable, "-m", "callfence", "allow", "files.policy", "--log", "log"]
    done = subprocess.run(words, cwd=place.folder, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    text = (place.folder / "files.policy").read_text()
    assert "path ./other/a: read\n" in text
    assert "tcp connect: 9, 443\n" in text
    (place.folder / "log").unlink()
    done = place.enforce("-p", "files.policy", "--log", "log", build("files", "-static"), "read:other/a")
    assert (done.stdout, read(place)) == ("ok\n", [])


def test_each_policy_has_its_denials(run, place, build):
    place.policy(f"default allow\npath {build('files', '-static')}: read, execute\npath ./other: read\n", "two.policy")
    records = run("path ./data: read\npath ./other: read", "read:data/a", "read:data/inner/c", options=("-p", "two.policy"))
    assert [record["allow"][0]["file"] for record in records] == ["two.policy", "two.policy"]
    (place.folder / "log").unlink()
    records = run("path ./data: read", "read:other/a", options=("-p", "two.policy"))
    assert [record["allow"][0]["file"] for record in records] == ["files.policy"]


@pytest.mark.parametrize("arm", ["now", "exec", "entry"])
def test_all_moments(run, arm):
    assert lines(run("path ./data: read", "read:other/a", options=("--arm", arm))) == ["path ./other/a: read"]


@pytest.mark.long
def test_the_helper_is_not_notified_of_allowed_opens(place, on):
    (place.folder / "a").write_text("text")
    place.policy(f"{SHELL}path ./a: read\n")
    process = place.start("-p", "calls.policy", "--log", "log", "sh", "-c", "echo ready; read x; cat a")
    assert process.stdout.readline() == "ready\n"
    helpers = place.helpers()
    for helper in helpers:
        os.kill(helper, signal.SIGSTOP)
    try:
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.read(4) == "text"
    finally:
        for helper in helpers:
            with suppress(ProcessLookupError):  # the helper that goes on ends its stand-in
                os.kill(helper, signal.SIGCONT)
        process.communicate(timeout=20)


SELF_CONFINED = """
import ctypes, os, struct, sys
call = ctypes.CDLL(None).syscall
ruleset = call(444, struct.pack("=QQ", 1 << 2, 0), 16, 0)
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
assert call(446, ruleset, 0) == 0
try:
    open("/etc/passwd")
except PermissionError:
    print("denied")
"""


def test_domains_of_others_are_not_reported(place, on):
    """Neither one that the program makes, in the same process, nor another program's."""
    python = os.path.realpath(sys.executable)
    prefix = Path(python).parent.parent
    own = "" if str(prefix) == "/usr" else f"path {prefix}: read, execute\n"
    place.policy(f"{SHELL}{own}path /proc: read\n")
    process = place.start("-p", "calls.policy", "--log", "log", "sh", "-c", f'read x; exec {python} -I -c "$0"', SELF_CONFINED)
    outside = subprocess.run([python, "-c", SELF_CONFINED], capture_output=True, text=True, check=True)
    assert (outside.stdout, process.communicate("\n", timeout=20)[0]) == ("denied\n", "denied\n")
    assert lines(read(place)) == []


DAEMON = """
import os, socket, struct, sys
def ask(pid):
    words = [4, 0, 0, pid, *[0] * 7]  # AUDIT_STATUS_PID
    daemon.send(struct.pack("=IHHII", 60, 1001, 5, 1, 0) + struct.pack("=11I", *words))
daemon = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9)
daemon.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
ask(os.getpid())
print("ready", flush=True)
sys.stdin.readline()
ask(0)
daemon.settimeout(1)
count = 0
try:
    while message := daemon.recv(1 << 14):
        count += struct.unpack("=H", message[4:6])[0] == 1423
except TimeoutError:
    print(count)
"""


def test_an_audit_daemon_takes_nothing_away(run):
    with subprocess.Popen([sys.executable, "-c", DAEMON], stdin=-1, stdout=-1, text=True) as daemon:
        assert daemon.stdout.readline() == "ready\n"
        records = run("path ./data: read", "read:other/a")
        assert int(daemon.communicate("\n", timeout=20)[0]) >= 2
    assert lines(records) == ["path ./other/a: read"]


@pytest.mark.long
def test_what_is_lost_is_counted(place, build, on):
    program = build("files", "-static")
    (place.folder / "a").write_text("text")
    place.policy(f"{SHELL}path {program}: read, execute\n")
    change(1, 8)
    # At the end there has to be room for the record that has the count.
    flood = ["sh", "-c", '"$0" "$@"; sleep 5', program, *["read:a"] * FLOOD]
    done = place.enforce("-p", "calls.policy", "--log", "log", *flood)
    assert done.stdout == "EACCES\n" * FLOOD
    records = read(place)
    counts = {record["ungranted"][0]: record["count"] for record in records if "ungranted" in record}
    (message,) = (record["message"] for record in records if "message" in record)
    missing, _, text = message.partition(" ")
    assert text == "denials of files or ports are not in this log: the kernel's audit lost their records"
    assert int(missing) > 0
    assert FLOOD <= sum(counts.values()) + int(missing) < FLOOD + 10  # the shell's own


def test_the_stand_in_goes_on(place, on):
    for name in "ab":
        (place.folder / name).write_text("text")
    place.policy(f"scope signals\n{SHELL}")
    loop = "for name in a b; do : < $name; echo; read x; done"
    process = place.start("-p", "calls.policy", "--log", "log", "bash", "-c", loop)
    process.stdout.readline()
    helper = place.helper()
    end = time.monotonic() + 20
    while "./a" not in (place.folder / "log").read_text():
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(helper, signal.SIGKILL)
    process.communicate("\n\n", timeout=20)
    records = read(place)
    assert [line for line in lines(records) if line.startswith("path ./")] == ["path ./a: read", "path ./b: read"]
    assert [record["message"] for record in records if "lost their" in record.get("message", "")] == []


@pytest.mark.parametrize("options", [("--explain",), ("--audit",)])
def test_the_helper_reports_if_it_is_asked_to(run, place, options):
    with pytest.raises((AssertionError, KeyError)):
        run("path ./data: read", "read:other/a", options=options)
    (record,) = place.denials()
    assert (record["call"].partition("(")[0], record["ungranted"]) == ("openat", ["path ./other/a: read"])


@pytest.mark.long
def test_a_rule_that_excludes_records_is_noticed(run):
    # struct audit_rule_data: exclude (5), always (2), one field, AUDIT_MSGTYPE (12) == 1423 (AUDIT_EQUAL)
    parts = [[5, 2, 1], [0] * 64, [12, *[0] * 63], [1423, *[0] * 63], [0x40000000, *[0] * 63], [0]]
    rule = struct.pack("=260I", *(word for part in parts for word in part))
    request(SET + 10, rule)  # AUDIT_ADD_RULE
    try:
        (record,) = run("path ./data: read", "read:other/a")
    finally:
        request(SET + 11, rule)  # AUDIT_DEL_RULE
    assert record["message"] == audit.ABSENT


def test_the_helper_reports_in_another_network_namespace(place, on):
    (place.folder / "a").write_text("text")
    place.policy(SHELL)
    place.enforce("-p", "calls.policy", "--log", "log", "cat", "a", under=("unshare", "--net"))
    place.wait_for_helpers()
    records = place.denials()
    assert [record["call"].partition("(")[0] for record in records if record["ungranted"] == ["path ./a: read"]] == ["openat"]


def test_the_helper_reports_while_audit_is_off(run, place):
    change(0, 64)
    with pytest.raises(KeyError):
        run("path ./data: read", "read:other/a")
    (record,) = place.denials()
    assert (record["call"].partition("(")[0], record["ungranted"]) == ("openat", ["path ./other/a: read"])


# The reader alone


class Kernel:
    """What writes records, in place of the kernel."""

    def __init__(self, policies=1):
        here, self.there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        here.setblocking(False)
        self.source = audit.Source(here.detach(), ["app.policy"] * policies, [])

    def writes(self, kind, text):
        content = f"audit(1.000:1): {text}".encode()
        self.there.send(struct.pack("=IHHII", 16 + len(content), kind, 0, 0, 0) + content)

    def denies(self, domain, path="/a"):
        self.writes(1423, f'domain={domain:x} blockers=fs.read_file path="{path}" dev="vda" ino=1')

    def introduces(self, domain, name=None):
        name = self.source.name(0).decode() if name is None else name
        self.writes(1424, f'domain={domain:x} status=allocated mode=enforcing pid=7 uid=0 exe="/python" comm="{name}"')

    def ends(self, domain, count):
        self.writes(1424, f"domain={domain:x} status=deallocated denials={count}")

    def read(self):
        return [(index, fields.get("path", "").strip('"')) for index, fields in self.source.read()]


def test_a_denial_before_its_domain_is_known_is_not_lost():
    kernel = Kernel()
    kernel.denies(5, "/other")
    kernel.denies(6, "/first")
    kernel.introduces(5, "other")
    assert kernel.read() == []
    kernel.introduces(6)
    kernel.denies(6, "/second")
    kernel.denies(5, "/other")
    assert kernel.read() == [(0, "/first"), (0, "/second")]
    assert kernel.source.pause() is None
    kernel.ends(5, 9)
    kernel.ends(6, 2)
    assert kernel.read() == []
    assert kernel.source.lost() == ""


def test_the_kernel_says_how_many_there_were():
    kernel = Kernel()
    kernel.introduces(6)
    kernel.denies(6)
    kernel.ends(6, 4)
    assert len(kernel.read()) == 1
    assert kernel.source.lost().startswith("3 denials of files or ports are not in this log")


def test_without_the_end_it_is_not_known_what_is_lost(monkeypatch):
    monkeypatch.setattr(audit, "_END", 0.01)
    kernel = Kernel()
    kernel.introduces(6)
    assert list(kernel.source.rest()) == []
    assert "some may not be in this log" in kernel.source.lost()


def test_that_nothing_arrives_is_said_once(monkeypatch):
    kernel = Kernel()
    assert 0 < kernel.source.pause() <= 5
    assert kernel.source.absence() == ""
    assert kernel.source.lost() == audit.ABSENT
    monkeypatch.setattr(audit, "_ARRIVAL", 0.0)
    assert [kernel.source.absence(), kernel.source.absence(), kernel.source.lost()] == [audit.ABSENT, "", ""]


@pytest.mark.parametrize("text", ["", "domain=x", "status=deallocated", "domain=6 status=deallocated denials=", "domain=6"])
def test_what_is_no_record_is_passed_over(text):
    kernel = Kernel()
    kernel.introduces(6)
    kernel.writes(1423, text)
    kernel.writes(1424, text)
    kernel.introduces(9, kernel.source.token + "z")
    kernel.denies(6)
    assert kernel.read()[-1:] == [(0, "/a")]


def test_a_batch_is_limited():
    kernel = Kernel()
    kernel.introduces(6)
    for _ in range(100):
        kernel.denies(6)
    assert [len(kernel.read()), len(kernel.read())] == [63, 37]


def test_of_unknown_domains_the_latest_records_are_kept():
    kernel = Kernel()
    for number in range(70):
        kernel.denies(6, f"/{number}")
    assert kernel.read() + kernel.read() == []
    kernel.introduces(6)
    assert kernel.read() == [(0, f"/{number}") for number in range(6, 70)]


def test_the_rest_is_read_until_all_domains_have_ended():
    kernel = Kernel(2)
    kernel.introduces(6)
    kernel.introduces(7, kernel.source.name(1).decode())
    kernel.denies(6)
    kernel.ends(6, 1)

    def late():
        time.sleep(0.1)
        kernel.denies(7, "/late")
        kernel.ends(7, 1)

    thread = threading.Thread(target=late)
    began = time.monotonic()
    thread.start()
    assert [(index, fields["path"]) for index, fields in kernel.source.rest()] == [(0, '"/a"'), (1, '"/late"')]
    assert (kernel.source.lost(), time.monotonic() - began < 4) == ("", True)
    thread.join()


def test_a_record_for_which_there_was_no_room_ends_nothing(monkeypatch):
    kernel = Kernel()
    kernel.introduces(6)
    kernel.denies(6)
    content, answers = os.read, iter([OSError(105, "No buffer space available")])

    def read(descriptor, length):
        for error in answers:
            raise error
        return content(descriptor, length)

    monkeypatch.setattr(audit.os, "read", read)
    assert kernel.read() == [(0, "/a")]


class Asked:
    """A netlink socket that has these answers, each a kind and a content."""

    def __init__(self, *answers):
        self.there, self.here = os.pipe()
        self._answers = list(answers)
        self.asked = []
        os.write(self.here, b"x" * bool(answers))

    def fileno(self):
        return self.there

    def sendto(self, message, address):
        self.asked.append((struct.unpack("=IHHII", message), address))

    def recv(self, _length):
        kind, content = self._answers.pop(0)
        return struct.pack("=IHHII", 16 + len(content), kind, 0, 0, 0) + content


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([(GET, struct.pack("=3I", 0, 1, 0))], True),
        ([(GET, struct.pack("=3I", 0, 2, 0))], True),  # and cannot be turned off
        ([(GET, struct.pack("=3I", 0, 0, 0))], False),
        ([(2, struct.pack("=i", -1)), (GET, struct.pack("=3I", 0, 1, 0))], False),
        ([(1300, b"a record"), (GET, struct.pack("=3I", 0, 1, 0))], True),
        ([], False),
    ],
)
def test_whether_audit_is_on_is_what_the_kernel_answers(monkeypatch, answers, expected):
    monkeypatch.setattr(audit, "_ANSWER", 0.1)
    asked = Asked(*answers)
    assert audit._is_on(asked) is expected
    assert asked.asked == [((16, GET, 1, 0, 0), (0, 0))]
    os.close(asked.there)
    os.close(asked.here)
