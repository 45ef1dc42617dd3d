"""What all runs had in common, and what to run next."""

from __future__ import annotations

import pytest

from policygen.completeness.confidence import run_next, seen_only
from policygen.recording.fold import Folder
from policygen.recording.many import merge
from policygen.recording.model import Circumstances, Recording, Run
from tracer.abi import Arch, Event, table

PIPES = Circumstances("/dev/null", "a pipe", "a pipe", "root", "C.UTF-8")
TERMINAL = Circumstances("a terminal", "a terminal", "a terminal", "user", "C")


def run(name: str, circumstances: Circumstances = PIPES, status: int = 0) -> Run:
    return Run(name, int(name), ("./app", name), status, True, circumstances=circumstances)


def recording(*runs: Run, calls: tuple[str, ...] = ("read",)) -> Recording:
    parts = []
    for one in runs:
        folder = Folder()
        for name in calls:
            event = Event(Arch.X86_64.audit, table(Arch.X86_64).by_name[name].number)
            folder.slot("/app", event, str)[0] += 1
        parts.append(Recording((one,), folder.observations()))
    return merge(*parts)


@pytest.mark.parametrize(
    ("runs", "common"),
    [
        ([], ()),
        (
            [run("1")],
            ("standard input /dev/null", "standard output and standard error a pipe", "as root", "locale C.UTF-8", "one start"),
        ),
        ([run("1", TERMINAL), run("2", TERMINAL._replace(input="closed", locale="de_DE"))],
         ("standard output and standard error a terminal", "not as root")),
        ([run("1"), run("2", TERMINAL)], ()),
        # a run of which it is not known could have been otherwise
        ([run("1"), run("2", Circumstances())], ()),
        ([run("1", Circumstances())], ("one start",)),
    ],
)  # fmt: skip
def test_what_was_the_same_in_every_run(runs: list[Run], common: tuple[str, ...]) -> None:
    assert seen_only(runs) == common


@pytest.mark.parametrize(
    ("seen", "steps"),
    [
        (recording(), ()),
        (
            recording(run("1")),
            (
                "again, on the data that it left",
                "so that it fails",
                "with signals that it handles",
                "with its output to a terminal, a file, /dev/null",
                "as another user than root",
                "in another locale",
            ),
        ),
        (
            recording(run("1"), run("2", TERMINAL, 1), calls=("accept4", "rt_sigreturn")),
            ("with a peer that hangs up", "with its output to a file, /dev/null"),
        ),
        (recording(run("1", Circumstances()), run("2", PIPES, 1), calls=("rt_sigreturn",)), ()),
    ],
)
def test_what_to_run_next(seen: Recording, steps: tuple[str, ...]) -> None:
    assert run_next(seen) == steps


def test_the_better_known_account_of_a_run_does_not_depend_on_the_order() -> None:
    known, unknown = recording(run("1")), recording(run("1", Circumstances()))
    assert merge(known, unknown) == merge(unknown, known)
    assert merge(known, unknown).runs[0].circumstances == PIPES
