"""Conflicts of a merge, with git's conflict markers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policygen.language.document import Document
    from policygen.merging.threeway import Conflict


def with_markers(document: Document, conflicts: Sequence[Conflict]) -> str:
    """Return the text of a merged document, each conflict between markers.  It parses again once the conflicts are resolved."""
    lines = document.text().splitlines()
    for conflict in conflicts:
        start, end = _place(lines, conflict)
        ours = lines[start:end] if conflict.ours else []
        theirs, base = conflict.theirs.splitlines(), conflict.base.splitlines()
        lines[start:end] = ["<<<<<<< ours", *ours, "||||||| base", *base, "=======", *theirs, ">>>>>>> theirs"]
    return "".join(f"{line}\n" for line in lines)


def _place(lines: Sequence[str], conflict: Conflict) -> tuple[int, int]:
    """Return the first and last line of the entry or setting in conflict; all but an entry's first line are indented."""
    start = 0
    if conflict.arch is not None:
        start = lines.index(next(line for line in lines if line.split("#")[0].split() == ["arch", str(conflict.arch)]))
    head = conflict.name + (" " if conflict.arch is None else ":")
    start = next(index for index in range(start, len(lines)) if lines[index].startswith(head))
    end = start + 1
    while end < len(lines) and lines[end].startswith(" "):
        end += 1
    return start, end
