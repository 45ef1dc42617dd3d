"""Sets of TCP ports, as ascending ranges that do not touch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.files.rights import NONE

if TYPE_CHECKING:
    from collections.abc import Iterable

Ports = tuple[tuple[int, int], ...]
"""Each range's first and last port."""

MAX_PORT = 65535
ANY_PORT: Ports = ((0, MAX_PORT),)
NO_PORT: Ports = ()
ANY = "any"


def single(ports: Ports) -> set[int]:
    return {port for first, last in ports for port in range(first, last + 1)}


def ranges(ports: Iterable[int]) -> Ports:
    """Return the fewest ranges that have exactly these ports."""
    found: list[tuple[int, int]] = []
    for port in sorted(set(ports)):
        if found and found[-1][1] == port - 1:
            found[-1] = (found[-1][0], port)
        else:
            found.append((port, port))
    return tuple(found)


def format_ports(ports: Ports) -> str:
    """Return the ports as a `tcp` line has them."""
    if ports == ANY_PORT:
        return ANY
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ports) or NONE
