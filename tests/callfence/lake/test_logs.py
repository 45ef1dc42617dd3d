"""A line of a log becomes rows that fit the table, or is refused; no other exception."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given, strategies as st
from lakes import event

from callfence.lake import logs
from callfence.lake.identity import Identity
from callfence.lake.parquet import SCHEMAS
from callfence.policygen.recording.log_records import DENIED

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 1 << 70) | st.floats() | st.text() | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["file", "line", "risk", "level"]), inner),
    max_leaves=6,
)
KINDS = ("start", "denied", "message", "end")


@given(st.sampled_from(KINDS), st.data(), JSON)
def test_any_field_may_be_wrong(kind: str, data: st.DataObject, value: object) -> None:
    fields = json.loads(event(kind, 1))
    fields[data.draw(st.sampled_from(sorted(fields)))] = value
    try:
        rows = [*logs.rows(json.dumps(fields).encode(), Identity())]
    except logs.BadLineError:
        return
    for row in rows:
        pa.array([dict(zip(SCHEMAS["events"].names, row, strict=True))], pa.struct(SCHEMAS["events"]))


@given(st.binary())
def test_any_line(line: bytes) -> None:
    with pytest.raises(logs.BadLineError):
        list(logs.rows(line, Identity()))
    assert not logs.is_log(line)


def test_a_line_that_is_too_long_to_be_read_is_named() -> None:
    """`lines` yields an empty one for it."""
    with pytest.raises(logs.BadLineError, match="a line of more than 256 KiB, which enforce does not write"):
        list(logs.rows(b"", Identity()))


def test_each_policy_that_denies_a_call_has_a_row() -> None:
    fields = json.loads(event(DENIED, 1))
    fields["allow"] = [{"file": "/etc/a.policy", "line": "mkdir: allow", "risk": None}, {"file": "b", "line": "", "risk": None}]
    fields["ungranted"] = ["path /x: make"]
    names = SCHEMAS["events"].names
    rows = [dict(zip(names, row, strict=True)) for row in logs.rows(json.dumps(fields).encode(), Identity("web1"))]
    assert [(row["policy"], row["line"], row["host"], row["node"]) for row in rows] == [
        ("a", "mkdir: allow", "web1", "node1"),
        ("b", "path /x: make", "web1", "node1"),
    ]
    assert {row["time_ns"] for row in rows} == {1_795_953_600 * 10**9}


IDENTITY = {"host": "node1", "version": "", "version_order": "", "policy": "app"}
HEAD = {"time_ns": 1_795_953_600 * 10**9, "run": "00000001", **IDENTITY, "node": "node1", "digest": "0" * 64}
NO_CALL = dict.fromkeys(("verdict", "line", "risk", "denied_call", "executable", "site", "phase"), "")


@pytest.mark.parametrize(
    ("kind", "changed", "expected"),
    [
        ("start", {}, {"mode": "audit", **NO_CALL, "times": 0, "lost": 0, "complete": True}),
        ("message", {}, {"mode": "", **NO_CALL, "times": 0, "lost": 0, "complete": True}),
        ("end", {"lost": 7, "complete": False}, {"mode": "", **NO_CALL, "times": 0, "lost": 7, "complete": False}),
        (
            "denied",
            {"mode": "enforce", "phase": "serve"},
            {
                "mode": "enforce", "verdict": "audited", "line": "mkdir: allow", "risk": "warning",
                "denied_call": 'mkdir(pathname="/x", mode=0755)', "executable": "/app", "site": "app+0x1", "phase": "serve",
                "times": 3, "lost": 0, "complete": True,
            },
        ),
        (  # what no policy allows
            "denied",
            {"allow": [], "ungranted": ["path /x: make"], "ungrantable": ["listen(2)"]},
            {
                "mode": "", "verdict": "audited", "line": "path /x: make; listen(2)", "risk": "",
                "denied_call": 'mkdir(pathname="/x", mode=0755)', "executable": "/app", "site": "app+0x1", "phase": "",
                "times": 3, "lost": 0, "complete": True,
            },
        ),
    ],
)  # fmt: skip
def test_each_column_has_what_the_record_says(kind: str, changed: dict[str, object], expected: dict[str, object]) -> None:
    record = json.dumps(json.loads(event(kind, 1)) | changed)
    (row,) = logs.rows(f" {record}\n".encode(), Identity())
    assert dict(zip(SCHEMAS["events"].names, row, strict=True)) == {"event": kind, **HEAD, **expected, "record": record}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"version": 2}, "newer"), ({"event": "begun"}, "event 'begun' is none of start"), ({"count": -1}, "-1 is not a count"),
        ({"count": 1 << 64}, "is not a count"), ({"count": True}, "True is not a count"), ({"site": 5}, "5 is not text"),
        ({"allow": [{"file": "a", "line": "", "risk": {"level": "high"}}]}, "the risk 'high' is unknown"),
        ({"time": "1969-12-31T23:59:59+00:00"}, "is not a count"), ({"time": "2026-11-29T12:00:00"}, "or cut"),
    ],
)  # fmt: skip
def test_a_value_that_no_record_has_is_refused(changed: dict[str, object], reason: str) -> None:
    record = json.loads(event(DENIED, 1)) | changed
    with pytest.raises(logs.BadLineError, match=reason):
        list(logs.rows(json.dumps(record).encode(), Identity()))
