"""What the filter itself costs: calls under our filters, under other tools' filters with the same rules, and
under the profiles that they ship."""

from __future__ import annotations

import statistics
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import peers
from harness import Figure, Section, Spread, alternate, compiled, scratch, table

from callfence.policygen.filter import bpf
from callfence.policygen.filter.compile import compile_policy
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.language.document import parse, parse_file
from callfence.policygen.model import ALLOW
from callfence.tracer.abi import Arch, Event

if TYPE_CHECKING:
    from collections.abc import Callable

TITLE = "the filter's own cost"
NOISE = 1.03
ROUNDS = 9
SAMPLES = Path(__file__).parent.parent / "samples"
SAMPLE = SAMPLES / "httpd.policy"
EXACT = Path(__file__).parent / "httpd-exact.policy"
"""What the same program needs, call by call: a policy without an implied set."""
COUNTS = {"getppid": 2_000, "read": 2_000, "lseek": 2_000, "futex": 2_000, "openat+close": 200}
"""The calls, and how often each is made in one of a run's batches: half a millisecond."""
_CLOEXEC, _WAKE_PRIVATE, _CUR, _AT_FDCWD = 0o2000000, 129, 1, (1 << 64) - 100
EVENTS = {
    "getppid": [(110, (0, 0, 0, 0, 0, 0))],
    "read": [(0, (3, 1 << 40, 1, 0, 0, 0))],
    "lseek": [(8, (3, 0, _CUR, 0, 0, 0))],
    "futex": [(202, (1 << 40, _WAKE_PRIVATE, 1, 0, 0, 0))],
    "openat+close": [(257, (_AT_FDCWD, 1 << 40, _CLOEXEC, 0, 0, 0)), (3, (3, 0, 0, 0, 0, 0))],
}
"""The same as the filter sees them: numbers and arguments."""
OURS, WITHOUT = "callfence", "callfence, learned with --exact"
SAME = {
    "libseccomp, a chain": lambda policy: peers.libseccomp(policy, tree=False),
    "libseccomp, its tree": lambda policy: peers.libseccomp(policy, tree=True),
    "one number after another": peers.linear,
}
"""How others write the same rules."""


def section() -> Section:
    """The measurements."""
    if missing := [str(path) for path in (peers.CONTAINERS, *peers.FIREJAIL) if not path.exists()]:
        raise SystemExit(f"bench: no {missing[0]}; on Debian: apt-get install firejail golang-github-containers-common")
    policy, exact = (parse(f"{path.read_text()}\ngetppid: allow\n", str(path)).policy for path in (SAMPLE, EXACT))
    filters: dict[str, tuple[bytes, ...]] = {
        "no filter": (),
        "`return ALLOW`": (bpf.encode([bpf.Instruction(bpf.RET | bpf.K, k=bpf.ret(ALLOW))]),),
        OURS: (compile_policy(policy),),
        WITHOUT: (compile_policy(exact),),
        **{side: (peer(policy),) for side, peer in SAME.items()},
        "podman's default": (peers.containers(),),
        "firejail's default": tuple(path.read_bytes() for path in peers.FIREJAIL),
    }
    columns = {call: _measured(call, filters) for call in COUNTS}
    times = [(side, *(_nanoseconds(columns[call][side]) for call in COUNTS)) for side in filters]
    best = [min(columns[call][side].median for side in SAME) for call in COUNTS]
    ratios = [columns[call][OURS].median / least for call, least in zip(COUNTS, best, strict=True)]
    exactly = max(columns[call][OURS].median / columns[call][WITHOUT].median for call in COUNTS)
    steps = [
        (side, str(sum(len(one) for one in programs) // 8), *(_steps(programs, call) for call in COUNTS))
        for side, programs in filters.items()
        if programs
    ]
    against_best = (f"{OURS} / the best of the same rules", *(f"{ratio:.2f}" for ratio in ratios))
    text = (
        f"Nanoseconds a round, median of {ROUNDS} runs (least-most), each the best of its batches.  The policy is "
        f"samples/{SAMPLE.name} with getppid: {len(resolved(policy).entries[Arch.X86_64])} calls with those that its set "
        "implies, of which it allows futex and openat under conditions.  The row after it allows what the program was seen "
        f"to do and nothing else, {len(exact.entries[Arch.X86_64])} calls; the three after that have the rules of the first; "
        "the last two allow these calls whatever their arguments.\n\n"
        f"{table(('', *COUNTS), [*times, against_best])}\n"
        "Instructions that the kernel runs for a round, of those that the filter has; `-` where it knows the answer when the "
        f"filter is loaded (seccomp_cache_prepare, since Linux 5.11).\n\n{table(('', 'in all', *COUNTS), steps)}\n"
        "The same for what the samples allow under conditions, every way in which these can hold once: mean (most).\n\n"
        f"{table(('', OURS, *SAME), [_every_way(path) for path in sorted(SAMPLES.glob('*.policy'))])}"
    )
    return Section(
        text,
        (
            Figure("an allowed call: our filter / the best with the same rules: the worst", NOISE, max(ratios)),
            Figure("an allowed call: with an implied set / learned with --exact: the worst", NOISE, exactly),
        ),
    )


def _every_way(path: Path) -> tuple[str, ...]:
    """A row: the policy, and on each side the instructions that allow a call after looking at its arguments."""
    policy = parse_file(path).policy
    sides = [(compile_policy(policy),), *((peer(policy),) for peer in SAME.values())]
    events = []
    for number, (_, alternatives) in peers.rules(policy).items():
        for alternative in alternatives:
            values = {index: value for index, _, value in alternative}
            if values:
                a, b, c, d, e, f = (values.get(index, 0) for index in range(6))
                events.append(Event(Arch.X86_64.audit, number, (a, b, c, d, e, f)))
    columns = [[_walk(*side, event)[0] for event in events] for side in sides]
    return path.name, *(f"{statistics.mean(column):.1f} ({max(column)})" for column in columns)


def _measured(call: str, filters: dict[str, tuple[bytes, ...]]) -> dict[str, Spread]:
    """Seconds for a round of the call on each side."""
    with scratch() as folder:
        program = compiled("filter_cost.c", folder)

        def timed(number: int, programs: tuple[bytes, ...]) -> Callable[[], float]:
            paths = [folder / f"{number}.{place}" for place in range(len(programs))]
            for path, content in zip(paths, programs, strict=True):
                path.write_bytes(content)
            command: list[str | Path] = [program, call, str(COUNTS[call]), *paths]
            return lambda: float(subprocess.run(command, check=True, capture_output=True).stdout) / 1e9

        sides = {side: timed(number, programs) for number, (side, programs) in enumerate(filters.items())}
        return alternate(sides, ROUNDS)


def _nanoseconds(spread: Spread) -> str:
    return f"{spread.median * 1e9:,.0f} ({spread.least * 1e9:,.0f}-{spread.most * 1e9:,.0f})"


def _steps(programs: tuple[bytes, ...], call: str) -> str:
    """How many instructions are run for a round; "-" for none."""
    total = 0
    for number, arguments in EVENTS[call]:
        walks = [_walk(program, Event(Arch.X86_64.audit, number, arguments)) for program in programs]
        if not all(known for _, known in walks):
            total += sum(steps for steps, _ in walks)
    return str(total or "-")


def _walk(program: bytes, event: Event) -> tuple[int, bool]:
    """How many instructions answer the event, and whether they allow it having read no argument."""
    instructions, data = bpf.decode(program), bpf.words(event)
    accumulator = pc = steps = 0
    known = True
    while True:
        one = instructions[pc]
        pc, steps = pc + 1, steps + 1
        if one.code == bpf.RET | bpf.K:
            return steps, known and one.k == bpf.ret(ALLOW)
        if one.code == bpf.LD | bpf.ABS:
            accumulator = data[one.k >> 2]
            known = known and one.k in (bpf.NUMBER, bpf.ARCH)
        elif one.code & 7 == bpf.ALU:
            accumulator = bpf.compute(one.code & 0xF0, accumulator, one.k)
        elif one.code == bpf.JMP | bpf.JA:
            pc += one.k
        else:
            pc += one.jt if bpf.jumps(one.code & 0xF0, accumulator, one.k) else one.jf


if __name__ == "__main__":
    print(section().text)
