"""Read and write the memory of a task that waits in a call: addresses, and the messages of sendmsg(2) and recvmsg(2)."""

from __future__ import annotations

import errno

from callfence.enforcer import kernel
from callfence.enforcer.hosts.addresses import MAX_ADDRESS
from callfence.tracer import TYPE_CHECKING
from callfence.tracer.machine import MACHINE
from callfence.tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_COPIED = 1 << 20
"""The most bytes of a message that are copied at once."""
_MAX_PARTS = 1024  # UIO_MAXIOV, linux/uio.h
_MAX_CONTROL = 131072
"""The most bytes of control data: no more than the kernel's limit by default (net.core.optmem_max, Linux 6.18)."""


class Message(NamedTuple):
    """struct msghdr of a task (linux/socket.h), with what its parts are."""

    name: int
    name_length: int
    parts: Sequence[tuple[int, int]]
    """Address and length of each buffer."""
    control: int
    control_length: int
    at: int
    """The address of the struct."""
    word: int
    """Bytes of an address: 8, or 4 in a call of a 32-bit program."""

    @property
    def length(self) -> int:
        """The bytes of all buffers."""
        return sum(length for _, length in self.parts)

    def write_result(self, write: Callable[[int, bytes], None], name_length: int, flags: int) -> None:
        """Write the fields that recvmsg(2) sets; there is no control data.  Raises OSError."""
        write(self.at + self.word, name_length.to_bytes(4, "little"))
        write(self.at + 5 * self.word, bytes(self.word))
        write(self.at + 6 * self.word, flags.to_bytes(4, "little"))


SIZES = {8: 56, 4: 28}
"""Bytes of struct msghdr, by the bytes of an address."""


def steps(arch: int) -> tuple[int, int]:
    """Return the bytes of struct mmsghdr in calls of an architecture (AUDIT_ARCH_*), and where it has its length."""
    word = MACHINE.of(arch).pointer
    return SIZES[word] + word, SIZES[word]


def read(task: int, address: int, length: int) -> bytes:
    """Return `length` bytes of a task's memory.  Raises OSError, EFAULT if not all can be read."""
    content = kernel.memory_of(task, address, length) if length else b""
    if len(content) < length:
        raise OSError(errno.EFAULT, "memory")
    return content


def write_address(task: int, write: Callable[[int, bytes], None], address: bytes, at: int, size_at: int) -> None:
    """Write a struct sockaddr and its length, as getpeername(2) does: as much as there is room for.  Raises OSError."""
    size = int.from_bytes(read(task, size_at, 4), "little", signed=True)
    if size < 0:
        raise OSError(errno.EINVAL, "size")
    write(at, address[:size])
    write(size_at, len(address).to_bytes(4, "little"))


def message(task: int, at: int, arch: int) -> Message:
    """Return the struct msghdr at an address.  Raises OSError with the errno of sendmsg(2) if it is wrong."""
    word = MACHINE.of(arch).pointer
    content = read(task, at, SIZES[word])

    def number(place: int, size: int = word) -> int:
        return int.from_bytes(content[place : place + size], "little")

    count = number(3 * word)
    if count > _MAX_PARTS:
        raise OSError(errno.EMSGSIZE, "iovec")
    vector = read(task, number(2 * word), 2 * word * count)
    numbers = [int.from_bytes(vector[place : place + word], "little") for place in range(0, len(vector), word)]
    parts = [*zip(numbers[::2], numbers[1::2], strict=True)]
    if any(length >> 31 for _, length in parts):
        raise OSError(errno.EINVAL, "iovec")
    name = number(0)
    name_length = number(word, 4) if name else 0
    if name_length >> 31:
        raise OSError(errno.EINVAL, "sockaddr")
    return Message(name, min(name_length, MAX_ADDRESS), parts, number(4 * word), number(5 * word), at, word)


def gathered(task: int, parts: Sequence[tuple[int, int]], start: int) -> bytes:
    """Return what is in buffers from the byte `start` on, at most `MAX_COPIED` bytes.  Raises OSError, EFAULT if not all can
    be read."""
    content, left = [], MAX_COPIED
    for address, length in parts:
        skipped = min(start, length)
        size = min(length - skipped, left)
        content.append(read(task, address + skipped, size))
        start, left = start - skipped, left - size
    return b"".join(content)


def scatter(write: Callable[[int, bytes], None], parts: Sequence[tuple[int, int]], content: bytes) -> None:
    """Write bytes into buffers, one after the other.  Raises OSError."""
    for address, length in parts:
        if content:
            write(address, content[:length])
            content = content[length:]


def control(task: int, message: Message) -> list[tuple[int, int, bytes]]:
    """Return level, type and data of each control message (cmsg(3)).  Raises OSError with the errno of sendmsg(2)."""
    if message.control_length > _MAX_CONTROL:
        raise OSError(errno.ENOBUFS, "control")
    content = read(task, message.control, message.control_length)
    word, place, found = message.word, 0, []
    while place + word + 8 <= len(content):
        length = int.from_bytes(content[place : place + word], "little")
        if not word + 8 <= length <= len(content) - place:
            raise OSError(errno.EINVAL, "control")
        level, kind = (int.from_bytes(content[at : at + 4], "little") for at in (place + word, place + word + 4))
        found.append((level, kind, content[place + word + 8 : place + length]))
        place += (length + word - 1) & -word
    return found
