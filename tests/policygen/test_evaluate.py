"""Verdicts of the reference semantics, one row each."""

from __future__ import annotations

import pytest
from calls import event, parse
from hypothesis import given, strategies as st

from callfence.policygen.evaluate import evaluate
from callfence.policygen.holds import holds
from callfence.policygen.language.naming import format_action
from callfence.policygen.model import KILL, Condition, Operator
from callfence.tracer.abi import X32_BIT, Arch, Argument, Event, Kind

WORD = (1 << 64) - 1
UPPER = 0xFFFFFFFF_00000000


def verdict(policy: str, call: Event) -> str:
    return format_action(evaluate(parse(policy).policy, call))


VERDICTS = [
    # 2011
    ("sys_read: (fd == 1) || (fd == 2)", ("read", 1), "allow"),
    ("sys_read: (fd == 1) || (fd == 2)", ("read", 2), "allow"),
    ("sys_read: (fd == 1) || (fd == 2)", ("read", 3), "kill"),
    ("sys_exit: 1", ("exit", 5), "allow"),
    ("sys_mmap: 0", ("mmap",), "kill"),
    # actions
    ("default errno EPERM\nread: deny", ("read",), "errno EPERM"),
    ("default errno EPERM", ("read",), "errno EPERM"),
    ("default allow\nread: kill", ("read",), "kill"),
    ("read: errno 11", ("read",), "errno EAGAIN"),
    ("read: fd == 0 else errno EBADF", ("read", 1), "errno EBADF"),
    ("read: fd == 0 else errno EBADF", ("read", 0), "allow"),
    ("ioctl: kill if cmd == TIOCSTI else allow", ("ioctl", 0, 0x5412), "kill"),
    ("ioctl: kill if cmd == TIOCSTI else allow", ("ioctl", 0, 0x5413), "allow"),
    ("ioctl: log if cmd == TIOCSTI", ("ioctl", 0, 0x5413), "kill"),
    ("default log\nioctl: trap if cmd == TIOCSTI", ("ioctl", 0, 0x5413), "log"),
    # a 32-bit argument is compared in 32 bits, whatever the upper half (CVE-2019-10063, CVE-2019-7303)
    ("ioctl: kill if cmd == TIOCSTI else allow", ("ioctl", 0, 0x1_0000_5412), "kill"),
    ("ioctl: kill if cmd == TIOCSTI else allow", ("ioctl", 0, UPPER | 0x5412), "kill"),
    ("openat: dfd == AT_FDCWD", ("openat", -100), "allow"),
    ("openat: dfd == AT_FDCWD", ("openat", 0xFFFFFF9C), "allow"),
    ("openat: dfd == AT_FDCWD", ("openat", 0xDEADBEEF_FFFFFF9C), "allow"),
    ("openat: dfd == AT_FDCWD", ("openat", 0xFFFFFF9B), "kill"),
    ("read: fd == -1", ("read", 0xFFFFFFFF), "allow"),
    ("read: fd == -1", ("read", WORD), "allow"),
    ("read: fd == -1", ("read", 1), "kill"),
    # a 64-bit one in full (firedancer #9185)
    ("read: count == 16", ("read", 0, 0, 16), "allow"),
    ("read: count == 16", ("read", 0, 0, 0x1_0000_0010), "kill"),
    ("read: count <= 16", ("read", 0, 0, 1 << 63), "kill"),
    # signs
    ("openat: dfd < 0", ("openat", 0x80000000), "allow"),
    ("openat: dfd < 0", ("openat", UPPER), "kill"),
    ("openat: dfd >= -1", ("openat", 0xFFFFFFFF), "allow"),
    ("openat: dfd >= -1", ("openat", 0xFFFFFFFE), "kill"),
    ("read: fd < 3", ("read", 0xFFFFFFFF), "kill"),
    ("read: fd > 3", ("read", 0xFFFFFFFF), "allow"),
    ("lseek: offset < 0", ("lseek", 0, -1), "allow"),
    ("lseek: offset < 0", ("lseek", 0, 0xFFFFFFFF), "kill"),
    # bits
    ("openat: flags in O_CREAT|O_EXCL", ("openat", 0, 0, 0o100), "allow"),
    ("openat: flags in O_CREAT|O_EXCL", ("openat", 0, 0, 0), "allow"),
    ("openat: flags in O_CREAT|O_EXCL", ("openat", 0, 0, 0o301), "kill"),
    ("openat: flags in O_CREAT|O_EXCL", ("openat", 0, 0, UPPER | 0o300), "allow"),
    ("openat: flags has O_CREAT|O_EXCL", ("openat", 0, 0, 0o302), "allow"),
    ("openat: flags has O_CREAT|O_EXCL", ("openat", 0, 0, 0o100), "kill"),
    ("openat: flags & O_CREAT|O_EXCL", ("openat", 0, 0, 0o200), "allow"),
    ("openat: flags & O_CREAT|O_EXCL", ("openat", 0, 0, 0o2), "kill"),
    ("openat: flags & O_ACCMODE == O_WRONLY", ("openat", 0, 0, 0o101), "allow"),
    ("openat: flags & O_ACCMODE == O_WRONLY", ("openat", 0, 0, 0o102), "kill"),
    ("openat: (flags & O_ACCMODE) != O_WRONLY", ("openat", 0, 0, 0o102), "allow"),
    ("openat: flags & O_ACCMODE != 0", ("openat", 0, 0, 0o100), "kill"),
    ("socket: family in {AF_UNIX, AF_INET}", ("socket", 2), "allow"),
    ("socket: family in {AF_UNIX, AF_INET}", ("socket", 3), "kill"),
    # structure: && binds tighter than ||
    ("socket: family == AF_UNIX || family == AF_INET && type == SOCK_STREAM", ("socket", 1, 7), "allow"),
    ("socket: family == AF_UNIX || family == AF_INET && type == SOCK_STREAM", ("socket", 2, 2), "kill"),
    ("socket: (family == AF_UNIX || family == AF_INET) && type == SOCK_STREAM", ("socket", 1, 7), "kill"),
    ("socket: !(family == AF_UNIX || family == AF_INET)", ("socket", 3), "allow"),
    ("socket: !!(family == AF_UNIX)", ("socket", 1), "allow"),
]


@pytest.mark.parametrize(("policy", "call", "expected"), VERDICTS)
def test_verdict(policy: str, call: tuple[str | int, ...], expected: str) -> None:
    name, *arguments = call
    assert verdict(policy, event(str(name), *map(int, arguments))) == expected


@pytest.mark.parametrize(
    ("arch", "number", "expected"),
    [
        (Arch.X86_64.audit, 0, "allow"),
        (Arch.X86_64.audit, 1, "allow"),
        (Arch.X86_64.audit, X32_BIT, "kill"),
        (Arch.X86_64.audit, X32_BIT | 1, "kill"),
        (Arch.X86_64.audit, 2 * X32_BIT - 1, "kill"),
        (Arch.X86_64.audit, X32_BIT - 1, "errno EPERM"),
        (Arch.X86_64.audit, 2 * X32_BIT, "errno EPERM"),
        (Arch.X86_64.audit, 0xFFFFFFFF, "errno EPERM"),
        (Arch.X86_64.audit, 460, "errno EPERM"),  # lsm_set_self_attr, of 6.8
        (Arch.X86_64.audit, 450, "allow"),  # set_mempolicy_home_node, of 5.17
        (Arch.X86_64.audit, 400, "allow"),  # a number that no call has
        (Arch.I386.audit, 0, "kill"),
        (Arch.AARCH64.audit, 0, "kill"),
        (0, 0, "kill"),
        (0xFFFFFFFF, 0, "kill"),
    ],
)
def test_what_no_entry_decides(arch: int, number: int, expected: str) -> None:
    policy = parse("arch x86_64\ntable 6.1\ndefault allow\nunknown errno EPERM").policy
    assert format_action(evaluate(policy, Event(arch, number))) == expected


def test_i386_has_entries_of_its_own() -> None:
    policy = "arch x86_64\nread: fd == 0\narch i386\nread: fd == 1"
    assert verdict(policy, event("read", 0)) == "allow"
    assert verdict(policy, event("read", 1)) == "kill"
    assert verdict(policy, event("read", 0, arch=Arch.I386)) == "kill"
    assert verdict(policy, event("read", 1, arch=Arch.I386)) == "allow"


def test_a_foreign_architecture_is_killed_whatever_the_default() -> None:
    policy = parse("arch i386\ndefault allow").policy
    assert evaluate(policy, event("read", 0)) == KILL


def _spelt_out(condition: Condition, argument: Argument, register: int) -> bool:
    """The operators once more, bit by bit and by arithmetic that shares nothing with the code under test."""
    modulus = 2**argument.width
    bits = register % modulus
    number = bits - modulus if argument.signed and bits * 2 >= modulus else bits
    set_bits = {bit for bit in range(argument.width) if bits // 2**bit % 2}
    wanted = {bit for bit in range(64) if condition.value % 2**64 // 2**bit % 2}
    masked = {bit for bit in range(64) if condition.mask // 2**bit % 2}
    return {
        Operator.EQ: number - condition.value == 0,
        Operator.NE: number - condition.value != 0,
        Operator.LT: condition.value - number > 0,
        Operator.LE: condition.value - number >= 0,
        Operator.GT: number - condition.value > 0,
        Operator.GE: number - condition.value >= 0,
        Operator.IN: set_bits.issubset(wanted),
        Operator.HAS: wanted.issubset(set_bits),
        Operator.ANY: not wanted.isdisjoint(set_bits),
        Operator.MASKED: set_bits & masked == wanted,
        Operator.ONE_OF: any(number == value for value in condition.values),
    }[condition.operator]


@given(st.data())
def test_each_operator_at_each_width(data: st.DataObject) -> None:
    width = data.draw(st.sampled_from([8, 16, 32, 64]))
    argument = Argument("x", "type", width, data.draw(st.booleans()), Kind.NUMBER)
    near = st.sampled_from([0, 1, 2, (1 << width - 1) - 1, 1 << width - 1, (1 << width) - 2, (1 << width) - 1])
    value = data.draw(near | st.integers(0, (1 << width) - 1))
    operator = data.draw(st.sampled_from(Operator))
    number = argument.value(value)
    bitwise = operator in (Operator.IN, Operator.HAS, Operator.ANY, Operator.MASKED)
    mask = data.draw(near | st.just(value)) | value
    if operator is Operator.ONE_OF:
        condition = Condition(0, operator, values=(number,))
    else:
        condition = Condition(0, operator, value if bitwise else number, mask if operator is Operator.MASKED else 0)
    low = data.draw(st.sampled_from([value, value ^ 1, value - 1, value + 1, value | 1]) | near) & argument.mask
    register = (low | data.draw(st.integers(0, WORD)) << width) & WORD
    assert holds(condition, (argument,), (register,)) == _spelt_out(condition, argument, register)
