"""Records which TCP ports a program connects to and binds, for each executable."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from callfence.enforcer.files.lookup import is_tcp, local_port
from callfence.policygen.files.calls import DNS, SENDING, SOCKETS, UDP_CONNECT, address, numbers
from callfence.policygen.grants import NONE, TCP
from callfence.tracer import kernel, linux
from callfence.tracer.abi import Arch, Event, table
from callfence.tracer.machine import MACHINE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from callfence.policygen.files.generalise import Use
    from callfence.tracer.calls import Calls, Handler
    from callfence.tracer.task import Task

LISTENS, CONNECTED = "0A", "01"  # net/tcp_states.h
_SOCKET = re.compile(r"socket:\[(\d+)\]")


class PortWatcher:
    """Records the TCP ports of one run, and fails the calls by which `enforce` would not let it reach a port."""

    def __init__(self, renamed: Callable[[str], str], gap: Callable[[str], None]) -> None:
        """`renamed` returns the path under which an executable is recorded, `gap` takes what could not be recorded."""
        self._renamed = renamed
        self._gap = gap
        self._ports: set[tuple[str, int, str]] = set()
        """(a use of TCP or UDP_CONNECT, the port, the executable)."""
        self._sockets = numbers(tuple(SOCKETS))

    def attach(self, calls: Calls) -> None:
        """Have the tracer stop for the calls that are watched."""
        for arch, number in self._sockets:
            calls.also(arch, number, self._socket_call)
        calls.also_named("listen", self._listen)
        by_name = {**dict.fromkeys(SOCKETS, self._socket_call), "listen": self._listen}
        calls.also_named("socketcall", by_socketcall(by_name))
        calls.also_named("socket", self._protocol, always=False)
        for name in SENDING:
            calls.also_named(name, self._sends(name), always=False)

    def open_already(self, processes: Mapping[int, str]) -> None:
        """Record the ports of the sockets that running processes have open.  `processes`: the executable of each pid."""
        for process, executable in processes.items():
            self._ports |= {(use, port, executable) for use, port in _open_sockets(process)}

    def uses(self) -> tuple[Use, ...]:
        """Return what was recorded, ascending, as (`tcp connect`, `tcp bind` or UDP_CONNECT, port, executable); a use of TCP
        that was not made is there with NONE as its port and no executable."""
        rows = [(f"tcp {use}", NONE, "") for use in TCP if not any(use == made for made, _, _ in self._ports)]
        for use, port, executable in self._ports:
            rows.append((use if use == UDP_CONNECT else f"tcp {use}", str(port), self._renamed(executable)))
        return tuple(sorted(rows))

    def _socket_call(self, task: Task, event: Event) -> None:
        use = SOCKETS[self._sockets[event.arch, event.number]]
        port = named_by(task, event, self._gap, binds=use == "bind")
        if not isinstance(port, int) or ((use, port, task.executable) in self._ports and port != DNS):
            return  # looking at the socket takes as long as the rest
        if is_tcp(task.tid, task.tgid, event.arguments[0] & 0xFFFFFFFF):
            self._ports.add((use, port, task.executable))
        elif use == "connect" and port == DNS:
            self._ports.add((UDP_CONNECT, port, task.executable))

    def _listen(self, task: Task, event: Event) -> None:
        """Record port 0 for a TCP socket without a port, which gets one of the kernel's choice (ip(7))."""
        if local_port(task.tid, task.tgid, event.arguments[0] & 0xFFFFFFFF) == 0:
            self._ports.add(("bind", 0, task.executable))

    def _protocol(self, task: Task, event: Event) -> None:
        """Fail the calls of socket(2) that `enforce` fails if TCP is confined, to record what the program does instead."""
        if task.other_filter:
            return
        if event.arguments[0] & 0xFFFFFFFF in linux.TCP_FAMILIES:
            kernel.skip_call(task.tid, linux.FAMILY_ERROR)
        elif event.arguments[2] & 0xFFFFFFFF in linux.TCP_PROTOCOLS:
            kernel.skip_call(task.tid, linux.PROTOCOL_ERROR)

    def _sends(self, name: str) -> Callable[[Task, Event], None]:
        def handle(task: Task, event: Event) -> None:
            if event.arguments[SENDING[name]] & linux.MSG_FASTOPEN and not task.other_filter:
                kernel.skip_call(task.tid, linux.FAST_OPEN_ERROR)
            elif sent_to(task, event, name) == DNS:
                self._ports.add((UDP_CONNECT, DNS, task.executable))

        return handle


def by_socketcall(handlers: Mapping[str, Handler]) -> Handler:
    """Return a handler of socketcall(2), by which programs for i386 make calls on sockets: it calls the handler of the call
    that is made so, by its name, with its arguments."""

    def handle(task: Task, event: Event) -> None:
        from callfence.learning.hosts.reading import call_of  # few programs make this call

        call, arch = call_of(task, event), Arch.from_audit(event.arch)
        if arch and (handler := handlers.get(call.name)):
            a, b, c, d, e, f = call.arguments
            handler(task, Event(event.arch, table(arch).by_name[call.name].number, (a, b, c, d, e, f), event.ip, event.task))

    return handle


def report_hidden(task: Task, gap: Callable[[str], None], *, is_read: bool) -> None:
    """Report a gap if memory was not read, and this process may not read the task's: it is not dumpable (prctl(2))."""
    with suppress(OSError):
        if not is_read and os.geteuid() and os.stat(f"/proc/{task.tgid}/mem").st_uid != os.geteuid():  # proc(5)
            why = "does not let its user look into it (PR_SET_DUMPABLE)"
            gap(f"{task.executable} {why}: the files and ports that it names are not recorded; learn it as root")


def named_by(task: Task, event: Event, gap: Callable[[str], None], *, binds: bool) -> int | str | bytes | None:
    """Return the address that connect(2) or bind(2) names (`policygen.files.calls.address`); report a gap if it is hidden."""
    content = kernel.read_memory(task.tid, event.arguments[1], min(event.arguments[2] & 0xFFFFFFFF, linux.SOCKADDR))
    report_hidden(task, gap, is_read=bool(content))
    return address(content, binds=binds)


def sent_to(task: Task, event: Event, name: str) -> int | str | bytes | None:
    """Return the address that the call `name` of SENDING sends to (`policygen.files.calls.address`), of sendmmsg the first one;
    None if it names none."""
    where, length = event.arguments[4:6]
    if name != "sendto":  # struct msghdr begins with both (linux/socket.h), and struct mmsghdr with that
        word = MACHINE.of(event.arch).pointer
        head = kernel.read_memory(task.tid, event.arguments[1], word + 4)
        where, length = int.from_bytes(head[:word], "little"), int.from_bytes(head[word:], "little")
    return address(kernel.read_memory(task.tid, where, min(length, linux.SOCKADDR))) if where else None


def _open_sockets(process: int) -> set[tuple[str, int]]:
    """Return the uses of TCP and their ports by the sockets of a process: ports on which it listens, ports to which it is
    connected.  What cannot be read is left out."""
    from callfence.policygen.files.generalise_ports import EPHEMERAL  # other runs need it only at their end, if at all

    sockets: dict[str, tuple[int, int, str]] = {}
    """inode -> local port, remote port, state."""
    for row in (*_rows(process, "tcp"), *_rows(process, "tcp6")):
        sockets[row[9]] = _port(row[1]), _port(row[2]), row[3]
    listening = {local for local, _, state in sockets.values() if state == LISTENS}
    uses = set()
    for inode in inodes(process):
        local, remote, state = sockets.get(inode, (0, 0, ""))
        if state == LISTENS:
            uses |= {("bind", local), ("bind", 0)} if local >= EPHEMERAL[0] else {("bind", local)}  # it may have asked for any
        elif state == CONNECTED and local not in listening:  # else a client has connected to it
            uses.add(("connect", remote))
    return uses


def open_connections(process: int) -> Iterator[tuple[str, bytes, int]]:
    """Yield `connect` or `send`, the remote IP address and its port for each connected socket of a process.  What cannot be
    read is left out, and so are sockets that a client has connected."""
    from callfence.enforcer.hosts.rules import plain  # a run that records no hosts does not need it

    own = {*inodes(process)}
    for name, use in (("tcp", "connect"), ("tcp6", "connect"), ("udp", "send"), ("udp6", "send")):
        rows = _rows(process, name)
        listening = {_port(row[1]) for row in rows if row[3] == LISTENS}
        for row in rows:
            if row[9] in own and row[3] == CONNECTED and _port(row[1]) not in listening and _port(row[2]):
                words = bytes.fromhex(row[2].partition(":")[0])  # of 32 bits, in the machine's order
                address = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
                yield use, plain(address), _port(row[2])


def _rows(process: int, name: str) -> list[list[str]]:
    """Return the fields of each socket in a file below /proc/PID/net (proc_net_tcp.rst); [] if it cannot be read."""
    try:
        with open(f"/proc/{process}/net/{name}", encoding="ascii") as file:
            return [line.split() for line in file][1:]
    except OSError:
        return []


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


def inodes(process: int) -> list[str]:
    """Return the inodes of the sockets that a process has open."""
    folder, found = f"/proc/{process}/fd", []
    try:
        for name in os.listdir(folder):
            try:
                if match := _SOCKET.match(os.readlink(f"{folder}/{name}")):
                    found.append(match[1])
            except OSError:
                continue
    except OSError:
        pass
    return found
