"""Filters read back into policies: equal to the original, with a remark on what the language cannot express."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import strategies
from calls import parse, x86_64
from filters import HIGH, IS_7, LOW, dup_filter
from hypothesis import HealthCheck, given, settings, strategies as st
from strategies import EXAMPLES

from callfence.policygen.comparing.compare import Verdict, compare
from callfence.policygen.filter import bpf
from callfence.policygen.filter.bpf import Instruction
from callfence.policygen.filter.compile import CompileError, compile_policy
from callfence.policygen.filter.lift import lift
from callfence.policygen.filter.verify import verify
from callfence.policygen.language.document import new_document, parse_file
from callfence.policygen.language.naming import format_entry
from callfence.policygen.model import And, Condition, Operator, alternatives
from callfence.policygen.sets import region
from callfence.policygen.sets.algebra import FALSE
from callfence.policygen.sets.express import express, minimise
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch, table

if TYPE_CHECKING:
    from callfence.policygen.model import Policy

SAMPLES = sorted((Path(__file__).parents[3] / "samples").glob("*.policy"))
X86_64 = Arch.X86_64


@pytest.mark.long
@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_samples_come_back_as_what_they_mean(path: Path) -> None:
    policy = parse_file(path).policy
    for meant in (policy, replace(policy, implied=0)):
        lifted = lift(compile_policy(meant))
        assert not lifted.remarks
        assert compare(meant, lifted.policy).differences == ()


@pytest.mark.long
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(strategies.policies())
def test_what_is_read_back_compiles_to_an_equivalent_filter(policy: Policy) -> None:
    """For every policy except those with very many alternatives."""
    try:
        program = compile_policy(policy)
    except CompileError:
        return
    lifted = lift(program)
    if lifted.remarks:
        assert all("too many alternatives" in str(remark) for remark in lifted.remarks), lifted.remarks
        return
    assert verify(program, lifted.policy) is None
    comparison = compare(policy, lifted.policy)
    assert not comparison.differences
    assert verify(compile_policy(lifted.policy), policy) is None
    assert parse(new_document(lifted.policy, "it").text()).policy == lifted.policy


@settings(max_examples=2 * EXAMPLES, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_set_is_expressed_exactly(data: st.DataObject) -> None:
    number = data.draw(st.sampled_from(sorted(table(X86_64).by_number)))
    expression = data.draw(strategies.expressions(X86_64, number))
    space = region.space()
    arguments = table(X86_64).by_number[number].arguments
    where = region.to_bdd(space, expression, arguments)
    limit = data.draw(st.sampled_from([2, 64]))
    found = express(space, where, X86_64, number, limit)
    assert found is None or (region.to_bdd(space, found, arguments) == where and len(alternatives(found)) <= limit)


@pytest.mark.parametrize(
    "entry",
    [
        "read: fd <= 2",
        "read: fd != 7",
        "lseek: whence == SEEK_CUR\n    || whence == SEEK_SET",
        "getrandom: flags in GRND_NONBLOCK",
        "getrandom: !(flags in GRND_NONBLOCK)",
        "openat: flags & O_ACCMODE == O_RDONLY && flags in O_CLOEXEC",
        "ioctl: cmd != TIOCSTI",
        "read: fd <= 70 && fd >= 3",
        "read: fd <= 3",
        "read: fd <= 5 && fd >= 3",
        "read: fd == 3\n   || fd == 4",
        "read: fd != 7 && fd != 9",
        "read: fd <= 5\n   || fd >= 9",
        "read: fd >= 1",
        "kill: sig <= 17 && sig >= 1",
        "umask: mask has 020000000000",
        "openat: mode & 0777 == 0644",
        "openat: mode & 0377 == 0",
        "mprotect: prot == PROT_READ|PROT_EXEC",
        "clone: clone_flags has CLONE_NEWUSER else errno EPERM",
        "clone3: errno ENOSYS",
        "socket: family & 4294967280 == 0 && type & 0xfffffff0 == 0 && protocol & 0xfffffff0 == 0",
        "read: count != 2\n   || fd == 16",
        "read: fd != 2 && count <= 99\n   || fd <= 9 && fd >= 3",
        "lseek: fd == 3 && whence == SEEK_SET\n    || offset >= 101 && whence == SEEK_CUR",
        "mmap: prot == PROT_READ && flags == MAP_PRIVATE\n   || prot == PROT_READ|PROT_WRITE && fd == -1",
    ],
)
def test_entries_are_written_as_a_person_would(entry: str) -> None:
    policy = parse(entry).policy
    [(number, lifted)] = lift(compile_policy(policy)).policy.entries[X86_64].items()
    assert format_entry(X86_64, number, lifted) == entry


def test_conditions_that_hold_together_are_one_alternative() -> None:
    """Two conditions joined by AND are shorter than their negation, which is two alternatives."""
    text = "default allow\nopenat: log if flags has O_CREAT && mode has 0100"
    policy = parse(text).policy
    [(number, lifted)] = lift(compile_policy(policy)).policy.entries[X86_64].items()
    assert format_entry(X86_64, number, lifted) == text.splitlines()[1]


@pytest.mark.parametrize(("mode", "is_allowed"), [("011", True), ("0111", False)])
def test_what_allows_is_written_unless_it_is_four_times_longer(mode: str, is_allowed: bool) -> None:
    """Each bit that is missing is an alternative."""
    policy = parse(f"openat: !(flags has O_CREAT|O_EXCL && mode has {mode})").policy
    [entry] = lift(compile_policy(policy)).policy.entries[X86_64].values()
    assert entry.only_allows is is_allowed


IP = Instruction(bpf.LD | bpf.ABS, k=8)


@pytest.mark.parametrize(
    ("program", "remark", "entry"),
    [
        (dup_filter(LOW, IS_7), "", "dup: fildes == 7"),
        (dup_filter(LOW, IS_7, foreign=bpf.ret(bpf.action(0x50001))), "other architectures (errno EPERM", "dup: fildes == 7"),
        (dup_filter(LOW, IS_7, foreign=bpf.KILL_THREAD), "kills only the calling thread", "dup: fildes == 7"),
        (dup_filter(LOW, IS_7, unknown=bpf.TRACE), "stops for a tracer", "dup: fildes == 7"),
        (dup_filter(LOW, IS_7, unknown=0x50000), "skips calls, which then succeed", "dup: fildes == 7"),
        (dup_filter(LOW, IS_7, unknown=0x30007), "traps with the datum 7", "dup: fildes == 7"),
        (dup_filter(LOW, IS_7, x32=0x50026), "x32 calls (errno ENOSYS", "dup: fildes == 7"),
        (
            dup_filter(HIGH, Instruction(bpf.JMP | bpf.JEQ | bpf.K, 0, 2, 0), LOW, IS_7),
            "dup with something in the bits of fildes",
            "dup: fildes == 7",
        ),
        (dup_filter(IP, IS_7), "the instruction pointer", "dup: deny"),
    ],
    ids=["all is said", "foreign", "thread", "tracer", "success", "datum", "x32", "upper half", "instruction pointer"],
)
def test_what_the_language_cannot_express_has_a_remark(program: bytes, remark: str, entry: str) -> None:
    with x86_64():
        lifted = lift(program)
    assert [remark in str(one) for one in lifted.remarks] == [True] * bool(remark)
    number = table(X86_64).by_name["dup"].number
    found = lifted.policy.entries[X86_64].get(number)
    assert (format_entry(X86_64, number, found) if found else "dup: deny") == entry


ALLOWED, DENIED = Instruction(bpf.RET | bpf.K, k=0x7FFF0000), Instruction(bpf.RET | bpf.K, k=0x50001)


@pytest.mark.parametrize(
    ("program", "wider", "narrower"),
    [
        (dup_filter(LOW, IS_7, foreign=0x7FFF0000), False, True),
        (dup_filter(LOW, IS_7, foreign=0x50001), False, False),
        (dup_filter(HIGH, Instruction(bpf.JMP | bpf.JEQ | bpf.K, 0, 2, 0), LOW, IS_7), True, False),
        (dup_filter(HIGH, Instruction(bpf.JMP | bpf.JEQ | bpf.K, 2, 0, 0), LOW, IS_7), False, True),
        (dup_filter(IP, IS_7), False, True),
        (dup_filter(IP, IS_7, DENIED, DENIED._replace(k=0x50002)), False, False),
        (dup_filter(IP, IS_7, ALLOWED, ALLOWED._replace(k=0x7FFC0000)), False, False),
        (dup_filter(IP, IS_7, ALLOWED, DENIED), False, True),
    ],
)
def test_a_remark_has_the_direction_of_the_difference(program: bytes, wider: bool, narrower: bool) -> None:
    with x86_64():
        [remark] = lift(program).remarks
    assert (remark.wider, remark.narrower) == (wider, narrower)


def with_number(name: str, program: bytes) -> bytes:
    """The filter of `dup`, for another call."""
    dup, other = (table(X86_64).by_name[each].number for each in ("dup", name))
    return bpf.encode(one._replace(k=other) if one.k == dup else one for one in bpf.decode(program))


def test_a_register_that_the_call_does_not_have_is_numbered_from_one() -> None:
    second = Instruction(bpf.LD | bpf.ABS, k=24)
    with x86_64():
        [remark] = lift(with_number("getppid", dup_filter(second, IS_7))).remarks
    assert str(remark).startswith("getppid with something in the bits of argument 2 that the kernel ignores")


def test_of_many_alternatives_the_last_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [f"{name}: fd in {{1, 4}}" for name in ("read", "write", "lseek")]
    program = compile_policy(parse("\n".join(entries)).policy)
    assert lift(program).remarks == ()
    monkeypatch.setattr("callfence.policygen.filter.lift.MAX_ALL_RULES", 4)
    [remark] = lift(program).remarks
    assert str(remark) == "lseek, whose condition has too many alternatives: denied in this policy"
    monkeypatch.setattr("callfence.policygen.filter.lift.MAX_RULES", 1)
    assert [remark.call for remark in lift(program).remarks] == ["read", "write", "lseek"]


@pytest.mark.parametrize(("lines", "version"), [("table 6.10", (6, 10)), ("default errno ENOSYS", (7, 3))])
def test_the_table_is_the_newest_whose_newer_numbers_are_unknown(lines: str, version: tuple[int, int]) -> None:
    assert lift(compile_policy(parse(f"{lines}\nread: allow\n").policy)).policy.table == version


def test_the_newest_call_of_a_table_has_its_entry() -> None:
    policy = parse("table 6.10\nmseal: flags == 0\n").policy
    assert lift(compile_policy(policy)).policy == policy


@pytest.mark.parametrize(
    ("actions", "text"),
    [
        ((0x50001, 0x50002, 0x50003), "errno EPERM, errno ENOENT, errno ESRCH"),
        ((0x7FC00000, 0x7FFC0000, 0x7FFF0000), "notify, log, allow"),
    ],
)
def test_of_three_actions_of_one_kind_it_is_the_strictest(actions: tuple[int, ...], text: str) -> None:
    one, two, three = (DENIED._replace(k=action) for action in actions)
    with x86_64():
        lifted = lift(dup_filter(LOW, Instruction(bpf.JMP | bpf.JEQ | bpf.K, 0, 1, 7), one, IS_7._replace(k=8), two, three))
    [remark] = lifted.remarks
    assert f"dup, which has more than two actions ({text})" in str(remark)
    assert (remark.wider, remark.narrower) == (False, False)


NEGATIVE = Instruction(bpf.JMP | bpf.JSET | bpf.K, 0, 1, 0x80000000)


@pytest.mark.parametrize(
    ("answers", "text", "whole"),
    [
        ([NEGATIVE, DENIED], "negative numbers, which are no calls (errno EPERM here; errno ENOSYS in the policy)", True),
        (
            [NEGATIVE._replace(jf=3), LOW, Instruction(bpf.JMP | bpf.JEQ | bpf.K, 0, 1, 7), DENIED],
            "negative numbers, which are no calls (errno EPERM here; errno ENOSYS in the policy)", False,
        ),
        (
            [Instruction(bpf.JMP | bpf.JEQ | bpf.K, 0, 1, 5000), DENIED],
            "numbers of x86_64 above {newest}, some of which do not get errno ENOSYS here", False,
        ),
    ],
    ids=["negative", "negative by an argument", "one number"],
)  # fmt: skip
def test_numbers_outside_the_table(answers: list[Instruction], text: str, whole: bool) -> None:
    start = list(bpf.decode(dup_filter(LOW, IS_7)))
    reload = [Instruction(bpf.LD | bpf.ABS, k=0)] * (LOW in answers)
    start[5:5] = [*answers, *reload]
    start[4] = start[4]._replace(jf=4 + len(answers) + len(reload))
    with x86_64():
        [remark] = lift(bpf.encode(start)).remarks
    assert (str(remark), remark.whole) == (text.format(newest=table(X86_64).newest((6, 18))), whole)


def test_a_filter_that_allows_everything() -> None:
    with x86_64():
        lifted = lift(bpf.encode([Instruction(bpf.RET | bpf.K, k=0x7FFF0000)]))
    assert [str(remark) for remark in lifted.remarks] == [
        "calls of other architectures (allow here), which a policy always kills",
        "x32 calls (allow here), which a policy always kills",
    ]
    assert compare(parse("default allow\nunknown allow\n").policy, lifted.policy).verdict is Verdict.EQUAL


def test_a_filter_that_kills_for_everything() -> None:
    """It has a section all the same, as a policy must."""
    with x86_64():
        lifted = lift(bpf.encode([Instruction(bpf.RET | bpf.K, k=0x80000000)]))
    assert (lifted.remarks, [*lifted.policy.entries]) == ((), [X86_64])
    assert compare(parse("default kill\nunknown kill\n").policy, lifted.policy).verdict is Verdict.EQUAL


def test_an_address_that_is_compared_is_denied_where_it_may_be() -> None:
    """execve: only if the first argument's low half is 7."""
    start = list(bpf.decode(dup_filter(LOW, IS_7)))
    number = table(X86_64).by_name["execve"].number
    start[9] = start[9]._replace(k=number)
    lifted = lift(bpf.encode(start))
    assert "the addresses of filename: " in str(lifted.remarks[0])
    assert not lifted.remarks[0].whole
    assert number not in lifted.policy.entries[X86_64]


def test_more_than_two_actions_and_numbers_that_are_no_calls() -> None:
    """Three actions of one call, of which the policy can have two; and a number between two calls, which it cannot name."""
    seccomp = pytest.importorskip("pyseccomp")
    made = seccomp.SyscallFilter(seccomp.ERRNO(1))
    made.add_rule(seccomp.ALLOW, "dup", seccomp.Arg(0, seccomp.EQ, 7))
    made.add_rule(seccomp.ERRNO(2), "dup", seccomp.Arg(0, seccomp.EQ, 8))
    made.add_rule(seccomp.ALLOW, 400)
    with tempfile.TemporaryFile() as file, x86_64():
        made.export_bpf(file)
        file.seek(0)
        lifted = lift(file.read())
    remarks = {str(remark) for remark in lifted.remarks}
    assert any("dup, which has more than two actions (errno EPERM, errno ENOENT, allow)" in text for text in remarks), remarks
    assert any("numbers of x86_64 that are no calls: 400 (allow here)" in text for text in remarks), remarks


def test_of_two_equal_alternatives_the_first_is_kept() -> None:
    equal = [Condition(0, Operator.EQ, 3), Condition(0, Operator.ONE_OF, values=(3,))]
    longer = And((Condition(0, Operator.EQ, 3), Condition(0, Operator.LE, 3)))
    arguments = table(X86_64).by_name["dup"].arguments
    for first, second in (equal, equal[::-1]):
        assert minimise([first, second], arguments) == minimise([longer, first, second], arguments) == (first,)


def test_the_empty_set_is_expressed_as_never() -> None:
    assert express(region.space(), FALSE, X86_64, 0, 1) is not None


def test_a_container_runtimes_profile_as_libseccomp_compiles_it() -> None:
    """The shapes of moby's default profile: three architectures, values, a mask, and what 64-bit comparisons see."""
    seccomp = pytest.importorskip("pyseccomp")
    made = seccomp.SyscallFilter(seccomp.ERRNO(1))
    made.add_arch(seccomp.Arch.X86)
    made.add_arch(seccomp.Arch.X32)
    for name in ("read", "write", "exit_group", "socketcall"):
        made.add_rule(seccomp.ALLOW, name)
    for persona in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF):
        made.add_rule(seccomp.ALLOW, "personality", seccomp.Arg(0, seccomp.EQ, persona))
    made.add_rule(seccomp.ALLOW, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, 0x7E020000, 0))
    made.add_rule(seccomp.ALLOW, "socket", seccomp.Arg(0, seccomp.NE, 40))
    made.add_rule(seccomp.ERRNO(38), "clone3")
    with tempfile.TemporaryFile() as file:
        made.export_bpf(file)
        file.seek(0)
        lifted = lift(file.read())
    assert [str(remark) for remark in lifted.remarks if "bits of" not in str(remark)] == [
        "kills only the calling thread, where the policy kills the process",
        "x32 calls (allow here), which a policy always kills",
    ]
    assert all(remark.whole for remark in lifted.remarks)
    namespaces = "CLONE_NEWNS|CLONE_NEWCGROUP|CLONE_NEWUTS|CLONE_NEWIPC|CLONE_NEWUSER|CLONE_NEWPID|CLONE_NEWNET"
    expected = f"""\
clone: clone_flags & {namespaces} == 0
clone3: errno ENOSYS
exit_group: allow
personality: personality in {{0, 8, 0x20000, 0x20008, -1}}
read: allow
socket: family != AF_VSOCK
write: allow
"""
    text = f"default errno EPERM\nunknown errno EPERM\narch x86_64\n{expected}arch i386\n{expected}socketcall: allow\n"
    assert compare(parse(text).policy, lifted.policy).differences == ()


@pytest.mark.long
@pytest.mark.parametrize(("count", "denied"), [(256, []), (257, ["read"])])
def test_a_condition_has_256_alternatives_at_most(count: int, denied: list[str]) -> None:
    numbers = ", ".join(map(str, random.Random(1).sample(range(1 << 31), count)))
    assert [remark.call for remark in lift(compile_policy(parse(f"read: fd in {{{numbers}}}").policy)).remarks] == denied
