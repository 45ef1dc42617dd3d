"""The sockets by which a program asks name servers: which questions on them are open, and the answers that it received."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enforcer.hosts.names.dns import DnsError, question_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOST = 4096
"""The most sockets that are remembered; the earliest are forgotten."""
_LONGEST = 65535 + 2


class Lookup:
    """One such socket.  Mutable."""

    def __init__(self, *, is_stream: bool) -> None:
        self.is_stream = is_stream
        """Whether each message has its length before it (RFC 1035, 4.2.2), and may come in parts."""
        self.open: set[int] = set()
        """The ids of the questions without an answer."""
        self.is_new = True
        """Whether no question was seen on it since it was connected."""
        self.places: set[tuple[int, int]] = set()
        """(process, descriptor) by which calls named it."""
        self._parts = {True: bytearray(), False: bytearray()}
        """What was sent (True) and received (False) of a message that is not complete."""

    @property
    def is_waiting(self) -> bool:
        """Whether an answer may still come."""
        return self.is_new or bool(self.open)

    def asked(self, contents: Iterable[bytes]) -> None:
        """Note the questions in what was sent."""
        for message in self._complete(contents, sent=True):
            self.is_new = False
            try:
                self.open.add(question_of(message).id)
            except DnsError:
                continue

    def received(self, contents: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the messages that were received."""
        yield from self._complete(contents, sent=False)

    def answered(self, id_: int) -> None:
        """Note that the question with this id has an answer."""
        self.is_new = False
        self.open.discard(id_)

    def _complete(self, contents: Iterable[bytes], *, sent: bool) -> Iterator[bytes]:
        """Yield the complete messages of what was sent or received."""
        if not self.is_stream:
            yield from contents
            return
        part = self._parts[sent]
        for content in contents:
            part += content
        while len(part) >= 2 and len(part) >= (size := 2 + int.from_bytes(part[:2], "big")):
            yield bytes(part[2:size])
            del part[:size]
        if len(part) > _LONGEST:
            part.clear()


class Lookups:
    """The sockets by which the processes of a run ask name servers, by their names `socket:[INODE]`.  Mutable."""

    def __init__(self) -> None:
        self._by_name: dict[str, Lookup] = {}

    def begin(self, name: str, process: int, descriptor: int, *, is_stream: bool) -> Lookup:
        """Return the socket, which connects or sends to a name server."""
        lookup = self._by_name.get(name)
        if lookup is None or lookup.is_stream is not is_stream:
            while len(self._by_name) >= MOST:
                del self._by_name[next(iter(self._by_name))]
            lookup = self._by_name[name] = Lookup(is_stream=is_stream)
        lookup.places.add((process, descriptor))
        return lookup

    def get(self, name: str) -> Lookup | None:
        """Return the socket of this name, if it asks name servers."""
        return self._by_name.get(name)

    def closed(self, process: int, descriptor: int) -> None:
        """Forget the sockets that a process named by this descriptor."""
        for name in [name for name, lookup in self._by_name.items() if (process, descriptor) in lookup.places]:
            del self._by_name[name]

    def is_waiting(self, process: int) -> bool:
        """Return whether a process may still get an answer."""
        return any(
            lookup.is_waiting and any(place[0] == process for place in lookup.places) for lookup in self._by_name.values()
        )
