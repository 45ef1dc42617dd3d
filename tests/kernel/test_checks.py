"""Programs that check themselves: none of their tasks may notice the tracer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from callfence.tracer.abi import COMPAT, NATIVE, Arch, table

CHECKS = {
    "signals": "every_one_once rt_order int3 single_step faults waited_for interrupted child_states "
    "no_child_stops_shown timers masked_over_exec to_threads state",
    "tasks": "kinds_of_birth clone_parent registers_kept vfork_waits daemonised subreaper killed_parents namespaces "
    "user_namespace reused_pids inherited_and_waited exec_from_thread exec_behind_leader exec_race many_exec_races "
    "exec_chain leader_first ended_in_stops killed_while_stopped group_stop init_faults group_stop_of_100 stopped_at_birth "
    "signal_while_stopped restarted_calls",
    "filters": "none_yet with_errno by_prctl killing killing_a_thread trapping tracing logging notifying asking_for_flags "
    "for_all_threads for_one_thread precedence signals_and_filters",
    "ways": "mixed vsyscall odd_numbers clocks",
    "processors": "after_many_calls in_status of_threads of_children over_exec chosen of_another asked_often "
    "with_a_deadline",
    "storms": "killed_trees",
}
X86 = pytest.mark.only_on("x86_64")
DOORS = {"ways"}
"""Programs that make calls in ways that x86_64 alone has."""
ALL = [pytest.param(name, check, marks=X86 if name in DOORS else ()) for name in CHECKS for check in CHECKS[name].split()]
GOOD = {"leader_first": 7}
"""Exit statuses other than 0."""


@pytest.mark.parametrize(("name", "check"), ALL)
def test_the_program_notices_nothing(program, same, name, check):
    if name == "processors" and os.sched_getaffinity(0) != set(range(os.cpu_count() or 0)):
        pytest.skip("needs all processors")
    assert same(program(name), check).done.returncode == GOOD.get(check, 0)


@pytest.mark.long
@pytest.mark.parametrize(("name", "check"), ALL)
@pytest.mark.parametrize("after", ["0", "5"])
def test_the_program_does_not_notice_that_its_filter_comes_late(program, same, name, check, after):
    """Each process gets its filter, which lets known calls run, after so few calls."""
    learned = same(program(name), check, options=("-q", "--late-after", after))
    assert learned.done.returncode == GOOD.get(check, 0)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("tasks", "kinds_of_birth"),
        ("tasks", "untraced"),
        ("tasks", "exec_from_thread"),
        ("filters", "none_yet"),
        ("filters", "by_prctl"),
        ("filters", "for_all_threads"),
        ("processors", "after_many_calls"),
        ("processors", "in_status"),
        ("processors", "chosen"),
        ("signals", "state"),
    ],
)
def test_a_warm_run_of_the_program_notices_nothing(program, learn, name, check):
    """Known calls run unseen, except those that the tracer must handle."""
    first = learn(program(name), check)
    policy = first.policy.read_bytes()
    again = learn(program(name), check)
    assert (again.done.returncode, again.done.stdout, again.done.stderr) == (0, first.done.stdout, b"")
    assert again.policy.read_bytes() == policy


@pytest.mark.parametrize("check", ["every_one_once", "faults", "interrupted", "state"])
def test_a_32_bit_program_notices_nothing(program, same, check):
    learned = same(program("signals", "-m32", "-static"), check)
    assert learned.done.returncode == 0
    assert {arch for arch, _ in learned.calls()} == {COMPAT.audit}


@pytest.mark.parametrize(("options", "said"), [((), b"no clone3\n"), (("--allow-opaque", "clone3"), b"clone3\n")])
def test_no_child_is_left_without_its_tracer(program, learn, options, said):
    learned = learn(program("tasks"), "untraced", options=("-q", *options))
    assert (learned.done.returncode, learned.done.stdout) == (0, said), learned.done.stderr


@pytest.mark.parametrize("options", [(), ("--allow-opaque", "clone3")])
def test_no_child_of_a_warm_run_is_left_without_its_tracer(program, learn, options):
    policy = learn(program("tasks"), "untraced", options=("-q", *options)).policy
    whole = policy.read_text()
    policy.write_text(whole.replace("getppid: allow\n", ""))
    assert learn(program("tasks"), "untraced", options=("-q", *options)).done.returncode == 0
    assert policy.read_text() == whole


HERE = NATIVE.audit
GETPRIORITY, GETPPID = (table(NATIVE).by_name[name].number for name in ("getpriority", "getppid"))
GETPID, X32 = 39, 0x40000000


@pytest.mark.parametrize(
    ("check", "times"),
    [
        ("with_errno", 4),
        ("by_prctl", 1),
        ("killing", 1),
        ("killing_a_thread", 2),
        ("trapping", 3),
        ("tracing", 3),
        ("logging", 1),
        ("notifying", 4),
        ("precedence", 6),
        ("signals_and_filters", 300),
    ],
)
def test_what_a_filter_of_the_program_answers_is_recorded_once(program, learn, check, times):
    learned = learn(program("filters"), check, options=("-q", "--every-call"))
    assert learned.calls()[HERE, GETPRIORITY] == times


def test_a_filter_for_all_threads_hides_no_call(program, learn):
    learned = learn(program("filters"), "for_all_threads")
    assert learned.done.returncode == 0
    assert learned.calls()[HERE, GETPRIORITY] >= 4 * 50


def test_a_filter_in_force_before_hides_no_call(program, learn):
    under = (program("filters"), "before_another")
    learned = learn(program("filters"), "refused", under=under)
    assert learned.done.returncode == 0, learned.done.stderr
    assert learned.calls()[HERE, GETPRIORITY] == 1


@X86
def test_i386_calls_of_a_64_bit_program_are_recorded_as_such(program, learn):
    calls = learn(program("ways"), "mixed").calls()
    assert tuple(calls[Arch.I386.audit, number] for number in (20, 6, 60)) == (50, 50, 50)
    assert (HERE, 60) not in calls


@X86
def test_odd_numbers_are_recorded(program, learn):
    calls = learn(program("ways"), "odd_numbers").calls()
    assert {0xFFFFFFFF, 1000, X32 | GETPID, X32 | 512} <= {number for arch, number in calls if arch == HERE}


@X86
def test_calls_through_the_vsyscall_page_are_recorded(program, plain, learn):
    if "[vsyscall]" not in Path("/proc/self/maps").read_text():
        pytest.skip("the kernel was started with vsyscall=none: there is no such page to call")
    assert plain(program("ways"), "vsyscall").returncode == 0
    assert learn(program("ways"), "vsyscall").calls()[HERE, 96] == 1
    behind = learn(program("filters"), "vsyscalls", options=("-q", "--fresh"))
    assert behind.calls()[HERE, 96] == 3  # where every other call has an entry stop


@pytest.mark.long
@pytest.mark.parametrize(
    ("storm", "quick"),
    [("short_threads", 2000), ("live_threads", 600), ("short_processes", 1500), ("exec_chains", 100)],
)
@pytest.mark.parametrize("options", [("--every-call",), ()])
def test_storms_lose_no_task(program, learn, storm, quick, options):
    """CALLFENCE_STORM multiplies the counts: with 10 they are those of a long test."""
    count = quick * int(os.environ.get("CALLFENCE_STORM", "1"))
    learned = learn(program("storms"), storm, str(count), options=("-q", *options), timeout=600)
    assert learned.done.returncode == 0, learned.done.stderr
    if options and storm == "short_threads":
        assert learned.calls()[HERE, GETPPID] == count


def test_a_fork_bomb_under_a_limit_ends(program, learn):
    if os.getuid():
        pytest.skip("needs root, to become another user")
    bomb = ("setpriv", "--reuid=61234", "--regid=61234", "--clear-groups", program("storms"), "bomb", "60")
    learned = learn(*bomb, timeout=120)
    assert learned.done.returncode == 0, learned.done.stderr
