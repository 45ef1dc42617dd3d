"""The layout of a policy's text: its comments and includes, each with the statement that it belongs to.

The layouts of two texts can be merged (`reconcile`), with or without the layout of their common base.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

from callfence.policygen.grants import NOT_CONFINED, Files
from callfence.policygen.model import Entry, Expression, Or
from callfence.policygen.values import field, frozen, replace
from callfence.tracer.abi import Arch

K = TypeVar("K", bound=Hashable)

SETTINGS = ("callfence", "table", "arm", "default", "unknown", "implied", "portable", "scope", "phases")
"""The words that begin a setting, in canonical order; `arch`, which follows the first, begins a section, and `phase NAME`
declares a phase, after the others."""

NOTE_WORDS = ("floor", "opaque", "portable", "many", "later")
"""The words that begin a note, `# WORD: text`: a comment on an entry that a tool writes and replaces."""


NO_START = "# no start: learned from a process that ran already (learn --pid): a program started under it is denied calls"
"""The comment at the top of a policy learned without the program's start, under which no program can be started."""


def is_note(comment: str) -> bool:
    """Return whether a comment, given from its `#` on, is a note: written by a tool, which may replace it."""
    return comment.startswith(tuple(f"# {word}: " for word in NOTE_WORDS))


@frozen
class Comments:
    """The comments that belong to one line of the canonical text.  Each includes its `#`."""

    above: tuple[str, ...] = ()
    """The comments on lines of their own; '' is a blank line."""
    trailing: str = ""

    def all(self) -> tuple[str, ...]:
        """Return all comments, in order, as if each were on a line of its own."""
        return (*self.above, self.trailing) if self.trailing else self.above

    def join(self, later: Comments) -> Comments:
        """Return the comments of a line into which this line and a later one are joined.  If both have a trailing comment, that
        of `later` stays on the line."""
        if not later.trailing:
            return Comments(self.above + later.above, self.trailing)
        return Comments(self.all() + later.above, later.trailing)


@frozen
class Include:
    """One `include` line."""

    path: str
    """The file's name, as written."""
    entries: Mapping[Arch, Mapping[int, Entry]]
    """The entries that the file adds to the policy, including those of files that it includes."""
    files: Files = NOT_CONFINED
    """The file's lines about files and ports."""
    comments: Comments = Comments()
    later: tuple[Mapping[Arch, Mapping[int, Entry]], ...] = ()
    """The entries that the file adds in each phase of the policy."""

    @property
    def line(self) -> str:
        return f"include {self.path}"


@frozen
class Remarks:
    """The comments on one entry and on its alternatives."""

    entry: Comments = Comments()
    alternatives: Mapping[Expression, Comments] = field(factory=dict)
    """The comments on each alternative, if the entry has several, each on its own line."""

    def all(self) -> tuple[str, ...]:
        """Return all comments of the entry."""
        return self.entry.all() + tuple(line for comments in self.alternatives.values() for line in comments.all())

    def settled(self, expression: Expression) -> Remarks:
        """Return the comments as parsing would attach them, once they have been printed with an entry that has this expression.

        A comment on the entry's line belongs to its first alternative, unless it is a note.  Comments on alternatives that the
        expression lacks move above the entry."""
        parts = expression.parts if isinstance(expression, Or) else ()
        entry, there = self.entry, set(parts)
        for alternative, comments in self.alternatives.items():
            if alternative not in there:
                entry = Comments(entry.above + comments.all(), entry.trailing)
        remaining = {part: self.alternatives[part] for part in parts if part in self.alternatives}
        if parts:
            first = remaining.pop(parts[0], Comments())
            if not is_note(entry.trailing):
                entry, first = Comments(entry.above), Comments((), entry.trailing).join(first)
            if first.trailing:
                entry = Comments(entry.all())
                remaining = {parts[0]: Comments((), first.trailing), **remaining}
            entry = Comments(entry.above + first.above, entry.trailing)
        return Remarks(entry, remaining)


@frozen
class Section:
    """The part of the text that is about one architecture."""

    arch: Comments = Comments()
    """The comments on the `arch` line."""
    includes: tuple[Include, ...] = ()
    entries: Mapping[int, Remarks] = field(factory=dict)
    end: tuple[str, ...] = ()
    """The comments below the last entry."""


@frozen
class Layout:
    header: tuple[str, ...] = ()
    """The comments at the top of the file."""
    settings: Mapping[str, Comments] = field(factory=dict)
    """Setting's word -> its comments."""
    sections: Mapping[Arch, Section] = field(factory=dict)
    files: Mapping[str, Comments] = field(factory=dict)
    """Line about files or ports, up to its colon (`Files.lines`) -> its comments."""


def note_of(layout: Layout, arch: Arch, number: int) -> str:
    """Return the note that a tool wrote on the entry of a call, without its `#`; '' if the entry has no note."""
    section = layout.sections.get(arch)
    remarks = section.entries.get(number, Remarks()) if section else Remarks()
    return next((line.removeprefix("# ") for line in remarks.entry.all() if is_note(line)), "")


def reconcile(base: Layout, ours: Layout, theirs: Layout) -> Layout:
    """Merge two layouts: keep what both have and what either side added to the base, and drop what either side removed from it.

    With an empty base, nothing is dropped.  Of two different trailing comments on a line, that of `theirs` moves above the
    line."""
    arches = dict.fromkeys((*ours.sections, *theirs.sections))
    sections = {arch: _section(*(layout.sections.get(arch, Section()) for layout in (base, ours, theirs))) for arch in arches}
    return Layout(
        _lines(base.header, ours.header, theirs.header),
        _by_key(base.settings, ours.settings, theirs.settings),
        {arch: section for arch, section in sections.items() if section != Section()},
        _by_key(base.files, ours.files, theirs.files),
    )


def _section(base: Section, ours: Section, theirs: Section) -> Section:
    numbers = dict.fromkeys((*ours.entries, *theirs.entries))
    entries = {n: _remarks(*(section.entries.get(n, Remarks()) for section in (base, ours, theirs))) for n in numbers}
    return Section(
        _comments(base.arch, ours.arch, theirs.arch),
        _includes(base.includes, ours.includes, theirs.includes),
        {number: remarks for number, remarks in entries.items() if remarks != Remarks()},
        _lines(base.end, ours.end, theirs.end),
    )


def _remarks(base: Remarks, ours: Remarks, theirs: Remarks) -> Remarks:
    return Remarks(
        _comments(base.entry, ours.entry, theirs.entry), _by_key(base.alternatives, ours.alternatives, theirs.alternatives)
    )


def _by_key(base: Mapping[K, Comments], ours: Mapping[K, Comments], theirs: Mapping[K, Comments]) -> dict[K, Comments]:
    keys = dict.fromkeys((*ours, *theirs))
    result = {key: _comments(*(comments.get(key, Comments()) for comments in (base, ours, theirs))) for key in keys}
    return {key: comments for key, comments in result.items() if comments != Comments()}


def _comments(base: Comments, ours: Comments, theirs: Comments) -> Comments:
    above = _lines(base.above, ours.above, theirs.above)
    if ours.trailing in (base.trailing, theirs.trailing):
        return Comments(above, theirs.trailing)
    if theirs.trailing in ("", base.trailing, *above):
        return Comments(above, ours.trailing)
    if not ours.trailing:
        return Comments(above, theirs.trailing)
    return Comments((*above, theirs.trailing), ours.trailing)


def _lines(base: tuple[str, ...], ours: tuple[str, ...], theirs: tuple[str, ...]) -> tuple[str, ...]:
    """Return the lines of `ours` in order, then those that `theirs` added; blank lines are taken from `ours`."""
    if ours in (base, theirs):
        return theirs
    if theirs == base:
        return ours
    old, there = set(base), set(theirs)
    remaining = tuple(line for line in ours if not line or line in there or line not in old)
    known = old.union(ours)
    return remaining + tuple(line for line in theirs if line and line not in known)


def _includes(base: tuple[Include, ...], ours: tuple[Include, ...], theirs: tuple[Include, ...]) -> tuple[Include, ...]:
    old, here, there = ({include.path: include.comments for include in includes} for includes in (base, ours, theirs))
    comments = _by_key(old, here, there)
    remaining = (include for include in ours if include.path in there or include.path not in old)
    added = (include for include in theirs if include.path not in old and include.path not in here)
    return tuple(replace(include, comments=comments.get(include.path, Comments())) for include in (*remaining, *added))
