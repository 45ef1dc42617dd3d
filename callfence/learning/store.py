"""What becomes of a run that learn has watched: its policy and recording, or what of it is new to them."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from callfence.learning.summary import Learned, print_check
from policygen.language.document import Document, parse_file
from policygen.learning.extend import Options
from policygen.learning.generate import Generated, generate
from policygen.learning.within import forbidden, generate_within
from policygen.model import Arm
from policygen.recording import atomic, recording_file
from policygen.recording.runs import Recording, Run, merge

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from policygen.recording.observation import Observation

_NEW_BEHAVIOUR = 1 << 8
"""The wait status of exit(1) (wait(2))."""


def check(
    policy: Path, run: Run, observations: tuple[Observation, ...], options: argparse.Namespace, status: int | None
) -> int | None:
    """Show what the policy does not allow of a run.  The wait status that learn ends with: the program's own failure
    takes precedence."""
    existing = parse_file(policy)
    generated = _generate(policy, observations, existing, options)
    learned = Learned(policy, Recording((run,), observations), run, existing, generated)
    _tell_forbidden(observations, options)
    if sys.stderr is not None and not (options.quiet and not generated.new):
        with suppress(OSError):  # nobody can be told; the status says it, too
            print_check(learned, options.accept, sys.stderr)
    return _NEW_BEHAVIOUR if generated.new and not status else status


def _generate(
    policy: Path, seen: Sequence[Observation], existing: Document | None, options: argparse.Namespace
) -> Generated:
    how = Options(options.names, options.tight, frozenset(options.allow_opaque), options.portable)
    arm = Arm(options.arm) if options.arm else None
    name = policy.name.removesuffix(".policy")
    if options.within is None:
        return generate(seen, existing, name=name, options=how, arm=arm)
    return generate_within(seen, existing, options.base, name=name, options=how, arm=arm)


def _tell_forbidden(observations: tuple[Observation, ...], options: argparse.Namespace) -> None:
    if options.within is not None and sys.stderr is not None:
        from callfence.learning.baseline import print_forbidden

        print_forbidden(options.within, options.base, forbidden(observations, options.base), sys.stderr)


def add(
    policy: Path, recording: Path, run: Run, observations: tuple[Observation, ...], options: argparse.Namespace
) -> Learned:
    """Add the run to the recording, and what is new to the policy, under one lock."""
    done: list[tuple[Recording, Document | None, Generated]] = []

    def change(old: Recording) -> Recording:
        whole = merge(old, Recording((run,), observations))
        existing = parse_file(policy) if policy.exists() and not options.fresh else None
        seen = whole.observations if options.tight else whole.of_run(run.id)
        generated = _generate(policy, seen, existing, options)
        if existing is None or generated.document is not existing:
            atomic.write(policy, generated.document.text().encode())
        done.append((whole, existing, generated))
        return whole

    if options.fresh:  # whatever is there is replaced, but not before there is something else
        with atomic.locked(recording):
            recording_file.save(recording, change(Recording()))
    else:
        recording_file.update(recording, change)
    whole, existing, generated = done[0]
    _tell_forbidden(observations, options)
    return Learned(policy, whole, run, existing, generated)
