"""Measures `callfence lake`, for docs/lake.md:

    measure.py scale N [FOLDER]    N generated recordings of 300 observations, of 3,000 different ones: added, folded, asked
    measure.py copies N [FOLDER]   10,000 of them are added, their part is copied N - 1 times with other runs, and asked about
    measure.py fleet [FOLDER]      500 simulated hosts from real runs of a program in two versions, learned and enforced

FOLDER is on the disk that is measured (default: a temporary one).  `scale` adds 10,000 recordings at a time, so that the
recordings take little disk.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from callfence.lake.keys import version_order
from callfence.policygen.recording import recording_file
from callfence.policygen.recording.model import Circumstances, Observation, Run, recorded_values
from callfence.tracer.abi import Arch, Event, table

CALLFENCE = (str(Path(sys.executable).with_name("callfence")),)
BATCH = 10_000
DIFFERENT, EACH = 3_000, 300
NOW = "2026-11-30T00:00:00+00:00"
"""When the questions are asked: after the generated runs."""
MERGED = 10_000
"""The most recordings that are merged as well, to compare the results."""


def measured(what: str, *command: str | Path, expected: tuple[int, ...] = (0,)) -> float:
    """Run a command, print its time, processor time and the most memory it took; return the time in seconds."""
    began = time.monotonic()
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    processor = usage.ru_utime + usage.ru_stime
    code = os.waitstatus_to_exitcode(status)
    print(f"{what:34} {seconds:9.2f} s  {processor:9.2f} s of processors  {usage.ru_maxrss >> 10:6} MiB", flush=True)
    if code not in expected:
        raise SystemExit(f"{what} ended with status {code}")
    return seconds


def drawn() -> list[Observation]:
    """The different observations, of real calls with made-up arguments, in the order of a recording."""
    draw = random.Random(1)
    calls = table(Arch.X86_64)
    numbers = sorted(number for number in calls.by_number if number < 400)
    keys = {}
    while len(keys) < DIFFERENT:
        number = draw.choice(numbers)
        registers = tuple(draw.choice([0, 1, 2, 3, 8, (1 << 64) - 1]) for _ in range(6))
        arguments = recorded_values(calls, Event(Arch.X86_64.audit, number, registers))  # type: ignore[arg-type]
        executable = f"/usr/bin/{draw.choice(['app', 'dash', 'ls', 'git', 'python3.13'])}"
        site = f"/usr/lib/x86_64-linux-gnu/libc.so.6+{draw.randrange(1 << 20):#x} (93aa8e4fb3f9b22df87d32ec1611e2c789a5a5d3)"
        evidence = ('filename="/etc/passwd"',) if draw.random() < 0.2 else ()
        one = Observation(Arch.X86_64.audit, number, arguments, executable, (1,), site, (0,) * 6, evidence, (0,))
        keys[one.key] = one
    return sorted(keys.values(), key=lambda one: one.order)


def lines(observations: list[Observation]) -> list[tuple[str, str]]:
    """What is before the count of each observation, and what is between it and the example's first pointer."""
    pieces = []
    for one in observations:
        line = recording_file.observation_line(one._replace(example=(3, 1, 832, 0, 2, 0))).decode()
        before, after = line.split('"counts": [1]')
        pieces.append((f'{before}"counts": [', f"]{after}"))
    return pieces


def write(path: Path, number: int, pieces: list[tuple[str, str]]) -> None:
    """Write the recording of a run.  As in real ones, registers with pointers differ in each."""
    draw = random.Random(number)
    circumstances = Circumstances("/dev/null", "a pipe", "a pipe", "root", "C.UTF-8")
    started = 1_795_000_000 * 10**9 + number * 10**8
    executed = (("", "/usr/bin/app"),)
    run = Run(f"{number:016x}", started, ("./app",), 0, True, executed=executed, circumstances=circumstances)
    rows = []
    for index in sorted(draw.sample(range(DIFFERENT), EACH)):
        before, after = pieces[index]
        stack, heap = 0x7FFC00000000 + draw.getrandbits(31), 0x555500000000 + draw.getrandbits(34)
        example = after.replace('"example": [3, 1, 832, 0, 2, 0]', f'"example": [3, {stack}, 832, 0, {heap}, 0]')
        rows.append(f"{before}{draw.randrange(1, 50)}{example}")
    head = (recording_file.header_line(1, EACH) + recording_file.run_line(run)).decode()
    path.write_text(head + "".join(rows))


def compare(folder: Path) -> None:
    same = (folder / "merged.rec").read_bytes() == (folder / "fold.rec").read_bytes()
    print(f"fold and merge: {'equal, byte for byte' if same else 'DIFFERENT'}")


def scale(count: int, folder: Path) -> None:
    pieces = lines(drawn())
    lake, recordings = folder / "lake", folder / "recordings"
    adding = 0.0
    for start in range(0, count, BATCH):
        for number in range(start, min(start + BATCH, count)):
            host = recordings / f"host{number % 500:03}"
            host.mkdir(parents=True, exist_ok=True)
            write(host / f"{number}.rec", number, pieces)
        add = (*CALLFENCE, "lake", "add", "--policy", "app", "--version", str(start // BATCH))
        adding += measured(f"add {min(start + BATCH, count):,}", *add, lake, recordings)
        if count > MERGED:
            shutil.rmtree(recordings)
    size = sum(file.stat().st_size for file in lake.rglob("*") if file.is_file())
    print(f"{count:,} recordings: added in {adding:.1f} s; the lake has {size / 1e6:,.1f} MB")
    measured("fold", *CALLFENCE, "lake", "fold", "-o", folder / "fold.rec", lake)
    print(f"the folded recording has {(folder / 'fold.rec').stat().st_size / 1e6:,.1f} MB")
    newest = str(max(count // BATCH - 1, 1))
    for question in (("contents",), ("new", "--since", newest), ("denied",), ("safe", "--hosts", "500")):
        measured(f"ask {question[0]}", *CALLFENCE, "lake", "ask", "--now", NOW, lake, *question, expected=(0, 1))
    if count <= MERGED:
        merge = ("find", recordings, "-name", "*.rec", "-exec", "cp", "-t", folder / "flat", "{}", "+")
        (folder / "flat").mkdir()
        subprocess.run([*map(str, merge)], check=True)
        measured("merge", *CALLFENCE, "merge", "-o", folder / "merged.rec", folder / "flat")
        compare(folder)


def copies(count: int, folder: Path) -> None:
    pieces, lake, recordings = lines(drawn()), folder / "lake", folder / "recordings"
    for number in range(BATCH):
        home = recordings / f"host{number % 500:03}"
        home.mkdir(parents=True, exist_ok=True)
        write(home / f"{number}.rec", number, pieces)
    measured("add", *CALLFENCE, "lake", "add", "--policy", "app", "--version", "0", lake, recordings)
    shutil.rmtree(recordings)
    (part,) = lake.glob("part-*")
    for number in range(1, count):
        copy = lake / f"part-{number}"
        copy.mkdir()
        for table_name in ("files", "calls", "events"):
            shutil.copy(part / f"{table_name}.parquet", copy)
        version = f"'{number}' AS version, '{version_order(str(number))}' AS version_order"
        other = f"run || '-{number}' AS run, started + {number}::UBIGINT * 1000000000 AS started, {version}"
        for table_name in ("runs", "observations"):
            source, target = part / f"{table_name}.parquet", copy / f"{table_name}.parquet"
            query = f"COPY (SELECT * REPLACE ({other}) FROM '{source}') TO '{target}' (FORMAT parquet, COMPRESSION zstd)"
            subprocess.run([sys.executable, "-c", "import duckdb, sys; duckdb.execute(sys.argv[1])", query], check=True)
    print(f"{count * BATCH:,} recordings")
    for question in (("contents",), ("new", "--since", str(count - 1)), ("safe", "--hosts", "500")):
        measured(f"ask {question[0]}", *CALLFENCE, "lake", "ask", "--now", NOW, lake, *question, expected=(0, 1))
    measured("fold", *CALLFENCE, "lake", "fold", "-o", folder / "fold.rec", lake)
    print(f"the folded recording has {(folder / 'fold.rec').stat().st_size / 1e6:,.1f} MB")


HOSTS, NEWER = 500, 100
"""The hosts of `fleet`, and how many of them have version 2."""
PROGRAM = """\
#!/bin/sh
case $1 in
    list) ls / > /dev/null ;;
    count) wc -l < /etc/passwd > /dev/null ;;
    copy) cp /etc/passwd copied ;;
    sort) sort /etc/passwd > sorted ;;
    find) find . -name "*.log" > /dev/null ;;
    time) date > /dev/null ;;
{more}esac
"""
NEW = """\
    link) ln -sf /etc/passwd linked ;;
    pipe) mkfifo pipe && rm pipe ;;
"""
WORKS = {1: ("list", "count", "copy", "sort", "find", "time"), 2: ("list", "copy", "link", "pipe")}


def host(folder: Path, number: int) -> Path:
    """Learn and enforce the program as a host would, with another of its works on each; return the folder of its files."""
    version = 2 if number >= HOSTS - NEWER else 1
    home = folder / "hosts" / f"web{number:03}" / str(version)
    home.mkdir(parents=True)
    program = home / "app"
    program.write_text(PROGRAM.format(more=NEW if version == 2 else ""))
    program.chmod(0o755)
    works = WORKS[version]
    learned, enforced = works[number % len(works)], works[number // 7 % len(works)]
    quiet = {"cwd": home, "check": True, "stderr": subprocess.DEVNULL}
    subprocess.run([CALLFENCE[0], "learn", "-q", "./app", learned], **quiet)  # type: ignore[call-overload]
    if not (base := folder / "app.policy").exists():
        subprocess.run([CALLFENCE[0], "learn", "-q", "-o", base, "./app", "list"], **quiet)  # type: ignore[call-overload]
        subprocess.run([CALLFENCE[0], "learn", "-q", "-o", base, "./app", "copy"], **quiet)  # type: ignore[call-overload]
    log = ("--audit", "--log", "app.log", "-p", base)
    subprocess.run([CALLFENCE[0], "enforce", *log, "./app", enforced], **quiet)  # type: ignore[call-overload]
    return home


def fleet(folder: Path) -> None:
    began = time.monotonic()
    homes = [host(folder, number) for number in range(HOSTS)]
    print(f"{HOSTS} hosts, {NEWER} of them with version 2, learned and enforced in {time.monotonic() - began:.0f} s")
    lake, policy = folder / "lake", folder / "app.policy"
    measured("add", *CALLFENCE, "lake", "add", "--layout", "{host}/{version}/*", lake, folder / "hosts")
    measured("add again", *CALLFENCE, "lake", "add", "--layout", "{host}/{version}/*", lake, folder / "hosts")
    measured("fold", *CALLFENCE, "lake", "fold", "-o", folder / "fold.rec", lake)
    recordings = [home / ".callfence" / "app.rec" for home in homes]
    measured("merge", *CALLFENCE, "merge", "-o", folder / "merged.rec", *recordings)
    compare(folder)
    of_policy = (("used", policy), ("stale", policy))
    questions = (("contents",), ("new", "--since", "2"), ("denied",), *of_policy, ("safe", "--hosts", "500"))
    for question in questions:
        measured(f"ask {question[0]}", *CALLFENCE, "lake", "ask", lake, *question, expected=(0, 1))
    for question in questions:
        answer = subprocess.run([*CALLFENCE, "lake", "ask", lake, *question], capture_output=True, text=True, check=False)
        rows = answer.stdout.splitlines()
        more = [f"... {len(rows) - 8} more"] * (len(rows) > 8)
        print("", " ".join(map(str, question)), *rows[:8], *more, answer.stderr, sep="\n")


if __name__ == "__main__":
    work, *rest = sys.argv[1:]
    number = int(rest.pop(0)) if work != "fleet" else 0
    where = Path(tempfile.mkdtemp(prefix="callfence-lake-", dir=rest[0] if rest else None))
    try:
        {"scale": partial(scale, number), "copies": partial(copies, number), "fleet": fleet}[work](where)
    finally:
        shutil.rmtree(where)
