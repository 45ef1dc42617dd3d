"""Compiled filters: the reference semantics, the interpreter and the kernel give the same verdict."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import subprocess
import sys
import time
from importlib.machinery import PathFinder
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import strategies
from calls import event, parse
from hypothesis import HealthCheck, given, reject, settings, strategies as st
from strategies import EXAMPLES

from callfence.policygen.evaluate import answer, evaluate
from callfence.policygen.filter import bpf, compile as compiler, libseccomp
from callfence.policygen.filter.compile import CompileError, WrongFilterError, compile_policy
from callfence.policygen.filter.verify import meaning, verify
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.model import (
    ALLOW,
    ENOSYS,
    KILL,
    Action,
    ActionKind,
    Always,
    And,
    Condition,
    Entry,
    Expression,
    Not,
    Operator,
    Or,
    Policy,
)
from callfence.policygen.values import replace
from callfence.tracer.abi import X32_BIT, Arch, Event, table

if TYPE_CHECKING:

    from probe import Probe

    from callfence.policygen.filter.bpf import Instruction

X86_64, I386 = Arch.X86_64, Arch.I386
NOTIFY, LOG, TRAP = (Action(kind) for kind in (ActionKind.NOTIFY, ActionKind.LOG, ActionKind.TRAP))
EXDEV = Action(ActionKind.ERRNO, 18)
FULL = (1 << 64) - 1


# Calls that do no harm whatever their arguments, but for the first: read lseek dup umask getpriority fadvise64
READ, LSEEK, DUP, UMASK, GETPRIORITY, FADVISE64 = 0, 8, 32, 95, 140, 221
LSEEK_32, DUP_32, UMASK_32, GETPRIORITY_32 = 19, 41, 60, 96

Row = tuple[Arch, int, tuple[int, ...], Action]
VERDICTS: list[tuple[str, list[Row]]] = [
    (
        "lseek: allow",
        [
            (X86_64, LSEEK, (1, 2, 3), ALLOW),
            (X86_64, DUP, (1,), EXDEV),
            (I386, LSEEK_32, (1,), KILL),
            (X86_64, LSEEK | X32_BIT, (1,), KILL),
            (X86_64, 2 * X32_BIT - 1, (), KILL),
            (X86_64, 600, (), ENOSYS),
            (X86_64, X32_BIT - 1, (), ENOSYS),
            (X86_64, 2 * X32_BIT, (), ENOSYS),
            (X86_64, 0xFFFFFFFF, (), ENOSYS),
        ],
    ),
    (
        "dup: fildes == 7",
        [
            (X86_64, DUP, (7,), ALLOW),
            (X86_64, DUP, (7 | 1 << 32,), ALLOW),
            (X86_64, DUP, (7 | FULL << 32 & FULL,), ALLOW),
            (X86_64, DUP, (8,), EXDEV),
            (X86_64, DUP, (0,), EXDEV),
            (X86_64, DUP, (7 << 32,), EXDEV),
        ],
    ),
    (
        "umask: mask == -1",
        [
            (X86_64, UMASK, (0xFFFFFFFF,), ALLOW),
            (X86_64, UMASK, (FULL,), ALLOW),
            (X86_64, UMASK, (0x7FFFFFFF,), EXDEV),
            (X86_64, UMASK, (0,), EXDEV),
        ],
    ),
    (
        "umask: mask < 0",
        [
            (X86_64, UMASK, (0x80000000,), ALLOW),
            (X86_64, UMASK, (0xFFFFFFFF,), ALLOW),
            (X86_64, UMASK, (0x7FFFFFFF,), EXDEV),
            (X86_64, UMASK, (0xFFFFFFFF00000000,), EXDEV),
            (X86_64, UMASK, (0,), EXDEV),
        ],
    ),
    (
        "dup: fildes >= 0x80000000",
        [
            (X86_64, DUP, (0x80000000,), ALLOW),
            (X86_64, DUP, (FULL,), ALLOW),
            (X86_64, DUP, (0x7FFFFFFF,), EXDEV),
            (X86_64, DUP, (FULL << 32 & FULL,), EXDEV),
        ],
    ),
    (
        "lseek: offset >= 4096 && offset < 10000",
        [
            (X86_64, LSEEK, (1, 4095), EXDEV),
            (X86_64, LSEEK, (1, 4096), ALLOW),
            (X86_64, LSEEK, (1, 9999), ALLOW),
            (X86_64, LSEEK, (1, 10000), EXDEV),
            (X86_64, LSEEK, (1, 5000 | 1 << 32), EXDEV),
            (X86_64, LSEEK, (1, FULL), EXDEV),
        ],
    ),
    (
        "lseek: offset > -3 && offset <= 0x100000000",
        [
            (X86_64, LSEEK, (1, FULL - 1), ALLOW),
            (X86_64, LSEEK, (1, FULL - 2), EXDEV),
            (X86_64, LSEEK, (1, 0), ALLOW),
            (X86_64, LSEEK, (1, 1 << 32), ALLOW),
            (X86_64, LSEEK, (1, (1 << 32) + 1), EXDEV),
            (X86_64, LSEEK, (1, 0xFFFFFFFE), ALLOW),
            (X86_64, LSEEK, (1, 1 << 63), EXDEV),
        ],
    ),
    (
        "lseek: fd != 0 && offset != 0 && whence != 0",
        [
            (X86_64, LSEEK, (1, 1 << 63, 1), ALLOW),
            (X86_64, LSEEK, (1 << 31, 1, 1 << 31), ALLOW),
            (X86_64, LSEEK, (1 << 32, 1, 1), EXDEV),
            (X86_64, LSEEK, (1, 0, 1), EXDEV),
            (X86_64, LSEEK, (1, 1, 0), EXDEV),
            (X86_64, DUP, (), EXDEV),
        ],
    ),
    (
        "fadvise64: (fd == 1 && advice in {1, 2, 4} || len has 0x300000000 && !(advice == 3)) else errno EPERM",
        [
            (X86_64, FADVISE64, (1, 0, 0, 4), ALLOW),
            (X86_64, FADVISE64, (1, 0, 0, 3), Action(ActionKind.ERRNO, 1)),
            (X86_64, FADVISE64, (2, 0, 0x700000000, 4), ALLOW),
            (X86_64, FADVISE64, (2, 0, 0x700000000, 3), Action(ActionKind.ERRNO, 1)),
            (X86_64, FADVISE64, (2, 0, 0x3, 4), Action(ActionKind.ERRNO, 1)),
            (X86_64, LSEEK, (), EXDEV),
        ],
    ),
    (
        "dup: errno ENOSYS\nlseek: trap\numask: log\nfadvise64: kill\ngetpriority: notify",
        [
            (X86_64, DUP, (), ENOSYS),
            (X86_64, LSEEK, (), TRAP),
            (X86_64, UMASK, (), LOG),
            (X86_64, FADVISE64, (), KILL),
            (X86_64, GETPRIORITY, (), NOTIFY),
        ],
    ),
    (
        "dup: fildes == 1 else trap\nlseek: fd == 1 else kill\n"
        "umask: mask == 1 else log\ngetpriority: which == 1 else allow",
        [
            (X86_64, DUP, (1,), ALLOW),
            (X86_64, DUP, (2,), TRAP),
            (X86_64, LSEEK, (1,), ALLOW),
            (X86_64, LSEEK, (2,), KILL),
            (X86_64, UMASK, (2,), LOG),
            (X86_64, GETPRIORITY, (2,), ALLOW),
            (X86_64, FADVISE64, (), EXDEV),
        ],
    ),
    (
        "lseek: fd == 1\narch i386\nlseek: offset == -2\ndup: fildes in 3",
        [
            (X86_64, LSEEK, (1,), ALLOW),
            (X86_64, LSEEK, (0, 0xFFFFFFFE), EXDEV),
            (I386, LSEEK_32, (0, 0xFFFFFFFE), ALLOW),
            (I386, LSEEK_32, (1,), EXDEV),
            (I386, DUP_32, (3,), ALLOW),
            (I386, DUP_32, (4,), EXDEV),
            (I386, UMASK_32, (), EXDEV),
            (I386, 600, (), ENOSYS),
            (I386, X32_BIT | LSEEK_32, (), ENOSYS),
        ],
    ),
    (
        "arch i386\numask: allow",
        [
            (I386, UMASK_32, (), ALLOW),
            (X86_64, UMASK_32, (), KILL),
        ],
    ),
]


@pytest.mark.parametrize(("text", "rows"), VERDICTS, ids=[text.split("\n")[0] for text, _ in VERDICTS])
def test_verdicts(text: str, rows: list[Row], probe: Probe) -> None:
    policy = parse(f"callfence 1\ndefault errno EXDEV\n{text}\n").policy
    program = compile_policy(policy)
    expected = [(event(number, *arguments, arch=arch), action) for arch, number, arguments, action in rows]
    for one, action in expected:
        assert evaluate(policy, one) == action
        assert bpf.action(bpf.run(program, one)) == action
    probe.agrees(program, expected)


many = settings(
    max_examples=3 * EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@pytest.mark.long
@many
@given(st.data())
def test_random_policies_are_what_the_interpreter_runs(data: st.DataObject) -> None:
    policy = data.draw(strategies.policies())
    report = data.draw(st.booleans())
    program = compiled(policy, report)
    meant, refused = meaning(resolved(policy), report=report)
    for _ in range(5):
        one = data.draw(strategies.events(policy))
        verdict = bpf.action(bpf.run(program, one))
        arch = Arch.from_audit(one.arch)
        foreign = arch not in policy.entries or (arch is X86_64 and X32_BIT <= one.number < 2 * X32_BIT)
        assert verdict == (refused if report and foreign else answer(meant, one))


def compiled(policy: Policy, report: bool = False) -> bytes:
    """The filter; the example is rejected if the filter is too large."""
    try:
        return compile_policy(policy, report=report)
    except CompileError as error:
        if "instructions" not in str(error) and "masked comparisons" not in str(error):
            raise
        reject()


HARMLESS = {X86_64: (LSEEK, DUP, UMASK, GETPRIORITY, FADVISE64), I386: (LSEEK_32, DUP_32, UMASK_32, GETPRIORITY_32)}


@st.composite
def harmless(draw: st.DrawFn) -> tuple[Policy, list[Event]]:
    """A policy about harmless calls, and such calls."""
    entries = {}
    for arch, numbers in HARMLESS.items():
        chosen = draw(st.lists(st.sampled_from(numbers), max_size=3, unique=True))
        entries[arch] = {number: draw(strategies.entries(arch, number)) for number in chosen}
    policy = Policy(entries, default=draw(strategies.actions()))
    drawn = draw(st.lists(strategies.events(policy), min_size=8, max_size=8))
    made = [one for one in drawn if one.number in HARMLESS.get(Arch.from_audit(one.arch) or Arch.AARCH64, ())]
    return policy, made


@settings(many, max_examples=EXAMPLES)
@given(harmless())
def test_random_policies_are_what_the_kernel_runs(probe: Probe, example: tuple[Policy, list[Event]]) -> None:
    policy, events = example
    program = compiled(policy)
    probe.agrees(program, [(one, evaluate(policy, one)) for one in events])


# What the kernel does with it


def is_constant(program: bytes, arch: Arch, number: int) -> bool:
    """Whether the kernel finds out, when the filter is loaded, that it allows the call whatever its arguments:
    seccomp_is_const_allow (kernel/seccomp.c, since 5.11).  It then never runs the filter for it."""
    accumulator = pc = 0
    instructions = bpf.decode(program)
    while True:
        code, jt, jf, k = instructions[pc]
        pc += 1
        if code == bpf.LD | bpf.ABS and k in (bpf.NUMBER, bpf.ARCH):
            accumulator = number if k == bpf.NUMBER else arch.audit
        elif code == bpf.RET | bpf.K:
            return k == bpf.ret(ALLOW)
        elif code == bpf.JMP | bpf.JA:
            pc += k
        elif code & 0xF == bpf.JMP | bpf.K:
            pc += jt if bpf.jumps(code & 0xF0, accumulator, k) else jf
        elif code == bpf.ALU | bpf.AND | bpf.K:
            accumulator &= k
        else:
            return False


def large_policy() -> Policy:
    """Every other call of x86_64 and i386 allowed, many of the others under a condition of their first argument."""
    entries = {}
    for arch in (X86_64, I386):
        section = {}
        for place, number in enumerate(sorted(table(arch).by_number)):
            arguments = table(arch).by_number[number].arguments
            if place % 2 == 0:
                section[number] = Entry(Always(True))
            elif arguments and place % 3:
                otherwise = (None, Action(ActionKind.ERRNO, 1), Action(ActionKind.ERRNO, 13))[place % 5 // 2]
                section[number] = Entry(Condition(0, Operator.EQ, place % 7), otherwise=otherwise)
        entries[arch] = section
    return Policy(entries, table=table(X86_64).versions()[-1])


def test_calls_that_are_always_allowed_cost_nothing() -> None:
    policy = large_policy()
    program = compile_policy(policy)
    always = {
        (arch, number)
        for arch, entries in policy.entries.items()
        for number, entry in entries.items()
        if entry.expression == Always(True)
    }
    for arch in policy.entries:
        for number in range(500):
            assert is_constant(program, arch, number) == ((arch, number) in always), (arch, number)


@pytest.mark.long
def test_a_large_policy_is_compiled_and_proved_quickly() -> None:
    policy = large_policy()
    program = compile_policy(policy)
    start = time.process_time()
    assert verify(program, policy) is None
    assert time.process_time() - start < 3  # about 0.3 s on an idle machine
    assert len(program) // 8 < 2000


@pytest.mark.parametrize(
    ("entries", "most"),
    [
        ("dup: allow", 13),
        ("dup: fildes == 7", 15),
        ("lseek: offset == 7", 17),
        ("dup: allow\nlseek: fd == 7", 19),
        ("lseek: fd != 0 && offset != 0", 22),
        ("openat: !(flags & 3 == 0)", 19),  # two values to allow, or one to deny
    ],
)
def test_a_small_policy_has_a_small_filter(entries: str, most: int) -> None:
    assert len(compile_policy(parse(f"arch x86_64\n{entries}\n").policy)) // 8 <= most


def test_deep_conditions_of_every_bit() -> None:
    """As deep as the parser allows, over all the 64-bit arguments that a call has."""
    expression: Expression = And(tuple(Condition(index, Operator.EQ, FULL >> 1) for index in range(5)))
    for level in range(64):
        expression = Or((Condition(level % 5, Operator.EQ, level), And((Not(Not(expression)),))))
    policy = Policy({X86_64: {table(X86_64).by_name["mremap"].number: Entry(expression)}})
    assert verify(compile_policy(policy), policy) is None


def test_the_order_of_entries_does_not_change_the_filter() -> None:
    policy = large_policy()
    backwards = {arch: dict(reversed(entries.items())) for arch, entries in reversed(policy.entries.items())}
    assert compile_policy(policy) == compile_policy(replace(policy, entries=backwards))


def test_i386_sockets_are_not_let_in_through_socketcall() -> None:
    """Asked for i386 by name, libseccomp allows `socketcall` too wherever `socket` is allowed."""
    policy = parse("callfence 1\narch i386\nsocket: family == 2\n").policy
    program = compile_policy(policy)
    assert bpf.action(bpf.run(program, event(359, 2, arch=I386))) == ALLOW
    assert bpf.action(bpf.run(program, event(102, 1, arch=I386))) == KILL


# Reports


def test_reports_take_the_place_of_the_default() -> None:
    policy = parse("callfence 1\nread: fd == 0\nwrite: fd == 1 else kill\nclone3: errno ENOSYS\n").policy
    program = compile_policy(policy, report=True)
    close = table(X86_64).by_name["close"].number
    for one, action in [
        (event(0, 0), ALLOW),
        (event(0, 1), NOTIFY),
        (event(1, 2), NOTIFY),
        (event(435), ENOSYS),
        (event(39), NOTIFY),
        (event(close), NOTIFY),
        (event(0 | X32_BIT), NOTIFY),
        (event(5000), ENOSYS),
        (event(3, arch=I386), NOTIFY),
        (Event(0x40000028, 3), NOTIFY),
    ]:
        assert bpf.action(bpf.run(program, one)) == action, one
    assert verify(program, policy, report=True) is None
    assert verify(program, policy) is not None


@pytest.mark.parametrize("entry", ["umask: kill", "umask: mask == 1 else kill"])
def test_no_report_of_a_kill_where_the_program_may_install_filters(entry: str) -> None:
    """A filter of the program that fails a call would take precedence over the notification of it."""
    policy = parse(f"callfence 1\ndefault allow\n{entry}\n").policy
    program = compile_policy(policy, report=True)
    assert bpf.action(bpf.run(program, event(3, arch=I386))) == KILL
    assert bpf.action(bpf.run(program, event(0 | X32_BIT))) == KILL
    assert verify(program, policy, report=True) is None


@pytest.mark.parametrize("lines", ["", "default allow\n"], ids=["", "the program may install filters"])
def test_an_audit_is_notified_of_every_denial_but_those_of_calls_newer_than_the_table(lines: str) -> None:
    policy = parse(f"callfence 1\n{lines}read: fd == 0 else kill\nwrite: trap\nclone3: errno EPERM\numask: log\n").policy
    program = compile_policy(policy, report=True, audit=True)
    denied = [event(0, 1), event(1), event(435), event(0 | X32_BIT), event(3, arch=I386), Event(0x40000028, 3)]
    for one, action in [(event(0, 0), ALLOW), (event(95), LOG), (event(5000), ENOSYS), *((one, NOTIFY) for one in denied)]:
        assert bpf.action(bpf.run(program, one)) == action, one
    assert verify(program, policy, report=True, audit=True) is None
    assert verify(program, policy, report=True) is not None


# Refusals


def test_a_filter_that_is_too_large_names_the_largest_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    def scattered(count: int) -> tuple[int, ...]:
        return tuple(sorted(place * 0x9E3779B1 & 0x7FFFFFFF for place in range(count)))

    pairs = (And((Condition(0, Operator.EQ, fd), Condition(2, Operator.EQ, fd << 20))) for fd in range(60))
    entries = {
        DUP: Entry(Condition(0, Operator.ONE_OF, values=scattered(30))),
        UMASK: Entry(Condition(0, Operator.ONE_OF, values=scattered(90))),
        LSEEK: Entry(Condition(0, Operator.EQ, 5)),
        FADVISE64: Entry(Or(tuple(pairs))),
        GETPRIORITY: Entry(Condition(0, Operator.ONE_OF, values=scattered(3))),
        READ: Entry(Condition(0, Operator.EQ, 5)),
    }
    policy = Policy({X86_64: entries})
    needed = len(compile_policy(policy)) // 8
    monkeypatch.setattr(bpf, "MAX_INSTRUCTIONS", needed - 1)
    size = rf"needs {needed} instructions, but the kernel accepts {needed - 1}\. Most belong to: "
    with pytest.raises(CompileError, match=size) as caught:
        compile_policy(policy)
    named = str(caught.value).split("Most belong to: ")[1].split(". ")[0].split(", ")
    assert [name.split()[0] for name in named] == ["fadvise64", "umask", "dup", "getpriority", "lseek"]
    shares = [int(name.split()[1]) for name in named]
    assert shares == sorted(shares, reverse=True)
    assert 0.9 * needed < sum(shares) < 1.1 * needed
    both = Policy({X86_64: entries, I386: {DUP_32: Entry(Condition(0, Operator.EQ, 5))}})
    with pytest.raises(CompileError, match=r"Most belong to: fadvise64 \(x86_64\) \d+, umask \(x86_64\) "):
        compile_policy(both)


def test_a_condition_that_no_filter_can_hold() -> None:
    other = And(tuple(Condition(index, Operator.NE, 0) for index in range(3)))
    some = Or(tuple(Condition(index, Operator.EQ, 7) for index in range(3)))
    condition = And((other, Or((some, And(tuple(Condition(index, Operator.GE, 1000) for index in range(3)))))))
    with pytest.raises(CompileError, match=r"the condition of lseek takes more than 4096 masked comparisons"):
        compile_policy(Policy({X86_64: {LSEEK: Entry(condition)}}))


@pytest.mark.long
def test_a_condition_that_is_too_complex() -> None:
    bits = [And(tuple(Condition(index, Operator.MASKED, 0, 1 << (7 * place + 3 * index) % 31) for index in range(5)))
            for place in range(60)]  # fmt: skip
    with pytest.raises(CompileError, match=r"^the condition of prctl is too complex: "):
        compile_policy(Policy({X86_64: {157: Entry(Or(tuple(bits)))}}))


def test_a_call_that_does_not_exist() -> None:
    with pytest.raises(CompileError, match="x86_64 has no system call 400"):
        compile_policy(Policy({X86_64: {400: Entry(Always(True))}}))


def test_what_libseccomp_gets_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(default: int, rules: list[libseccomp.LibseccompRule]) -> list[Instruction]:
        numbers = {1: 0}  # answers for `write` what was asked for `read`
        changed = [libseccomp.LibseccompRule(numbers.get(r.number, r.number), r.ret, r.alternatives) for r in rules]
        return libseccomp.generate(default, changed)

    monkeypatch.setattr(compiler, "generate", wrong)
    with pytest.raises(WrongFilterError, match=r"libseccomp wrote a wrong filter.* read\(.* with allow"):
        compile_policy(parse("callfence 1\nwrite: fd == 1\n").policy)


# libseccomp, at arm's length


def test_libseccomp_is_imported_only_when_it_is_needed() -> None:
    code = "import sys, callfence.policygen.filter.compile; sys.exit('pyseccomp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_libseccomp_is_named_with_its_package() -> None:
    code = """
import ctypes
load = ctypes.CDLL
def without(name, *arguments, **options):
    if "seccomp" in (name or ""):
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")
    return load(name, *arguments, **options)
ctypes.CDLL = without
from callfence.policygen.filter.compile import compile_policy
from callfence.policygen.filter.libseccomp import MissingLibraryError
from callfence.policygen.language.document import parse
try:
    compile_policy(parse("callfence 1\\nread: allow\\n").policy)
except MissingLibraryError as error:
    print(error)
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "libseccomp is missing" in output
    assert "libseccomp2" in output


def test_a_hang_is_ended_and_leaves_no_child() -> None:
    def hang() -> bytes:
        while True:
            pass

    start = time.monotonic()
    with pytest.raises(libseccomp.LibseccompError, match=r"did not compile the policy within 0\.2 s"):
        libseccomp._in_child(hang, 0.2)
    assert time.monotonic() - start < 60
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_crash_is_told() -> None:
    with pytest.raises(libseccomp.LibseccompError, match="crashed"):
        libseccomp._in_child(lambda: os.kill(os.getpid(), signal.SIGKILL) or b"", 5)


def test_a_refusal_is_told() -> None:
    rule = libseccomp.LibseccompRule(LSEEK, bpf.ret(ALLOW), (((0, FULL, 1), (0, FULL, 2)),))  # one argument twice
    with pytest.raises(libseccomp.LibseccompError, match=r"refused the rules: .*Invalid argument"):
        libseccomp.generate(bpf.ret(KILL), [rule])


def test_a_child_has_limits_that_outlive_its_parent() -> None:
    names = (resource.RLIMIT_CPU, resource.RLIMIT_CORE)
    assert libseccomp._in_child(lambda: repr([resource.getrlimit(name) for name in names]).encode(), 5) == b"[(6, 6), (0, 0)]"


def test_what_is_exported_may_be_larger_than_a_filter() -> None:
    program = SimpleNamespace(export_bpf=lambda file: file.write(bytes(1 << 19)))
    assert libseccomp._in_child(lambda: libseccomp._exported(program), 5) == bytes(1 << 19)


@pytest.mark.parametrize(
    ("raised", "expected", "text"),
    [
        (MemoryError(), MemoryError, "libseccomp"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), MemoryError, "libseccomp"),
        (OSError(errno.EACCES, "Permission denied"), libseccomp.LibseccompError, "refused the rules: PermissionError"),
    ],
)
def test_a_child_without_memory_is_no_fault_of_libseccomp(
    raised: Exception, expected: type[Exception], text: str
) -> None:
    def fails() -> bytes:
        raise raised

    with pytest.raises(expected, match=text):
        libseccomp._in_child(fails, 5)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("cannot open shared object file", libseccomp.MissingLibraryError),
        ("failed to map segment from shared object", MemoryError),
        ("cannot allocate memory in static TLS block", MemoryError),
    ],
)
def test_a_library_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch, said: str, expected: type[Exception]) -> None:
    def without(name: str) -> None:
        raise OSError(f"{name}: {said}")

    monkeypatch.setattr(ctypes, "CDLL", without)
    with pytest.raises(expected, match=said):
        libseccomp.require()


def test_one_of_two_modules_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"seccomp"}
    monkeypatch.setattr(PathFinder, "find_spec", lambda name: name if name in installed else None)
    libseccomp.require()
    installed.clear()
    with pytest.raises(libseccomp.MissingLibraryError, match="pip install pyseccomp"):
        libseccomp.require()


@pytest.mark.parametrize(("count", "most"), [(8, 6), (100, 10)])
def test_from_eight_calls_on_libseccomp_searches_a_tree(count: int, most: float) -> None:
    rules = [libseccomp.LibseccompRule(number, bpf.ret(ALLOW), ((),)) for number in range(count)]
    program = [bpf.Instruction(bpf.LD | bpf.ABS, k=bpf.NUMBER), *libseccomp.generate(bpf.ret(KILL), rules)]
    steps = [steps_of(program, number) for number in range(count)]
    assert sum(steps) / count < most, steps


def steps_of(program: list[Instruction], number: int) -> int:
    """How many instructions a filter of numbers alone takes for one of them."""
    pc = steps = 0
    while ways := bpf.successors(pc, program[pc]):
        pc, steps = ways[len(ways) == 2 and not bpf.jumps(program[pc].code & 0xF0, number, program[pc].k)], steps + 1
    return steps + 1


def test_an_ignored_sigchld_does_not_matter() -> None:
    code = """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
from callfence.policygen.filter.compile import compile_policy
from callfence.policygen.language.document import parse
print(len(compile_policy(parse("callfence 1\\nread: allow\\n").policy)) > 0)
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "True\n"
