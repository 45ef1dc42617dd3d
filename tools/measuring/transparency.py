#!/usr/bin/env python3
"""Run rr's self-checking test programs plainly, under strace, under learn and under enforce, and compare.

    tools/measuring/transparency.py CHECKOUT FOLDER [--jobs N] [--seconds N] [--only NAME ...] [--tools TOOL ...]

CHECKOUT is a checkout of github.com/rr-debugger/rr, whose src/test programs are built with gcc; FOLDER gets the
binaries and `results.json`; the table of docs/transparency.md goes to standard output.  Needs root, gcc, strace and
unshare: each run has a pid namespace of its own with a shell as its init, since some programs signal their harness.

A program counts if it says EXIT-SUCCESS in two plain runs and ends with the same status in both (some end by a signal).
It is kept by a tool under which it does the same.  The calls that learn has recorded are compared with strace's.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from callfence.tracer.abi import COMPAT, NATIVE, table

if TYPE_CHECKING:
    from collections.abc import Sequence

LIBRARIES = ("-ldl", "-lrt", "-lutil", "-lm")
SUCCESS = "EXIT-SUCCESS"
TOOLS = ("strace", "learn", "enforce")
INIT = 'setsid "$@" </dev/null >out 2>err; echo $? >status'
STRACE_CALL = re.compile(r"^\d+ +\[ *(\d+|\?\?\?)] (\w+)\(")
RELEVANT = re.compile(
    r"ptrace|signal|sig[a-z]|_sig|kill|exec|fork|clone|thread|wait|stop|seccomp|prctl|exit|tid|pid|zombie|daemon|tty|"
    r"intr|restart|alarm|timer|block|desched|sched|group|setsid|job|int3|trap|segv|fault|vsyscall|x32|32|core|abort|nanosleep"
)
"""Names of programs about what a tracer may disturb: tasks, signals, calls that restart, filters."""


@dataclass
class Result:
    """One program: `verdicts` are [status, said EXIT-SUCCESS] by tool."""

    name: str
    verdicts: dict[str, list[str | bool]] = field(default_factory=dict)
    only_strace: list[int] = field(default_factory=list)
    only_learn: list[int] = field(default_factory=list)
    compared: bool = False
    said: dict[str, str] = field(default_factory=dict)


def build(checkout: Path, folder: Path, jobs: int, only: list[str]) -> list[Path]:
    """The programs, of these names if there are any, that compile with plain gcc."""
    tests = checkout / "src/test"
    for name in ("X64", "X86", "Generic"):
        target = tests / f"SyscallEnumsForTests{name}.generated"
        subprocess.run([sys.executable, checkout / "src/generate_syscalls.py", target], check=True)

    def compiled(source: Path) -> Path | None:
        target = folder / source.stem
        includes = [f"-I{path}" for path in (tests, tests.parent, tests.parent / "preload", checkout / "include")]
        command = ["gcc", "-O0", "-g", "-w", "-pthread", *includes, "-o", target, source, *LIBRARIES]
        return target if subprocess.run(command, capture_output=True, check=False).returncode == 0 else None

    sources = sorted(path for path in {*tests.glob("*.c"), *tests.glob("x86/*.c")} if not only or path.stem in only)
    with ThreadPoolExecutor(jobs) as pool:
        return [target for target in pool.map(compiled, sources) if target]


def run(command: list[str], folder: Path, seconds: float) -> tuple[str, bool, str]:
    """Status ('timeout' if it did not end), whether it said EXIT-SUCCESS, and the end of what it said otherwise."""
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "sh", "-c", INIT, "sh"]
    for name in ("out", "err", "status"):
        (folder / name).unlink(missing_ok=True)
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*unshare, *command], cwd=folder, start_new_session=True, **quiet)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return "timeout", False, ""
    texts = [(folder / name).read_text(errors="replace") if (folder / name).exists() else "" for name in ("out", "err")]
    status = (folder / "status").read_text().strip() if (folder / "status").exists() else "none"
    return status, SUCCESS in texts[0] + texts[1], (texts[1] or texts[0])[-400:]


def examine(program: Path, seconds: float, chosen: list[str]) -> Result:
    result = Result(program.name)
    callfence = [sys.executable, "-m", "callfence"]
    with tempfile.TemporaryDirectory(prefix="transparency-") as temporary:
        folder = Path(temporary)
        trace, policy = folder / "trace", folder / "learned.policy"
        tools: dict[str, list[str]] = {
            "plain": [],
            "again": [],
            "strace": ["strace", "-f", "-n", "-o", str(trace)],
            "learn": [*callfence, "learn", "-q", "-o", str(policy)],
            "enforce": [*callfence, "enforce", "-p", str(policy)],
        }
        for tool, prefix in tools.items():
            if tool not in ("plain", "again", *chosen):
                continue
            work = folder / tool
            work.mkdir()
            shutil.copy(program, work / program.name)
            if tool == "enforce" and not policy.exists():
                result.verdicts[tool] = ["no policy", False]
                continue
            status, success, said = run([*prefix, f"./{program.name}"], work, seconds)
            result.verdicts[tool] = [status, success]
            if not kept(result, tool):
                result.said[tool] = said
            if tool in ("plain", "again") and not kept(result, tool):
                return result
        recording = folder / ".callfence/learned.rec"
        if trace.exists() and recording.exists():
            seen, recorded = strace_calls(trace), recorded_calls(recording)
            result.compared = True
            result.only_strace, result.only_learn = sorted(seen - recorded), sorted(recorded - seen)
    return result


def kept(result: Result, tool: str) -> bool:
    verdict = result.verdicts.get(tool)
    return verdict is not None and verdict == result.verdicts["plain"] and verdict[1] is True


def strace_calls(path: Path) -> set[int]:
    """`number`, or -1 - number for calls of 32-bit programs, of all but the first execve, which is strace's own.

    strace does not print the architecture: the name tells it.
    """
    native, narrow = table(NATIVE).by_number, table(COMPAT).by_number
    calls: set[int] = set()
    for line in path.read_text(errors="replace").splitlines()[1:]:
        if call := STRACE_CALL.match(line):
            number = 0xFFFFFFFF if call[1] == "???" else int(call[1]) & 0xFFFFFFFF
            is_native = number in native and call[2] in (native[number].name, native[number].name.removeprefix("new"))
            is_narrow = not is_native and number in narrow and narrow[number].name.removeprefix("new") == call[2]
            calls.add(-1 - number if is_narrow else number)
    return calls


def recorded_calls(path: Path) -> set[int]:
    """As `strace_calls`, from a recording."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {-1 - row["number"] if row["arch"] == COMPAT.audit else row["number"] for row in rows if "arch" in row}


def summary(results: list[Result], tools: Sequence[str]) -> str:
    passing = [result for result in results if kept(result, "plain") and kept(result, "again")]
    groups = {
        "all": passing,
        "about tasks, signals, restarts, filters": [result for result in passing if RELEVANT.search(result.name)],
    }
    lines = [f"| programs | pass plainly | {' | '.join(f'{tool} keeps' for tool in tools)} |", "|---" * (2 + len(tools)) + "|"]
    for title, group in groups.items():
        counts = [sum(kept(result, tool) for result in group) for tool in tools]
        lines.append(f"| {title} | {len(group)} | {' | '.join(map(str, counts))} |")
    for tool in tools:
        lost = sorted(f"{one.name} ({one.verdicts[tool][0]})" for one in passing if not kept(one, tool))
        lines += ["", f"Not kept by {tool}: {', '.join(lost) or 'none'}"]
    compared = [result for result in passing if result.compared and kept(result, "strace") and kept(result, "learn")]
    equal = sum(not result.only_strace and not result.only_learn for result in compared)
    lines += ["", f"Calls compared with strace's: {len(compared)} programs, {equal} of them with equal sets."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30, help="for one run of one program")
    parser.add_argument("--only", nargs="+", default=[], help="names of programs")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    programs = build(options.checkout, options.folder, options.jobs, options.only)
    results, pool = [], ThreadPoolExecutor(options.jobs)
    try:
        for result in pool.map(lambda program: examine(program, options.seconds, options.tools), programs):
            results.append(result)
            print(f"{len(results)}/{len(programs)} {result.name}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print(f"interrupted after {len(results)} of {len(programs)} programs", file=sys.stderr)
    pool.shutdown(wait=False, cancel_futures=True)
    (options.folder / "results.json").write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    print(summary(results, options.tools), flush=True)


if __name__ == "__main__":
    main()
