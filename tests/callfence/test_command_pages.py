"""completions/, man/ and docs/options.md are what the parsers say; `make commands` writes them anew."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_parsers import options, parser_of
from needed import needs

from callfence.cli import COMMANDS, COMMON

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "man").glob("*/*"))


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("tool", "folder"), [("make_completions.py", "completions"), ("make_manuals.py", "man")])
def test_what_is_committed_is_what_the_parsers_say(tmp_path: Path, tool: str, folder: str) -> None:
    subprocess.run([sys.executable, ROOT / "tools" / tool, tmp_path], check=True, timeout=120)
    assert tree(ROOT / folder) == tree(tmp_path), "run `make commands`, and read the difference"


def test_the_page_of_options_is_what_the_parsers_say(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "make_options.py", tmp_path], check=True, timeout=60)
    assert (ROOT / "docs" / "options.md").read_text() == (tmp_path / "options.md").read_text(), "run `make commands`"


@pytest.mark.parametrize("command", ["learn", "enforce"])
def test_help_shows_what_most_people_need_and_help_all_the_rest(command: str) -> None:
    def shown(option: str) -> set[str]:
        done = subprocess.run([sys.executable, "-m", "callfence", command, option], capture_output=True, text=True, check=True)
        assert "SUPPRESS" not in done.stdout
        return set(re.findall(r"(?m)^  (?:-\w(?: [A-Z]+)?, )?(--[a-z-]+)", done.stdout)) - {"--help", "--help-all", "--version"}

    few, all_ = shown("--help"), shown("--help-all")
    expected = {action.option_strings[-1] for action in options(parser_of(command))}
    assert all_ == expected
    assert 8 <= len(few) <= 12
    assert few < all_


def test_the_first_screen_names_the_commands_that_most_people_need() -> None:
    def shown(option: str) -> list[str]:
        done = subprocess.run([sys.executable, "-m", "callfence", option], capture_output=True, text=True, check=True)
        return re.findall(r"(?m)^  ([a-z-]+)  ", done.stdout)

    assert shown("--help") == list(COMMON)
    assert shown("--help-all") == list(COMMANDS)


def test_each_command_has_a_page() -> None:
    names = {page.name for page in PAGES}
    expected = {f"{name if name in ('learn', 'enforce') else f'callfence-{name}'}.1" for name in COMMANDS}
    assert names == expected | {"callfence.1", "callfence-policy.5"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@needs("groff-base")
def test_groff_has_nothing_to_say(page: Path) -> None:
    command = ["groff", "-man", "-ww", "-Tutf8", "-P-cbou", "-rLL=200n", page]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    assert done.stdout.count("\n") > 15
    assert not re.search(r"\\f|``|\*\*", done.stdout)


@needs("groff-base")
def test_the_page_says_what_help_says() -> None:
    shown = subprocess.run(
        ["groff", "-man", "-Tutf8", "-P-cbou", "-rLL=400n", ROOT / "man" / "man1" / "enforce.1"],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    command = [sys.executable, "-m", "callfence", "enforce", "--help-all"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    for option in set(re.findall(r"--[a-z-]+", told.stdout)) - {"--help", "--help-all"}:
        assert option in shown
    assert "write records of the start, of violations, also those of files and ports, and of the end to FILE" in shown
    assert "125 if it could not be confined" in shown


DRIVER = """
source "$1"
COMP_WORDS=("${@:2}") COMP_CWORD=$(($# - 2))
COMPREPLY=()
compopt() { :; }
"_shtab_${2//-/_}" 2>&1
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("learn", "--ch"), {"--check"}),
        (("learn", "--arm", "e"), {"exec", "entry"}),
        (("learn", "--allow-opaque", "io"), {"io_uring_setup"}),
        (("learn", "-o", "no"), {"notes.policy"}),
        (("learn", "./to"), {"./tool"}),
        (("enforce", "--quiet"), {"--quiet-kernel"}),
        (("enforce", "-p", "notes"), {"notes.policy"}),
        (("callfence", "re"), {"report", "review"}),
        (("callfence", "diff", "--format", "s"), {"sarif"}),
        (("callfence", "review", "--re"), {"--reject-all"}),
        (("callfence", "lint", "note"), {"notes.policy"}),
        (("callfence", "enforce", "--aud"), {"--audit"}),
    ],
)
def test_bash_completes(tmp_path: Path, words: tuple[str, ...], expected: set[str]) -> None:
    (tmp_path / "notes.policy").touch()
    (tmp_path / "tool").touch()
    command = ["bash", "--norc", "--noprofile", "-c", DRIVER, "bash", ROOT / "completions" / "bash" / words[0], *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert set(done.stdout.split()) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("callfence di", {"diff"}),
        ("callfence diff --format ", {"text", "json", "md", "sarif"}),
        ("learn --arm ", {"now", "exec", "entry"}),
        ("enforce --compi", {"--compiled"}),
    ],
)
@needs("fish")
def test_fish_completes(tmp_path: Path, line: str, expected: set[str]) -> None:
    name = line.split()[0]
    script = f"source {ROOT}/completions/fish/{name}.fish; complete -C '{line}'"
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    command = ["fish", "--no-config", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert {row.partition("\t")[0] for row in done.stdout.splitlines()} == expected


ZSH = r"""
zmodload zsh/zpty
zpty -b shell zsh -f -i
zpty -w shell "PS1='' fpath=($1 \$fpath); autoload -U compinit; compinit -D -u; $2() {}; print RE''ADY"
zpty -r shell text '*READY*'
zpty -n -w shell "$3"$'\t'
zpty -r shell text "*$4*" && print found
zpty -d shell
"""


@pytest.mark.parametrize(
    ("line", "end"),
    [
        ("callfence di", "callfence diff "),
        ("callfence diff --for", "callfence diff --format "),
        ("learn --ar", "learn --arm "),
        ("enforce --po", "enforce --policy "),
    ],
)
@needs("zsh")
def test_zsh_completes(tmp_path: Path, line: str, end: str) -> None:
    command = ["zsh", "-f", "-c", ZSH, "zsh", ROOT / "completions" / "zsh", line.split()[0], line, end]
    environment = {"PATH": os.defpath, "HOME": str(tmp_path), "TERM": "dumb", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "found\n"
