"""Records to which hosts and unix sockets a program connects and sends, for each executable, and which names it looks up.

The answers of name servers are read from the program's memory at the exit of the call that received them: no copy of the socket
has them any more when the next call connects, and a copy that is read before may be read too early. So from a call that
connects or sends to port 53 until the socket is closed, the calls of the process stop, whatever its filters let run; but no
more than `WATCHED` calls of each thread after one by which something went over the socket.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from callfence.enforcer.files.lookup import look_up
from callfence.enforcer.hosts.addresses import Peer, peer_of
from callfence.enforcer.hosts.granted import MAKING, Hosts
from callfence.enforcer.hosts.rules import is_local, is_near
from callfence.enforcer.hosts.unix import NAME_SERVICES
from callfence.learning.hosts import reading
from callfence.learning.hosts.lookups import Lookups
from callfence.learning.hosts.names import MAX_NAMES, Names, text_of
from callfence.policygen.files.calls import DNS, numbers
from callfence.policygen.files.places import named
from callfence.policygen.grants import NONE, QUERY, UNIX, USES
from callfence.policygen.hosts import is_name
from callfence.shared.files import working_folder
from callfence.tracer import kernel, linux
from callfence.tracer.abi import NATIVE, Event, table
from callfence.tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from callfence.learning.hosts.reading import Call
    from callfence.policygen.files.generalise import Use
    from callfence.tracer.calls import Calls
    from callfence.tracer.task import Task

WATCHED = 1024
"""The most calls of a thread that stop while an answer is awaited."""
MAX_USES = 16384
"""The most hosts, with their ports, name servers and unix sockets that are recorded, of each."""
_PROBED = 64
"""The most calls of a thread that stop to see whether a program sends to an address to which it has connected by UDP."""
_RECEIVING = ("recvfrom", "recvmsg", "recvmmsg", "read", "readv")
_WRITING = (*reading.SENDING, "write", "writev")
_TO = 4
"""The index of the argument of sendto(2) with the address."""


class _Probe(NamedTuple):
    """A connection by UDP of which it is not known yet whether anything is sent on it."""

    row: tuple[str, str, int, str]
    task: Task
    socket: str
    """Its name, `socket:[INODE]`."""
    asked: bool
    """Whether the program has asked for its own address on it."""


class HostWatcher:
    """Records the hosts and unix sockets of one run."""

    def __init__(
        self, environment: Sequence[bytes] | None, gap: Callable[[str], None], renamed: Callable[[str], str] = str
    ) -> None:
        """`environment`: that of the program; None if it runs already, so that its folders are not known.  `renamed` returns
        the path under which an executable is recorded."""
        self._environment = environment or ()
        self._here = b"/" if environment is None else os.fsencode(working_folder())
        self._gap = gap
        self._renamed = renamed
        self._uses: set[tuple[str, str, int, str]] = set()
        """(`connect` or `send`, the host, the port, the executable)."""
        self._sockets: set[tuple[str, str]] = set()
        """(a unix socket as a policy writes it, the executable)."""
        self._missing: set[tuple[bytes, str]] = set()
        """(the path of a unix socket that was not there when the program connected to it, the executable)."""
        self._servers: dict[tuple[str, bytes, int, str], bool] = {}
        """Uses of port 53 -> whether it is a server of /etc/resolv.conf."""
        self._answered = False
        """Whether an answer was read."""
        self._names = Names()
        self._lookups = Lookups()
        self._probes: dict[tuple[int, int], _Probe] = {}
        """By process and descriptor."""
        self._calls: Calls | None = None

    def attach(self, calls: Calls) -> None:
        """Have the tracer stop for the calls that are watched."""
        self._calls = calls
        for name in ("connect", *reading.SENDING, "socketcall"):
            calls.also_named(name, self._reaches, always=name != "sendto")
        for name in ("bind", "socketcall"):
            calls.also_named(name, self._binds)
        for arch, number in MAKING:
            calls.also(arch, number, self._makes, always=False)
        calls.zeros[table(NATIVE).by_name["sendto"].number] = _TO  # which send(3) has as well
        for arch, number in numbers(reading.EXITS):
            calls.exits[arch, number] = self._returned
        calls.lapsed = self._lapsed

    def open_already(self, processes: Mapping[int, str]) -> None:
        """Record whom the open sockets of running processes are connected to.  `processes`: the executable of each pid."""
        from callfence.learning.ports import open_connections

        for process, executable in processes.items():
            for use, address, port in open_connections(process):
                if port == DNS and address in self._names.servers(process):
                    continue
                self._use((use, self._host(address, process), port, executable))

    def uses(self) -> tuple[Use, ...]:
        """Return what was recorded, ascending: (`tcp connect HOST` or `udp send HOST`, port, executable), (`unix connect
        SOCKET`, "", executable), (`dns query NAME`, "", executable) for a name that was only looked up, (`name NAME`, an
        address that it had, executable); and (`udp send`, `unix connect` or `dns query`, `none`, "") where there is none of
        these."""
        made = {*self._uses, *(probe.row for probe in self._probes.values() if not probe.asked)}
        used = {host for _, host, _, _ in made if is_name(host)}
        asked = self._names.asked(used)
        # Where a policy has names, `enforce` asks the usual name servers for the program.
        are_named = self._answered and (used or asked)
        for (use, address, port, executable), is_usual in self._servers.items():
            if not (is_usual and are_named):
                made.add((use, text_of(address), port, executable))
        rows = [(f"{USES[use]} {host}", str(port), self._renamed(executable)) for use, host, port, executable in made]
        rows += [(f"{UNIX} {name}", "", self._renamed(executable)) for name, executable in self._sockets]
        rows += [(f"{QUERY} {name}", "", self._renamed(executable)) for name, executable in asked]
        rows += [(what, address, self._renamed(executable)) for what, address, executable in self._names.uses()]
        if not any(use == "send" for use, _, _, _ in made):
            rows.append((USES["send"], NONE, ""))
        if not self._sockets:
            rows.append((UNIX, NONE, ""))
        if not asked:
            rows.append((QUERY, NONE, ""))
        return tuple(sorted(set(rows)))

    # -- calls, before they run

    def _makes(self, task: Task, event: Event) -> None:
        """Say that a socket would be refused under the policy; for those of MPTCP and SMC, programs go on without."""
        family, _, number = (argument & 0xFFFFFFFF for argument in event.arguments[:3])
        if family not in linux.TCP_FAMILIES and number not in linux.TCP_PROTOCOLS and Hosts.refused(event):
            what = "makes sockets of another kind than TCP and UDP (raw ones, for instance)"
            self._gap(f"{task.executable} {what}, which fails under a policy that confines hosts")

    def _reaches(self, task: Task, event: Event) -> None:
        call = reading.call_of(task, event)
        if call.name not in ("connect", *reading.SENDING):
            return
        if call.name == "connect":
            self._settle(task, call.descriptor)
        number: int | None = None
        for data in reading.addresses(task, call):
            if int.from_bytes(data[:2], "little") == reading.AF_UNIX:
                self._unix(task, data[2:])
                continue
            peer = peer_of(data, reading.AF_INET, sends=call.name != "connect")
            if peer is None or not peer.host:
                continue
            if number is None:
                number = reading.protocol(task.tid, task.tgid, call.descriptor)
            if number == reading.TCP or number == -1:
                if call.name == "connect":
                    self._meets(task, event, call, "connect", peer)
            elif number in (reading.UDP, reading.ECHO):
                if number == reading.ECHO:
                    peer = peer._replace(port=0)
                self._meets(task, event, call, "send", peer)

    def _binds(self, task: Task, event: Event) -> None:
        """Record a unix socket that a program has tried to connect to, to see whether another of its kind runs, and makes now:
        it is there at the next start, if this run is killed."""
        call = reading.call_of(task, event)
        for data in reading.addresses(task, call) if call.name == "bind" and self._missing else ():
            path = os.path.realpath(_seen(task, data[2:].partition(b"\0")[0]))
            if data[:2] == b"\1\0" and (path, task.executable) in self._missing:
                self._file(path, task)

    def _meets(self, task: Task, event: Event, call: Call, use: str, peer: Peer) -> None:
        """Record that a task connects or sends to an address."""
        assert self._calls is not None
        host = self._host(peer.host, task.tgid)
        place, row = (task.tgid, call.descriptor), (use, host, peer.port, task.executable)
        is_server = peer.port == DNS and peer.host in self._names.servers(task.tgid)
        may_probe = use == "send" and call.name == "connect" and not is_server
        is_probe = may_probe and (bool(self._names.name_of(peer.host, task.tgid)) or is_near(peer.host))
        if is_probe:
            # C libraries and Go connect so to each address that they have looked up, to see by which of its own addresses this
            # machine would reach it (RFC 6724), and send nothing.
            self._probes[place] = _Probe(row, task, reading.inode_of(*place), asked=False)
            self._calls.watch(task, event, _PROBED)
        if peer.port == DNS:
            self._lookups.begin(reading.inode_of(*place), *place, is_stream=use == "connect")
            self._calls.watch(task, event, WATCHED, whole=True)
        if peer.port == DNS and not is_probe:
            key = use, peer.host, DNS, task.executable
            if self._has_room(self._servers, key):
                self._servers[key] = is_server
        elif not is_probe:
            self._use(row)

    def _use(self, row: tuple[str, str, int, str]) -> None:
        if self._has_room(self._uses, row):
            self._uses.add(row)

    def _has_room(self, noted: Collection[object], new: object) -> bool:
        if len(noted) < MAX_USES or new in noted:
            return True
        self._gap(f"the program talks to more than {MAX_USES:,} hosts and ports, or sockets: not all were recorded")
        return False

    def _host(self, address: bytes, process: int) -> str:
        """Return the name by which an address was looked up, else the address; so too for one that no name opens."""
        name = self._names.name_of(address, process)
        return name if name and (is_local(name) or not is_near(address)) else text_of(address)

    def _unix(self, task: Task, name: bytes) -> None:
        """Record that a task connects or sends to the unix socket of this name (sun_path, as long as it was given)."""
        if name[:1] in (b"", b"\0"):
            if b"*" in name:  # a policy takes it for all sockets whose names begin so
                self._gap(f"{task.executable} connects to an abstract socket with `*` in its name, which no line is about")
            elif name:
                self._socket(b"@" + name[1:], task)
            return
        path = _seen(task, name.partition(b"\0")[0])
        file = look_up(path)
        if file is None and len(self._missing) < MAX_USES:
            self._missing.add((os.path.realpath(path), task.executable))
        if file is None or not stat.S_ISSOCK(file.mode):
            return
        if file.path in NAME_SERVICES:
            # C libraries then ask name servers themselves, whose answers can be seen.  So it is under `enforce`.
            if self._calls is not None and self._calls.may_skip(task):
                kernel.skip_call(task.tid, errno.ENOENT)
            else:
                what = f"asks {os.fsdecode(file.path)} for names, so hosts are recorded by their addresses"
                self._gap(f"{task.executable} {what}")
            return
        self._file(file.path, task)

    def _file(self, path: bytes, task: Task) -> None:
        self._socket(named(os.fsencode(self._renamed(os.fsdecode(path))), self._environment, self._here), task)

    def _socket(self, name: bytes, task: Task) -> None:
        row = name.decode("utf-8", "surrogateescape"), task.executable
        if self._has_room(self._sockets, row):
            self._sockets.add(row)

    # -- calls, after they ran

    def _returned(self, task: Task, event: Event, result: int) -> None:
        """At the exit of a call of a watched task, which returned `result`."""
        call = reading.call_of(task, event)
        place = (task.tgid, call.descriptor)
        if call.name == "close":
            now = reading.inode_of(*place)
            self._settle(task, call.descriptor, now)
            self._lookups.closed(*place, now)
        elif call.name == "getsockname":
            if self._is_probe(place):
                self._probes[place] = self._probes[place]._replace(asked=True)
            return
        elif call.name in _WRITING and self._is_probe(place):
            self._use(self._probes.pop(place).row)
        elif call.name in (*_RECEIVING, *_WRITING) and result > 0:
            self._passed(task, call, result)
        else:
            return
        self._rest(task)

    def _is_probe(self, place: tuple[int, int]) -> bool:
        """Return whether a process's descriptor names a socket that may only probe, not one that has its number since."""
        return place in self._probes and self._probes[place].socket == reading.inode_of(*place)

    def _passed(self, task: Task, call: Call, result: int) -> None:
        """Read what came over a socket, if it is one by which a program asks name servers, and watch the task for more."""
        lookup = self._lookups.get(reading.inode_of(task.tgid, call.descriptor))
        if lookup is None:
            return
        lookup.places.add((task.tgid, call.descriptor))
        task.watched = WATCHED
        if call.name in _RECEIVING:
            for message in lookup.received(reading.contents(task, call, result)):
                self._answered |= self._names.answered(message, task.tgid, task.executable)
        if self._names.is_full:
            self._gap(f"the program looks up more than {MAX_NAMES:,} names: not all were recorded")

    def _settle(self, task: Task, descriptor: int, now: str = "") -> None:
        """When a descriptor is closed or connected: it was only looked up whether its address can be reached, if nothing was
        sent.  `now`: the socket that another thread has opened under the same number, which is left alone."""
        place = task.tgid, descriptor
        probe = self._probes.get(place)
        if probe is None or (now and probe.socket == now):
            return
        del self._probes[place]
        if not probe.asked:
            self._use(probe.row)

    def _lapsed(self, task: Task) -> None:
        """When the calls of a task no longer stop: what was not decided counts as used."""
        for place, probe in [*self._probes.items()]:
            if probe.task is task:
                self._use(self._probes.pop(place).row)

    def _rest(self, task: Task) -> None:
        """Let the calls of a process run again, if nothing is awaited."""
        if self._calls is None or self._lookups.is_waiting(task.tgid):
            return
        if not any(process == task.tgid for process, _ in self._probes):
            self._calls.unwatch(task.tgid)


def _seen(task: Task, path: bytes) -> bytes:
    """Return a path by which this process finds what a task means by `path`."""
    if not path.startswith(b"/"):
        return b"/proc/%d/cwd/%s" % (task.tid, path)
    try:
        is_elsewhere = not os.path.samefile(f"/proc/{task.tid}/root", "/")
    except OSError:
        is_elsewhere = False
    return b"/proc/%d/root%s" % (task.tid, path) if is_elsewhere else path
