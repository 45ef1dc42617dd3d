"""The addresses to which the open sockets of a running process are connected, for `learn --pid`."""

from __future__ import annotations

from collections.abc import Iterator

from callfence.enforcer.hosts.addresses import plain
from callfence.learning.ports import CONNECTED, LISTENS, inodes


def open_sockets(process: int) -> Iterator[tuple[str, bytes, int]]:
    """Yield `connect` or `send`, the remote IP address and its port for each connected socket of a process.  What cannot be
    read is left out, and so are sockets that a client has connected."""
    own = {*inodes(process)}
    for name, use in (("tcp", "connect"), ("tcp6", "connect"), ("udp", "send"), ("udp6", "send")):
        try:
            with open(f"/proc/{process}/net/{name}", encoding="ascii") as file:
                rows = [line.split() for line in file][1:]
        except OSError:
            continue
        listening = {_port(row[1]) for row in rows if row[3] == LISTENS}
        for row in rows:  # proc_net_tcp.rst
            if row[9] in own and row[3] == CONNECTED and _port(row[1]) not in listening and _port(row[2]):
                yield use, plain(_address(row[2])), _port(row[2])


def _port(text: str) -> int:
    return int(text.rpartition(":")[2], 16)


def _address(text: str) -> bytes:
    """Return the bytes of an address: words of 32 bits in the machine's order."""
    words = bytes.fromhex(text.partition(":")[0])
    return b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
