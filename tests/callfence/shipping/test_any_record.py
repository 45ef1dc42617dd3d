"""Whatever a line holds: it is a bad line, or it is counted and sent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs

from callfence.shipping.destinations import _lines
from callfence.shipping.otlp import _log_record
from callfence.shipping.records import BadLineError, parsed
from callfence.shipping.tally import Tally
from tests.callfence.shipping.conftest import OF_EVENT, metrics, record

TEXTS = strategies.text(max_size=8)
NUMBERS = strategies.integers() | strategies.floats(allow_nan=False, allow_infinity=False)
VALUES = strategies.recursive(
    strategies.none() | strategies.booleans() | NUMBERS | TEXTS,
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
NAMES = strategies.sampled_from(sorted({name for event in OF_EVENT for name in record(event)} | {"pod", "image", "container"}))


@given(strategies.sampled_from([*OF_EVENT]), strategies.dictionaries(NAMES | TEXTS, VALUES, max_size=4))
def test_any_record(event: str, changed: dict[str, Any]) -> None:
    try:
        read = parsed(json.dumps(record(event) | changed).encode(), "log:1")
    except BadLineError:
        return
    tally = Tally(0)
    tally.fold(read)
    text = "\n".join(_lines(Tally.from_json(json.loads(json.dumps(tally.to_json()))).samples(1.0, {})))
    assert metrics(text)[f'callfence_ship_records_total{{event="{read.event}"}}'] == 1
    text.encode()
    assert encode_logs([_log_record(read)]).resource_logs


@given(strategies.binary(max_size=200))
def test_any_line(line: bytes) -> None:
    with pytest.raises(BadLineError):
        parsed(line, "log:1")
