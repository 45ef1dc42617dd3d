"""Random recordings with odd texts and numbers, and lakes of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from callfence.lake import adding, engine, folding, parquet
from callfence.lake.identity import Identity
from callfence.policygen.recording.model import Circumstances, Observation, Recording, Run
from callfence.tracer.abi import Arch, table

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = Identity()
WORD = (1 << 64) - 1
NUMBERS = st.sampled_from([0, 1, 9, 1 << 63, WORD])
ODD = ["\ud7ff", "\ud800", "\udcff", "\ue000", "\ue000\U0010ffff", "\ue001", "\U00010000", "\n"]
"""Texts whose order, or whose form in UTF-8, an engine could get wrong; with those below."""
TEXTS = st.sampled_from(["", "a", "a\x00", "a\x01", "a\x02", "a'\\", *ODD])
ARGUMENTS = st.lists(st.sampled_from([None, -(1 << 63), -1, 0, 3, 1 << 63, WORD]), max_size=3).map(tuple)
SETS = st.sets(st.sampled_from([0, 9, 1 << 28 | 8]), max_size=2).map(lambda waits: tuple(sorted(waits)))
FACTS = ['f="/a"', 'f="/b"', 'f="/c/**"', *[f'f="/many/{number}"' for number in range(12)], "not a fact"]
EVIDENCE = st.lists(st.sampled_from(FACTS), max_size=8).map(tuple)


def pairs(width: int) -> st.SearchStrategy[tuple[tuple[str, ...], ...]]:
    return st.sets(st.tuples(*[TEXTS] * width), max_size=2).map(lambda rows: tuple(sorted(rows)))


def runs(name: str) -> st.SearchStrategy[Run]:
    """Records of one run, some more complete than others."""
    return st.builds(
        Run,
        st.just(name),
        st.sampled_from([0, 5, WORD]),
        st.lists(TEXTS, max_size=2).map(tuple),
        st.none() | st.sampled_from([-64, -9, 0, 1, 255]),
        st.booleans(),
        st.lists(TEXTS, max_size=2).map(tuple),
        st.booleans(),
        pairs(2),
        TEXTS,
        st.builds(Circumstances, TEXTS, TEXTS),
        pairs(3),
        SETS,
        st.sampled_from(["", "family", "others"]),
    )


@st.composite
def recordings(draw: st.DrawFn) -> Recording:
    ids = draw(st.sets(st.sampled_from(["a", "b", "\udc80", ""]), max_size=3))
    of_runs = tuple(sorted((draw(runs(name)) for name in ids), key=lambda run: run.order))
    call = st.tuples(st.sampled_from([Arch.X86_64.audit, 7]), st.sampled_from([3, WORD >> 32]), ARGUMENTS, TEXTS)
    keys = draw(st.sets(call | st.just((7, 3, (), "a")), max_size=4))
    counts = st.lists(st.sampled_from([0, 1, 2, WORD]), min_size=len(ids), max_size=len(ids)).map(tuple).filter(any)
    observations = [
        Observation(*key, draw(counts), draw(TEXTS), draw(st.tuples(*[NUMBERS] * 6)), draw(EVIDENCE), draw(SETS))
        for key in keys if ids
    ]  # fmt: skip
    return Recording(of_runs, tuple(sorted(observations, key=lambda one: one.order)))


def folded(lake: Path) -> bytes:
    with engine.opened(lake, {}) as opened:
        return b"".join(folding.lines(opened))


def add(lake: Path, *paths: Path, whose: Identity = NOBODY) -> adding.Added:
    parquet.create(lake)
    return adding.add(lake, adding.sources(paths), lambda _: whose, print)


X86_64 = Arch.X86_64.audit


def observation(number: int) -> Observation:
    arity = len(table(Arch.X86_64).by_number[number].arguments)
    return Observation(X86_64, number, (None,) * arity, "/app", (1,), "app+0x1", (3, 0, 0, 0, 0, 0))


def recording(run: str, started: int, observations: list[Observation]) -> Recording:
    """A recording of one run, ascending."""
    ordered = sorted(observations, key=lambda one: one.order)
    return Recording((Run(run, started, ("./app",), 0, True),), tuple(ordered))


def event(kind: str, number: int, *, line: str = "mkdir: allow", version: int = 1, lost: int = 0) -> str:
    """A line of a log of app.policy, on the last day of November 2026; a call was denied three times."""
    head = {"version": version, "event": kind, "time": "2026-11-29T12:00:00.000+00:00", "host": f"node{number}", "unit": None}
    head |= {"run": f"{number:08x}", "policies": [{"file": "/etc/app.policy", "sha256": "0" * 64}]}
    command = {"command": ["./app"], "folder": "/", "pid": 1, "parent": 1, "executable": "/app"}
    risk = {"level": "warning", "rule": "writes", "grants": "it writes"}
    rest: dict[str, dict[str, object]] = {
        "start": command | {"mode": "audit", "best_effort": False},
        "denied": command | {
            "call": 'mkdir(pathname="/x", mode=0755)', "arch": "x86_64", "number": 83, "arguments": ["0x1"] * 6,
            "verdict": "audited", "action": "kill", "ungranted": [], "phase": None, "site": "app+0x1", "evidence": [],
            "count": 3,
            "allow": [{"file": "/etc/app.policy", "line": line, "risk": risk}],
        },
        "message": {"level": "note", "message": "something"},
        "end": {"status": 0, "signal": None, "denied": 1, "lost": lost, "complete": True},
    }  # fmt: skip
    return json.dumps(head | rest[kind]) + "\n"
