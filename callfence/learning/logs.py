"""Reads logs: `callfence import` makes a recording or a policy of them.  Compares the violations that `enforce --log` wrote
with their policy: which it still denies, and which policy would allow them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from io import BytesIO
from pathlib import Path

from callfence.companion import update
from callfence.learning.granted import watched, with_files
from callfence.learning.store import add, print_forbidden, with_scope
from callfence.learning.summary import call_name, size_of
from callfence.policygen import formats, reading
from callfence.policygen.evaluate import evaluate, refusal
from callfence.policygen.files.generalise import begun, beside_hosts
from callfence.policygen.files.generalise_hosts import connects_by_host
from callfence.policygen.formats import FormatOptions
from callfence.policygen.grants import NOT_CONFINED
from callfence.policygen.language.document import Document
from callfence.policygen.language.naming import format_call
from callfence.policygen.learning.extend import Options
from callfence.policygen.learning.generate import Generated, generate
from callfence.policygen.learning.phases import in_phases, staged, start_of
from callfence.policygen.learning.within import generate_within
from callfence.policygen.model import IMPLIED, Policy
from callfence.policygen.phases import phase_policies
from callfence.policygen.recording import recording_file
from callfence.policygen.recording.fold import bounded
from callfence.policygen.recording.many import merge
from callfence.policygen.recording.model import Observation, Recording
from callfence.policygen.review.risk import held_back
from callfence.shared.files import recording_path
from callfence.shared.inputs import content, document
from callfence.shared.text import on_one_line, plural, printable
from callfence.tracer.abi import Arch, table
from callfence.tracer.errors import UserError
from callfence.tracer.named import NamedTuple

MAX_LOG = 2 << 30
"""The most bytes of a log; an hour of strace takes some hundred MiB."""


class LogOptions(NamedTuple):
    """A command line of `callfence import` that names a log."""

    format: str
    file: str
    """`-` is standard input."""
    output: Path | None
    within: str | None
    """The file of the upper bound."""
    exact: bool
    given: FormatOptions


def import_recording(options: LogOptions) -> int:
    """Convert a log, and return 0: into the recording NAME.rec, into NAME.policy and its recording as `learn` does, or, without
    an output, into a policy on standard output.  Raises UserError and the other exceptions that `inputs.run_command` prints."""
    output = options.output
    if output is not None and output.suffix not in (".policy", ".rec"):
        names = "name it NAME.rec for a recording, or NAME.policy for a policy with its recording"
        raise UserError(f"{output}: unknown suffix; {names}")
    recording = read_log(options.format, options.file, options.given)
    path = Path(options.file)
    if path.is_file():  # logs without dates take that of the file
        runs = (run._replace(started=run.started or path.stat().st_mtime_ns) for run in recording.runs)
        recording = Recording(tuple(runs), recording.observations)
    recording = bounded(recording)
    _print_gaps("import", options.file, recording)
    if output is None:
        generated = _generate(recording, None, f"{options.file} ({options.format})", options, Recording(), recording)
        sys.stdout.write(with_scope(Recording(), recording, None, generated).document.text())
    elif output.suffix == ".policy":
        _into_policy(output, recording, options)
    else:
        recording_file.update(output, lambda old: merge(old, recording))
    return 0


def _into_policy(policy: Path, recording: Recording, options: LogOptions) -> None:
    """Add the runs to the policy and its recording, and print the size of the policy and what is new in it."""

    def generated_from(old: Recording, whole: Recording, existing: Document | None) -> Generated:
        return _generate(recording, existing, policy.name.removesuffix(".policy"), options, old, whole)

    added = add(policy, recording, generated_from)
    new = plural(len(added.generated.new), "call") if added.existing else "everything"
    size = size_of(added.generated.document.policy)
    print(f"{policy}: {plural(len(recording.runs), 'run')}, {size}; new: {new}", file=sys.stderr)


def _generate(
    recording: Recording, existing: Document | None, name: str, options: LogOptions, old: Recording, whole: Recording
) -> Generated:
    """Return the generated policy, with phases as `learn --phases` finds them if the recording is of such runs; print what was
    decided about phases, the calls that no policy can allow and those that the upper bound denies.  Raises UserError.

    `old` is the recording of the existing policy, `whole` the two merged."""
    held = held_back(recording, existing.policy if existing else None)
    # With the times that other runs show, too: a run that was not followed to its waits shows none.  A policy with phases but
    # without its recording shows them itself; but a log may have what it denied in one of them.
    placed = {observation.key: observation for observation in whole.observations}
    observed = [placed.get(each.key, each) for each in recording.observations if each.key not in held]
    is_timed = existing is not None and existing.policy.phases and not old.runs and options.format == "recording"
    start = start_of(existing).policy if existing is not None and is_timed else None
    allowed = tuple(each for each in observed if each.after or not (start and evaluate(start, each.event).allows))
    how = Options(implied=0 if options.exact else IMPLIED[-1])
    base = document(options.within).policy if options.within is not None else None

    def from_start(existing: Document | None) -> Generated:
        if base is None:
            return generate(allowed, existing, name=name, options=how)
        return generate_within(allowed, existing, base, name=name, options=how)

    chooses = any(run.waits and not run.warm for run in recording.runs)
    try:
        generated = in_phases(from_start, existing, allowed, old, whole, how, chooses=chooses)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error
    if base is not None:
        print_forbidden(str(options.within), base, generated.forbidden)
    if generated.phases:
        print(f"callfence import: phases: {printable(generated.phases)}", file=sys.stderr)
    generated = _with_files(generated, recording, existing, base, old, exact=options.exact)
    for gap in generated.gaps:
        print(f"callfence import: {options.file}: {gap}", file=sys.stderr)
    return generated


def _with_files(
    generated: Generated,
    recording: Recording,
    existing: Document | None,
    base: Policy | None,
    old: Recording,
    *,
    exact: bool = False,
) -> Generated:
    runs = watched(recording)
    earlier = watched(old, {run.id for run in recording.runs})
    begins = begun([run.files for run in recording.runs if not run.rehearsed]) if existing is None else NOT_CONFINED
    uses_of = beside_hosts if connects_by_host(existing.policy.files if existing is not None else begins) else list
    uses = [use for run in runs for use in uses_of(run)]
    return with_files(generated, [*earlier, *runs], uses, existing, base, latest=len(runs), begins=begins, exact=exact)


def read_log(name: str, file: str, given: FormatOptions) -> Recording:
    """Return the recording of a file in the format `name`; the file `-` is standard input.  Raises UserError, OSError."""
    record = formats.recorder(name)
    if name != "violations":  # the one that limits the length of its lines
        return record(BytesIO(content(file, MAX_LOG, is_text=name == "recording")), file, given)
    if file == "-":
        return record(sys.stdin.buffer, file, given)
    with reading.regular(file) as stream:
        return record(stream, file, given)


def read_logs(command: str, policy: Path, logs: Sequence[str]) -> Recording:
    """Return a policy's violations in several logs as one recording; print what the logs lack.  Raises UserError, OSError."""
    given = FormatOptions(policy=policy.name)
    recordings = [read_log("violations", log, given) for log in logs]
    for log, recording in zip(logs, recordings, strict=True):
        _print_gaps(command, log, recording)
    return bounded(merge(*recordings))


def _print_gaps(command: str, log: str, recording: Recording) -> None:
    """Print what could not be observed in the runs of a log, each sentence once."""
    for gap in dict.fromkeys(gap for run in recording.runs for gap in run.gaps):
        print(printable(f"callfence {command}: {log}: {gap}"), file=sys.stderr)


def still_denied(policy: Policy, recording: Recording, only: Collection[str] = ()) -> Recording:
    """Return the observations that the policy does not allow; with names in `only`, of these calls, without files and ports."""
    if only:
        runs = tuple(run._replace(files=()) for run in recording.runs)
        recording = Recording(runs, recording.observations)
    last = _last(policy)

    def is_denied(observation: Observation) -> bool:
        is_named = not only or call_name(observation.arch, observation.number) in only
        return is_named and not evaluate(last, observation.event).allows

    return _with_only(recording, is_denied)


def allowed_by(policy: Policy, recording: Recording) -> Recording:
    """Return the recording with only the observations that the policy allows in its last phase."""
    last = _last(policy)
    return _with_only(recording, lambda observation: evaluate(last, observation.event).allows)


def _last(policy: Policy) -> Policy:
    """Return the policy of the last phase: a log does not always say in which phase a call was denied."""
    return phase_policies(policy)[-1][1]


def of_last_phase(document: Document) -> Document:
    """Return the policy of the last phase, which allows least, as a document without phases."""
    return document.with_policy(_last(document.policy)) if document.policy.phases else document


def with_allowed(policy: Document, recording: Recording, name: str) -> Generated:
    """Return the policy extended by the observations of a recording, as `learn` would write it, in all phases."""
    options = Options(implied=policy.policy.implied)
    if policy.policy.phases:
        generated = generate(recording.observations, start_of(policy), name=name, options=options)
        generated = staged(generated, policy, recording.observations, policy.policy.phases, options, recording)
    else:
        generated = generate(recording.observations, policy, name=name, options=options)
    return _with_files(generated, recording, policy, None, Recording())


def refused_lines(policy: Policy, generated: Generated) -> Iterator[str]:
    """Yield a line for each call that was not added to the policy, with the reason."""
    for observation in generated.refused:
        arch, number = Arch.from_audit(observation.arch), observation.number
        entry = policy.entries.get(arch, {}).get(number) if arch else None
        said = f": {on_one_line(arch, number, entry)}" if arch is not None and entry is not None else ""
        yield f"{format_call(observation.event)}: {refusal(policy, observation.arch, number)}{said}"
    yield from generated.gaps


def remember(path: Path, policy: Document, recording: Recording) -> None:
    """Add a recording to that of the policy in the file `path`, which `callfence why` reads, and to its companion."""
    if recording.runs:
        update(path, policy, recording_file.update(recording_path(path), lambda old: merge(old, recording)))


def check_names(names: Collection[str], recording: Recording) -> None:
    """Raise UserError if one of the names is not that of a call with a violation in the recording."""
    logged = {call_name(observation.arch, observation.number) for observation in recording.observations}
    for name in names:
        if name not in logged:
            is_call = any(name in table(arch).by_name for arch in Arch)
            reason = f"there is no violation of {name} in the log" if is_call else f"no call is named {name}"
            listed = f"the log has violations of: {', '.join(sorted(logged))}" if logged else "the log has no violations"
            raise UserError(f"{reason}; {listed}")


def _with_only(recording: Recording, condition: Callable[[Observation], bool]) -> Recording:
    """Return the recording with only observations that meet the condition, without runs that then have none and no files."""
    observations = [observation for observation in recording.observations if condition(observation)]
    columns = [
        column
        for column, run in enumerate(recording.runs)
        if run.files or any(observation.counts[column] for observation in observations)
    ]
    return Recording(
        tuple(recording.runs[column] for column in columns),
        tuple(each._replace(counts=tuple(each.counts[column] for column in columns)) for each in observations),
    )
