"""Make the program's calls that reach other hosts and unix sockets: each is judged by a copy of its address, and then made on a
copy of the socket with that copy, so that nothing which the program changes meanwhile counts.

A call that would wait is waited for here (`enforcer.hosts.hub`), while others are answered.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from enforcer.hosts.connecting import Connecting
from enforcer.hosts.granted import NAMES
from enforcer.hosts.making import GoneError, Making
from enforcer.hosts.receiving import Receiving
from enforcer.hosts.sending import Sending
from enforcer.hosts.targets import Targets

if TYPE_CHECKING:
    from collections.abc import Callable

    from enforcer.hosts.granted import Hosts
    from enforcer.hosts.hub import Hub
    from enforcer.hosts.targets import Refusal
    from enforcer.listener import Request, Waiting


class Mediator:
    """Makes the calls of `granted.NAMES` that the policies' filters allow (`Hosts.are_judged`)."""

    def __init__(
        self,
        hosts: Hosts,
        waiting: Waiting,
        deny: Callable[[Request, Refusal], None],
        complain: Callable[[str], None],
    ) -> None:
        """`waiting` gets the calls that are answered later.  `deny` reports a denied call or look-up.  `complain` writes a
        message about a failure."""
        self._complain = complain
        self._making = Making(waiting)
        targets = Targets(hosts, self._making.hub, deny)
        sending, receiving = Sending(self._making, targets), Receiving(self._making, targets)
        self._makers: dict[str, Callable[[Request], int | None]] = {
            "connect": Connecting(self._making, targets).connect,
            "sendto": sending.sendto,
            "sendmsg": sending.sendmsg,
            "sendmmsg": sending.sendmmsg,
            "recvfrom": receiving.recvfrom,
            "recvmsg": receiving.recvmsg,
            "getpeername": receiving.getpeername,
        }

    @property
    def hub(self) -> Hub:
        """What the calls wait for."""
        return self._making.hub

    def descriptors(self) -> tuple[int, ...]:
        """Return the open descriptors of this object."""
        return self._making.descriptors()

    def make(self, request: Request) -> Request:
        """Make a call, and answer it now or later; return the request that will have been answered."""
        former = self._making.former(request)
        request = request.kept()
        result = self._made(request) if former is None else former
        if result is not None:
            self._making.finish(request, result)
        return request

    def make_stopped(self, request: Request) -> int | None:
        """Make a call whose task is stopped; return its result or a negative errno, None if the task makes it itself."""
        request = self.make(request)
        while request.result is None and not request.runs:
            self.hub.run(waits=True)
        return request.result

    def _made(self, request: Request) -> int | None:
        name = NAMES[request.call.arch, request.call.number]
        try:
            return self._makers[name](request)
        except GoneError:
            return None
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ESRCH):  # this process may not look into the task
                return -errno.EACCES
            return -(error.errno or errno.EACCES)
        except Exception as error:
            self._complain(f"{name} could not be judged and fails: {type(error).__name__}: {error}")
            return -errno.EACCES
