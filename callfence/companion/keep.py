"""Writing the companion of a policy, for what has learned."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from callfence.judging.symbols import Site, Symbols
from callfence.shared.files import companion_path, working_folder
from callfence.shared.text import plural, printable
from policygen import reading
from policygen.evidence.facts import path_pattern, places
from policygen.evidence.words import escaped
from policygen.recording import atomic
from policygen.review.companion import Companion, fitting, read, reduced, text, united
from tracer.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from policygen.language.document import Document
    from policygen.recording.model import Observation, Recording


def keep(policy: Path, document: Document, recording: Recording, *, asked: bool = False, fresh: bool = False) -> None:
    """Add to the companion what the recording says of the policy's rules, and remove what fits them no longer.

    Does nothing if there is no companion, unless it is `asked` for; `fresh` replaces what it says.
    """
    path = companion_path(policy)
    if not asked and not path.exists():
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
    found = united((*old.observations, *_reduced(recording)))
    content = text(fitting(document, found), policy.name).encode()
    if content != before:
        atomic.write(path, content)


def _reduced(recording: Recording) -> Iterator[Observation]:
    where, symbols = places(working_folder(), os.environ), Symbols()
    for seen in recording.observations:
        first = next(column for column, count in enumerate(seen.counts) if count)
        place = _place(seen.site, symbols, recording.runs[first].started)
        one = reduced(seen, path_pattern(seen.executable, where), place)
        if one is not None:
            yield one


def _place(site: str, symbols: Symbols, since: int) -> str:
    """`libc.so.6/openat64`: the file of a call site and its function, if that is known."""
    found = Site.parse(site)
    if found is None:
        return "?"
    name = symbols.name(found, since).partition("+0x")[0]
    file = os.path.basename(found.file)
    return escaped(f"{file}/{name}" if name else file)
