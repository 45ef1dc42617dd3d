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
