"""The pages whose `console` and `sh` blocks do and print what stands there (tests/support/console.py).

With CALLFENCE_UPDATE set, a page is written anew instead, to be read through."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import console
import pytest
from needed import needs_root, require

from tests.conftest import COMMANDS

ROOT = Path(__file__).parents[2]
ELSEWHERE = {"services.md"}
"""Pages that other tests run: tests/services/test_page.py."""
PAGES = {
    page.name: page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if console.BLOCK.search(page.read_text()) and page.name not in ELSEWHERE
}
PACKAGES = {"containers.md": ["golang-github-containers-common"], "logs.md": ["strace"], "npm.md": ["npm"]}
"""What a page needs beside git and a compiler."""


@pytest.mark.long
@pytest.mark.only_on("x86_64")  # whose policies the pages show
@pytest.mark.parametrize("name", [name for name in PAGES if name != "README.md"])
def test_the_page_is_what_happens(tmp_path: Path, name: str) -> None:
    require("git", "gcc", "libc6-dev", "libc6-dbg", *PACKAGES.get(name, []))
    compare(PAGES[name], tmp_path)


@needs_root
@pytest.mark.only_on("x86_64")
def test_the_readme_is_what_happens(tmp_path: Path) -> None:
    """Other users make fewer calls."""
    compare(PAGES["README.md"], tmp_path)


def compare(page: Path, folder: Path) -> None:
    happened = console.run(page.read_text(), folder)
    if os.environ.get("CALLFENCE_UPDATE"):
        page.write_text(happened)
        return
    assert happened == page.read_text()


def test_the_demonstration_runs(tmp_path: Path) -> None:
    """`make demo`, which installs callfence before."""
    command = ["sh", ROOT / "samples" / "demo.sh", COMMANDS, tmp_path / "demo"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "Stopped with status 159" in done.stdout


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
