"""The resolver in the helper: passes on the program's questions that the policies permit, and remembers the answers.

The program's sockets to a name server are led to this one instead.  It asks the same name server, and returns its answer as it
is.  So names are what the program was told, whatever rotates, a name server that does not answer does not answer, and where
nobody listens, the program's socket is told so.  A question is made anew before it is passed on, so that nothing but a
permitted name and the type of the records leaves.
"""

from __future__ import annotations

import errno
import os
import time
from _socket import AF_INET, AF_INET6, SO_ERROR, SOCK_DGRAM, SOCK_STREAM, SOL_SOCKET, socket
from functools import partial

from callfence.enforcer.hosts.addresses import shown
from callfence.enforcer.hosts.names import dns
from callfence.enforcer.hosts.names.known import PORT, Names
from callfence.enforcer.hub import READABLE, WRITABLE, Hub
from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


_WAIT = 30.0
"""Seconds after which a question without an answer is given up: resolvers ask again after 5 (resolv.conf(5))."""
_SIZE = 1232
"""The longest answer by UDP that is asked for (dnsflagday.net/2020)."""
_MAX_OPEN = 512
"""The most questions by UDP that wait for an answer, and connections by TCP, at once."""
_MAX_WRONG = 16
"""The most wrong answers that a question gets before it is given up: to read each may take 0.04 s."""
_MAX_MESSAGE = 65535
_LOOPBACK = {AF_INET: "127.0.0.1", AF_INET6: "::1"}
_TYPES = frozenset((1, 2, 5, 6, 12, 15, 16, 28, 33, 35, 43, 48, 52, 64, 65, 257))
"""The types of records that may be asked for: A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, NAPTR, DS, DNSKEY, TLSA, SVCB, HTTPS,
CAA.  The type is the program's to choose, so any type would be another way to tell something."""
NEW, REFILL, MAX_NEW = 200, 1.0, 63
"""Of names that only `*.NAME` permits: how many different ones may be asked for at once, how many more in a second, and how
many characters they may have before the part that the policy has."""
_MAX_KNOWN = 65536
"""The most of these names that are remembered; those that were first asked for longest ago are forgotten first."""


class Budget:
    """How many new names below a wildcard may still be asked for."""

    def __init__(self) -> None:
        self._left, self._at = float(NEW), time.monotonic()
        self._known: dict[str, None] = {}

    def permits(self, name: str) -> bool:
        """Return whether a name may be asked for now; the same name may always be asked for again."""
        if name in self._known:
            return True
        now = time.monotonic()
        self._left, self._at = min(float(NEW), self._left + REFILL * (now - self._at)), now
        if self._left < 1:
            return False
        self._left -= 1
        self._known[name] = None
        if len(self._known) > _MAX_KNOWN:
            del self._known[next(iter(self._known))]
        return True


UNANSWERED = -1


class Judge:
    """Decides which questions may be passed on."""

    def __init__(self, names: Names, deny: Callable[[dns.Question, str, int], bool], *, is_audit: bool) -> None:
        """`deny(question, why, port)` reports a look-up that is refused, or asks about it: then it returns True.  `why` is ""
        for a name that no line has, `port` the asker's.  `is_audit`: refuse nothing."""
        self._names = names
        self._deny = deny
        self._budget = Budget()
        self._is_audit = is_audit

    def refusal(self, question: dns.Question, port: int) -> int:
        """Return the response code with which a question from a local port is refused, after a report; NOERROR if it may be
        passed on, UNANSWERED if it gets no answer yet, since somebody is asked: resolvers send it again."""
        name = question.name
        code, why = dns.NOERROR, ""
        if question.type == dns.PTR and self._names.is_reverse_wanted(name):
            return code
        spare = self._names.spare(name)
        if spare is None:
            code = dns.NXDOMAIN if name.endswith(".arpa") else dns.REFUSED
        elif question.type not in _TYPES:
            code, why = dns.REFUSED, f"records of type {question.type} are not asked for"
        elif spare > MAX_NEW:
            code, why = dns.REFUSED, "a name below a wildcard may not be that long"
        elif spare and not self._budget.permits(name):
            code, why = dns.REFUSED, "too many different names below a wildcard were looked up"
        if code and self._deny(question, why, port):
            return UNANSWERED
        return dns.NOERROR if self._is_audit else code


class Resolver:
    """Answers for one name server: by UDP and TCP, on a port of each loopback address that this host has."""

    def __init__(
        self, server: bytes, scope: int, hub: Hub, names: Names, judge: Judge, unheard: Callable[[int], None]
    ) -> None:
        """`server`: the name server's address, 4 or 16 bytes.  `scope`: the index of the interface by which it is reached, or
        0.  `unheard(port)` is called when the kernel says that the question from this port did not arrive.  Raises OSError if
        no port can be bound."""
        self._server = (shown(server), PORT) if len(server) == 4 else (shown(server), PORT, 0, scope)
        self._family = AF_INET if len(server) == 4 else AF_INET6
        self.hub = hub
        self._names = names
        self._judge = judge
        self._unheard = unheard
        self._open = 0
        """How many questions by UDP wait for an answer, and how many connections by TCP there are."""
        self.ports: dict[tuple[int, int], int] = {}
        """By AF_* and SOCK_*: the port to which sockets are led."""
        for family, host in _LOOPBACK.items():
            try:
                self._serve(family, host)
            except OSError:
                if family == AF_INET:
                    raise

    def _serve(self, family: int, host: str) -> None:
        datagrams, stream = socket(family, SOCK_DGRAM), socket(family, SOCK_STREAM)
        for served in (datagrams, stream):
            served.setblocking(False)
            served.bind((host, 0))
        stream.listen(128)
        self.hub.watch(datagrams.fileno(), READABLE, lambda: self._asked(datagrams))
        self.hub.watch(stream.fileno(), READABLE, lambda: self._accept(stream))
        for kind, served in ((SOCK_DGRAM, datagrams), (SOCK_STREAM, stream)):  # last: a port without a socket is anybody's
            self.ports[family, kind] = served.getsockname()[1]

    def reach(self) -> None:
        """Raise OSError if there is no way to the name server, as for an address of another network than this host's: programs
        then ask the next one at once."""
        probe = socket(self._family, SOCK_DGRAM)
        try:
            probe.connect(self._server)
        finally:
            probe.close()

    # Questions by UDP

    def _asked(self, served: socket) -> None:
        for _ in range(64):
            try:
                query, client = served.recvfrom(_MAX_MESSAGE)
            except OSError:  # there are no more
                return
            self._pass_on(query, client[1], partial(_send, served, query, client))

    def _pass_on(self, query: bytes, port: int, answer: Callable[[bytes], None]) -> None:
        """Ask the name server by UDP; call `answer` with its answer, unless none comes."""
        if (reduced := self.permitted(query, port, answer)) is None or self._open >= _MAX_OPEN:
            return
        try:
            upstream = self.upstream(SOCK_DGRAM)
        except OSError:
            answer(dns.refusal(query, dns.SERVFAIL))
            return
        self._open += 1
        waiting, wrong = [True], 0

        def end() -> None:
            if waiting.pop() if waiting else False:
                self._open -= 1
                self.hub.cancel(moment)
                self.hub.forget(upstream.fileno())
                upstream.close()

        moment = self.hub.after(_WAIT, end)

        def received() -> None:
            nonlocal wrong
            try:
                whole = upstream.recv(_MAX_MESSAGE)
                if whole[:2] != reduced[:2]:
                    return
                restored = self.learned(whole, query)
            except BlockingIOError:
                return
            except dns.DnsError:  # another's, or malformed: the right one may still come
                wrong += 1
                if wrong >= _MAX_WRONG:
                    end()
                return
            except OSError:  # an ICMP error, such as that nobody listens
                end()
                self._unheard(port)
                return
            end()
            answer(restored)

        try:
            self.hub.watch(upstream.fileno(), READABLE, received)
            upstream.send(reduced)
        except OSError:
            end()
            answer(dns.refusal(query, dns.SERVFAIL))

    def permitted(self, query: bytes, port: int, answer: Callable[[bytes], None]) -> bytes | None:
        """Return the question made anew; None after answering one that is not permitted, and for one that cannot be read."""
        try:
            question = dns.question_of(query)
            if code := self._judge.refusal(question, port):
                if code != UNANSWERED:
                    answer(dns.refusal(query, code))
                return None
            return dns.reduced(query, int.from_bytes(os.urandom(2), "big"), _SIZE)
        except dns.DnsError:
            return None

    def learned(self, answer: bytes, query: bytes) -> bytes:
        """Remember the addresses of an answer, and return it as the answer to the original question.  Raises DnsError."""
        restored = dns.restored(answer, query)
        self._names.learn(dns.question_of(query).name, dns.answer_of(restored))
        return restored

    # Questions by TCP

    def _accept(self, served: socket) -> None:
        try:
            descriptor, _ = served._accept()  # type: ignore[attr-defined]
        except OSError:
            return
        client = socket(fileno=descriptor)
        client.setblocking(False)
        try:
            if self._open >= _MAX_OPEN:
                raise OSError(errno.EMFILE, "accept")
            _Conversation(client, self, self._ended)
            self._open += 1
        except OSError:
            client.close()

    def _ended(self) -> None:
        self._open -= 1

    def upstream(self, kind: int) -> socket:
        """Return a socket that is connected to the name server, or begins to be, by UDP or TCP.  Raises OSError."""
        upstream = socket(self._family, kind)
        upstream.setblocking(False)
        try:
            upstream.connect(self._server)
        except BlockingIOError:
            pass
        except OSError:
            upstream.close()
            raise
        return upstream


class _Conversation:
    """A connection of the program to the resolver: one question after the other, each over a connection of its own."""

    def __init__(self, client: socket, resolver: Resolver, ended: Callable[[], None]) -> None:
        """`ended` is called when the connection has ended.  Raises OSError if the client has gone."""
        self._client = client
        self._ended = ended
        self._port = client.getpeername()[1]
        self._resolver = resolver
        self._hub = resolver.hub
        self._received = b""
        self._upstream: socket | None = None
        self._is_due = False
        """Whether the next question has its turn already."""
        self._is_open = True
        self._hub.watch(client.fileno(), READABLE, self._read)
        self._moment = self._hub.after(_WAIT, self._end)

    def _end(self) -> None:
        if self._is_open:
            self._is_open = False
            self._hub.cancel(self._moment)
            for connection in filter(None, (self._client, self._upstream)):
                self._hub.forget(connection.fileno())
                connection.close()
            self._ended()

    def _read(self) -> None:
        try:
            part = self._client.recv(_MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        self._received += part
        if not part or len(self._received) > 2 * _MAX_MESSAGE:
            self._end()
        elif self._upstream is None and not self._is_due:
            self._next()

    def _next(self) -> None:
        """Pass on the next question that has been received completely.  If it is not passed on, the one after it has its turn
        in the hub's next run: a connection can have thousands, and other calls wait meanwhile."""
        self._is_due = False
        length = int.from_bytes(self._received[:2], "big")
        if not self._is_open or len(self._received) < 2 + length:  # an answer may have ended it
            return
        query, self._received = self._received[2 : 2 + length], self._received[2 + length :]
        reduced = self._resolver.permitted(query, self._port, self._answer)
        if reduced is not None:
            ask = len(reduced).to_bytes(2, "big") + reduced
            try:
                upstream = self._upstream = self._resolver.upstream(SOCK_STREAM)
                self._hub.watch(upstream.fileno(), WRITABLE, partial(self._connected, query, ask))
                return
            except OSError:
                self._upstream = None
                self._answer(dns.refusal(query, dns.SERVFAIL))
        self._is_due = True
        self._hub.after(0, self._next)

    def _connected(self, query: bytes, ask: bytes) -> None:
        upstream, content = self._upstream, b""
        if upstream is None:
            return

        def read() -> None:
            nonlocal content
            try:
                part = upstream.recv(_MAX_MESSAGE)
                content += part
                end = 2 + int.from_bytes(content[:2], "big")  # a hostile server sends more
                whole = len(content) >= end
                if part and not whole:
                    return
                self._answered(self._resolver.learned(content[2:end], query) if whole else None)
            except BlockingIOError:
                return
            except (OSError, dns.DnsError):
                self._answered(None)

        try:
            if error := upstream.getsockopt(SOL_SOCKET, SO_ERROR):
                raise OSError(error, os.strerror(error))
            upstream.send(ask)
        except OSError:
            self._answered(None)
            return
        self._hub.watch(upstream.fileno(), READABLE, read)

    def _answered(self, answer: bytes | None) -> None:
        if self._upstream:
            self._hub.forget(self._upstream.fileno())
            self._upstream.close()
            self._upstream = None
        if answer is None:
            self._end()
        else:
            self._answer(answer)
            self._next()

    def _answer(self, answer: bytes) -> None:
        try:
            self._client.send(len(answer).to_bytes(2, "big") + answer)  # the socket's buffer takes the longest
        except OSError:
            self._end()


def _send(served: socket, query: bytes, client: tuple[str, int], answer: bytes) -> None:
    """Send an answer by UDP, without its records if it is longer than the program takes."""
    try:
        if len(answer) > dns.payload_size(query):
            answer = dns.truncated(answer)
        served.sendto(answer, client)
    except OSError:
        return
