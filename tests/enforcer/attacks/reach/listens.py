"""listen(2) on what it is not made for, where `tcp bind` has ports: `listens.py`.  It prints what each came to."""

from __future__ import annotations

import ctypes
import errno
import os
import socket

LIBC = ctypes.CDLL(None, use_errno=True)


def listened(descriptor: int, backlog: int = 3) -> str:
    done = LIBC.listen(descriptor, backlog) == 0
    return "done" if done else errno.errorcode[ctypes.get_errno()]


def made(family: int, kind: int, protocol: int = 0) -> int:
    """A socket's descriptor; -1 if this kernel has none such."""
    try:
        return socket.socket(family, kind, protocol).detach()
    except OSError:
        return -1


def received() -> int:
    """A TCP socket without a port, which came by SCM_RIGHTS."""
    here, there = socket.socketpair()
    socket.send_fds(here, [b"x"], [made(socket.AF_INET, socket.SOCK_STREAM)])
    return socket.recv_fds(there, 1, 1)[1][0]


def bound(family: int) -> int:
    unbound = made(family, socket.SOCK_STREAM)
    one = socket.socket(fileno=unbound)
    one.bind(f"\0listens{os.getpid()}")
    return one.detach()


if __name__ == "__main__":
    tcp = made(socket.AF_INET, socket.SOCK_STREAM)
    tries = {
        "tcp": tcp,
        "tcp6": made(socket.AF_INET6, socket.SOCK_STREAM),
        "received": received(),
        "upper half": tcp | 7 << 32,
        "mptcp": made(socket.AF_INET, socket.SOCK_STREAM, 262),
        "pipe": os.pipe()[0],
        "file": os.open("/dev/null", os.O_RDONLY),
        "path": os.open("/dev/null", os.O_PATH),
        "closed": 999,
        "negative": -1,
        "udp": made(socket.AF_INET, socket.SOCK_DGRAM),
        "unix": made(socket.AF_UNIX, socket.SOCK_STREAM),
        "netlink": made(16, socket.SOCK_RAW),
    }
    for name, descriptor in tries.items():
        print(name, listened(descriptor))
    for backlog in (-1, 0, 1 << 31, 7 << 32):
        print("backlog", listened(tcp, backlog))
    unix = bound(socket.AF_UNIX)
    print("twice", listened(unix), listened(unix, 9))
    vsock = made(40, socket.SOCK_STREAM)
    if vsock >= 0:
        listened(vsock)  # whatever the kernel says: it is no TCP
    dead = []
    for _ in range(100):
        child = os.fork()
        if child == 0:
            while True:
                LIBC.listen(unix, 3)
                LIBC.listen(tcp, 3)
        dead.append(child)
        LIBC.listen(unix, 3)
        os.kill(child, 9)
    for child in dead:
        os.waitpid(child, 0)
    print("then", listened(unix), listened(tcp))
    for name in ("tcp", "tcp6", "received"):
        assert not socket.socket(fileno=tries[name]).getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), name
