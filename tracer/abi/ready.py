"""Whether a call tells a service manager that the program is ready, as sd_notify(3) does: what it sends has the line READY=1.

Where it is sent to is not looked at: a program that sends the line elsewhere enters a phase too early, and has less.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MOST = 4096
"""Bytes of a message that are read, at most; longer ones of write and sendto are none of this kind."""
_PAGE = 4096
_VECTORS = 16


def is_ready(arguments: Sequence[int], read: Callable[[int, int], bytes], *, pointer: int, is_sendmsg: bool) -> bool:
    """Whether write, sendto or sendmsg says so.  `pointer` is the size of a pointer in bytes; `read` returns bytes of the task
    within one page, fewer where they cannot be read."""

    def whole(address: int, size: int) -> bytes:
        first = min(size, _PAGE - address % _PAGE)
        found = read(address, first)
        return found + read(address + first, size - first) if len(found) == first < size else found

    def words(address: int, count: int) -> list[int]:
        found = whole(address, pointer * count)
        return [int.from_bytes(found[at : at + pointer], "little") for at in range(0, len(found), pointer)]

    spans = [(arguments[1], arguments[2])]
    if is_sendmsg:  # struct msghdr {name, namelen, iov, iovlen, ...}, struct iovec {base, len}
        vectors = words(arguments[1] + 2 * pointer, 2)
        found = words(vectors[0], 2 * min(vectors[1], _VECTORS)) if len(vectors) == 2 else []
        spans = list(zip(found[::2], found[1::2], strict=False))
    if sum(size for _, size in spans) > MOST:
        return False
    return b"READY=1" in b"".join(whole(address, size) for address, size in spans).split(b"\n")
