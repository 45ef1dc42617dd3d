"""The implied set and the capabilities, as data."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from calls import parse

from callfence.policygen.implied import tables as module
from callfence.policygen.implied.resolve import granted, resolved
from callfence.policygen.implied.tables import REACHES_ANY_FILE, capabilities, rows, stated_call, stated_entry
from callfence.policygen.language.naming import format_entry
from callfence.policygen.language.operands import operands
from callfence.policygen.lint.catalogue import Level
from callfence.policygen.lint.findings import lint
from callfence.policygen.model import IMPLIED, ActionKind, Always
from callfence.tracer.abi import Arch, table

if TYPE_CHECKING:
    from callfence.policygen.language.document import Document

FOLDER = Path(module.__file__).parent
SETS = tuple(f"implied{version}.tsv" for version in IMPLIED)
NAMES = tuple(dict.fromkeys(one.name for one in capabilities(Arch.X86_64)))


def lines(name: str) -> list[list[str]]:
    """The cells of each line but comments; the first line is the heading."""
    text = (FOLDER / name).read_text("utf-8")
    return [line.split("\t") for line in text.splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("arch", Arch)
@pytest.mark.parametrize("version", IMPLIED)
def test_every_row_is_read_and_has_a_reason(version: int, arch: Arch) -> None:
    found = rows(version, arch)
    assert all(row.why for row in found)
    assert len(found) > 100


@pytest.mark.parametrize("arch", Arch)
def test_every_capability_says_what_it_gives(arch: Arch) -> None:
    assert all(one.why for one in capabilities(arch))


@pytest.mark.parametrize("name", SETS)
def test_every_row_of_a_set_has_three_cells_names_capabilities_and_is_there_once(name: str) -> None:
    heading, *cells = lines(name)
    assert heading == ["given", "implied", "why"]
    assert all(len(row) == 3 and all(cell == cell.strip() != "" for cell in row) for row in cells)
    named = {one for given, _, _ in cells for one in given.split(", ")}
    assert named == {*NAMES, REACHES_ANY_FILE, "-"}
    calls = [(given, implied) for given, implied, _ in cells]
    assert len(set(calls)) == len(calls)


def test_every_capability_has_five_cells_and_is_there_once() -> None:
    heading, *cells = lines("capabilities.tsv")
    assert heading == ["capability", "learn", "entry", "held", "what it gives"]
    assert all(len(row) == 5 and all(cell == cell.strip() != "" for cell in row) for row in cells)
    assert len({(name, entry) for name, _, entry, _, _ in cells}) == len(cells)
    assert {learn for _, learn, _, _, _ in cells} == {"=", "-"}


@pytest.mark.parametrize("arch", Arch)
@pytest.mark.parametrize(("name", "column"), [*((name, 1) for name in SETS), ("capabilities.tsv", 2)])
def test_every_entry_parses_where_its_call_exists(name: str, column: int, arch: Arch) -> None:
    """The only calls left out are those without comparable arguments, as mmap of i386."""
    for row in lines(name)[1:]:
        cell = row[column]
        call = cell.partition(":")[0]
        found = table(arch).by_name.get(call)
        assert any(call in table(one).by_name for one in Arch), call
        number = stated_call(arch, cell)
        if found is None:
            assert number is None
        elif operands(arch, found.number).constrainable() or ": " not in cell or "errno" in cell:
            assert number == found.number
            entry = stated_entry(arch, cell)
            assert entry.otherwise is None
            assert entry.action.kind is (ActionKind.ERRNO if "errno" in cell else ActionKind.ALLOW)
            assert entry.expression != Always(False)
        else:
            assert (number, arch, call) == (None, Arch.I386, "mmap")


def test_the_first_set_is_frozen() -> None:
    """A released set means the same for ever.  Until the first release it may change: then put the new sums here, and run
    `make samples`.  Afterwards, rows and capabilities go into the next set."""
    names = ("capabilities.tsv", "implied1.tsv")
    sums = {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()[:16] for name in names}
    assert sums == {"capabilities.tsv": "27b552a881d3a292", "implied1.tsv": "c3e53250c43ccba0"}


def least(arch: Arch, names: tuple[str, ...]) -> list[str]:
    """Entries that grant the capabilities: the ones with which learning grants them, else every way."""
    found: dict[str, list[str]] = {}
    for name in names:
        ways = [one for one in capabilities(arch) if one.name == name]
        for one in [way for way in ways if way.is_least] or ways:
            call, _, body = format_entry(arch, one.number, one.entry).partition(": ")
            parts = found.setdefault(call, [])
            parts += [" ".join(body.split())]
    return [f"{call}: {'allow' if 'allow' in parts else ' || '.join(dict.fromkeys(parts))}" for call, parts in found.items()]


CASES = [(arch, names) for arch in Arch for names in ((), *((name,) for name in NAMES if arch is Arch.X86_64), NAMES)]


@pytest.mark.long
@pytest.mark.parametrize(("arch", "names"), CASES, ids=lambda one: one if isinstance(one, Arch) else ", ".join(one) or "-")
def test_the_linter_finds_nothing_in_what_is_implied(arch: Arch, names: tuple[str, ...]) -> None:
    own = "\n".join(least(arch, names))
    plain, whole = (parse(f"arch {arch}\n{line}{own}\n") for line in ("", "implied 1\n"))
    assert granted(whole.policy) >= {name for name in names if any(one.name == name for one in capabilities(arch))}

    def serious(document: Document) -> set[str]:
        return {one.rule for one in lint(document) if one.level is not Level.NOTE}

    assert serious(plain.with_policy(resolved(whole.policy).written())) <= serious(plain)
    assert serious(whole) <= serious(plain)
