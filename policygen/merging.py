"""Merge policies: the union, which allows what any of them allows, and the three-way merge for git."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from callfence.policygen.files import algebra
from callfence.policygen.files.algebra import granted
from callfence.policygen.files.generalise import moving, with_equal_rights
from callfence.policygen.grants import written
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.language.document import Document
from callfence.policygen.language.layout import Layout, reconcile
from callfence.policygen.language.naming import format_action, format_entry
from callfence.policygen.language.normal import normal, normal_entry
from callfence.policygen.learning.portable import made_portable
from callfence.policygen.model import ALLOW, Action, Always, And, Entry, Or, Phase, alternatives, scope_of, scopes
from callfence.policygen.phases import in_each, names_of
from callfence.policygen.sets.algebra import FALSE, TRUE, Space, TooComplexError
from callfence.policygen.sets.express import minimise
from callfence.policygen.sets.join import JoinError, join_entries
from callfence.policygen.sets.region import space, to_bdd
from callfence.policygen.values import frozen, replace
from callfence.tracer.abi import Arch, Argument, name_of, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from callfence.policygen.grants import Files
    from callfence.policygen.model import Expression, Policy

def unite(ours: Document, theirs: Document) -> Document:
    """Return the document that allows everything that at least one of two documents allows, with the comments of both.

    The table is the newer of the two.  The result has the architectures of both, and is portable if one of them is.  Raises
    JoinError if the two have no union: a setting differs, or one call is denied, or allowed, with different actions."""
    policy = _united(ours.policy, theirs.policy)
    return Document(ours.policy, reconcile(Layout(), ours.layout, theirs.layout)).with_policy(policy)


def _united(a: Policy, b: Policy) -> Policy:
    if a.phases or b.phases:
        theirs = {phase.name: phase.triggers for phase in b.phases}
        for phase in a.phases:
            if theirs.get(phase.name, phase.triggers) != phase.triggers:
                raise JoinError(f"phase {phase.name} begins at different calls in the two policies: make the triggers the same")
        return in_each(_united, a, b)
    a, b = _equally_portable(a, b)
    for word, mine, other in (
        ("arm", a.arm, b.arm),
        ("default", format_action(a.default), format_action(b.default)),
        ("unknown", format_action(a.unknown), format_action(b.unknown)),
    ):
        if mine != other:
            raise JoinError(f"one policy has `{word} {mine}`, the other `{word} {other}`: make both the same")
    if a.table != b.table and a.unknown.may_allow:
        raise JoinError("the tables differ, and calls that are newer than a table may run: make the tables the same")
    for what, differs in _confined(a, b):
        if differs:
            raise JoinError(f"one policy confines {what} and the other does not: give both such lines, or neither")
    implied = max(a.implied, b.implied)
    entries = {arch: _section(a, b, arch) for arch in Arch if arch in a.entries or arch in b.entries}
    files = algebra.united(a.files, b.files)
    files = _with_equal_rights(files, a.files, b.files)
    scope = scope_of({*scopes(a.scope)} & {*scopes(b.scope)})
    optional = a.phases_optional or b.phases_optional
    settings = {"implied": implied, "scope": scope, "table": max(a.table, b.table), "phases_optional": optional}
    return replace(a, entries=entries, files=files, **settings)


def _with_equal_rights(files: Files, a: Files, b: Files) -> Files:
    """Return the files that two policies make together, in which files can still be moved between folders."""
    if files.paths is None:
        return files
    return replace(files, paths=algebra.reduced(with_equal_rights(files.paths, a.grants, b.grants)))


def _equally_portable(a: Policy, b: Policy) -> tuple[Policy, Policy]:
    """Return both policies; if only one is portable, make the other portable too."""
    if a.portable == b.portable:
        return a, b
    return (a, made_portable(b).policy) if a.portable else (made_portable(a).policy, b)


def _confined(a: Policy, b: Policy) -> list[tuple[str, bool]]:
    """Return what policies confine besides calls, each with whether exactly one of the two confines it."""
    parts = {
        "paths": "files",
        "connect": "the ports that it connects to",
        "bind": "the ports that it binds",
        "send": "the UDP ports that it sends to",
        "unix": "the unix sockets that it connects to",
        "query": "the names that it looks up",
    }
    return [(what, (getattr(a.files, part) is None) != (getattr(b.files, part) is None)) for part, what in parts.items()]


def _entry(policy: Policy, other: Policy, arch: Arch, number: int) -> Entry | None:
    """Return a policy's own entry for a call; with its implied set added, if the other policy denies something explicitly."""
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
            raise JoinError(f"{name_of(arch, number)}: {error}") from None
        if entry is not None:
            section[number] = entry
    return section


T = TypeVar("T")

MAX_PRODUCT = 1024
"""The most pairs of alternatives that are intersected if both sides narrow a call."""


@frozen
class Conflict:
    """A part in which three policies differ and cannot be merged.  The merged document has the text of `ours` there."""

    arch: Arch | None
    """None for a setting."""
    name: str
    """Name of the call, or word of the setting."""
    why: str
    base: str
    """The text of the part in each of the three policies, of one or more lines; '' if a policy lacks it."""
    ours: str
    theirs: str


class _ConflictError(Exception):
    pass


def merge_documents(base: Document, ours: Document, theirs: Document) -> tuple[Document, tuple[Conflict, ...]]:
    """Return the merged document, and its conflicts.

    A change by only one side is taken, separately for each call and each set of arguments.  There is a conflict if both sides
    have made different changes, or if their changes of one rule cannot be written with the rules of the two sides."""
    policies = [document.policy for document in (base, ours, theirs)]
    conflicts: list[Conflict] = []
    if any(policy.phases for policy in policies):
        phases = _phases(policies, conflicts)
        policy = normal(in_each(lambda a, b, c: _merge(a, b, c, conflicts), *policies, phases=phases))
    else:
        policy = _merge(policies[0], policies[1], policies[2], conflicts)
    each = {(conflict.arch, conflict.name): conflict for conflict in reversed(conflicts)}  # the same in several phases is one
    return Document(ours.policy, reconcile(base.layout, ours.layout, theirs.layout)).with_policy(policy), tuple(
        reversed(each.values())
    )


def _phases(policies: Sequence[Policy], conflicts: list[Conflict]) -> list[Phase]:
    """Return the phases of the merged policy; conflicts are added to `conflicts`."""
    merged = []
    for name in names_of(*policies[1:]):
        phases = [next((phase for phase in policy.phases if phase.name == name), None) for policy in policies]
        triggers = [phase.triggers if phase else () for phase in phases]
        try:
            picked = _pick(*triggers)
        except _ConflictError as error:
            picked = triggers[1]
            texts = (f"phase {name} after {', '.join(trigger)}" if trigger else "" for trigger in triggers)
            conflicts.append(Conflict(None, f"phase {name}", str(error), *texts))
        if picked:
            merged.append(Phase(name, picked, {}))
    return merged


def _merge(a: Policy, b: Policy, c: Policy, conflicts: list[Conflict]) -> Policy:
    if _pick(a.portable, b.portable, c.portable):  # what a side has added to a policy that was not, gets its equivalents
        a, b, c = (policy if policy.portable else made_portable(policy).policy for policy in (a, b, c))
    policy = _settings(a, b, c, conflicts)
    entries: dict[Arch, dict[int, Entry]] = {}
    for arch in Arch:
        if arch in b.entries or arch in c.entries:
            section = _merged_section(a, b, c, arch, conflicts)
            there = _pick(arch in a.entries, arch in b.entries, arch in c.entries)
            if there or section:
                entries[arch] = section
    files, both = algebra.merged(a.files, b.files, c.files)
    folders = moving(files.grants)
    rights, ours, theirs = ([granted(of.grants, folder) for folder in folders] for of in (files, b.files, c.files))
    if rights not in (ours, theirs):
        files = _with_equal_rights(files, b.files, c.files)  # no side has them like that
    policy = normal(replace(policy, entries=entries, files=files))
    for line in both:
        texts = (_file_line(policy, line) for policy in (a, b, c))
        conflicts.append(Conflict(None, line, "one side grants more, and the other grants less below it", *texts))
    return policy


def _pick(base: T, ours: T, theirs: T) -> T:
    """Return the value of the side that has changed it; _ConflictError if both have changed it, differently."""
    if ours in (base, theirs):
        return theirs
    if theirs == base:
        return ours
    raise _ConflictError("both sides have changed it in different ways")


def _settings(a: Policy, b: Policy, c: Policy, conflicts: list[Conflict]) -> Policy:
    policy = replace(b, table=max(b.table, c.table) if b.table != a.table != c.table else _pick(a.table, b.table, c.table))
    policy = replace(policy, portable=_pick(a.portable, b.portable, c.portable))  # of two values both sides have the new one
    policy = replace(policy, phases_optional=_pick(a.phases_optional, b.phases_optional, c.phases_optional))
    base_scope, ours, theirs = ({*scopes(of.scope)} for of in (a, b, c))
    policy = replace(policy, scope=scope_of((ours & theirs) | ((ours | theirs) - base_scope)))  # as above, each
    for word in ("arm", "default", "unknown", "implied"):
        old, ours, theirs = (getattr(each, word) for each in (a, b, c))
        try:
            policy = replace(policy, **{word: _pick(old, ours, theirs)})
        except _ConflictError as error:
            texts = (f"{word} {format_action(value) if isinstance(value, Action) else value}" for value in (old, ours, theirs))
            conflicts.append(Conflict(None, word, str(error), *texts))
    return policy


def _file_line(policy: Policy, line: str) -> str:
    granted = policy.files.lines().get(line)
    return "" if granted is None else written(line, granted)


def _merged_section(a: Policy, b: Policy, c: Policy, arch: Arch, conflicts: list[Conflict]) -> dict[int, Entry]:
    section: dict[int, Entry] = {}
    before, ours, theirs = (policy.entries.get(arch, {}) for policy in (a, b, c))
    for number in dict.fromkeys((*ours, *theirs)):
        three = (before.get(number), ours.get(number), theirs.get(number))
        try:
            entry = merge_entry(arch, number, *three)
        except (_ConflictError, TooComplexError) as error:
            texts = (format_entry(arch, number, entry) if entry else "" for entry in three)
            conflicts.append(Conflict(arch, name_of(arch, number), str(error), *texts))
            entry = three[1] or three[2]
        if entry is not None:
            section[number] = entry
    return section


def merge_entry(arch: Arch, number: int, base: Entry | None, ours: Entry | None, theirs: Entry | None) -> Entry | None:
    try:
        return _pick(base, ours, theirs)
    except _ConflictError:
        pass
    arguments = table(arch).by_number[number].arguments
    sets = space()
    expected = _merged(sets, *(outcomes(sets, entry, arguments) for entry in (base, ours, theirs)))
    for candidate in _candidates(base, ours, theirs, arguments):
        entry = normal_entry(arch, number, candidate)
        if outcomes(sets, entry, arguments) == expected:
            gone = entry.expression == Always(False) and None in (ours, theirs)
            return None if gone else entry
    raise _ConflictError("one side allows more of a rule, and the other less")


Outcomes = dict[Action | None, int]
"""Action -> the set of calls that get it, which is not empty; None is the default.  Each call is in one set."""


def outcomes(sets: Space, entry: Entry | None, arguments: Sequence[Argument]) -> Outcomes:
    if entry is None:
        return {None: TRUE}
    region = to_bdd(sets, entry.expression, arguments)
    result: Outcomes = {}
    for action, where in ((entry.action, region), (entry.otherwise, sets.invert(region))):
        if where != FALSE:
            result[action] = sets.or_(where, result.get(action, FALSE))
    return result


def _merged(sets: Space, base: Outcomes, ours: Outcomes, theirs: Outcomes) -> Outcomes:
    """Return the outcomes in which each call has the action of the side that has changed it."""

    def same(a: Outcomes, b: Outcomes) -> int:
        region = FALSE
        for action in a:
            region = sets.or_(region, sets.and_(a[action], b.get(action, FALSE)))
        return region

    unchanged_here, unchanged_there = same(ours, base), same(theirs, base)
    agreed = sets.or_(sets.or_(unchanged_here, unchanged_there), same(ours, theirs))
    if agreed != TRUE:
        raise _ConflictError("both sides have changed the action for some arguments, in different ways")
    result = {}
    for action in dict.fromkeys((*ours, *theirs)):
        region = sets.ite(unchanged_here, theirs.get(action, FALSE), ours.get(action, FALSE))
        if region != FALSE:
            result[action] = region
    return result


def _candidates(base: Entry | None, ours: Entry | None, theirs: Entry | None, arguments: Sequence[Argument]) -> Iterator[Entry]:
    """Yield candidates for the merged entry, of existing alternatives, the simplest first; the caller checks them."""
    yield from (entry for entry in (ours, theirs) if entry)
    nothing = Entry(Always(False), ALLOW)
    a, b, c = (entry or nothing for entry in (base, ours, theirs))
    try:
        action, otherwise = _pick(a.action, b.action, c.action), _pick(a.otherwise, b.otherwise, c.otherwise)
    except _ConflictError:
        return
    before, our_rules, their_rules = (dict.fromkeys(alternatives(entry.expression)) for entry in (a, b, c))
    remaining = [rule for rule in our_rules if rule in their_rules or rule not in before]
    added = [rule for rule in their_rules if rule not in before and rule not in our_rules]
    yield Entry(_any((*remaining, *added), arguments), action, otherwise)
    yield Entry(_any((*our_rules, *their_rules), arguments), action, otherwise)
    if len(our_rules) * len(their_rules) <= MAX_PRODUCT:
        both = tuple(rule if rule == other else And((rule, other)) for rule in our_rules for other in their_rules)
        yield Entry(_any(both, arguments), action, otherwise)


def _any(parts: Sequence[Expression], arguments: Sequence[Argument]) -> Expression:
    sets = space()
    parts = [part for part in parts if to_bdd(sets, part, arguments) != FALSE]
    fewest = minimise(parts, arguments) if parts else ()
    if not fewest:
        return Always(False)
    return Or.of(fewest)


def with_markers(document: Document, conflicts: Sequence[Conflict]) -> str:
    """Return the text of a merged document with git's markers around each conflict.  Without these it can be parsed."""
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
    heads = (f"{conflict.name}:",) if conflict.arch is not None else (f"{conflict.name}:", f"{conflict.name} ")
    found = (index for index in range(start, len(lines)) if lines[index].startswith(heads) or lines[index] == conflict.name)
    start = next(found, len(lines))  # what another line grants has none
    end = min(start + 1, len(lines))
    while end < len(lines) and lines[end].startswith(" "):
        end += 1
    return start, end
