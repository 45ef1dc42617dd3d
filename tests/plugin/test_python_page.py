"""docs/python.md: what its files and commands do, with stand-ins for tox and nox, which would install packages."""

from __future__ import annotations

import configparser
import re
import shlex
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Sequence

    from conftest import Commands

    Run = Callable[[Sequence[str]], subprocess.CompletedProcess[bytes]]

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
FILES = dict(re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
"""Those whose name stands in their first line."""


@pytest.fixture
def run(tmp_path: Path, commands: Commands) -> Run:
    """Runs a command in a folder that has the page's files."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    path = f"{Path(sys.executable).parent}:{commands.environment['PATH']}"
    return lambda words: commands.plain([*words], tmp_path, env={**commands.environment, "PATH": path})


def learns_then_enforces(run: Run, pairs: Sequence[Sequence[str]]) -> None:
    learn, enforce = (run(words) for words in pairs)
    assert (learn.returncode, b"2 passed" in learn.stdout) == (0, True), learn.stderr.decode()
    assert learn.stderr.startswith(b"learned pytest.policy\n")
    assert (enforce.returncode, enforce.stderr) == (0, b"")
    assert b"callfence: confined by pytest.policy" in enforce.stdout


@pytest.mark.long
def test_tox(run: Run) -> None:
    tox = configparser.ConfigParser()
    tox.read_string(FILES["tox.ini"])
    lines = tox["testenv"]["commands"].replace("{posargs}", "").strip().splitlines()
    factors = {factor: shlex.split(command) for factor, _, command in (line.partition(":") for line in lines)}
    assert [name.strip() for name in tox["tox"]["env_list"].split(",")] == list(factors) == ["learn", "enforce"]
    learns_then_enforces(run, list(factors.values()))


@pytest.mark.long
def test_nox(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, ...]] = []
    session = types.SimpleNamespace(posargs=[], install=lambda *_: None, run=lambda *words: calls.append(words))

    def parametrize(name: str, values: Sequence[str]) -> Callable[[Callable[..., None]], Callable[..., Any]]:
        return lambda function: lambda session: [function(session, **{name: value}) for value in values]

    nox = types.SimpleNamespace(session=lambda function: function(session), parametrize=parametrize)
    monkeypatch.setitem(sys.modules, "nox", nox)
    exec(FILES["noxfile.py"], {})
    learns_then_enforces(run, calls)


def test_a_program_that_confines_itself(run: Run) -> None:
    block = PAGE.split("## A program that confines itself")[1]
    learn, confined = re.findall(r"^    ((?:learn|python) .*)$", block, re.MULTILINE)
    for command in (learn, confined):
        ran = run(shlex.split(command))
        assert (ran.returncode, ran.stdout) == (0, b"serving\n"), ran.stderr.decode()
    assert ran.stderr == b""
