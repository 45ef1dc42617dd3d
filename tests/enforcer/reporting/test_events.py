"""Records of `enforce --log`: their form, where they go, and what becomes of a reader that is slow or gone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from needed import require

from callfence.enforcer.errors import EnforceError
from callfence.enforcer.reporting.destination import DATAGRAMS, JOURNAL, LINES, Destination
from callfence.enforcer.reporting.events import Log, encoded, now, shown, status_fields
from callfence.enforcer.reporting.opening import opened
from tests.enforcer.conftest import START, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.enforcer.conftest import Workplace

FLOOR = "read: allow\nwrite: allow\nexit_group: allow\n"
ERRNO = f"default errno EACCES\n{FLOOR}"
SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "events.schema.json").read_text())
VALID = jsonschema.Draft202012Validator(SCHEMA)

WHERE = {"container", "pod", "image"}
"""The fields that a record has only where they are known."""


def checked(records: list[dict[str, Any]]) -> list[str]:
    """The kinds of records, each of which fits the schema and has no field that this does not have; they are numbered."""
    known = {name: {*kind["properties"], *SCHEMA["properties"]} for kind in SCHEMA["oneOf"] for name in kinds(kind)}
    for record in records:
        VALID.validate(record)
        assert {*record} | WHERE == known[record["event"]]
    numbers = [record["sequence"] for record in records]
    assert numbers == [*range(numbers[0], numbers[0] + len(numbers))]
    return [record["event"] for record in records]


def kinds(kind: dict[str, Any]) -> tuple[str]:
    return (kind["properties"]["event"]["const"],)


def parsed(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_run_from_its_start_to_its_end(place: Workplace) -> None:
    place.policy(ERRNO)
    done = place.enforce("--log", "log", place.calls(), "getppid", "getppid", "getpid", "--token", "abc")
    place.wait_for_helpers()
    assert checked(place.records()) == ["start", "denied", "denied", "denied", "end"]
    start, first, *_, end = place.records()
    assert start["command"] == first["command"] == ["./calls", "getppid", "getppid", "getpid", "--token", "<secret>"]
    assert (start["pid"], start["parent"], start["mode"]) == (first["pid"], os.getpid(), "enforce")
    assert (end["status"], end["signal"], end["denied"], end["lost"], end["complete"]) == (done.returncode, None, 3, 0, True)
    assert len({record["run"] for record in place.records()}) == 1


@pytest.mark.parametrize("arm", ["now", "exec", "entry"])
@pytest.mark.parametrize("how", ["status", "signal", "killed by the policy"])
def test_the_end_has_the_status(place: Workplace, arm: str, how: str) -> None:
    place.policy(f"default {'errno EACCES' if how != 'killed by the policy' else 'kill'}\n{FLOOR}kill: allow\nexecve: allow\n")
    calls = {"status": "getpid", "signal": "kill,0,15", "killed by the policy": "getppid"}
    done = place.enforce("--arm", arm, "--log", "log", place.calls(), calls[how], under=("setsid", "--wait"))
    place.wait_for_helpers()
    *_, end = place.records()
    assert checked(place.records())[-1] == "end"
    expected = {"status": (9, None), "signal": (None, "SIGTERM"), "killed by the policy": (None, "SIGSYS")}[how]
    assert (end["status"], end["signal"]) == expected, done


def test_with_phases_and_audit_and_without_denials(place: Workplace) -> None:
    phases = "phase serving after getpid\ngetpid: allow\nbind: allow until serving\n"
    place.policy(f"default errno EACCES\n{phases}{FLOOR}", "phased.policy")
    place.enforce("--log", "log", "-p", "phased.policy", place.calls(), "getpid", "bind,0,0,0")
    place.wait_for_helpers()
    assert checked(place.records()) == ["start", "denied", "end"]
    assert place.records()[1]["phase"] == "serving"
    place.enforce("--log", "before", "-p", "phased.policy", place.calls(), "ptrace,0,0,0,0", "getpid")
    place.wait_for_helpers()
    (allow,) = place.records("before")[1]["allow"]
    assert (allow["line"], allow["risk"]["level"]) == ("ptrace: request == PTRACE_TRACEME until serving", "danger")
    place.policy(ERRNO)
    place.enforce("--audit", "--log", "audited", place.calls(), "getppid")
    place.enforce("--log", "empty", place.calls())
    place.wait_for_helpers()
    assert checked(place.records("audited")) == ["start", "denied", "end"]
    assert [place.records("audited")[index].get(name) for index, name in ((0, "mode"), (1, "verdict"))] == ["audit", "audited"]
    assert checked(place.records("empty")) == ["start", "end"]


def test_the_log_says_what_is_not_reported_and_why_nothing_ran(place: Workplace) -> None:
    place.policy(ERRNO + "seccomp: allow\nioctl: cmd == SECCOMP_IOCTL_NOTIF_RECV\n", "own.policy")
    place.enforce("--log", "log", "-p", "own.policy", place.calls())
    place.wait_for_helpers()
    assert "start" in checked(place.records())
    place.policy(ERRNO)
    (place.folder / "script").write_text("#!/no/interpreter\n")
    (place.folder / "script").chmod(0o755)
    done = place.enforce("--log", "refused", "-p", "calls.policy", "./script", "--password=x")
    place.wait_for_helpers()
    (record,) = place.records("refused")
    assert checked([record]) == ["refused"]
    assert (record["status"], record["command"]) == (done.returncode, ["./script", "--password=<secret>"]) == (
        127, ["./script", "--password=<secret>"],
    )  # fmt: skip
    assert record["message"] in done.stderr


def test_the_risk_of_the_line_that_would_allow_it(place: Workplace) -> None:
    place.policy(ERRNO)
    place.enforce("--log", "log", place.calls(), "ptrace,0,0,0,0")
    place.wait_for_helpers()
    (denied,) = place.denials()
    assert [(item["line"].partition(":")[0], item["risk"]["level"]) for item in denied["allow"]] == [("ptrace", "danger")]


# Where records go


def test_standard_output(place: Workplace) -> None:
    place.policy(ERRNO)
    done = place.enforce("--log", "-", place.calls(), "getppid")
    program, records = [], []
    for line in done.stdout.splitlines():
        (records if line.startswith("{") else program).append(line)
    assert program == ["-13"]
    assert checked(parsed("\n".join(records))) == ["start", "denied", "end"]


def test_a_descriptor_that_the_program_does_not_get(place: Workplace) -> None:
    place.policy("default allow\n", "any.policy")
    read, write = os.pipe()
    os.set_inheritable(write, True)
    listing = ("-p", "any.policy", "sh", "-c", f"ls /proc/self/fd | grep -c '^{write}$'")
    done = place.enforce("--log", f"fd:{write}", *listing, pass_fds=[write])
    os.close(write)
    assert done.stdout == "0\n"
    with os.fdopen(read) as file:  # to its end: nobody else keeps it open
        assert checked(parsed(file.read())) == ["start", "end"]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET], ids=lambda kind: kind.name)
@pytest.mark.parametrize("named", ["unix:socket", "socket", "unix:@NAME", "standard output"])
def test_sockets(place: Workplace, kind: socket.SocketKind, named: str) -> None:
    place.policy(ERRNO)
    log, options = named, {}
    if named == "standard output":
        reader, writer = socket.socketpair(socket.AF_UNIX, kind)
        log, options = "/dev/stdout", {"stdout": writer}
    else:
        listener = socket.socket(socket.AF_UNIX, kind)
        name = f"\0callfence-test-{os.getpid()}-{kind}" if "@" in named else str(place.folder / "socket")
        log = f"unix:@{name[1:]}" if "@" in named else named
        listener.bind(name)
        reader = listener
        if kind != socket.SOCK_DGRAM:
            listener.listen()
    place.enforce("--log", log, place.calls(), "getppid", "getpid", **options)
    if named == "standard output":
        writer.close()
    elif kind != socket.SOCK_DGRAM:
        listener.settimeout(10)
        reader, _ = listener.accept()
    place.wait_for_helpers()
    reader.settimeout(0.5 if kind == socket.SOCK_DGRAM else 20)
    assert checked(list(received(reader, kind))) == ["start", "denied", "denied", "end"]
    reader.close()


def received(reader: socket.socket, kind: socket.SocketKind) -> Iterator[dict[str, Any]]:
    """The records: one a message, or one a line.  The numbers that the program prints are left out."""
    data = b""
    try:
        while part := reader.recv(1 << 16):
            assert kind == socket.SOCK_STREAM or part.endswith(b"\n")
            data += part
    except TimeoutError:
        assert kind == socket.SOCK_DGRAM, "only a datagram socket has no end"
    yield from (json.loads(line) for line in data.splitlines() if line.startswith(b"{"))


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("fd:77", "descriptor 77 is not open"), ("fd:x", "write fd:NUMBER"), ("fd:99999999999999999999", "is not open"),
        ("unix:none", "No such file or directory"), ("unix:", "1 to 107 bytes"), (f"unix:{'x' * 108}", "1 to 107 bytes"),
        ("unix:dead", "no process reads it"), ("dead", "no process reads it"), ("no/folder", "No such file or directory"),
    ],
)  # fmt: skip
def test_a_log_that_cannot_be_opened_runs_nothing(place: Workplace, log: str, reason: str) -> None:
    place.policy(ERRNO)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place.folder / "dead"))
    done = place.enforce("--log", log, place.calls(), "getppid")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith(f"enforce: the log {log} cannot be opened: ")
    assert reason in done.stderr


def test_a_descriptor_for_reading_is_no_log(place: Workplace) -> None:
    place.policy(ERRNO)
    with open(os.devnull) as null:
        done = place.enforce("--log", f"fd:{null.fileno()}", place.calls(), pass_fds=[null.fileno()])
    assert (done.returncode, "is open for reading only" in done.stderr) == (125, True)


# systemd's journal


def entry(datagram: bytes) -> dict[str, str]:
    """The fields of an entry, read as https://systemd.io/JOURNAL_NATIVE_PROTOCOL says."""
    fields = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + length], rest[8 + length + 1 :]
        fields[name.decode()] = value.decode(errors="surrogateescape")
        datagram = rest
    return fields


def test_the_journal(place: Workplace) -> None:
    """A socket stands for that of journald; a mount namespace has it where enforce looks for it."""
    place.policy(ERRNO)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(place.folder / "journal"))
        journald.settimeout(10)
        script = 'mount -t tmpfs none /run && mkdir -p /run/systemd/journal && : > /run/systemd/journal/socket'
        script += f' && mount --bind {place.folder}/journal /run/systemd/journal/socket && exec "$@"'
        under = ("unshare", "--mount", "sh", "-c", script, "sh")
        done = place.enforce("--log", "journal", place.calls(), "getppid", "line\nbreak", under=under)
        assert done.stdout.startswith("-13\n")
        entries = [entry(journald.recv(1 << 20)) for _ in range(3)]
    assert checked([json.loads(fields["CALLFENCE_RECORD"]) for fields in entries]) == ["start", "denied", "end"]
    assert [fields["PRIORITY"] for fields in entries] == ["6", "4", "6"]
    assert {fields["SYSLOG_IDENTIFIER"] for fields in entries} == {"callfence"}
    names = ("MESSAGE", "CALLFENCE_CALL", "CALLFENCE_COUNT")
    assert [entries[1][name] for name in names] == ["denied: getppid()", "getppid()", "1"]
    assert "line\nbreak" in entries[0]["MESSAGE"]


def test_the_real_journal(place: Workplace) -> None:
    """journald in a mount namespace; what it has becomes a log again."""
    require("systemd")
    place.policy(ERRNO)
    script = f"""
        mount -t tmpfs none /run && mkdir -p /run/systemd/journal /run/systemd/journald.conf.d /run/log/journal
        printf '[Journal]\nAudit=\n' > /run/systemd/journald.conf.d/own.conf  # audit is the whole machine's
        /lib/systemd/systemd-journald 2>/dev/null & journald=$!
        for try in $(seq 200); do [ -S /run/systemd/journal/socket ] && break; sleep 0.05; done
        "$@" > {place.folder}/printed
        for try in $(seq 200); do
            journalctl -D /run/log/journal -t callfence -o cat --output-fields=CALLFENCE_RECORD > {place.folder}/log 2>/dev/null
            grep -q '"event": "end"' {place.folder}/log && break
            sleep 0.05
        done
        journalctl -D /run/log/journal -t callfence -o cat > {place.folder}/messages
        kill $journald; wait $journald
    """
    under = ("unshare", "--mount", "sh", "-c", script, "sh")
    place.enforce("--log", "journal", place.calls(), "getppid", "getppid", under=under)
    assert (place.folder / "printed").read_text() == "-13\n" * 2
    assert checked(place.records()) == ["start", "denied", "denied", "end"]
    assert (place.folder / "messages").read_text().splitlines() == [
        "start: ./calls getppid getppid",
        "denied: getppid()",
        "denied: getppid()",
        "end: exit status 9, 2 denied, 0 records lost",
    ]


def test_without_a_journal_nothing_runs(place: Workplace) -> None:
    place.policy(ERRNO)
    under = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh")
    done = place.enforce("--log", "journal", place.calls(), "getppid", under=under)
    assert (done.returncode, done.stdout) == (125, "")


# Readers


def test_a_reader_that_goes_is_counted(place: Workplace) -> None:
    place.policy(ERRNO)
    os.mkfifo(place.folder / "fifo")
    reader = os.open(place.folder / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    process = place.start("--log", "fifo", place.calls(), "getppid", "wait", "getpid", "getuid")
    assert process.stdout.readline() == "-13\n"
    wait_until(lambda: b'"denied"' in os.read(reader, 1 << 16))
    os.close(reader)
    output, errors = process.communicate("x", timeout=30)
    assert (output, errors) == ("-13\n-13\n", "enforce: 2 records of the log could not be written\n")


def test_a_slow_reader_gets_whole_records_and_the_rest_is_counted(place: Workplace) -> None:
    """The records of many distinct calls are more than may wait; `end` has how many were lost."""
    place.policy(ERRNO)
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    calls = [f"{call},{fd},{value}" for call in ("ioctl", "fcntl") for fd in range(3) for value in range(1030, 1300)]
    data = bytearray()

    def read() -> None:
        go.wait()
        while part := reader.recv(1 << 16):
            data.extend(part)

    go = threading.Event()
    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    process = place.start("--log", f"fd:{writer.fileno()}", place.calls(), *calls, "wait", pass_fds=[writer.fileno()])
    writer.close()
    for _ in calls:
        assert process.stdout.readline() == "-13\n"
    go.set()
    process.communicate("x", timeout=60)
    thread.join()
    reader.close()
    records = parsed(data.decode())
    assert checked(records)[-1] == "end"
    written = [record for record in records if record["event"] == "denied"]
    assert records[-1]["denied"] == len(calls)
    assert len(written) + records[-1]["lost"] >= 100


# The parts


@pytest.mark.parametrize(
    "value", [None, True, False, 0, -7, 1 << 70, "", 'a "b" \n\x00\udcff\u2028', [], {}, [1, [None, {"a": "b"}]], {"x": [{}]}]
)
def test_values_are_encoded_as_json(value: object) -> None:
    assert json.loads(encoded(value)) == value


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["app", "--api-key", "x1", "y"], ["app", "--api-key", "<secret>", "y"]),
        (["app", "--password=x1"], ["app", "--password=<secret>"]),
        (["app", "--no-auth", "-v"], ["app", "--no-auth", "-v"]),
        (["curl", "https://u:p@h/x"], ["curl", "https://<secret>@h/x"]),
        (["env", "TOKEN=abc"], ["env", "TOKEN=<secret>"]),
        (["app", *["word"] * 100], ["app", *["word"] * 59, "..."]),
        (["x" * 1000, "y"], ["x" * 299, "..."]),
        (["x" * 299], ["x" * 299]),
        ([], []),
    ],
)
def test_command_lines_are_shown_without_secrets_and_short(command: list[str], expected: list[str]) -> None:
    assert shown(command) == expected


def test_an_entry_of_the_journal_keeps_newlines_and_odd_bytes() -> None:
    log = Log(Destination(-1, JOURNAL), [])
    fields = entry(log.record("message", {"level": "note", "message": "a\nb=c\udcff"}))
    assert (fields["MESSAGE"], fields["PRIORITY"]) == ("message: a\nb=c\udcff", "6")
    assert json.loads(fields["CALLFENCE_RECORD"])["message"] == "a\nb=c\udcff"


@pytest.mark.parametrize(
    ("event", "fields", "priority", "message"),
    [
        ("start", {"command": ["app", "x"]}, "6", "start: app x"),
        ("denied", {"call": "getppid()"}, "4", "denied: getppid()"),
        ("denied", {"call": None, "ungranted": ["path /x: read", "tcp bind: 9"]}, "4", "denied: path /x: read, tcp bind: 9"),
        ("answered", {"answer": "no", "rule": []}, "5", "answered: "),
        ("refused", {"message": "why", "command": ["app"]}, "3", "refused: why"),
        ("message", {"message": "what", "level": "warning"}, "4", "message: what"),
        ("message", {"message": "what", "level": "note"}, "6", "message: what"),
        ("end", {"status": 1, "signal": None, "denied": 2, "lost": 3}, "6", "end: exit status 1, 2 denied, 3 records lost"),
        ("end", {"status": None, "signal": "SIGHUP", "denied": 0, "lost": 0}, "6", "end: SIGHUP, 0 denied, 0 records lost"),
    ],
)
def test_an_entry_of_the_journal_has_a_priority_and_a_message(
    event: str, fields: dict[str, Any], priority: str, message: str
) -> None:
    found = entry(Log(Destination(-1, JOURNAL), []).record(event, fields))
    assert (found["PRIORITY"], found["MESSAGE"], found["CALLFENCE_EVENT"]) == (priority, message, event)
    shown = {name for name, value in fields.items() if value is not None and isinstance(value, (str, int))} - {"message"}
    assert {name for name in found if name.startswith("CALLFENCE_")} == {
        "CALLFENCE_EVENT", "CALLFENCE_RECORD", *(f"CALLFENCE_{name.upper()}" for name in shown)
    }


@pytest.mark.parametrize(
    ("status", "expected"),
    [(None, (None, None)), (0, (0, None)), (0xFF00, (255, None)), (9, (None, "SIGKILL")), (0x8B, (None, "SIGSEGV"))],
)
def test_the_fields_of_an_end(status: int | None, expected: tuple[int | None, str | None]) -> None:
    fields = status_fields(status)
    assert (fields["status"], fields["signal"]) == expected


def test_records_that_cannot_be_written_at_the_start_are_counted() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    log = Log(Destination(ours.fileno(), DATAGRAMS), [])
    log.write([b"one", b"two"])
    assert (theirs.recv(9), theirs.recv(9), log.lost) == (b"one", b"two", 0)
    theirs.close()
    log.write([b"three"])
    ours.close()
    log.write([b"four"])
    assert log.lost == 2


def test_the_time_has_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callfence.enforcer.reporting.events.time.time_ns", lambda: 1_700_000_000_012_987_654)
    assert now() == "2023-11-14T22:13:20.012+00:00"


def test_the_longest_path_of_a_socket_and_a_standard_descriptor() -> None:
    with pytest.raises(EnforceError, match="No such file or directory"):
        opened(f"unix:{'x' * 107}")
    log = opened("fd:2")
    assert log.descriptor > 2 and os.get_inheritable(2), "the program has it, too"
    os.close(log.descriptor)


def test_a_reader_that_accepts_no_connection(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(tmp_path / "socket"))
        listener.listen(0)
        first.connect(str(tmp_path / "socket"))
        with pytest.raises(EnforceError, match="its reader accepts no connection now"):
            opened(f"unix:{tmp_path}/socket")


@pytest.mark.parametrize("folder", ["/dev/fd", "/proc/self/fd"])
@pytest.mark.parametrize(("kind", "form"), [(socket.SOCK_STREAM, LINES), (socket.SOCK_DGRAM, DATAGRAMS)])
def test_a_socket_among_the_descriptors(folder: str, kind: socket.SocketKind, form: str) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with ours, theirs:
        ours.set_inheritable(True)
        log = opened(f"{folder}/{ours.fileno()}")
        os.write(log.descriptor, b"record")
        assert (theirs.recv(99), log.form, ours.get_inheritable(), log.folder) == (b"record", form, False, -1)
        os.close(log.descriptor)


def test_the_policies_are_named_with_their_digests() -> None:
    log = Log(Destination(-1, LINES), [("a", b""), ("b", b"x")])
    record = json.loads(log.record("message", {"level": "note", "message": ""}))
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert [item["file"] for item in record["policies"]] == ["a", "b"]
    assert record["policies"][0]["sha256"] == empty


def test_a_log_in_another_folder_is_opened_again_by_its_name(tmp_path: Path) -> None:
    log = opened(str(tmp_path / "log"))
    os.write(log.descriptor, b"one\n")
    (tmp_path / "log").rename(tmp_path / "log.1")
    before = len(os.listdir("/proc/self/fd"))
    log.renew()
    assert len(os.listdir("/proc/self/fd")) == before
    os.write(log.descriptor, b"two\n")
    assert ((tmp_path / "log").read_text(), (tmp_path / "log.1").read_text()) == ("two\n", "one\n")
    for descriptor in (log.descriptor, log.folder):
        os.close(descriptor)


@pytest.mark.parametrize("is_in_pod", [False, True])
def test_the_unit_the_container_and_the_pod_are_named(place: Workplace, is_in_pod: bool) -> None:
    """The cgroup of a process says it; here, a mount namespace has another file there."""
    place.policy(ERRNO)
    container, uid = "ab" * 32, "0b0c3f5e-9d2b-4d52-8a51-0f1a2b3c4d5e"
    slices = f"kubepods.slice/kubepods-pod{uid.replace('-', '_')}.slice/cri-containerd-{container}.scope"
    (place.folder / "cgroup").write_text(f"0::/{slices}\n" if is_in_pod else "0::/system.slice/app.service/payload\n")
    script = f'mount --bind {place.folder}/cgroup /proc/$$/cgroup && exec "$@"'
    command = [sys.executable, "-c", f"{START}  # {place.folder}", "--log", "log", place.calls(), "getppid"]
    under = ["unshare", "--mount", "sh", "-c", script, "sh"]
    variables = {"POD_NAME": "app-1", "CALLFENCE_IMAGE": "sha256:1"} if is_in_pod else {}
    settings = {"cwd": place.folder, "env": place.environment | variables, "capture_output": True, "text": True, "check": False}
    done = subprocess.run([*under, *command], **settings)
    assert done.stdout == "-13\n", done.stderr
    place.wait_for_helpers()
    records = place.records()
    assert checked(records) == ["start", "denied", "end"]
    expected: dict[str, object] = {"unit": "app.service"}
    if is_in_pod:
        pod = {"name": "app-1", "uid": uid}
        expected = {"unit": f"cri-containerd-{container}.scope", "container": container, "pod": pod, "image": "sha256:1"}
    assert [{name: record[name] for name in ("unit", *WHERE) if name in record} for record in records] == [expected] * 3
