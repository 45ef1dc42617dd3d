"""Lines of a log: what is a record, and what of it is counted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from callfence.shipping.records import MAX_LINE, BadLineError, parsed
from tests.callfence.shipping.conftest import OF_EVENT, line, record


def rule(**fields: Any) -> str:
    return parsed(line("denied", **fields), "log:1").rule


@pytest.mark.parametrize("event", OF_EVENT)
def test_each_event_is_a_record(event: str) -> None:
    read = parsed(line(event, 4), "log:1")
    assert (read.event, read.run, read.sequence, read.uid) == (event, "web1/0123abcd", 4, "web1/0123abcd/4")
    assert read.policies == {"/etc/callfence/app.policy": "ab" * 32}
    assert (read.service, read.policy, read.time) == ("app.service", "/etc/callfence/app.policy", 1772366400.25)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"version": 2}, "version 2 is of a newer callfence"), ({"event": "begun"}, "event 'begun' is none of start, denied"),
        ({"host": None}, "host is None"), ({"run": 7}, "run is 7"), ({"time": "yesterday"}, "Invalid isoformat"),
        ({"time": "2026-03-01T12:00:00"}, "has no zone"), ({"time": "1969-12-31T23:59:59+00:00"}, "or is before 1970"),
        ({"time": "0001-01-01T00:00:00+23:59"}, "or is before"), ({"time": "9999-01-01T00:00:00+00:00"}, "or after 2261"),
        ({"policies": ["a"]}, "'a' has no file or no sha256"),
        ({"count": 1.5}, "count is 1.5"), ({"count": True}, "count is True"), ({"count": -1}, "count is -1"),
        ({"count": 1 << 60}, "count is 115"), ({"verdict": "kept"}, "verdict is 'kept'"), ({"verdict": []}, r"verdict is \[\]"),
        ({"ungranted": [1]}, "ungranted is not"), ({"allow": [{"file": 1}]}, "has no file or no line"),
        ({"sequence": "1"}, "sequence or unit"), ({"sequence": 0}, "sequence or unit"), ({"unit": 5}, "sequence or unit"),
        ({"event": []}, r"event \[\] is none"), ({"policies": None}, "policies is None"),
        ({"more": json.loads("[" * 8 + "]" * 8)}, "more than 8 lists and objects within each other"),
        ({"event": "start", "mode": "audit", "allow": 7}, "7 is not a list"), ({"allow": [{"line": ""}]}, "has no file"),
        ({"host": "h" * 256}, "host or run is too long"), ({"run": "r" * 256}, "host or run is too long"),
        ({"count": 1 << 53}, "count is 9007"), ({"sequence": 1 << 53}, "sequence or unit"),
        ({"ungrantable": "x"}, "is not a list"), ({"time": "2262-04-11T23:47:17+00:00"}, "or after 2261"),
        ({"event": "refused", "status": 128, "message": ""}, "status is 128"),
    ],
)  # fmt: skip
def test_fields_that_are_read_are_checked(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadLineError, match=f"^log:3: not a record of enforce: .*{reason}"):
        parsed(json.dumps(record("denied") | changed).encode(), "log:3")


@pytest.mark.parametrize(
    "changed",
    [
        {"host": "h" * 255, "run": "r" * 255}, {"count": 0}, {"count": (1 << 53) - 1}, {"sequence": (1 << 53) - 1},
        {"time": "1970-01-01T00:00:00+00:00"}, {"time": "2262-04-11T23:47:16+00:00"}, {"unit": None}, {"allow": []},
        {"more": json.loads("[" * 7 + "]" * 7)}, {"event": "refused", "status": 126, "message": ""},
        {"event": "refused", "status": 127, "message": ""},
    ],
)  # fmt: skip
def test_the_last_values_that_are_right(changed: dict[str, Any]) -> None:
    assert parsed(json.dumps(record("denied") | changed).encode(), "log:3").where == "log:3"


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{}", b"[]", b"7", b"{", b'"x"', b"\xff\xfe", b"null", b"[" * 100_000, b'{"version": NaN}',
        b" " * (MAX_LINE + 1), b'{"version": 1', b"9" * 5000,
    ],
)  # fmt: skip
def test_other_lines_are_bad(text: bytes) -> None:
    with pytest.raises(BadLineError, match=r"^log:1: not a record of enforce: "):
        parsed(text, "log:1")


def test_a_record_without_the_fields_that_came_later() -> None:
    old = record("start")
    del old["sequence"]
    read = parsed(json.dumps(old).encode(), "log:1")
    assert (read.sequence, read.uid) == (0, "")


def test_rules_have_nothing_that_a_program_varies() -> None:
    assert rule() == "ptrace"
    assert rule(call="0x7f(0x1)", number=127) == rule(call="made_up()", arch="vax") == rule(call=None) == "unknown calls"
    assert rule(ungranted=["path /etc/shadow: read, write"]) == "path: read, write"
    assert rule(ungranted=['path "/a: b": read', "path /c: read", "path /c: make"]) == "path: make, path: read"
    assert rule(ungranted=["tcp connect: 443"]) == "tcp connect: 443"
    assert rule(ungranted=["tcp connect example.org: 443"]) == "tcp connect example.org: 443"
    assert rule(ungranted=["unix connect /run/x.sock"]) == "unix connect"
    assert rule(ungranted=["listen(2) on a socket without a port"]) == "no line would grant it"


def test_services_are_not_instances() -> None:
    units = {"a.service": "a.service", "a@b:1.service": "a@.service", "docker-1.scope": "", None: ""}
    assert {unit: parsed(line("start", unit=unit), "").service for unit in units} == units


def test_the_policy_of_a_denial_is_the_first_that_denies_it() -> None:
    two = [{"file": "a", "sha256": ""}, {"file": "b", "sha256": ""}]
    assert parsed(line("denied", policies=two, allow=[{"file": "b", "line": ""}]), "").policy == "b"
    assert parsed(line("denied", policies=two, allow=[]), "").policy == "a"
    assert parsed(line("denied", policies=[], allow=[]), "").policy == ""


def test_repetitions_are_of_one_kind() -> None:
    first = parsed(line("denied", 2), "log:1").kind
    assert parsed(line("denied", 9, count=5, evidence=["x"], time="2027-01-01T00:00:00.000+00:00"), "log:2").kind == first
    assert parsed(line("denied", 2, pid=8), "log:1").kind != first
