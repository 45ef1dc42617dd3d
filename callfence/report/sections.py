"""The sections of a report after its risks and changes: the runs and how complete the policy is; the tree of executables and
their calls; the rules, the lines for files and ports, and the phases, each with the recorded calls that led to it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby, pairwise

from callfence.judging.files import beyond, reasons_of, used, uses_of
from callfence.judging.hosts import of_hosts
from callfence.judging.sites import MAX_SITES, Site, by_site, columns_of, such_as, widened, with_names
from callfence.learning.summary import call_name, sureness
from callfence.policygen.completeness import run_next
from callfence.policygen.grants import NONE, path_line, written
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.language.document import Document
from callfence.policygen.language.naming import format_entry
from callfence.policygen.lint.catalogue import Level
from callfence.policygen.lint.files import risks_of
from callfence.policygen.lint.findings import Finding, grants
from callfence.policygen.model import Entry, Phase, Policy, alternatives
from callfence.policygen.phases import START, phase_policies
from callfence.policygen.recording.model import Observation
from callfence.policygen.review.why import Origin, Provenance
from callfence.policygen.sets.region import Budget
from callfence.report.content import Executable, Report, calls_of
from callfence.report.markup import Child, Html, anchor, badge, code, element, items, join, lines, prose, table, terms
from callfence.shared.text import command_line, ending, on_one_line, plural
from callfence.tracer.abi import Arch, name_of
from callfence.tracer.abi.waits import bits

_MANY_RUNS = 20
"""The most rows of a table of runs that is not folded."""
_MANY_NAMES = 20
"""The most paths that are shown for a line about files."""
_SHADES = 4
_UNKNOWN = "The recording does not have what started these:"
_SHORT = {
    Origin.CHANGED: "by hand",
    Origin.EXTENDED: "extended",
    Origin.NOTED: "floor",
    Origin.PORTABLE: "not seen",
    Origin.UNSEEN: "not seen",
}


# Runs


def how_sure(report: Report) -> Html:
    """Return a section about how likely the next run needs new rules and what to run next, with a table of the runs."""
    recording = report.recording
    if not recording.runs:
        return element("p", "There is no recording, so nothing is known about the runs that led to the policy.")
    sentence = sureness(report.estimate)
    parts = [element("p", f"{sentence[0].upper()}{sentence[1:]}. This holds only for runs like the recorded ones.")]
    if steps := run_next(recording):
        parts += [element("h3", "Run it next"), items(steps)]
    if gaps := sorted({gap for run in recording.runs for gap in run.gaps}):
        parts += [element("h3", "Not observed"), items(gaps)]
    if len(recording.runs) > 1 and report.estimate.single:
        names = items((code(call_name(*call)) for call in report.estimate.single), class_="words")
        parts += [element("h3", "Calls with rules seen in one run only"), names]
    return join(*parts, _runs(report))


def _runs(report: Report) -> Html:
    rows = []
    for number, (run, calls) in enumerate(zip(report.recording.runs, calls_of(report), strict=True), 1):
        began = datetime.fromtimestamp(run.started // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S")
        kind = "warm" if run.warm else "full" if run.complete else "in part"
        command = code(command_line(run.command))
        rows.append((str(number), element("time", began), command, ending(run.status), kind, f"{calls:,}"))
    columns = ("Run", "Began (UTC)", "Command", "Ended", "Recorded", "Calls")
    note = "An incremental run records only calls that the policy did not allow at that time."
    warm = [element("p", note, class_="muted")] if any(run.warm for run in report.recording.runs) else []
    whole = join(table("Runs", columns, rows, numbers=(0, 5)), *warm)
    if len(rows) <= _MANY_RUNS:
        return whole
    return element("details", element("summary", f"All {plural(len(rows), 'run')}"), whole, class_="more")


# Executables


def tree(report: Report) -> Html:
    """Return the tree of executables, in which each has the executables below it that it executed.  Executables at the end were
    executed by one that is not known."""
    if not report.programs:
        return element("p", "There is no recording, so it is not known which executables ran.")
    note = "Below an executable are those that it executed, itself or in a child process."
    started: defaultdict[str, list[Executable]] = defaultdict(list)
    for program in report.programs:
        for starter in program.starters:
            started[starter].append(program)
    numbers: dict[str, int] = {}
    first = [program for program in report.programs if program.is_first]
    parts = [element("p", note, class_="muted"), _nested(first, started, numbers)]
    for in_circles in (False, True):
        others = [
            program for program in report.programs if program.executable not in numbers and bool(program.starters) == in_circles
        ]
        if others:
            parts += [element("p", _UNKNOWN), _nested(others, started, numbers)]
    return join(*parts)


def _nested(tops: Sequence[Executable], started: Mapping[str, Sequence[Executable]], numbers: dict[str, int]) -> Html:
    """Return nested lists of `tops` and the executables that they `started`.  Each executable has its list below the line
    nearest to the top; its other lines link there.

    The executables are added to `numbers`.  No recursion: a chain of executables may be longer than Python's stack."""
    entries = [(program, -1) for program in tops]
    places = set()
    for place, (program, _) in enumerate(entries):  # the list grows in the loop
        if program.executable not in numbers:
            numbers[program.executable] = len(numbers)
            places.add(place)
            entries += [(child, place) for child in started.get(program.executable, ())]
    below: defaultdict[int, list[Html]] = defaultdict(list)
    for place, (program, above) in reversed([*enumerate(entries)]):
        identity = f"program-{numbers[program.executable]}"
        if place in places:
            nested = items(reversed(below[place]), class_="tree") if below[place] else ""
            line = join(_line(program, id=identity), nested)
        elif program.executable in started:
            line = join(_line(program), "; ", element("a", "what it started", href=f"#{identity}"))
        else:
            line = _line(program)
        below[above].append(line)
    return items(reversed(below[-1]), class_="tree") if tops else join()


def _line(program: Executable, **attributes: str) -> Html:
    counts = (plural(program.calls, "call"), plural(len(program.syscalls), "syscall"), plural(len(program.runs), "run"))
    shown = with_names(program.executable, {program.executable: program.names} if program.names else {})
    return join(element("code", shown, **attributes), " ", element("span", ", ".join(counts), class_="muted"))


def matrix(report: Report) -> Html:
    """Return a table of the number of times that each executable made each call."""
    programs = [program for program in report.programs if program.syscalls]
    if not programs:
        return element("p", "No call is recorded.")
    calls = sorted(
        {call for program in programs for call in program.syscalls}, key=lambda call: (_arch(call), call_name(*call))
    )
    several = len({audit for audit, _ in calls}) > 1
    greatest = max(count for program in programs for count in program.syscalls.values())
    rows: list[tuple[Child, ...]] = []
    for call in calls:
        name = f"{_arch(call)} {call_name(*call)}" if several else call_name(*call)
        counts = [program.syscalls.get(call, 0) for program in programs]
        rows.append((code(name), f"{sum(counts):,}", *(_cell(count, greatest) for count in counts)))
    short = _short_names([program.executable for program in programs])
    names = {name: program.names for name, program in zip(short, programs, strict=True) if program.names}
    columns = ("Syscall", "All", *(with_names(name, names) for name in short))
    note = (
        "The stronger a cell's colour, the more calls. The numbers are lower bounds: known calls may run uncounted "
        "(learn --every-call counts all), and an incremental run counts only what was new then."
    )
    whole = table("Calls of each executable, over all runs", columns, rows, numbers=range(1, len(columns)))
    return join(element("p", note, class_="muted"), element("div", whole, class_="matrix"))


def _arch(call: tuple[int, int]) -> str:
    return Arch.from_audit(call[0]) or f"{call[0]:#x}"


def _short_names(paths: Sequence[str]) -> list[str]:
    """Return the last part of each path if it is unique, else the whole path."""
    names = [path.rpartition("/")[2] or path for path in paths]
    counts = Counter(names)
    return [path if counts[name] > 1 else name for path, name in zip(paths, names, strict=True)]


def _cell(count: int, greatest: int) -> Html:
    """Return a count, shaded by its number of digits; the greatest count has the last shade."""
    shade = -(-len(str(count)) * _SHADES // len(str(greatest)))
    return element("span", f"{count:,}", class_=f"shade{shade}" if count else "none")


# Rules


def rules(report: Report) -> Html:
    """Return all rules, by architecture and call, as elements that can be unfolded."""
    parts = []
    for arch, of_arch in groupby(report.rules, key=lambda rule: rule.arch):
        parts.append(element("h3", "Architecture ", code(arch)))
        details = []
        for number, of_call in groupby(of_arch, key=lambda rule: rule.number):
            name = name_of(arch, number)
            findings = [finding for finding in report.findings if (finding.arch, finding.name) == (arch, name)]
            for index, rule in enumerate(of_call):
                details.append(_rule(report, rule, findings, {} if index else {"id": anchor(arch, name)}))
        parts.append(lines(*details))
    return join(*parts) if parts else element("p", "The policy has no rules: its default meets every call.")


def _rule(report: Report, rule: Provenance, findings: list[Finding], identity: dict[str, str]) -> Html:
    badges: list[Child] = []
    level = next((finding.level for finding in findings if not finding.accepted), None)
    if level is not None and rule.rule.action.allows:
        badges.append(badge(level))
    if rule.origin in _SHORT and not (rule.note and rule.observations):
        badges.append(badge(_SHORT[rule.origin], "plain"))
    runs = [str(column + 1) for column in columns_of(rule.observations)]
    calls = sum(observation.calls for observation in rule.observations)
    if calls and not report.is_bare:
        badges.append(element("span", f"at least {plural(calls, 'call')} in {plural(len(runs), 'run')}", class_="muted"))
    pairs: list[tuple[str, Child]] = []
    if rule.note:
        pairs.append(("Note", rule.note))
    if not rule.note or not rule.observations:
        pairs.append(("Origin", str(rule.origin)))
    if rule.observations and not report.is_bare:
        pairs.append(("Runs", ", ".join(runs)))
    if rule.widenings and rule.rule.action.allows:
        pairs.append(("Wider than recorded", widened(rule)))
    pairs += [(f"Risk ({finding.level})", f"the entry {finding.grants}") for finding in findings]
    if rule.observations:
        pairs.append(("Recorded calls", _sites(rule, bare=report.is_bare)))
    text = on_one_line(rule.arch, rule.number, rule.rule)
    summary = element("summary", code(text), " ", *(join(child, " ") for child in badges))
    return element("details", summary, terms(pairs), class_="rule", **identity)


def _sites(rule: Provenance, *, bare: bool) -> Html:
    sites = by_site(rule.observations)
    shown = [_site(executable, site, group, bare=bare) for (executable, site), group in sites[:MAX_SITES]]
    more = [f"... and at {plural(len(sites) - MAX_SITES, 'more place')}"] if len(sites) > MAX_SITES else []
    return items([*shown, *more])


def _site(executable: str, site: str, observations: Sequence[Observation], *, bare: bool) -> Html:
    count = plural(sum(observation.calls for observation in observations), "call")
    place = f", at {site}, such as " if bare else f", first at {Site.parse(site) or site}: {count}, such as "
    call, facts = such_as(observations, bare=bare)
    parts: list[Child] = [code(executable), place, code(call)]
    for index, fact in enumerate(facts):
        parts += [", " if index else "; and ", code(fact)]
    return join(*parts)


def made_by(executable: str, facts: Sequence[str], limit: int) -> Html:
    """Return an executable with at most `limit` facts about its calls: files and addresses first, then words of commands."""
    parts: list[Child] = [code(executable)]
    for index, fact in enumerate(sorted(facts, key=lambda fact: fact.startswith("argv="))[:limit]):
        parts += [", " if index else ": ", code(fact)]
    return join(*parts, " ..." if len(facts) > limit else "")


# Files and ports


def files(report: Report) -> Html:
    """Return all lines about files and ports, as elements that can be unfolded."""
    granted = report.document.policy.files
    paths = {path_line(path): path for path in granted.paths or {}}
    risks = risks_of(granted)
    reasons = reasons_of(report.recording)
    uses = used(paths.values(), report.recording)
    parts = []
    for line, value in granted.lines().items():
        of_line = [risk for risky, risk in risks if risky == line]
        badges: list[Child] = [badge(Level(risk.level)) for risk in of_line[:1]]
        details: list[Child] = [f"the line {risk.grants} [{risk.id}]: {risk.why}" for risk in of_line]
        if line in paths:
            names = uses[paths[line]]
            details += [code(str(name)) for name in names[:_MANY_NAMES]]
            details += [f"and {plural(len(names) - _MANY_NAMES, 'name')} more"] * (len(names) > _MANY_NAMES)
            details += beyond(paths[line], reasons)
        else:
            others = uses_of(granted, line, report.recording)
            ports = {(what, executable) for _, what, executable in others if what != NONE}
            of_ports = [join(code(port), f" by {executable}") for port, executable in sorted(ports)]
            details += [*of_hosts(line, granted, report.recording, reasons)] or of_ports
        summary = element("summary", code(written(line, value)), " ", *badges)
        content = items(details) if details else element("p", "No recorded run used it.")
        parts.append(element("details", summary, content, class_="rule"))
    return lines(*parts)


# Phases


def phases(report: Report) -> Html:
    """Return a table of the phases in their order, and for each phase the rules that end when it begins."""
    policy = report.document.policy
    policies = phase_policies(policy)
    triggers = [", ".join(phase.triggers) for phase in policy.phases]
    rows = [(name, trigger, str(_count(of_phase))) for (name, of_phase), trigger in zip(policies, ["", *triggers], strict=True)]
    gone = [
        _gone(report, phase, before, after)
        for phase, ((_, before), (_, after)) in zip(policy.phases, pairwise(policies), strict=True)
    ]
    note = element("p", "A process begins in ", code(START), ", and enters each next phase with its first call of the phase's.")
    return lines(note, table("Phases", ("Phase", "Begins with", "Calls allowed"), rows, numbers=(2,)), *gone)


def _gone(report: Report, phase: Phase, before: Policy, after: Policy) -> Html:
    """Return what a phase ends, and what was seen before and after its trigger."""
    budget = Budget()
    levels = {(finding.arch, finding.name): finding.level for finding in grants(Document(before), budget)}
    remaining = {(finding.arch, finding.name) for finding in grants(Document(after), budget)}
    rows: list[tuple[Child, ...]] = []
    for arch, number, entry in _ended(before, after):
        key = arch, name_of(arch, number)
        danger = join(badge(levels[key]), " stays in part" if key in remaining else "") if key in levels else ""
        rows.append((code(format_entry(arch, number, entry)), danger))
    title = f"Gone in {phase.name}, after {', '.join(phase.triggers)}"
    names = ", ".join(f"`{name}`" for _, name in sorted(remaining, key=str))
    dangers = f"Dangerous calls that stay allowed: {names}." if names else "No dangerous call stays allowed."
    gone = table(title, ("Allowed until then", "Risk"), rows)
    return join(element("h3", title), _seen(report, phase), gone, element("p", prose(dangers)))


def _seen(report: Report, phase: Phase) -> Html:
    """Return how many kinds of calls the recorded runs made before and after the trigger."""
    after = bits(phase.triggers)
    sides = [
        {bool(waits & after) for waits in observation.after}
        for observation in report.recording.observations
        if observation.after
    ]
    if not sides:
        return element("p", "No recorded run was followed through its phases.")
    kinds = {"before it only": {False}, "before and after it": {True, False}, "after it only": {True}}
    counts = items(f"{plural(sides.count(kind), 'kind')} of call {words}" for words, kind in kinds.items())
    return join(element("p", "Seen in recorded runs:"), counts)


def _ended(before: Policy, after: Policy) -> Iterator[tuple[Arch, int, Entry]]:
    """Yield the rules of `before` that `after` lacks, each as an entry, by architecture and name of the call."""
    archs = [*before.entries]
    for arch, number, entry in sorted(before.each(), key=lambda row: (archs.index(row[0]), name_of(*row[:2]))):
        now = after.entries.get(arch, {}).get(number)
        remaining = alternatives(now.expression) if now and now.action == entry.action else ()
        for rule in alternatives(entry.expression):
            if rule not in remaining:
                yield arch, number, Entry(rule, entry.action)


def _count(policy: Policy) -> int:
    """Return how many calls a policy allows at least in part, with its implied set."""
    return sum(entry.action.allows and bool(alternatives(entry.expression)) for _, _, entry in resolved(policy).each())
