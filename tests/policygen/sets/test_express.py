"""Sets of calls as expressions: how each kind of argument is written, in which form, and what has no form."""

from __future__ import annotations

import pytest
from calls import parse

from callfence.policygen.language.naming import format_entry
from callfence.policygen.model import ALLOW, Entry, Expression, alternatives
from callfence.policygen.sets.algebra import Space
from callfence.policygen.sets.express import express, minimise
from callfence.policygen.sets.region import BITS, space, to_bdd
from callfence.tracer.abi import Arch, table

ABORT_TO_TRAP = "SIGABRT SIGBUS SIGFPE SIGHUP SIGILL SIGINT SIGKILL SIGQUIT SIGTRAP"


def written(line: str, limit: int) -> str | None:
    """The set of a line's calls, written again: what stands after its colon; None if that takes more than `limit` rules."""
    call = table(Arch.X86_64).by_name[line.partition(":")[0]]
    given = parse(f"{line}\n").policy.entries[Arch.X86_64][call.number].expression
    sets = space()

    def region(expression: Expression) -> int:
        return to_bdd(sets, expression, call.arguments)

    found = express(sets, region(given), Arch.X86_64, call.number, limit)
    if found is None:
        return None
    assert region(found) == region(given)
    text = format_entry(Arch.X86_64, call.number, Entry(found, ALLOW))
    return " ".join(text.partition(": ")[2].split())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # by order
        ("read: fd == 1 || fd == 2", "fd == 1 || fd == 2"),
        ("read: fd == 1 || fd == 2 || fd == 3", "fd <= 3 && fd >= 1"),
        ("read: fd == 1 || fd == 3", "fd & 0xfffffffd == 0x1"),
        ("read: fd == 1 || fd == 4 || fd == 6", "fd & 0xfffffffd == 0x4 || fd == 1"),
        ("read: fd >= 3 && fd <= 4 || fd >= 7 && fd <= 9", "fd <= 4 && fd >= 3 || fd <= 9 && fd >= 7"),
        ("read: fd == 3 || fd == 4 || fd == 5 || fd == 6 || fd == 9", "fd <= 6 && fd >= 3 || fd == 9"),
        ("read: fd <= 5", "fd <= 5"),
        ("read: fd == -1 || fd == 0", "fd == 0 || fd == -1"),
        ("read: fd != 3", "fd != 3"),
        ("read: fd != 3 && fd != 5", "fd != 3 && fd != 5"),
        ("read: fd != 0 && fd != 4294967295", "fd <= 4294967294 && fd >= 1"),
        ("read: count < 10", "count <= 9"),
        ("read: count >= 10 && count <= 20 || count == 22", "count <= 20 && count >= 10 || count == 22"),
        ("read: fd != 0", "fd >= 1"),
        ("read: count != 0 && count != 5", "count <= 4 && count >= 1 || count >= 6"),
        ("tgkill: sig != 0", "sig != 0"),
        ("tgkill: sig != 5 && sig != 2147483647", "sig <= 4 || sig <= 2147483646 && sig >= 6"),
        ("tgkill: sig != 5 && sig != -2147483648", "sig <= 4 && sig >= -2147483647 || sig >= 6"),
        ("tgkill: sig != 5 && sig <= 0x60000000", "sig <= 4 || sig <= 1610612736 && sig >= 6"),
        ("lseek: offset < 0", "offset <= -1"),
        ("lseek: offset >= 0", "offset >= 0"),
        ("lseek: offset >= -3 && offset <= 2", "offset <= 2 && offset >= -3"),
        ("lseek: offset == -1 || offset == 0 || offset == 1", "offset <= 1 && offset >= -1"),
        # by names
        ("kill: sig in {1, 2, 3}", "sig == SIGHUP || sig == SIGINT || sig == SIGQUIT"),
        ("kill: sig >= 1 && sig <= 9", " || ".join(f"sig == {name}" for name in ABORT_TO_TRAP.split())),
        ("kill: sig >= 0 && sig <= 16", "sig <= 16 && sig >= 0"),
        ("kill: sig >= 1 && sig <= 64", "sig <= 64 && sig >= 1"),
        ("prctl: option in {1, 2}", "option == PR_GET_PDEATHSIG || option == PR_SET_PDEATHSIG"),
        ("fcntl: cmd & 0x9 == 0x1 || cmd in {3, 4, 6}", "cmd & 0x9 == 0x1 || cmd == F_SETFL || cmd == F_SETLK"),
        ("ioctl: cmd in {TCGETS, FIONREAD}", "cmd == FIONREAD || cmd == TCGETS"),
        # by bits
        ("openat: flags in O_RDWR|O_CREAT", "flags in O_RDWR|O_CREAT"),
        ("openat: flags in O_CLOEXEC", "flags & O_ACCMODE == O_RDONLY && flags in O_CLOEXEC"),
        ("openat: flags & O_ACCMODE == O_WRONLY && flags in O_WRONLY|O_CREAT",
         "flags & O_ACCMODE == O_WRONLY && flags in O_WRONLY|O_CREAT"),
        ("openat: flags & O_ACCMODE == O_RDONLY", "flags & O_ACCMODE == O_RDONLY"),
        ("openat: flags has O_WRONLY && flags in O_ACCMODE|O_CREAT", "flags has O_WRONLY && flags in O_ACCMODE|O_CREAT"),
        ("openat: flags in O_ACCMODE", "flags in O_ACCMODE"),
        ("openat: flags has O_CREAT|O_EXCL", "flags has O_CREAT|O_EXCL"),
        ("openat: flags & O_CREAT|O_EXCL != 0", "flags & O_CREAT|O_EXCL"),
        ("openat: flags & O_ACCMODE != O_WRONLY", "!(flags & O_ACCMODE == O_WRONLY)"),
        ("mlockall: flags & 0xffff == 0", "flags & 0xffff == 0"),
        ("mlockall: flags & 0x1ffff == 0", "flags in 0xfffe0000"),
        ("openat: !(flags has O_CREAT|O_EXCL)", "!(flags has O_CREAT|O_EXCL)"),
        ("openat: !(flags has O_CREAT)", "flags & O_CREAT == 0"),
        ("openat: flags != O_RDONLY", "flags != O_RDONLY"),
        ("mprotect: prot in PROT_READ|PROT_WRITE",
         "prot == PROT_NONE || prot == PROT_READ || prot == PROT_READ|PROT_WRITE || prot == PROT_WRITE"),
        ("mprotect: !(prot has PROT_WRITE|PROT_EXEC)", "!(prot has PROT_WRITE|PROT_EXEC)"),
        ("mprotect: !(prot has PROT_WRITE|PROT_EXEC) && !(prot has PROT_READ|PROT_SEM)",
         "prot & PROT_EXEC|PROT_SEM == 0 || prot & PROT_READ|PROT_EXEC == 0"
         " || prot & PROT_READ|PROT_WRITE == 0 || prot & PROT_WRITE|PROT_SEM == 0"),
        ("fchmod: mode & 0o111 == 0", "mode & 0111 == 0"),
        ("umask: mask == 0o22", "mask == 022"),
        # whatever they are
        ("read: allow", "allow"),
        ("read: deny", "deny"),
        ("read: fd <= 5 || fd >= 3", "allow"),
        # by several arguments
        ("read: fd == 1 && count < 5 || fd == 2 && count < 5", "fd == 1 && count <= 4 || fd == 2 && count <= 4"),
        ("read: fd == 1 && count < 5 || fd == 2", "fd == 1 && count <= 4 || fd == 2"),
        ("mmap: prot in PROT_READ && flags has MAP_PRIVATE",
         "prot == PROT_NONE && flags has MAP_PRIVATE || prot == PROT_READ && flags has MAP_PRIVATE"),
        ("socket: family == AF_UNIX || family == AF_INET && type == SOCK_STREAM",
         "family == AF_INET && type == SOCK_STREAM || family == AF_UNIX"),
    ],
)  # fmt: skip
def test_a_set_is_written_in_its_shortest_form(line: str, expected: str) -> None:
    assert written(line, 16) == expected


def multiples(count: int) -> str:
    return f"read: fd in {{{', '.join(str(3 * number) for number in range(count))}}}"


def spans(count: int, *, is_box: bool = False) -> str:
    """Six values each, far apart; of `count`, each for another `fd`, or of `fd` itself."""
    argument = "count" if is_box else "fd"
    starts = [7 * number**2 + 1 for number in range(count)]
    parts = [f"fd == {first} && " * is_box + f"{argument} >= {first} && {argument} <= {first + 5}" for first in starts]
    return f"read: {' || '.join(parts)}"


@pytest.mark.parametrize(
    ("line", "limits"),
    [
        ("kill: sig in {1, 2, 3}", {1: 1, 2: 1, 3: 2, 4: 3}),
        ("read: fd in {1, 10, 100, 1000}", {3: 0, 4: 4}),
        ("prctl: option in {1, 2, 4}", {1: 0, 2: 2, 3: 3}),
        ("mprotect: prot in PROT_READ|PROT_WRITE", {1: 1, 3: 1, 4: 4}),
        ("mprotect: prot in 0x1f", {15: 1, 40: 1}),
        ("mprotect: prot in 0xf", {15: 1, 16: 16}),
        ("read: fd == 1 && count < 5 || fd == 20 && count < 7", {2: 0, 3: 2}),
        (multiples(16), {15: 0, 16: 16}),
        (multiples(17), {16: 0, 17: 17}),
        ("openat: flags in {0, 0x441, 0x8000}", {1: 0, 2: 2, 40: 2}),
        (multiples(17).replace("read: fd", "lseek: whence"), {16: 0, 17: 17}),
        ("kill: sig >= 1 && sig <= 17", {17: 1, 40: 1}),
        ("prctl: option >= 1 && option <= 3", {2: 1, 3: 2, 4: 3}),
        ("socket: family & 0xfffffffc == 0x8 && type & 0xfffffffc == 0", {16: 16, 40: 16}),
        ("socket: family & 0xfffffffc == 0x8 && type & 0xfffffff8 == 0", {16: 1, 40: 1}),
        (spans(16), {15: 0, 16: 16}),
        (spans(17), {16: 0, 17: 0, 40: 0}),
        (spans(15, is_box=True), {14: 0, 15: 15}),
        (spans(16, is_box=True), {15: 0, 16: 0, 20: 0}),
        ("lseek: offset >= 5 && offset <= 8 || offset >= 11 && offset <= 30", {1: 0, 2: 2}),
    ],
)
def test_a_limit_decides_how_many_alternatives_are_written(line: str, limits: dict[int, int]) -> None:
    """0: the set has no form of so few."""
    found = {limit: written(line, limit) for limit in limits}
    assert {limit: 0 if text is None else text.count("||") + 1 for limit, text in found.items()} == limits


def test_what_is_no_argument_of_the_call_has_no_form() -> None:
    sets, mmap, read = space(), table(Arch.X86_64).by_name["mmap"], table(Arch.X86_64).by_name["read"]
    for line in ("mmap: off & 1 == 1", "mmap: flags == MAP_PRIVATE", "mmap: len == 7 && prot == PROT_READ"):
        given = parse(f"{line}\n").policy.entries[Arch.X86_64][mmap.number].expression
        where = to_bdd(sets, given, mmap.arguments)
        assert express(sets, where, Arch.X86_64, mmap.number, 16) is not None
        assert express(sets, where, Arch.X86_64, read.number, 16) is None
    assert express(sets, sets.variable(BITS - 1), Arch.X86_64, read.number, 16) is None  # of the instruction pointer


def test_alternatives_that_are_too_complex_stay() -> None:
    call = table(Arch.X86_64).by_name["read"]
    entry = parse("read: fd <= 5 || fd == 3\n").policy.entries[Arch.X86_64][call.number]
    parts = alternatives(entry.expression)
    assert (len(minimise(parts, call.arguments)), len(parts)) == (1, 2)
    assert minimise(parts, call.arguments, lambda: Space(BITS, 5, 5)) == parts


@pytest.mark.parametrize(
    ("one", "other", "kept"),
    [
        ("fd == 3", "fd <= 3 && fd >= 3", 0), ("fd <= 3 && fd >= 3", "fd == 3", 1), ("fd == 3", "!(fd != 3)", 0),
        ("!(fd != 3)", "fd == 3", 0), ("!(fd != 3)", "fd <= 3 && fd >= 3", 0),
    ],
)  # fmt: skip
def test_of_two_alternatives_that_are_the_same_the_shorter_or_the_first_stays(one: str, other: str, kept: int) -> None:
    call = table(Arch.X86_64).by_name["read"]
    parts = [parse(f"read: {text}\n").policy.entries[Arch.X86_64][call.number].expression for text in (one, other)]
    assert minimise(parts, call.arguments) == (parts[kept],)
