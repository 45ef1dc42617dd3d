"""What lines about files and ports add: to a program's start, to the files that it opens, and to learning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enforce import rows
from harness import ENFORCE, LEARN, Figure, Section, alternate, computed, run, scratch, table

if TYPE_CHECKING:
    from pathlib import Path

TITLE = "files and ports"
STARTS, ROUNDS = 20, 7
LINES = 40
FILES = 5000
TREE = ("tar", "cf", "/dev/null", "tree")
READ = ("grep", "-rc", "text", "tree")


def section() -> Section:
    """The measurements."""
    with scratch() as folder, scratch() as home:
        _fill(folder)
        for name, words in (("true", ("true",)), ("read", READ)):
            run([LEARN, "-q", "--files", "-o", f"{name}.policy", "--", *words], folder, home)
            text = (folder / f"{name}.policy").read_text()
            plain = "".join(f"{line}\n" for line in text.splitlines() if not line.startswith(("path ", "tcp ")))
            (folder / f"{name}-plain.policy").write_text(plain)
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
            },
            ROUNDS,
        )
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
        f"A first learn of `tar` of these files: median of {ROUNDS} (least-most).\n\n{table(('', 'ms'), rows(learns))}"
    )
    plain_start, files_start = (one.median for one in starts.values())
    _, plain_open, files_open = (one.median for one in opens.values())
    plain_learn, files_learn = (one.median for one in learns.values())
    return Section(
        text,
        (
            Figure(f"{LINES} path lines in a start", 4, (files_start - plain_start) * 1000, " ms"),
            Figure("opening files with path lines / without", 1.05, files_open / plain_open),
            Figure("learn --files / learn, on a tree of files", 1.1, files_learn / plain_learn),
        ),
    )


def _fill(folder: Path) -> None:
    for number in range(FILES):
        path = folder / "tree" / str(number // 100) / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text\n" * 20)
    for number in range(LINES):
        (folder / "many").mkdir(exist_ok=True)
        (folder / "many" / str(number)).write_text("")


if __name__ == "__main__":
    print(section().text)
