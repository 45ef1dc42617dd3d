"""Texts that are policies, and the errors of texts that are not."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest
from calls import parse

from callfence.policygen.language.document import PolicyError
from callfence.policygen.language.expressions import MAX_DEPTH
from callfence.policygen.language.naming import format_entry
from callfence.policygen.model import ENOSYS, KILL, Action, ActionKind, Always, Arm, Condition, Entry, Operator, Policy
from callfence.tracer.abi import Arch, table

SEED = """\
sys_read: (fd == 1) || (fd == 2)
sys_write: (fd == 0)
sys_exit: 1
sys_exit_group: 1
on_next_syscall: 1
"""


def test_the_strings_of_2011() -> None:
    policy = parse(SEED).policy
    calls = table(Arch.X86_64).by_name
    assert policy.arm is Arm.EXEC
    assert set(policy.entries[Arch.X86_64]) == {calls[n].number for n in ("read", "write", "exit", "exit_group")}
    assert policy.entries[Arch.X86_64][calls["write"].number] == Entry(Condition(0, Operator.EQ, 0))
    assert parse(SEED.replace("on_next_syscall: 1", "on_next_syscall: 0")).policy.arm is Arm.NOW


def test_the_defaults_of_settings() -> None:
    policy = parse("").policy
    assert policy == Policy({Arch.X86_64: {}})
    assert (policy.default, policy.unknown, policy.arm, policy.table) == (KILL, ENOSYS, Arm.EXEC, (6, 18))


def test_settings_in_any_order() -> None:
    policy = parse("unknown trap\ndefault errno 1\narm entry\ntable 6.1\ncallfence 1\narch i386\narch x86_64").policy
    eperm = Action(ActionKind.ERRNO, 1)
    assert policy == Policy({Arch.I386: {}, Arch.X86_64: {}}, (6, 1), Arm.ENTRY, eperm, Action(ActionKind.TRAP))


ACCEPTED = [
    ("read: allow", "read: allow"),
    ("read: 1", "read: allow"),
    ("read: deny", "read: deny"),
    ("read: 0", "read: deny"),
    ("0: allow", "read: allow"),
    ("0x9: prot == PROT_READ", "mmap: prot == PROT_READ"),
    ("9: prot == PROT_READ", "mmap: prot == PROT_READ"),
    ("sys_mmap: prot == 1", "mmap: prot == PROT_READ"),
    ("read: kill", "read: kill"),
    ("read: trap", "read: trap"),
    ("read: log", "read: log"),
    ("read: notify", "read: notify"),
    ("read: errno 38", "read: errno ENOSYS"),
    ("read: errno 4095", "read: errno 4095"),
    ("read: fd == 1 else errno EPERM", "read: fd == 1 else errno EPERM"),
    ("read: kill if fd == 1 else allow", "read: kill if fd == 1 else allow"),
    ("read: errno EPERM if fd == 1 || fd == 2", "read: errno EPERM if fd == 1\n                  || fd == 2"),
    ("read: fd == 1 || fd == 2 else log", "read: fd == 1\n   || fd == 2\n  else log"),
    # lines
    ("read:\n fd == 1", "read: fd == 1"),
    ("read: fd == 1 ||\n\n# c\nfd == 2", "read: fd == 1\n   || fd == 2"),
    ("read: fd == 1\n\n|| fd == 2", "read: fd == 1\n   || fd == 2"),
    ("read: (\nfd\n==\n1\n)", "read: fd == 1"),
    ("read: fd in {\n1\n,\n2\n}", "read: fd in {1, 2}"),
    ("\t read\t:\tfd==1||fd==2 \t", "read: fd == 1\n   || fd == 2"),
    ("read: fd == 1\r\n  || fd == 2\r\n", "read: fd == 1\n   || fd == 2"),
    ("\ufeffread: allow", "read: allow"),
    # numbers
    ("read: fd == 0x10", "read: fd == 16"),
    ("read: fd == 0X1f", "read: fd == 31"),
    ("read: fd == 010", "read: fd == 8"),
    ("read: fd == 0o10", "read: fd == 8"),
    ("read: fd == 0", "read: fd == 0"),
    ("read: fd == 00", "read: fd == 0"),
    ("read: fd == -0", "read: fd == 0"),
    ("read: fd == 0xffffffff", "read: fd == -1"),
    ("read: fd == -1", "read: fd == -1"),
    ("read: count == 0xffffffffffffffff", "read: count == 18446744073709551615"),
    ("openat: dfd == 0xffffff9c", "openat: dfd == AT_FDCWD"),
    ("openat: dfd == -100", "openat: dfd == AT_FDCWD"),
    ("openat: dfd > -100", "openat: dfd > -100"),
    # values
    ("openat: flags == (O_RDWR|O_CREAT)", "openat: flags == O_RDWR|O_CREAT"),
    ("openat: flags == O_CREAT | 2", "openat: flags == O_RDWR|O_CREAT"),
    ("openat: flags == 0", "openat: flags == O_RDONLY"),
    ("openat: flags in 0", "openat: flags == O_RDONLY"),
    ("mmap: prot in PROT_NONE", "mmap: prot == PROT_NONE"),
    ("read: fd in {2, 1, 2, 0x1}", "read: fd in {1, 2}"),
    ("read: fd in {10, 9}", "read: fd in {9, 10}"),
    ("socket: family in {AF_INET6, AF_UNIX, AF_INET}", "socket: family in {AF_UNIX, AF_INET, AF_INET6}"),
    # masks bind tighter than ==
    ("openat: flags & O_ACCMODE == O_RDONLY", "openat: flags & O_ACCMODE == O_RDONLY"),
    ("openat: (flags & O_ACCMODE) == O_RDONLY", "openat: flags & O_ACCMODE == O_RDONLY"),
    ("openat: flags & (O_CREAT|O_EXCL) == O_CREAT", "openat: flags & O_CREAT|O_EXCL == O_CREAT"),
    ("openat: flags & O_CREAT == 0", "openat: flags & O_CREAT == 0"),
    ("openat: flags & O_CREAT != 0", "openat: flags & O_CREAT"),
    ("openat: (flags & O_CREAT) != 0", "openat: flags & O_CREAT"),
    ("openat: flags & O_ACCMODE != O_RDWR", "openat: !(flags & O_ACCMODE == O_RDWR)"),
    ("openat: (flags & O_CREAT)", "openat: flags & O_CREAT"),
    ("mmap: prot & PROT_EXEC == 0", "mmap: prot & PROT_EXEC == 0"),
    # structure
    ("read: ((fd == 1))", "read: fd == 1"),
    ("read: fd == 1 || (fd == 2 || (fd == 0))", "read: fd == 0\n   || fd == 1\n   || fd == 2"),
    ("read: fd == 10 || fd == 9", "read: fd == 9\n   || fd == 10"),
    ("read: count == 1 && (fd == 1 && count == 1)", "read: fd == 1 && count == 1"),
    ("read: (fd == 2 || fd == 1) && count > 3", "read: (fd == 1 || fd == 2) && count > 3"),
    ("read: !(fd == 1 && count == 2)", "read: !(fd == 1 && count == 2)"),
    ("read: !!(fd == 1)", "read: !!(fd == 1)"),
    ("read: fd == 1 || fd == 1", "read: fd == 1"),
    ("read: count == 1 && fd == 1 || fd == 1 && count == 1", "read: fd == 1 && count == 1"),
    ("read: (fd == 1 && count == 2 || count == 2 && fd == 1) && count == 3",
     "read: fd == 1 && count == 2 && count == 3"),
    # joint meaning
    ("fcntl: cmd == F_SETFL && arg in O_NONBLOCK|O_APPEND", "fcntl: cmd == F_SETFL && arg in O_APPEND|O_NONBLOCK"),
    ("fcntl: arg in 0x800 && cmd == 4", "fcntl: cmd == F_SETFL && arg in O_NONBLOCK"),
    ("setsockopt: level == SOL_SOCKET && optname == SO_REUSEADDR",
     "setsockopt: level == SOL_SOCKET && optname == SO_REUSEADDR"),
    ("setsockopt: level == 1 && optname in {2, SO_KEEPALIVE}",
     "setsockopt: level == SOL_SOCKET && optname in {SO_REUSEADDR, SO_KEEPALIVE}"),
    ("setsockopt: level == 1 && (optname == 2 || optname == 9)",
     "setsockopt: level == SOL_SOCKET && (optname == SO_KEEPALIVE || optname == SO_REUSEADDR)"),
    ("setsockopt: optname == SO_REUSEADDR", "setsockopt: optname == 2"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), ACCEPTED)
def test_accepted(text: str, expected: str) -> None:
    (arch, entries), = parse(text).policy.entries.items()
    (number, entry), = entries.items()
    assert format_entry(arch, number, entry) == expected
    assert parse(expected).policy == parse(text).policy


def golden() -> list[tuple[str, str, str]]:
    """Name, policy and message of each case in the file beside this one."""
    cases = Path(__file__).with_name("policy_errors.txt").read_text().removeprefix("=== ").split("\n=== ")
    made = []
    for case in cases:
        name, rest = case.split("\n", 1)
        policy, message = rest.split("\n---\n")
        made.append((name, policy, message.rstrip("\n")))
    return made


@pytest.mark.parametrize(("policy", "message"), [pytest.param(*case[1:], id=case[0]) for case in golden()])
def test_error(policy: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse(policy, "p")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("read: allow\nwrite\0: allow", 2, 6, "a NUL byte is not allowed in a policy"),
        ("read: allow # \x1b[2J", 1, 15, "the character U+001B is not allowed in a policy"),
        ("read: allow # \u202e", 1, 15, "the character U+202E is not allowed in a policy"),
        ("read: allow # a\U000e0061", 1, 16, "the character U+E0061 is not allowed in a policy"),
        ("read: allow # a\ufe01", 1, 16, "the character U+FE01 is not allowed in a policy"),
        ("read: allow # a\xadb", 1, 16, "the character U+00AD is not allowed in a policy"),
        ("read: allow # b\udce4r", 1, 16, "byte 0xe4 is not UTF-8"),
        ("read: allow\rwrite: allow", 1, 12, "a carriage return without a line feed is not allowed in a policy"),
        ("read: allow\n\ufeffwrite: allow", 2, 1, "the character U+FEFF is not allowed in a policy"),
        ("réad: allow", 1, 2, "`é` has no meaning in a policy"),
        ("read: fd == １", 1, 13, "`１` has no meaning in a policy"),
    ],
)
def test_characters(text: str, line: int, column: int, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse(text)
    assert (caught.value.line, caught.value.column, caught.value.message) == (line, column, message)
    assert str(caught.value).isprintable() or str(caught.value).replace("\n", "").isprintable()


def test_the_fields_of_an_error() -> None:
    with pytest.raises(PolicyError) as caught:
        parse("# c\n  raed: allow", "a.policy")
    error = caught.value
    assert (error.filename, error.line, error.column, error.length) == ("a.policy", 2, 3, 4)
    assert (error.message, error.source_line) == ("x86_64 has no syscall raed", "  raed: allow")
    assert error.hint.startswith("did you mean ")
    assert "read" in error.hint


def test_a_long_line_is_shown_around_the_mistake() -> None:
    with pytest.raises(PolicyError) as caught:
        parse("read: " + "fd == 1 || " * 1000 + "fdd == 1" + " || fd == 2" * 1000)
    first, line, carets, *_ = str(caught.value).splitlines()
    assert first == "<policy>:1:11007: read has no argument fdd"
    assert len(line) <= 102
    assert line[carets.index("^") : carets.rindex("^") + 1] == "fdd"


@pytest.mark.long
@pytest.mark.parametrize("opening", ["(", "!(", "!", "(!"])
def test_deep_nesting(opening: str) -> None:
    with pytest.raises(PolicyError, match="nested deeper than 64"):
        parse("read: " + opening * 100_000)


def test_nesting_up_to_the_limit() -> None:
    text = "read: " + "!(" * (MAX_DEPTH // 2) + "fd == 1" + ")" * (MAX_DEPTH // 2)
    assert parse(parse(text).text()).policy == parse(text).policy


@pytest.mark.parametrize(("length", "said"), [(4095, "cannot be read"), (4096, "must have fewer than 4096 characters")])
def test_the_name_of_an_included_file_may_be_as_long_as_a_path(length: int, said: str) -> None:
    def read(name: str) -> str:
        raise OSError(errno.ENAMETOOLONG, f"{name[:4]} cannot be read")

    with pytest.raises((PolicyError, OSError), match=said):
        parse("include " + "x" * length, read=read)


BIG = 100_000


@pytest.mark.long
@pytest.mark.parametrize(
    "text",
    [
        pytest.param("read:" + " " * 20 * BIG + "allow" + " " * 20 * BIG, id="blanks"),
        pytest.param("\n" * 10 * BIG, id="lines"),
        pytest.param("# c\n" * BIG + "read: allow", id="comments"),
        pytest.param("#" * 20 * BIG, id="comment"),
        pytest.param("a" * 20 * BIG + ": allow", id="word"),
        pytest.param("read: fd == " + "9" * 20 * BIG, id="number"),
        pytest.param("include " + "a " * 10 * BIG, id="include"),
        pytest.param("read: fd in {" + ",".join(map(str, range(BIG))) + "}", id="set"),
        pytest.param("openat: flags == " + "|".join(["O_CREAT"] * BIG), id="value"),
        pytest.param("read: " + " || ".join(f"fd == {n}" for n in range(BIG // 8)), id="line of alternatives"),
        pytest.param("read: " + "\n|| # c\n".join(f"fd == {n} # c" for n in range(BIG // 8)), id="commented"),
        pytest.param("read: allow # b\n" * BIG, id="mistakes"),
        pytest.param("tcp connect: " + ", ".join(["0-65535"] * BIG), id="ports"),
        pytest.param(
            "phase p after read\nread: allow\nclose: fd == 0 until p" + "".join(f" || fd == {n}" for n in range(1, BIG // 8)),
            id="alternatives in a phase",
        ),
    ],
)
def test_time_is_linear(text: str) -> None:
    """Quadratic work on these would take minutes; linear work takes a second or two on a slow machine."""
    start = time.process_time()
    try:
        parse(text).text()
    except PolicyError as error:
        assert len(str(error)) < 2000
    assert time.process_time() - start < 20


@pytest.mark.long
def test_a_hundred_thousand_rules() -> None:
    start = time.process_time()
    document = parse("read: " + "\n|| ".join(f"fd == {n}" for n in range(BIG)))
    assert len(document.text().splitlines()) == BIG + 6 + 1
    assert time.process_time() - start < 60


def test_no_argument_is_named_like_a_word_of_the_language() -> None:
    words = {"in", "has", "if", "else", "allow", "deny", "kill", "errno", "trap", "log", "notify"}
    for arch in Arch:
        for call in table(arch).by_number.values():
            assert words.isdisjoint(argument.name for argument in call.arguments), call
        assert {"callfence", "arch", "table", "arm", "default", "unknown", "include"}.isdisjoint(table(arch).by_name)


def test_always_is_never_inside_an_expression() -> None:
    assert parse("read: allow").policy.entries[Arch.X86_64][0] == Entry(Always(True))
    assert parse("read: deny").policy.entries[Arch.X86_64][0] == Entry(Always(False))


def test_nesting_beyond_the_limit_by_one() -> None:
    text = "read: " + "(" * MAX_DEPTH + "{}" + ")" * MAX_DEPTH
    assert parse(text.format("fd == 1")).policy == parse("read: fd == 1").policy
    with pytest.raises(PolicyError, match="nested deeper than 64"):
        parse(text.format("(fd == 1)"))
