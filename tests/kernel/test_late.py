"""The late filter: known calls run, and what is recorded is what is recorded with every call stopped."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter

import pytest
from calls import number_of
from needed import require

CHECKS = (
    "mappings mappings_with_threads small_stacks small_stacks_that_are_watched signals no_room locked_memory forks_of_threads "
    "threads_in_calls other_executable other_executable_of_a_child own_filter registers alternate_stack ends_meanwhile new_code"
)
THREADED = ("signals", "forks_of_threads", "small_stacks_that_are_watched", "threads_in_calls", "ends_meanwhile")
"""Checks in which timing decides what the threads call."""
AFTER = [(), ("--late-after", "0"), ("--late-after", "1"), ("--late-after", "10"), ("--late-after", "50")]
"""After how many calls each process gets its filter; when it is worth it."""


FUTEX, GETPPID, GETPRIORITY, READLINK, SCHED_YIELD = map(
    number_of, ("futex", "getppid", "getpriority", "readlink", "sched_yield")
)
BY_CHANCE = (FUTEX, SCHED_YIELD)
"""Whether a thread has to wait for another."""


def seen(learned):
    """{(number, executable, what getpriority is asked for): how often}; other arguments, such as pids, differ by chance."""
    counts = Counter()
    for row in map(json.loads, learned.recording.read_text().splitlines()):
        if "arch" in row and row["number"] not in BY_CHANCE:
            which = row["arguments"][0] if row["number"] == GETPRIORITY else None
            counts[row["number"], row["executable"], which] += sum(row["counts"])
    return counts


@pytest.mark.long
@pytest.mark.parametrize("check", CHECKS.split())
def test_nothing_is_lost_and_nothing_is_noticed(program, learn, tmp_path, check):
    built = program("late")
    shutil.copy(built, tmp_path / "other")
    every = learn(built, check, tmp_path / "other", options=("-q", "--fresh", "--every-call"))
    assert every.done.returncode == 0, every.done.stderr
    expected, policy = seen(every), every.policy.read_bytes()
    for options in AFTER:
        late = learn(built, check, tmp_path / "other", options=("-q", "--fresh", *options))
        assert late.done.returncode == 0, (options, late.done.stderr)
        found = seen(late)
        assert found.keys() == expected.keys(), options
        if check not in THREADED:
            assert late.policy.read_bytes() == policy, options


def test_known_calls_do_not_stop(program, learn):
    """Each of two loops makes a call 400 times, which stops until the filter has come."""
    built = program("late")
    ways = ("--late-after=60", "--every-call")
    late, every = (seen(learn(built, "registers", options=("-q", "--fresh", way))) for way in ways)
    call = (GETPPID, str(built), None)
    assert every[call] == 800
    assert late[call] <= 60


def test_a_burst_at_the_start_of_a_server_is_not_all_that_runs(program, learn):
    """A filter for the burst would stop all calls of the children."""
    built = program("late")
    late = seen(learn(built, "children_after_a_burst", options=("-q", "--fresh")))
    assert late[GETPRIORITY, str(built), 1] < 3 * 2000


def test_an_executable_that_seldom_starts_another_gets_its_filter_at_its_start(program, learn, tmp_path):
    """The first of twenty processes with 300 calls each has started another executable."""
    built = program("late")
    often, other = (shutil.copy(built, tmp_path / name) for name in ("often", "other"))
    late = seen(learn(built, "seldom_starts", often, other, options=("-q", "--fresh")))
    assert late[GETPRIORITY, str(other), 1] >= 1
    assert late[GETPRIORITY, str(often), 1] < 5 * 300


def test_what_a_process_with_a_filter_starts_has_only_its_own(program, learn, tmp_path):
    """Twenty processes with 300 calls each, which their maker does not make."""
    built = program("late")
    often = shutil.copy(built, tmp_path / "often")
    late = seen(learn(built, "starts_often", often, options=("-q", "--fresh")))
    assert late[GETPRIORITY, str(often), 1] < 5 * 300


def test_an_executable_of_which_each_process_brings_little_gets_its_filter_at_its_start(program, learn, tmp_path):
    built = program("late")
    often = shutil.copy(built, tmp_path / "often")
    every, late = (
        seen(learn(built, "starts_with_news", often, options=("-q", "--fresh", *way))) for way in (("--every-call",), ())
    )
    assert late.keys() == every.keys()
    assert late[GETPRIORITY, str(often), 1] < 5 * 300


def test_links_are_looked_at_a_thousand_times(program, learn, tmp_path):
    """Each process of twenty reads 300; one might be of a process outside (`scope signals`)."""
    built = program("late")
    often = shutil.copy(built, tmp_path / "often")
    late = seen(learn(built, "starts_links", often, options=("-q", "--fresh")))
    assert 1024 <= late[READLINK, str(often), None] < 2000


@pytest.mark.long
def test_a_go_program_says_what_it_says(tmp_path, plain, learn):
    """Its calls are made on small stacks beside others', by threads that the runtime interrupts with signals."""
    require("gron")
    document = tmp_path / "it.json"
    document.write_text(json.dumps([{"number": number, "text": "word " * (number % 50)} for number in range(3000)]))
    expected = plain("gron", document)
    assert expected.returncode == 0
    policies = set()
    for options in (("--every-call",), *AFTER):
        learned = learn("gron", document, options=("-q", "--fresh", *options))
        assert (learned.done.returncode, learned.done.stdout) == (0, expected.stdout), options
        policies.add(learned.policy.read_bytes())
    assert len(policies) == 1


LINKS = 16
"""Executables of a chain: their filters together would have twice as many instructions as ours may take."""


@pytest.mark.long
def test_a_chain_of_filters_leaves_room_for_the_programs_own(program, learn, tmp_path):
    built = program("late")
    for number in range(LINKS):
        shutil.copy(built, tmp_path / f"other{number}")
    late, every = (
        seen(learn(built, "chain", str(LINKS), tmp_path / "other", options=("-q", "--fresh", way)))
        for way in ("--late-after=400", "--every-call")
    )
    assert late.keys() == every.keys()
    assert len({executable for _, executable, which in late if which == 777}) == 1
    first = sum(count for (_, executable, which), count in late.items() if which and executable == str(built))
    last = sum(count for (_, executable, which), count in late.items() if which and executable == f"{tmp_path}/other0")
    assert first <= 400 < last == 601  # the last one stops at each call


FILL = """
import random
from callfence.tracer import kernel
from callfence.tracer.late.filter import UNSEEN, Key, for_calls_within, allowing_filter, weight
chance = random.Random(SEED)
keys = [Key((1 << 64) - 1 | mask << 64, number | (value & mask) << 64) for number in range(20)
    for mask in ((1 << 32) - 1, (1 << 64) - 1, 3) for value in (chance.getrandbits(64), 1)]
allow, record = (value.to_bytes(4, "little") for value in (0x7FFF0000, kernel.RET_RECORD))
spans = [(chance.getrandbits(32) << shift, chance.getrandbits(32) | (1 << 32) - 1 << shift) for shift in (0, 16, 15)]
program, left = for_calls_within(spans, allowing_filter(keys)).replace(record, allow), 32768
for _ in range(3):
    kernel.install_filter(UNSEEN.replace(record, allow))
    left -= weight(UNSEEN)
try:
    while True:
        kernel.install_filter(program)
        left -= weight(program)
except OSError as error:
    print(left >= 0, left - weight(program) + 4 < 0, error.errno)  # the new filter itself gets no penalty
"""


@pytest.mark.parametrize("seed", range(3))
def test_the_kernel_counts_as_we_do(plain, seed):
    done = plain(sys.executable, "-c", FILL.replace("SEED", str(seed)))
    assert done.stdout == b"True True 12\n", done.stderr.decode()
