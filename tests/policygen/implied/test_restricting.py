"""Bits that only restrict a call: an implied set allows them wherever the call is allowed without them, and nothing else."""

from __future__ import annotations

import pytest
from calls import parse
from hypothesis import given
from strategies import compared, entries

from callfence.policygen.evaluate import evaluate
from callfence.policygen.filter.compile import compile_policy
from callfence.policygen.filter.verify import verify
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.implied.restricting import restricting, with_restrictions
from callfence.policygen.implied.tables import unavailable
from callfence.policygen.model import ALLOW, KILL, Entry, Operator
from callfence.policygen.sets import region
from callfence.policygen.sets.algebra import FALSE
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch, Event, constants, table

CALLS = table(Arch.AARCH64).by_name
MPROTECT = CALLS["mprotect"].number
READ, WRITE, EXEC = 1, 2, 4  # asm-generic/mman-common.h
BTI, MTE = 0x10, 0x20  # arch/arm64/include/uapi/asm/mman.h
BITS = BTI | MTE
ORDERS = (Operator.LT, Operator.LE, Operator.GT, Operator.GE)


def call(name: str, *arguments: int) -> Event:
    a, b, c, d, e, f = (*arguments, *(0,) * (6 - len(arguments)))
    return Event(Arch.AARCH64.audit, CALLS[name].number, (a, b, c, d, e, f))


def test_the_bits_are_those_of_aarch64() -> None:
    assert constants.value("PROT_BTI", Arch.AARCH64) == BTI and constants.value("PROT_MTE", Arch.AARCH64) == MTE
    named = {table(Arch.AARCH64).by_number[number].name: bits for number, bits in restricting(Arch.AARCH64).items()}
    assert named == {"mmap": {2: BITS}, "mprotect": {2: BITS}, "pkey_mprotect": {2: BITS}, "remap_file_pages": {2: BITS}}
    assert not any(restricting(arch) for arch in Arch if arch is not Arch.AARCH64)
    having = {call.name for call in CALLS.values() if any(one.constants == "prot" for one in call.arguments)}
    assert named.keys() == having


@pytest.mark.hypothesis
@given(entries(Arch.AARCH64, MPROTECT))
def test_what_is_added_is_allowed_without_the_bits(entry: Entry) -> None:
    """Exactly that, as sets, but for comparisons by order, which are not extended."""
    entry = replace(entry, action=ALLOW, otherwise=None)
    space, arguments = region.space(), table(Arch.AARCH64).by_number[MPROTECT].arguments
    before = region.to_bdd(space, entry.expression, arguments)
    after = region.to_bdd(space, with_restrictions(Arch.AARCH64, MPROTECT, entry).expression, arguments)
    whole = space.or_(before, space.fixed(before, (BITS << region.shift(2), 0)))
    if any(condition.index == 2 and condition.operator in ORDERS for condition in compared(entry.expression)):
        assert space.and_(before, space.invert(after)) == FALSE and space.and_(after, space.invert(whole)) == FALSE
    else:
        assert after == whole


@pytest.mark.parametrize("text", ["prot == PROT_READ else kill", "kill if prot == PROT_READ", "deny"])
def test_what_denies_explicitly_is_unchanged(text: str) -> None:
    policy = parse(f"implied 1\narch aarch64\nmprotect: {text}\n").policy
    assert evaluate(policy, call("mprotect", 0, 4096, READ | BTI)) == KILL


@pytest.mark.parametrize(
    "text", ["prot has PROT_EXEC", "prot & PROT_EXEC == PROT_EXEC", "prot & PROT_EXEC|PROT_BTI == PROT_EXEC"]
)
@pytest.mark.parametrize("negates", [False, True])
def test_bits_that_must_be_set_or_must_not(text: str, negates: bool) -> None:
    """A condition on other bits decides about them with the restricting ones, too."""
    policy = parse(f"arch aarch64\nmprotect: {f'!({text})' if negates else text}\n").policy
    entry = with_restrictions(Arch.AARCH64, MPROTECT, policy.entries[Arch.AARCH64][MPROTECT])
    policy = replace(policy, entries={Arch.AARCH64: {MPROTECT: entry}})
    for value in range(8):
        for bits in (0, BTI, MTE, BITS):
            allows = evaluate(policy, call("mprotect", 0, 4096, value | bits)).allows
            assert allows == (bool(value & EXEC) != negates or (negates and "BTI" in text and bool(bits & BTI)))


POLICY = "implied 1\narch aarch64\nopenat: flags == O_RDONLY\nmmap: prot == PROT_READ|PROT_EXEC && flags == MAP_PRIVATE\n"
VERDICTS = [
    # a call, its arguments, whether a plain policy allows it
    ("mmap", (0, 4096, READ | EXEC | BTI, 2, 3), True),  # glibc's loader maps code of shared libraries again, with BTI
    ("mmap", (0, 4096, READ | EXEC | BTI, 0x12, 3), True),
    ("mmap", (0, 4096, READ | WRITE | MTE, 0x22, (1 << 64) - 1), True),  # malloc(3) with tags
    ("mprotect", (0, 4096, READ | WRITE | MTE), True),
    ("mprotect", (0, 4096, READ | BTI), True),
    ("mmap", (0, 4096, READ | WRITE | EXEC | BTI, 2, 3), False),
    ("mmap", (0, 4096, WRITE | EXEC | BTI | MTE, 2, 3), False),
    ("mmap", (0, 4096, READ | EXEC | BTI, 0x22, 3), False),  # anonymous
    ("mprotect", (0, 4096, READ | EXEC | BTI), False),
    ("mprotect", (0, 4096, EXEC | MTE), False),
    ("mprotect", (0, 4096, READ | 0x40), False),  # another bit
]


@pytest.mark.parametrize(("name", "arguments", "allowed"), VERDICTS, ids=str)
def test_verdicts(name: str, arguments: tuple[int, ...], allowed: bool) -> None:
    assert evaluate(parse(POLICY).policy, call(name, *arguments)) == (ALLOW if allowed else KILL)


def test_without_the_set_nothing_is_added() -> None:
    policy = parse("arch aarch64\nmprotect: prot == PROT_READ\n").policy
    assert evaluate(policy, call("mprotect", 0, 4096, READ | BTI)) == KILL


def test_nothing_new_is_both_writable_and_executable() -> None:
    """What may be written and executed with the bits may be without them."""
    own = "openat: flags in O_RDWR|O_CREAT|O_DIRECTORY\nmmap: prot in PROT_READ|PROT_EXEC\nmprotect: prot == PROT_READ\n"
    policy = resolved(parse(f"implied 1\narch aarch64\n{own}").policy)
    for name in ("mmap", "mprotect"):
        space, number = region.space(), CALLS[name].number
        where = region.to_bdd(space, policy.entries[Arch.AARCH64][number].expression, CALLS[name].arguments)
        for value in range(64):
            has = space.fixed(where, (0xFFFFFFFFFFFFFFFF << region.shift(2), value << region.shift(2)))
            if value & (WRITE | EXEC) == WRITE | EXEC or (name == "mprotect" and value & EXEC):
                assert has == FALSE, (name, value)


def test_the_loaders_protection_of_mapped_code_fails_as_without_such_a_processor() -> None:
    """sysdeps/aarch64/dl-bti.c ignores it; no filter sees whether that memory was written."""
    assert unavailable(call("mprotect", 0, 4096, READ | EXEC | BTI)) == 22
    assert unavailable(call("mprotect", 0, 4096, EXEC | BTI)) == 22  # code that cannot be read
    assert not unavailable(call("mprotect", 0, 4096, READ | EXEC))
    assert not unavailable(call("mprotect", 0, 4096, READ | WRITE | EXEC | BTI))


def test_the_filter_is_proved() -> None:
    policy = parse(POLICY).policy
    assert verify(compile_policy(policy), policy) is None
