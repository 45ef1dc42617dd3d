"""The text of calls and entries."""

from __future__ import annotations

import pytest
from calls import event, parse

from callfence.policygen.language.naming import format_action, format_call, format_entry, format_expression
from callfence.policygen.model import ALLOW, KILL, Action, ActionKind, Condition, Operator
from callfence.tracer.abi import X32_BIT, Arch, Event, table

WORD = (1 << 64) - 1


def call(name: str, *arguments: int, arch: Arch = Arch.X86_64) -> str:
    return format_call(event(name, *arguments, arch=arch))


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (call("getpid"), "getpid()"),
        (
            call("openat", -100, 0x7FFC3A10, 0o2000000, 0),
            "openat(dfd=AT_FDCWD, filename=0x7ffc3a10, flags=O_RDONLY|O_CLOEXEC, mode=0)",
        ),
        # zero-extended, as a compiler passes an int: the same call
        (
            call("openat", 0xFFFFFF9C, 0, 0o102, 0o644),
            "openat(dfd=AT_FDCWD, filename=NULL, flags=O_RDWR|O_CREAT, mode=0644)",
        ),
        # a mode has no sign, although its highest bit is that of a regular file
        (call("mknod", 0, 0o104644, 0), "mknod(filename=NULL, mode=S_IFREG|S_ISUID|0644, dev=0)"),
        (call("read", 3, 0x1000, 65536), "read(fd=3, buf=0x1000, count=65536)"),
        (call("read", -1, 0x1000, 1), "read(fd=-1, buf=0x1000, count=1)"),
        (call("lseek", 3, -1, 0), "lseek(fd=3, offset=-1, whence=SEEK_SET)"),
        (call("socket", 2, 0o2000001, 0), "socket(family=AF_INET, type=SOCK_STREAM|SOCK_CLOEXEC, protocol=IPPROTO_IP)"),
        (
            call("setsockopt", 3, 1, 2, 0x7000, 4),
            "setsockopt(fd=3, level=SOL_SOCKET, optname=SO_REUSEADDR, optval=0x7000, optlen=4)",
        ),
        (call("fcntl", 3, 4, 0o4000), "fcntl(fd=3, cmd=F_SETFL, arg=O_RDONLY|O_NONBLOCK)"),
        (call("fcntl", 3, 2, 1), "fcntl(fd=3, cmd=F_SETFD, arg=FD_CLOEXEC)"),
        (call("quotactl", 0xFFFFFFFF_80000701, 0, 3, 0), "quotactl(cmd=Q_GETQUOTA|GRPQUOTA, special=NULL, id=3, addr=NULL)"),
        (call("kill", 42, 9), "kill(pid=42, sig=SIGKILL)"),
        (call("kill", -42, 9), "kill(pid=-42, sig=SIGKILL)"),
        # what the kernel ignores is shown, for it may be an attempt to slip past a filter
        (call("ioctl", 0, 0x1_0000_5412, 0x7000), "ioctl(fd=0, cmd=TIOCSTI (register 0x100005412), arg=0x7000)"),
        (call("close", 0xDEADBEEF_00000003), "close(fd=3 (register 0xdeadbeef00000003))"),
        (call("read", 3, arch=Arch.I386), "read(fd=3, buf=NULL, count=0)"),
    ],
)
def test_call(shown: str, expected: str) -> None:
    assert shown == expected


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (Event(Arch.X86_64.audit, X32_BIT, (3, 0, 0, 0, 0, 0)), "x32 read(fd=3, buf=NULL, count=0)"),
        (Event(Arch.X86_64.audit, X32_BIT | 520), "x32 syscall 520(0x0, 0x0, 0x0, 0x0, 0x0, 0x0)"),
        (Event(Arch.X86_64.audit, 100000, (1, 255, 0, 0, 0, 0)), "syscall 100000(0x1, 0xff, 0x0, 0x0, 0x0, 0x0)"),
        (Event(Arch.X86_64.audit, 0xFFFFFFFF), "syscall -1(0x0, 0x0, 0x0, 0x0, 0x0, 0x0)"),
        (Event(0x40000008, 4), "syscall 4 of architecture 0x40000008(0x0, 0x0, 0x0, 0x0, 0x0, 0x0)"),
    ],
)
def test_call_without_a_name(event: Event, expected: str) -> None:
    assert format_call(event) == expected


def test_entry() -> None:
    (number, entry), = parse("ioctl: cmd == TCGETS || cmd == FIONBIO").policy.entries[Arch.X86_64].items()
    assert format_entry(Arch.X86_64, number, entry) == "ioctl: cmd == FIONBIO\n    || cmd == TCGETS"
    assert format_expression(Arch.X86_64, number, entry.expression) == "cmd == FIONBIO || cmd == TCGETS"


def test_joint_meaning_needs_the_selector() -> None:
    number = table(Arch.X86_64).by_name["setsockopt"].number
    option = Condition(2, Operator.EQ, 2)
    assert format_expression(Arch.X86_64, number, option) == "optname == 2"
    assert format_expression(Arch.X86_64, number, option, ((1, 1),)) == "optname == SO_REUSEADDR"


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (ALLOW, "allow"),
        (KILL, "kill"),
        (Action(ActionKind.ERRNO, 1), "errno EPERM"),
        (Action(ActionKind.ERRNO, 4000), "errno 4000"),
    ],
)
def test_action(action: Action, expected: str) -> None:
    assert format_action(action) == expected


def test_a_named_value_with_the_highest_bit_prints_by_its_name() -> None:
    """_IOR commands have it, and ioctl's `cmd` is unsigned."""
    text = "ioctl: cmd == TCGETS2\n"
    assert parse(text).text().endswith(f"\n{text}")
