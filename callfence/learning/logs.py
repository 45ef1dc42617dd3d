"""Logs and the policy that they are about: what `callfence import` makes of a log, and what `enforce --log` wrote, against the
policy that denied it: what is still denied, and the policy that allows it."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from callfence.companion import keep
from callfence.learning import baseline
from callfence.learning.files import watched, with_files
from callfence.learning.learned import call_name
from callfence.learning.store import add
from callfence.learning.summary import size_of
from callfence.shared.files import recording_path
from callfence.shared.inputs import content
from callfence.shared.text import on_one_line, plural, printable
from policygen import formats, reading
from policygen.evaluate import evaluate
from policygen.formats import FormatOptions
from policygen.grants import NOT_CONFINED
from policygen.language.document import parse_file
from policygen.language.naming import format_call
from policygen.learning.extend import Options
from policygen.learning.generate import Generated, generate
from policygen.learning.within import forbidden, generate_within
from policygen.model import IMPLIED
from policygen.phases import phase_policies
from policygen.recording import atomic, recording_file
from policygen.recording.fold import bounded
from policygen.recording.many import merge
from policygen.recording.model import Recording
from policygen.review.risk import held_back
from tracer.abi import Arch, table
from tracer.errors import UserError
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from policygen.language.document import Document
    from policygen.model import Policy
    from policygen.recording.model import Observation

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
    _print_gaps("import", options.file, recording)
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
    record = formats.recorder(name)
    if name != "violations":  # the one that limits the length of its lines
        return record(BytesIO(content(file, MAX_LOG)), file, given)
    if file == "-":
        return record(sys.stdin.buffer, file, given)
    with reading.regular(file) as stream:
        return record(stream, file, given)


def read_logs(command: str, policy: Path, logs: Sequence[str]) -> Recording:
    """The violations of a policy in logs of any number of machines; prints their gaps.  Raises UserError, OSError."""
    given = FormatOptions(policy=policy.name)
    read = [read_log("violations", log, given) for log in logs]
    for log, recording in zip(logs, read, strict=True):
        _print_gaps(command, log, recording)
    return bounded(merge(*read))


def _print_gaps(command: str, log: str, recording: Recording) -> None:
    """Print what a log does not have, each once."""
    for gap in dict.fromkeys(gap for run in recording.runs for gap in run.gaps):
        print(printable(f"callfence {command}: {log}: {gap}"), file=sys.stderr)


def still_denied(policy: Policy, recording: Recording, only: Collection[str] = ()) -> Recording:
    """What the policy does not allow, of the calls of these names, and then nothing of files and ports; () for all."""
    if only:
        runs = tuple(run._replace(files=()) for run in recording.runs)
        recording = Recording(runs, recording.observations)
    return only_those(
        recording,
        lambda one: not evaluate(_narrowest(policy), one.event).allows
        and (not only or call_name(one.arch, one.number) in only),
    )


def allowed_by(policy: Policy, recording: Recording) -> Recording:
    """What the policy allows."""
    return only_those(recording, lambda one: evaluate(_narrowest(policy), one.event).allows)


def _narrowest(policy: Policy) -> Policy:
    """The policy of the last phase: a log does not always say in which phase a call was denied."""
    return phase_policies(policy)[-1][1]


def narrowest(document: Document) -> Document:
    """The policy of the last phase, which allows least, as a policy of its own."""
    return document.with_policy(_narrowest(document.policy)) if document.policy.phases else document


def with_allowed(policy: Document, recording: Recording, name: str) -> Generated:
    """The policy that allows what was denied, as learning would write it; in all phases."""
    generated = _of_calls(policy, recording, name)
    if policy.policy.files == NOT_CONFINED:
        return generated
    runs = watched(recording)
    return with_files(generated, runs, [use for uses in runs for use in uses], policy, None)


def _of_calls(policy: Document, recording: Recording, name: str) -> Generated:
    options = Options(implied=policy.policy.implied)
    if not policy.policy.phases:
        return generate(recording.observations, policy, name=name, options=options)
    from policygen.learning.phases import staged, start_of

    generated = generate(recording.observations, start_of(policy), name=name, options=options)
    return staged(generated, policy, recording.observations, policy.policy.phases, options)


def refused_lines(policy: Policy, generated: Generated) -> Iterator[str]:
    """What was denied and is not added, and why."""
    for seen in generated.refused:
        arch = Arch.from_audit(seen.arch)
        entry = policy.entries.get(arch, {}).get(seen.number) if arch else None
        if arch is not None and entry is not None:
            yield f"{format_call(seen.event)}: the policy denies it explicitly: {on_one_line(arch, seen.number, entry)}"
    yield from generated.gaps


def remember(policy: Path, recording: Recording) -> None:
    """Add what was allowed to the policy's recording, which `why` reads, and to its companion if it has one."""
    if recording.runs:
        path = recording_path(policy)
        atomic.make_folder(path.parent)
        whole = recording_file.update(path, lambda old: merge(old, recording))
        keep(policy, parse_file(policy), whole)


def check_names(names: Collection[str], recording: Recording) -> None:
    """Raises UserError for the name of a call that no violation is of."""
    found = {call_name(one.arch, one.number) for one in recording.observations}
    for name in names:
        if name not in found:
            known = any(name in table(arch).by_name for arch in Arch)
            said = f"there is no violation of {name}" if known else f"no call is named {name}"
            raise UserError(f"{said}; there are violations of {', '.join(sorted(found)) or 'nothing'}")


def only_those(recording: Recording, is_kept: Callable[[Observation], bool]) -> Recording:
    """The recording without the other observations, and without runs that then have none, and were about no files."""
    seen = [one for one in recording.observations if is_kept(one)]
    columns = [
        column for column, run in enumerate(recording.runs) if run.files or any(one.counts[column] for one in seen)
    ]
    return Recording(
        tuple(recording.runs[column] for column in columns),
        tuple(one._replace(counts=tuple(one.counts[column] for column in columns)) for one in seen),
    )
