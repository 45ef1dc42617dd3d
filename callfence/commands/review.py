"""`callfence review`: accept, reject or edit the changes of a policy one by one, on a terminal."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from callfence.companion import load_evidence
from callfence.enforcer.reporting.verdict import advise
from callfence.judging import differences
from callfence.judging.ask import Asker
from callfence.judging.sites import Symbols, site_lines
from callfence.policygen.comparing.compare import Change, compare
from callfence.policygen.evaluate import evaluate
from callfence.policygen.grants import is_grant_line, written
from callfence.policygen.language.document import Document
from callfence.policygen.language.naming import format_action, format_call
from callfence.policygen.lint.catalogue import Danger
from callfence.policygen.model import Entry, Policy
from callfence.policygen.recording import atomic, recording_file
from callfence.policygen.recording.many import merge
from callfence.policygen.recording.model import Recording
from callfence.policygen.review.changes import PHASES, SETTINGS, EntryChange, PolicyChange, SettingChange, changes
from callfence.policygen.review.decisions import Answer, Decision, resolve, with_accepted
from callfence.policygen.review.judgement import Headline, Judgement, judge, judge_differences
from callfence.policygen.review.risk import needs_a_person
from callfence.policygen.review.why import Provenance, provenance
from callfence.shared.files import locked, recording_path
from callfence.shared.inputs import document, document_at, run_command
from callfence.shared.options import Parser
from callfence.shared.text import on_one_line, plural, printable
from callfence.tracer.abi import Arch, name_of
from callfence.tracer.errors import UserError

DESCRIPTION = """\
Accept, reject or edit what POLICY newly allows, one change at a time, the most dangerous first.  Each is shown with its risk
and with the executables that made the calls.  A rejected change is removed from the file, and what it had replaced is
restored; the rest of the file, with its comments, stays.  Commit the file afterwards: the next review asks about every change
that is not committed.

With --log, the changes are the rules that would allow the violations that `enforce --log` wrote for POLICY.  Accepted changes
are added to POLICY, and their violations to the recording; all others stay denied."""

EPILOG = """\
At the prompt, ^D means q, and ^C leaves the file unchanged.  Exit status: 0 every change is decided; 1 one is undecided, or not
asked about; 2 bad input, or no terminal; 130 ^C."""

_EXAMPLES = 3
"""The most examples of calls that are shown for a setting."""
NO_TERMINAL = (
    "asking needs a terminal, and there is none: `callfence diff --git HEAD {policy}` or --no-terminal shows the changes, "
    "--accept-all or --reject-all decides all of them"
)

NO_TERMINAL_LOG = (
    "asking needs a terminal, and there is none: --no-terminal shows the changes, --accept-all allows all of them, "
    "`callfence allow {policy} --log LOG --only SYSCALL` those of one call"
)


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="callfence review", description=DESCRIPTION, epilog=EPILOG)
    against = parser.add_mutually_exclusive_group()
    against.add_argument("--against", metavar="OLD", help="the policy file to compare with, instead of a revision of POLICY")
    against.add_argument("--git", metavar="REVISION", default="HEAD", help="the revision to compare with (default: HEAD)")
    against.add_argument("--log", action="append", metavar="LOG", help="a log of `enforce --log`; repeatable")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--accept-all", action="store_true", help="accept every change without asking")
    how.add_argument("--reject-all", action="store_true", help="reject every change without asking")
    how.add_argument("--no-terminal", action="store_true", help="print every change as the prompt shows it, and decide nothing")
    parser.add_argument("policy", metavar="POLICY")
    return parser


def main(arguments: list[str]) -> int:
    """Run `review`.  Return 0 if every change was decided, 1 if one was not, 2 if an input cannot be read or there is no
    terminal.  ^C ends the process by SIGINT."""
    options = parser().parse_args(arguments)
    return run_command("review", lambda: _review_log(options) if options.log else _review(options))


def _review(options: argparse.Namespace) -> int:
    path = Path(options.policy)
    new = _read(path)
    old = document(options.against) if options.against else document_at(options.git, options.policy)
    all_changes = changes(old.policy, new.policy)
    recording = load_evidence("review", path, new).recording
    for line in held_back_lines(options.policy, new.policy, recording):
        print(line)
    unasked = [*_unasked(old.policy, new.policy, all_changes)]
    for what in unasked:
        print(printable(f"{path}: {what}, and not reviewed here: callfence diff shows it"))
    if not all_changes:
        nothing = f"nothing to review: the policy allows no more than {options.against or options.git} does"
        print(printable(f"{path}: {'nothing else to review' if unasked else nothing}"))
        return int(bool(unasked))
    status = _write(path, old, new, all_changes, _decided(options, old, new, all_changes, recording))
    return status or int(bool(unasked))


def _unasked(old: Policy, new: Policy, all_changes: Sequence[PolicyChange]) -> Iterator[str]:
    """Yield what is newly allowed in phases and no change is about."""
    asked = {(change.arch, change.number) for change in all_changes if isinstance(change, EntryChange)}
    has_phases = any(isinstance(change, SettingChange) and change.word == PHASES for change in all_changes)
    comparison = compare(old, new)
    if Change.MORE in comparison.triggers and not has_phases:
        yield "phases begin at other calls, or are optional"
    for each in comparison.differences:
        if each.phase and each.change is Change.MORE and (not has_phases or (each.arch, each.number) in asked):
            yield f"{differences.shown_name(each)} is newly allowed"


def _review_log(options: argparse.Namespace) -> int:
    """Review the rules that would allow the violations in the logs, and return the exit status.  Raises UserError, PolicyError
    or OSError, and leaves the file unchanged then."""
    from callfence.learning import logs

    path = Path(options.policy)
    logged = logs.read_logs("review", path, options.log)
    old = _read(path)
    generated = logs.with_allowed(old, logs.still_denied(old.policy, logged), path.name)
    refused = [*logs.refused_lines(old.policy, generated)]
    for line in refused:
        print(printable(f"{path}: cannot be allowed, so it is not reviewed: {line}"))
    before, new = (logs.of_last_phase(document) for document in (old, generated.document))
    all_changes = changes(before.policy, new.policy)
    if not all_changes:
        reason = "nothing else to review" if refused else "nothing to review: the policy already allows all calls in the log"
        print(printable(f"{path}: {reason}"))
        return int(bool(refused))
    file = recording_path(path)
    recorded = recording_file.load(file) if file.exists() else Recording()
    decisions = _decided(options, before, new, all_changes, merge(recorded, logged))
    with locked(path):
        now = _read(path)
        if now != old:
            raise UserError(f"{path} has changed during the review: nothing was written; review again")
        accepted = {change: decision for change, decision in decisions.items() if decision.answer is Answer.ACCEPT}
        rejected = {change: Decision(Answer.REJECT) for change in all_changes if change not in accepted}
        if now.policy.phases:
            after = with_accepted(now, new.policy, accepted)
        else:
            after = resolve(now, new, {**accepted, **rejected}, all_changes)
        if accepted:
            atomic.write(path, after.text().encode())
    logs.remember(path, after, logs.allowed_by(after.policy, logs.still_denied(old.policy, logged)))
    answers = [decisions[change].answer if change in decisions else Answer.SKIP for change in all_changes]
    print(printable(f"{path}: {_counts(answers)}"))
    if Answer.SKIP in answers:
        print("undecided changes stay denied; the next review with this log asks about them again")
    return int(Answer.SKIP in answers or bool(refused))


def _decided(
    options: argparse.Namespace, old: Document, new: Document, all_changes: Sequence[PolicyChange], recording: Recording
) -> Mapping[PolicyChange, Decision]:
    """Return the decisions of --accept-all or --reject-all, or of a person at the terminal; none with --no-terminal.  ^C ends
    the process.  Raises UserError if there is no terminal."""
    path = Path(options.policy)
    if options.accept_all or options.reject_all:
        return dict.fromkeys(all_changes, Decision(Answer.ACCEPT if options.accept_all else Answer.REJECT))
    together = judge(old, new)
    describe = _describer(new, together, recording)
    if options.no_terminal:
        for number, change in enumerate(all_changes, 1):
            print(f"\n({number} of {len(all_changes)})", *map(printable, describe(change)), sep="\n")
        print()
        return {}
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty()):
        raise UserError((NO_TERMINAL_LOG if options.log else NO_TERMINAL).format(policy=path))
    atomic.check_writable(path)
    try:
        return Asker(old, new, all_changes, describe, together.findings).ask()
    except KeyboardInterrupt:
        print("\n" + printable(f"{path}: unchanged"))
        sys.stdout.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
        raise


def _read(path: Path) -> Document:
    if str(path) == "-":
        raise UserError("POLICY cannot be standard input, because the review changes the file: name a file")
    return document(str(path))


def _write(
    path: Path, old: Document, new: Document, all_changes: Sequence[PolicyChange], decisions: Mapping[PolicyChange, Decision]
) -> int:
    """Apply the decisions to the current file, print the result and return the exit status.  Changes that `learn` has added
    since `new` was read are undecided."""
    with locked(path):
        before = _read(path)
        if before.policy != new.policy:
            all_changes = changes(old.policy, before.policy)
        after = resolve(old, before, decisions, all_changes)
        if after.text() != before.text():
            atomic.write(path, after.text().encode())
    answers = [decisions[change].answer if change in decisions else Answer.SKIP for change in all_changes]
    print(printable(f"{path}: {_counts(answers)}"))
    asked, left = ({_about(each): None for each in some} for some in (all_changes, changes(old.policy, after.policy)))
    bare = [name for name in left if name not in asked] if Answer.REJECT in answers else []
    if bare:
        what = "not asked about, since what is rejected had covered it, so review again"
        print(printable(f"{path}: {what}: {', '.join(bare)}"))
    judgement = judge_differences(before.policy, after.policy)
    for change in judgement.relevant:
        print("\n".join(differences.difference_lines(change.difference)))
    for line in (*differences.redundant_lines(judgement), *differences.file_lines(judgement.comparison.files)):
        print(line)
    if Answer.ACCEPT in answers:
        print(printable(f"commit {path}: until then, the next review asks about the accepted changes again"))
    return int(Answer.SKIP in answers or bool(bare))


def _about(change: PolicyChange) -> str:
    return change.word if isinstance(change, SettingChange) else f"{name_of(change.arch, change.number)} ({change.arch})"


def _counts(answers: Sequence[Answer]) -> str:
    return ", ".join(f"{answers.count(answer)} {answer}" for answer in Answer if answer in answers)


def _describer(new: Document, together: Judgement, recording: Recording) -> Callable[[PolicyChange], Iterator[str]]:
    symbols = Symbols()

    @cache
    def origins(arch: Arch, number: int) -> tuple[Provenance, ...]:
        return provenance(new, recording, arch, number)

    def describe(change: PolicyChange) -> Iterator[str]:
        for each in together.headlines:
            if _is_of(change, each) or _completes(change, each, new.policy):
                yield differences.headline(together, each)
                if each.why:
                    yield f"  why     {each.why}"
                    yield f"  safer   {each.safer}"
        yield from _dangers(change)
        yield from _what(change)
        if isinstance(change, EntryChange):
            yield from _callers(change)

    def _callers(change: EntryChange) -> Iterator[str]:
        if change.after is None or change.number not in new.policy.entries[change.arch]:
            return
        behind = origins(change.arch, change.number)
        origin = [each for each in behind if change.whole or each.rule.expression == change.after.expression]
        if not origin:  # edited: not yet in the file
            return
        observations = tuple(observation for each in origin for observation in each.observations)
        lines = [*site_lines(observations, recording, symbols)] or ["  in no recorded run"]
        yield from (f"  {'' if place else 'seen':7} {line[2:]}" for place, line in enumerate(lines))

    return describe


def _is_of(change: PolicyChange, about: Headline) -> bool:
    """Return whether a headline is about the setting, or the line about files or ports, that is changed."""
    if not isinstance(change, SettingChange) or about.arch is not None:
        return False
    return change.word == about.name or (change.word == PHASES and about.name.startswith("phase"))


def _completes(change: PolicyChange, about: Headline, new: Policy) -> bool:
    """Return whether the change completes the combination of a headline: it is about a call that does, or it has an implied set
    allow such calls without an entry."""
    if about.arch is None:
        return False
    if isinstance(change, EntryChange):
        return about.arch is change.arch and name_of(change.arch, change.number) in about.completing
    named = {name_of(about.arch, number) for number in new.entries[about.arch]}
    return change.word == "implied" and bool(about.completing) and named.isdisjoint(about.completing)


def _dangers(change: PolicyChange) -> Iterator[str]:
    """Yield the risks of a change, except for those that only follow from a setting, which has a headline."""
    if isinstance(change, SettingChange) and change.word in SETTINGS:
        return
    word = change.word if isinstance(change, SettingChange) else ""
    names: dict[Danger, dict[str, None]] = {}
    for each in change.differences:
        for row in each.dangers:
            names.setdefault(row, {})[word if each.difference.number is None else differences.call_name(each.difference)] = None
    for row, calls in names.items():
        yield f"{row.level}: {', '.join(calls)}: it newly {row.grants} [{row.id}]"
        yield f"  why     {row.why}"
        yield f"  safer   {row.safer}"


def _what(change: PolicyChange) -> Iterator[str]:
    if isinstance(change, SettingChange):
        values = [("-", change.before)] * bool(change.before) + [("+", change.after)]
        has_colon = is_grant_line(change.word) or change.word.startswith(PHASES)
        for sign, value in values:
            yield f"  {sign} {written(change.word, value) if has_colon else f'{change.word} {value}'.rstrip()}"
    else:
        removed = [change.before] if change.whole else [Entry(part) for part in change.replaced]
        for sign, entries in (("-", removed), ("+", [change.after])):
            for entry in entries:
                if entry is not None:
                    yield f"  {sign} {on_one_line(change.arch, change.number, entry)}"
    more = [each.difference for each in change.differences if each.difference.change is not Change.LESS]
    shown = more[:_EXAMPLES] if isinstance(change, SettingChange) else more
    for difference in shown:
        if isinstance(change, EntryChange) and change.replaced:
            yield f"  new     {' || '.join(differences.rule_texts(difference))}"
        word = "allows" if difference.change is Change.MORE else format_action(difference.after)
        yield f"  {word:7} {format_call(difference.example)}"
    if len(more) > len(shown):
        yield f"  and {plural(len(more) - len(shown), 'more kind')} of calls"


def held_back_lines(path: str, policy: Policy, recording: Recording) -> Iterator[str]:
    """Yield lines about dangerous calls that `learn` recorded only under fault injection, with the command that allows each."""
    rehearsed = [observation for observation in recording.observations if recording.rehearsed(observation)]
    dangerous = [observation for observation in rehearsed if needs_a_person(observation)]
    denied = [observation for observation in dangerous if not evaluate(policy, observation.event).allows]
    if denied:
        number = plural(len(denied), "dangerous call")
        yield f"not added by learn: {number}, made only under fault injection (--rehearse):"
    for observation in denied:
        yield f"  {format_call(observation.event)}"
        yield f"    {printable(observation.executable)}, when {printable(recording.rehearsed(observation)[0])}"
        yield f"    {advise(policy, path, observation.event).what}"
