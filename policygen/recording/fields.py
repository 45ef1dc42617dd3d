"""The fields of a recording file's lines, by format, and the values that each may have."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, get_args

from policygen.recording.runs import Circumstances, Signals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FORMAT = 4
Shape = Mapping[str, "Callable[[Sequence[Any]], bool]"]
"""What tells of each field whether its values, in one or more lines, are valid."""


def are_integers(values: Sequence[Any], low: int, high: int = 1 << 64) -> bool:
    return set(map(type, values)) == {int} and min(values) >= low and max(values) < high  # bool is an int, but not here


def _are_u32(values: Sequence[Any]) -> bool:
    return are_integers(values, 0, 1 << 32)


def _are_times(values: Sequence[Any]) -> bool:
    return are_integers(values, 0)


def _are_flags(values: Sequence[Any]) -> bool:
    return set(map(type, values)) == {bool}


def _are_text(values: Sequence[Any]) -> bool:
    return set(map(type, values)) == {str}


def _are_texts(values: Sequence[Any]) -> bool:
    return _are_lists(values) and set(map(type, chain.from_iterable(values))) <= {str}


def _are_circumstances(values: Sequence[Any]) -> bool:
    return _are_texts(values) and set(map(len, values)) == {len(Circumstances._fields)}


def _are_signals(values: Sequence[Any]) -> bool:
    return _are_text(values) and set(values) <= set(get_args(Signals))


def _are_lists(values: Sequence[Any]) -> bool:
    return set(map(type, values)) == {list}


def _are_pairs(values: Sequence[Any]) -> bool:
    if not _are_lists(values):
        return False
    together = [*chain.from_iterable(values)]
    are_pairs = not together or (_are_texts(together) and set(map(len, together)) == {2})
    return are_pairs and _are_ascending(values)


def _are_uses(values: Sequence[Any]) -> bool:
    if not _are_lists(values):
        return False
    together = [*chain.from_iterable(values)]
    are_uses = not together or (_are_texts(together) and set(map(len, together)) == {3})
    return are_uses and _are_ascending(values)


def _are_ascending(values: Sequence[Any]) -> bool:
    return all(one < following for lists in values for one, following in pairwise(lists))


def _are_statuses(values: Sequence[Any]) -> bool:
    known = [value for value in values if value is not None]
    return not known or are_integers(known, -64, 256)


def _are_arguments(values: Sequence[Any]) -> bool:
    if not _are_lists(values) or max(map(len, values)) > 6:
        return False
    known = [value for value in chain.from_iterable(values) if value is not None]
    return not known or are_integers(known, -1 << 63)


def _are_counts(values: Sequence[Any]) -> bool:
    if not _are_lists(values) or min(map(len, values)) == 0 or set(map(type, chain.from_iterable(values))) != {int}:
        return False
    return all(min(value) >= 0 for value in values)


def _are_sets(values: Sequence[Any]) -> bool:
    if not _are_lists(values):
        return False
    together = [*chain.from_iterable(values)]
    ascending = all(one < following for value in values for one, following in pairwise(value)) if together else True
    return not together or (are_integers(together, 0, 1 << 32) and ascending)


def _are_registers(values: Sequence[Any]) -> bool:
    return _are_lists(values) and set(map(len, values)) == {6} and are_integers([*chain.from_iterable(values)], 0)


# Fields in the order of the classes.
RUN: Shape = {
    "id": _are_text,
    "started": _are_times,
    "command": _are_texts,
    "status": _are_statuses,
    "complete": _are_flags,
    "gaps": _are_texts,
    "warm": _are_flags,
    "executed": _are_pairs,
    "rehearsed": _are_text,
    "circumstances": _are_circumstances,
    "files": _are_uses,
    "waits": _are_sets,
    "signals": _are_signals,
}
_BEFORE: Shape = {name: are for name, are in RUN.items() if name not in ("files", "waits", "signals")}
RUNS: Mapping[int, Shape] = {
    1: {name: are for name, are in _BEFORE.items() if name not in ("executed", "rehearsed", "circumstances")},
    2: {name: are for name, are in _BEFORE.items() if name not in ("rehearsed", "circumstances")},
    3: _BEFORE,
    FORMAT: RUN,
}
"""By format."""
OBSERVATION: Shape = {
    "arch": _are_u32,
    "number": _are_u32,
    "arguments": _are_arguments,
    "executable": _are_text,
    "counts": _are_counts,
    "site": _are_text,
    "example": _are_registers,
    "evidence": _are_texts,
    "after": _are_sets,
}
_OLD: Shape = {name: are for name, are in OBSERVATION.items() if name not in ("evidence", "after")}
OBSERVATIONS: Mapping[int, Shape] = {1: _OLD, 2: _OLD, 3: _OLD, FORMAT: OBSERVATION}
