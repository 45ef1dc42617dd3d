"""Whom a call of the program may reach: the policies judge it, and calls and name servers are led where they may go."""

from __future__ import annotations

import errno
import os
from _socket import AF_INET, AF_INET6, SOCK_DGRAM

from callfence.enforcer.hosts import identity, unix
from callfence.enforcer.hosts.addresses import Peer, address_of, explicit, peer_of
from callfence.enforcer.hosts.making import INT, Making, check
from callfence.enforcer.hosts.mixtures import Mixtures
from callfence.enforcer.hosts.names.dns import AAAA, A
from callfence.enforcer.hosts.names.known import PORT
from callfence.enforcer.hosts.names.resolver import Judge, Resolver
from callfence.enforcer.hosts.rules import is_local, is_loopback, is_near
from callfence.tracer import TYPE_CHECKING
from callfence.tracer.linux import AF_UNIX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from callfence.enforcer.hosts.granted import Hosts
    from callfence.enforcer.hosts.identity import Identity
    from callfence.enforcer.hosts.names.dns import Question
    from callfence.enforcer.hosts.sockets import Socket
    from callfence.enforcer.listener import Notification, Request
    from callfence.enforcer.pending import Rule
    from callfence.tracer.abi import Event

_LINES = {"connect": "tcp connect", "send": "udp send"}
"""The beginning of the line about each use."""
_MAX_SHOWN = 8
"""The most names of an address that a report has, and the most peers of a note."""
_NOT_BELIEVED = "which the program may have changed: start it again, or keep it from that by lines about files (learn --files)"
_MAX_LED = 4096
"""The most sockets that are led to a resolver and remembered."""


class Refusal:
    """What policies do not grant to a call, for a report."""

    __slots__ = ("error", "lacking", "why")

    def __init__(self, lacking: Sequence[tuple[str, str, str]], why: str = "", error: str = "EACCES") -> None:
        self.lacking = lacking
        """The policy's file, the beginning of the line that would grant it, and what that line grants after its colon."""
        self.why = why
        self.error = error
        """The errno with which the call fails, by name; "" if its process is killed."""

    @property
    def rule(self) -> Rule:
        """The policies' files, and the line that each of them lacks; "" where no line would grant it."""
        from callfence.policygen.grants import written

        return tuple((file, written(start, granted)) for file, start, granted in self.lacking)


def refusal_of(hosts: Hosts, call: Notification | Event) -> Refusal | None:
    """Return why a call fails that would make a socket about which there are no lines; None for another call."""
    if not (number := hosts.refused(call)):
        return None
    why = "no line can say whom this kind of socket reaches"
    return Refusal([(file, "", "") for file, _ in hosts.policies], why, errno.errorcode[number])


class Led:
    """A socket of the program that was led to a resolver instead of a name server."""

    __slots__ = ("_scope", "_server", "ports", "request")

    def __init__(self, server: bytes, scope: int, ports: frozenset[int], request: Request) -> None:
        """`server`: the name server's address, 4 or 16 bytes.  `scope`: the index of the interface by which it is reached."""
        self._server = server
        self._scope = scope
        self.ports = ports
        """The ports of the resolver."""
        self.request = request
        """The call by which it was led."""

    def address(self, domain: int) -> bytes:
        """Return the struct sockaddr of the name server, for a socket of the family `domain`."""
        return address_of(self._server, PORT, domain, self._scope)


class Target:
    """An address that a call may be made to."""

    __slots__ = ("_found", "address", "identity", "led", "looked_at")

    def __init__(
        self,
        address: bytes,
        found: unix.Found | None = None,
        led: Led | None = None,
        identity: Identity | None = None,
        looked_at: Peer | None = None,
    ) -> None:
        self.address = address
        """struct sockaddr; b"" for none."""
        self.identity = identity
        """Who makes the call; None for the user of this process."""
        self.looked_at = looked_at
        """The peer, if the policies let the program send nothing there, and only see from where it would be reached."""
        self.led = led
        """What is known of the socket, if it is led to a resolver."""
        self._found = found
        """The file of a unix socket, which has to stay open until the call has been made."""

    def close(self) -> None:
        if self._found:
            self._found.close()
            self._found = None


class AskedError(Exception):
    """The call waits for an answer."""


class DeniedError(OSError):
    """The call fails, with this errno, after a report."""

    def __init__(self, number: int = errno.EACCES) -> None:
        super().__init__(number, os.strerror(number))


class Targets:
    """Judges addresses, and knows which sockets are led to a resolver."""

    def __init__(self, hosts: Hosts, making: Making, deny: Callable[[Request, Refusal], bool], *, asks: bool) -> None:
        """`deny` reports a denied call or look-up, or asks about it: then it returns True; it does so only with `asks`."""
        self._asks = asks
        self.is_part = False
        """Whether a part of the call has been made already."""
        self.permitted: Rule = ()
        """What the call that is being made may do without a line."""
        self._hosts = hosts
        self._making = making
        self._deny = deny
        self._names = hosts.names
        self._resolvers: dict[tuple[bytes, int], Resolver] = {}
        """By the name server's address and scope (`Names.scope`)."""
        self._judge_of_names: Judge | None = None
        """What judges the look-ups by all of them: what the program may look up below a wildcard does not grow with them."""
        self.led: dict[int, Led] = {}
        """By the inode of a socket."""
        self._led_from: dict[int, Led] = {}
        """By the port from which a socket asks."""
        self._looked_at: dict[int, Peer] = {}
        """By the inode of a socket: the peer that it has, and that is only looked at."""
        self._unsaid: dict[tuple[bytes, int], str] = {}
        """The first such peers that are in no report yet, and that the program may have sent to, with their text."""
        self._mixtures = Mixtures(self._may_send, self._may_send_anywhere)

    def of(self, request: Request, socket: Socket, peer: Peer | None, address: bytes, *, sends: bool = False) -> Target:
        """Return the address to which a call may be made.  Raises OSError if it would fail, or is denied, after a report."""
        use = socket.use
        if use == "unix" and peer and peer.family == AF_UNIX and peer.path:
            return self._unix_target(request, peer, address)
        if use == "raw":
            self.deny_wholly(request, "this kind of socket can reach any host")
        elif peer and use in _LINES and peer.family in (AF_INET, AF_INET6):
            if not socket.has_ports:
                peer = peer._replace(port=0)
            if self._names and self._names.is_server(peer.host, peer.port):
                return self._lead(request, socket, peer)
            if use == "send" and not sends and self._is_only_looked_at(peer, nowhere=socket.has_ports and not peer.port):
                return Target(explicit(address), looked_at=peer)
            self._judge(request, use, peer)
            return Target(explicit(address))
        return self.unjudged(request, socket, address)

    def unjudged(self, request: Request, socket: Socket, address: bytes) -> Target:
        """Return an address that reaches no other host: the kernel fails the call, ends a connection, or names the sender."""
        is_internet = socket.domain in (AF_INET, AF_INET6)
        return Target(address, identity=None if is_internet else _caller(request))

    def _is_only_looked_at(self, peer: Peer, *, nowhere: bool) -> bool:
        """Return whether policies deny datagrams to a port of a host, but have lines about the host, or it is port 0, to which
        nothing can be sent (`nowhere`).

        Resolvers connect a datagram socket to each address of a name, or of this host, to see from which address it would be
        reached (RFC 6724, 6), and send nothing; the port is 0 if they were given none.  A server looks its own addresses up
        with the TCP port that it is about to bind."""
        if self._may_send(peer.host, peer.port):
            return False
        names = self._names.of(peer.host) if self._names else []
        policies = [rules for _, rules in self._hosts.policies]
        if nowhere or (is_loopback(peer.host) and all(rules.binds(peer.port) for rules in policies)):
            return True
        uses = [[use for use in ("send", "connect") if use in rules.confines] for rules in policies]
        return all(
            any(rules.reaches(use, peer.host, names) for use in confined)
            for rules, confined in zip(policies, uses, strict=True)
        )

    def must_be_mute(self, socket: Socket, target: Target) -> bool:
        """Return whether a socket that is connected to a target must not send any more: there, or because of earlier peers."""
        if self._hosts.is_audit:
            return False
        return bool(target.looked_at) or (socket.use == "send" and self._mixtures.are_denied(socket, target.address))

    def connected(self, socket: Socket, target: Target) -> None:
        """Remember whom a socket has been connected to, as far as `note` and `judge_peer` need it."""
        self.note(socket, target)
        if not (target.looked_at or self._looked_at):
            return
        inode = socket.inode
        self._looked_at.pop(inode, None)
        if peer := target.looked_at:
            if len(self._looked_at) >= _MAX_LED:
                del self._looked_at[next(iter(self._looked_at))]
            self._looked_at[inode] = peer
            names = self._names.of(peer.host) if self._names else []
            policies = [rules for _, rules in self._hosts.policies]
            is_probe = not peer.port or all(rules.grants("connect", peer.host, peer.port, names) for rules in policies)
            is_probe |= is_loopback(peer.host) and all(rules.binds(peer.port) for rules in policies)
            if not is_probe and len(self._unsaid) < _MAX_SHOWN:
                self._unsaid[peer.host, peer.port] = f"{peer.text}: {peer.port}"

    def judge_peer(self, request: Request, socket: Socket) -> None:
        """Judge a call that sends by a connected socket, if that is connected to a peer which policies let it only look at."""
        if self._looked_at and socket.type == SOCK_DGRAM and (peer := self._looked_at.get(socket.inode)):
            self._judge(request, "send", peer)

    def unsaid(self) -> str:
        """Return what a log should say of sockets that can send nothing to their peers, because send(2) and write(2) are not
        seen; "" for nothing, or if it has been returned before."""
        peers = ", ".join(self._unsaid.values())
        self._unsaid.clear()
        effect = "what was sent there was not judged" if self._hosts.is_audit else "nothing could be sent there"
        return peers and f"UDP sockets were connected to {peers}; no line grants `udp send` to that, so {effect}"

    def _may_send(self, host: bytes, port: int) -> bool:
        """Return whether policies let the program send datagrams to a port of a host."""
        unsure = [rules for _, rules in self._hosts.policies if not rules.grants("send", host, port, ())]
        names = self._names.of(host) if unsure and self._names else []
        return all(rules.grants("send", host, port, names) for rules in unsure)

    def _may_send_anywhere(self, port: int) -> bool:
        """The same for a port of any host."""
        return all(rules.grants_everywhere("send", port) for _, rules in self._hosts.policies)

    def _judge(self, request: Request, use: str, peer: Peer) -> None:
        """Raise DeniedError, after a report, unless all policies let the program reach a host."""
        self._unsaid.pop((peer.host, peer.port), None)
        unsure = [(file, rules) for file, rules in self._hosts.policies if not rules.grants(use, peer.host, peer.port, ())]
        if not unsure:  # the names take a look at /etc/hosts
            return
        names = self._names.of(peer.host) if self._names else []
        if lacking := [file for file, rules in unsure if not rules.grants(use, peer.host, peer.port, names)]:
            others = f"{len(names) - _MAX_SHOWN} others and " if len(names) > _MAX_SHOWN else ""
            why = f"{peer.text} is an address of {others}{', '.join(names[-_MAX_SHOWN:])}" if names else ""
            if not why and self._names and self._names.is_not_believed(peer.host, peer.port):
                why = f"{peer.text} is in /etc/resolv.conf now, {_NOT_BELIEVED}"
            host = peer.text
            opening = [name for name in names if is_local(name) == is_loopback(peer.host)]
            if opening and is_loopback(peer.host):
                host = opening[-1]
            elif names and is_near(peer.host):
                why += ", and a name opens no address of this host or its link"
            elif opening:
                from callfence.policygen.hosts import is_plain_name

                host = next(filter(is_plain_name, reversed(opening)), host)
            self.deny_call(request, [(file, f"{_LINES[use]} {host}", str(peer.port)) for file in lacking], why)

    def _unix_target(self, request: Request, peer: Peer, address: bytes) -> Target:
        confining = [file for file, rules in self._hosts.policies if "unix" in rules.confines]
        caller = _caller(request)
        if peer.path.startswith(b"\0"):
            name, target, found = b"@" + peer.path[1:], Target(address, identity=caller), None
        else:
            try:
                found = unix.find(request, peer.path, caller, confines=bool(confining))
            except unix.UnclearError as error:
                self.deny_wholly(request, str(error))
                return Target(address)
            name, target = found.path, Target(found.address, found, identity=caller)
        if self._names and found and found.is_name_service:
            target.close()
            raise OSError(errno.ENOENT, "connect")
        lacking = [file for file in confining if not unix.is_granted(name, self._hosts.sockets[file])]
        if lacking:
            from callfence.policygen.paths import shown

            line, why = f"unix connect {shown(name.decode('utf-8', 'surrogateescape'))}", ""
            if name.startswith(b"@") and b"*" in name:
                line, why = "", "a line with `*` is about all sockets whose names begin so"
            try:
                self.deny_call(request, [(file, line, "") for file in lacking], why)
            except (OSError, AskedError):
                target.close()
                raise
        return target

    def deny_call(self, request: Request, lacking: Sequence[tuple[str, str, str]], why: str) -> None:
        """Report a call, and raise DeniedError unless nothing is enforced; or raise AskedError if it waits for an answer."""
        refusal = Refusal(lacking, why)
        if self.permitted and {*refusal.rule} <= {*self.permitted}:
            return
        if self._asks and self.is_part:
            raise DeniedError  # the program makes a call for the rest
        if self._deny(request, refusal):
            raise AskedError
        if not self._hosts.is_audit:
            raise DeniedError

    def deny_wholly(self, request: Request, why: str) -> None:
        """The same for a call that no line would allow."""
        self.deny_call(request, [(file, "", "") for file, _ in self._hosts.policies], why)

    # Name servers

    def _lead(self, request: Request, socket: Socket, peer: Peer) -> Target:
        """Return the address of the resolver for a name server.  Raises OSError, as the call does if there is no way to it."""
        assert self._names
        server = peer.host, self._names.scope(peer.host)
        resolver = self._resolvers.get(server)
        if resolver is None:
            self._judge_of_names = self._judge_of_names or Judge(self._names, self._deny_name, is_audit=self._hosts.is_audit)
            arguments = *server, self._making.hub, self._names, self._judge_of_names, self._unheard
            resolver = self._resolvers[server] = Resolver(*arguments)
        resolver.reach()
        led = Led(*server, frozenset(resolver.ports.values()), request)
        family = socket.domain if (socket.domain, socket.type) in resolver.ports else AF_INET
        host = b"\x7f\0\0\1" if family == AF_INET else bytes(15) + b"\1"
        return Target(address_of(host, resolver.ports[family, socket.type], socket.domain), led=led)

    def note(self, socket: Socket, target: Target) -> None:
        """Remember a socket that has been led to a resolver, and one that is led there no more; a message without an address
        changes nothing."""
        if not target.address:
            return
        inode = socket.inode if self.led or target.led else 0
        self.led.pop(inode, None)
        if target.led:
            for kept, key in ((self.led, inode), (self._led_from, socket.local_port())):
                kept.pop(key, None)
                if len(kept) >= _MAX_LED:
                    del kept[next(iter(kept))]
                kept[key] = target.led

    def _unheard(self, port: int) -> None:
        """Let the kernel tell the socket that asked from a port what it has told the resolver, so that the program asks the
        next name server at once."""
        if not (led := self._led_from.get(port)):
            return
        try:
            socket = self._making.copier.socket(led.request.call.task, led.request.arguments[0] & INT)
        except OSError:  # it is closed
            return
        try:
            peer = peer_of(socket.peer(), socket.domain, sends=False)
            if peer and peer.port in led.ports and self.led.get(socket.inode) is led:
                socket.fail()
        except OSError:  # it times out
            pass
        finally:
            socket.close()

    def _deny_name(self, question: Question, why: str, port: int) -> bool:
        """Report a look-up, with the line that permits connecting to who has the name, or only asking for a name that has
        other records than addresses; return whether it is asked about."""
        if led := self._led_from.get(port):
            from callfence.policygen.hosts import is_plain_name

            name = question.name
            if not why and not is_plain_name(name):
                why = f"{name} is no name that a line can have"
            other = ("", "") if why else (f"dns query {name}", "")
            is_address = not why and question.type in (A, AAAA)
            denying = [(file, rules) for file, rules in self._hosts.policies if rules.has_names]
            rows = [(file, *(rules.line_for(name) if is_address else other)) for file, rules in denying]
            return self._deny(led.request.without_answer(), Refusal(rows, why, "REFUSED"))
        return False


def _caller(request: Request) -> Identity | None:
    """Return who makes a call; None if that is the user of this process.  Raises OSError, GoneError."""
    caller = identity.of(request.call.task)
    check(request)
    return caller
