"""A policy together with the comments and includes of its text."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from callfence.policygen import reading
from callfence.policygen.errors import PolicyError
from callfence.policygen.language.layout import NO_START, NOTE_WORDS, Comments, Include, Layout, Remarks, Section, is_note
from callfence.policygen.language.normal import normal
from callfence.policygen.language.printer import EXPLANATIONS, print_policy, settled
from callfence.policygen.model import ABSTRACT, SIGNALS, Policy, scopes
from callfence.policygen.text import printable
from callfence.policygen.values import field, frozen, replace
from callfence.tracer.abi import NATIVE, Arch, table

__all__ = [
    "NOTE_WORDS", "Document", "PolicyError", "included", "new_document", "newest_table", "parse", "parse_file", "read_text",
]  # fmt: skip

Notes = Mapping[tuple[Arch, int], str]
"""The tools' notes on the entries of syscalls: `WORD: text`, with one of NOTE_WORDS."""


@frozen
class Document:
    """A policy in normal form, with the comments and includes of its text and the statements they belong to."""

    policy: Policy
    layout: Layout = field(factory=Layout)

    def text(self) -> str:
        """Return the canonical text with all comments.  Parsing it gives an equal document."""
        return print_policy(self.policy, self.layout)

    @property
    def lacks_start(self) -> bool:
        """Whether a comment says that the policy was learned without the program's start (`NO_START`)."""
        return NO_START in self.layout.header

    def with_start(self, has_start: bool) -> Document:
        """Return the document without the comment NO_START if `has_start`, else with it."""
        header = tuple(line for line in self.layout.header if line != NO_START)
        return Document(self.policy, replace(self.layout, header=header if has_start else (*header, NO_START)))

    def with_scope(self, scope: str) -> Document:
        """Return the document with another scope, and a comment on its line that explains it."""
        settings = {word: comments for word, comments in self.layout.settings.items() if word != "scope"}
        if ABSTRACT in scopes(scope):
            settings["scope"] = Comments((), "# reach only the program's own processes")
        elif scope != SIGNALS:
            settings["scope"] = Comments((), "# it signals processes that it did not start, or looks into them")
        return Document(replace(self.policy, scope=scope), replace(self.layout, settings=settings))

    def inlined(self) -> Document:
        """Return the document without includes: the entries of the included files are written out."""
        sections = {arch: replace(section, includes=()) for arch, section in self.layout.sections.items()}
        return Document(self.policy, replace(self.layout, sections=sections))

    def with_note(self, arch: Arch, number: int, note: str) -> Document:
        """Return the document with a note on the entry of a call, which the policy has."""
        section = self.layout.sections.get(arch, Section())
        remarks = _with_note(section.entries.get(number, Remarks()), note).settled(self.policy.entries[arch][number].expression)
        changed = replace(section, entries={**section.entries, number: remarks})
        return Document(self.policy, replace(self.layout, sections={**self.layout.sections, arch: changed}))

    def with_policy(self, policy: Policy, notes: Notes | None = None) -> Document:
        """Return the document with another policy and the same comments.

        A comment on something that still exists stays there.  The comments of a removed alternative move above the syscall's
        entry; those of a removed entry to the end of the section; those of a removed architecture, setting or line about files
        or hosts to the top of the file.  `notes` replace the existing notes; None keeps them.  An include whose file
        differs from the new policy becomes a comment, and its entries are written out."""
        policy = normal(policy)
        sections: dict[Arch, Section] = {}
        layout = settled(policy, self.layout)
        header = layout.header
        for arch in Arch:
            section = self.layout.sections.get(arch, Section())
            if arch in policy.entries:
                own = None if notes is None else {n: note for (of, n), note in notes.items() if of is arch}
                sections[arch] = _section(section, policy, arch, own)
            else:
                header += _orphans(section)
        sections = {arch: section for arch, section in sections.items() if section != Section()}
        return Document(policy, replace(layout, header=header, sections=sections))


def parse(text: str, filename: str = "<policy>", *, read: Callable[[str], str] | None = None) -> Document:
    """Parse the text of a policy.  Raises PolicyError for a mistake in it, or in an included file.

    `read` takes the name of an included file, relative to the folder of `filename`, and returns its text or raises OSError.
    Without `read`, an `include` line is an error."""
    from callfence.policygen.language.parser import parse_policy  # a first learn writes a policy and reads none

    return Document(*parse_policy(text, filename, read))


def newest_table() -> str:
    """Return the line for texts that are no policies of their own, but have an entry of any call that callfence knows."""
    return "table {}.{}\n".format(*table(NATIVE).versions()[-1])  # every architecture has the same versions


def parse_file(path: str | os.PathLike[str]) -> Document:
    """Parse a policy file, with the files that it includes.  Raises PolicyError for a mistake in one of them, or if an included
    file cannot be read; OSError if the file itself cannot be read."""
    filename = os.fspath(path)
    return parse(read_text(filename), filename, read=included(filename))


def read_text(name: str) -> str:
    """Return the text of a policy file.  Raises PolicyError if it is not UTF-8, OSError as `reading.read` does."""
    from callfence.policygen.language.lexer import decode

    return decode(reading.read(name), name)


def included(policy: str) -> Callable[[str], str]:
    """Return the function that `parse` takes as `read`, for a policy in the file `policy`: it reads only files below that
    file's folder (`reading.below`)."""
    from callfence.policygen.language.lexer import decode

    read = reading.below(policy)
    return lambda name: decode(read(name), name)


def new_document(policy: Policy, name: str, notes: Notes | None = None) -> Document:
    """Return the document of a new policy, with comments that explain it; `name`, that of the program, is in the first one."""
    settings = {word: Comments((), text) for word, text in EXPLANATIONS.items()}
    layout = Layout((f"# callfence policy for: {printable(name)}",), settings)
    return Document(policy, layout).with_policy(policy, notes)


def _section(section: Section, policy: Policy, arch: Arch, notes: Mapping[int, str] | None) -> Section:
    entries = policy.entries[arch]
    remarks_by_call: dict[int, Remarks] = {}
    end = section.end
    for number, remarks in section.entries.items():
        remarks = remarks if notes is None else _without_notes(remarks)
        if number in entries:
            remarks_by_call[number] = remarks
        else:
            end += tuple(line for line in _without_notes(remarks).all() if line)
    for number, note in (notes or {}).items():
        if number in entries:
            remarks_by_call[number] = _with_note(remarks_by_call.get(number, Remarks()), note)
    remarks_by_call = {number: remarks.settled(entries[number].expression) for number, remarks in remarks_by_call.items()}
    remarks_by_call = {number: remarks for number, remarks in remarks_by_call.items() if remarks != Remarks()}
    includes = [include for include in section.includes if _still_says(include, policy)]
    gone = [include for include in section.includes if not _still_says(include, policy)]
    for include in gone:
        end += (*include.comments.all(), f"# include {include.path}: replaced by its entries, because they changed")
    return Section(section.arch, tuple(includes), remarks_by_call, end)


def _still_says(include: Include, policy: Policy) -> bool:
    """Whether the policy has every entry of the included file unchanged."""
    later = [phase.entries for phase in policy.phases]
    lines = policy.files.lines(whole=True)
    if len(include.later) != len(later) or not include.files.lines().items() <= lines.items():
        return False
    return all(
        own.get(arch, {}).get(number) == included.get(arch, {}).get(number)
        for own, included in zip((policy.entries, *later), (include.entries, *include.later), strict=True)
        for arch, entries in include.entries.items()
        for number in entries
    )


def _without_notes(remarks: Remarks) -> Remarks:
    entry = remarks.entry
    above = tuple(line for line in entry.above if not is_note(line))
    trailing = "" if is_note(entry.trailing) else entry.trailing
    return replace(remarks, entry=Comments(above, trailing))


def _with_note(remarks: Remarks, note: str) -> Remarks:
    """Return the comments with a note added: on the entry's line, or above it if the line already has a comment."""
    text = f"# {note}"
    if not is_note(text) or "\n" in text:
        raise ValueError(f"a note begins with one of {', '.join(NOTE_WORDS)}, and is one line: {note!r}")
    return replace(remarks, entry=Comments((), text).join(remarks.entry))


def _orphans(section: Section) -> tuple[str, ...]:
    """Return all comments of a removed section, except notes."""
    lines = section.arch.all() + tuple(line for include in section.includes for line in include.comments.all())
    for remarks in section.entries.values():
        lines += _without_notes(remarks).all()
    return tuple(line for line in lines + section.end if line)
