"""What becomes of runs: they are added to a policy and its recording, or compared with the policy."""

from __future__ import annotations

import sys
from itertools import groupby
from typing import TYPE_CHECKING

from callfence.learning.progress import say
from callfence.shared.files import companion_path, recording_path
from callfence.shared.text import plural, printable
from policygen.evaluate import evaluate
from policygen.language.document import Document, parse_file
from policygen.language.naming import format_action, format_call
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

    from callfence.learning.prepare import Prepared
    from policygen.model import Policy
    from policygen.recording.model import Observation

MAX_LINES = 40
"""Lines of forbidden calls that are shown; the recording has all of them."""


class Learned(NamedTuple):
    """A run that has been added to its recording and its policy, as the summary reports it."""

    policy: Path
    recording: Recording
    run: Run
    existing: Document | None
    """The policy before."""
    generated: Generated
    exact_within: str = ""
    """The baseline that has no room for the implied set which the policy would have otherwise."""

    @property
    def is_new(self) -> bool:
        """Whether the run did what the policy before did not allow."""
        has_scope = self.existing is not None and self.existing.policy.scope == self.generated.document.policy.scope
        return bool(self.generated.new or self.generated.files) or not has_scope


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
    if prepared is not None and prepared.document is not None and prepared.is_unchanged():
        return prepared.document
    return parse_file(policy)


def _with_scope(whole: Recording, existing: Document | None, generated: Generated) -> Generated:
    """Return it with the policy's scope of signals as the whole recording shows it."""
    document = generated.document
    new = scope(whole, existing.policy if existing else None, document.policy)
    return generated if document.policy.scope == new else generated._replace(document=document.with_scope(new))


def learn(prepared: Prepared, run: Run, observations: tuple[Observation, ...]) -> Learned:
    """Add a run, and return what is new in it, compared with the policy when the run began."""
    options, before = prepared.options, prepared.document

    def generated_from(old: Recording, whole: Recording, existing: Document | None) -> Generated:
        observed = _trusted(whole, run, existing) if options.tight else whole.of_run(run.id)
        generated = _generate(prepared, run, observed, existing, whole, old)
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


def rehearsed(prepared: Prepared, run: Run, new: tuple[Observation, ...]) -> Learned:
    """Add what is new in a rehearsed run: all of it to the recording, and to the policy what is not held back."""
    from policygen.review.risk import held_back

    def generated_from(_: Recording, whole: Recording, existing: Document | None) -> Generated:
        held = held_back(whole, existing.policy if existing else None, prepared.options.allow_opaque)
        allowed = [observation for observation in whole.of_run(run.id) if observation.key not in held]
        return _generate(prepared, run, allowed, existing, whole)

    added = add(prepared.policy, Recording((run,), new), generated_from, prepared=prepared)
    return Learned(prepared.policy, added.recording, run, added.existing, added.generated)


def check(prepared: Prepared, run: Run, observations: tuple[Observation, ...]) -> Learned:
    """Compare a run with the policy as it was when the run began, and return what is new in it; write nothing."""
    before, recording = prepared.document, Recording((run,), observations)
    if not prepared.is_unchanged():
        _say_changed(prepared)
    generated = _with_scope(recording, before, _generate(prepared, run, observations, before, recording))
    _print_forbidden(prepared, generated)
    return Learned(prepared.policy, recording, run, before, generated)


def _generate(
    prepared: Prepared,
    run: Run,
    observed: Sequence[Observation],
    existing: Document | None,
    whole: Recording,
    old: Recording | None = None,
) -> Generated:
    """Return what is generated of `observed`, and what the run needs of files and ports, where they are learned.

    `whole` is the recording with the run.  With `old`, that without the run, `--phases` may choose other phases."""
    generated = _with_phases(prepared, observed, existing, whole if old is not None else Recording(), old)
    if not prepared.with_files or not run.files:
        return generated
    from callfence.learning.files import watched, with_files

    exact = prepared.options.exact or prepared.options.tight
    return with_files(generated, watched(whole), run.files, existing, prepared.base, exact=exact)


def _with_phases(
    prepared: Prepared, observed: Sequence[Observation], existing: Document | None, whole: Recording, old: Recording | None
) -> Generated:
    """Return what is generated of `observed`, with the policy's phases, or, with `--phases`, one that the recording shows."""
    options = prepared.options
    implied = 0 if options.exact or options.tight else IMPLIED[-1]
    how = Options(options.names, options.tight, options.allow_opaque, implied, options.portable, prepared.default)
    staged = existing if existing is not None and existing.policy.phases else None
    chooses = options.phases and old is not None
    if staged is None and not chooses:
        return _of_start(prepared, observed, existing, how)
    from policygen.learning import phases

    generated = _of_start(prepared, observed, phases.start_of(existing) if existing else None, how)
    if staged is not None and not (options.phases and phases.is_learned(staged, old or Recording(), how)):
        generated = phases.staged(generated, staged, observed, staged.policy.phases, how)
        return generated._replace(phases=phases.UNCHANGED if chooses else "")
    choice = phases.choose(generated.document.policy, whole, how)
    if choice.phases or staged is not None:
        generated = phases.staged(generated, existing, whole.observations, choice.phases, how, anew=True)
    return generated._replace(phases=choice.why)


def _of_start(
    prepared: Prepared, observed: Sequence[Observation], existing: Document | None, how: Options
) -> Generated:
    """Return what is generated of `observed`, but for phases."""
    arm = Arm(prepared.options.arm) if prepared.options.arm else None
    name = prepared.policy.name.removesuffix(".policy")
    if prepared.base is None:
        return generate(observed, existing, name=name, options=how, arm=arm)
    from policygen.learning.within import generate_within

    return generate_within(observed, existing, prepared.base, name=name, options=how, arm=arm)


def _trusted(whole: Recording, run: Run, existing: Document | None) -> tuple[Observation, ...]:
    """Return the observations of the run, and those of earlier runs that the policy allows: a recording does not bring back
    what was taken out of the policy, and one of another program, or a forged one, adds nothing to it."""
    if existing is None:
        return whole.observations
    from policygen.learning.within import forbidden

    of_run = set(whole.of_run(run.id))
    earlier = [observation for observation in whole.observations if observation not in of_run]
    denied = set(forbidden(earlier, existing.policy))
    if denied:
        say(f"learn: not used: {plural(len(denied), 'observation')} of earlier runs that the policy does not allow")
    return tuple(observation for observation in whole.observations if observation not in denied)


def _say_changed(prepared: Prepared) -> None:
    message = "was changed while the program ran: what is new is compared with the policy before; review that change too"
    say(f"learn: {prepared.policy} {message}")


def _print_forbidden(prepared: Prepared, generated: Generated) -> None:
    if prepared.options.within is not None and prepared.base is not None:
        print_forbidden(prepared.options.within, prepared.base, generated.forbidden)


def print_forbidden(name: str, base: Policy, denied: Sequence[Observation]) -> None:
    """Print the calls that a baseline of this name forbids: how often, an example, by what program, and what it answers."""
    if not denied or sys.stderr is None:
        return
    calls = plural(sum(observation.calls for observation in denied), "call")
    print(f"{name} forbids what the program did, in {calls}; it is not added to the policy:", file=sys.stderr)
    rows = [_forbidden_row(base, [*group]) for _, group in groupby(denied, key=lambda each: (each.arch, each.number))]
    width = max(len(count) for count, _ in rows)
    for count, text in rows[:MAX_LINES]:
        print(f"  {count:>{width}} x {text}", file=sys.stderr)
    if len(rows) > MAX_LINES:
        print(f"  ... and {plural(len(rows) - MAX_LINES, 'call')} more", file=sys.stderr)
    sys.stderr.flush()


def _forbidden_row(base: Policy, denied: Sequence[Observation]) -> tuple[str, str]:
    """Return how often one call was denied, and a line about it."""
    first = denied[0]
    answers = {format_action(evaluate(base, observation.event)) for observation in denied} - {"allow", "log"}
    answer = ", ".join(sorted(answers)) or "allowed in part"
    count = sum(observation.calls for observation in denied)
    return f"{count:,}", f"{format_call(first.event)} by {printable(first.executable)}: {answer}"
