"""systemd's named groups of calls."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

KNOWN: Final = "@known"
"""Every call that systemd knows."""
IMPLIED: Final = "@default"
"""The group that systemd adds to every list of allowed calls (systemd.exec(5)); a later `~` removes it again."""


@cache
def groups() -> Mapping[str, frozenset[str]]:
    """Return the calls of x86_64 in each group, by the group's name, for the systemd version in groups.tsv."""
    text = Path(__file__).with_suffix(".tsv").read_text("ascii")
    rows = (line.split("\t") for line in text.splitlines() if not line.startswith("#"))
    return MappingProxyType({name: frozenset(calls.split()) for name, calls in rows if name.startswith("@")})


def grouped(names: Collection[str]) -> list[str]:
    """Return a short list for the same calls: groups whose calls are all among them, then the other calls."""
    wanted = frozenset(names)
    whole = {name: calls for name, calls in groups().items() if calls and calls <= wanted and name != KNOWN}
    chosen: list[str] = []
    covered: frozenset[str] = frozenset()
    for name, calls in sorted(whole.items(), key=lambda item: (-len(item[1]), item[0])):
        if len(calls - covered) > 1:
            chosen.append(name)
            covered |= calls
    return [*sorted(chosen), *sorted(wanted - covered)]
