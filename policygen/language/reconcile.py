"""The comments and includes of two texts, merged; with or without the text that both were made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.language.layout import Comments, Include, Layout, Remarks, Section

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping
    from typing import TypeVar

    K = TypeVar("K", bound=Hashable)


def reconcile(base: Layout, ours: Layout, theirs: Layout) -> Layout:
    """Merge two layouts: keep what both have and what either added to the base, drop what either removed from it.

    With an empty base, that is everything.  Of two trailing comments, theirs moves above the line.
    """
    arches = dict.fromkeys((*ours.sections, *theirs.sections))
    sections = {arch: _section(*(one.sections.get(arch, Section()) for one in (base, ours, theirs))) for arch in arches}
    return Layout(
        _lines(base.header, ours.header, theirs.header),
        _by_key(base.settings, ours.settings, theirs.settings),
        {arch: section for arch, section in sections.items() if section != Section()},
        _by_key(base.files, ours.files, theirs.files),
    )


def _section(base: Section, ours: Section, theirs: Section) -> Section:
    numbers = dict.fromkeys((*ours.entries, *theirs.entries))
    entries = {n: _remarks(*(one.entries.get(n, Remarks()) for one in (base, ours, theirs))) for n in numbers}
    return Section(
        _comments(base.arch, ours.arch, theirs.arch),
        _includes(base.includes, ours.includes, theirs.includes),
        {number: remarks for number, remarks in entries.items() if remarks != Remarks()},
        _lines(base.end, ours.end, theirs.end),
    )


def _remarks(base: Remarks, ours: Remarks, theirs: Remarks) -> Remarks:
    return Remarks(
        _comments(base.entry, ours.entry, theirs.entry),
        _by_key(base.alternatives, ours.alternatives, theirs.alternatives),
    )


def _by_key(base: Mapping[K, Comments], ours: Mapping[K, Comments], theirs: Mapping[K, Comments]) -> dict[K, Comments]:
    keys = dict.fromkeys((*ours, *theirs))
    found = {key: _comments(*(one.get(key, Comments()) for one in (base, ours, theirs))) for key in keys}
    return {key: comments for key, comments in found.items() if comments != Comments()}


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
    """Return our lines in order, then the lines that they added; blank lines are ours."""
    if ours in (base, theirs):
        return theirs
    if theirs == base:
        return ours
    kept = tuple(line for line in ours if not line or line in theirs or line not in base)
    return kept + tuple(line for line in theirs if line and line not in base and line not in ours)


def _includes(
    base: tuple[Include, ...], ours: tuple[Include, ...], theirs: tuple[Include, ...]
) -> tuple[Include, ...]:
    was, there, here = ({include.path for include in one} for one in (base, theirs, ours))
    kept = tuple(include for include in ours if include.path in there or include.path not in was)
    return kept + tuple(include for include in theirs if include.path not in was | here)
