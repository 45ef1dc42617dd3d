"""What calls want of files: which argument is the path, and what Landlock will ask for."""

from __future__ import annotations

import os

import pytest

from callfence.policygen.files.calls import (
    NEW_ROOTS,
    PATH_CALLS,
    File,
    Need,
    Pair,
    Wanted,
    address,
    asked,
    needs,
    numbers,
    opens_for_neither,
    wanted,
)
from callfence.policygen.grants import NOTHING, Right
from callfence.tracer.abi import COMPAT, NATIVE, table

HERE = -100
R, W, C, X, D = Right.READ, Right.WRITE, Right.CREATE, Right.EXECUTE, Right.REMOVE

TABLE = (
    ("openat", (0xFFFFFF9C, 7, os.O_RDONLY), [Wanted(HERE, 7, R)]),
    ("openat", (5, 7, os.O_WRONLY | os.O_TRUNC), [Wanted(5, 7, W)]),
    ("open", (7, os.O_RDONLY | os.O_TRUNC), [Wanted(HERE, 7, R | W)]),
    ("open", (7, os.O_RDWR | os.O_CREAT), [Wanted(HERE, 7, R | W, R | W | C)]),
    ("open", (7, os.O_WRONLY | os.O_CREAT | os.O_EXCL), [Wanted(HERE, 7, makes=W | C, follows=False)]),
    ("open", (7, os.O_PATH), []),
    ("open", (7, os.O_NOFOLLOW), [Wanted(HERE, 7, R, follows=False)]),
    ("openat", (5, 7, os.O_TMPFILE | os.O_RDWR), [Wanted(5, 7, R | W, unnamed=True)]),
    ("openat", (5, 7, os.O_RDWR | 1 << 26), [Wanted(5, 7, R | W, may_be_empty=True)]),  # O_EMPTYPATH: opens a descriptor anew
    ("openat2", (5, 7, 100), [Wanted(5, 7, W)]),
    ("creat", (7, 0o644), [Wanted(HERE, 7, W, W | C)]),
    ("execve", (7,), [Wanted(HERE, 7, R | X)]),
    ("execveat", (5, 7), [Wanted(5, 7, R | X)]),
    ("execveat", (5, 7, 0, 0, 0x1000), [Wanted(5, 7, R | X, may_be_empty=True)]),  # AT_EMPTY_PATH: fexecve(3)
    ("mkdirat", (5, 7), [Wanted(5, 7, makes=C, follows=False)]),
    ("mknod", (7, 0o010600), [Wanted(HERE, 7, makes=Right.FIFO, follows=False)]),
    ("mknodat", (5, 7, 0o020600), [Wanted(5, 7, makes=Right.DEVICE, follows=False)]),
    ("mknod", (7, 0o100600), [Wanted(HERE, 7, makes=C, follows=False)]),
    ("symlinkat", (6, 5, 7), [Wanted(5, 7, makes=Right.SYMLINK, follows=False)]),
    ("unlink", (7,), [Wanted(HERE, 7, removes=D, follows=False)]),
    ("unlinkat", (5, 7, 0x200), [Wanted(5, 7, removes=D, follows=False)]),
    ("truncate", (7, 0), [Wanted(HERE, 7, W)]),
    ("swapoff", (7,), [Wanted(HERE, 7, R | W)]),
    ("mq_open", (7, os.O_RDWR | os.O_CREAT), [Wanted(HERE, 0, R | W, unnamed=True, path=b"/dev/mqueue")]),
    (
        "renameat",
        (4, 6, 5, 7),
        [Pair(Wanted(4, 6, removes=D, follows=False), Wanted(5, 7, makes=C, removes=C | D, replaces=True, follows=False))],
    ),
    ("linkat", (4, 6, 5, 7, 0), [Pair(Wanted(4, 6, follows=False), Wanted(5, 7, makes=C, follows=False))]),
    ("linkat", (4, 6, 5, 7, 0x400), [Pair(Wanted(4, 6), Wanted(5, 7, makes=C, follows=False))]),  # AT_SYMLINK_FOLLOW
    (
        "linkat",
        (4, 6, 5, 7, 0x1000),  # AT_EMPTY_PATH
        [Pair(Wanted(4, 6, follows=False, may_be_empty=True), Wanted(5, 7, makes=C, follows=False))],
    ),
    ("linkat", (4, 6, 5, 7, 0x801), [Pair(Wanted(4, 6, follows=False), Wanted(5, 7, makes=C, follows=False))]),
    ("link", (6, 7), [Pair(Wanted(HERE, 6, follows=False), Wanted(HERE, 7, makes=C, follows=False))]),
    (
        "rename",
        (6, 7),
        [
            Pair(
                Wanted(HERE, 6, removes=D, follows=False),
                Wanted(HERE, 7, makes=C, removes=C | D, replaces=True, follows=False),
            )
        ],
    ),
    ("execveat", (5, 7, 0, 0, 0xEFFF), [Wanted(5, 7, R | X)]),
    ("mkdir", (7,), [Wanted(HERE, 7, makes=C, follows=False)]),
    ("rmdir", (7,), [Wanted(HERE, 7, removes=D, follows=False)]),
    ("symlink", (6, 7), [Wanted(HERE, 7, makes=Right.SYMLINK, follows=False)]),
    ("mknod", (7, 0o140600), [Wanted(HERE, 7, makes=Right.SOCKET, follows=False)]),
    ("mknod", (7, 0o060600 | 1 << 16), [Wanted(HERE, 7, makes=Right.DEVICE, follows=False)]),
    ("mknodat", (5, 7, 0o600), [Wanted(5, 7, makes=C, follows=False)]),
    ("acct", (7,), [Wanted(HERE, 7, W)]),
    ("truncate64", (7, 0), [Wanted(HERE, 7, W)]),
    ("swapon", (7,), [Wanted(HERE, 7, R | W)]),
    ("mq_open", (7, os.O_WRONLY), [Wanted(HERE, 0, W, unnamed=True, path=b"/dev/mqueue")]),
    ("mq_open", (7, 3), [Wanted(HERE, 0, unnamed=True, path=b"/dev/mqueue")]),
    ("open", (7, 3), [Wanted(HERE, 7, R | W)]),
    ("openat", (5, 7, os.O_RDWR | os.O_EXCL), [Wanted(5, 7, R | W)]),
)


@pytest.mark.parametrize(("name", "arguments", "wants"), TABLE)
def test_what_a_call_wants(name, arguments, wants):
    assert wanted(name, (*arguments, 0, 0, 0), lambda at, length: os.O_WRONLY.to_bytes(length, "little")) == wants


@pytest.mark.parametrize(
    ("name", "arguments", "wants"),
    [
        ("access", (7, os.R_OK), Wanted(HERE, 7, R)),
        ("faccessat", (0xFFFFFF9C, 7, os.R_OK), Wanted(HERE, 7, R)),
        ("faccessat2", (5, 7, os.R_OK, 0x200), Wanted(5, 7, R)),
        ("access", (7, os.F_OK), Wanted(HERE, 7, R)),
        ("access", (7, os.R_OK | os.W_OK), None),
    ],
)
def test_what_a_program_asks_for(name, arguments, wants):
    assert asked(name, (*arguments, 0, 0, 0)) == wants


@pytest.mark.parametrize(
    ("name", "arguments", "neither"),
    [
        ("open", (7, 3), True),
        ("openat", (5, 7, 3), True),
        ("openat", (5, 7, 3 | os.O_PATH), False),
        ("openat", (5, 7, os.O_RDWR), False),
        ("openat", (5, 3, os.O_WRONLY), False),
        ("creat", (7, 3), False),
    ],
)
def test_what_opens_for_neither_reading_nor_writing(name, arguments, neither):
    assert opens_for_neither(name, (*arguments, 0, 0, 0)) is neither


def test_an_exchange_makes_and_removes_both_names():
    (pair,) = wanted("renameat2", (4, 6, 5, 7, 2), lambda *_: b"")
    assert pair.old.removes == pair.new.removes == C | D
    assert pair.old.replaces and pair.new.replaces


@pytest.mark.parametrize(
    ("flags", "rights"),
    [
        (os.O_RDONLY, Right.LIST),
        (os.O_RDONLY | os.O_DIRECTORY, Right.LIST),
        (os.O_TMPFILE | os.O_RDWR, R | W),  # a file without a name in the folder
    ],
)
def test_a_folder_that_is_opened_to_read_it_is_listed(flags, rights):
    folder = File(b"/folder", 0o040755)
    (request,) = wanted("open", (7, flags, 0, 0, 0, 0), lambda *_: b"")
    assert [*needs(request, [b"/folder"], lambda *_: folder)] == [Need(folder, rights)]


@pytest.mark.parametrize(
    ("flags", "mode"),
    [
        (os.O_WRONLY, 0o040755),  # EISDIR
        (os.O_RDONLY | os.O_TRUNC, 0o040755),
        (os.O_RDONLY | os.O_NOFOLLOW, 0o120777),  # ELOOP
    ],
)
def test_what_cannot_be_opened_needs_nothing(flags, mode):
    (request,) = wanted("open", (7, flags, 0, 0, 0, 0), lambda *_: b"")
    assert not [*needs(request, [b"/it"], lambda *_: File(b"/it", mode))]


def test_every_row_is_a_call():
    for arch in (NATIVE, COMPAT):
        assert numbers(PATH_CALLS)[arch.audit, table(arch).by_name["openat"].number] == "openat"
    assert {*numbers(PATH_CALLS).values()} == {*PATH_CALLS}
    for name in PATH_CALLS:
        wanted(name, (0,) * 6, lambda at, length: bytes(length))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\2\0\1\xbb\x7f\0\0\1", 443),
        (b"\x0a\0\0\x50" + bytes(24), 80),
        (b"\1\0/run/x\0", "/run/x"),
        (b"\1\0\0abstract", b"abstract"),
        (b"\1\0", b""),
        (b"\x10\0\0\0", None),
        (b"", None),
    ],
)
def test_the_address_of_a_socket(data, found):
    assert address(data) == found


def test_a_socket_is_bound_by_an_address_without_a_family():
    data = b"\0\0\1\xbb" + bytes(12)
    assert (address(data), address(data, binds=True)) == (None, 443)
    assert address(b"\0\0\1\xbb\x7f\0\0\1" + bytes(8), binds=True) is None


def test_nothing_is_wanted_by_default():
    assert Wanted(0, 0).right == Wanted(0, 0).makes == Wanted(0, 0).removes == NOTHING


def test_paths_lead_elsewhere_after_each_call_that_changes_the_root() -> None:
    found = {name for name in table(NATIVE).by_name if name in ("pivot_root", "setns") or name.endswith("chroot")}
    assert found == {*NEW_ROOTS}
