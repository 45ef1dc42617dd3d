"""What lines about files and ports add: to a program's start, to the files that it opens, and to learning."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from enforce import rows
from harness import ENFORCE, LEARN, Figure, Section, alternate, compiled, computed, run, scratch, table

if TYPE_CHECKING:
    from pathlib import Path

TITLE = "files and ports"
STARTS, ROUNDS = 20, 7
LINES = 40
FILES = 5000
OPENS, LOGGED = 30_000, 10_000
READ_FILE, READ_DIR, TRUNCATE = 1 << 2, 1 << 3, 1 << 14  # LANDLOCK_ACCESS_FS_*, linux/landlock.h
EVERY = (1 << 15) - 1
FLOOR = {
    "no rules": (0, 0, 0),
    "only reading handled, granted to its folder": (1, 0, READ_FILE | READ_DIR),
    "the same, granted four folders above": (1, 4, READ_FILE | READ_DIR),
    "all but truncating handled, granted to its folder": (1, 0, EVERY & ~TRUNCATE),
    "the same and truncating": (1, 0, EVERY),
    "all, granted four folders above": (1, 4, EVERY),
    "all, by two rulesets": (2, 0, EVERY),
}
"""Rulesets, folders above the file's own, and handled rights of opens.c."""
TREE = ("tar", "cf", "/dev/null", "tree")
READ, ONE = (("grep", "-rc", "text", folder) for folder in ("tree", "one"))


def section() -> Section:
    """The measurements."""
    with scratch() as folder, scratch() as home:
        _fill(folder)
        for name, words in (("true", ("true",)), ("read", READ)):
            run([LEARN, "-q", "--files", "-o", f"{name}.policy", "--", *words], folder, home)
            text = (folder / f"{name}.policy").read_text()
            plain = "".join(f"{line}\n" for line in text.splitlines() if not line.startswith(("path ", "tcp ")))
            (folder / f"{name}-plain.policy").write_text(plain)
        with (folder / "read.policy").open("a") as policy:
            policy.write("path ./one: read\n")
        count = sum(line.startswith("path ") for line in (folder / "true.policy").read_text().splitlines())
        more = "".join(f"path ./many/{number}: read, write\n" for number in range(LINES - count))
        (folder / "true.policy").write_text((folder / "true.policy").read_text() + more)
        starts = alternate(
            {
                "enforce, calls alone": computed([ENFORCE, "-p", "true-plain.policy", "--", "true"], folder, home),
                f"enforce, with {LINES} path lines": computed([ENFORCE, "-p", "true.policy", "--", "true"], folder, home),
            },
            STARTS,
        )
        opens = alternate(
            {
                "the program alone": computed(READ, folder, home),
                "enforce, calls alone": computed([ENFORCE, "-p", "read-plain.policy", "--", *READ], folder, home),
                "enforce, with path lines": computed([ENFORCE, "-p", "read.policy", "--", *READ], folder, home),
                "calls alone, one file": computed([ENFORCE, "-p", "read-plain.policy", "--", *ONE], folder, home),
                "with path lines, one file": computed([ENFORCE, "-p", "read.policy", "--", *ONE], folder, home),
            },
            ROUNDS,
        )
        floor = _floor(folder)
        logged = _logged(folder, home)
        learns = alternate(
            {
                "learn": computed([LEARN, "-q", "--fresh", "-o", "tree.policy", "--", *TREE], folder, home),
                "learn --files": computed([LEARN, "-q", "--fresh", "--files", "-o", "tree.policy", "--", *TREE], folder, home),
            },
            ROUNDS,
        )
    text = (
        f"Processor time. Starting `true`: median of {STARTS} (least-most), the compiled filter in the cache.\n\n"
        f"{table(('', 'ms'), rows(starts))}\n"
        f"`grep -r` of {FILES:,} small files: median of {ROUNDS} (least-most).\n\n{table(('', 'ms'), rows(opens))}\n"
        "One open and close of a file eight folders deep, by a program with Landlock rules of its own (bench/opens.c): least "
        f"of {ROUNDS}.\n\n{table(('', 'ns'), [(name, f'{nanoseconds:.0f}') for name, nanoseconds in floor.items()])}\n"
        "One open and close of a file that the policy grants, by a program under `enforce`: least of "
        f"{ROUNDS}.\n\n{table(('', 'us'), [(name, f'{microseconds:.1f}') for name, microseconds in logged.items()])}\n"
        f"A first learn of `tar` of these files: median of {ROUNDS} (least-most).\n\n{table(('', 'ms'), rows(learns))}"
    )
    plain_start, files_start = (one.median for one in starts.values())
    _, plain_open, files_open, plain_empty, files_empty = (one.least for one in opens.values())
    plain_learn, files_learn = (one.median for one in learns.values())
    return Section(
        text,
        (
            Figure(f"{LINES} path lines in a start", 4, (files_start - plain_start) * 1000, " ms"),
            Figure("opening files with path lines / without", 1.05, files_open / plain_open),
            Figure("the same without the starts", 1.05, (files_open - files_empty) / (plain_open - plain_empty)),
            Figure("an open under --log", 60, logged["with --log"], " us"),
            Figure("learn --files / learn, on a tree of files", 1.1, files_learn / plain_learn),
        ),
    )


def _floor(folder: Path) -> dict[str, float]:
    """Nanoseconds of one open and close, by what Landlock has to do."""
    program = compiled("opens.c", folder)
    file = folder / "a/b/c/d/e/f/file"
    file.parent.mkdir(parents=True)
    file.write_text("text")
    least = dict.fromkeys(FLOOR, float("inf"))
    for _ in range(ROUNDS):
        for name, (layers, above, handled) in FLOOR.items():
            words = [program, file, str(layers), str(above), str(handled), str(OPENS)]
            least[name] = min(least[name], float(subprocess.run(words, capture_output=True, text=True, check=True).stdout))
    return least


def _logged(folder: Path, home: Path) -> dict[str, float]:
    """Microseconds of one open and close under `enforce`, by its options."""
    words = ["./opens", "a/b/c/d/e/f/file", "0", "0", "0", str(LOGGED), "wall"]
    run([LEARN, "-q", "--files", "-o", "opens.policy", "--", *words], folder, home)
    least = {"with path lines": float("inf"), "with --log": float("inf")}
    for _ in range(ROUNDS):
        for name, options in (("with path lines", ()), ("with --log", ("--log", "log"))):
            command = [ENFORCE, "-p", "opens.policy", *options, "--", *words]
            printed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
            least[name] = min(least[name], float(printed) / 1000)
    return least


def _fill(folder: Path) -> None:
    (folder / "one").mkdir()
    (folder / "one/file").write_text("text")
    for number in range(FILES):
        path = folder / "tree" / str(number // 100) / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text\n" * 20)
    for number in range(LINES):
        (folder / "many").mkdir(exist_ok=True)
        (folder / "many" / str(number)).write_text("")


if __name__ == "__main__":
    print(section().text)
