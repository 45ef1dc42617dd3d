"""The kernel's records of Landlock: what was denied, in words of a policy."""

from __future__ import annotations

import pytest

from callfence.policygen.files.landlock import ACCESS
from callfence.policygen.files.records import denied
from callfence.policygen.grants import Right


def of(blockers: str, rest: str = "") -> tuple[str, str, str] | None:
    """The path, the use and the words of what a record says was denied."""
    fields = {"blockers": blockers} | dict(word.partition("=")[::2] for word in rest.split())
    what = denied(fields)
    return what and (what.path, what.use, what.wanted)


@pytest.mark.parametrize(
    ("blockers", "rest", "expected"),
    [
        ("fs.read_file", 'path="/etc/passwd" dev="vda" ino=1', ("/etc/passwd", "", "read")),
        ("fs.read_dir", 'path="/etc"', ("/etc", "", "list")),
        ("fs.write_file,fs.read_file", 'path="/a"', ("/a", "", "read, write")),
        ("fs.execute,fs.read_file", 'path="/a"', ("/a", "", "read, execute")),
        ("fs.remove_file,fs.refer", 'path="/tmp"', ("/tmp", "", "remove, move")),
        ("fs.truncate", 'path="/a"', ("/a", "", "write")),
        ("fs.ioctl_dev", 'path="/dev/tty" ioctlcmd=0x5401', ("/dev/tty", "", "read")),
        ("fs.read_file", "path=2F746D702F6120E280A2", ("/tmp/a \N{BULLET}", "", "read")),
        ("fs.read_file", "path=2FFF", ("/\udcff", "", "read")),
        ("net.connect_tcp", "daddr=127.0.0.1 dest=443", ("", "connect", "443")),
        ("net.connect_tcp", "daddr=::1 dest=80", ("", "connect", "80")),
        ("net.bind_tcp", "saddr=127.0.0.1 src=8080", ("", "bind", "8080")),
        ("net.bind_tcp", "saddr=127.0.0.1", ("", "bind", "0")),
    ],
)
def test_what_lines_grant(blockers: str, rest: str, expected: tuple[str, str, str]) -> None:
    assert of(blockers, rest) == expected


@pytest.mark.parametrize(
    ("blockers", "rest"),
    [
        ("ptrace", 'opid=1 ocomm="init"'),
        ("scope.signal", "opid=1"),
        ("fs.change_topology", 'name="/" dev="vda"'),
        ("fs.unknown", 'path="/a"'),
        ("fs.read_file", 'path="pipe:[7]"'),
        ("fs.read_file", "path=2F0041"),
        ("fs.read_file", 'path="/a/../b"'),
        ("fs.read_file", ""),
        ("net.connect_tcp", "dest=65536"),
        ("net.connect_tcp", "dest=-1"),
        ("net.connect_tcp", f"dest={'9' * 5000}"),
        ("", ""),
    ],
)
def test_what_no_line_grants(blockers: str, rest: str) -> None:
    assert of(blockers, rest) is None


def test_each_right_of_a_file_has_a_word() -> None:
    """In the order of Landlock's bits."""
    names = [
        "execute", "write_file", "read_file", "read_dir", "remove_dir", "remove_file", "make_char", "make_dir", "make_reg",
        "make_sock", "make_fifo", "make_block", "make_sym", "refer", "truncate",
    ]  # fmt: skip
    for bit, name in enumerate(names):
        what = denied({"blockers": f"fs.{name}", "path": '"/a"'})
        assert what is not None
        expected = Right.LIST if name == "read_dir" else what.rights  # `read` implies it
        assert what.rights == expected
        assert ACCESS[what.wanted] & 1 << bit
        assert what.error == ("EXDEV" if name == "refer" else "EACCES")
