"""Runs the `console` blocks of a page in one shell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"^```console\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
ANSWER = re.compile(r"^(?:\[a\]ccept .*\[\?\]|why\? .*\)): ?(.*)$", re.MULTILINE)
"""What a reader of the page types at a question of `callfence review`."""
MARK = "-- done --"
HERE = Path(__file__).parent


def run(page: str, folder: Path) -> str:
    """The page with what its blocks print.  A line of theirs that has `...` in it stays if it fits what was printed."""
    blocks = BLOCK.findall(page)
    made = iter([fitted(block, printed) for block, printed in zip(blocks, session(blocks, folder), strict=True)])
    return BLOCK.sub(lambda match: f"```console\n{next(made)}```\n", page)


def commands(block: str) -> list[str]:
    """What is typed, a command with its continuation lines each."""
    found: list[str] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append(line[2:])
        elif line == ">" or line.startswith("> "):
            found[-1] += f"\n{line[2:]}"
    return found


def session(blocks: list[str], folder: Path) -> list[str]:
    """The blocks again, with what one shell prints for each command; `callfence review` gets the answers of the page."""
    typed = [command for block in blocks for command in commands(block)]
    script = "".join(f"{command}\nstatus=$?; echo '{MARK}'; (exit $status)\n" for command in typed)
    programs = folder / "bin"
    programs.mkdir()
    python = f"exec {sys.executable}"
    for name, text in {
        "callfence": f'[ "$1" != review ] || {python} {HERE / "answer.py"} "$@"\n{python} -m callfence "$@"',
        "learn": f'{python} -m callfence learn "$@"',
        "enforce": f'{python} -m callfence enforce "$@"',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    (folder / "answers").write_text("".join(f"{one}\n" for block in blocks for one in ANSWER.findall(block)))
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(folder),
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "ANSWERS": str(folder / "answers"),
        **{f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    work = folder / "work"
    work.mkdir()
    shell = ["bash", "-c", f"exec 2>&1; ulimit -c 0\n{script}"]
    done = subprocess.run(shell, cwd=work, env=environment, capture_output=True, text=True, timeout=120, check=False)
    outputs = iter(done.stdout.split(f"{MARK}\n"))
    made = []
    for block in blocks:
        text = ""
        for command in commands(block):
            text += "$ " + command.replace("\n", "\n> ").replace("\n> \n", "\n>\n") + "\n" + next(outputs)
        made.append(text)
    return made


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
