"""Find what a reviewer should look at in a policy: each check is a function in `CHECKS`.

A comment `# why: ...` on or above an entry, a rule, a setting or an include accepts the findings there.  A comment that names a
combination (`# why: reverse-shell: ...`), on an entry that takes part in it, accepts the combination.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from callfence.policygen.equivalents.compare import gaps, pairs
from callfence.policygen.evaluate import evaluate
from callfence.policygen.files.landlock import MAX_PORT
from callfence.policygen.files.ruleset import unconfined
from callfence.policygen.filter.listener import names_listener
from callfence.policygen.grants import NONE, NOT_CONFINED, QUERY
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.language.layout import Comments, Remarks, Section
from callfence.policygen.language.naming import format_action, format_expression
from callfence.policygen.lint.catalogue import Danger, Level, check, combined, granted, leaves_free, listed, of_call, of_setting
from callfence.policygen.lint.files import Risk, risks_of
from callfence.policygen.model import ENTER, NOTIFY, SIGNALS, Always, Entry, Or, alternatives, scopes
from callfence.policygen.phases import WAITS, phase_policies
from callfence.policygen.sets.algebra import FALSE, TRUE, Space, TooComplexError
from callfence.policygen.sets.express import minimise
from callfence.policygen.sets.region import Budget, example, to_bdd
from callfence.policygen.values import frozen, replace
from callfence.tracer.abi import Arch, Argument, Event, name_of, table
from callfence.tracer.abi.waits import bits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from callfence.policygen.implied.tables import Row
    from callfence.policygen.language.document import Document
    from callfence.policygen.model import Action, Expression, Policy

WHY = "# why:"
"""Begins a comment that accepts a finding."""
SIGNALLING = ("signals-to-others", "signals-to-others-threads")
"""Rows about signals; they do not apply if `scope` has `signals`."""

_OWNERS, _XATTRS = "owners", "extended attributes"
_ATTRIBUTES = {
    **dict.fromkeys(("chown", "chown32", "lchown", "lchown32", "fchownat"), _OWNERS),
    **dict.fromkeys(("setxattr", "lsetxattr", "setxattrat", "removexattr", "lremovexattr", "removexattrat"), _XATTRS),
    "file_setattr": "flags, such as immutable",
}
"""Calls that change, by a file's name, what Landlock does not judge; modes are in the catalogue of grants."""
_SOCKETCALL, _PAST_PORTS = "socketcall", (1, 11, 16, 20)
"""SYS_SOCKET, SYS_SENDTO, SYS_SENDMSG, SYS_SENDMMSG (linux/net.h)."""


@frozen
class Finding:
    rule: str
    """The stable id of the catalogue's row, or of the check."""
    level: Level
    arch: Arch | None
    """The architecture; None for a setting."""
    name: str
    """The name of the call, or the word of the setting."""
    grants: str
    """What was found, as the end of a sentence that begins with `it`."""
    why: str
    safer: str
    source: str
    example: Event | None
    """An example of the allowed calls, without a task; None if there is none."""
    accepted: str
    """The reason in a `# why:` comment; '' if the finding is not accepted."""

    @property
    def order(self) -> tuple[object, ...]:
        """Sort key: the most serious first."""
        return (-self.level.rank, self.arch is not None, self.arch and list(Arch).index(self.arch), self.name, self.rule)


def lint(document: Document, budget: Budget | None = None) -> tuple[Finding, ...]:
    """Return all findings, accepted ones too, in a total order: the most serious first.  A check that takes more work than
    `budget` (by default one of its own) is a finding too."""
    budget = budget or Budget()
    if document.policy.phases:
        return _by_phase(document, budget)
    findings = {finding for check in CHECKS for finding in check(document, budget)}
    return tuple(sorted(findings, key=lambda finding: finding.order))


_LASTING = (
    "alg-socket", "fanotify", "io-uring", "netfilter", "packet-socket", "personality", "ports", "rare-socket", "raw-socket",
    "setns", "shared-memory-code", "shm-exec", "user-namespace", "user-namespace-clone", "userfaultfd", "vsock", "write-exec",
)  # fmt: skip
"""The rules about calls whose results no phase ends: memory and the process stay as they are, sockets send, read(2) of a group
of fanotify opens the files that others open, and the kernel itself takes requests from a ring (IORING_SETUP_SQPOLL)."""


def _by_phase(document: Document, budget: Budget) -> tuple[Finding, ...]:
    """Return the findings about what the start allows.  A grant that the last phase ends ranks lower; the text of one that
    stays says so."""
    policies = phase_policies(document.policy)
    before, after = (lint(replace(document, policy=policy), budget) for policy in (policies[0][1], policies[-1][1]))
    last = policies[-1][0]
    stays = {(finding.rule, finding.arch, finding.name) for finding in after}
    findings = set()
    for finding in before:
        is_there = (finding.rule, finding.arch, finding.name) in stays
        if finding.rule == "covered-rule":
            findings |= {finding} if is_there else set()
        elif is_there:
            findings.add(replace(finding, grants=f"{finding.grants}, in {last} too"))
        elif finding.rule in _LASTING:
            findings.add(replace(finding, grants=f"{finding.grants}; what it gets before {last}, it has in {last} too"))
        else:
            level = list(Level)[max(finding.level.rank - 1, 0)]
            findings.add(replace(finding, level=level, grants=f"{finding.grants}, until {last}"))
    return tuple(sorted({*findings, *_triggers(document), *optional_phases(document)}, key=lambda finding: finding.order))


def _triggers(document: Document) -> Iterator[Finding]:
    """Yield the triggers in which no process waits for work: a process that never makes one stays in the start phase."""
    for phase in document.policy.phases:
        for name in phase.triggers:
            if name not in (*WAITS, ENTER, NOTIFY):
                comments = document.layout.settings.get(f"phase {phase.name}", Comments())
                yield _finding(check("phase-trigger"), None, f"phase {phase.name}", None, _why(comments), name)


def unreached(document: Document, runs: Sequence[int]) -> Iterator[Finding]:
    """Yield a finding for each phase that no recorded process has entered.  `runs`: for each process, the waits that it began,
    as bits of tracer.abi.waits (`Run.waits`).  Nothing is yielded without any, nor for a phase whose triggers have no bits."""
    for phase in document.policy.phases if runs else ():
        known = bits(phase.triggers).bit_count() == len(phase.triggers)
        if known and not any(waits & bits(phase.triggers) for waits in runs):
            comments = document.layout.settings.get(f"phase {phase.name}", Comments())
            yield _finding(check("phase-unreached"), None, f"phase {phase.name}", None, _why(comments), listed(phase.triggers))


# Checks


def grants(document: Document, budget: Budget) -> Iterator[Finding]:
    """Yield the dangerous grants of the entries, by the catalogue."""
    default = document.policy.default
    keeps_signals = SIGNALS in scopes(document.policy.scope)
    for arch, number, entry in document.policy.each():
        rows = [row for row in of_call(arch, number) if not (keeps_signals and row.id in SIGNALLING)]
        if not rows:
            continue
        accepted, reasons = _reasons(document, arch, number)
        bare, sets = _without(entry, reasons), budget.space()
        for danger in rows:
            try:
                dangerous = _granted(sets, danger, arch, number, entry, default)
                if dangerous == FALSE:
                    continue
                unaccepted = not accepted and _granted(sets, danger, arch, number, bare, default) != FALSE
            except TooComplexError:
                yield _too_complex(arch, number)
                break
            reason = accepted or ("" if unaccepted else "; ".join(dict.fromkeys(reasons.values())))
            yield _finding(danger, arch, name_of(arch, number), example(sets, dangerous, arch, number), reason)


def permissive_settings(document: Document, _: Budget) -> Iterator[Finding]:
    """Yield the settings that allow calls that no entry names."""
    settings = document.layout.settings
    for word, action in (("default", document.policy.default), ("unknown", document.policy.unknown)):
        if action.allows:
            yield _finding(of_setting(word), None, word, None, _why(settings.get(word, Comments())))


def allowing_denials(document: Document, budget: Budget) -> Iterator[Finding]:
    """Yield the entries that say `deny`, the default action, where that action lets calls run."""
    default = document.policy.default
    if not default.may_allow:
        return
    for arch, number, entry in document.policy.each():
        if entry.expression == Always(False) and entry.otherwise is None:
            call, reason = name_of(arch, number), _reasons(document, arch, number)[0]
            yield _finding(check("deny-allows"), arch, call, None, reason, format_action(default))


def redundant_rules(document: Document, budget: Budget) -> Iterator[Finding]:
    """Yield the rules that never hold, or that other rules cover: a reviewer would think that they have an effect."""
    for arch, number, entry in document.policy.each():
        arguments = table(arch).by_number[number].arguments
        parts = alternatives(entry.expression)
        sets = budget.space()
        try:
            never = {part for part in parts if to_bdd(sets, part, arguments) == FALSE}
        except TooComplexError:
            yield _too_complex(arch, number)
            continue
        needed = {*minimise(parts, arguments, budget.space)} if len(parts) > 1 else {*parts}
        accepted, reasons = _reasons(document, arch, number)
        for part in parts:
            if part in never or part not in needed:
                row = check("contradiction" if part in never else "covered-rule")
                name, text = name_of(arch, number), format_expression(arch, number, part)
                yield _finding(row, arch, name, None, accepted or reasons.get(part, ""), text)


def implied_entries(document: Document, budget: Budget) -> Iterator[Finding]:
    """Yield the entries that allow nothing beyond the policy's implied set: they look like limits but are not."""
    policy = document.policy
    for (arch, number), rows in resolved(policy).added.items():
        entry = policy.entries[arch].get(number)
        if entry is None:
            continue
        arguments, sets = table(arch).by_number[number].arguments, budget.space()
        try:
            implied = to_bdd(sets, Or(tuple(row.entry.expression for row in rows)), arguments)
            is_redundant = sets.ite(implied, FALSE, to_bdd(sets, entry.expression, arguments)) == FALSE
        except TooComplexError:
            yield _too_complex(arch, number)
            continue
        if is_redundant and _is_implied_without(policy, arch, number, rows):
            accepted, reasons = _reasons(document, arch, number)
            reason, name = accepted or "; ".join(dict.fromkeys(reasons.values())), name_of(arch, number)
            yield _finding(check("implied-entry"), arch, name, None, reason, str(policy.implied))


def _is_implied_without(policy: Policy, arch: Arch, number: int, implied_rows: tuple[Row, ...]) -> bool:
    """Return whether the set allows the same calls without an entry for the call, so that it gives no capability."""
    section = {call: entry for call, entry in policy.entries[arch].items() if call != number}
    return resolved(replace(policy, entries={**policy.entries, arch: section})).added.get((arch, number)) == implied_rows


def dangerous_together(document: Document, budget: Budget) -> Iterator[Finding]:
    """Yield the combinations of calls that the policy allows, by the catalogue.  A reason accepts a combination only if it
    names the combination."""
    for combination in combined(document.policy, budget.space):
        named = [
            name
            for name in combination.calls
            if table(combination.arch).by_name[name].number in document.policy.entries[combination.arch]
        ]
        if not named or len(combination.calls) == 1:
            continue  # `grants` reports what a single call makes possible
        numbers = [table(combination.arch).by_name[name].number for name in combination.able]
        comments = [_reasons(document, combination.arch, number) for number in numbers]
        reasons = dict.fromkeys(reason for whole, parts in comments for reason in (whole, *parts.values()))
        accepted = "; ".join(reason for reason in reasons if combination.row.id in re.findall(r"[\w-]+", reason))
        row, others = combination.row, [name for name in combination.calls if name != named[0]]
        what = f"{row.grants}{f', with {listed(others)}' if others else ''}"
        yield Finding(row.id, row.level, combination.arch, named[0], what, row.why, row.safer, row.source, None, accepted)


def files_and_ports(document: Document, _: Budget) -> Iterator[Finding]:
    """Yield the dangerous grants of `path` and `tcp` lines, and of their absence."""
    yield from about_files(document, risks_of(document.policy.files))
    for line, risk in risks_of(NOT_CONFINED, unconfined(document.policy)):
        lacks = f"has no `{'path' if line.startswith('path ') else line}` line"
        if line == QUERY and document.policy.files.query is not None:
            lacks = f"has `{QUERY}: {NONE}`, and may ask name servers by UDP"
        grants = f"{lacks}, so it {risk.grants}"
        does = " (`learn --files` does)" if line.startswith(("path ", "tcp ")) else ""
        safer = f"{risk.safer}{does}; or write `{line}: any`, with a reason"
        yield Finding(risk.id, Level(risk.level), None, line, grants, risk.why, safer, risk.source, None, "")


def about_files(document: Document, risks: Iterable[tuple[str, Risk]]) -> Iterator[Finding]:
    """Yield the findings for risks of lines about files and ports."""
    comments = dict(document.layout.files)
    for include in reversed([include for section in document.layout.sections.values() for include in section.includes]):
        comments |= dict.fromkeys(include.files.lines(), include.comments)
    for line, risk in risks:
        said = (risk.grants, risk.why, risk.safer, risk.source)
        yield Finding(risk.id, Level(risk.level), None, line, *said, None, _why(comments.get(line, Comments())))


def past_ports(document: Document, _: Budget | None = None) -> Iterator[Finding]:
    """Yield socketcall, by which a program of i386 can bypass the lines about ports: no filter sees its arguments."""
    policy, number = document.policy, table(Arch.I386).by_name[_SOCKETCALL].number
    confined = [ports for ports in (policy.files.connect, policy.files.bind) if ports is not None and ports != ((0, MAX_PORT),)]
    if Arch.I386 not in policy.entries or not confined:
        return
    events = [Event(Arch.I386.audit, number, (call, 0, 0, 0, 0, 0)) for call in _PAST_PORTS]
    if example := next((event for event in events if evaluate(policy, event).may_allow), None):
        reason = _reasons(document, Arch.I386, number)[0]
        yield _finding(check("ports-by-socketcall"), Arch.I386, _SOCKETCALL, example, reason)


def past_paths(document: Document, _: Budget | None = None) -> Iterator[Finding]:
    """Yield the calls that change owners and attributes of any file, where lines confine files: Landlock judges neither."""
    policy = document.policy
    if policy.files.paths is None or policy.default.allows:
        return
    for arch, section in policy.entries.items():
        calls = table(arch).by_name
        for name, what in _ATTRIBUTES.items():
            entry = section.get(calls[name].number) if name in calls else None
            if entry and entry.may_run(policy.default):
                reason = _reasons(document, arch, calls[name].number)[0]
                yield _finding(check("attributes-outside"), arch, name, None, reason, what)


def listening(document: Document, _: Budget | None = None) -> Iterator[Finding]:
    """Yield a finding if the program may answer the notifications of its own filter."""
    if names_listener(document.policy):
        arch = next(iter(document.policy.entries))
        accepted, reasons = _reasons(document, arch, table(arch).by_name["ioctl"].number)
        reason = accepted or "; ".join(dict.fromkeys(reasons.values()))
        yield _finding(check("answers-notifications"), arch, "ioctl", None, reason)


def signals_outside(document: Document, _: Budget | None = None) -> Iterator[Finding]:
    """Yield a finding if signals can reach processes that the program has not started."""
    if SIGNALS not in scopes(document.policy.scope):
        comments = document.layout.settings.get("scope", Comments())
        yield _finding(check("signals-outside"), None, "scope", None, _why(comments))


def optional_phases(document: Document, _: Budget | None = None) -> Iterator[Finding]:
    """Yield a finding if processes need not enter their phases."""
    if document.policy.phases_optional and document.policy.phases:
        comments = document.layout.settings.get("phases", Comments())
        yield _finding(check("phases-optional"), None, "phases", None, _why(comments))


def different_sections(document: Document, budget: Budget) -> Iterator[Finding]:
    """Yield what the section of one architecture allows and that of another, of the same program, does not."""
    policy = document.policy
    for a, b in pairs(policy):
        try:
            found = gaps(policy, a, b, budget.space)
        except TooComplexError:
            yield _finding(check("too-complex"), None, "arch", None, "")
            continue
        for gap in found:
            name = name_of(gap.arch, gap.number)
            accepted, reasons = _reasons(document, gap.arch, gap.number)
            reason = accepted or "; ".join(dict.fromkeys(reasons.values()))
            yield _finding(check("sections-differ"), gap.arch, name, gap.example, reason, str(gap.other))


CHECKS: tuple[Callable[[Document, Budget], Iterable[Finding]], ...] = (
    grants, permissive_settings, listening, signals_outside, optional_phases, allowing_denials, redundant_rules,
    implied_entries, dangerous_together, files_and_ports, past_ports, past_paths,
    different_sections,
)


# What the checks share


def _granted(sets: Space, danger: Danger, arch: Arch, number: int, entry: Entry, default: Action) -> int:
    """Return the set of calls that an entry allows and the row selects."""
    arguments = table(arch).by_number[number].arguments
    if not danger.free:
        return granted(sets, danger, arch, number, permitted(sets, entry, default, arguments))
    parts = alternatives(entry.expression) if entry.action.allows else ()
    region = FALSE
    for part in parts or (entry.expression,):
        allowed = permitted(sets, replace(entry, expression=part), default, arguments)
        if leaves_free(sets, allowed, danger, arch, number):
            region = sets.or_(allowed, region)
    return region


def permitted(sets: Space, entry: Entry, default: Action, arguments: Sequence[Argument]) -> int:
    """Return the set of calls that an entry allows.  Raises TooComplexError."""
    holds = to_bdd(sets, entry.expression, arguments)
    then, otherwise = entry.action.allows, (entry.otherwise or default).allows
    if then == otherwise:
        return TRUE if then else FALSE
    return holds if then else sets.invert(holds)


def _without(entry: Entry, reasons: dict[Expression, str]) -> Entry:
    """Return the entry without its accepted alternatives; an entry without alternatives is returned unchanged."""
    if not reasons or not isinstance(entry.expression, Or) or not entry.action.allows:
        return entry
    rest = tuple(part for part in entry.expression.parts if part not in reasons)
    return replace(entry, expression=Or(rest) if rest else Always(False))


def _reasons(document: Document, arch: Arch, number: int) -> tuple[str, dict[Expression, str]]:
    """Return the reason that accepts the whole entry ('' if there is none), and the reasons that accept its alternatives."""
    section = document.layout.sections.get(arch, Section())
    remarks = section.entries.get(number, Remarks())
    for include in section.includes:
        if number in include.entries.get(arch, {}):
            return _why(include.comments), {}
    reasons = {part: _why(comments) for part, comments in remarks.alternatives.items()}
    return _why(remarks.entry), {part: reason for part, reason in reasons.items() if reason}


def _why(comments: Comments) -> str:
    reasons = (line.removeprefix(WHY).strip() for line in comments.all() if line.startswith(WHY))
    return "; ".join(filter(None, reasons))


def _finding(row: Danger, arch: Arch | None, name: str, event: Event | None, accepted: str, detail: str = "") -> Finding:
    grants = row.grants.format(detail) if detail else row.grants
    return Finding(row.id, row.level, arch, name, grants, row.why, row.safer, row.source, event, accepted)


def _too_complex(arch: Arch, number: int) -> Finding:
    return _finding(check("too-complex"), arch, name_of(arch, number), None, "")
