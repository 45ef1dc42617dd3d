"""`callfence import` of logs: a recording, and the policy learned from it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from callfence.files.learned import watched, with_files
from callfence.learning import baseline
from callfence.learning.store import add
from callfence.learning.summary import size_of
from callfence.shared.inputs import content
from callfence.shared.text import plural, printable
from policygen import formats, reading
from policygen.learning.extend import Options
from policygen.learning.generate import generate
from policygen.learning.within import forbidden, generate_within
from policygen.model import IMPLIED
from policygen.recording import recording_file
from policygen.recording.fold import bounded
from policygen.recording.many import merge
from policygen.recording.model import Recording
from policygen.review.risk import held_back
from tracer.errors import UserError
from tracer.named import NamedTuple

if TYPE_CHECKING:

    from policygen.formats import FormatOptions
    from policygen.language.document import Document
    from policygen.learning.generate import Generated

MAX_LOG = 2 << 30
"""Bytes: an hour of strace takes some hundred MiB."""


class LogOptions(NamedTuple):
    """A command line of `callfence import` that names a log."""

    format: str
    file: str
    """`-` is standard input."""
    output: Path | None
    within: str | None
    """The baseline's file."""
    exact: bool
    given: FormatOptions


def import_recording(options: LogOptions) -> int:
    """Into NAME.rec, into NAME.policy and its recording as `learn` does, or as a policy to standard output.

    Raises UserError and what `inputs.judged` tells.
    """
    output = options.output
    if output is not None and output.suffix not in (".policy", ".rec"):
        raise UserError(f"{output}: a recording is written to NAME.rec, or to NAME.policy and its recording")
    recording = bounded(_read(options))
    for gap in dict.fromkeys(gap for run in recording.runs for gap in run.gaps):
        print(printable(f"callfence import: {options.file}: {gap}"), file=sys.stderr)
    if output is None:
        generated = _generate(recording, None, f"{options.file} ({options.format})", options)
        sys.stdout.write(generated.document.text())
    elif output.suffix == ".policy":
        _into_policy(output, recording, options)
    else:
        recording_file.update(output, lambda old: merge(old, recording))
    return 0


def _into_policy(policy: Path, recording: Recording, options: LogOptions) -> None:
    """Adds the runs to the policy and its recording, and says what the policy is then."""

    def generated_from(_old: Recording, _: Recording, existing: Document | None) -> Generated:
        return _generate(recording, existing, policy.name.removesuffix(".policy"), options)

    added = add(policy, recording, generated_from)
    new = plural(len(added.generated.new), "call") if added.existing else "everything"
    size = size_of(added.generated.document.policy)
    print(f"{policy}: {plural(len(recording.runs), 'run')}, {size}; new: {new}", file=sys.stderr)


def _generate(recording: Recording, existing: Document | None, name: str, options: LogOptions) -> Generated:
    """Reports what no policy can allow, and what the baseline denies.  Raises UserError."""
    held = held_back(recording, existing.policy if existing else None)
    seen = tuple(one for one in recording.observations if one.key not in held)
    how = Options(implied=0 if options.exact else IMPLIED[-1])
    base = None
    if options.within is None:
        generated = generate(seen, existing, name=name, options=how)
    else:
        base = baseline.read(options.within)
        try:
            generated = generate_within(seen, existing, base, name=name, options=how)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from error
        baseline.print_forbidden(options.within, base, forbidden(seen, base), sys.stderr)
    runs = watched(recording)
    generated = with_files(generated, runs, [use for uses in runs for use in uses], existing, base, exact=options.exact)
    for gap in generated.gaps:
        print(f"callfence import: {options.file}: {gap}", file=sys.stderr)
    return generated


def _read(options: LogOptions) -> Recording:
    """Raises UserError."""
    recording = read_log(options.format, options.file, options.given)
    path = Path(options.file)
    if path.is_file():  # logs without dates take that of the file
        runs = (run._replace(started=run.started or path.stat().st_mtime_ns) for run in recording.runs)
        recording = Recording(tuple(runs), recording.observations)
    return recording


def read_log(name: str, file: str, given: FormatOptions) -> Recording:
    """The recording in a file of that format; `-` is standard input.  Raises UserError, OSError."""
    module = formats.module(name)
    recording: Recording
    if not hasattr(module, "record_stream"):
        recording = module.record(content(file, MAX_LOG), file, given)
    elif file == "-":
        recording = module.record_stream(sys.stdin.buffer, file, given)
    else:
        with reading.regular(file) as stream:
            recording = module.record_stream(stream, file, given)
    return recording
