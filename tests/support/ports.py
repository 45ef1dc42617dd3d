"""Ports of this machine that no other test gets."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def reserved_port() -> Iterator[int]:
    """A TCP port at 127.0.0.1 at which nobody listens yet.

    A socket stays bound to it, so that the kernel chooses it for nobody else.  A server that sets SO_REUSEADDR, as most do, can
    listen there."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
