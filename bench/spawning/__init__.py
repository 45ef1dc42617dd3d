"""What a start by `callfence spawn` takes: `python bench/run.py`, or `python bench/spawning/__init__.py` alone."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent.parent))

from harness import BIN, ENFORCE, LEARN, PATH, Figure, Section, alternate, compiled, run, scratch, table, timed

if TYPE_CHECKING:
    from collections.abc import Iterator

TITLE = "spawn"
ROUNDS = 100
ROOT = Path(__file__).parent.parent.parent
PLAIN, SPAWNED, ENFORCED = "the program alone", "callfence-run", "enforce"


def section() -> Section:
    """The measurements."""
    with scratch() as folder, scratch() as home:
        run([LEARN, "-q", "-o", "true.policy", "--", "true"], folder, home)
        client = compiled("../include/callfence-run.c", folder, "-std=c11", "-static")
        words = ["-s", "socket", "-p", "true.policy", "--", "true"]
        script = [BIN / "python", "-I", "-S", ROOT / "callfence" / "enforcer" / "spawning" / "client.py"]
        with listening(folder, home):
            spreads = alternate(
                {
                    PLAIN: timed(["true"], folder, home),
                    SPAWNED: timed([client, *words], folder, home),
                    "the client in Python": timed([*script, *words], folder, home),
                    ENFORCED: timed([ENFORCE, "-p", "true.policy", "--", "true"], folder, home),
                },
                ROUNDS,
            )
    rows = [(name, *(f"{value * 1e3:.1f}" for value in (one.median, one.least, one.most))) for name, one in spreads.items()]
    plain, spawned, enforced = (spreads[name].median for name in (PLAIN, SPAWNED, ENFORCED))
    return Section(
        f"Starting `true`, the compiled filter in the cache, with reports: ms, of {ROUNDS}.\n\n"
        f"{table(('', 'median', 'least', 'most'), rows)}",
        (
            Figure("a start by `callfence spawn` beyond the program's own", 6, (spawned - plain) * 1000, " ms"),
            Figure("a start by `callfence spawn` / by `enforce`", 1 / 3, spawned / enforced),
        ),
    )


@contextmanager
def listening(folder: Path, home: Path) -> Iterator[None]:
    """While it lasts, a spawner listens at `socket` in the folder."""
    environment = {"PATH": PATH, "HOME": str(home), "LC_ALL": "C.UTF-8"}
    command = [BIN / "callfence", "spawn", "--socket", "socket"]
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE) as spawner:
        assert spawner.stderr is not None
        os.read(spawner.stderr.fileno(), 1000)
        try:
            yield
        finally:
            spawner.terminate()


if __name__ == "__main__":
    print(section().text)
