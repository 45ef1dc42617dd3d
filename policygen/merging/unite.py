"""Several policies as one, which allows what any of them allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.files import algebra
from policygen.implied.resolve import resolved
from policygen.language.document import Document
from policygen.language.layout import Layout, reconcile
from policygen.language.naming import format_action
from policygen.learning.portable import made_portable
from policygen.model import scope_of, scopes
from policygen.phases import in_each
from policygen.sets.join import JoinError, join_entries
from policygen.values import replace
from tracer.abi import Arch, table

if TYPE_CHECKING:
    from policygen.model import Entry, Policy


def unite(ours: Document, theirs: Document) -> Document:
    """Return the document that allows what either allows, with the comments of both.

    Raises JoinError if the two differ in something that has no union: a setting, or the way to deny a call.  The
    table is the newer one.  The result has the architectures of both, and is portable if one of them is.
    """
    policy = _united(ours.policy, theirs.policy)
    return Document(ours.policy, reconcile(Layout(), ours.layout, theirs.layout)).with_policy(policy)


def _united(a: Policy, b: Policy) -> Policy:
    if a.phases or b.phases:
        theirs = {phase.name: phase.triggers for phase in b.phases}
        for phase in a.phases:
            if theirs.get(phase.name, phase.triggers) != phase.triggers:
                raise JoinError(f"phase {phase.name} begins with other calls in each: make both the same")
        return in_each(_united, a, b)
    a, b = _equally_portable(a, b)
    for word, mine, other in (
        ("arm", a.arm, b.arm),
        ("default", format_action(a.default), format_action(b.default)),
        ("unknown", format_action(a.unknown), format_action(b.unknown)),
    ):
        if mine != other:
            raise JoinError(f"one says `{word} {mine}`, the other `{word} {other}`: make both the same")
    for what, differs in _confined(a, b):
        if differs:
            raise JoinError(f"one confines {what}, and the other does not: give both such lines, or none")
    implied = max(a.implied, b.implied)
    entries = {arch: _section(a, b, arch) for arch in Arch if _has(a, b, arch)}
    files = algebra.united(a.files, b.files)
    scope = scope_of({*scopes(a.scope)} & {*scopes(b.scope)})
    optional = a.phases_optional or b.phases_optional
    settings = {"implied": implied, "scope": scope, "table": max(a.table, b.table), "phases_optional": optional}
    return replace(a, entries=entries, files=files, **settings)


def _equally_portable(a: Policy, b: Policy) -> tuple[Policy, Policy]:
    """Return both policies; if only one is portable, the other with its equivalents."""
    if a.portable == b.portable:
        return a, b
    return (a, made_portable(b).policy) if a.portable else (made_portable(a).policy, b)


def _confined(a: Policy, b: Policy) -> list[tuple[str, bool]]:
    """Return what policies confine besides calls, each with whether only one of the two does."""
    parts = {"paths": "files", "connect": "the ports that it connects to", "bind": "the ports that it binds"}
    return [(what, (getattr(a.files, part) is None) != (getattr(b.files, part) is None)) for part, what in parts.items()]


def _has(a: Policy, b: Policy, arch: Arch) -> bool:
    return arch in a.entries or arch in b.entries


def _entry(policy: Policy, other: Policy, arch: Arch, number: int) -> Entry | None:
    """Return what a policy says of a call; what its implied set says, where the other one denies something explicitly."""
    mine, theirs = policy.entries[arch].get(number), other.entries[arch].get(number)
    denies = theirs is not None and not theirs.only_allows
    return resolved(policy).entries[arch].get(number) if mine is None and denies else mine


def _section(a: Policy, b: Policy, arch: Arch) -> dict[int, Entry]:
    if arch not in a.entries or arch not in b.entries:
        return dict(a.entries.get(arch) or b.entries.get(arch) or {})
    section = {}
    for number in dict.fromkeys((*a.entries[arch], *b.entries[arch])):
        ours, theirs = _entry(a, b, arch, number), _entry(b, a, arch, number)
        try:
            entry = join_entries(arch, number, ours, theirs, a.default)
        except JoinError as error:
            raise JoinError(f"{table(arch).by_number[number].name}: {error}") from None
        if entry is not None:
            section[number] = entry
    return section
