"""`learn --narrow`: prints what the last runs of a policy did not use, and removes it with `--write`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from callfence.learning.options import LAST
from callfence.policygen.language.document import Document, parse_file
from callfence.policygen.narrowing import Narrowed, last_runs, narrowed
from callfence.policygen.recording import atomic, recording_file
from callfence.policygen.recording.model import Recording
from callfence.shared.files import companion_path, recording_path
from callfence.shared.text import command_line, plural, printable
from callfence.tracer.errors import UserError


def narrow(policy: Path, last: int, *, write: bool) -> None:
    """Print what the last runs of a policy did not use; with `write`, remove it from the policy.  Raises UserError if there are
    no such runs, or with `write` if there are fewer."""
    recording = recording_path(policy)
    if not policy.exists() or not recording.exists():
        missing = recording if policy.exists() else policy
        why = "--narrow compares a policy with the recording of its runs, so learn the program first"
        raise UserError(f"{missing} does not exist: {why}")
    with atomic.locked(recording):
        document, whole = parse_file(policy), recording_file.load(recording)
        runs = last_runs(whole, last)
        if not runs or (write and len(runs) < last):
            has = f"{recording} has {plural(len(runs), 'run')} that began and ended under learn and were not rehearsed"
            raise UserError(f"{has}: {f'record more, or give --last {len(runs)}' if runs else 'record some'}")
        result = narrowed(document, whole, runs)
        lines = [*_lines(result)]
        if removes := any(not unused.kept for unused in result.unused):
            removed = document.with_policy(result.policy)
            _require_compiled(removed)
            if write:
                _write(policy, removed, whole)
    does = "used everything" if not result.unused else "did not use" if removes else "did not use, and that is kept"
    print(printable(f"{policy}: the last {plural(len(runs), 'run')} {does}"))
    for line in lines:
        print(f"  {printable(line)}")
    if removes:
        remove = command_line(("learn", "--narrow", str(policy), *(("--last", str(last)) if last != LAST else ()), "--write"))
        print(f"removed from {policy}: review the difference" if write else f"to remove it: {remove}")


def _lines(result: Narrowed) -> Iterator[str]:
    for line, kept, remains in result.unused:
        if kept:
            yield f"kept: {line}  ({kept})"
            continue
        if line:
            yield f"- {line}"
        if remains:
            yield f"+ {remains}"
    yield from (f"not judged: {what}" for what in result.not_judged)


def _require_compiled(document: Document) -> None:
    """Raise CompileError if the policy cannot be compiled."""
    from callfence.policygen.filter.room import surely_fits

    if not surely_fits(document.policy):
        from callfence.policygen.filter.compile import compile_policy

        compile_policy(document.policy)


def _write(policy: Path, document: Document, recording: Recording) -> None:
    atomic.write(policy, document.text().encode())
    if companion_path(policy).exists():
        from callfence.companion import update

        update(policy, document, recording, is_wanted=False, fresh=False)
