"""What becomes of runs: they are added to a policy and its recording, or compared with the policy."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from callfence.learning.learned import Learned
from callfence.learning.prepare import document
from callfence.shared.files import companion_path, recording_path
from callfence.shared.text import plural
from policygen.language.document import Document, parse_file
from policygen.learning.extend import Options
from policygen.learning.generate import Generated, generate
from policygen.learning.scope import scope
from policygen.model import IMPLIED, Arm
from policygen.recording import atomic, recording_file
from policygen.recording.fold import bounded
from policygen.recording.many import merge
from policygen.recording.model import Recording, Run
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from callfence.learning.options import LearnOptions
    from callfence.learning.prepare import Prepared
    from policygen.recording.model import Observation

_NEW_BEHAVIOUR = 1 << 8
"""The wait status of exit(1) (wait(2))."""


class Added(NamedTuple):
    """Runs that have been added to a policy and its recording."""

    recording: Recording
    """With the runs."""
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
    """Add runs to the recording of a policy, and to the policy what is generated from the recording before and after, and the
    policy as it is, which is that of `prepared` if it is unchanged; `fresh` replaces both.  The policy's companion is kept up
    to date, if it has one or if `evidence` is asked for.

    The lock keeps every other command that writes either waiting until both are written.  The policy is written first: if
    that fails, no recording shows calls that its policy does not allow.
    """
    recording = recording_path(policy)
    atomic.make_folder(recording.parent)
    with atomic.locked(recording):
        old = recording_file.load(recording) if recording.exists() and not fresh else Recording()
        existing = _existing(policy, prepared) if policy.exists() and not fresh else None
        whole = bounded(merge(old, runs))
        generated = _with_scope(whole, existing, generated_from(old, whole, existing))
        if generated.document is not existing:
            atomic.write(policy, generated.document.text().encode())
        recording_file.save(recording, whole)
        if evidence or companion_path(policy).exists():
            from callfence.companion import update  # loads what finds symbols

            update(policy, generated.document, whole, is_wanted=evidence, fresh=fresh)
    return Added(whole, existing, generated)


def _existing(policy: Path, prepared: Prepared | None) -> Document:
    if prepared is not None and prepared.existing is not None and prepared.is_unchanged():
        return document(prepared.existing)
    return parse_file(policy)


def _with_scope(whole: Recording, existing: Document | None, generated: Generated) -> Generated:
    """With the policy's scope of signals as the whole recording shows it."""
    document = generated.document
    found = scope(whole, existing.policy if existing else None, document.policy)
    return generated if document.policy.scope == found else generated._replace(document=document.with_scope(found))


def learn(prepared: Prepared, run: Run, observations: tuple[Observation, ...], options: LearnOptions) -> Learned:
    """Add a run; what is new in it is told as compared with the policy when the run began."""

    def generated_from(old: Recording, whole: Recording, existing: Document | None) -> Generated:
        seen = _trusted(whole, run, existing) if options.tight else whole.of_run(run.id)
        generated = _generate(prepared, seen, existing, options, (old, whole))
        generated = _with_files(generated, whole, run, existing, prepared, options)
        has_start = run.complete or (existing is not None and not existing.lacks_start)
        if generated.document.lacks_start == has_start:
            return generated._replace(document=generated.document.with_start(has_start))
        return generated

    before = _before(prepared)
    runs = Recording((run,), observations)
    added = add(
        prepared.policy, runs, generated_from, prepared=prepared, fresh=options.fresh, evidence=options.evidence
    )
    generated = added.generated
    if added.existing != before:
        _tell_changed(prepared)
        again = _generate(prepared, added.recording.of_run(run.id), before, options)
        again = _with_files(again, added.recording, run, before, prepared, options)
        generated = generated._replace(new=again.new, files=again.files)
    _tell_forbidden(observations, prepared, options)
    return Learned(prepared.policy, added.recording, run, before, generated, _exact_within(before, generated, options))


def rehearsed(
    prepared: Prepared, run: Run, brought: tuple[Observation, ...], options: LearnOptions
) -> Learned:
    """Add what a rehearsed run brought: all of it to the recording, and to the policy what is not held back."""
    from policygen.review.risk import held_back

    def generated_from(_: Recording, whole: Recording, existing: Document | None) -> Generated:
        held = held_back(whole, existing.policy if existing else None, options.allow_opaque)
        seen = [one for one in whole.of_run(run.id) if one.key not in held]
        return _generate(prepared, seen, existing, options)

    added = add(prepared.policy, Recording((run,), brought), generated_from, prepared=prepared)
    return Learned(prepared.policy, added.recording, run, added.existing, added.generated)


def check(
    prepared: Prepared, run: Run, observations: tuple[Observation, ...], options: LearnOptions, status: int | None
) -> int | None:
    """Show what the policy, as it was when the run began, does not allow of it.  The wait status that learn ends with:
    the program's own failure takes precedence."""
    before = _before(prepared)
    if not prepared.is_unchanged():
        _tell_changed(prepared)
    recording = Recording((run,), observations)
    generated = _generate(prepared, observations, before, options)
    generated = _with_files(generated, Recording((run,)), run, before, prepared, options)
    generated = _with_scope(recording, before, generated)
    learned = Learned(prepared.policy, recording, run, before, generated)
    _tell_forbidden(observations, prepared, options)
    is_lost = before is not None and before.policy.scope != generated.document.policy.scope
    is_new = bool(generated.new or generated.files or is_lost)
    if sys.stderr is not None and not (options.quiet and not is_new):
        from callfence.learning.summary import print_check

        with suppress(OSError):  # the reader has gone; the status tells it too
            print_check(learned, options.accept, bool(status), sys.stderr)
    return _NEW_BEHAVIOUR if is_new and not status else status


def _before(prepared: Prepared) -> Document | None:
    return document(prepared.existing) if prepared.existing else None


def _generate(
    prepared: Prepared,
    seen: Sequence[Observation],
    existing: Document | None,
    options: LearnOptions,
    recordings: tuple[Recording, Recording] | None = None,
) -> Generated:
    """What is generated of `seen`, with the policy's phases, or one that is chosen by the recording, if asked for; `recordings`
    are without and with the run."""
    implied = 0 if options.exact or options.tight else IMPLIED[-1]
    how = Options(options.names, options.tight, options.allow_opaque, implied, options.portable, prepared.default)
    has_phases = existing is not None and bool(existing.policy.phases)
    if not has_phases and not (options.phases and recordings):
        return _of_start(prepared, seen, existing, options, how)
    from policygen.learning import phases

    generated = _of_start(prepared, seen, phases.start_of(existing) if existing else None, options, how)
    old, whole = recordings or (Recording(), Recording())
    if existing is not None and has_phases and not (options.phases and phases.is_learned(existing, old, how)):
        generated = phases.staged(generated, existing, seen, existing.policy.phases, how)
        return generated._replace(phases=phases.KEPT if options.phases and recordings else "")
    choice = phases.choose(generated.document.policy, whole, how)
    if choice.phases or has_phases:
        generated = phases.staged(generated, existing, whole.observations, choice.phases, how, anew=True)
    return generated._replace(phases=choice.why)


def _of_start(
    prepared: Prepared, seen: Sequence[Observation], existing: Document | None, options: LearnOptions, how: Options
) -> Generated:
    arm = Arm(options.arm) if options.arm else None
    name = prepared.policy.name.removesuffix(".policy")
    if prepared.base is None:
        return generate(seen, existing, name=name, options=how, arm=arm)
    from policygen.learning.within import generate_within

    return generate_within(seen, existing, prepared.base, name=name, options=how, arm=arm)


def _with_files(
    generated: Generated,
    whole: Recording,
    run: Run,
    existing: Document | None,
    prepared: Prepared,
    options: LearnOptions,
) -> Generated:
    """With what the run needs of files and ports, where they are learned."""
    if not prepared.with_files or not run.files:
        return generated
    from callfence.learning.files import watched, with_files

    exact = options.exact or options.tight
    return with_files(generated, watched(whole), run.files, existing, prepared.base, exact=exact)


def _exact_within(before: Document | None, generated: Generated, options: LearnOptions) -> str:
    """The baseline, if it is the reason why the policy has no implied set."""
    wanted = before.policy.implied if before else not (options.exact or options.tight)
    return options.within or "" if wanted and not generated.document.policy.implied else ""


def _trusted(whole: Recording, run: Run, existing: Document | None) -> tuple[Observation, ...]:
    """The observations of the run, and those of earlier runs that the policy allows: a recording does not bring back what
    was taken out of the policy, and one of another program, or a forged one, adds nothing to it."""
    if existing is None:
        return whole.observations
    from policygen.learning.within import forbidden

    mine = set(whole.of_run(run.id))
    others = [one for one in whole.observations if one not in mine]
    against = set(forbidden(others, existing.policy))
    if against and sys.stderr is not None:
        what = plural(len(against), "observation")
        print(f"learn: not used: {what} of earlier runs that the policy does not allow", file=sys.stderr)
    return tuple(one for one in whole.observations if one not in against)


def _tell_changed(prepared: Prepared) -> None:
    if sys.stderr is not None:
        message = "was changed while the program ran: what is new is compared with the policy before; review that change too"
        print(f"learn: {prepared.policy} {message}", file=sys.stderr)


def _tell_forbidden(observations: tuple[Observation, ...], prepared: Prepared, options: LearnOptions) -> None:
    if options.within is not None and prepared.base is not None and sys.stderr is not None:
        from callfence.learning.baseline import print_forbidden
        from policygen.learning.within import forbidden

        print_forbidden(options.within, prepared.base, forbidden(observations, prepared.base), sys.stderr)
