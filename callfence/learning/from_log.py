"""What `enforce --log` wrote, against the policy that denied it: what is still denied, and the policy that allows it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from callfence.companion.keep import keep
from callfence.files.learned import watched, with_files
from callfence.learning.import_recording import read_log
from callfence.shared.files import recording_path
from callfence.shared.text import on_one_line, printable
from policygen.evaluate import evaluate
from policygen.formats import FormatOptions
from policygen.grants import NOT_CONFINED
from policygen.language.document import parse_file
from policygen.language.naming import format_call
from policygen.learning.extend import Options
from policygen.learning.generate import Generated, generate
from policygen.phases import phase_policies
from policygen.recording import atomic, recording_file
from policygen.recording.fold import bounded
from policygen.recording.many import merge
from policygen.recording.model import Recording
from tracer.abi import Arch, table
from tracer.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

    from policygen.language.document import Document
    from policygen.model import Policy
    from policygen.recording.model import Observation


def read_logs(command: str, policy: Path, logs: Sequence[str]) -> Recording:
    """The violations of a policy in logs of any number of machines; prints their gaps.  Raises UserError, OSError."""
    given = FormatOptions(policy=policy.name)
    read = [read_log("violations", log, given) for log in logs]
    for log, recording in zip(logs, read, strict=True):
        for gap in dict.fromkeys(gap for run in recording.runs for gap in run.gaps):
            print(printable(f"callfence {command}: {log}: {gap}"), file=sys.stderr)
    return bounded(merge(*read))


def still_denied(policy: Policy, recording: Recording, only: Collection[str] = ()) -> Recording:
    """What the policy does not allow, of the calls of these names, and then nothing of files and ports; () for all."""
    if only:
        runs = tuple(run._replace(files=()) for run in recording.runs)
        recording = Recording(runs, recording.observations)
    return only_those(
        recording,
        lambda one: not evaluate(_narrowest(policy), one.event).lets_run and (not only or _name(one) in only),
    )


def allowed_by(policy: Policy, recording: Recording) -> Recording:
    """What the policy allows."""
    return only_those(recording, lambda one: evaluate(_narrowest(policy), one.event).lets_run)


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
    found = {_name(one) for one in recording.observations}
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


def _name(one: Observation) -> str:
    arch = Arch.from_audit(one.arch)
    call = table(arch).by_number.get(one.number) if arch else None
    return call.name if call else f"call {one.number}"
