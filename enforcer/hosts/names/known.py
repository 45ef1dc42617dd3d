"""Which names addresses have: from the answers of name servers that the helper passed on, and from /etc/hosts."""

from __future__ import annotations

import errno
import os
import time
from itertools import islice

from callfence.enforcer import kernel
from callfence.enforcer.hosts.names import files
from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from callfence.enforcer.hosts.names.dns import Answer
    from callfence.enforcer.hosts.rules import Rules

_PART = 1 << 20
"""Bytes of a file that are read at once."""
_MAX_NAMES = 65536
"""The most names of all addresses that are remembered; those of addresses that were given longest ago are forgotten first."""
_MAX_NAMES_OF_ONE = 4096
"""The most names of an address that are remembered; those that were given longest ago are forgotten first."""
_MAX_SERVERS = 64
"""The most name servers that are remembered; those that were configured longest ago are forgotten first."""
GRACE = 86400.0
"""Seconds after the time to live of an answer for which its addresses keep the name: programs keep connections, and addresses,
longer than DNS says (nginx as long as it runs)."""
_MAX_TTL = 7 * 86400
"""The longest time to live in seconds that counts."""
PORT = 53


class Names:
    """The names that policies name, and the addresses that these have.  Made before the program runs, which may be able to
    write the files that are read here."""

    def __init__(self, policies: Sequence[Rules], *, is_kept: bool = False) -> None:
        """`is_kept`: the program cannot change `files.FILES`, whoever owns them."""
        self._policies = [rules for rules in policies if rules.has_names]
        self._by_address: dict[bytes, dict[str, float]] = {}
        """Address -> name that was asked for -> until when (monotonic seconds) the address has the name."""
        self._count = 0
        """How many names all addresses have."""
        self._hosts = _Watched(files.HOSTS, is_kept=is_kept)
        self._configuration = _Watched(files.CONFIGURATION, is_kept=is_kept)
        self._from_file: dict[bytes, list[str]] = {}
        self._servers: dict[bytes, int] = {}
        """The addresses of the name servers, 4 or 16 bytes each, since the program has begun: it may have read them then, and
        ask those until it ends."""
        self._search: tuple[str, ...] = ()
        own = os.uname().nodename.lower()
        self._own = {own, own.partition(".")[0]}
        """The names of this machine, which many programs look up, and its name servers know."""
        self._read_hosts()
        self._read_configuration()

    def spare(self, name: str) -> int | None:
        """Return how many characters a name has that the policies do not, and a search domain neither (`Rules.spare`); None for
        a name that not all policies with names permit.  The name of this host is permitted: many programs look it up, and
        it tells nothing that they have chosen."""
        forms, most = self._forms(name), 0
        if not self._own.isdisjoint(forms):
            return 0
        for rules in self._policies:
            spare = min((spare for form in forms if (spare := rules.spare(form)) is not None), default=None)
            if spare is None:
                return None
            most = max(most, spare)
        return most

    def _forms(self, name: str) -> list[str]:
        """Return the name, and the names that a resolver makes this one of by adding a search domain (resolv.conf(5))."""
        ends = (f".{domain}" for domain in self._search)
        return [name, *(name.removesuffix(end) for end in ends if name.endswith(end))]

    def learn(self, name: str, answer: Answer) -> None:
        """Remember the addresses that an answer gives for the name that was asked for."""
        until, forms = time.monotonic() + min(answer.ttl, _MAX_TTL) + GRACE, self._forms(name)
        for address in answer.addresses:
            names = self._by_address.pop(address, {})
            self._count -= len(names)
            for form in forms:  # at the end: the latest
                names.pop(form, None)
                names[form] = until
            while len(names) > _MAX_NAMES_OF_ONE:
                del names[next(iter(names))]
            self._count += len(names)
            self._by_address[address] = names
        while self._count > _MAX_NAMES:
            self._count -= len(self._by_address.pop(next(iter(self._by_address))))

    def of(self, address: bytes) -> list[str]:
        """Return the names of an address (4 or 16 bytes)."""
        self._read_hosts()
        now = time.monotonic()
        names = [name for name, until in self._by_address.get(address, {}).items() if until >= now]
        return names + self._from_file.get(address, [])

    def is_server(self, address: bytes, port: int) -> bool:
        """Return whether an address is that of a name server."""
        if port != PORT:
            return False
        self._read_configuration()
        return address in self._servers

    def scope(self, server: bytes) -> int:
        """Return the index of the interface by which a name server is reached; 0 if resolv.conf names none."""
        return self._servers.get(server, 0)

    def is_not_believed(self, address: bytes, port: int) -> bool:
        """Return whether an address is that of a name server that resolv.conf has now, and that may be the program's own."""
        return port == PORT and self._configuration.is_fixed and address in files.servers(self._configuration.content())

    def is_reverse_wanted(self, name: str) -> bool:
        """Return whether a name asks for the name of an address that a policy's name has."""
        address = _reversed(name)
        return address is not None and bool(self.of(address))

    def _read_hosts(self) -> None:
        if (text := self._hosts.changed()) is None:
            return
        self._from_file.clear()
        for address, names in files.hosts(text):
            self._from_file.setdefault(address, []).extend(name.lower().rstrip(".") for name in names)
        if any(files.LOCALHOST in self._from_file.get(address, ()) for address in files.LOOPBACK):
            for address in files.LOOPBACK:
                names = self._from_file.setdefault(address, [])
                names += [files.LOCALHOST] * (files.LOCALHOST not in names)

    def _read_configuration(self) -> None:
        if (text := self._configuration.changed()) is None:
            return
        if search := tuple(domain.lower().strip(".") for domain in files.domains(text) if domain.strip(".")):
            self._search = search
        for server, scope in (files.servers(text) or {files.LOOPBACK[0]: 0}).items():  # resolv.conf(5)
            self._servers.pop(server, None)
            self._servers[server] = scope  # at the end: the latest
        while len(self._servers) > _MAX_SERVERS:
            del self._servers[next(iter(self._servers))]


class _Watched:
    """A text file that is read again when it has changed, unless the program might have changed it."""

    __slots__ = ("_path", "_seen", "is_fixed")

    def __init__(self, path: str, *, is_kept: bool) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self.is_fixed = not is_kept and _may_be_written(path)
        """Whether the program might change it."""

    def changed(self) -> str | None:
        """Return the content if it has changed since the last call; None if not, or if no descriptor is left to read it now.  A
        file that cannot be read is empty."""
        if self.is_fixed and self._seen is not None:
            return None
        seen: tuple[int, ...] = ()
        try:
            status = os.stat(self._path)
            seen = status.st_mtime_ns, status.st_ino, status.st_size, status.st_dev
        except OSError:
            pass
        if seen == self._seen:
            return None
        try:
            text = self._read()
        except OSError as error:
            if self._seen is not None and error.errno in (errno.EMFILE, errno.ENFILE):
                return None
            text = ""
        self._seen = seen
        return text

    def content(self) -> str:
        """Return the content as it is now, though the program might have changed it.  A file that cannot be read without
        waiting is empty: a pipe in its place may have nobody who writes."""
        try:
            return self._read()
        except OSError:
            return ""

    def _read(self) -> str:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            parts = iter(lambda: os.read(descriptor, _PART), b"")
            return b"".join(islice(parts, files.MAX_BYTES // _PART)).decode("utf-8", "replace")
        finally:
            os.close(descriptor)


def _may_be_written(path: str) -> bool:
    """Return whether this process, and so the program, may change a file or put another in its place."""
    if kernel.capabilities()[1]:
        return True
    from callfence.policygen.files.places import deciding

    places = deciding(os.fsencode(path))
    folders = dict.fromkeys(folder for place in places for folder in _above(place))
    for place in (places[-1], *folders):
        try:
            status = os.stat(place)
        except OSError:
            continue
        if status.st_uid == os.geteuid() or status.st_mode & 0o022:
            return True
    return False


def _above(place: bytes) -> Iterator[bytes]:
    """Yield the folders above a place, up to the root: who may write to one can put another folder below it."""
    while place != b"/":
        place = os.path.dirname(place)
        yield place


def _reversed(name: str) -> bytes | None:
    """Return the address whose name a PTR question asks for (RFC 1035, 3.5; RFC 3596, 2.5); None for another name."""
    labels = name.split(".")
    try:
        if labels[-2:] == ["in-addr", "arpa"] and len(labels) == 6:
            if any(label != str(int(label)) for label in labels[:4]):  # `007` and `0_7`, too, could tell something
                return None
            return bytes(int(label) for label in labels[3::-1])
        if labels[-2:] == ["ip6", "arpa"] and len(labels) == 34:
            return bytes.fromhex("".join(labels[31::-1]))
    except ValueError:
        pass
    return None
