"""The executables of a recording, and which started which."""

from __future__ import annotations

from callfence.judging.sites import with_names
from callfence.policygen.language.document import parse
from callfence.policygen.recording.fold import Aggregator
from callfence.policygen.recording.many import merge
from callfence.policygen.recording.model import Recording, Run
from callfence.report.content import Executable, executables, gather
from callfence.report.page import page
from callfence.tracer.abi import Arch, Event, table

NUMBERS = {name: call.number for name, call in table(Arch.X86_64).by_name.items()}


def recorded(index: int, seen: dict[str, list[str]], *executed: tuple[str, str]) -> Recording:
    """A run in which executables made those calls."""
    aggregator = Aggregator()
    for executable, calls in seen.items():
        for name in calls:
            aggregator.counter(executable, Event(Arch.X86_64.audit, NUMBERS[name], (0, 0, 0, 0, 0, 0)), str)[0] += 1
    run = Run(f"r{index}", index, ("./x",), 0, True, executed=tuple(sorted(executed)))
    return Recording((run,), aggregator.observations())


def found(*recordings: Recording) -> dict[str, Executable]:
    return {one.executable: one for one in executables(merge(*recordings))}


def test_starters_of_all_runs_add_up() -> None:
    shown = found(
        recorded(0, {"/a": ["read", "execve"], "/b": ["read"]}, ("", "/a"), ("/a", "/b"), ("/a", "/a")),
        recorded(1, {"/b": ["read"]}, ("", "/b")),
        recorded(2, {"/b": ["read"], "/c": ["execve"]}, ("", "/c"), ("/c", "/b")),
    )
    assert {name: (one.is_first, one.starters) for name, one in shown.items()} == {
        "/a": (True, ("/a",)),
        "/b": (True, ("/a", "/c")),
        "/c": (True, ()),
    }
    assert [one.runs for one in shown.values()] == [(0,), (0, 1, 2), (2,)]
    assert (shown["/a"].calls, shown["/b"].calls) == (2, 3)
    assert shown["/b"].syscalls == {(Arch.X86_64.audit, NUMBERS["read"]): 3}


def test_an_executable_without_recorded_calls_still_ran() -> None:
    """As in a warm run that made only known calls."""
    shown = found(recorded(0, {"/b": ["read"]}, ("", "/a"), ("/a", "/b")))
    assert (shown["/a"].calls, shown["/a"].runs, shown["/a"].is_first) == (0, (0,), True)


def test_nothing_is_guessed_about_runs_without_execves() -> None:
    shown = found(recorded(0, {"/a": ["vfork", "execve"], "/b": ["read"]}))
    assert [(one.is_first, one.starters) for one in shown.values()] == [(False, ()), (False, ())]


def test_the_link_that_a_run_started_is_named() -> None:
    shown = found(recorded(0, {"/bin/redis-check-rdb": ["read"]}, ("", "/bin/redis-check-rdb")))
    assert shown["/bin/redis-check-rdb"].names == ("x",)
    assert with_names("/bin/redis-check-rdb", {"/bin/redis-check-rdb": ("x",)}) == "x (/bin/redis-check-rdb)"
    assert found(recorded(0, {"/bin/x13": ["read"]}, ("", "/bin/x13")))["/bin/x13"].names == ()


def test_changed_settings_are_risks() -> None:
    new, old = parse("default errno EPERM\nread: allow"), parse("read: allow")
    report = gather("a.policy", new, None, ("old.policy", old))
    assert [(entry.name, str(entry.level)) for entry in report.changed_settings] == [("default", "warning")]
    assert report.gravest == "warning"
    risks = page(report).partition('id="risks"')[2].partition("</section>")[0]
    assert "default kill -&gt; errno EPERM" in risks
