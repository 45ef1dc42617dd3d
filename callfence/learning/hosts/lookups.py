"""The sockets by which a program asks name servers, and the answers that it received on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

MAX_SOCKETS = 4096
"""The most sockets that are remembered; the earliest are forgotten."""
_MAX_MESSAGE = 65535 + 2


class Lookup:
    """One such socket.  Mutable."""

    def __init__(self, *, is_stream: bool) -> None:
        self.is_stream = is_stream
        """Whether each message has its length before it (RFC 1035, 4.2.2), and may come in parts."""
        self.places: set[tuple[int, int]] = set()
        """(process, descriptor) by which calls named it."""
        self._part = bytearray()
        """What was received of a message that is not complete."""

    def received(self, contents: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the complete messages of what was received."""
        if not self.is_stream:
            yield from contents
            return
        part = self._part
        for content in contents:
            part += content
        while len(part) >= 2 and len(part) >= (size := 2 + int.from_bytes(part[:2], "big")):
            yield bytes(part[2:size])
            del part[:size]
        if len(part) > _MAX_MESSAGE:
            part.clear()


class Lookups:
    """The sockets by which the processes of a run ask name servers, by their names `socket:[INODE]`.  Mutable."""

    def __init__(self) -> None:
        self._by_name: dict[str, Lookup] = {}

    def begin(self, name: str, process: int, descriptor: int, *, is_stream: bool) -> Lookup:
        """Return the socket, which connects or sends to a name server."""
        lookup = self._by_name.get(name)
        if lookup is None or lookup.is_stream is not is_stream:
            while len(self._by_name) >= MAX_SOCKETS:
                del self._by_name[next(iter(self._by_name))]
            lookup = self._by_name[name] = Lookup(is_stream=is_stream)
        lookup.places.add((process, descriptor))
        return lookup

    def get(self, name: str) -> Lookup | None:
        """Return the socket of this name, if it asks name servers."""
        return self._by_name.get(name)

    def closed(self, process: int, descriptor: int, now: str) -> None:
        """Forget the sockets that a process named by this descriptor, except `now`, which another thread opened since."""
        for name in [name for name, lookup in self._by_name.items() if (process, descriptor) in lookup.places]:
            if name != now:
                del self._by_name[name]

    def is_waiting(self, process: int) -> bool:
        """Return whether a process may still get an answer: it has such a socket open, on which it may ask again at any time,
        by calls that do not say whom."""
        return any(place[0] == process for lookup in self._by_name.values() for place in lookup.places)
