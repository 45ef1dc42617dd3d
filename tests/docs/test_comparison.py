"""docs/comparison.md: its tables are those of the results, and the script's parts name the same attacks and tools."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

COMPARISON = Path(__file__).parents[2] / "tools/measuring/comparison"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(COMPARISON)
    return {name: import_module(name) for name in ("attacks", "confined", "page", "programs")}


def test_the_tables_are_those_of_the_results(script: dict[str, ModuleType]) -> None:
    page = script["page"]
    text, results = page.PAGE.read_text(), json.loads(page.RESULTS.read_text())
    assert {found[2] for found in page.MARKED.finditer(text)} == page.TABLES.keys()
    assert page.written(text, results) == text


def test_the_results_are_of_these_programs_and_attacks(script: dict[str, ModuleType]) -> None:
    results = json.loads(script["page"].RESULTS.read_text())
    assert list(results["tools"]) == ["plain", *(tool.name for tool in script["confined"].TOOLS)]
    for tool in results["tools"].values():
        assert list(tool["programs"]) == [program.name for program in script["programs"].PROGRAMS]
        for one in tool["programs"].values():
            assert list(one["attacks"]) == (list(script["attacks"].ATTACKS) if one["works"] else [])
    assert {end for one in results["tools"]["plain"]["programs"].values() for end in one["attacks"].values()} == {"through"}


def test_the_library_has_these_attacks(script: dict[str, ModuleType]) -> None:
    source = (COMPARISON / "hostile.c").read_text()
    assert set(re.findall(r'{"([\w-]+)", \w+}', source)) == script["attacks"].ATTACKS.keys()


def test_what_a_tool_says_of_a_denial_is_what_it_does_not_always_say(script: dict[str, ModuleType]) -> None:
    usual = "total 42\nSandbox {}.5 ms\nattack {}: tried\n"
    attempts = {name: {"output": usual.format(place, name)} for place, name in enumerate(script["attacks"].ATTACKS)}
    attempts["ptrace"]["output"] += "tool: denied ptrace\n"
    assert script["page"].said(attempts) == {"read-key": "", "ptrace": "tool: denied ptrace"}


@pytest.mark.parametrize(
    ("attempt", "end"),
    [
        ({"tried": True, "through": True, "output": "attack kill: tried\nattack kill: done\n"}, "through"),
        ({"tried": True, "through": False, "output": "attack kill: tried\nattack kill: No such process\n"}, "No such process"),
        ({"tried": True, "through": False, "output": "attack kill: tried\n"}, "ended"),
    ],
)
def test_what_an_attack_came_to(script: dict[str, ModuleType], attempt: dict[str, object], end: str) -> None:
    assert script["page"]._came_to("kill", attempt) == end


def test_an_attack_that_was_not_tried_is_not_counted_as_stopped(script: dict[str, ModuleType]) -> None:
    with pytest.raises(ValueError, match="kill was not tried"):
        script["page"]._came_to("kill", {"tried": False, "through": False, "output": ""})
