"""What the kernel executes for a file: of a script, and of an ELF file of 64 and 32 bits (elf.h)."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from callfence.enforcer.files.lookup import interpreter, is_tcp, local_port, looking

if TYPE_CHECKING:
    from pathlib import Path

LOADER = b"/lib/ld.so"


def elf(*, is_wide: bool, types: tuple[int, ...] = (1, 3)) -> bytes:
    """Return a file with a program header of each type, each of which names the loader behind them."""
    head, entry = (64, 56) if is_wide else (52, 32)
    place, size = head + len(types) * entry, len(LOADER) + 1
    ident = b"\x7fELF" + bytes([2 if is_wide else 1, 1, 1]) + bytes(9)
    fields = (3, 62 if is_wide else 3, 1, 0, head, 0, 0, head, entry, len(types), 0, 0, 0)
    made = ident + struct.pack("<HHIQQQIHHHHHH" if is_wide else "<HHIIIIIHHHHHH", *fields)
    for kind in types:
        if is_wide:
            made += struct.pack("<IIQQQQQQ", kind, 4, place, 0, 0, size, size, 1)
        else:
            made += struct.pack("<IIIIIIII", kind, place, 0, 0, size, size, 4, 1)
    return made + LOADER + b"\0rest"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (elf(is_wide=True), LOADER),
        (elf(is_wide=False), LOADER),
        (elf(is_wide=True, types=(1, 2)), b""),
        (elf(is_wide=True)[:70], b""),
        (b"\x7fELF", b""),
        (b"#!/bin/sh -e\n", b"/bin/sh"),
        (b"#! \t/bin/env\tpython3\n", b"/bin/env"),
        (b"#!/bin/sh", b"/bin/sh"),
        (b"echo\n", b""),
        (b"", b""),
    ],
)
def test_the_interpreter_of_a_file(tmp_path: Path, content: bytes, expected: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    assert interpreter(bytes(file)) == b"", "it is not executable"
    file.chmod(0o755)
    assert interpreter(bytes(file)) == expected


def test_the_port_of_a_tcp_socket_and_what_cannot_be_found_out() -> None:
    me = os.getpid()
    with socket.create_server(("127.0.0.1", 0)) as bound, socket.socket() as new, socket.socket(type=socket.SOCK_DGRAM) as udp:
        ports = {bound: bound.getsockname()[1], new: 0, udp: None}
        assert {made: local_port(me, me, made.fileno()) for made in ports} == ports
        assert {made: is_tcp(me, me, made.fileno()) for made in ports} == {bound: True, new: True, udp: False}
    reader, writer = os.pipe()
    assert (local_port(me, me, reader), is_tcp(me, me, reader)) == (None, False)
    os.close(reader)
    os.close(writer)
    with pytest.raises(OSError, match=f"Errno {errno.EBADF}"):
        local_port(me, me, 1 << 20)
    assert is_tcp(me, me, 1 << 20)


def test_a_folder_that_each_process_has_for_itself_is_the_tasks(tmp_path: Path) -> None:
    """Also if the path leads there by links: this process, which looks it up, has another one there."""
    (tmp_path / "own").symlink_to("/proc/self")
    (tmp_path / "status").symlink_to("/proc/self/status")
    (tmp_path / "file").touch()
    with subprocess.Popen(["sleep", "60"], cwd=tmp_path) as child:
        try:
            look = looking(child.pid, child.pid)
            for path in (b"own/status", b"status", b"/proc/self/status", b"%b/own/status" % os.fsencode(tmp_path)):
                file = look(-100, path, True)
                assert file and file.path == b"/proc/%d/status" % child.pid
            file, mine = look(-100, b"file", True), look(-100, b"/proc/%d/status" % os.getpid(), True)
            assert file and mine
            assert (file.path, mine.path) == (os.fsencode(tmp_path / "file"), b"/proc/%d/status" % os.getpid())
        finally:
            child.kill()
