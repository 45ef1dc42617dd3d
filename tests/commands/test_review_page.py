"""docs/review.md: every `console` block does and prints what stands there.

With CALLFENCE_UPDATE set, the page is written anew instead, to be read through."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "review.md"
BLOCK = re.compile(r"^```console\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
MARK = "-- done --"


def commands(block: str) -> list[str]:
    """What is typed, a command with its continuation lines each."""
    found: list[str] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append(line[2:])
        elif line.startswith("> "):
            found[-1] += f"\n{line[2:]}"
    return found


def session(blocks: list[str], folder: Path) -> list[str]:
    """The blocks again, with what one shell prints for each command."""
    typed = [command for block in blocks for command in commands(block)]
    script = "".join(f"{command}\nstatus=$?; echo '{MARK}'; (exit $status)\n" for command in typed)
    wrapper = folder / "bin" / "callfence"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m callfence "$@"\n')
    wrapper.chmod(0o755)
    environment = {
        "PATH": f"{wrapper.parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    work = folder / "work"
    work.mkdir()
    shell = ["bash", "-c", f"exec 2>&1\n{script}"]
    done = subprocess.run(shell, cwd=work, env=environment, capture_output=True, text=True, timeout=120, check=False)
    outputs = iter(done.stdout.split(f"{MARK}\n"))
    made = []
    for block in blocks:
        text = ""
        for command in commands(block):
            text += "$ " + command.replace("\n", "\n> ") + "\n" + next(outputs)
        made.append(text)
    return made


def test_the_page_is_what_happens(tmp_path: Path) -> None:
    page = PAGE.read_text()
    blocks = BLOCK.findall(page)
    assert len(blocks) > 5
    made = iter(session(blocks, tmp_path))
    happened = BLOCK.sub(lambda match: f"```console\n{next(made)}```\n", page)
    if os.environ.get("CALLFENCE_UPDATE"):
        PAGE.write_text(happened)
        return
    assert happened == page
