"""Make the program's calls that reach other hosts and unix sockets: each is judged by a copy of its address, and then made on a
copy of the socket with that copy, so that nothing which the program changes meanwhile counts.

A call that would wait is waited for here (`enforcer.hub`), while others are answered.
"""

from __future__ import annotations

import errno

from callfence.enforcer.hosts.connecting import Connecting
from callfence.enforcer.hosts.granted import NAMES, Hosts
from callfence.enforcer.hosts.making import GoneError, Making
from callfence.enforcer.hosts.receiving import Receiving
from callfence.enforcer.hosts.sending import Sending
from callfence.enforcer.hosts.socketcall import SocketCall
from callfence.enforcer.hosts.targets import AskedError, Refusal, Targets
from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from callfence.enforcer.listener import Request
    from callfence.enforcer.pending import Pending, Rule


class Mediator:
    """Makes the calls of `granted.NAMES` that the policies' filters allow (`Hosts.are_judged`)."""

    def __init__(
        self,
        hosts: Hosts,
        pending: Pending,
        deny: Callable[[Request, Refusal], bool],
        complain: Callable[[str], None],
        *,
        asks: bool = False,
    ) -> None:
        """`pending` gets the calls that are answered later.  `deny` reports a denied call or look-up, or, with `asks`, may ask
        about it: then it returns True.  `complain` writes a message about a failure."""
        self._complain = complain
        self._reported: set[str] = set()
        """The calls whose makers the helper could not look into, which is reported once for each name."""
        self._making = Making(pending)
        self._targets = targets = Targets(hosts, self._making, deny, asks=asks)
        sending, receiving = Sending(self._making, targets), Receiving(self._making, targets)
        self._socketcall = SocketCall(self._making)
        self._makers: dict[str, Callable[[Request], int | None]] = {
            "connect": Connecting(self._making, targets).connect,
            "sendto": sending.sendto,
            "sendmsg": sending.sendmsg,
            "sendmmsg": sending.sendmmsg,
            "recvfrom": receiving.recvfrom,
            "recvmsg": receiving.recvmsg,
            "getpeername": receiving.getpeername,
        }

    def descriptors(self) -> tuple[int, ...]:
        """Return the open descriptors of this object."""
        return self._making.copier.descriptors()

    def make(self, request: Request) -> None:
        """Make a call, and answer it now or later; no other call overwrites that of `request` (`Request.kept`)."""
        former = self._making.former(request)
        result = self._made(request) if former is None else former
        if result is not None:
            self._making.finish(request, result)

    def make_again(self, request: Request, permitted: Rule = ()) -> None:
        """Make a call that waited for an answer, which permits it `permitted` once, and answer it now or later."""
        self._targets.permitted = permitted
        try:
            result = self._made(request)
        finally:
            self._targets.permitted = ()
        if result is not None:
            self._making.finish(request, result)

    def refuse(self, request: Request, number: int) -> None:
        """Make a call that waited for an answer fail with the errno `number`."""
        self._making.finish(request, -number)

    def unsaid(self) -> str:
        """Return what a log should say of calls that are not seen (`Targets.unsaid`)."""
        return self._targets.unsaid()

    def _made(self, request: Request) -> int | None:
        name = NAMES[request.call.arch, request.call.number]
        try:
            if name == "socketcall" and not (name := self._socketcall.name_of(request)):
                return self._socketcall.make(request)
            return self._makers[name](request)
        except (GoneError, AskedError):
            return None
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ESRCH):  # this process may not look into the task
                if name not in self._reported and request.is_waiting():
                    self._reported.add(name)
                    self._complain(f"{name} fails with EACCES: the helper may not look into the process that made it")
                return -errno.EACCES
            return -(error.errno or errno.EACCES)
        except Exception as error:
            self._complain(f"{name} could not be judged and fails: {type(error).__name__}: {error}")
            return -errno.EACCES
