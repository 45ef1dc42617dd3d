"""How each call can fail: failures.tsv, and what the tracer does to make it fail so."""

from __future__ import annotations

import errno
import resource
import signal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracer.watch.faults import Exhaust, Fail, Shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracer.watch.faults import Effect

_RESOURCES: Final = {"memory": resource.RLIMIT_AS, "descriptors": resource.RLIMIT_NOFILE}
_SAYS: Final = {"memory": "finds no more memory", "descriptors": "finds no more descriptors"}


@cache
def failures() -> Mapping[str, tuple[str, ...]]:
    """The failures of each call by its name, the most telling first."""
    rows = [line for line in Path(__file__).with_name("failures.tsv").read_text().splitlines() if line[:1] != "#"]
    split = [row.split("\t") for row in rows[1:]]
    return {name: tuple(kinds.split(",")) for names, kinds in split for name in names.split(",")}


def effect(failure: str) -> Effect:
    """What the tracer is to inject for a failure of the table."""
    if failure in _RESOURCES:
        return Exhaust(_RESOURCES[failure])
    if failure.startswith("short "):
        return Shorten(int(failure.removeprefix("short ")))
    return Fail(getattr(errno, failure), signal.SIGPIPE if failure == "EPIPE" else 0)


def says(failure: str) -> str:
    """`fails with EIO`, as it follows a call in a sentence."""
    if failure.startswith("short "):
        return "is cut short"
    return _SAYS.get(failure, f"fails with {failure}")
