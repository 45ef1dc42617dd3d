"""Recordings of many machines folded, and policies made from many observations: the time at 1x, 10x and 100x."""

from __future__ import annotations

import json
import random
import time
from typing import TYPE_CHECKING, TypeVar

from harness import LEARN, Figure, Section, run, scratch, table

from callfence.policygen.comparing.compare import compare
from callfence.policygen.filter.compile import compile_policy
from callfence.policygen.filter.verify import verify
from callfence.policygen.learning.generate import generate
from callfence.policygen.recording import recording_file
from callfence.policygen.recording.model import Observation, Recording, Run, recorded_values
from callfence.tracer.abi import Arch, Argument, Event, Kind, constants, table as calls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
TITLE = "big recordings"
CALLFENCE = LEARN.parent / "callfence"
SIZES = (500, 5_000, 50_000)
"""Distinct observations that a policy is made from."""
FOLDS = ((10, 5_000), (100, 5_000), (1_000, 5_000), (100, 300), (1_000, 300), (10_000, 300))
"""How many recordings, of how many observations each, taken from ten times as many."""
GOAL = 15
"""Seconds for 1,000 of 5,000."""
_CALLS, _VALUES, _PER_PROGRAM = 80, 4, 500


def section() -> Section:
    """The measurements."""
    observations = list(_observations(SIZES[-1]))
    folding, seconds = _folding(observations)
    return Section(
        "Made up: 80 calls with values of their own constants, 500 observations a program, one run a recording. Once each.\n\n"
        f"{_making(observations)}\nRecordings folded by `callfence merge -o all.rec FOLDER`, its start included.\n\n{folding}",
        (Figure("callfence merge of 1,000 recordings of 5,000 observations", GOAL, seconds[1000, 5000], " s"),),
    )


def _making(observations: list[Observation]) -> str:
    rows = []
    for size in SIZES:
        some = observations[:size]
        seconds, new = _timed(lambda some=some: generate(some, None, name="it"))  # type: ignore[misc]
        half = generate(some[::2], None, name="it").document
        added, whole = _timed(lambda some=some, half=half: generate(some, half, name="it"))  # type: ignore[misc]
        policy = whole.document.policy
        compared, _ = _timed(lambda half=half, policy=policy: compare(half.policy, policy))  # type: ignore[misc]
        program = compile_policy(policy)
        proved, wrong = _timed(lambda program=program, policy=policy: verify(program, policy))  # type: ignore[misc]
        if wrong is not None:
            raise AssertionError(wrong)
        lines = len(new.document.text().splitlines())
        rows.append([f"{size:,}", str(lines), *(f"{one:.2f}" for one in (seconds, added, compared, proved))])
    header = ("observations", "lines of policy", "learn s", "learn into a policy of half s", "diff s", "verify s")
    return table(header, rows)


def _folding(observations: list[Observation]) -> tuple[str, dict[tuple[int, int], float]]:
    """The table, and the seconds by number of recordings and of observations."""
    rows, seconds = [], {}
    for count, size in FOLDS:
        with scratch() as folder, scratch() as home:
            shards = folder / "shards"
            shards.mkdir()
            for number in range(count):
                recording_file.save(shards / f"{number}.rec", _shard(observations[: 10 * size], size, number))
            spent = run([CALLFENCE, "merge", "-o", "all.rec", "shards"], folder, home)
            whole = folder / "all.rec"
            with whole.open() as lines:
                found = json.loads(lines.readline())["observations"]
            seconds[count, size] = spent.seconds
            per = spent.seconds / (count * size) * 1e6
            mib = whole.stat().st_size / (1 << 20)
        name = f"{count:,} of {size:,}"
        rows.append([name, f"{spent.seconds:.1f}", f"{per:.1f}", f"{spent.peak_kib >> 10}", f"{found:,}", f"{mib:.0f}"])
    header = ("recordings", "seconds", "us per observation read", "peak MiB", "observations left", "MiB written")
    return table(header, rows), seconds


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def _shard(observations: list[Observation], size: int, number: int) -> Recording:
    chosen = sorted(random.Random(number).sample(observations, size), key=lambda one: one.order)
    return Recording((Run(f"{number:016x}", 1_700_000_000_000_000_000 + number, ("./it",), 0, True),), tuple(chosen))


def _observations(size: int) -> Iterator[Observation]:
    """Different ones; the first ones of a longer series are those of a shorter one."""
    rng = random.Random(1)
    known = calls(Arch.X86_64)
    numbers = [number for number, call in sorted(known.by_number.items()) if call.arguments]
    chosen = rng.sample(numbers, _CALLS)
    seen: set[object] = set()
    while len(seen) < size:
        number = rng.choice(chosen)
        registers = [_register(rng, argument) for argument in known.by_number[number].arguments]
        a, b, c, d, e, f = (*registers, *[0] * (6 - len(registers)))
        event = Event(Arch.X86_64.audit, number, (a, b, c, d, e, f))
        program = f"/usr/bin/program-{len(seen) // _PER_PROGRAM}"
        one = Observation(event.arch, number, _arguments(event), program, (1,), f"/lib/libc.so.6+{a:#x}", event.arguments)
        if one.key not in seen:
            seen.add(one.key)
            yield one


def _arguments(event: Event) -> tuple[int | None, ...]:
    """What is kept, and the few values that descriptors and sizes have."""
    known = calls(Arch.X86_64)
    meanings = known.arguments(event.number, event.arguments)
    few = (Kind.FD, Kind.SIZE, Kind.NUMBER)
    return tuple(
        meaning.value(register) if meaning.kind in few else value
        for meaning, register, value in zip(meanings, event.arguments, recorded_values(known, event), strict=False)
    )


def _register(rng: random.Random, argument: Argument) -> int:
    values = list(constants.family(argument.constants, Arch.X86_64).names.values()) if argument.constants else []
    if argument.kind.is_pointer:
        return rng.getrandbits(47)
    if argument.kind in (Kind.FLAGS, Kind.FIELD) and values:
        value = 0
        for bit in values[:8]:
            value |= bit * rng.getrandbits(1)
    else:
        value = rng.choice(values[:_VALUES] or range(_VALUES))
    return value & argument.mask


if __name__ == "__main__":
    print(section().text)
