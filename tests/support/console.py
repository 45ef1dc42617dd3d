"""Runs the `console` and `sh` blocks of a page in one shell, in a folder of its own.

A `console` block has what is typed and what is printed.  An `sh` block has only what is typed; it must succeed.  Blocks in
a comment are run, too: they make what the page takes for granted.  $CHECKOUT is the folder of the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Capture = Callable[[list[str], Path, dict[str, str]], str]
    """Runs a command in a folder with an environment, and returns what it prints."""

BLOCK = re.compile(r"^```(console|sh)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
ANSWER = re.compile(r"^(?:\[a\]ccept .*\[\?\]|why\? .*\)): ?(.*)$", re.MULTILINE)
"""What a reader of the page types at a question of `callfence review`."""
MARK = "-- done --"
HERE = Path(__file__).parent


def _captured(command: list[str], work: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout


def run(page: str, folder: Path, capture: Capture = _captured) -> str:
    """The page with what its blocks print.  A line of theirs that has `...` in it stays if it fits what was printed."""
    answers = [answer for language, text in BLOCK.findall(page) if language == "console" for answer in ANSWER.findall(text)]
    results = iter(session(commands(page), folder, answers, capture))
    return BLOCK.sub(lambda match: f"```{match[1]}\n{_after(match[1], match[2], results)}```\n", page)


def commands(page: str) -> list[str]:
    """What the blocks of a page type, a command with its continuation lines each; an `sh` block is one command."""
    return [command for language, text in BLOCK.findall(page) for command in _typed(language, text)]


def session(typed: list[str], folder: Path, answers: list[str], capture: Capture = _captured) -> list[tuple[str, int]]:
    """What one shell prints for each command, and its exit status; `callfence review` gets the answers."""
    script = "".join(f"{command}\nstatus=$?; echo '{MARK}' $status; (exit $status)\n" for command in typed)
    programs = folder / "bin"
    programs.mkdir()
    python = f"exec {sys.executable}"
    for name, text in {
        "callfence": f'[ "$1" != review ] || {python} {HERE / "answer.py"} "$@"\n{python} -m callfence "$@"',
        "learn": f'{python} -m callfence learn "$@"',
        "enforce": f'{python} -m callfence enforce "$@"',
        "callfence-sh": f'exec {Path(sys.executable).parent}/callfence-sh "$@"',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    (folder / "answers").write_text("".join(f"{one}\n" for one in answers))
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(folder),
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "ANSWERS": str(folder / "answers"),
        "CHECKOUT": str(HERE.parents[1]),
        **{f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    work = folder / "work"
    work.mkdir()
    printed = capture(["bash", "-c", f"exec 2>&1; ulimit -c 0\n{script}"], work, environment)
    outputs = re.split(rf"{MARK} (\d+)\r?\n", printed)
    return [(output, int(status)) for output, status in zip(outputs[:-1:2], outputs[1::2], strict=True)]


def _typed(language: str, text: str) -> list[str]:
    if language == "sh":
        return [f"(set -e\n{text})"]
    found: list[str] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append(line[2:])
        elif line == ">" or line.startswith("> "):
            found[-1] += f"\n{line[2:]}"
    return found


def _after(language: str, text: str, results: Iterator[tuple[str, int]]) -> str:
    """The text of a block with what was printed; of an `sh` block only if it failed."""
    if language == "sh":
        output, status = next(results)
        return f"{text}{output}exit status {status}\n" if status else text
    made = ""
    for command in _typed(language, text):
        made += "$ " + command.replace("\n", "\n> ").replace("\n> \n", "\n>\n") + "\n" + next(results)[0]
    return fitted(text, made)


def fitted(block: str, printed: str) -> str:
    """What was printed, with the block's lines where these fit it: `...` stands for any text in a line, and alone in a
    line for any lines."""
    expected, lines, made = block.splitlines(), printed.splitlines(), list[str]()
    while lines:
        if expected and expected[0] == "...":
            made.append(expected.pop(0))
            while lines and not (expected and fits(expected[0], lines[0])):
                lines.pop(0)
            continue
        line = lines.pop(0)
        wanted = expected.pop(0) if expected else ""
        made.append(wanted if fits(wanted, line) else line)
    return "".join(f"{line}\n" for line in made)


def fits(expected: str, line: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, expected.split("..."))), line) is not None
