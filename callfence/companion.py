"""The companion of a policy, `NAME.evidence`: `learn` updates it, and reviewers' commands read it without a recording."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from callfence.judging.sites import Site, Symbols
from callfence.policygen import reading
from callfence.policygen.evidence.facts import path_pattern, places
from callfence.policygen.evidence.words import escaped
from callfence.policygen.language.document import Document
from callfence.policygen.recording import atomic, recording_file
from callfence.policygen.recording.model import Observation, Recording
from callfence.policygen.review.companion import Companion, fitting, read, reduced, text, united
from callfence.shared.files import companion_path, recording_path, working_folder
from callfence.shared.inputs import print_error
from callfence.shared.text import plural, printable
from callfence.tracer.abi import NATIVE, Arch, name_of
from callfence.tracer.errors import UserError
from callfence.tracer.named import NamedTuple


def update(policy: Path, document: Document, recording: Recording, *, is_wanted: bool = False, fresh: bool = False) -> None:
    """Add the recording's evidence for the policy's rules to the companion, and remove evidence that fits no rule any more.

    If there is no companion file, it is written only with `is_wanted`.  With `fresh`, its former content is dropped.
    Raises OSError."""
    path = companion_path(policy)
    if not is_wanted and not path.exists():
        return
    before = reading.read(str(path)) if path.exists() else b""
    try:
        old = read(before.decode(errors="replace"), str(path)) if before and not fresh else Companion((), ())
    except UserError as error:
        print(printable(f"learn: {error}; {path} is unchanged"), file=sys.stderr)
        return
    if old.unread:
        removed = f"{plural(len(old.unread), 'line')} that could not be parsed, the first being line {old.unread[0]}"
        print(printable(f"learn: {path}: removed {removed}"), file=sys.stderr)
    content = text(fitting(document, united((*old.observations, *_reduced(recording)))), policy.name).encode()
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
    """Return the file and the function of a call site, as `libc.so.6/openat64`; only the file if the function is not known;
    "?" for an unknown site.  `since` is the time at which the run started."""
    parsed = Site.parse(site)
    if parsed is None:
        return "?"
    name = symbols.name(parsed, since).partition("+0x")[0]
    file = os.path.basename(parsed.file)
    return escaped(f"{file}/{name}" if name else file)


class Evidence(NamedTuple):
    """The recorded calls that led to a policy, and the file that they come from."""

    file: str
    """The path of the recording or of the companion; "" if there is neither."""
    recording: Recording
    """The recorded calls; those of a companion are one run without a name (`companion.is_companion`)."""


def load_evidence(command: str, policy: Path, document: Document, recording: Path | None = None) -> Evidence:
    """Load the recording of a policy, which is `recording` or the file beside the policy; if there is none, the companion.

    Lines of a companion that do not fit the policy are left out, and reported on standard error for `command`.
    Raises RecordingError, UserError, OSError."""
    path = recording or recording_path(policy)
    if recording is not None or path.exists():
        return Evidence(str(path), recording_file.load(path))
    path = companion_path(policy)
    if not path.exists():
        return Evidence("", Recording())
    companion = read(reading.read(str(path)).decode(errors="replace"), str(path))
    used = fitting(document, companion.observations)
    if companion.unread:
        what = f"{plural(len(companion.unread), 'line')} that cannot be parsed, the first being line {companion.unread[0]}"
        print_error(f"callfence {command}: {path}: ignored {what}")
    if others := [observation for observation in companion.observations if observation not in used]:
        calls = {(Arch.from_audit(observation.arch) or NATIVE, observation.number) for observation in others}
        names = sorted({name_of(arch, number) for arch, number in calls})
        what = f"evidence of {plural(len(others), 'call')} that {policy.name} does not allow: {', '.join(names[:8])}"
        print_error(f"callfence {command}: {path}: ignored {what}{' ...' if len(names) > 8 else ''}")
    return Evidence(str(path), companion._replace(observations=used).recording)
