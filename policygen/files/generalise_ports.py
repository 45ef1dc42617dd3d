"""Generalise the ports that runs used into ranges of ports, with the reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

from callfence.policygen.files.made import MIN_GENERALISED

T = TypeVar("T")

EPHEMERAL = (32768, 65535)
"""The ports of which the kernel chooses one where a program asks for any: up to 60999 on Linux (ip(7), ip_local_port_range),
from 49152 on elsewhere (RFC 6335)."""
UNPRIVILEGED = (1024, 65535)
VARYING = 3
"""From so many ports, or names, each used in some runs only, a program is taken to use others in the next run."""


def spans(each: Sequence[set[int]], more: Iterable[int] = (), *, exact: bool = False) -> dict[tuple[int, int], str]:
    """Return the ranges of ports (first, last) for the ports that each run used, and `more` ports.  The value is the reason why
    a range has ports that no run used, or ''.  `exact`: there are none."""
    used = {*more}.union(*each)
    result: dict[tuple[int, int], str] = {}
    if exact:
        return {(port, port): "" for port in sorted(used)}
    unprivileged, ephemeral = ({port for port in used if first <= port <= last} for first, last in (UNPRIVILEGED, EPHEMERAL))
    fixed = unprivileged - ephemeral
    if len(varying(each) & fixed) >= VARYING or len(fixed) >= MIN_GENERALISED:
        result[UNPRIVILEGED] = "the ports differ from run to run, or are many"
    elif ephemeral:
        result[EPHEMERAL] = "ports of this range are chosen anew at each start, where a server asks for any that is free"
    alone = sorted(port for port in used if not any(first <= port <= last for first, last in result))
    return result | {(port, port): "" for port in alone}


def varying(each: Sequence[set[T]]) -> set[T]:
    """Return what one run alone used, if at least two runs have such uses."""
    count = Counter(use for uses in each for use in uses)
    alone = {use for use, runs in count.items() if runs == 1}
    return alone if sum(bool(uses & alone) for uses in each) > 1 else set()
