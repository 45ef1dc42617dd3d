#!/usr/bin/env python3
"""Learn programs with every call stopped, and with the late filter, and compare what was observed and the policies.

    tools/measuring/late.py [--jobs N] [--rounds N] [--only NAME ...] [--most N] samples | corpus | FOLDER ...

`samples` and `corpus` are those of this project (the corpus: tests/programs/test_real_programs.py); a FOLDER has programs,
each of which is run without arguments.  A program is run in a folder of its own, and, if root does it, in a pid namespace
of its own: N rounds of `learn --every-call`, `learn`, and `learn --late-after 1`, which puts the filter in at the first call.
The table goes to standard output, and what differs to standard error.

What a program does is not the same in each run.  Something is *lost* if each run with every call stopped has it, and no other
run; *invented* if each run with a late filter has it, and none with every call stopped.
"""

from __future__ import annotations

import argparse
import http.server
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from callfence.policygen.recording import recording_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from callfence.policygen.recording.model import Key

ROOT = Path(__file__).resolve().parents[2]
WAYS = {"every call stopped": ("--every-call",), "late filter": (), "at the first call": ("--late-after", "1")}
EVERY = next(iter(WAYS))
LEARN = (sys.executable, "-m", "callfence", "learn", "-q", "--fresh", "-o", "it.policy")
NAMESPACE = ("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "sh", "-c", 'setsid "$@"; :', "sh")
"""The shell is the init of the namespace: some programs signal everything that they can."""
SECONDS = 60
TABLE = (
    "| programs | how many | all runs equal: observations | policies | else | lost | invented |\n|---|--:|--:|--:|--:|--:|--:|"
)


class Program(NamedTuple):
    name: str
    words: tuple[str, ...]
    setup: str = ":"


class Run(NamedTuple):
    """What one run of learn has left."""

    keys: frozenset[Key]
    policy: bytes


class Compared(NamedTuple):
    name: str
    is_complete: bool
    """Whether each run ended, and left a recording."""
    are_keys_equal: bool = False
    are_policies_equal: bool = False
    lost: frozenset[Key] = frozenset()
    invented: frozenset[Key] = frozenset()


def samples(build: Path) -> Iterator[Program]:
    """Those that are compiled are put into a folder."""
    subprocess.run(["make", "--silent", "-C", ROOT / "samples", f"BUILD={build}"], check=True)
    yield from (Program(path.name, (str(path),)) for path in sorted(build.iterdir()) if os.access(path, os.X_OK))
    yield from (Program(path.stem, ("python3", str(path))) for path in sorted((ROOT / "samples").glob("*.py")))
    yield Program("pipeline", ("sh", str(ROOT / "samples/pipeline.sh")))


def corpus() -> Iterator[Program]:
    sys.path[:0] = [str(ROOT / folder) for folder in ("tests/programs", "tests/support", "tools")]
    from test_real_programs import GIT, PROGRAMS, Page

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {**GIT, "URL": f"http://127.0.0.1:{server.server_port}"}
    yield from (Program(one.name, one.words, one.setup or ":") for one in PROGRAMS)


def compare(program: Program, rounds: int) -> Compared:
    runs: dict[str, list[Run]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, options in WAYS.items():
            if (found := run(program, options)) is None:
                return Compared(program.name, False)
            runs[way].append(found)
    stopped, late = runs.pop(EVERY), [one for some in runs.values() for one in some]
    return Compared(
        program.name,
        True,
        len({one.keys for one in (*stopped, *late)}) == 1,
        len({one.policy for one in (*stopped, *late)}) == 1,
        frozenset.intersection(*(one.keys for one in stopped)).difference(*(one.keys for one in late)),
        frozenset.intersection(*(one.keys for one in late)).difference(*(one.keys for one in stopped)),
    )


def run(program: Program, options: tuple[str, ...]) -> Run | None:
    """One run of learn; None if it did not end, or failed."""
    with tempfile.TemporaryDirectory(prefix="late-") as name:
        folder = Path(name) / "work"  # as long as in each other run
        folder.mkdir()
        subprocess.run(["sh", "-euc", program.setup], cwd=folder, check=True)
        namespace = NAMESPACE if os.geteuid() == 0 else ()
        command = [*namespace, *LEARN, *options, "--", *program.words]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, cwd=folder, start_new_session=True, **quiet) as process:
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                return None
        try:
            recording = recording_file.load(folder / ".callfence/it.rec")
            policy = (folder / "it.policy").read_bytes()
        except OSError:
            return None
        here = str(folder)
        keys = frozenset((*seen.key[:3], seen.executable.replace(here, ".")) for seen in recording.observations)
        return Run(keys, policy)


def row(title: str, found: list[Compared]) -> str:
    complete = [one for one in found if one.is_complete]
    equal = sum(one.are_keys_equal for one in complete)
    policies = sum(one.are_policies_equal for one in complete)
    lost, invented = (sum(bool(getattr(one, what)) for one in complete) for what in ("lost", "invented"))
    return f"| {title} | {len(complete)} | {equal} | {policies} | {len(complete) - equal} | {lost} | {invented} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", help="samples, corpus or a folder")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=[], help="names of programs")
    parser.add_argument("--most", type=int, default=1 << 30, help="how many programs of a folder, chosen evenly")
    options = parser.parse_args()
    print(TABLE)
    with tempfile.TemporaryDirectory(prefix="late-samples-") as build:
        measure(options, Path(build))


def measure(options: argparse.Namespace, build: Path) -> None:
    for what in options.what:
        if what in ("samples", "corpus"):
            programs = list(samples(build) if what == "samples" else corpus())
        else:
            paths = sorted(path.resolve() for path in Path(what).iterdir() if os.access(path, os.X_OK) and path.is_file())
            programs = [Program(path.name, (str(path),)) for path in paths]
        programs = [one for one in programs if not options.only or one.name in options.only]
        programs = programs[:: max(1, len(programs) // options.most)][: options.most]
        with ThreadPoolExecutor(options.jobs) as pool:
            found = list(pool.map(lambda one: compare(one, options.rounds), programs))
        for one in found:
            if not one.is_complete:
                print(f"{one.name}: a run failed, or did not end", file=sys.stderr)
            elif not (one.are_keys_equal and one.are_policies_equal):
                differ = "" if one.are_policies_equal else ", and so do the policies"
                print(f"{one.name}: the observations of the runs differ{differ}", file=sys.stderr)
            for kind, keys in (("lost", one.lost), ("invented", one.invented)):
                for key in sorted(keys, key=str):
                    print(f"{one.name}: {kind}: {key}", file=sys.stderr)
        print(row(Path(what).name, found), flush=True)


if __name__ == "__main__":
    main()
