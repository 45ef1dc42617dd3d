"""What the files say by which names are looked up: /etc/hosts (hosts(5)) and /etc/resolv.conf (resolv.conf(5)).

An address here is one of 4 or 16 bytes, as it is used (`rules.plain`)."""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, if_nametoindex, inet_pton

from callfence.enforcer.hosts.rules import UNSPECIFIED, plain
from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = HOSTS, CONFIGURATION = "/etc/hosts", "/etc/resolv.conf"
LOCALHOST = "localhost"
LOOPBACK = tuple(UNSPECIFIED.values())
"""127.0.0.1 and ::1.  Many programs try both for LOCALHOST, whichever of them /etc/hosts has (RFC 6761, 6.3)."""
_NOBODY = ("0.0.0.0", "::")
"""The addresses by which lists in /etc/hosts block names."""
MAX_BYTES = 16 << 20
"""What is read of a file: lists that block names have several MiB."""


def packed(text: str) -> bytes:
    """Return the address that a text is, with a scope perhaps (`fe80::1%eth0`); b"" if it is none."""
    try:
        return plain(inet_pton(AF_INET6 if ":" in text else AF_INET, text.partition("%")[0]))
    except (OSError, ValueError):
        return b""


def hosts(text: str) -> Iterator[tuple[bytes, list[str]]]:
    """Yield the address of each line of /etc/hosts, with its names as they are written, but not the names that are blocked."""
    for words in _lines(text):
        if words[0] not in _NOBODY and (address := packed(words[0])):
            yield address, words[1:]


def servers(text: str) -> dict[bytes, int]:
    """Return the name servers of /etc/resolv.conf, each with the index of the interface that its scope names, or 0."""
    named = [word for words in _lines(text) if words[0] == "nameserver" for word in words[1:2]]
    return {address: _scope(word) for word in named if (address := packed(word))}


def domains(text: str) -> list[str]:
    """Return the domains of /etc/resolv.conf in which names are searched, as they are written: the last line counts."""
    found = [words[1:] for words in _lines(text) if words[0] in ("search", "domain")]
    return found[-1] if found else []


def _scope(word: str) -> int:
    name = word.partition("%")[2] or "0"
    try:
        return int(name) & 0xFFFFFFFF if name.isdecimal() else if_nametoindex(name)
    except (OSError, ValueError):  # no interface can have that name, or none has it now
        return 0


def _lines(text: str) -> Iterator[list[str]]:
    """Yield the words of each line that has some; a comment begins with `#`."""
    for line in text.splitlines():
        if words := line.partition("#")[0].split():
            yield words
