"""Logs of `enforce --log` -> recordings: what is cut, hostile, huge or of others."""

from __future__ import annotations

import io
import json
import tracemalloc
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
from calls import format_options

from callfence.policygen.formats import FormatOptions, ImportFormatError
from callfence.policygen.formats.logs import denials
from callfence.policygen.formats.logs.denials import MAX_DISTINCT, violations
from callfence.policygen.grants import bare_line
from callfence.policygen.recording import recording_file
from callfence.policygen.recording.log_records import MAX_LINE
from callfence.policygen.recording.many import merge
from callfence.tracer.abi import Arch, table

if TYPE_CHECKING:
    from callfence.policygen.recording.model import Recording

MKDIR = table(Arch.X86_64).by_name["mkdir"].number
OPTIONS = format_options()


def line(**other: Any) -> dict[str, Any]:
    """A line as enforce writes it."""
    found: dict[str, Any] = {
        "version": 1,
        "event": "denied",
        "time": "2026-01-02T03:04:05.678+00:00",
        "call": "mkdir(pathname=0x1, mode=0700)",
        "arch": "x86_64",
        "number": MKDIR,
        "arguments": ["0x1", "0x1c0", "0x0", "0x0", "0x0", "0x0"],
        "action": "kill",
        "verdict": "denied",
        "pid": 7,
        "executable": "/usr/bin/app",
        "site": "libc.so.6+0x10",
        "allow": [{"file": "/etc/app.policy", "line": "mkdir: allow"}],
        "count": 1,
    }
    return {**found, **other}


def log(*lines: dict[str, Any]) -> bytes:
    return "".join(json.dumps(one) + "\n" for one in lines).encode()


def read(data: bytes, options: FormatOptions = OPTIONS) -> Recording:
    return violations(BytesIO(data), "LOG", options)


def test_a_line_is_an_observation() -> None:
    recording = read(log(line()))
    (run,), (seen,) = recording.runs, recording.observations
    assert (run.started, run.warm, run.complete, run.gaps) == (1767323045678 * 1_000_000, True, False, ())
    assert (seen.number, seen.executable, seen.site, seen.counts) == (MKDIR, "/usr/bin/app", "libc.so.6+0x10", (1,))
    assert seen.example == (1, 0x1C0, 0, 0, 0, 0)
    assert recording_file.parse(recording_file.text(recording).encode("ascii"), "X") == recording


def test_what_pointers_pointed_to_is_joined() -> None:
    """What is no list of facts is left out: who writes into the log cannot write to the reader's terminal."""
    ones = ['pathname="/b"'], ['pathname="/a"', "\x1b[31m", 7, "\ud800"], None, "x", ['pathname="/a']
    (seen,) = read(log(*(line(evidence=one) for one in ones))).observations
    assert seen.evidence == ('pathname="/a"', 'pathname="/b"')


@pytest.mark.parametrize(
    ("counts", "total"), [([1], 1), ([1, 10, 100, 123], 123), ([1, 10, 1, 10, 11], 21), ([1, 1, 1], 3), ([7], 7)]
)
def test_counts_are_so_far_and_begin_again(counts: list[int], total: int) -> None:
    (seen,) = read(log(*(line(count=count) for count in counts))).observations
    assert seen.calls == total


def test_starts_that_write_in_turns_are_counted_each() -> None:
    """Also the same start in two phases."""
    told = [("a", 1), ("b", 1), ("b", 400), ("a", 500), ("b", 401)]
    (seen,) = read(log(*(line(count=count, run=run) for run, count in told))).observations
    assert seen.calls == 901
    (seen,) = read(log(*(line(count=count, run="a", phase=phase) for phase, count in told))).observations
    assert seen.calls == 901


def test_many_starts_in_one_log_take_no_memory() -> None:
    (seen,) = read(log(*(line(count=2, run=str(run)) for run in range(1000)))).observations
    assert seen.calls == 2000


def test_the_log_that_has_grown_is_the_same_run() -> None:
    before, after = (read(log(*(line(count=count) for count in counts))) for counts in ([1], [1, 10]))
    assert [one.calls for one in merge(before, after).observations] == [10]


def test_many_machines_fold() -> None:
    one, other = (read(log(line(time=f"2026-01-0{day}T00:00:00+00:00"))) for day in (1, 2))
    assert merge(one, other).observations[0].counts == (1, 1)


def test_what_enforce_says_of_itself_is_no_violation() -> None:
    text = "3 more violations of mkdir (x86_64) were not described"
    said = {"version": 1, "event": "message", "time": "2026-01-02T03:04:05.678+00:00", "message": text}
    assert len(read(log(said, line(), said)).observations) == 1


def test_fields_of_later_versions_are_ignored() -> None:
    assert len(read(log(line(evidence={"pathname": "/tmp/x"}))).observations) == 1


@pytest.mark.parametrize(
    ("data", "gap"),
    [
        (log(line()) + log(line())[:40], "lines that are cut: 1, first at line 2"),
        (log(line())[40:] + log(line()), "lines that are cut: 1, first at line 1"),
        (log(line()) + b"\x1b[2J\xff\n" + log(line()), "lines that are no JSON: 1, first at line 2"),
        (log(line()) + b"[" * 100_000 + b"\n", "lines that are no JSON: 1, first at line 2"),
        (log(line()) + b"x" * (10 << 20) + b"\n" + log(line()), "lines of more than 256 KiB: 1, first at line 2"),
    ],
    ids=["end", "beginning", "noise", "nesting", "10 MB"],
)
def test_lines_that_cannot_be_read_are_gaps(data: bytes, gap: str) -> None:
    recording = read(data)
    assert recording.runs[0].gaps == (gap,)
    assert recording.observations[0].calls >= 1


@pytest.mark.parametrize(
    "change",
    [
        {"arch": "vax"}, {"arch": None}, {"number": -1}, {"number": 1 << 32}, {"number": "83"}, {"number": True},
        {"arguments": ["0x1"]}, {"arguments": ["0x1"] * 5 + ["0x1ffffffffffffffff"]}, {"arguments": [1] * 6},
        {"executable": ""}, {"executable": "/a\0b"}, {"executable": "\ud800"}, {"executable": "/" * 9000}, {"site": 3},
        {"count": 0}, {"count": 1 << 63}, {"count": 1.5},
    ],
    ids=str,
)  # fmt: skip
def test_what_no_version_writes_is_an_error_with_its_line(change: dict[str, Any]) -> None:
    (name,) = change
    with pytest.raises(ImportFormatError, match=f"^LOG:2: its `{name}` is not as"):
        read(log(line(), line(**change)))


@pytest.mark.parametrize("data", [b"", b"\n\n", b"hello\n", b"{}", b"[]", b'{"message": "x"}\n'])
def test_a_log_without_violations(data: bytes) -> None:
    with pytest.raises(ImportFormatError, match=r"^LOG:"):
        read(data)


@pytest.mark.parametrize("change", [{"version": 2}, {"version": None}, {"event": "question"}, {"event": 3}])
def test_records_of_another_version_are_an_error(change: dict[str, Any]) -> None:
    with pytest.raises(ImportFormatError, match=r"^LOG:2: (event|version) .*: is it a log of another program"):
        read(log(line(), line(**change)))


def test_forged_paths_stay_what_they_are() -> None:
    path = "/tmp/\x1b]0;x\x07/../../etc/\udcff"
    recording = read(log(line(executable=path, site="\x1b[31m")))
    assert recording.observations[0].executable == path
    assert recording_file.parse(recording_file.text(recording).encode("ascii"), "X") == recording


def test_of_one_policy_and_program() -> None:
    data = log(line(), line(executable="/bin/other", allow=[{"file": "other.policy", "line": "x"}]))
    for options in (format_options(policy="app.policy"), format_options(program="app"), format_options(program="/usr/bin/app")):
        assert [one.executable for one in read(data, options).observations] == ["/usr/bin/app"]
    with pytest.raises(ImportFormatError, match=r"no violation of third\.policy, but of app\.policy, other\.policy; `callf"):
        read(data, format_options(policy="third.policy"))


class Endless(io.RawIOBase):
    """A log of many different violations, made while it is read."""

    def __init__(self, lines: int) -> None:
        self._left = lines

    def readline(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        return log(line(executable=f"/bin/{self._left}")) if self._left >= 0 else b""


@pytest.mark.long
def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = MAX_DISTINCT // 10
    monkeypatch.setattr(denials, "MAX_DISTINCT", kept)
    tracemalloc.start()
    recording = violations(Endless(kept + 1000), "LOG", OPTIONS)  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(recording.observations) == kept
    said = f"violations after the first {kept} different ones: 1000, first at line {kept + 1}"
    assert recording.runs[0].gaps == (said,)
    assert peak < 20 << 20


def test_memory_is_bounded_where_texts_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of executables, sites, facts and files; a line with less than the rest is recorded until nothing remains."""
    monkeypatch.setattr(denials, "MAX_TEXT", 20_000)
    facts = [f'name{number}="{"x" * 2000}"' for number in range(4)]
    long = "x" * 4000
    recording = read(log(
        line(site="s" * 7500, evidence=facts), line(ungranted=[f"path /{number}{long}: read" for number in range(2)]),
        line(executable="/bin/last"), line(ungranted=["path /last: read"]),
    ))  # fmt: skip
    (one,) = recording.observations
    assert len(one.evidence) == 4 and len(recording.runs[0].files) == 2
    assert recording.runs[0].gaps == (
        "files and ports after the first 2 different uses: 1, first at line 4",
        "violations after the first 1 different ones: 1, first at line 3",
    )
    assert (
        len(
            read(
                log(
                    line(site="s" * 8000, evidence=facts * 2),
                    line(site="s" * 8000, evidence=[f.replace("name", "other") for f in facts]),
                )
            )
            .observations[0]
            .evidence
        )
        == 6
    )


@pytest.mark.long
def test_files_are_bounded() -> None:
    """No line has more grants than enforce would ask for; files beyond those that are kept are a gap."""
    lines = [[f"path /{number}/{place}: read" for place in range(6000)] for number in range(50)]
    (run,) = read(log(*(line(ungranted=one) for one in lines))).runs
    assert MAX_DISTINCT <= len(run.files) < MAX_DISTINCT + 1024
    assert run.gaps == (f"files and ports after the first {MAX_DISTINCT} different uses: 1, first at line 50",)


def test_policies_that_lack_different_rights_to_one_file() -> None:
    (run,) = read(log(line(ungranted=["path /a: write", "path /a: read, write"]))).runs
    assert run.files == (("/a", "read, write", "/usr/bin/app"), ("/a", "write", "/usr/bin/app"))


def test_lines_about_hosts_and_sockets_are_uses() -> None:
    lines = ["tcp connect a.example: 443-444", "tcp connect: 80", "udp send 10.0.0.1: 53", "unix connect @x"]
    (run,) = read(log(line(ungranted=lines))).runs
    assert {use[:2] for use in run.files} == {
        ("tcp connect a.example", "443"), ("tcp connect a.example", "444"), ("tcp connect", "80"), ("udp send 10.0.0.1", "53"),
        ("unix connect @x", ""),
    }  # fmt: skip


@pytest.mark.parametrize("place", ["@a b", "@x\0unix connect any", '@"', "@a", "/run/a b", "./a: b"])
def test_a_socket_whose_line_has_quotes_is_that_socket(place: str) -> None:
    (run,) = read(log(line(ungranted=[bare_line("unix", place)]))).runs
    assert run.files == ((f"unix connect {place}", "", "/usr/bin/app"),)


NO_LINES = (
    {"ungranted": ["a line with `*` is about all sockets whose names begin so"]},
    {"ungranted": ["no line", "include x", "", "path /a"]},
    {"ungranted": [], "ungrantable": [r"`a\032b` is no name that a line can have"]},
    {"ungrantable": ["it has no name"]},
)
"""What a program makes `enforce` write by what it names."""


@pytest.mark.parametrize("fields", NO_LINES)
def test_what_no_line_would_grant_is_counted(fields: dict[str, Any]) -> None:
    lines = [line(), line(number=1, **fields), line(number=1, **fields), line(ungranted=["unix connect @x"])]
    recording = read(log(*lines))
    assert len(recording.observations) == 1
    assert recording.runs[0].files == (("unix connect @x", "", "/usr/bin/app"),)
    assert recording.runs[0].gaps == ("denials of what no line would grant: 2, first at line 2",)
    alone = read(log(line(**fields)))
    assert (alone.observations, alone.runs[0].files) == ((), ())
    assert alone.runs[0].gaps == ("denials of what no line would grant: 1, first at line 1",)


def test_what_no_line_would_grant_does_not_stand_for_another_policy() -> None:
    """It names no policy, so `review` of the wrong one would say that everything is allowed."""
    lines = [line(allow=[{"file": "/etc/app.policy", "line": "x"}]), line(allow=[], ungrantable=["it has no name"])]
    with pytest.raises(ImportFormatError, match=r"no violation of third\.policy, but of app\.policy"):
        read(log(*lines), format_options(policy="third.policy"))


def test_lines_beside_what_no_line_would_grant_count() -> None:
    for fields in ({"ungranted": ["path /a: read", "no"]}, {"ungranted": ["path /a: read"], "ungrantable": ["no"]}):
        (run,) = read(log(line(**fields))).runs
        assert (run.files, len(run.gaps)) == ((("/a", "read", "/usr/bin/app"),), 1)


def test_a_long_line_is_not_in_memory() -> None:
    class Long(io.RawIOBase):
        left = 200

        def readline(self, size: int | None = -1, /) -> bytes:
            self.left -= 1
            return b"x" * (size or 0) if self.left > 0 else b"\n" + b"" if self.left == 0 else b""

    tracemalloc.start()
    with pytest.raises(ImportFormatError, match="256 KiB: 1, first at line 1"):
        violations(Long(), "LOG", OPTIONS)  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * MAX_LINE


UNKNOWN = dict.fromkeys(("call", "arch", "number", "arguments", "pid", "executable", "site"))


def test_what_the_kernel_recorded_has_no_call() -> None:
    denied = line(**UNKNOWN, ungranted=["path ./a: read"])
    recording = read(log(denied, line(**UNKNOWN, ungranted=["tcp connect: 443"])))
    assert recording.observations == ()
    assert recording.runs[0].files == (("./a", "read", "?"), ("tcp connect", "443", "?"))
    both = read(log(denied, line()))
    assert len(both.observations) == 1
    assert both.runs[0].files == (("./a", "read", "?"),)


def test_what_the_kernel_recorded_is_of_no_known_program() -> None:
    recording = read(log(line(**UNKNOWN, ungranted=["path ./a: read"]), line()), format_options(program="app"))
    assert recording.runs[0].files == ()
    assert recording.runs[0].gaps == ("files and ports of programs that are not known: 1, first at line 1",)


@pytest.mark.parametrize("lines", ["path ./a: read", [1], {"path ./a": "read"}])
def test_lines_that_are_no_list_are_an_error(lines: Any) -> None:
    with pytest.raises(ImportFormatError, match=r"^LOG:2: its `ungranted` is no list of lines about files and ports$"):
        read(log(line(), line(ungranted=lines)))


@pytest.mark.parametrize("change", [{"ungranted": []}, {"ungranted": None}, {"count": None}, {"site": "a"}])
def test_nothing_else_is_unknown(change: dict[str, Any]) -> None:
    with pytest.raises(ImportFormatError):
        read(log(line(**UNKNOWN | {"ungranted": ["path ./a: read"]} | change)))
