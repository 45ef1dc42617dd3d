"""This implementation gives what the conformance suite (README.md beside this file) expects."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest

from callfence.enforcer.hosts.rules import Rules, encode
from callfence.policygen.errors import Mistake, PolicyError
from callfence.policygen.evaluate import evaluate
from callfence.policygen.files.algebra import TREES
from callfence.policygen.filter import bpf
from callfence.policygen.filter.compile import compile_policy
from callfence.policygen.grants import rights_of
from callfence.policygen.hosts import canonical, canonical_query, canonical_socket, is_name, network
from callfence.policygen.language import document
from callfence.policygen.language.naming import format_action
from callfence.policygen.paths import canonical as canonical_path
from callfence.policygen.phases import START
from callfence.tracer.abi import Arch, Event
from tests.conformance.grammar import LARK, derives, productions

if TYPE_CHECKING:
    from callfence.policygen.grants import Files
    from callfence.policygen.language.document import Document

HERE = Path(__file__).parent
CALL = re.compile(r"(?:\[(?P<phase>\w+)\] )?(?P<arch>\w+) (?P<numbers>[^>]+) -> (?P<action>[\w ]+)")
OBJECT = re.compile(r"(?P<use>\w+) (?P<place>\S+)(?: (?P<port>\d+))? -> (?P<granted>granted|denied)")


def cases(name: str) -> list[Any]:
    """The cases of a file of the suite, each with a number for the test's name."""
    read = tomllib.loads((HERE / name).read_text())["case"]
    return [pytest.param(case, id=f"{number} {case.get('about', '')}".strip()) for number, case in enumerate(read, 1)]


def parse(case: dict[str, Any]) -> Document:
    def read(name: str) -> str:
        if name not in case.get("files", {}):
            raise FileNotFoundError(2, "No such file or directory")
        return str(case["files"][name])

    return document.parse(case["text"], "policy", read=read)


@pytest.mark.parametrize("case", cases("calls.toml"))
def test_calls(case: dict[str, Any]) -> None:
    """By the reference semantics, and by the compiled filter in an interpreter of BPF."""
    policy = parse(case).policy
    filters: dict[str, bytes] = {}
    for line in case["calls"]:
        call = CALL.fullmatch(line)
        assert call, line
        number, *registers = (int(word, 0) for word in call["numbers"].split())
        arch = Arch(call["arch"]).audit if call["arch"] in [*Arch] else int(call["arch"], 0)
        event = Event(arch, number, (*registers, *(0,) * (6 - len(registers))))  # type: ignore[arg-type]
        phase = call["phase"] or START
        assert format_action(evaluate(policy, event, phase)) == call["action"], line
        if phase not in filters:
            filters[phase] = compile_policy(policy, phase)
        assert format_action(bpf.action(bpf.run(filters[phase], event))) == call["action"], line


@pytest.mark.parametrize("case", cases("objects.toml"))
def test_objects(case: dict[str, Any]) -> None:
    """By the trees in which policies are compared; and hosts, ports and names by what the helper of `enforce` judges with."""
    files = parse(case).policy.files
    rules = Rules(encode(files))
    for line in case["objects"]:
        asked = OBJECT.fullmatch(line)
        assert asked, line
        use, place, port = asked["use"], asked["place"], int(asked["port"] or 0)
        assert _granted(files, use, place, port) == (asked["granted"] == "granted"), line
        if use in ("connect", "send"):
            host = b"\x08\x08\x08\x08" if is_name(canonical(place)) else network(place).network_address.packed
            names = [place] if is_name(canonical(place)) else []
            assert rules.grants(use, host, port, names) == (asked["granted"] == "granted"), line


def _granted(files: Files, use: str, place: str, port: int) -> bool:
    if use in ("connect", "bind", "send"):
        where = "any" if use == "bind" else canonical(place)
        return bool(TREES[use].granted(TREES[use].grants(files), where) >> (int(place) if use == "bind" else port) & 1)
    if use in ("unix", "query"):
        where = canonical_socket(place) if use == "unix" else canonical_query(place)
        if use == "query" and files.asks_freely:
            return True
        looked_up = dict.fromkeys(files.names if use == "query" else (), 1)
        return bool(TREES[use].granted({**TREES[use].grants(files), **looked_up}, where))
    right = rights_of(use)
    return bool(TREES["paths"].granted(files.grants, canonical_path(place)) & right == right)


@pytest.mark.parametrize("case", cases("normal.toml"))
def test_normal_form(case: dict[str, Any]) -> None:
    read = parse(case)
    assert read.text() == case["normal"]
    assert parse({**case, "text": case["normal"]}) == read


@pytest.mark.parametrize("case", cases("errors.toml"))
def test_errors(case: dict[str, Any]) -> None:
    with pytest.raises(PolicyError) as raised:
        parse(case)
    error = raised.value
    expected = (case.get("file", "policy"), case["line"], case["column"], case["kind"])
    assert (error.filename, error.line, error.column, error.kind) == expected
    if case["kind"] == "syntax":
        assert not derives(case["text"])


def test_every_kind_of_mistake_is_in_the_suite() -> None:
    assert {case["kind"] for case in tomllib.loads((HERE / "errors.toml").read_text())["case"]} == {*get_args(Mistake)}


def test_every_production_of_the_grammar_is_in_the_suite() -> None:
    used = set()
    for name in ("calls.toml", "objects.toml", "normal.toml"):
        for case in tomllib.loads((HERE / name).read_text())["case"]:
            for text in (case["text"], *case.get("files", {}).values()):
                used |= productions(text)
    assert used == {*LARK.rules}
