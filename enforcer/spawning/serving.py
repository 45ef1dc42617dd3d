"""What the spawner's process for one connection does: it reads the request, and becomes the helper of the client, which
becomes the program."""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress

from callfence.enforcer import bpf, execution, helper, launch
from callfence.enforcer.arming import confining
from callfence.enforcer.confinement import scope_ruleset
from callfence.enforcer.duty import Duty
from callfence.enforcer.errors import FAILED, EnforceError, GoneError
from callfence.enforcer.reporting.destination import TEXT, Destination
from callfence.enforcer.reporting.settings import Reporting
from callfence.enforcer.spawning import protocol
from callfence.enforcer.spawning.peer import Peer, Rights
from callfence.policygen.text import printable
from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.errors import CallfenceError

if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable
    from typing import NoReturn

    from callfence.enforcer.importer import Importer
    from callfence.enforcer.launch import Launch
    from callfence.enforcer.spawning.protocol import Request

    Prepare = Callable[[Request, int, int], tuple[Launch, int, Callable[[CallfenceError], None]]]
    """Decides how a program is run, from a request, the descriptor of its standard error (-1: closed) and the client's pid;
    returns that, the index of the program among the words, and what logs a later reason not to run it.  Raises CallfenceError
    if it is not to be run."""

_SECONDS = 10
"""Seconds in which a client must have sent its request, and read the answer."""
_SCM_RIGHTS, _SO_RCVTIMEO, _SO_SNDTIMEO = 1, 20, 21  # linux/socket.h, asm-generic/socket.h
_TIMEOUT = _SECONDS.to_bytes(8, "little") + bytes(8)  # struct timeval
_CHUNK = 1 << 16
_MAX_TEXT = 1 << 16
"""The most bytes of text in an answer, which must fit into the socket's buffer: the client is stopped meanwhile."""
_ROOM = 4096
"""Bytes for the descriptors and the credentials of a message: more than SCM_MAX_FD of them take (net/scm.h)."""
_CMSG_CLOEXEC, _NOSIGNAL, _CTRUNC = 0x40000000, 0x4000, 0x8  # linux/socket.h: MSG_*


class Spawner:
    """What all commands have in common."""

    __slots__ = ("importer", "null", "prepare", "rehearse", "rights")

    def __init__(self, prepare: Prepare, rehearse: Callable[[], None], rights: Rights, importer: Importer) -> None:
        self.prepare = prepare
        self.rehearse = rehearse
        """Does some of the same for no program."""
        self.rights = rights
        """Those of this process."""
        self.importer = importer
        """The importer for helpers."""
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def begin(self) -> Callable[[_socket.socket], NoReturn]:
        """Prepare this process, which has just been cloned, to serve a connection; return the function that does."""
        helper.detach()
        for number in range(3):
            os.dup2(self.null, number)
        self._rehearse()
        return self._take

    def _rehearse(self) -> None:
        """Do some of the work for nothing, so that this process has its own copy of the memory that it takes before a client
        waits: copying a page takes 3 us, and a start writes to hundreds."""
        Rights("/proc/self")
        with suppress(CallfenceError, OSError):
            self.rehearse()
            self._rehearse_work()

    def _rehearse_work(self) -> None:
        reporting = Reporting(Destination(2, TEXT), list, audit=False)
        started = launch.Launch([b"true"], [b"PATH=/bin"], [bpf.ALL_RUN], "exec", reporting)
        filter_ = launch.combined(started)
        execution.locate(started.argv[0], started.environment)
        own, importer = os.getpid(), self.importer
        confining.Work(own, filter_, reporting, arm="exec", stderr=2, plan=None, is_nested=False, importer=importer)
        Duty(reporting, importer=importer)

    def _take(self, connection: _socket.socket) -> NoReturn:
        helper.close_all_but((0, 1, 2, connection.fileno()))
        peer = None
        try:
            peer = Peer(connection)
            request, descriptors = _received(connection, peer)
            work, answer, rulesets = self._prepared(peer, request, descriptors)
        except GoneError:
            os._exit(0)
        except CallfenceError as error:
            status = error.status if isinstance(error, EnforceError) else FAILED
            _refuse(connection, peer, status, str(error))
        except OSError as error:
            _refuse(connection, peer, FAILED, f"the spawner: {error.filename or error}: {error.strerror}")
        except MemoryError:
            _refuse(connection, peer, FAILED, "the spawner has not enough memory")
        # The kernel kills the client if this process ends before the program is confined, by whatever error.
        try:
            _send(connection, answer, rulesets)
            linux.ptrace(linux.PTRACE_CONT, peer.pid)
        except (OSError, GoneError):
            os._exit(0)
        connection.detach()
        helper.go_to_proc()
        helper.close_all_but((0, 1, 2, peer.pidfd, *work.descriptors()))
        confining.follow(work, peer.pidfd if work.reporting else -1)

    def _prepared(self, peer: Peer, request: Request, descriptors: list[int]) -> tuple[confining.Work, bytes, list[int]]:
        """Trace the client, which is stopped then, and prepare this process to confine it.  Return the helper's work, the
        answer to the client, and the descriptors that go with it."""
        peer.stop()
        peer.require_rights(self.rights)
        stderr = _take_over(peer, request, descriptors)
        started, first, refuse = self.prepare(request, stderr, peer.pid)
        try:
            work = self._work(started, peer.pid)
            rulesets = started.files.rulesets() if started.files else []
            if started.scope:
                rulesets.insert(0, (scope_ruleset(started.scope, is_nested=started.is_nested), 0, b""))
            paths = b"".join(path + b"\0" for path in execution.candidates(started.argv[0], started.environment))
            if len(paths) > _MAX_TEXT:
                raise EnforceError("PATH is too long")
        except CallfenceError as error:
            refuse(error)
            raise
        answer = protocol.answer(0, paths, [(flags, name) for _, flags, name in rulesets], first)
        if work.reporting:
            helper.probe_listener(peer.pidfd)
        peer.hold()
        return work, answer, [ruleset for ruleset, _, _ in rulesets]

    def _work(self, started: Launch, program: int) -> confining.Work:
        filter_ = launch.combined(started)
        launch.require_readable(execution.locate(started.argv[0], started.environment))
        return confining.Work(
            program,
            filter_,
            started.reporting,
            arm=started.arm,
            stderr=started.stderr,
            plan=started.plan,
            is_nested=started.is_nested,
            importer=self.importer,
        )


def _received(connection: _socket.socket, peer: Peer) -> tuple[Request, list[int]]:
    """Return the request, and the descriptors that came with it.  Raises EnforceError for another message, or for one of
    another process; GoneError if the client ends the connection."""
    end = time.monotonic() + _SECONDS
    connection.setsockopt(linux.SOL_SOCKET, _SO_RCVTIMEO, _TIMEOUT)
    descriptors: list[int] = []
    content, head, size = bytearray(), b"", protocol.REQUEST_HEAD
    while len(content) < size:
        try:
            chunk, parts, flags, _ = connection.recvmsg(_CHUNK, _ROOM, _CMSG_CLOEXEC)
        except BlockingIOError:
            chunk, parts, flags = b"", [], 0
            end = 0
        for level, kind, data in parts:
            if (level, kind) == (linux.SOL_SOCKET, _SCM_RIGHTS):
                descriptors += protocol.descriptors(data)
        if time.monotonic() > end:
            raise EnforceError(f"the client has not sent its request within {_SECONDS} s")
        if not chunk:
            raise GoneError
        if not peer.has_sent(parts):
            raise EnforceError("the request comes from another process than the one that has connected")
        if flags & _CTRUNC or len(descriptors) > protocol.DESCRIPTORS:
            raise EnforceError("the request has too many descriptors")
        content += chunk
        if not head and len(content) >= size:
            head = bytes(content[:size])
            size += protocol.request_size(head)
    if len(content) > size:
        raise EnforceError("the request is longer than its head says")
    request = protocol.request(head, bytes(content[len(head) :]))
    if not descriptors or not stat.S_ISDIR(os.fstat(descriptors[0]).st_mode):
        raise EnforceError("the request lacks the descriptor of the client's working folder")
    return request, descriptors


def _take_over(peer: Peer, request: Request, descriptors: list[int]) -> int:
    """Take the client's working folder, standard error, umask and environment for this process's, and return the descriptor of
    standard error, -1 if it is closed."""
    os.fchdir(descriptors[0])
    if len(descriptors) > 1:
        os.dup2(descriptors[1], 2)
    for descriptor in descriptors:
        os.close(descriptor)
    os.umask(peer.umask)
    linux.functions.clearenv()
    variables = os.environ._data  # type: ignore[attr-defined]  # setting each one in libc as well takes 0.5 ms
    variables.clear()
    for variable in reversed(request.environment):  # of two with one name, the first counts
        name, _, value = variable.partition(b"=")
        variables[name] = value
    return 2 if len(descriptors) > 1 else -1


def _send(connection: _socket.socket, answer: bytes, descriptors: list[int]) -> None:
    """Send an answer, with descriptors.  Raises OSError; GoneError if nobody reads it."""
    connection.setsockopt(linux.SOL_SOCKET, _SO_SNDTIMEO, _TIMEOUT)
    rights = [(linux.SOL_SOCKET, _SCM_RIGHTS, protocol.packed(descriptors))] if descriptors else []
    try:
        sent = connection.sendmsg([answer], rights, _NOSIGNAL)
        while sent < len(answer):
            sent += connection.send(answer[sent:], _NOSIGNAL)
    except (BrokenPipeError, ConnectionResetError, BlockingIOError) as error:
        raise GoneError from error


def _refuse(connection: _socket.socket, peer: Peer | None, status: int, text: str) -> NoReturn:
    """Send the reason why the program is not run, let the client go on, and end this process."""
    if peer:
        peer.release()
    lines = "\n".join(printable(line) for line in text.split("\n"))
    with suppress(OSError, GoneError):
        _send(connection, protocol.answer(status, os.fsencode(lines)[:_MAX_TEXT]), [])
    os._exit(0)
