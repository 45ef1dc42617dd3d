"""The pages whose `console` blocks do and print what stands there.

With CALLFENCE_UPDATE set, a page is written anew instead, to be read through."""

from __future__ import annotations

import os
from pathlib import Path

import console
import pytest
from needed import require

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", ["architectures.md", "production.md", "rehearsal.md", "review.md", "tutorial.md"])
def test_the_page_is_what_happens(tmp_path: Path, name: str) -> None:
    require("git", "gcc", "libc6-dev", "libc6-dbg")
    page = (DOCS / name).read_text()
    assert len(console.BLOCK.findall(page)) > 3
    happened = console.run(page, tmp_path)
    if os.environ.get("CALLFENCE_UPDATE"):
        (DOCS / name).write_text(happened)
        return
    assert happened == page


@pytest.mark.parametrize(
    ("block", "printed", "fitting"),
    [
        ("pid ... ends\n", "pid 7 ends\n", True),
        ("pid ... ends\n", "pid 7 end\n", False),
        ("a\n...\nd\n", "a\nb\nc\nd\n", True),
        ("a\n...\n", "a\n", False),
        ("a\n...\ne\n", "a\nb\n", False),
        ("a.b\n", "axb\n", False),
        ("a\nb\n", "a\n", False),
        ("a\n", "a\nb\n", False),
    ],
)
def test_what_a_placeholder_stands_for(block: str, printed: str, fitting: bool) -> None:
    assert (console.fitted(block, printed) == block) == fitting
