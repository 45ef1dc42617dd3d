"""The companion of a policy, `NAME.evidence`: kept up to date by what learns, and used by what is for reviewers where there is
no recording."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from callfence.judging.sites import Site, Symbols
from callfence.shared.files import companion_path, recording_path, working_folder
from callfence.shared.inputs import print_error
from callfence.shared.text import plural, printable
from policygen import reading
from policygen.evidence.facts import path_pattern, places
from policygen.evidence.words import escaped
from policygen.recording import atomic, recording_file
from policygen.recording.model import Recording
from policygen.review.companion import Companion, fitting, read, reduced, text, united
from tracer.abi import Arch, table
from tracer.errors import UserError
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from policygen.language.document import Document
    from policygen.recording.model import Observation


def update(policy: Path, document: Document, recording: Recording, *, is_wanted: bool = False, fresh: bool = False) -> None:
    """Add to the companion what the recording says of the policy's rules, and remove what fits them no longer.

    Without a companion nothing is done unless `is_wanted`; with `fresh`, its former content is dropped.
    """
    path = companion_path(policy)
    if not is_wanted and not path.exists():
        return
    before = reading.read(str(path)) if path.exists() else b""
    try:
        old = read(before.decode(errors="replace"), str(path)) if before and not fresh else Companion((), ())
    except UserError as error:
        print(printable(f"learn: {error}; it is left as it is"), file=sys.stderr)
        return
    if old.unread:
        removed = f"{plural(len(old.unread), 'line')} that could not be read, the first is {old.unread[0]}"
        print(printable(f"learn: {path}: removed: {removed}"), file=sys.stderr)
    united_observations = united((*old.observations, *_reduced(recording)))
    content = text(fitting(document, united_observations), policy.name).encode()
    if content != before:
        atomic.write(path, content)


def _reduced(recording: Recording) -> Iterator[Observation]:
    where, symbols = places(working_folder(), os.environ), Symbols()
    for observation in recording.observations:
        first = next(column for column, count in enumerate(observation.counts) if count)
        place = _place(observation.site, symbols, recording.runs[first].started)
        reduced_observation = reduced(observation, path_pattern(observation.executable, where), place)
        if reduced_observation is not None:
            yield reduced_observation


def _place(site: str, symbols: Symbols, since: int) -> str:
    """`libc.so.6/openat64`: the file of a call site and its function, if that is known."""
    parsed = Site.parse(site)
    if parsed is None:
        return "?"
    name = symbols.name(parsed, since).partition("+0x")[0]
    file = os.path.basename(parsed.file)
    return escaped(f"{file}/{name}" if name else file)


class Evidence(NamedTuple):
    """What is known of the calls behind a policy."""

    file: str
    """The recording's or the companion's; "" if there is neither."""
    recording: Recording
    """Of a companion, one run without a name (`companion.is_companion`)."""


def load_evidence(command: str, policy: Path, document: Document, recording: Path | None = None) -> Evidence:
    """Load the recording of a policy, `recording` if it is named, or else its companion.

    What does not fit the policy is reported on standard error, and left out.
    Raises RecordingError, UserError, OSError.
    """
    path = recording or recording_path(policy)
    if recording is not None or path.exists():
        return Evidence(str(path), recording_file.load(path))
    path = companion_path(policy)
    if not path.exists():
        return Evidence("", Recording())
    companion = read(reading.read(str(path)).decode(errors="replace"), str(path))
    used = fitting(document, companion.observations)
    if companion.unread:
        what = f"{plural(len(companion.unread), 'line')} that cannot be read, the first is {companion.unread[0]}"
        print_error(f"callfence {command}: {path}: not used: {what}")
    if others := [observation for observation in companion.observations if observation not in used]:
        calls = {(Arch.from_audit(observation.arch) or Arch.X86_64, observation.number) for observation in others}
        names = sorted({table(arch).by_number[number].name for arch, number in calls})
        what = f"evidence of {plural(len(others), 'call')} that {policy.name} does not allow: {', '.join(names[:8])}"
        print_error(f"callfence {command}: {path}: not used: {what}{' ...' if len(names) > 8 else ''}")
    return Evidence(str(path), companion._replace(observations=used).recording)
