"""Calls that `enforce` fails, where a policy with an implied set denies them: unavailable.tsv, read on first use."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from policygen.holds import holds
from policygen.implied.cells import lines, read_entries
from tracer.abi import Arch, table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policygen.model import Entry
    from tracer.abi import Event


def unavailable(event: Event) -> int:
    """Return the errno with which a call fails that is denied otherwise; 0 for none."""
    arch = Arch.from_audit(event.arch)
    for entry in entries(arch).get(event.number, ()) if arch else ():
        if holds(entry.expression, table(arch).by_number[event.number].arguments, event.arguments):
            return entry.action.errno
    return 0


@cache
def entries(arch: Arch) -> Mapping[int, tuple[Entry, ...]]:
    """The rows by call, in the file's order."""
    found: dict[int, tuple[Entry, ...]] = {}
    for read in read_entries(arch, [call for call, *_ in lines("unavailable.tsv")]):
        if read is not None:
            number, entry = read
            found[number] = (*found.get(number, ()), entry)
    return found
