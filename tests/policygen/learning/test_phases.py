"""Which phase is chosen from a recording, and which processes it counts as one role."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from calls import event, parse

from callfence.policygen.evaluate import evaluate
from callfence.policygen.language.document import parse as parsed
from callfence.policygen.learning.extend import Options
from callfence.policygen.learning.generate import generate
from callfence.policygen.learning.phases import by_role, choose, in_phases, staged
from callfence.policygen.model import Phase
from callfence.policygen.phases import phase_policies
from callfence.policygen.recording.model import Observation, Recording, Run, recorded_values
from callfence.tracer.abi import Arch, table
from callfence.tracer.abi.waits import FORK, bits, executed, forked

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from callfence.policygen.language.document import Document

CALLS = table(Arch.X86_64)
HOW = Options()
CHILD, THREAD = 0x1200011, 0x3D0F00
"""The flags of clone(2) with which glibc makes a process and a thread."""


def waits(*names: str, forks: int = 0) -> int:
    return bits(names) + forks * FORK


def observed(name: str, *arguments: int, after: Collection[int], by: str = "/app", runs: int = 1) -> Observation:
    call = event(name, *arguments)
    values = recorded_values(CALLS, call)
    return Observation(call.arch, call.number, values, by, (1,) * runs, "?", call.arguments, after=tuple(sorted(after)))


def recording(
    lives: Sequence[Collection[int]], observations: Sequence[Observation], executed: Sequence[tuple[str, str]] = ()
) -> Recording:
    """A recording with a run for each of `lives`, the waits of its processes."""
    runs = [
        Run(str(number), number, ("app",), 0, complete=True, executed=tuple(executed), waits=tuple(sorted({0, *run})))
        for number, run in enumerate(lives)
    ]
    return Recording(tuple(runs), tuple(sorted(observations, key=lambda each: each.order)))


def learned(whole: Recording) -> tuple[str, list[str]]:
    """Why a phase was chosen or not, and the entries of the policy."""
    start = generate(whole.observations, None, name="app", options=HOW)
    choice = choose(start.document.policy, whole, HOW)
    document = staged(start, None, whole.observations, choice.phases, HOW, whole).document
    return choice.why, entries(document)


def entries(document: Document) -> list[str]:
    lines = [line.partition("  #")[0].rstrip() for line in document.text().splitlines()]
    return [line for line in lines[lines.index("") + 1 :] if line.partition(":")[0] in {"connect", "listen", "chroot"}]


# A master that waits for signals and starts workers, which wait for connections.
MASTER = waits("rt_sigsuspend")
WORKER = waits("epoll_wait", "accept4", forks=1)
SECOND = WORKER | MASTER
"""A worker that was started when the master had begun to wait."""


def master(runs: int) -> list[Observation]:
    return [
        observed("clone", CHILD, after=[0, MASTER], runs=runs),
        observed("listen", 3, 5, after=[0], runs=runs),
        observed("chroot", after=[0], runs=runs),
    ]


def test_what_the_first_workers_did_is_not_denied_to_those_that_replace_them() -> None:
    whole = recording(
        [{MASTER, WORKER, SECOND}, {MASTER, WORKER}],
        [*master(2), observed("connect", 7, after=[WORKER], runs=2), observed("accept4", 6, after=[WORKER, SECOND], runs=2)],
    )
    why, left = learned(whole)
    assert why.startswith("serving after epoll_wait: ")
    assert left == ["chroot: allow until serving", "connect: allow", "listen: allow until serving"]


@pytest.mark.parametrize("life", [{0}, {0, waits(forks=1)}], ids=["", "forked"])
def test_a_run_that_was_interrupted_before_it_waited_takes_no_phase_away(life: set[int]) -> None:
    def whole(*lives: set[int]) -> Recording:
        made = [*master(len(lives)), observed("connect", 7, after=[WORKER], runs=len(lives))]
        return recording(lives, made)

    found = learned(whole({MASTER, WORKER}, life))
    assert found == learned(whole({MASTER, WORKER}))
    assert found[0].startswith("serving after epoll_wait: ")
    assert learned(whole(life))[0] == "no phase: there is no call in which each run waits for work"


def test_no_phase_that_those_never_enter_who_accept_connections() -> None:
    """In the second run nobody has made a request, nor waited for one."""
    why, left = learned(recording([{MASTER, WORKER}, {MASTER}], master(2)))
    assert why == "no phase: a process that accepts connections or waits for input makes none of rt_sigsuspend"
    assert left == ["chroot: allow", "listen: allow"]


def test_a_master_that_waits_for_signals_does_not_serve() -> None:
    """Its workers take datagrams: no call shows that."""
    worker = waits("epoll_wait", forks=1)
    whole = recording([{MASTER, worker}], [*master(1), observed("connect", 7, after=[worker])])
    assert learned(whole)[0].startswith("serving after epoll_wait, rt_sigsuspend: ")


def test_several_triggers_if_those_who_accept_connections_wait_in_different_calls() -> None:
    lives = {waits("epoll_wait", "accept4", forks=1), waits("poll", "accept", forks=1)}
    why, left = learned(recording([lives], [*master(1), observed("connect", 7, after=lives)]))
    assert why.startswith("serving after epoll_wait, poll: ")
    assert left == ["chroot: allow until serving", "connect: allow", "listen: allow until serving"]


def test_the_program_says_it_but_not_for_those_who_accept_connections() -> None:
    lives = {waits("enter"), WORKER}
    why, _ = learned(recording([lives], [*master(1), observed("connect", 7, after=[WORKER])]))
    assert why.startswith("serving after enter, epoll_wait: ")


# A master that waits in the same call as its workers.
IN_POLL, NEW, SERVING = waits("poll"), waits(forks=1), waits("poll", "accept", forks=1)
FORKED = observed("clone", CHILD, after=[0])


@pytest.mark.parametrize(
    ("started", "until"),
    [
        ([FORKED], " until serving"),
        ([FORKED, observed("clone", THREAD, after=[IN_POLL])], " until serving"),
        ([observed("clone", CHILD, after=[0, IN_POLL])], ""),
        ([FORKED, observed("vfork", after=[IN_POLL])], ""),
    ],
    ids=["all before", "a thread", "one again", "one again by vfork"],
)
def test_a_worker_that_begins_in_the_phase_starts_as_the_first_did(started: list[Observation], until: str) -> None:
    others = [observed("listen", 3, 5, after=[0]), observed("chroot", after=[0]), observed("accept", 6, after=[SERVING])]
    whole = recording([{IN_POLL, SERVING}], [*started, *others, observed("connect", 7, after=[NEW])])
    start = generate(whole.observations, None, name="app", options=HOW)
    document = staged(start, None, whole.observations, [Phase("serving", ("poll",), {})], HOW, whole).document
    assert entries(document) == ["chroot: allow until serving", f"connect: allow{until}", "listen: allow until serving"]


def test_starting_a_thread_ends_with_no_phase() -> None:
    """Whether a thread waits before another is started is chance."""
    calls = [observed("clone", THREAD, after=[0]), FORKED, observed("chroot", after=[0]), observed("poll", after=[0, IN_POLL])]
    whole = recording([{IN_POLL}], calls)
    start = generate(whole.observations, None, name="app", options=HOW)
    document = staged(start, None, whole.observations, [Phase("serving", ("poll",), {})], HOW, whole).document
    lines = document.text().splitlines()
    assert any("CLONE_THREAD" in line and "until" not in line for line in lines), lines
    assert any("SIGCHLD" in line and "until serving" in line for line in lines), lines


def test_learning_says_that_nothing_ends_in_a_phase_any_more() -> None:
    document = parse("phase serving after poll\npoll: allow\nlisten: allow until serving\n")
    late = recording([()], [observed("listen", 3, 5, after=[])])
    generated = in_phases(
        lambda start: generate(late.observations, start, name="app", options=HOW),
        document, late.observations, Recording(), late, HOW, chooses=False,
    )  # fmt: skip
    assert (generated.phases, generated.document.policy.phases) == ("no phase serving any more: nothing ends there", ())


def test_what_an_implied_set_gives_in_a_phase_is_not_written_there() -> None:
    text = "implied 1\nphase serving after poll\ngetpid: allow until serving\nlisten: allow until serving\npoll: allow\n"
    calls = [observed("listen", 3, 5, after=[0]), observed("getpid", after=[IN_POLL]), observed("poll", after=[0, IN_POLL])]
    whole = recording([{IN_POLL}], calls)
    generated = in_phases(
        lambda start: generate(whole.observations, start, name="app", options=HOW),
        parse(text), whole.observations, whole, whole, HOW, chooses=False,
    )  # fmt: skip
    assert "\ngetpid: allow until serving\n" in generated.document.text()


def test_a_phase_has_what_the_start_has_by_an_implied_set() -> None:
    """Varnish maps files to write, which it opens with O_RDWR at its start alone.  The rule that learning would write for this
    is wider than what the start allows."""
    opened, mapped = event("openat", -100, 0, 2, 0), event("mmap", 0, 4096, 3, 1, 6, 0)
    wait, how = waits("epoll_wait"), Options(implied=1)
    code = observed("mmap", 0, 4096, 5, 2, 6, 0, after=[0, wait])  # another rule of mmap, which the phase has as well
    start = observed("openat", *opened.arguments, after=[0])
    whole = recording([{wait}], [start, code, observed("mmap", *mapped.arguments, after=[0, wait])])
    generated = generate(whole.observations, None, name="app", options=how)
    phase = Phase("serving", ("epoll_wait",), {})
    policy = parsed(staged(generated, None, whole.observations, [phase], how, whole, anew=True).document.text()).policy
    allowed = [[evaluate(each, call).allows for _, each in phase_policies(policy)] for call in (opened, mapped)]
    assert allowed == [[True, False], [True, True]]


def test_a_program_that_is_executed_again_has_the_role_that_it_had_first() -> None:
    whole = recording(
        [{waits("poll")}],
        [observed("execve", after=[waits("poll", forks=1)]), observed("connect", 7, after=[0], by="/other"),
         observed("connect", 7, after=[0])],
        [("", "/app"), ("/app", "/other")],
    )  # fmt: skip
    found = {each.executable: each.after for each in by_role(whole.observations, whole) if each.number == 42}
    assert found == {"/app": (0,), "/other": (waits("poll"),)}


def test_forks_are_counted_up_to_a_limit() -> None:
    entered = waits("poll", "sd_notify")
    for forks in range(40):
        assert (entered // FORK, executed(entered)) == (min(forks, 15), waits("poll", "sd_notify"))
        entered = forked(entered)
    assert entered < 1 << 32


FIXED, MAYMOVE, UNMAP = 2, 1, 4
"""MREMAP_FIXED, MREMAP_MAYMOVE, MREMAP_DONTUNMAP (linux/mman.h)."""


@pytest.mark.parametrize(
    ("first", "second", "before", "after"),
    [
        # the start's two rules become one with the second run, as all that it did becomes one: the phase keeps its own
        ((FIXED, MAYMOVE | FIXED), (FIXED, MAYMOVE | FIXED, MAYMOVE | UNMAP), [0, 1, 2, 3, 5], [2]),
        # the rule is new at the start, since it was joined with the old one: the phase does not get it
        ((FIXED,), (MAYMOVE | FIXED,), [0, 1, 2, 3], [2]),
    ],
)
def test_a_second_run_leaves_the_phase_as_it_was(
    first: Sequence[int], second: Sequence[int], before: Collection[int], after: Collection[int]
) -> None:
    wait = waits("epoll_wait")
    both = observed("epoll_wait", 3, 0x1000, 1, 10, after=[0, wait])

    def run(*observations: Observation) -> Recording:
        return recording([{wait}], [both, observed("chroot", after=[0]), *observations])

    def moved(flags: int, *after: int) -> Observation:
        return observed("mremap", 0, 0, 0, flags, 0, after=after)

    whole = run(*(moved(flags, 0, wait) if flags == FIXED else moved(flags, 0) for flags in first))
    start = generate(whole.observations, None, name="app", options=HOW)
    document = staged(start, None, whole.observations, [Phase("serving", ("epoll_wait",), {})], HOW, whole, anew=True).document
    again = run(*(moved(flags, 0) for flags in second))
    later = in_phases(
        lambda existing: generate(again.observations, existing, name="app", options=HOW),
        parsed(document.text()), again.observations, whole, again, HOW, chooses=False,
    ).document.policy  # fmt: skip
    calls = [event("mremap", 0, 0, 0, flags, 0) for flags in range(8)]
    allowed = [[flags for flags in range(8) if evaluate(each, calls[flags]).allows] for _, each in phase_policies(later)]
    assert allowed == [before, after]


def test_who_accepts_connections_does_for_the_next_client_what_it_did_for_the_first() -> None:
    """A server with threads: its first waits for connections, each other one connects elsewhere for one client and polls."""
    thread = waits("accept", "poll")
    whole = recording(
        [{thread}],
        [
            observed("listen", 3, 5, after=[0]),
            observed("chroot", after=[0]),
            observed("connect", 7, after=[waits("accept")]),
            observed("poll", after=[waits("accept"), thread]),
        ],
    )
    why, left = learned(whole)
    assert why.startswith("serving after ")
    assert left == ["chroot: allow until serving", "connect: allow", "listen: allow until serving"]


def test_what_a_process_does_for_one_client_may_end_when_its_parent_accepts_connections() -> None:
    """A server that starts a process for each client, which gives up what it was before it waits for that one's input."""
    parent, child = waits("accept"), waits("accept", "poll", forks=1)
    whole = recording(
        [{parent | waits("poll"), child}],
        [
            observed("clone", CHILD, after=[parent]),
            observed("chroot", after=[waits("accept", forks=1)]),
            observed("connect", 7, after=[child]),
        ],
    )
    start = generate(whole.observations, None, name="app", options=HOW)
    document = staged(start, None, whole.observations, [Phase("serving", ("poll",), {})], HOW, whole).document
    assert entries(document) == ["chroot: allow until serving", "connect: allow"]
