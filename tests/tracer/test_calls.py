"""What is called at the stops of calls, and in which order; without a kernel."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import pytest
from calls import value

from callfence.tracer import calls as module, kernel, linux
from callfence.tracer.abi import COMPAT, NATIVE, Arch, table
from callfence.tracer.calls import Calls
from callfence.tracer.kernel import event_of
from callfence.tracer.machine import MACHINE
from callfence.tracer.task import Task, Way

ERASED, WATCHED = "erased", "watched"


READ = table(NATIVE).by_name["read"].number


def info(name: str, *arguments: int) -> bytearray:
    """A struct ptrace_syscall_info of a call."""
    number = table(NATIVE).by_name[name].number
    return bytearray(struct.pack("<4xIQ8xQ6Q", NATIVE.audit, 0, number, *(*arguments, *[0] * 6)[:6]))


def test_a_call_of_32_bits_takes_as_many_of_each_register() -> None:
    """Else what its pointers point to was not learned, where code of 64 bits had made it."""

    def arguments(arch: Arch) -> tuple[int, ...]:
        return event_of(bytearray(struct.pack("<4xIQ8xQ6Q", arch.audit, 0, READ, *[0x5A5A00000007] * 6)), 7).arguments

    assert arguments(COMPAT) == (7,) * 6
    assert arguments(NATIVE) == (0x5A5A00000007,) * 6


def test_a_write_is_still_watched_after_the_line_below_it_was_erased() -> None:
    calls, task = Calls({}, SimpleNamespace(), frozenset(), print), SimpleNamespace(tid=1)  # type: ignore[arg-type]
    called: list[str] = []
    done: Any = called.append
    calls.also_named("write", lambda task, event: done(WATCHED))
    assert calls.before_output(lambda: done(ERASED)) and calls.before_output(lambda: done(ERASED))
    for _ in range(2):
        calls.handle(task, info("write"))  # type: ignore[arg-type]
        calls.handle(task, info("writev"))  # type: ignore[arg-type]
    assert called == [ERASED, WATCHED, WATCHED]
    assert calls.before_output(lambda: done(ERASED))
    calls.let_writes_run()
    assert called[3:] == [ERASED] and not calls.before_output(lambda: done(ERASED))


def watching() -> tuple[Calls, dict[int, Task], list[Any]]:
    """Two threads of the process 7 and the process 8, and what the handler of exits was called with."""
    tasks = {tid: Task(tid, tgid) for tid, tgid in ((7, 7), (9, 7), (8, 8))}
    calls, called = Calls(tasks, SimpleNamespace(), frozenset(), print), []  # type: ignore[arg-type]
    calls.exits[NATIVE.audit, READ] = lambda task, event, result: called.append((task.tid, event.number, result))
    return calls, tasks, called


def test_a_watched_task_stops_at_each_call_until_its_number_is_used_up() -> None:
    calls, tasks, called = watching()
    lapsed: list[int] = []
    calls.lapsed = lambda task: lapsed.append(task.tid)
    task = tasks[7]
    assert task.way is Way.RUN
    calls.watch(task, event_of(info("connect"), 7), 3)
    assert (task.way, tasks[9].way, task.call) == (Way.CALLS, Way.RUN, None)
    for name in ("read", "write"):
        calls.enter(task, info(name))
        calls.leave(task, 5)
    assert called == [(7, READ, 5)]
    calls.enter(task, info("read"))
    assert (task.way, task.call, lapsed) == (Way.RUN, None, [7])


def test_the_call_at_which_the_watch_begins_has_its_exit_handled() -> None:
    calls, tasks, called = watching()
    calls.watch(tasks[7], event_of(info("read"), 7), 3)
    calls.leave(tasks[7], -11)
    calls.leave(tasks[7], 1)
    assert called == [(7, READ, -11)]


def test_the_other_threads_of_a_process_are_watched_with_it() -> None:
    calls, tasks, _ = watching()
    tasks[9].counted = True  # at a filter's stop, after which it runs
    calls.watch(tasks[7], event_of(info("connect"), 7), 3, whole=True)  # no such task can be interrupted
    assert [tasks[tid].way for tid in (7, 9, 8)] == [Way.CALLS, Way.CALLS, Way.RUN]
    assert not tasks[9].counted
    assert tasks[7].child(11, 7).way is Way.CALLS
    calls.unwatch(7)
    assert [tasks[tid].way for tid in (7, 9)] == [Way.RUN, Way.RUN]


HIDDEN = "/bin/app made calls whose arguments no filter can see; learn cannot fail them under the program's own filter"
FAILED = "{0} of /bin/app failed with ENOSYS; if the program needs it, use --allow-opaque {0}"
SKIPPED = [(7, 38)]


@pytest.mark.parametrize(
    ("name", "arguments", "filtered", "others", "gaps", "skipped"),
    [
        ("clone3", (), True, False, [], SKIPPED),
        ("openat2", (), True, False, [FAILED.format("openat2")], SKIPPED),
        ("io_uring_setup", (), False, False, [FAILED.format("io_uring_setup")], SKIPPED),
        ("io_uring_setup", (), False, True, [HIDDEN], []),
        ("openat2", (), True, True, [FAILED.format("openat2")], SKIPPED),
        ("ptrace", (), True, False, ["/bin/app uses ptrace, which fails because learn traces the program"], []),
        ("prctl", (linux.PR_GET_SECCOMP,), True, False, [], [(7,)]),
        ("prctl", (linux.PR_GET_SECCOMP | 1 << 32,), True, False, [], [(7,)]),
        ("prctl", (linux.PR_GET_SECCOMP,), True, True, [], []),
        ("prctl", (linux.PR_SET_NAME,), True, False, [], []),
        ("read", (), True, False, [], []),
    ],
)
def test_what_is_failed_and_what_is_said_of_it(
    name: str,
    arguments: tuple[int, ...],
    filtered: bool,
    others: bool,
    gaps: list[str],
    skipped: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`filtered`: the call is at the stop of our filter; `others`: the program has one of its own."""
    done: list[tuple[int, ...]] = []
    said: list[str] = []
    monkeypatch.setattr(kernel, "skip_call", lambda *words: done.append(words))
    calls = Calls({}, SimpleNamespace(), frozenset(), said.append)  # type: ignore[arg-type]
    calls.started = True
    task: Any = SimpleNamespace(tid=7, executable="/bin/app", filtered=filtered, other_filter=others)
    calls.handle(task, info(name, *arguments))
    assert (said, done) == (gaps, skipped)


def test_an_opaque_call_that_is_allowed_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "skip_call", None)
    said: list[str] = []
    calls = Calls({}, SimpleNamespace(), frozenset({"openat2"}), said.append)  # type: ignore[arg-type]
    calls.handle(SimpleNamespace(tid=7, executable="/bin/app", filtered=True), info("openat2"))  # type: ignore[arg-type]
    assert not said


RELEASED, DISABLED = ("release", 7), ("disable",)
READABLE, ONLY_WRITTEN, FOLDER = 0, 1, value("O_DIRECTORY", NATIVE)


@pytest.mark.parametrize(
    ("name", "arguments", "path", "done"),
    [
        ("sched_getaffinity", (0,), b"", [RELEASED]),
        ("sched_getaffinity", (7,), b"", [RELEASED]),
        ("sched_getaffinity", (7 | 1 << 32,), b"", [RELEASED]),
        ("sched_getaffinity", (8,), b"", [DISABLED]),
        ("sched_setaffinity", (0,), b"", [RELEASED]),
        ("sched_setattr", (9,), b"", [DISABLED]),
        ("openat", (0, 1, READABLE), b"/proc/self/status", [DISABLED]),
        ("openat", (0, 1, READABLE), b"status//", [DISABLED]),
        ("openat", (0, 1, READABLE), b"/etc/passwd", []),
        ("openat", (0, 1, ONLY_WRITTEN), b"/proc/self/status", []),
        ("openat", (0, 1, FOLDER), b"/proc/self/status", []),
    ],
)
def test_what_shows_the_shared_processor(
    name: str, arguments: tuple[int, ...], path: bytes, done: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is restored before the program looks at it."""
    monkeypatch.setattr(kernel, "read_path", lambda tid, address: path if (tid, address) == (7, 1) else b"")
    for in_use in (True, False):
        found: list[tuple[object, ...]] = []
        add: Any = found.append
        processor: Any = SimpleNamespace(
            in_use=in_use, release=lambda tid, add=add: add(("release", tid)), disable=lambda add=add: add(("disable",))
        )
        task = Task(7, 7)
        task.checked = 5.0
        Calls({}, processor, frozenset(), print).handle(task, info(name, *arguments))
        assert found == (done if in_use or "sched" in name else [])
        assert task.own_affinity is (name == "sched_setaffinity")
        assert task.checked == (0.0 if RELEASED in found else 5.0)


NEW_FILTER = linux.SECCOMP_SET_MODE_FILTER


@pytest.mark.parametrize(
    ("name", "arguments", "threads"),
    [
        ("prctl", (linux.PR_SET_SECCOMP, 2), [7]),
        ("seccomp", (NEW_FILTER, 0), [7]),
        ("seccomp", (linux.SECCOMP_SET_MODE_STRICT, 0), [7]),
        ("seccomp", (NEW_FILTER | 1 << 32, 0), [7]),
        ("seccomp", (NEW_FILTER, linux.SECCOMP_FILTER_FLAG_TSYNC), [7, 9]),
        ("seccomp", (NEW_FILTER, 1 << 1), [7]),
        ("seccomp", (linux.SECCOMP_GET_ACTION_AVAIL, 0), []),
        ("prctl", (linux.PR_SET_NAME,), []),
    ],
)
@pytest.mark.parametrize("failed", [False, True])
def test_a_filter_of_the_program_is_noticed(
    name: str, arguments: tuple[int, ...], threads: list[int], failed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its call to the end of that, each thread that gets the filter stops at the entry of calls, before all filters."""
    interrupted: list[int] = []
    monkeypatch.setattr(kernel, "interrupt", interrupted.append)
    tasks = {tid: Task(tid, tgid) for tid, tgid in ((7, 7), (9, 7), (8, 8))}
    calls = Calls(tasks, SimpleNamespace(), frozenset(), print)  # type: ignore[arg-type]
    calls.handle(tasks[7], info(name, *arguments))
    assert [task.tid for task in tasks.values() if task.exposed] == threads
    assert interrupted == threads[1:], "the others, which run"
    if threads:
        calls.installed(tasks[7], failed)
        assert tasks[7].installing == ""
    assert not any(task.exposed for task in tasks.values())
    assert [task.tid for task in tasks.values() if task.other_filter] == ([] if failed else threads)


@pytest.mark.only_on("x86_64")  # elsewhere the register has the result as well, so nothing is restored
@pytest.mark.parametrize(("flags", "changed"), [(0x11, False), (0x11 | linux.CLONE_UNTRACED, True)])
def test_a_child_that_is_not_to_be_traced_is_and_does_not_notice(
    flags: int, changed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The register of the flags is changed for the call alone, in the task and in its child."""
    done: list[tuple[int, int, int]] = []
    monkeypatch.setattr(kernel, "set_register", lambda *words: done.append(words))
    calls, register = Calls({}, SimpleNamespace(), frozenset(), print), MACHINE.native.arguments[0]  # type: ignore[arg-type]
    task, child = Task(7, 7), Task(8, 8)
    calls.handle(task, info("clone", flags))
    assert done == [(7, register, 0x11)] * changed
    for _ in range(2):  # the second time there is nothing left
        calls.announced(task, child)
        calls.restore(child)
    assert done[1:] == [(7, register, flags), (8, register, flags)] * changed


@pytest.mark.parametrize(("flags", "skipped"), [(0, []), (linux.CLONE_UNTRACED, SKIPPED), (linux.CLONE_UNTRACED - 1, [])])
def test_a_clone3_whose_child_is_not_to_be_traced_fails(
    flags: int, skipped: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[int, ...]] = []
    monkeypatch.setattr(kernel, "peek", lambda tid, address: {(7, 0x1000): flags}[tid, address])
    monkeypatch.setattr(kernel, "skip_call", lambda *words: done.append(words))
    calls = Calls({}, SimpleNamespace(), frozenset({"clone3"}), print)  # type: ignore[arg-type]
    calls.started = True
    calls.handle(SimpleNamespace(tid=7, executable="/bin/app", filtered=True), info("clone3", 0x1000))  # type: ignore[arg-type]
    assert done == skipped


@pytest.mark.parametrize(
    ("filtered", "others", "found", "before", "after"),
    [
        (True, True, True, True, True),
        (False, False, False, True, True),
        (False, False, True, False, True),
        (False, True, False, True, False),
        (False, True, True, False, False),
    ],
)
def test_before_the_start_a_filter_that_is_in_force_is_not_the_tracers(
    filtered: bool, others: bool, found: bool, before: bool, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Afterwards one of ours is, and /proc tells no difference."""
    monkeypatch.setattr(module, "has_filter", lambda tid: found)
    calls = Calls({}, SimpleNamespace(), frozenset(), print)  # type: ignore[arg-type]
    task: Any = SimpleNamespace(tid=7, filtered=filtered, other_filter=others)
    assert calls.may_skip(task) == before
    calls.started = True
    assert calls.may_skip(task) == after


def test_before_the_start_the_kernel_says_whether_there_is_a_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "skip_call", None)
    calls = Calls({}, SimpleNamespace(), frozenset(), print)  # type: ignore[arg-type]
    calls.handle(Task(7, 7), info("prctl", linux.PR_GET_SECCOMP))


@pytest.mark.parametrize(
    ("arch", "always", "stops"), [(NATIVE, True, [READ]), (NATIVE, False, []), (COMPAT, True, []), (COMPAT, False, [])]
)
def test_which_calls_stop_each_time(arch: Arch, always: bool, stops: list[int]) -> None:
    """Of native ones those whose handler needs it, unless it says otherwise; filters let no other ones run."""
    calls = Calls({}, SimpleNamespace(), frozenset(), print)  # type: ignore[arg-type]
    assert calls.always == set()
    calls.also(arch.audit, READ, lambda task, event: None, **({} if always else {"always": False}))
    assert [*calls.always] == stops
    calls.also_named("write", lambda task, event: None, always=always)
    assert calls.always == {*stops, *[table(NATIVE).by_name["write"].number] * always}
    calls.also_named("read", lambda task, event: None)
    assert READ in calls.always


def test_a_thread_that_runs_is_interrupted_to_be_watched_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, tasks, _ = watching()
    interrupted: list[int] = []
    monkeypatch.setattr(kernel, "interrupt", interrupted.append)
    for tid in (7, 9):
        tasks[tid].covered = True
    tasks[11] = Task(11, 7)
    tasks[11].covered = False
    assert [tasks[tid].way for tid in (7, 9, 11)] == [Way.RUN, Way.RUN, Way.CALLS]
    calls.watch(tasks[7], event_of(info("connect"), 7), 3, whole=True)
    assert interrupted == [9], "the first is at its call, and the last stops anyway"
    assert [task.watched for task in tasks.values()] == [3, 3, 0, 3]
    calls.watch(tasks[7], event_of(info("connect"), 7), 2, whole=True)
    assert (interrupted, tasks[9].watched) == ([9], 3)


@pytest.mark.parametrize(
    ("name", "index", "says"), [("openat2", 3, FAILED.format("openat2")), ("open", 0, ""), ("openat", 1, "")]
)
def test_calls_of_32_bits_are_known_by_their_own_numbers(
    name: str, index: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    disabled: list[str] = []
    monkeypatch.setattr(kernel, "skip_call", lambda *words: None)
    monkeypatch.setattr(kernel, "read_path", lambda tid, address: {0x1000: b"/proc/self/status"}[address])
    processor: Any = SimpleNamespace(in_use=True, disable=lambda: disabled.append(name))
    arguments = [0] * 6
    arguments[index] = 0x1000
    packed = struct.pack("<4xIQ8xQ6Q", COMPAT.audit, 0, table(COMPAT).by_name[name].number, *arguments)
    task: Any = SimpleNamespace(tid=7, executable="/bin/app", filtered=True, other_filter=False)
    Calls({}, processor, frozenset(), said.append).handle(task, bytearray(packed))
    assert (said, disabled) == ([says] if says else [], [] if says else [name])
