"""Text that stands for values sorts as the values do, and gives them back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st
from lakes import ARGUMENTS, TEXTS, runs

from callfence.lake import keys
from callfence.policygen.recording import model

if TYPE_CHECKING:
    from callfence.policygen.recording.model import Run

ANY = st.text(st.characters(codec=None, exclude_categories=())) | TEXTS
KEYS = st.tuples(st.sampled_from([7, 0xC000003E]), st.sampled_from([0, 3, (1 << 32) - 1]), ARGUMENTS, TEXTS)


@given(ANY, ANY)
def test_text_keeps_the_order(one: str, other: str) -> None:
    """As bytes, by which engines compare."""
    assert (one < other) == (keys.text(one).encode() < keys.text(other).encode())
    assert keys.plain(keys.text(one)) == one


def test_ordinary_text_is_unchanged() -> None:
    assert keys.text("/usr/bin/ä b\n") == "/usr/bin/ä b\n"


@given(KEYS, KEYS)
def test_calls_keep_the_order(one: model.Key, other: model.Key) -> None:
    assert (model.order(one) < model.order(other)) == (keys.call_key(one).encode() < keys.call_key(other).encode())
    assert keys.key(keys.call_key(one)) == one


@pytest.mark.long
@given(runs("a"), runs("a"))
def test_completeness_keeps_the_order(one: Run, other: Run) -> None:
    texts = keys.completeness(one).encode(), keys.completeness(other).encode()
    assert (model.completeness(one) < model.completeness(other)) == (texts[0] < texts[1])
    assert (one == other) == (texts[0] == texts[1])


VERSIONS = [("1.9", "1.10"), ("1.0~rc1", "1.0"), ("1.0", "1.0.1"), ("1.0", "1.0-1"), ("", "0")]


@pytest.mark.parametrize(("older", "newer"), VERSIONS)
def test_versions(older: str, newer: str) -> None:
    assert keys.version_order(older) < keys.version_order(newer)
