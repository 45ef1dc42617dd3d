"""Fold the recordings of a lake into one, byte for byte as `callfence merge` does."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

from callfence.lake import keys
from callfence.lake.engine import Lake, query
from callfence.policygen.recording import recording_file
from callfence.policygen.recording.model import Observation, joined

Rows = Iterable[tuple[Any, ...]]

PREPARED = ("places", "numbers")
"""Queries whose results the others read, as tables of these names."""
RESULTS = ("counts", "earliest", "facts")
"""Queries whose results, ordered by the number of a call, become the lines of observations."""


def lines(lake: Lake) -> Iterator[bytes]:
    """Yield the lines of the folded recording.  Of the observations one is in memory at a time, with its count in each run."""
    for name in PREPARED:
        lake.keep(name, query(f"fold/{name}"))
    ((runs,),) = lake.rows("SELECT count(*) FROM places")
    ((calls,),) = lake.rows("SELECT count(*) FROM numbers")
    yield recording_file.header_line(runs, calls)
    for (record,) in lake.rows("SELECT record FROM places ORDER BY place"):
        yield record.encode("ascii")
    counts, earliest, facts = (lake.rows(query(f"fold/{name}")) for name in RESULTS)
    yield from map(recording_file.observation_line, observations(runs, counts, earliest, facts))


def observations(runs: int, counts: Rows, earliest: Rows, facts: Rows) -> Iterator[Observation]:
    """Yield the observations, from the results of `RESULTS`: rows that begin with the number of a call, ascending."""
    for ours, first, known in zip(*map(_by_call, (counts, earliest, facts)), strict=True):
        row = [0] * runs
        for _, place, times in ours:
            row[place] = int(times)
        (_, call, site, example), *_ = first
        evidence, waits = ({*column} for column in ((fact[1] for fact in known), (fact[2] for fact in known)))
        a, b, c, d, e, f = map(int, example)
        yield Observation(*keys.key(call), tuple(row), keys.plain(site), (a, b, c, d, e, f), _union(evidence), _waits(waits))


def _by_call(rows: Rows) -> Iterator[list[tuple[Any, ...]]]:
    return ([*group] for _, group in groupby(rows, itemgetter(0)))


def _union(texts: set[str]) -> tuple[str, ...]:
    """Return the union of evidence; as it is where all of it is equal, even if it is of another version."""
    several = [json.loads(text) for text in texts]
    return tuple(several[0]) if len(several) == 1 else joined([fact for facts in several for fact in facts])


def _waits(texts: set[str]) -> tuple[int, ...]:
    return tuple(sorted({waits for text in texts for waits in json.loads(text)}))
