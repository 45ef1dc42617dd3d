"""The grammar of docs/grammar.md and the parser agree on what a policy is."""

from __future__ import annotations

import itertools
import random
import re
from pathlib import Path
from typing import get_args

import pytest
from calls import parse
from hypothesis import given, settings, strategies as st

from callfence.policygen.errors import Mistake, PolicyError
from tests.conformance.grammar import KINDS, LARK, Deriver, completed, derives

ROOT = Path(__file__).parent.parent.parent
FOLDERS = ("samples", "tests", "callfence", "enforcer", "bench")
POLICIES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.policy"))
ERRORS = (ROOT / "tests/policygen/language/policy_errors.txt").read_text().removeprefix("=== ").split("\n=== ")
STARTS = ("file", "setting", "entry", "grant", "condition")
GRAMMAR_KINDS = ("syntax", "character")


def kind(text: str) -> str:
    """The kind of the text's mistake; "" if it has none."""
    try:
        parse(text, read=lambda name: "")
    except PolicyError as error:
        return error.kind
    return ""


def assert_agree(text: str) -> None:
    """A text whose mistake is of another kind may or may not have one of syntax behind it."""
    found = kind(text)
    if found in ("", "syntax"):
        assert derives(text) == (not found), repr(text)


def derived(seed: int) -> tuple[str, Deriver]:
    deriver, start = Deriver(seed), STARTS[seed % len(STARTS)]
    text = deriver.text(start, 16)
    return completed(f"openat: {text}" if start == "condition" else text), deriver


def test_the_page_lists_the_kinds_of_mistakes() -> None:
    assert tuple(KINDS) == get_args(Mistake)


@pytest.mark.long
def test_what_the_grammar_derives_has_no_mistake_of_syntax() -> None:
    """All productions are in texts that are accepted."""
    accepted = set()
    for seed in range(4000):
        text, deriver = derived(seed)
        found = kind(text)
        assert found not in GRAMMAR_KINDS, repr(text)
        if not found:
            accepted |= deriver.used
    assert accepted == {*LARK.rules}


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: str(path.relative_to(ROOT)))
def test_policies_are_derived(path: Path) -> None:
    assert derives(path.read_text())


def test_texts_with_mistakes() -> None:
    for case in ERRORS:
        assert_agree(case.split("\n", 1)[1].split("\n---\n")[0])


@settings(max_examples=200)
@given(st.integers(0, 1 << 32))
def test_what_is_nearly_derived(seed: int) -> None:
    """A word or mark of a derived text is left out, given twice, or exchanged with one of another."""
    text, _ = derived(seed)
    parts, source = re.findall(r"\w+|\s+|[^\w\s]", text), random.Random(seed)
    if not parts:
        return
    place = source.randrange(len(parts))
    other = source.choice(re.findall(r"\w+|\s+|[^\w\s]", derived(seed + 1)[0]) or [" "])
    for instead in ("", parts[place] * 2, other, "\n", f"{parts[place]} {other}"):
        assert_agree("".join(itertools.chain(parts[:place], [instead], parts[place + 1 :])))
