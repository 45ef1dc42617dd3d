"""Which policies let a program truncate what it may not write, connect or bind: Landlock is asked about that for them alone."""

from __future__ import annotations

import pytest
from calls import parse

from callfence.policygen.files.landlock import TRUNCATE, decode, downgrade, encode
from callfence.policygen.files.ruleset import changes_files, kept_by_the_filter, ruleset, unconfined
from callfence.policygen.model import Arm
from callfence.policygen.values import replace

POLICIES = (
    ("read: allow", False),
    ("implied 1\nopenat: flags & O_ACCMODE == O_RDONLY && flags in O_CLOEXEC|O_NONBLOCK", False),
    ("openat: flags == O_WRONLY|O_TRUNC || flags == O_RDWR|O_CREAT|O_TRUNC", False),
    ("creat: allow\nftruncate: allow", False),
    ("truncate: allow", True),
    ("open: allow", True),
    ("openat: flags & O_ACCMODE == O_RDONLY", True),
    ("openat: flags & O_ACCMODE == O_RDONLY && flags in O_CLOEXEC|O_TRUNC", True),
    ("openat: flags & O_ACCMODE != O_WRONLY && flags & O_ACCMODE != O_RDWR && flags & O_CLOEXEC == 0", True),
    ("openat2: allow", True),
    ("openat2: errno ENOSYS", False),
    ("io_uring_setup: allow", True),
    ("unknown allow\nread: allow", True),
    ("default allow\nread: allow", True),
    ("default log\nread: allow", True),
    ("arch x86_64\nread: allow\narch i386\ntruncate64: allow", True),
    ("phase serving after accept4\nread: allow\ntruncate: allow until serving\naccept4: allow", True),
)


@pytest.mark.parametrize(("text", "can"), POLICIES)
def test_what_can_truncate(text, can):
    policy = replace(parse(text).policy, files=parse("path /a: read").policy.files)
    assert ruleset(policy).truncates == can
    assert ruleset(policy, Arm.ENTRY).truncates


@pytest.mark.parametrize(
    ("text", "can"),
    [
        ("read: allow", False),
        ("implied 1\nopenat: flags == O_RDONLY\nsocket: family == AF_INET && type & 0xf == SOCK_STREAM", False),
        ("openat: flags & O_ACCMODE|O_CREAT|O_TRUNC == 0", False),
        ("execve: allow\nfchmod: allow\nwrite: allow\nsetns: allow", False),
        ("openat: flags in O_CLOEXEC|O_TRUNC", True),
        ("open: flags == O_RDWR", True),
        ("open_by_handle_at: flags == O_WRONLY", True),
        ("openat: flags == O_RDONLY|O_CREAT", True),
        ("ioctl: cmd in {TCGETS, FIONREAD}", False),
        ("ioctl: allow", True),
        ("openat: errno EACCES\nrename: errno EPERM", False),
        *((f"{name}: allow", True) for name in ("openat", "openat2", "creat", "rename", "linkat", "symlink", "truncate")),
        *((f"{name}: allow", True) for name in ("mount", "move_mount", "io_uring_setup", "ptrace", "bpf", "init_module")),
        ("arch x86_64\nread: allow\narch i386\ntruncate64: allow", True),
        ("unknown allow\nread: allow", True),
        ("default log\nread: allow", True),
        ("phase serving after accept4\nread: allow\nrename: allow until serving\naccept4: allow", True),
    ],
)
def test_what_can_change_files(text, can):
    assert changes_files(parse(text).policy) == can


REACHING = (
    ("read: allow", ""),
    ("implied 1\nsendto: flags in MSG_DONTWAIT|MSG_NOSIGNAL|MSG_MORE|MSG_EOR", ""),
    ("connect: errno EACCES\nbind: kill", ""),
    ("connect: allow", "connect"),
    ("connect: fd == 3", "connect"),
    ("sendto: allow", "connect"),
    ("sendmsg: flags == MSG_FASTOPEN", "connect"),
    ("sendmmsg: flags in MSG_FASTOPEN|MSG_NOSIGNAL", "connect"),
    ("bind: allow", "bind"),
    ("listen: allow", "bind"),
    ("io_uring_setup: allow", "connect bind"),
    ("arch i386\nsocketcall: allow", "connect bind"),
    ("unknown allow\nread: allow", "connect bind"),
    ("default log\nread: allow", "connect bind"),
    ("phase serving after accept4\nread: allow\nbind: allow until serving\naccept4: allow", "bind"),
)


@pytest.mark.parametrize(("text", "uses"), REACHING)
def test_ports_are_confined_where_a_call_reaches_them(text, uses):
    policy = replace(parse(text).policy, files=parse("tcp connect: 80\ntcp bind: none").policy.files)
    rules = ruleset(policy)
    assert [use for use in ("connect", "bind") if getattr(rules, use) is not None] == uses.split()
    whole = ruleset(policy, Arm.ENTRY)
    assert (whole.connect, whole.bind) == (((80, 80),), ())


def test_a_port_of_one_host_is_one_of_all_hosts_for_landlock():
    rules = ruleset(parse("tcp connect: 22\ntcp connect 10.0.0.1: 80-81\ntcp connect a.example: 80, 82\nconnect: allow").policy)
    assert (rules.connect, rules.bind, rules.paths) == (((22, 22), (80, 82)), None, None)
    assert ruleset(parse("tcp connect: none\nconnect: allow").policy).connect == ()
    assert not ruleset(parse("udp send 10.0.0.1: 53\nunix connect @a\nconnect: allow").policy)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("read: allow", ("paths", "connect", "bind", "send", "unix", "query")),
        ("sendto: flags == 0", ("paths", "connect", "bind")),
        ("connect: allow", ("paths", "bind")),
        ("default allow\nread: allow", ()),
    ],
)
def test_what_no_call_reaches_needs_no_line(text, kinds):
    assert kept_by_the_filter(parse(text).policy) == kinds


@pytest.mark.parametrize(
    ("text", "also", "kinds"),
    [
        ("connect: allow", (), ("connect",)),
        ("connect: allow", ("unix",), ("connect", "unix")),
        ("tcp connect: 80\nconnect: allow", (), ()),
        ("tcp connect a.example: 80\nconnect: allow", (), ("send",)),
        ("tcp connect a.example: 80\nudp send: none\nconnect: allow", ("send",), ()),
        ("tcp connect: 80\nudp send: none\ndns query: none\nconnect: allow", ("query",), ()),
        ("tcp connect: 80\nudp send 192.0.2.1: 53\ndns query: none\nconnect: allow", (), ("query",)),
        ("tcp connect: 80\ndns query: none\nconnect: allow", (), ("query",)),
        ("tcp connect a.example: 80\nudp send: 53\ndns query: none\nconnect: allow", (), ()),
    ],
)
def test_hosts_and_sockets_are_judged_where_they_are_confined_elsewhere(text, also, kinds):
    assert unconfined(parse(text).policy, also) == kinds


@pytest.mark.parametrize("can", [True, False])
def test_it_is_handled_where_the_filter_does_not_see_to_it(can):
    policy = parse(f"path /a: read, write\npath /b: read\n{'truncate: allow' if can else 'read: allow'}").policy
    rules = decode(encode(ruleset(policy)))
    assert rules.truncates == can
    effective = downgrade(rules, 3)
    assert bool(effective.handled_files & TRUNCATE) == can
    assert all(not access & ~effective.handled_files for _, access in effective.rules.paths or ())
    assert [bool(downgrade(rules, version).lacking) for version in (1, 2, 3)] == [can, can, False]
