"""Adds runs to a policy and its recording, or compares them with the policy."""

from __future__ import annotations

import sys
from itertools import groupby
from typing import TYPE_CHECKING

from callfence.learning.progress import say
from callfence.policygen.evaluate import evaluate
from callfence.policygen.language.document import Document, parse_file
from callfence.policygen.language.naming import format_action, format_call
from callfence.policygen.learning.extend import Options
from callfence.policygen.learning.foreseen import NOTES, foreseen
from callfence.policygen.learning.generate import Generated, generate
from callfence.policygen.learning.scope import scope
from callfence.policygen.model import IMPLIED, Arm, Policy
from callfence.policygen.recording import atomic, recording_file
from callfence.policygen.recording.fold import bounded
from callfence.policygen.recording.many import merge
from callfence.policygen.recording.model import Observation, Recording, Run
from callfence.policygen.values import replace
from callfence.shared.files import companion_path, recording_path
from callfence.shared.text import plural, printable
from callfence.tracer.abi import name_of
from callfence.tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from callfence.learning.prepare import Prepared

MAX_LINES = 40
"""The most lines of denied calls that are printed; the recording has all calls."""


class Learned(NamedTuple):
    """A run that has been added to its recording and its policy, as the summary reports it."""

    policy: Path
    recording: Recording
    run: Run
    existing: Document | None
    """The policy before; None if there was none."""
    generated: Generated
    exact_within: str = ""
    """The file of the upper bound, if it denies so much of the implied set that the policy has none; else ""."""

    @property
    def is_new(self) -> bool:
        """Whether the policy before did not allow all that the run did."""
        has_scope = self.existing is not None and self.existing.policy.scope == self.generated.document.policy.scope
        return bool(self.generated.new or self.generated.files) or not has_scope


class Added(NamedTuple):
    """Runs that have been added to a policy and its recording."""

    recording: Recording
    """The recording with the runs."""
    existing: Document | None
    """The policy before."""
    generated: Generated


def add(
    policy: Path,
    runs: Recording,
    generated_from: Callable[[Recording, Recording, Document | None], Generated],
    *,
    prepared: Prepared | None = None,
    fresh: bool = False,
    evidence: bool = False,
) -> Added:
    """Add runs to the recording of a policy, write the policy that `generated_from` returns, and return both.

    `generated_from` gets the recording before, the recording with the runs, and the present policy (None if there is none).
    `fresh` replaces the policy and the recording instead.  The policy's companion is updated if there is one, and written with
    `evidence`.

    A lock makes other commands that write these files wait until both are written.  The policy is written first: if that
    fails, the recording has no calls that its policy does not allow."""
    recording = recording_path(policy)
    atomic.make_folder(recording.parent)
    with atomic.locked(recording):
        old = recording_file.load(recording) if recording.exists() and not fresh else Recording()
        existing = _existing(policy, prepared) if policy.exists() and not fresh else None
        whole = bounded(merge(old, runs))
        generated = with_scope(old, whole, existing, generated_from(old, whole, existing))
        if generated.document is not existing:
            atomic.write(policy, generated.document.text().encode())
        recording_file.save(recording, whole)
        if evidence or companion_path(policy).exists():
            from callfence.companion import update  # loads what finds symbols

            update(policy, generated.document, whole, is_wanted=evidence, fresh=fresh)
    return Added(whole, existing, generated)


def _existing(policy: Path, prepared: Prepared | None) -> Document:
    if prepared is not None and prepared.document is not None and prepared.is_unchanged():
        return prepared.document
    return parse_file(policy)


def with_scope(old: Recording, whole: Recording, existing: Document | None, generated: Generated) -> Generated:
    """Return `generated`, its policy with the scope of signals that fits the whole recording; `old` is the one before."""
    document = generated.document
    new = scope(old, whole, existing.policy if existing else None, document.policy)
    return generated if document.policy.scope == new else generated._replace(document=document.with_scope(new))


def learn(prepared: Prepared, run: Run, observations: tuple[Observation, ...]) -> Learned:
    """Add a run to its policy and recording, and return what is new in it, compared with the policy when the run began."""
    options, before = prepared.options, prepared.document

    def generated_from(old: Recording, whole: Recording, existing: Document | None) -> Generated:
        observed = _trusted(whole, run, existing) if options.tight else whole.of_run(run.id)
        unseen = () if options.exact or options.tight else foreseen(old if existing else Recording(), whole)
        generated = _with_notes(_generate(prepared, run, (*observed, *unseen), existing, whole, old), unseen)
        generated = _without_denials(generated, unseen)
        has_start = run.complete or (existing is not None and not existing.lacks_start)
        if generated.document.lacks_start == has_start:
            return generated._replace(document=generated.document.with_start(has_start))
        return generated

    runs = Recording((run,), observations)
    added = add(prepared.policy, runs, generated_from, prepared=prepared, fresh=options.fresh, evidence=options.evidence)
    generated = added.generated
    if added.existing != before:
        _say_changed(prepared)
        compared = _generate(prepared, run, added.recording.of_run(run.id), before, added.recording)
        generated = generated._replace(new=compared.new, files=compared.files)
    _print_forbidden(prepared, added.generated)
    had_implied = before.policy.implied if before else not (options.exact or options.tight)
    lost_implied = had_implied and not generated.document.policy.implied
    return Learned(prepared.policy, added.recording, run, before, generated, (options.within or "") if lost_implied else "")


def _with_notes(generated: Generated, unseen: Sequence[Observation]) -> Generated:
    """Return `generated` with notes on the entries for the calls `unseen`, which no run made."""
    calls = {(observation.arch, observation.number) for observation in unseen}
    document = generated.document
    for new in generated.new:
        if new.first and (new.arch.audit, new.number) in calls:
            document = document.with_note(new.arch, new.number, NOTES[name_of(new.arch, new.number)])
    return generated._replace(document=document)


def _without_denials(generated: Generated, unseen: Sequence[Observation]) -> Generated:
    """Return `generated` without what it says about those of the calls `unseen`, which no run made, that stay denied."""
    refused = tuple(observation for observation in generated.refused if observation not in unseen)
    forbidden = tuple(observation for observation in generated.forbidden if observation not in unseen)
    return generated._replace(refused=refused, forbidden=forbidden)


def rehearsed(prepared: Prepared, run: Run, new: tuple[Observation, ...]) -> Learned:
    """Add what is new in a rehearsed run to the recording, and what of it is not dangerous (`held_back`) to the policy."""
    from callfence.policygen.review.risk import held_back

    def generated_from(_: Recording, whole: Recording, existing: Document | None) -> Generated:
        held = held_back(whole, existing.policy if existing else None, prepared.options.allow_opaque)
        allowed = [observation for observation in whole.of_run(run.id) if observation.key not in held]
        return _generate(prepared, run, allowed, existing, whole)

    added = add(prepared.policy, Recording((run,), new), generated_from, prepared=prepared)
    return Learned(prepared.policy, added.recording, run, added.existing, added.generated)


def check(prepared: Prepared, run: Run, observations: tuple[Observation, ...]) -> Learned:
    """Return what is new in a run, compared with what the policy permitted when the run began; write nothing."""
    from callfence.learning.granted import needing_lines

    run = replace(run, files=needing_lines(run.files))
    before, recording = prepared.document, Recording((run,), observations)
    if not prepared.is_unchanged():
        _say_changed(prepared)
    generated = _generate(prepared, run, observations, before, recording, latest=0)  # what was not used may have been removed
    generated = with_scope(Recording(), recording, before, generated)
    _print_forbidden(prepared, generated)
    return Learned(prepared.policy, recording, run, before, generated)


def _generate(
    prepared: Prepared,
    run: Run,
    observed: Sequence[Observation],
    existing: Document | None,
    whole: Recording,
    old: Recording | None = None,
    latest: int = 1,
) -> Generated:
    """Return the policy that is generated from `observed`, with the run's files and ports if these are learned.  `whole` is the
    recording with the run.  `old` is the recording without it; only if it is given can `--phases` choose phases.  With 0 for
    `latest`, nothing is added that the run did not use."""
    generated = _with_phases(prepared, observed, existing, whole, old)
    from callfence.learning.granted import watched, with_files

    exact = prepared.options.exact or prepared.options.tight
    base, begins, hosts = prepared.base, prepared.begins, prepared.options.hosts
    runs = [*watched(whole, {run.id}), run.files]  # others may seem to be later: of another machine, or before a clock was set
    return with_files(generated, runs, run.files, existing, base, latest=latest, begins=begins, exact=exact, hosts=hosts)


def _with_phases(
    prepared: Prepared, observed: Sequence[Observation], existing: Document | None, whole: Recording, old: Recording | None
) -> Generated:
    """Return the policy that is generated from `observed`, with the phases of the existing policy, or with the one that
    `--phases` finds in the recording."""
    options = prepared.options
    implied = 0 if options.exact or options.tight else IMPLIED[-1]
    how = Options(options.names, options.tight, options.allow_opaque, implied, options.portable, prepared.default)
    chooses = options.phases and old is not None
    if not chooses and not (existing is not None and existing.policy.phases):
        return _of_start(prepared, observed, existing, how)
    from callfence.policygen.learning.phases import in_phases

    def from_start(document: Document | None) -> Generated:
        return _of_start(prepared, observed, document, how)

    return in_phases(from_start, existing, observed, old or Recording(), whole, how, chooses=chooses)


def _of_start(prepared: Prepared, observed: Sequence[Observation], existing: Document | None, how: Options) -> Generated:
    """Return the policy that is generated from `observed`, without phases."""
    arm = Arm(prepared.options.arm) if prepared.options.arm else None
    name = prepared.policy.name.removesuffix(".policy")
    if prepared.base is None:
        return generate(observed, existing, name=name, options=how, arm=arm)
    from callfence.policygen.learning.within import generate_within

    return generate_within(observed, existing, prepared.base, name=name, options=how, arm=arm)


def _trusted(whole: Recording, run: Run, existing: Document | None) -> tuple[Observation, ...]:
    """Return the observations of the run, and those of earlier runs that the policy allows.  So calls that a user has removed
    from the policy stay removed, and a forged recording, or one of another program, adds nothing."""
    if existing is None:
        return whole.observations
    from callfence.policygen.learning.within import forbidden

    of_run = set(whole.of_run(run.id))
    earlier = [observation for observation in whole.observations if observation not in of_run]
    denied = set(forbidden(earlier, existing.policy))
    if denied:
        say(f"learn: {plural(len(denied), 'observation')} of earlier runs not used, because the policy does not allow them")
    return tuple(observation for observation in whole.observations if observation not in denied)


def _say_changed(prepared: Prepared) -> None:
    before = "what is called new was not in it when the run began"
    say(f"learn: {prepared.policy} was changed while the program ran: {before}; review that change, too")


def _print_forbidden(prepared: Prepared, generated: Generated) -> None:
    if prepared.options.within is not None and prepared.base is not None:
        print_forbidden(prepared.options.within, prepared.base, generated.forbidden)


def print_forbidden(name: str, base: Policy, denied: Sequence[Observation]) -> None:
    """Print the calls of a program that an upper bound denies: their number, an example, the executable, and the action of the
    upper bound.  `name` is the file of the upper bound `base`."""
    if not denied or sys.stderr is None:
        return
    calls = plural(sum(observation.calls for observation in denied), "call")
    print(f"{name} denies {calls} of the program; they were not added to the policy:", file=sys.stderr)
    rows = [_forbidden_row(base, [*group]) for _, group in groupby(denied, key=lambda each: (each.arch, each.number))]
    width = max(len(count) for count, _ in rows)
    for count, text in rows[:MAX_LINES]:
        print(f"  {count:>{width}} x {text}", file=sys.stderr)
    if len(rows) > MAX_LINES:
        print(f"  ... and {plural(len(rows) - MAX_LINES, 'call')} more", file=sys.stderr)
    sys.stderr.flush()


def _forbidden_row(base: Policy, denied: Sequence[Observation]) -> tuple[str, str]:
    """Return how often a system call was denied, and a line about it, with an example."""
    first = denied[0]
    answers = {format_action(evaluate(base, observation.event)) for observation in denied} - {"allow", "log"}
    answer = ", ".join(sorted(answers)) or "allowed in part"
    count = sum(observation.calls for observation in denied)
    return f"{count:,}", f"{format_call(first.event)} by {printable(first.executable)}: {answer}"
