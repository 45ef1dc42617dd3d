"""Records of sockets and of standard input, which cannot be read again: they go to a spool file first, a log like others."""

from __future__ import annotations

import os
import re
import selectors
import socket
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from callfence.policygen.recording.log_records import MAX_LINE
from callfence.shared.inputs import print_error
from callfence.shared.text import plural
from callfence.tracer.errors import UserError

_CHUNK: Final = 1 << 18
_SEGMENT: Final = 8 << 20
"""The bytes of the spool file at which it is moved; with the moved one there can be twice as many."""
_PAUSE: Final = 0.05
_LAST: Final = 1000
"""How often sockets are read at the end, of which a client may write on for ever."""
_INPUT: Final = 0
_KINDS: Final = {"unix": socket.SOCK_STREAM, "unix-datagram": socket.SOCK_DGRAM, "unix-seqpacket": socket.SOCK_SEQPACKET}
NOTE: Final = b"\0"
"""How a line of the spool begins that is a note of the shipper's: no JSON has a NUL, and a received line loses it."""
DROPPED: Final = "dropped"
BEGUN: Final = "begun"
"""Notes: `dropped NUMBER REASON`; the shipper has begun, so connections to an earlier one have ended."""


def is_note(line: bytes) -> bool:
    """Return whether a line of the spool is a note; what begins with a NUL may also be what a crash has left on the disk."""
    return re.fullmatch(rb"\0(begun|dropped \d{1,18} [^\0]+)", line) is not None


class Spool:
    """A file to which lines are appended: of two segments, so that it cannot grow without end."""

    def __init__(self, path: Path, is_read: Callable[[tuple[int, int]], bool], segment: int = _SEGMENT) -> None:
        """`is_read`: whether all readers have read the file of this device and inode, and saved that."""
        self._path = path
        self._moved = path.with_name(f"{path.name}.1")
        self._is_read = is_read
        self._segment = segment
        self._descriptor = -1
        self._size = 0
        self._dropped = 0
        self._reason = ""
        self._open()

    def append(self, data: bytes) -> None:
        """Append whole lines; drop and count those for which there is no room."""
        rest = data
        if not self.has_room():
            self._reason = "the spool is full"
        elif self.flush():
            rest = self._rest(data)
        if not rest:
            return
        if not self._dropped:
            print_error(f"callfence ship: {self._path}: {self._reason}: records that arrive are dropped and counted")
        self._dropped += rest.count(b"\n")

    def has_room(self) -> bool:
        """Move the file if it is long and the one that was moved before has been read; return whether it may get longer."""
        if self._size < self._segment:
            return True
        with suppress(FileNotFoundError):
            status = os.stat(self._moved)
            if not self._is_read((status.st_dev, status.st_ino)):
                return False
        previous = self._descriptor
        try:
            os.rename(self._path, self._moved)
            try:
                self._open()
            except OSError:
                os.rename(self._moved, self._path)
                raise
        except OSError:
            return False
        os.close(previous)
        return True

    def flush(self) -> bool:
        """Write how many lines were dropped, if any were and there is room again; return whether that is written."""
        if self._dropped and self.has_room() and self.note(f"{DROPPED} {self._dropped} {self._reason}"):
            print_error(f"callfence ship: {plural(self._dropped, 'record')} dropped: {self._reason}")
            self._dropped = 0
        return not self._dropped

    def note(self, text: str) -> bool:
        """Append a note; return whether that succeeded."""
        return not self._rest(NOTE + text.encode() + b"\n")

    def close(self) -> None:
        """Write how many lines were dropped, also if the spool is full; print it if that fails."""
        if self._dropped and not self.note(f"{DROPPED} {self._dropped} {self._reason}"):
            print_error(f"callfence ship: {plural(self._dropped, 'record')} dropped, which no counter has: {self._reason}")
        os.close(self._descriptor)

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._descriptor).st_size
        if self._size and os.pread(self._descriptor, 1, self._size - 1) != b"\n":  # a shipper was killed while it wrote
            self._rest(b"\n")

    def _rest(self, data: bytes) -> bytes:
        """Append lines; return those that could not be written, and note why.  No part of a line remains."""
        count = 0
        try:
            count = os.write(self._descriptor, data)
            self._reason = "no space left on device" if count < len(data) else self._reason
        except OSError as error:
            self._reason = str(error.strerror).lower()
        kept = data.rfind(b"\n", 0, count) + 1
        if kept < count:
            os.ftruncate(self._descriptor, self._size + kept)  # readers take whole lines only
        self._size += kept
        return data[kept:]


class Receiver:
    """Sockets that listen, their connections, and standard input, whose lines go to a spool."""

    def __init__(self, spool: Spool, addresses: list[str], *, reads_input: bool) -> None:
        """`addresses`: as `--listen` has them.  Raises UserError or OSError if one cannot be listened at."""
        self._spool = spool
        self._selector = selectors.PollSelector()  # epoll has no regular files, which standard input may be
        self._parts: dict[int, bytes] = {}
        """The beginning of a line that each stream has not completed."""
        self._paths: list[str] = []
        """What was bound, to be removed."""
        self._listens = bool(addresses)
        self._is_waiting = True
        """Whether standard input is not in the selector."""
        self._reads_input = reads_input
        for address in addresses:
            listener = self._bound(address)
            is_message = listener.type == socket.SOCK_DGRAM
            self._selector.register(listener, selectors.EVENT_READ, self._receive if is_message else self._accept)
        if any(not address.startswith("fd:") for address in addresses):
            spool.note(BEGUN)

    @property
    def has_ended(self) -> bool:
        """Whether nothing can arrive any more."""
        return not self._listens and not self._reads_input

    def watch(self, descriptor: int) -> None:
        """Let `step` return when this descriptor can be read."""
        self._selector.register(descriptor, selectors.EVENT_READ, lambda _: os.read(descriptor, _CHUNK))

    def step(self, timeout: float) -> bool:
        """Receive what has arrived; wait for it up to `timeout` seconds.  Return whether anything had."""
        self._spool.flush()
        if self._reads_input and self._is_waiting and self._spool.has_room():
            self._selector.register(_INPUT, selectors.EVENT_READ, self._read_input)
            self._is_waiting = False
        ready = self._selector.select(min(timeout, _PAUSE) if self._reads_input and self._is_waiting else timeout)
        for key, _ in ready:
            key.data(key.fileobj)
        return bool(ready)

    def close(self) -> None:
        """Receive what has arrived, and close all sockets."""
        for _ in range(_LAST):
            if not self.step(0):
                break
        for key in [*self._selector.get_map().values()]:
            if isinstance(key.fileobj, socket.socket):
                self._end(key.fileobj)
        for path in self._paths:
            with suppress(OSError):
                os.unlink(path)
        self._spool.close()

    def _bound(self, address: str) -> socket.socket:
        kind, _, name = address.partition(":")
        if kind == "fd" and name.isdecimal():  # socket activation, sd_listen_fds(3)
            if not _is_socket(int(name)):
                raise UserError(f"--listen {address}: descriptor {name} is not an open socket")
            listener = socket.socket(fileno=int(name))
        elif kind in _KINDS and name:
            listener = socket.socket(socket.AF_UNIX, _KINDS[kind])
            if not name.startswith("@"):
                _remove_dead(name, listener.type)
                self._paths.append(name)
            try:
                listener.bind(f"\0{name[1:]}" if name.startswith("@") else name)
            except OSError as error:
                raise UserError(f"--listen {address}: {error.strerror or error}") from error
            if listener.type != socket.SOCK_DGRAM:
                listener.listen(128)
        else:
            raise UserError(f"--listen {address}: write unix:PATH, unix-datagram:PATH, unix-seqpacket:PATH or fd:NUMBER")
        listener.setblocking(False)
        return listener

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:  # with too many open files the connection waits
            time.sleep(_PAUSE)
            return
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ, self._receive)

    def _receive(self, connection: socket.socket) -> None:
        is_stream = connection.type == socket.SOCK_STREAM
        try:
            data = connection.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._take(connection.fileno(), data if is_stream else data.removesuffix(b"\n") + b"\n")
        elif connection.type != socket.SOCK_DGRAM:
            self._end(connection)

    def _read_input(self, _: object) -> None:
        data = b"" if (is_full := not self._spool.has_room()) else os.read(_INPUT, _CHUNK)
        if data:
            self._take(_INPUT, data)
            return
        self._selector.unregister(_INPUT)
        self._is_waiting = is_full  # its writer waits, too
        if not is_full:
            self._take(_INPUT, b"\n" if self._parts.get(_INPUT) else b"")
            self._reads_input = False

    def _end(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        if self._parts.pop(connection.fileno(), b""):
            print_error("callfence ship: a connection ended within a line, which is dropped")
        connection.close()

    def _take(self, descriptor: int, data: bytes) -> None:
        """Append the lines that are complete, or longer than any record, to the spool."""
        data = (self._parts.pop(descriptor, b"") + data).replace(NOTE, b"")
        end = data.rfind(b"\n") + 1
        if rest := data[end:]:
            if len(rest) > MAX_LINE:
                data, end, rest = data + b"\n", len(data) + 1, b""
            self._parts[descriptor] = rest
        if end:
            self._spool.append(data[:end])


def _is_socket(descriptor: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except (OSError, OverflowError):
        return False


def _remove_dead(path: str, kind: int) -> None:
    """Remove the socket of a process that has ended."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, kind) as client:
        try:
            client.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
