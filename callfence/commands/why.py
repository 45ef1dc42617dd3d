"""`callfence why`: show which calls led to the rules of a policy, or why it denies a call, a file or a port."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from callfence.companion import load_evidence
from callfence.enforcer.reporting.verdict import advise, is_free
from callfence.judging.files import is_file_name, origin_lines, print_grants
from callfence.judging.sites import Site, Symbols, columns_of, site_lines, widened
from callfence.policygen.errors import did_you_mean
from callfence.policygen.grants import ANY, NONE, WORDS, is_bare, is_grant_line
from callfence.policygen.holds import holds
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.implied.restricting import restricting
from callfence.policygen.implied.tables import Row, unavailable, unavailable_cells
from callfence.policygen.language.document import Document, parse_file
from callfence.policygen.language.naming import determined, format_action, format_call, format_expression, format_value
from callfence.policygen.model import Action, ActionKind, Entry, Policy, alternatives, conjuncts, mentioned
from callfence.policygen.paths import unquoted
from callfence.policygen.phases import in_phase, phase_policies
from callfence.policygen.recording import recording_file
from callfence.policygen.recording.model import Recording
from callfence.policygen.review.companion import is_companion
from callfence.policygen.review.why import Explanation, Origin, Provenance, explain, parse_call, provenance
from callfence.policygen.values import replace
from callfence.shared.files import companion_path, recording_path
from callfence.shared.inputs import document as read, print_error, run_command
from callfence.shared.options import Parser, architecture
from callfence.shared.text import command_line, ending, on_one_line, plural, printable
from callfence.tracer.abi import Arch, Event, name_of, table
from callfence.tracer.errors import UserError

_REPORTED = re.compile(r'(?: at |"site": ")([^\s"]+\+0x[0-9a-f]+)')
"""The call site in a report of `enforce`, or in a line of its log."""
_HOST = re.compile(r"(?:\[([\w.:]+)\]|([\w.-]+|[\w:.]*:[\w.]*:[\w:.]*))(?::([0-9]+))?")
"""An address in brackets; or else a name or an address; and a port."""

DESCRIPTION = """\
Show which calls led to each rule of a policy, or to the rules of one SYSCALL: in which runs, by which programs, from which
call site first, with an example, and where the rule allows more than was recorded.  For a CALL as enforce reports it, show
the nearest rule and which of its conditions are not met.

For a PATH, which begins with /, ./, ~ or $HOME, show whether the policy grants RIGHT to that file, which need not exist, and
the line that grants it or would grant it; without RIGHT, show which rights the policy grants.  $HOME and the working folder
are those of this command.  'tcp connect' PORT, 'tcp connect HOST' PORT, 'tcp bind' PORT, 'udp send HOST' PORT, 'unix connect
SOCKET' and 'dns query NAME' do the same for a port, a socket or a name; so does a whole line, such as 'tcp bind: 8080'."""


def parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="callfence why",
        usage="callfence why [OPTION ...] POLICY [SYSCALL|CALL|LINE]\n       callfence why POLICY PATH [RIGHT]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    of_call = "the architecture of the call (default: the policy's first)"
    parser.add_argument("--arch", choices=[*Arch], type=architecture, help=of_call)
    parser.add_argument("--recording", metavar="FILE", type=Path, help="default: .callfence/NAME.rec beside the policy")
    parser.add_argument("policy", metavar="POLICY", type=Path)
    about = "openat, 'openat(dfd=AT_FDCWD, flags=O_RDWR)', a line about files or ports such as 'path ./data', or a path"
    parser.add_argument("about", metavar="SYSCALL|CALL|LINE|PATH", nargs="?", help=about)
    rights = f"for a PATH: {', '.join(WORDS)}; for 'tcp connect HOST' and the like: a port"
    parser.add_argument("right", metavar="RIGHT", nargs="?", help=rights)
    return parser


def main(arguments: list[str]) -> int:
    """Run `why`.  Return 0; or 1 if the policy has no such entry or line, denies the call, or does not grant the right; or 2 if
    an input cannot be read."""
    options = parser().parse_args(arguments)
    return run_command("why", lambda: _why(options))


def _why(options: argparse.Namespace) -> int:
    if options.right or is_file_name(options.about or ""):
        files = read(str(options.policy)).policy.files
        return print_grants(files, str(options.policy), options.about, options.right or "")
    document = parse_file(options.policy)
    if is_grant_line(options.about or "") and ": " in options.about and not options.about.endswith('"'):  # a whole line
        options.about, _, granted = options.about.rpartition(": ")
        if granted.isdecimal() or options.about.startswith("path "):
            about, name = options.about.removeprefix("path "), str(options.policy)
            about = unquoted(about) if about.startswith('"') else about
            words = {ANY: [*WORDS], NONE: [""]}.get(granted) or granted.split(", ")
            return max(print_grants(document.policy.files, name, about, word) for word in words)
    if is_bare(options.about or "") and options.about not in document.policy.files.lines():
        return print_grants(document.policy.files, str(options.policy), options.about, "")
    if options.about and "(" in options.about:
        arch = options.arch or next(iter(document.policy.entries))
        try:
            event = parse_call(options.about, arch)
        except ValueError as error:
            raise UserError(str(error)) from error
        status = _denial(options.policy, document, event)
        _print_place(options)
        return status
    if not is_grant_line(options.about or ""):
        _asked(document, options)
    evidence = load_evidence("why", options.policy, document, options.recording)
    if not evidence.file:
        path = recording_path(options.policy)
        companion = companion_path(options.policy).name
        print_error(f"callfence why: no calls can be shown, because there is neither {path} nor {companion}: learn writes both")
    if is_grant_line(options.about or ""):
        return _files(document, evidence.recording, options.about, options.policy)
    status = _rules(document, evidence.recording, options)
    if not options.about:
        _files(document, evidence.recording, "", options.policy)
    if is_companion(evidence.recording):
        _say(f"from {evidence.file}, which has no counts and runs: only a recording has these")
    return status


def _files(document: Document, recording: Recording, line: str, policy: Path) -> int:
    """Show which calls led to the lines about files and ports, or to one such line; return 1 if there is none, else 0."""
    lines = [*origin_lines(document, recording, line)]
    _say(*lines)
    if not lines and line:
        _say(f"{line}: the policy has no such line; `callfence why {policy} PATH` shows what the policy grants")
    return int(not lines)


def _asked(document: Document, options: argparse.Namespace) -> tuple[list[Arch], str]:
    """Return the architectures and the name of the call that are asked about; "" for all calls.  Raises UserError for a name
    that is no system call."""
    arches = [options.arch] if options.arch else list(document.policy.entries)
    name = (options.about or "").removeprefix("sys_")
    if name and not any(name in table(arch).by_name for arch in arches):
        known, entry = table(arches[0]).by_name, name.partition(":")[0].strip()
        hint = did_you_mean(name, known) or _as_object(name, options.policy)
        if entry != name and entry in known:
            command = command_line(["callfence", "why", str(options.policy), entry])
            hint = f"that is an entry; `{command}` shows the rules of that call"
        raise UserError(f"no syscall is named {name}{': ' if hint else ''}{hint}")
    return arches, name


def _as_object(word: str, policy: Path) -> str:
    """Return how to ask about the file or host (HOST, HOST:PORT or [ADDRESS]:PORT) that a word names; "" for another word."""
    if "/" in word:
        what, words = "a file", [f"./{word}"]
    elif (named := _HOST.fullmatch(word)) and (word == "localhost" or {".", ":"} & {*word}):
        what, words = "a host", [f"tcp connect {named[1] or named[2]}", named[3] or "443"]
    else:
        return ""
    return f"about {what}: {command_line(['callfence', 'why', str(policy), *words])}"


def _rules(document: Document, recording: Recording, options: argparse.Namespace) -> int:
    """Show the calls behind the rules, and return 1 if there is no rule for the call that was named, else 0."""
    policy = document.policy
    arches, name = _asked(document, options)
    rules = [
        rule
        for arch in arches
        for number in policy.entries.get(arch, {})
        if name in ("", name_of(arch, number))
        for rule in provenance(document, recording, arch, number)
    ]
    implied = [
        line
        for (arch, number), rows in resolved(policy).added.items()
        if arch in arches and name_of(arch, number) == name
        for row in rows
        if not _says(policy.entries[arch].get(number), row)
        for line in _implied(row, policy.implied)
    ]
    if not rules and not implied:
        calls = [(arch, table(arch).by_name.get(name)) for arch in arches if arch in policy.entries]
        newer = any(call and table(arch).is_newer(call.number, policy.table) for arch, call in calls)
        word, action = ("`unknown`", policy.unknown) if newer else ("default", policy.default)
        _say(f"{name or options.policy}: the policy has no entry, so its {word} applies: {format_action(action)}")
        if policy.implied and not newer and not action.allows:
            numbers = [(arch, call.number) for arch, call in calls if call]
            cells = dict.fromkeys(cell for arch, number in numbers for cell in unavailable_cells(arch).get(number, ()))
            _say(*(f"  `enforce` fails it instead, as where it is not available: {cell}" for cell in cells))
        return 1
    arch = None
    symbols = Symbols()
    for rule in rules:
        if len(policy.entries) > 1 and rule.arch is not arch:
            arch = rule.arch
            _say(f"arch {arch}", "")
        _say(*_lines(rule, recording, symbols), "")
    if implied:
        _say(*implied, "")
    if rules:
        _say(*_runs(rules, recording), *symbols.problems())
    return 0


def _says(entry: Entry | None, row: Row) -> bool:
    """Return whether the policy's own entry already has the rule that the row of the implied set adds."""
    return entry is not None and row.entry.expression in alternatives(entry.expression)


def _implied(row: Row, version: int) -> Iterator[str]:
    """Yield the lines about one row of the implied set, whose version is `version`."""
    yield on_one_line(row.arch, row.number, row.entry)
    capabilities = f", which the policy grants: {', '.join(sorted(row.given))}" if row.given else ""
    yield f"  implied {version}: {row.why}{capabilities}"


def _lines(rule: Provenance, recording: Recording, symbols: Symbols) -> Iterator[str]:
    """Yield the lines about one rule and the calls that led to it."""
    yield on_one_line(rule.arch, rule.number, rule.rule)
    calls, runs = sum(observation.calls for observation in rule.observations), columns_of(rule.observations)
    if rule.note:
        yield f"  {rule.note}"
    if rule.observations:
        numbers = ", ".join(str(column + 1) for column in runs)
        origin = "seen" if rule.note else str(rule.origin)
        counted = f"; at least {plural(calls, 'call')} in run{'s' if len(runs) > 1 else ''} {numbers}"
        yield f"  {origin}{'' if is_companion(recording) else counted}"
        rehearsals = [recording.rehearsed(observation) for observation in rule.observations]
        if all(rehearsals):
            yield f"  only rehearsed: {'; '.join(dict.fromkeys(name for names in rehearsals for name in names))}"
        yield from site_lines(rule.observations, recording, symbols)
    elif rule.origin in (Origin.UNSEEN, Origin.PORTABLE):
        yield f"  {rule.origin}"
    if rule.widenings and rule.rule.action.allows:
        yield f"  wider than recorded: {widened(rule)}"


def _runs(rules: Sequence[Provenance], recording: Recording) -> Iterator[str]:
    """Yield a line for each run that the rules come from; none for a companion, which has no runs."""
    if is_companion(recording):
        return
    columns = columns_of([observation for rule in rules for observation in rule.observations])
    for column in columns:
        run = recording.runs[column]
        rehearsed = f"  rehearsed: {run.rehearsed}" if run.rehearsed else ""
        yield f"run {column + 1}  {run.id[:8]}  {ending(run.status)}  {command_line(run.command)}{rehearsed}"
    if warm := sum(run.warm for column, run in enumerate(recording.runs) if column not in columns):
        yield f"{plural(warm, 'incremental run')} more: calls that the policy allowed by then were not recorded"


def _denial(path: Path, document: Document, event: Event) -> int:
    policy = document.policy
    arch = Arch.from_audit(event.arch)
    assert arch is not None
    answers = [(name, explain(of_phase, event)) for name, of_phase in phase_policies(policy)]
    denying = [name for name, of_phase in answers if not of_phase.action.allows]
    policy = in_phase(policy, denying[0]) if denying and policy.phases else policy
    explanation = explain(policy, event)
    _say(format_call(event))
    for name, of_phase in answers:
        _say(f"  the policy says{f' in {name}' if document.policy.phases else ''}: {format_action(of_phase.action)}")
    if arch not in policy.entries:
        _say(f"  it has no section `arch {arch}`")
    elif explanation.action.allows and (row := _row(policy, event)):
        _say(*(f"  {line}" for line in _implied(row, policy.implied)))
    elif lines := _restricted(policy, arch, event, explanation):
        _say(*lines)
    elif explanation.entry is None:
        newer = table(arch).is_newer(event.number, policy.table)
        word = "`unknown`, for calls newer than its table," if newer else "default"
        _say(f"  it has no entry for the call, so its {word} applies")
        if not newer and is_free(policy, event) and (number := unavailable(event)):
            error = format_action(Action(ActionKind.ERRNO, number)).removeprefix("errno ")
            _say(f"  `enforce` does not end the program, but fails the call with {error}, as where it is not available")
    elif explanation.nearest is None or not explanation.failing:
        _say(f"  by this entry: {on_one_line(arch, event.number, explanation.entry)}")
    else:
        _say(f"  nearest rule: {on_one_line(arch, event.number, Entry(explanation.nearest, explanation.entry.action))}")
        selectors = determined(conjuncts(explanation.nearest), ())
        for part in explanation.failing:
            index = min(mentioned(part), default=0)
            argument = table(arch).by_number[event.number].arguments[index].name
            text = format_expression(arch, event.number, part, selectors)
            _say(f"  condition not met: {text} ({argument} is {_value(event, index)})")
    if explanation.action.allows:
        return 0
    _say(f"  {advise(policy, str(path), event).what}")
    return 1


def _restricted(policy: Policy, arch: Arch, event: Event, explanation: Explanation) -> tuple[str, ...]:
    """Return the lines about bits that only restrict, if the implied set allows what the rule would without them; else ()."""
    bits = restricting(arch).get(event.number, {}) if policy.implied and explanation.action.allows else {}
    if not bits or not explanation.failing or explanation.entry is None or explanation.nearest is None:
        return ()
    arguments = table(arch).by_number[event.number].arguments
    (index, mask), *_ = bits.items()
    some = format_value(arch, arguments[index], event.arguments[index] & mask)
    rule = on_one_line(arch, event.number, Entry(explanation.nearest, explanation.entry.action))
    return f"  {rule}", f"    implied {policy.implied}: {some} as well, which only restricts what the call does"


def _row(policy: Policy, event: Event) -> Row | None:
    """Return the row of the policy's implied set that allows a call; None if there is none."""
    arch = Arch.from_audit(event.arch)
    for row in resolved(policy).added.get((arch, event.number), ()) if arch else ():
        if holds(row.entry.expression, table(row.arch).by_number[row.number].arguments, event.arguments):
            return row
    return None


def _print_place(options: argparse.Namespace) -> None:
    """Print the function at the call site that a report names, if the recording identifies the file."""
    named = _REPORTED.search(options.about)
    path = options.recording or recording_path(options.policy)
    site = Site.parse(named[1]) if named and path.exists() else None
    if site is None:
        return
    recorded = {Site.parse(observation.site) for observation in recording_file.load(path).observations}
    files = {replace(place, offset=site.offset) for place in recorded if place and place.is_in(site.file)}
    if len(files) == 1:
        symbols = Symbols()
        if name := symbols.name(files.pop()):
            _say(f"  called at {site} ({name})")
        _say(*(f"  {line}" for line in symbols.problems()))


def _value(event: Event, index: int) -> str:
    """Return the text of an argument, as reports print it."""
    shown = format_call(event).partition("(")[2].removesuffix(")").split(", ")
    return shown[index].partition("=")[2]


def _say(*lines: str) -> None:
    """Print lines with control characters escaped, since policies, recordings and reports may contain some."""
    for line in lines:
        print(printable(line))
