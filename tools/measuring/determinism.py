"""Learns programs in other circumstances and says which get one policy: determinism.py FILE [OPTION ...], options of learn.

Each of the programs runs under LC_ALL=C and C.UTF-8, as root and as a user, with its output a file, a pipe, a terminal and
/dev/null, and with three sizes of input; each run is learned into a new policy.  It has to be root, and the user `nobody`
must be able to run this Python.  Which lines differ is told on standard error.
"""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

LEARN = Path(sys.executable).parent / "learn"
LINES = {"small": 3, "medium": 3_000, "large": 150_000}
"""The sizes of the input, of 33 bytes a line."""
PROGRAMS = {
    "cat": ("cat", "{}"),
    "wc": ("wc", "{}"),
    "sort": ("sort", "{}"),
    "grep": ("grep", "7", "{}"),
    "sed": ("sed", "s/7/seven/", "{}"),
    "awk": ("awk", "{ sum += $1 } END { print sum }", "{}"),
    "cut": ("cut", "-d,", "-f2", "{}"),
    "gzip": ("gzip", "-c", "{}"),
    "sha256sum": ("sha256sum", "{}"),
    "python3": ("/usr/bin/python3", "-I", "-c", "import sys; print(len(open(sys.argv[1]).readlines()))", "{}"),
}
STREAMS = ("a file", "a pipe", "a terminal", "/dev/null")
PAGE = """\
# Determinism

The same behaviour gives the same bytes. Circumstances that grant nothing should not show in a policy either: {count} programs
were learned under `LC_ALL=C` and `C.UTF-8`, as root and as a user, with the output a file, a pipe, a terminal and
`/dev/null`, and with input of {sizes} lines: {runs} runs each, of which each is learned into a new policy.
{one} of {count} programs get one policy, byte for byte.

{table}
Where a program has several policies, the last column has the lines that not all of them have: what they allow is not implied by
anything, as the threads that `sort` starts for a large input.

Written by `python tools/measuring/determinism.py docs/determinism.md{options}`, as root.
"""


class Circumstance(NamedTuple):
    locale: str
    is_root: bool
    output: str
    size: str


CIRCUMSTANCES = tuple(map(Circumstance._make, product(("C", "C.UTF-8"), (True, False), STREAMS, LINES)))


def main(page: Path, options: Sequence[str]) -> None:
    rows, same = [], 0
    with tempfile.TemporaryDirectory(prefix="callfence-determinism-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for size, count in LINES.items():
            (folder / size).write_text("".join(f"{number:08},{number * 7919 % 100_003:023}\n" for number in range(count)))
        for program in PROGRAMS:
            texts = [learned(folder, program, options, how) for how in CIRCUMSTANCES]
            same += len(set(texts)) == 1
            told = "; ".join(f"`{line}`" for line in differing(texts)).replace("|", "\\|") or "-"
            rows.append(f"| {program} | {len(set(texts))} | {told} |")
            print(rows[-1], file=sys.stderr, flush=True)
    page.write_text(
        PAGE.format(
            count=len(PROGRAMS),
            sizes=", ".join(f"{count:,}" for count in LINES.values()),
            runs=len(CIRCUMSTANCES),
            one=same,
            table="\n".join(("| program | policies | what differs |", "|---|--:|---|", *rows, "")),
            options="".join(f" {option}" for option in options),
        )
    )


def learned(folder: Path, program: str, options: Sequence[str], how: Circumstance) -> str:
    """The text of the policy."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        become: tuple[str, ...] = ()
        if not how.is_root:
            shutil.chown(work, "nobody")
            become = ("setpriv", "--reuid=nobody", "--clear-groups")
        command = [str(folder / how.size) if word == "{}" else word for word in PROGRAMS[program]]
        environment = {"PATH": os.defpath, "HOME": name, "LC_ALL": how.locale}
        run = [*become, LEARN, "-q", *options, "-o", f"{program}.policy", "--", *command]
        write(run, how.output, work, environment)
        return (work / f"{program}.policy").read_text()


def write(run: list[str | Path], output: str, work: Path, environment: dict[str, str]) -> None:
    """Run a command with such an output; its errors go to a file in all cases.  Raises CalledProcessError."""
    with (work / "errors").open("w+") as errors:
        if output in ("a file", "/dev/null"):
            with (Path("/dev/null") if output == "/dev/null" else work / "out").open("w") as out:
                done = subprocess.run(run, cwd=work, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=errors)
        else:
            reader, writer = pty.openpty() if output == "a terminal" else os.pipe()
            drain = threading.Thread(target=_read_all, args=(reader,))
            drain.start()
            done = subprocess.run(run, cwd=work, env=environment, stdin=subprocess.DEVNULL, stdout=writer, stderr=errors)
            os.close(writer)
            drain.join()
            os.close(reader)
        errors.seek(0)
        if done.returncode:
            sys.exit(f"{run}: status {done.returncode}: {errors.read()}")


def _read_all(reader: int) -> None:
    with suppress(OSError):  # EIO: the terminal's other end is closed
        while os.read(reader, 1 << 16):
            pass


def differing(texts: list[str]) -> list[str]:
    """The lines that some of the policies have, and others have not."""
    sets = [set(text.splitlines()) for text in texts]
    return sorted(" ".join(line.split()) for line in set.union(*sets) - set.intersection(*sets))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
