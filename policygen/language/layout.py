"""The layout of a policy's text: comments and includes, each with what it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.grants import NOT_CONFINED
from policygen.model import Or
from policygen.values import frozen, made

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policygen.grants import Files
    from policygen.model import Entry, Expression
    from tracer.abi import Arch

SETTINGS = ("callfence", "table", "arm", "default", "unknown", "implied", "portable", "scope", "phases")
"""The words that begin a setting, in canonical order; `arch`, which follows the first, begins a section, and `phase NAME`
declares a phase, after the others."""

NOTE_WORDS = ("floor", "opaque", "portable", "many")
"""The words that begin a note, `# WORD: text`: a comment on an entry that a tool writes and replaces."""


NO_START = "# no start: learned from a process that ran already (learn -p); a program that is started under it is denied calls"
"""The comment at the top of a policy by which a program cannot be started."""


def is_note(comment: str) -> bool:
    """Whether a comment, from its `#` on, was written by a tool."""
    return comment.startswith(tuple(f"# {word}: " for word in NOTE_WORDS))


@frozen
class Comments:
    """The comments of one line of the canonical text, each from its `#` on."""

    above: tuple[str, ...] = ()
    """Comments on lines of their own; '' is a blank line."""
    trailing: str = ""

    def all(self) -> tuple[str, ...]:
        """Return every comment, for lines of their own."""
        return (*self.above, self.trailing) if self.trailing else self.above

    def join(self, later: Comments) -> Comments:
        """Return both comments for one line; the later trailing comment stays on the line."""
        if not later.trailing:
            return Comments(self.above + later.above, self.trailing)
        return Comments(self.all() + later.above, later.trailing)


@frozen
class Include:
    """One `include` line."""

    path: str
    """As written."""
    entries: Mapping[Arch, Mapping[int, Entry]]
    """The entries that the file adds to the policy, including those of files that it includes."""
    files: Files = NOT_CONFINED
    """What the file says of files and ports."""
    comments: Comments = Comments()
    later: tuple[Mapping[Arch, Mapping[int, Entry]], ...] = ()
    """The same in each phase of the policy."""

    @property
    def line(self) -> str:
        return f"include {self.path}"


@frozen
class Remarks:
    """The comments on one entry."""

    entry: Comments = Comments()
    alternatives: Mapping[Expression, Comments] = made(factory=dict)
    """The comments on each of several alternatives, which have lines of their own."""

    def all(self) -> tuple[str, ...]:
        """Every comment."""
        return self.entry.all() + tuple(line for comments in self.alternatives.values() for line in comments.all())

    def settled(self, expression: Expression) -> Remarks:
        """Return the comments as parsing will find them once they are printed with that expression.

        The entry's line is also that of its first alternative: a comment there is the alternative's, unless it is a note.
        Comments on alternatives that the expression does not have move above the entry.
        """
        parts = expression.parts if isinstance(expression, Or) else ()
        entry, there = self.entry, set(parts)
        for alternative, comments in self.alternatives.items():
            if alternative not in there:
                entry = Comments(entry.above + comments.all(), entry.trailing)
        kept = {part: self.alternatives[part] for part in parts if part in self.alternatives}
        if parts:
            first = kept.pop(parts[0], Comments())
            if not is_note(entry.trailing):
                entry, first = Comments(entry.above), Comments((), entry.trailing).join(first)
            if first.trailing:
                entry = Comments(entry.all())
                kept = {parts[0]: Comments((), first.trailing), **kept}
            entry = Comments(entry.above + first.above, entry.trailing)
        return Remarks(entry, kept)


@frozen
class Section:
    """One architecture's part of the text."""

    arch: Comments = Comments()
    """Those on the `arch` line."""
    includes: tuple[Include, ...] = ()
    entries: Mapping[int, Remarks] = made(factory=dict)
    end: tuple[str, ...] = ()
    """Comments below the last entry."""


@frozen
class Layout:
    header: tuple[str, ...] = ()
    """Comments at the top of the file."""
    settings: Mapping[str, Comments] = made(factory=dict)
    """By the setting's word."""
    sections: Mapping[Arch, Section] = made(factory=dict)
    files: Mapping[str, Comments] = made(factory=dict)
    """By the line about files or ports, up to its colon (`Files.lines`)."""


def note_of(layout: Layout, arch: Arch, number: int) -> str:
    """Return the note that a tool wrote on the entry of a call, without its `#`; or ''."""
    section = layout.sections.get(arch)
    remarks = section.entries.get(number, Remarks()) if section else Remarks()
    return next((line.removeprefix("# ") for line in remarks.entry.all() if is_note(line)), "")
