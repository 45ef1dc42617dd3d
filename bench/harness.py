"""What every benchmark needs: commands run in a clean environment, sides alternated, medians, a Markdown table."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

Words = Sequence[str | Path]
HERE = Path(__file__).parent
PATH = os.defpath + ":/usr/sbin:/sbin"
BIN = Path(sys.executable).parent
LEARN, ENFORCE = BIN / "learn", BIN / "enforce"


@dataclass(frozen=True, slots=True)
class Spent:
    """What one command took."""

    seconds: float
    """Wall clock."""
    processor: float
    """Seconds of processor time, user's and system's, of it and of children that it waited for."""
    peak_kib: int
    """Greatest resident set of it or of a child that it waited for (getrusage(2), ru_maxrss)."""
    errors: str


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of the same thing, in seconds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        return cls(statistics.median(seconds), min(seconds), max(seconds))

    def milliseconds(self) -> str:
        return f"{self.median * 1e3:,.0f} ({self.least * 1e3:,.0f}-{self.most * 1e3:,.0f})"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number that has a goal."""

    name: str
    goal: float
    measured: float
    unit: str = ""
    is_floor: bool = False
    """Whether the goal is a least, not a most."""

    @property
    def is_kept(self) -> bool:
        return self.measured >= self.goal if self.is_floor else self.measured <= self.goal

    def row(self) -> tuple[str, str, str, str]:
        bound = "at least" if self.is_floor else "at most"
        kept = "yes" if self.is_kept else "**no**"
        return self.name, f"{bound} {self.goal:g}{self.unit}", f"{self.measured:.3g}{self.unit}", kept


@dataclass(frozen=True, slots=True)
class Section:
    """What a benchmark has found."""

    text: str
    """Markdown."""
    figures: tuple[Figure, ...] = ()


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty folder to work in, which is also the home of what runs there."""
    with tempfile.TemporaryDirectory(prefix="callfence-bench-") as folder:
        yield Path(folder)


def run(words: Words, folder: Path, home: Path | None = None) -> Spent:
    """Run a command whose output goes nowhere; raises CalledProcessError if it fails."""
    environment = {"PATH": PATH, "HOME": str(home or folder), "LC_ALL": "C.UTF-8"}
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        child = subprocess.Popen(
            [*words], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
        )
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)  # it has been waited for: Popen must not do it again
        errors.seek(0)
        text = errors.read().decode(errors="replace")
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, [*words], stderr=text)
    return Spent(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss, text)


IDLE, BUSY = "idle", "one busy processor"
LOADS = (IDLE, BUSY)
"""What else the machine does."""


@contextmanager
def load(kind: str) -> Iterator[None]:
    """While it lasts, a process computes without end, unless the machine is to be idle."""
    if kind == IDLE:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spinning:
        try:
            yield
        finally:
            spinning.kill()


def alternate(sides: Mapping[str, Callable[[], float]], rounds: int, *, warm_up: bool = True) -> dict[str, Spread]:
    """Measure each side once a round, so that a change on the machine affects all sides.

    With `warm_up`, one round before the first is thrown away: it fills the caches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + warm_up):
        for name, side in sides.items():
            spent = side()
            if number >= warm_up:
                seconds[name].append(spent)
    return {name: Spread.of(values) for name, values in seconds.items()}


def timed(words: Words, folder: Path, home: Path | None = None) -> Callable[[], float]:
    """Runs a command, and returns the seconds that it took."""
    return lambda: run(words, folder, home).seconds


def computed(words: Words, folder: Path, home: Path | None = None) -> Callable[[], float]:
    """Runs a command, and returns the seconds of processor time that it took, which depend less on what else is running."""
    return lambda: run(words, folder, home).processor


def require(*programs: str) -> None:
    """Raises SystemExit unless the programs are there."""
    if missing := [name for name in programs if not shutil.which(name, path=PATH)]:
        raise SystemExit(f"bench: these are missing: {', '.join(missing)}; .ci/run lists their packages")


def compiled(source: str, folder: Path, *flags: str) -> Path:
    """A C program of this folder, built."""
    program = folder / Path(source).stem
    subprocess.run(["cc", "-O2", "-o", program, HERE / source, *flags], check=True)
    return program


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    rule = ["---", *["--:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, rule, *rows))


def machine() -> str:
    """The facts that the numbers depend on; with a load average well above 0 they are too high."""
    python, load = platform.python_version(), os.getloadavg()[0]
    return (
        f"{os.cpu_count()} processors, Linux {platform.release()}, {' '.join(platform.libc_ver())}, Python {python}, "
        f"with a load average of {load:.1f} before the first measurement"
    )
