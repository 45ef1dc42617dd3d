"""Runs `callfence ARGUMENT ...` on a terminal, types the next lines of $ANSWERS at its questions, prints what is seen."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from terminal import Terminal

QUESTION = r"(?s).*?(\[\?\]|none\)): "

answers = Path(os.environ["ANSWERS"])
left = answers.read_text().splitlines()
command = ["sh", "-c", 'stty echo cols 500; exec "$@"', "sh", sys.executable, "-m", "callfence", *sys.argv[1:]]
terminal = Terminal(command, Path.cwd())
said = ""
while left:
    try:
        said += terminal.expect(QUESTION, 20)[0]
    except AssertionError:
        break
    terminal.send(f"{left.pop(0)}\n")
status = terminal.wait()
said += terminal.rest()
terminal.close()
answers.write_text("".join(f"{line}\n" for line in left))
print(said.replace("\r", ""), end="")
sys.exit(status)
