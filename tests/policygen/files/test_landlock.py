"""What each version of Landlock can enforce: a table, without a kernel; and the words against the header's rights."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from calls import parse

from callfence.policygen.files import landlock
from callfence.policygen.files.landlock import Ruleset, decode, downgrade, encode
from callfence.policygen.files.ruleset import access, ruleset
from callfence.policygen.grants import ALL, NOTHING, Files, Right
from callfence.policygen.model import Arm, Policy

HEADER = Path("/usr/include/linux/landlock.h")
READS, MOVES = "path /a: read", "path /a: read, move"
PORTS = "tcp connect: 443\ntcp bind: none"
NO_FILES, TRUNCATE = "restrict access to files", "truncating"
MOVE, CONNECT, BIND = "move files", "connect to", "bind"

TABLE = (
    # lines, version, what it cannot do, whether files and ports are still confined
    (READS, 0, (NO_FILES,), False, False),
    (READS, 1, (TRUNCATE,), True, False),
    (READS, 2, (TRUNCATE,), True, False),
    (READS, 3, (), True, False),
    (MOVES, 1, (TRUNCATE, MOVE), True, False),
    (MOVES, 2, (TRUNCATE,), True, False),
    (MOVES, 3, (), True, False),
    (PORTS, 0, (CONNECT, BIND), False, False),
    (PORTS, 3, (CONNECT, BIND), False, False),
    (PORTS, 4, (), False, True),
    (PORTS, 7, (), False, True),
    (f"{MOVES}\n{PORTS}", 0, (NO_FILES, CONNECT, BIND), False, False),
    (f"{MOVES}\n{PORTS}", 3, (CONNECT, BIND), True, False),
    (f"{MOVES}\n{PORTS}", 5, (), True, True),
    (f"{MOVES}\n{PORTS}", 7, (), True, True),
    ("tcp connect: any", 1, (), False, False),
    ("read: allow", 0, (), False, False),
)


@pytest.mark.parametrize(("lines", "version", "lacking", "files", "ports"), TABLE)
def test_what_a_version_enforces(lines, version, lacking, files, ports):
    effective = downgrade(ruleset(parse(lines).policy, Arm.ENTRY), version)
    assert len(effective.lacking) == len(lacking)
    assert all(part in said for part, said in zip(lacking, effective.lacking, strict=True))
    assert (bool(effective.handled_files), bool(effective.handled_ports)) == (files, ports)
    granted = [rights for _, rights in effective.rules.paths or ()]
    assert all(rights & effective.handled_files == rights for rights in granted), "the kernel refuses other rules"


def test_a_later_version_of_landlock_never_enforces_less():
    rules = ruleset(parse(f"{MOVES}\n{PORTS}").policy, Arm.ENTRY)
    effective = [downgrade(rules, version) for version in range(1, 8)]
    for before, after in itertools.pairwise(effective):
        assert set(after.lacking) <= set(before.lacking)
        assert before.handled_files & after.handled_files == before.handled_files


def test_who_makes_no_connections_needs_no_ports():
    rules = ruleset(parse("tcp connect: 1000-60000\ntcp bind: 80").policy, Arm.ENTRY)
    for version, (handled, lacking) in {3: (0, 1), 4: (landlock.CONNECT_TCP | landlock.BIND_TCP, 0)}.items():
        effective = downgrade(rules, version, makes_calls=True)
        assert (effective.handled_ports, len(effective.lacking), effective.rules.connect or ()) == (handled, lacking, ())
    assert effective.rules.bind == ((80, 80),)


def test_the_words_have_every_right_that_is_handled_and_each_once():
    assert access(ALL) == landlock.EVERY_ACCESS
    assert sum(access(right) for right in Right if right is not Right.LIST) == landlock.EVERY_ACCESS
    assert access(Right.LIST) == landlock.READ_DIR, "which `read` has as well"
    assert access(NOTHING) == 0
    assert set(landlock.ACCESS) == {right.word for right in Right}


def test_whoever_may_open_a_device_may_make_ioctls_on_it():
    """From version 5 on; before, nothing is refused, since the filter's guard denies opening it for neither."""
    rules = ruleset(parse("path /a: read\npath /b: write\npath /c: create, execute").policy, Arm.ENTRY)
    for version in (4, 5, 7):
        effective = downgrade(rules, version)
        assert effective.lacking == ()
        assert bool(effective.handled_files & landlock.IOCTL_DEV) == (version >= 5)
        granted = {path for path, bits in effective.rules.paths if bits & landlock.IOCTL_DEV}
        assert granted == ({b"/a", b"/b"} if version >= 5 else set())


@pytest.mark.skipif(not HEADER.exists(), reason="needs linux/landlock.h (linux-libc-dev)")
def test_the_numbers_are_the_header_s():
    defined = re.findall(r"#define LANDLOCK_ACCESS_(FS|NET)_(\w+)\s+\(1ULL << (\d+)\)", HEADER.read_text())
    ours = {"BIND_TCP": landlock.BIND_TCP, "CONNECT_TCP": landlock.CONNECT_TCP}
    checked = 0
    for _, name, bit in defined:
        value = ours.get(name, getattr(landlock, name, None))
        if value is not None:
            assert value == 1 << int(bit), name
            checked += 1
    assert checked >= 15


@pytest.mark.parametrize(
    "files",
    [
        Files(),
        Files({}),
        Files({"/": Right.READ, "$HOME/a b\n": Right.WRITE | Right.MOVE, "/\udcff": Right.EXECUTE}),
        Files(connect=((1, 5), (9, 9)), bind=()),
        Files({"./x": ALL}, ((0, 65535),), ((80, 80),)),
    ],
)
def test_what_is_encoded_is_read_back(files):
    rules = ruleset(Policy({}, files=files), Arm.ENTRY)
    again = decode(encode(rules))
    for part in ("paths", "connect", "bind"):
        mine, theirs = getattr(rules, part), getattr(again, part)
        assert (None if mine is None else list(mine)) == (None if theirs is None else list(theirs))
    assert bool(encode(rules)) == bool(rules) == (files != Files())


def test_a_line_that_grants_nothing_confines():
    assert ruleset(Policy({}, files=Files({"/": NOTHING}))).paths == []
    assert bool(Ruleset([], None, None))
