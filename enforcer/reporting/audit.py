"""Take denied files and ports from the kernel's audit records, so that the helper need not be notified of each call that might
be denied: what is allowed costs nothing.

Landlock writes a record of each denial (since Linux 6.15, ABI 7) while audit is on.  Every socket that has joined a multicast
group gets a copy, beside the audit daemon (AUDIT_NLGRP_READLOG, which takes CAP_AUDIT_READ and the first network namespace).
A record names the Landlock domain of the process, and nothing else of it.  The domain's own record comes after its first
denial, and has the name of the thread that made the domain: `enforce` has a random name meanwhile, so that no other program's
domain is taken for its own, and makes a call that the domain denies, so that this record is written at once.

The kernel counts what it denies in a domain, and writes the count when the domain ends: thus what was lost is known.
"""

from __future__ import annotations

import os
import time

from callfence.enforcer import kernel
from callfence.enforcer.bpf import EQUAL, RETURN, assembled
from callfence.policygen.files.places import here
from callfence.tracer import TYPE_CHECKING, linux

if TYPE_CHECKING:
    import _socket
    from collections.abc import Iterator, Mapping, Sequence

    Denial = tuple[int, Mapping[str, str]]
    """The index of the policy whose domain denied it, and the fields of the record."""

NOTE = (
    "denied files and ports are taken from the kernel's audit records, which name neither the process nor the call; with "
    "--explain the helper is notified of each such call instead"
)
ABSENT = (
    "the kernel's audit has no record of this start (is LANDLOCK_ACCESS excluded by a rule?), so denied files and ports are "
    "not in this log; with --explain the helper reports them"
)
_GET, _ACCESS, _DOMAIN = 1000, 1423, 1424  # linux/audit.h: AUDIT_GET, AUDIT_LANDLOCK_ACCESS, AUDIT_LANDLOCK_DOMAIN
_HEAD, _REQUEST, _ERROR = 16, 1, 2  # linux/netlink.h: struct nlmsghdr, NLM_F_REQUEST, NLMSG_ERROR
_AF_NETLINK, _SOCK_RAW, _NETLINK_AUDIT = 16, 3, 9
_SOL_NETLINK, _ADD_MEMBERSHIP, _READLOG = 270, 1, 1
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33  # asm-generic/socket.h
_LOAD_HALF = 0x28  # BPF_LD | BPF_H | BPF_ABS, which takes the bytes in network order
_MAX_MESSAGE = 1 << 14
"""More than MAX_AUDIT_MESSAGE_LENGTH (linux/audit.h), in bytes."""
_BUFFER = 1 << 20
"""Bytes of records that may wait while the helper answers calls: more than a thousand records."""
_BATCH = 64
"""How many records are read before calls are answered again, and how many of unknown domains are kept."""
_LAYERS = 16  # LANDLOCK_MAX_NUM_LAYERS
_ANSWER, _ARRIVAL, _END = 2.0, 5.0, 5.0
"""Timeouts in seconds: for the kernel's answer whether audit is on, for the first record, and for the last after the end."""


class Source:
    """The audit records about one program.  Made before the helper is cloned; read by the helper, and then by its stand-in."""

    __slots__ = (
        "_begin", "_domains", "_ended", "_is_said", "_others", "_received", "descriptor", "environment", "files", "here",
        "token",
    )  # fmt: skip
    note = NOTE

    def __init__(self, descriptor: int, files: Sequence[str], environment: Sequence[bytes]) -> None:
        """`descriptor`: the socket.  `files`: the path of the policy of each domain.  Raises OSError."""
        self.descriptor = descriptor
        self.files = files
        self.environment = environment
        """The program's, each NAME=VALUE."""
        self.here = here()
        self.token = os.urandom(6).hex()
        """The name of the thread while it makes a domain, without the domain's index in `files`, which follows as a letter."""
        self._begin = time.monotonic()
        self._is_said = False
        self._others: list[dict[str, str]] = []
        """The latest records of unknown domains."""
        shared = ((linux.c_int64 * _LAYERS) * 3).from_address(kernel.shared_memory(4096))
        self._domains, self._received, self._ended = shared
        """The id of each domain, or 0 while it is unknown; how many of its records have been received, minus how many were
        written once that is known; and whether it is."""

    def name(self, index: int) -> bytes:
        """Return the name of the thread while it makes a domain, 13 bytes."""
        return f"{self.token}{index:x}".encode()

    def read(self) -> Iterator[Denial]:
        """Yield what was denied and has arrived, at most a batch; this does not wait."""
        for _ in range(_BATCH):
            try:
                message = os.read(self.descriptor, _MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: there was no room for a record, which `lost` counts
                continue
            record = fields(message[_HEAD:].decode(errors="replace"))
            taken = self._denied if int.from_bytes(message[4:6], "little") == _ACCESS else self._introduced
            try:
                yield from taken(record)
            except (KeyError, ValueError, IndexError):  # a later kernel's, or a forged one (CAP_NET_ADMIN)
                continue

    def _denied(self, record: dict[str, str]) -> Iterator[Denial]:
        domain = int(record["domain"], 16)
        if domain in (known := [*self._domains]):
            index = known.index(domain)
            self._received[index] += 1
            yield index, record
        elif not self.has_arrived:
            self._others = [*self._others[1 - _BATCH :], record]

    def _introduced(self, record: dict[str, str]) -> Iterator[Denial]:
        """Take a domain's own record: the first one, or that of its end."""
        domain, name = int(record["domain"], 16), record.get("comm", "").strip('"')
        if domain in (known := [*self._domains]):
            if record["status"] == "deallocated":
                index = known.index(domain)
                self._received[index] -= int(record["denials"])
                self._ended[index] = 1
        elif name[:-1] == self.token:
            self._domains[int(name[-1], 16)] = domain
            for former in self._others:
                if former["domain"] == record["domain"]:
                    yield from self._denied(former)

    @property
    def has_arrived(self) -> bool:
        """Whether all domains are known."""
        return all(self._domains[: len(self.files)])

    def pause(self) -> float | None:
        """Return after how many seconds to call `absence`; None for never."""
        return None if self._is_said or self.has_arrived else max(self._begin + _ARRIVAL - time.monotonic(), 0)

    def absence(self) -> str:
        """Return, once, a message that nothing has arrived in time; else ""."""
        if self.pause() != 0:
            return ""
        self._is_said = True
        return ABSENT

    def rest(self) -> Iterator[Denial]:
        """Yield what was denied and arrives late, after the last process of the program has ended."""
        import select

        poller, end = select.poll(), time.monotonic() + _END
        poller.register(self.descriptor, select.POLLIN)
        while True:
            yield from self.read()
            pause = end - time.monotonic()
            if all(self._ended[: len(self.files)]) or pause <= 0 or not poller.poll(pause * 1000):
                return

    def lost(self) -> str:
        """Return a message about denials whose records were not received, after `rest`; "" if there are none."""
        if not self.has_arrived:
            return "" if self._is_said else ABSENT
        if not all(self._ended[: len(self.files)]):
            return "the kernel's audit has not said how many files and ports were denied: some may not be in this log"
        missing = -sum(self._received[: len(self.files)])
        text = f"{missing} denials of files or ports are not in this log: the kernel's audit lost their records"
        return text if missing > 0 else ""


def fields(text: str) -> dict[str, str]:
    """Return the fields of a record as the kernel writes it; no value has a space."""
    return dict(word.partition("=")[::2] for word in text.rstrip("\0").split() if "=" in word)


def opened(files: Sequence[str], environment: Sequence[bytes]) -> Source | None:
    """Return the source of records about the program that this process becomes; None where the kernel writes none (before 6.15,
    audit is off), or where this process may not read them.  `files`, `environment`: those of `Source`."""
    if kernel.landlock_abi() < linux.LANDLOCK_RECORDS:
        return None
    import _socket  # `socket` takes milliseconds

    try:
        # Records are sent in the first network namespace alone.  Reading this takes what the first denial must not lack.
        if os.readlink("/proc/self/ns/net") != os.readlink(f"/proc/{linux.KTHREADD}/ns/net"):
            return None
        audit = _socket.socket(_AF_NETLINK, _SOCK_RAW | os.O_NONBLOCK | os.O_CLOEXEC, _NETLINK_AUDIT)
        if not _is_on(audit):
            return None
        types = [(EQUAL, int.from_bytes(kind.to_bytes(2, "little"), "big"), "ours", "") for kind in (_ACCESS, _DOMAIN)]
        program = assembled([(_LOAD_HALF, 4), *types, (RETURN, 0), "ours", (RETURN, 0xFFFFFFFF)])
        audit.setsockopt(linux.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(linux.FilterProgram.of(program)))
        audit.setsockopt(linux.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        audit.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _READLOG)
        return Source(audit.detach(), files, environment)
    except OSError:
        return None


def _is_on(audit: _socket.socket) -> bool:
    """Ask the kernel whether audit is on, which takes CAP_AUDIT_CONTROL; return False if it refuses.  Raises OSError."""
    import select

    poller = select.poll()
    poller.register(audit, select.POLLIN)
    words = [_HEAD.to_bytes(4, "little"), _GET.to_bytes(2, "little"), _REQUEST.to_bytes(2, "little"), bytes(8)]
    audit.sendto(b"".join(words), (0, 0))
    while poller.poll(_ANSWER * 1000):
        answer = audit.recv(_MAX_MESSAGE)
        kind = int.from_bytes(answer[4:6], "little")
        if kind == _ERROR:
            return False
        if kind == _GET:
            return answer[_HEAD + 4] > 0  # struct audit_status, enabled: 1, or 2 if that cannot be changed
    return False
