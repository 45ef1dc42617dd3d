"""What the late filter answers, as BPF's interpreter executes it, against what its keys say."""

from __future__ import annotations

import itertools
import random
import struct
from socket import AF_INET, AF_UNIX

import pytest
from calls import value

from callfence.policygen.filter import bpf
from callfence.policygen.recording.fold import Aggregator
from callfence.policygen.recording.model import recorded_values
from callfence.tracer.abi import COMPAT, NATIVE, Arch, Event, table
from callfence.tracer.kernel import RET_RECORD
from callfence.tracer.late import filter as filters
from callfence.tracer.late.filter import (
    UNSEEN,
    Key,
    allowing_filter,
    brings_code,
    for_calls_within,
    installs_filter,
    may_allow,
    may_bring_code,
    weight,
)
from callfence.tracer.linux import BPF_INSTRUCTION, CLONE_UNTRACED, SECCOMP_RET_ALLOW
from callfence.tracer.tally import Tally
from callfence.tracer.unwinding.maps import Mapped

WIDE = (1 << 64) - 1
O_DIRECTORY = value("O_DIRECTORY", NATIVE)
CLONE, GETCWD, GETPPID, KILL, OPENAT, PRCTL, PTRACE, SOCKET, WRITE = (
    table(NATIVE).by_name[name].number
    for name in ("clone", "getcwd", "getppid", "kill", "openat", "prctl", "ptrace", "socket", "write")
)
AF_RDS, AF_SMC, IPPROTO_MPTCP = 21, 43, 262  # linux/socket.h, linux/in.h


def key(number: int, *arguments: tuple[int, int]) -> Key:
    """A key: for each argument the mask and the value."""
    mask, value = WIDE, number
    for index, (bits, argument) in enumerate(arguments):
        mask |= bits << 64 * (index + 1)
        value |= (argument & bits) << 64 * (index + 1)
    return Key(mask, value)


def event(raw: int) -> Event:
    number, *arguments = (raw >> 64 * index & WIDE for index in range(7))
    return Event(NATIVE.audit, number & 0xFFFFFFFF, (*arguments,), 0x401000)


def answer(program: bytes, raw: int, arch: Arch = NATIVE) -> int:
    return bpf.run(program, event(raw)._replace(arch=arch.audit))


def test_exactly_the_keys_run() -> None:
    chance = random.Random(1)
    masks = (0, 0xFFFFFFFF, WIDE, 0x3, 0xFFFFFFFF00000000)
    for _ in range(300):
        drawn = [[(chance.choice(masks), chance.getrandbits(64)) for _ in range(6)] for _ in range(chance.randrange(1, 12))]
        keys = {key(chance.randrange(12), *arguments) for arguments in drawn}
        program = allowing_filter(keys)
        bpf.decode(program)  # as the kernel checks it
        for one in keys:
            raw = one.value | chance.getrandbits(448) & ~one.mask
            assert answer(program, raw) == SECCOMP_RET_ALLOW
            assert answer(program, raw, COMPAT) == RET_RECORD
            for _ in range(20):
                other = raw ^ 1 << chance.randrange(64, 448)
                runs = any(other & each.mask == each.value for each in keys)
                assert answer(program, other) == (SECCOMP_RET_ALLOW if runs else RET_RECORD)
        assert answer(program, 77) == RET_RECORD


def test_a_key_of_some_first_registers_alone() -> None:
    wide, named = key(KILL, (0, 0), (0xFFFFFFFF, 9)), key(KILL, (0xFFFFFFFF, 7), (0xFFFFFFFF, 9))
    assert [*wide.with_first((7, 8))] == [key(KILL, (WIDE, first), (0xFFFFFFFF, 9)) for first in (7, 8)]
    assert [*named.with_first((7, 8, 7 | 1 << 32))] == [key(KILL, (WIDE, first), (0xFFFFFFFF, 9)) for first in (7, 7 | 1 << 32)]
    assert [*next(wide.with_first((7,))).with_first((7, 8))] == [key(KILL, (WIDE, 7), (0xFFFFFFFF, 9))]
    program = allowing_filter(wide.with_first((7,)))
    calls = [(7, 9), (8, 9), (7, 15), (7 | 1 << 32, 9), (0, 9), (WIDE, 9)]
    answers = [answer(program, key(KILL, (WIDE, pid), (WIDE, signal)).value) for pid, signal in calls]
    assert answers == [SECCOMP_RET_ALLOW, *[RET_RECORD] * 5]


def test_a_key_with_an_argument_that_is_zero() -> None:
    wide = key(KILL, (0, 0), (0xFFFFFFFF, 9))
    assert [*wide.with_zero(0)] == [key(KILL, (WIDE, 0), (0xFFFFFFFF, 9))]
    assert not [*wide.with_zero(1)]
    program = allowing_filter(wide.with_zero(0))
    answers = [answer(program, key(KILL, (WIDE, first), (WIDE, 9)).value) for first in (0, 1, 1 << 32)]
    assert answers == [SECCOMP_RET_ALLOW, RET_RECORD, RET_RECORD]


def test_a_filter_has_room_for_the_first_keys_only() -> None:
    keys = [key(GETPPID, (WIDE, value)) for value in range(2000)]
    program = allowing_filter(keys)
    assert len(program) // BPF_INSTRUCTION <= 2000
    runs = [answer(program, one.value) == SECCOMP_RET_ALLOW for one in keys]
    assert sum(runs) == (2000 - 10) // 5  # five instructions a key, five for their number, five around it
    assert runs == sorted(runs, reverse=True)


def test_without_keys_every_call_stops() -> None:
    assert answer(allowing_filter(()), GETPPID) == RET_RECORD


def test_a_filter_for_some_code_is_for_that_alone() -> None:
    chance = random.Random(3)
    program = allowing_filter([key(GETPPID)])
    for _ in range(200):
        spans = [(first := chance.getrandbits(47), first | chance.getrandbits(32)) for _ in range(chance.randrange(1, 5))]
        within = for_calls_within(spans, program)
        bpf.decode(within)
        near = [ip + step for span in spans for ip in span for step in (-1, 0, 1)]
        for ip in (*near, chance.getrandbits(64), chance.getrandbits(47)):
            inside = any(first <= ip <= last for first, last in spans)
            getppid, getcwd = (Event(NATIVE.audit, number, ip=max(ip, 0)) for number in (GETPPID, GETCWD))
            assert bpf.run(within, getppid) == SECCOMP_RET_ALLOW
            assert bpf.run(within, getcwd) == (RET_RECORD if inside else SECCOMP_RET_ALLOW)
            assert bpf.run(within, getppid._replace(arch=COMPAT.audit)) == RET_RECORD


@pytest.mark.only_on("x86_64")
def test_calls_through_the_vsyscall_page_stop_from_the_start() -> None:
    page = 0xFFFFFFFF_FF600000
    answers = [bpf.run(UNSEEN, Event(NATIVE.audit, 96, ip=ip)) for ip in (page - 1, page, page + 0x400, 0xFF600000)]
    assert answers == [SECCOMP_RET_ALLOW, RET_RECORD, RET_RECORD, SECCOMP_RET_ALLOW]


def test_where_the_tracer_has_something_to_do_nothing_runs() -> None:
    every = (0xFFFFFFFF, 0xFFFFFFFF)
    assert may_allow(key(GETCWD), opens=False, writes=False)
    assert may_allow(key(CLONE, (WIDE, 0x11)), opens=False, writes=False)
    assert not may_allow(key(CLONE, (WIDE, 0x11 | CLONE_UNTRACED)), opens=True, writes=True)
    assert may_allow(key(PRCTL, (0xFFFFFFFF, 15)), opens=False, writes=False)
    assert not may_allow(key(PRCTL, (0xFFFFFFFF, 22)), opens=True, writes=True)
    kinds = ((AF_INET, 0), (AF_UNIX, 0), (AF_SMC, 0), (AF_RDS, 0), (AF_INET, IPPROTO_MPTCP))
    sockets = [key(SOCKET, (0xFFFFFFFF, family), (0, 0), (0xFFFFFFFF, protocol)) for family, protocol in kinds]
    assert [may_allow(each, opens=False, writes=False) for each in sockets] == [True, True, False, False, False]
    assert not may_allow(key(PTRACE, every), opens=True, writes=True)
    assert not may_allow(key(1000), opens=True, writes=True)
    reading, folder = (key(OPENAT, (0, 0), (0, 0), (0xFFFFFFFF, flags)) for flags in (0, O_DIRECTORY))
    assert [may_allow(reading, opens=opens, writes=False) for opens in (False, True)] == [False, True]
    assert may_allow(folder, opens=False, writes=False)
    assert [may_allow(key(WRITE), opens=False, writes=writes) for writes in (False, True)] == [False, True]


def test_calls_that_are_equal_under_the_mask_are_one_observation() -> None:
    """The mask of a key leaves out what its other bits tell to be an address."""
    chance = random.Random(2)
    calls = table(NATIVE)
    masked = 0
    for number in calls.by_number:
        aggregator = Aggregator()
        tally = Tally(aggregator)
        values = [one for variant in calls.variants(number) for one in (0, 1, 2, 5, 0x5401, 0x1002)]
        for one in values:
            registers = [chance.choice((one, chance.getrandbits(64))) for _ in range(6)]
            raw = sum(register << 64 * (index + 1) for index, register in enumerate(registers)) | number
            whole = raw & aggregator.hot_mask(NATIVE.audit, number)
            mask = tally.mask_of(whole)
            assert tally.mask_of(whole & mask) == mask
            masked += mask != aggregator.hot_mask(NATIVE.audit, number)
            other = raw & mask | chance.getrandbits(448) << 64 & ~mask & (1 << 448) - 1
            events = [event(raw), event(other)]
            assert recorded_values(calls, events[0]) == recorded_values(calls, events[1])
            aggregator = Aggregator()
            tally = Tally(aggregator)
            first = aggregator.counter("/bin/app", events[0], lambda: "?")
            assert aggregator.counter("/bin/app", events[1], lambda: "?") is first
    assert masked


@pytest.mark.parametrize(
    ("name", "first", "expected"),
    [
        ("prctl", 22, True),  # PR_SET_SECCOMP
        ("prctl", 22 | 1 << 32, True),
        ("prctl", 21, False),  # PR_GET_SECCOMP
        ("seccomp", 0, True),  # SECCOMP_SET_MODE_STRICT
        ("seccomp", 1, True),  # SECCOMP_SET_MODE_FILTER
        ("seccomp", 2, False),  # SECCOMP_GET_ACTION_AVAIL
        ("read", 22, False),
    ],
)
def test_what_installs_a_filter(name: str, first: int, expected: bool) -> None:
    number = table(NATIVE).by_name[name].number
    assert installs_filter(Event(NATIVE.audit, number, (first, 0, 0, 0, 0, 0))) is expected
    assert not installs_filter(Event(NATIVE.audit, 5000, (22, 0, 0, 0, 0, 0)))


def test_changing_the_personality_may_bring_code_and_asking_for_it_does_not() -> None:
    """With READ_IMPLIES_EXEC, what is mapped to read can be executed (personality(2))."""
    call = Event(NATIVE.audit, table(NATIVE).by_name["personality"].number, (0x0400000, 0, 0, 0, 0, 0), 0x401000)
    assert brings_code(call, (), 1)
    assert not brings_code(call._replace(arguments=(0xFFFFFFFF, 0, 0, 0, 0, 0)), (), 1)


@pytest.mark.parametrize(
    ("start", "length", "brings"), [(0, 1, False), (0, 16, False), (15, 1, False), (0, 17, True), (15, 2, True)]
)
def test_code_within_the_known_ranges_is_not_new(start: int, length: int, brings: bool) -> None:
    known = ((0x1000, 0x100F), (0x7000, 0x7010))
    call = Event(NATIVE.audit, table(NATIVE).by_name["mprotect"].number, (0x7000 + start, length, 5, 0, 0, 0), 0x401000)
    assert brings_code(call, known, 1) is brings
    assert not brings_code(call._replace(arguments=(*call.arguments[:2], 1, 0, 0, 0)), known, 1)


CODE = [
    # the call, its first arguments (None: the key does not say), and whether it may bring code
    ("mmap", (0, 4096, 5), True),
    ("mmap", (0, 4096, 3), False),
    ("mmap", (0, 4096, None), True),
    ("mprotect", (0, 4096, 4), True),
    ("mprotect", (0, 4096, 1), False),
    ("pkey_mprotect", (0, 4096, 4), True),
    ("pkey_mprotect", (0, 4096, 2), False),
    ("shmat", (1, 0, 0o100000), True),
    ("shmat", (1, 0, 0o10000), False),
    ("mremap", (), True),
    ("personality", (0xFFFFFFFF,), True),
    ("remap_file_pages", (), True),
    ("getppid", (), False),
    ("read", (3, 4096, 4), False),
]
OF_X86 = [
    *(("arch_prctl", (option,), 0x2001 <= option <= 0x2003) for option in (0x1002, 0x2000, 0x2001, 0x2003, 0x2004)),
    ("arch_prctl", (0x2001 | 1 << 32,), True),
    ("arch_prctl", (None,), True),
    ("modify_ldt", (), True),
    ("uselib", (), True),
]


@pytest.mark.parametrize(("name", "arguments", "brings"), CODE + OF_X86 * (NATIVE is Arch.X86_64))
def test_what_may_bring_code(name: str, arguments: tuple[int | None, ...], brings: bool) -> None:
    number = table(NATIVE).by_name[name].number
    assert may_bring_code(key(number, *((WIDE, each) if each is not None else (0, 0) for each in arguments))) is brings


@pytest.mark.only_on("x86_64")
@pytest.mark.parametrize(("option", "brings"), [(0x2000, False), (0x2001, True), (0x2003, True), (0x2004, False)])
def test_which_options_of_arch_prctl_map_code(option: int, brings: bool) -> None:
    call = Event(NATIVE.audit, table(NATIVE).by_name["arch_prctl"].number, (option | 1 << 32, 0, 0, 0, 0, 0), 0x401000)
    assert brings_code(call, ((0, WIDE),), 1) is brings
    assert brings_code(call._replace(arch=COMPAT.audit), ((0, WIDE),), 1), "whatever a call of 32 bits does"


@pytest.mark.parametrize(
    ("start", "length", "brings"),
    [(0x1000, 1, True), (0x1FFF, 1, True), (0x2000, 9, False), (0xFFF, 1, False), (0xFFF, 2, True), (0x3000, 9, False)],
)
def test_code_that_is_moved_is_new_elsewhere(monkeypatch: pytest.MonkeyPatch, start: int, length: int, brings: bool) -> None:
    file = ("00:01", "7", "/app")
    mapped = [Mapped(0x1000, 0x2000, "r-xp", 0, file), Mapped(0x3000, 0x4000, "rw-p", 0, file)]
    monkeypatch.setattr(filters, "mappings", lambda pid: mapped)
    call = Event(NATIVE.audit, table(NATIVE).by_name["mremap"].number, (start, length, length, 1, 0, 0), 0x401000)
    assert brings_code(call, ((0, WIDE),), 7) is brings


@pytest.mark.parametrize(("flags", "brings"), [(0x02, True), (0x12, False), (0x100002, False)])
def test_a_mapping_is_within_the_known_code_only_where_the_program_says_where_it_is(flags: int, brings: bool) -> None:
    call = Event(NATIVE.audit, table(NATIVE).by_name["mmap"].number, (0x1000, 16, 5, flags, 3, 0), 0x401000)
    assert brings_code(call, ((0x1000, 0x1010),), 1) is brings


NEAR = 1 << 28
CODE_AT = 0x7F0080000000


@pytest.mark.parametrize(
    ("lines", "spans"),
    [
        ([], []),
        ([(CODE_AT, CODE_AT + 4096, "r--p", "/lib")], []),
        ([(CODE_AT, CODE_AT + 4096, "r-xp", "/lib")], [(CODE_AT - NEAR, CODE_AT + 4096)]),
        ([(0x1000, 0x2000, "r-xp", "/app")], [(0, 0x2000)]),
        ([(0x1000, 0x2000, "r-xp", "/app"), (0x2000 + NEAR - 1, 1 << 29, "r-xp", "/lib")], [(0, 1 << 29)]),
        ([(0x1000, 0x2000, "r-xp", "/app"), (0x2000 + NEAR, 1 << 29, "r-xp", "/lib")], [(0, 0x2000), (0x2000, 1 << 29)]),
        ([(0xFFFFFFFF600000 << 8, 0xFFFFFFFF600 << 20, "--xp", "[vsyscall]")], []),
        ([(0x1000, 0x2000, "rwxp", "[stack]"), (0x3000, 0x4000, "r-xp", "/app")], []),
        ([(0x1000, 0x2000, "r-xp", "/app"), (0x3000, 0x4000, "rwxp", "[heap]")], []),
        (
            [((1 << 32) - 4096, (2 << 32) + 4096, "r-xp", "/app")],
            [((1 << 32) - 4096 - NEAR, (1 << 32) - 1), (1 << 32, (2 << 32) - 1), (2 << 32, (2 << 32) + 4096)],
        ),
    ],
)
def test_where_the_code_of_a_process_is_or_comes(
    monkeypatch: pytest.MonkeyPatch, lines: list[tuple[int, int, str, str]], spans: list[tuple[int, int]]
) -> None:
    """None of it where a stack has code, or where there is too much."""
    mapped = [Mapped(start, end, permissions, 0, ("00:01", "7", name)) for start, end, permissions, name in lines]
    monkeypatch.setattr(filters, "mappings", lambda pid: mapped)
    assert [*filters.code_spans(7)] == spans


@pytest.mark.parametrize(("count", "compared"), [(16, 16), (17, 0)])
def test_sixteen_pieces_of_code_are_compared(monkeypatch: pytest.MonkeyPatch, count: int, compared: int) -> None:
    starts = [(number << 32) + (1 << 31) for number in range(count)]
    monkeypatch.setattr(filters, "mappings", lambda pid: [Mapped(at, at + 1, "r-xp", 0, ("0", "0", "/a")) for at in starts])
    assert len(filters.code_spans(7)) == compared


def test_what_a_filter_weighs() -> None:
    """As bpf_convert_filter() makes it longer: a return, a jump both ways, a number with its highest bit."""
    load, both, one, large, answer = (0x20, 0, 0, 0), (0x15, 1, 2, 7), (0x25, 0, 1, 7), (0x35, 1, 0, 1 << 31), (6, 0, 0, 0)
    alone = {load: 1, both: 2, one: 1, large: 2, answer: 2}
    for instructions, expected in ((), 0), (tuple(alone), 8), *(((each,), extra) for each, extra in alone.items()):
        assert weight(b"".join(struct.pack("=HBBI", *each) for each in instructions)) == 7 + expected


FAST_OPEN, TCP, UDP = 0x20000000, 6, 17  # linux/socket.h: MSG_FASTOPEN; linux/in.h


@pytest.mark.parametrize(
    ("name", "arguments", "opens", "writes"),
    [
        ("getppid", (), 0, 0),
        *((name, (), None, None) for name in ("clone3", "openat2", "io_uring_setup", "ptrace", "seccomp")),
        *((f"sched_{name}", (), None, None) for name in ("getaffinity", "setaffinity", "setattr")),
        ("sendto", (3, 0, 0, FAST_OPEN), None, None),
        ("sendto", (FAST_OPEN, FAST_OPEN, FAST_OPEN, 0), 0, 0),
        ("sendmsg", (3, 0, FAST_OPEN), None, None),
        ("sendmsg", (FAST_OPEN, FAST_OPEN, 0, FAST_OPEN), 0, 0),
        ("sendmmsg", (3, 0, 1, FAST_OPEN), None, None),
        ("sendmmsg", (3, FAST_OPEN, FAST_OPEN, 0), 0, 0),
        ("socket", (AF_INET, 1, TCP), 0, 0),
        ("socket", (AF_INET, 1, IPPROTO_MPTCP | 1 << 32), None, None),
        ("socket", (AF_SMC | 1 << 32, 1, UDP), None, None),
        ("prctl", (21,), None, None),
        ("prctl", (22 | 1 << 32,), None, None),
        ("prctl", (38,), 0, 0),
        ("openat", (0, 0, 0), 1, 0),
        ("openat", (0, 0, 2), 1, 0),
        ("openat", (0, 0, 1), 0, 0),
        ("openat", (1, 1, 0, 1), 1, 0),
        *((name, (), 0, 1) for name in ("write", "writev", "pwritev2", "sendfile", "splice")),
    ],
)
def test_which_calls_may_run(name: str, arguments: tuple[int, ...], opens: int | None, writes: int | None) -> None:
    """`opens`, `writes`: whether that is needed for it; None: it may never."""
    of_call = key(table(NATIVE).by_name[name].number, *((WIDE, each) for each in arguments))
    for given in itertools.product((False, True), repeat=2):
        expected = opens is not None and writes is not None and given[0] >= opens and given[1] >= writes
        assert may_allow(of_call, opens=given[0], writes=given[1]) == expected
