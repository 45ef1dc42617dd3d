"""Which uses of files, ports, hosts and unix sockets a recording can have (`Run.files`): those that a policy can name.

Recordings come from elsewhere, too, and what they name becomes lines of policies.
"""

from __future__ import annotations

from functools import lru_cache

from callfence.policygen.grants import BARE, MAX_PORT, NONE, TO_HOSTS, USES
from callfence.policygen.paths import PathError, canonical

_HOSTS = tuple(f"{USES[use]} " for use in TO_HOSTS)
_PLACES = {f"{start} ": kind for kind, start in BARE.items()}
_NAME = "name "
_FOLDERS = ("left", "made", "public", "sought")
"""The first fields of uses that say something of a file or folder, without a right to it."""


def is_use(what: str, value: str) -> bool:
    """Return whether a use is one that `learn` records, by its first two fields, as far as these become lines of a policy."""
    if what in _FOLDERS:
        return _is_place(value.rstrip("/") or "/")
    if not _is_place(what):
        return False
    of_port = what in USES.values() or what.startswith(_HOSTS)
    return not of_port or value == NONE or (value.isdecimal() and len(value) < 6 and int(value) <= MAX_PORT)


@lru_cache(maxsize=1 << 16)
def _is_place(what: str) -> bool:
    """Return whether a file, host, socket or name is written as in a policy; so is what is none of these."""
    try:
        if what.startswith(("/", ".", "$")):
            return canonical(what) == what
        start = next((start for start in (*_HOSTS, *_PLACES, _NAME) if what.startswith(start)), "")
        return not start or _is_peer(start, what.removeprefix(start))
    except PathError:
        return False


def _is_peer(start: str, place: str) -> bool:
    from callfence.policygen import hosts  # most programs talk to nobody

    try:
        if start in _PLACES:
            return place != hosts.ANY and hosts.PLACES[_PLACES[start]].canonical(place) == place
        return place != hosts.ANY and hosts.canonical(place) == place
    except hosts.HostError:
        return False
