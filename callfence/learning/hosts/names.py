"""The names of addresses: from the answers of name servers that a program received, and from /etc/hosts."""

from __future__ import annotations

import os
import socket
import stat
from collections import defaultdict
from ipaddress import ip_address
from typing import TYPE_CHECKING

from callfence.enforcer.hosts.names import files
from callfence.enforcer.hosts.names.dns import DnsError, answer_of, question_of
from callfence.enforcer.hosts.rules import plain
from callfence.policygen.hosts import HostError, canonical, is_plain_name

if TYPE_CHECKING:
    from collections.abc import Set

    from callfence.policygen.files.generalise import Use

MAX_ADDRESSES = 64
"""The most addresses of a name that are recorded."""
MAX_NAMES = 1024
"""The most names that are recorded, and whose addresses are."""
_MAX_KNOWN, _MAX_PROCESSES = 65536, 1024
"""The most addresses, and processes, whose names are remembered: the earliest are forgotten."""
_MAX_FILES = 16
"""The most files, or states of one, that are remembered: the earliest are forgotten."""


class Names:
    """The names of one run.  Mutable: it gets each answer as it is received."""

    def __init__(self) -> None:
        self._last: dict[bytes, str] = {}
        """Address -> the name with this address that was answered last, to any process."""
        self._of_process: dict[int, dict[bytes, str]] = {}
        """The same by process."""
        self._addresses: dict[str, dict[bytes, str]] = {}
        """Name -> its addresses, each with an executable that looked it up."""
        self._asked: dict[str, tuple[str, frozenset[str]]] = {}
        """Name that was asked for -> an executable that did, and the domains below which C libraries also look it up for it."""
        self.is_full = False
        """Whether there were more names than are recorded."""
        self._hosts_text = ""
        self._hosts: dict[bytes, str] = {}
        """The name of each address in /etc/hosts, as `_hosts_text` had it."""
        self._texts: dict[tuple[object, ...], str] = {}
        """The text of a file such as /etc/hosts, by the file's identity."""

    def answered(self, message: bytes, process: int, executable: str) -> bool:
        """Take an answer that a process has received; return False if it is no answer."""
        try:
            question, answer = question_of(message, is_answer=True), answer_of(message)
        except DnsError:
            return False
        if name := _host(question.name):
            if name in self._asked or len(self._asked) < MAX_NAMES:
                self._asked.setdefault(name, (executable, self._domains(process)))
            else:
                self.is_full = True
            own = self._of_process.setdefault(process, {})
            for address in map(plain, answer.addresses):
                for known in (self._last, own):
                    _remember(known, address, name)
                if name in self._addresses or len(self._addresses) < MAX_NAMES:
                    found = self._addresses.setdefault(name, {})
                    if len(found) < MAX_ADDRESSES:
                        found.setdefault(address, executable)
            while len(self._of_process) > _MAX_PROCESSES:
                del self._of_process[next(iter(self._of_process))]
        return True

    def name_of(self, address: bytes, process: int) -> str:
        """Return the name by which a process has looked up an address, else one by which another process of the run has, else
        that of /etc/hosts; "" if there is none, or /etc/hosts has several."""
        name = self._of_hosts(address, process)
        if name == files.LOCALHOST:  # which an answer of a name server cannot be
            return name
        return self._of_process.get(process, {}).get(address) or self._last.get(address) or name

    def _of_hosts(self, address: bytes, process: int) -> str:
        text = self._text(process, files.HOSTS)
        if text is not self._hosts_text:
            self._hosts_text, self._hosts = text, names_of(text)
        return self._hosts.get(address, "")

    def servers(self, process: int) -> set[bytes]:
        """Return the addresses of the name servers in /etc/resolv.conf; without one, C libraries ask this machine."""
        return {*(files.servers(self._text(process, files.CONFIGURATION)) or files.LOOPBACK[:1])}

    def _domains(self, process: int) -> frozenset[str]:
        return frozenset(map(_host, files.domains(self._text(process, files.CONFIGURATION)))) - {""}

    def _text(self, process: int, name: str) -> str:
        """Return the text of a file, as the process sees it."""
        path = f"/proc/{process}/root{name}"
        try:
            status = os.stat(path)
            key = (name, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
            if key not in self._texts:
                self._texts[key] = ""
                if stat.S_ISREG(status.st_mode):
                    # A pipe that has taken the file's place would have nobody wait.
                    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                        self._texts[key] = (file.read(files.MAX_BYTES) or b"").decode("utf-8", "replace")
                if len(self._texts) > _MAX_FILES:
                    del self._texts[next(iter(self._texts))]
            return self._texts[key]
        except OSError:
            return ""

    def asked(self, used: Set[str]) -> list[tuple[str, str]]:
        """Return the names that were only looked up, each with an executable that did: not the names that were `used`; nor that
        of this machine; nor what C libraries and programs ask by themselves, which is a name below a search domain, and the
        names of the addresses that were found."""
        machine = os.uname().nodename
        free = used | {_host(machine), _host(machine.partition(".")[0])}
        stems = free | self._asked.keys()
        found = {address for addresses in self._addresses.values() for address in addresses}
        free |= {ip_address(address).reverse_pointer for address in found}

        def is_needed(name: str, domains: frozenset[str]) -> bool:
            return name not in free and not any(name.removesuffix(f".{domain}") in stems - {name} for domain in domains)

        return [(name, executable) for name, (executable, domains) in self._asked.items() if is_needed(name, domains)]

    def uses(self) -> list[Use]:
        """Return the addresses that each name had, as (`name NAME`, address, an executable that looked it up)."""
        return [
            (f"name {name}", text_of(address), executable)
            for name, addresses in self._addresses.items()
            for address, executable in addresses.items()
        ]


def _remember(known: dict[bytes, str], address: bytes, name: str) -> None:
    known.pop(address, None)
    known[address] = name  # at the end: the latest
    if len(known) > _MAX_KNOWN:
        del known[next(iter(known))]


def names_of(text: str) -> dict[bytes, str]:
    """Return the only name of each address in the text of /etc/hosts, and for this machine `localhost`, if it is there."""
    firsts: defaultdict[bytes, set[str]] = defaultdict(set)
    has_localhost = False
    for address, names in files.hosts(text):
        firsts[address].update(names[:1])
        has_localhost |= address in files.LOOPBACK and files.LOCALHOST in names
    found = {address: _host(*names) for address, names in firsts.items() if len(names) == 1}
    return found | (dict.fromkeys(files.LOOPBACK, files.LOCALHOST) if has_localhost else {})


def _host(text: str) -> str:
    """Return the canonical form of a name; "" if no line is about that name alone: `*.com` can be looked up as well."""
    try:
        host = canonical(text)
    except HostError:
        return ""
    return host if is_plain_name(host) else ""


def text_of(address: bytes) -> str:
    """Return an address of 4 or 16 bytes as a policy writes it."""
    return canonical(socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address))
