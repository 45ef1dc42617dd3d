"""What the helper does to a task whose call waits, it does to no other task that has the number later."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
import time

import pytest

from callfence.enforcer.hosts import sending, sockets
from callfence.enforcer.hosts.making import Making, write
from callfence.enforcer.hosts.sockets import Socket
from callfence.enforcer.hub import Hub
from callfence.enforcer.listener import Notification, Request, StoppedRequest, Waiting
from callfence.enforcer.pending import Pending


def test_nothing_is_written_once_the_call_has_ended():
    """A program can hold up a write as long as it wants, by userfaultfd(2), and end its task meanwhile."""
    buffer, call = ctypes.create_string_buffer(b"before"), Notification(task=os.getpid())
    with open(os.devnull) as none, pytest.raises(ProcessLookupError):
        write(Request(call, none.fileno(), ""), ctypes.addressof(buffer), b"after")
    assert buffer.value == b"before"
    write(StoppedRequest(call, ""), ctypes.addressof(buffer), b"after\0")
    assert buffer.value == b"after"


def test_a_call_that_is_made_again_is_of_the_same_socket():
    """A program that does not make an interrupted call again may make its like, on another socket with that descriptor."""
    places = (ctypes.c_uint64 * 1)()
    making = Making(Pending(Waiting(ctypes.addressof(places), 1)))
    first, other = socket.socket(), socket.socket()
    call = Notification(task=os.getpid(), number=42, arguments=(first.fileno(), 4096, 16))
    with first, other, open(os.devnull) as none:
        request = Request(call, none.fileno(), "")  # which cannot be answered
        making.finish(request, -errno.EINPROGRESS)
        assert (making.former(request), making.former(request)) == (-errno.EINPROGRESS, None)
        making.finish(request, 0)
        os.dup2(other.fileno(), first.fileno())
        assert making.former(request) is None
        making.finish(request, 0)
        call.arguments[1] = 8192
        assert making.former(request) is None


def test_what_is_waited_for_no_longer_is_forgotten():
    """A call that may wait for a year (SO_RCVTIMEO), and is answered at once, was kept for a year."""
    hub, called = Hub(), []
    for _ in range(1000):
        hub.cancel(hub.after(1e15, called.clear))
    assert len(hub._moments) < 200
    hub.after(0, lambda: called.append(1))
    hub.cancel(hub.after(0, lambda: called.append(2)))
    hub.run()
    hub.cancel(1)
    assert called == [1]


def test_a_wait_may_be_longer_than_the_kernel_takes():
    """A program chooses it, and epoll_wait(2) takes 24 days at most; the helper ended."""
    hub = Hub()
    hub.after(1e9, lambda: None)
    assert 0 < hub.pause() <= 86400
    begin = time.monotonic()
    hub.after(0.01, lambda: None)
    hub.run(waits=True)
    assert time.monotonic() - begin < 60


LINGERS = """
import socket, struct, sys, time
from callfence.enforcer.hosts.sockets import Socket
with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
    peer = server.accept()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
    client.setblocking(False)
    try:
        while True:
            client.send(bytes(65536))
    except BlockingIOError:
        begin = time.monotonic()
        Socket(client.detach(), socket.AF_INET, socket.SOCK_STREAM, 6).close()
        print(time.monotonic() - begin)
"""


def test_the_last_copy_of_a_connection_is_closed_at_once():
    """The program has closed its own meanwhile, and the peer reads nothing."""
    done = subprocess.run([sys.executable, "-c", LINGERS], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 10


@pytest.mark.parametrize(("kind", "length", "sent"), [(1, 1 << 32, 0x7FFFF000), (1, 0, 0), (2, 1 << 20, 1 << 20), (5, 1, 1)])
def test_how_much_of_a_content_is_sent(kind: int, length: int, sent: int) -> None:
    assert sending._length(Socket(-1, socket.AF_UNIX, kind, 0), length) == sent


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_RAW])
def test_a_message_that_has_to_stay_whole_is_not_cut(kind: int) -> None:
    with pytest.raises(OSError, match="message") as raised:
        sending._length(Socket(-1, socket.AF_UNIX, kind, 0), (1 << 20) + 1)
    assert raised.value.errno == errno.EMSGSIZE


@pytest.mark.parametrize(
    ("domain", "kind", "at_once"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, True),
        (socket.AF_INET6, socket.SOCK_STREAM, True),
        (socket.AF_INET, socket.SOCK_DGRAM, False),
        (socket.AF_UNIX, socket.SOCK_STREAM, False),
        (socket.AF_UNIX, socket.SOCK_DGRAM, False),
    ],
)
def test_only_copies_of_connections_take_an_alarm_to_be_closed(
    monkeypatch: pytest.MonkeyPatch, domain: int, kind: int, at_once: bool
) -> None:
    closed: list[int] = []
    monkeypatch.setattr(sockets, "close_at_once", closed.append)
    monkeypatch.setattr(os, "close", lambda copy: closed.append(-copy))
    sockets.Socket(9, domain, kind, 0).close()
    assert closed == [9 if at_once else -9]
