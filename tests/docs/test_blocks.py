"""Every block of the documentation with commands is run by a test, or a comment above it says why not.

`console` and `sh` blocks are run (test_pages.py).  Above any other block with commands stands `<!-- not run: REASON -->` or
`<!-- not run: REASON; FILE -->`: REASON is one of the table, FILE a test or script in the repository that does the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from callfence.policygen.values import frozen

ROOT = Path(__file__).parents[2]
PAGES = sorted(page for folder in (ROOT, ROOT / "docs") for page in folder.glob("*.md") if page.name != "CHANGELOG.md")
RUN = ("console", "sh")
PROGRAMS = (
    "callfence|callfence-run|callfence-sh|enforce|learn|aws|bash|cargo|cc|git|journalctl|kubectl|make|mkdir|npm|oras|pip|pipx|podman|pytest|python3?"
    "|rsync|strace|(?:samples|tools)/[a-z/]+\\.(?:py|sh)"
)
COMMAND = re.compile(rf"^\s*(?:\$ )?(?:\w+=\S+ )*(?:{PROGRAMS})(?: (?!\d|[- ]*$|  )\S.*| *)$", re.MULTILINE)
MARK = re.compile(r"<!-- not run: (.*?)(?:; (\S+))? -->\s*")
REASONS = {
    "a synopsis": "what a command takes, not a command",
    "asks a person": "a terminal and answers are needed",
    "installs packages": "from a registry, which tests do not ask",
    "needs Kubernetes": "a cluster",
    "needs a container image": "the file named makes one",
    "needs a fleet": "logs of many machines",
    "needs a registry": "of containers, and keys",
    "needs npm, pip or cargo": "and what it would download; docs/npm.md runs the same without a network",
    "needs root and a systemd": "the file named has a system of its own",
    "run by another program": "the file named runs what is shown",
    "runs for minutes": "the tests, or a measurement",
    "runs until it is stopped": "the file named stops it",
    "shows one part": "of what the file named does in full",
    "the kernel's audit decides": "what is printed depends on whether it is on",
}
"""Why a block is not run: what the reason means."""


@frozen
class Block:
    page: str
    line: int
    language: str
    """Empty if the block is indented."""
    text: str
    above: str
    """The comment above it, if there is one."""

    @property
    def has_commands(self) -> bool:
        return self.language in RUN or (self.language in ("", "text") and COMMAND.search(self.text) is not None)


def blocks() -> list[Block]:
    """The blocks of all pages; those in comments are not among them."""
    found = []
    for page in PAGES:
        above = ""
        for token in MarkdownIt("commonmark").enable("table").parse(page.read_text()):
            if token.type in ("fence", "code_block"):
                assert token.map
                found.append(Block(str(page.relative_to(ROOT)), token.map[0] + 1, token.info, token.content, above))
            above = token.content if token.type == "html_block" else ""
    return found


BLOCKS = blocks()


def test_each_command_is_run_or_it_is_said_why_not() -> None:
    not_run = [one for one in BLOCKS if one.has_commands and one.language not in RUN]
    assert [f"{one.page}:{one.line}" for one in not_run if not MARK.search(one.above)] == []


def test_each_mark_is_needed() -> None:
    marked = [one for one in BLOCKS if MARK.search(one.above)]
    assert [f"{one.page}:{one.line}" for one in marked if not one.has_commands or one.language in RUN] == []
    assert len(marked) == sum(len(MARK.findall(page.read_text())) for page in PAGES)


def test_each_reason_is_known_and_used() -> None:
    marks = [found for one in BLOCKS for found in MARK.findall(one.above)]
    assert {reason for reason, _ in marks} == REASONS.keys()
    assert [file for _, file in marks if file and not (ROOT / file).exists()] == []


@pytest.mark.parametrize(
    ("text", "is_command"),
    [
        ("$ learn ./app\n", True),
        ("learn -q ./app   # comment\n", True),
        ("CALLFENCE_SH=learn npm ci\n", True),
        ("x\nmake\n", True),
        ("callfence 1\narch x86_64\n", False),
        ("callfence: connect(fd=3) waits\n", False),
        ("enforce: denied socket()\n", False),
        ("import callfence\n", False),
        ("path ./data: read\n", False),
        ("enforce  ---+---\n", False),
    ],
)
def test_what_a_command_is(text: str, is_command: bool) -> None:
    assert (COMMAND.search(text) is not None) == is_command
