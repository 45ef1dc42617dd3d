"""The comments of a carried section: reasons and notes on the entries from which it was carried."""

from __future__ import annotations

from typing import TYPE_CHECKING

from callfence.policygen.language.document import Document
from callfence.policygen.language.layout import Comments, Remarks, Section, is_note
from callfence.policygen.lint.findings import WHY
from callfence.policygen.model import Expression, alternatives
from callfence.policygen.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from callfence.policygen.equivalents.carry import Carried


def with_comments(before: Document, done: Carried) -> Document:
    """Return the carried policy with the comments of the policy `before`; in the new section, an entry or alternative has the
    reasons (`# why:`) and notes of those that it was carried from."""
    after = before.with_policy(done.policy)
    if done.target in before.policy.entries:
        return after
    source = before.layout.sections.get(done.source, Section())
    entries = {}
    for number, entry in done.policy.entries[done.target].items():
        parts = {*alternatives(entry.expression)}
        remarks = Remarks()
        for call, there, here in done.origins.get(number, ()):
            given = source.entries.get(call, Remarks())
            reasons = [*_kept(given.entry.all()), *_kept(given.alternatives.get(there, Comments()).all())]
            remarks = _with_reasons(remarks, here, [line for line in reasons if not is_note(line)], alone=len(parts) == 1)
        for line in _notes(done, source, number):
            remarks = replace(remarks, entry=Comments((), line).join(remarks.entry))
        if remarks != Remarks():
            entries[number] = remarks
    section = Section(arch=Comments((), f"# carried from {done.source}"), entries=entries)
    layout = replace(after.layout, sections={**after.layout.sections, done.target: section})
    return Document(after.policy, layout).with_policy(done.policy)


def _kept(lines: Iterable[str]) -> list[str]:
    return [line for line in lines if line.startswith(WHY) or is_note(line)]


def _with_reasons(remarks: Remarks, part: Expression, reasons: list[str], *, alone: bool) -> Remarks:
    """Return the comments with reasons for an alternative, which may be the entry's only one."""
    old = remarks.entry if alone else remarks.alternatives.get(part, Comments())
    new = Comments((*old.above, *(line for line in reasons if line not in old.above)), old.trailing)
    if new == old:
        return remarks
    return replace(remarks, entry=new) if alone else replace(remarks, alternatives={**remarks.alternatives, part: new})


def _notes(done: Carried, source: Section, number: int) -> list[str]:
    """Return the notes on the source's entry of the same call."""
    call = done.same.get(number)
    remarks = source.entries.get(call, Remarks()) if call is not None else Remarks()
    return [line for line in remarks.entry.all() if is_note(line)][:1]
