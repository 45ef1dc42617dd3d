"""Measures carried policies: which calls that programs make on another architecture would the carried section deny.

    measure.py learn FOLDER ARCH      here: learns each program into FOLDER, and carries its policy to ARCH
    measure.py trace FOLDER [NAME ...] on a machine of ARCH: logs the calls of each program into FOLDER, with strace
    measure.py compare FOLDER ARCH    here: prints what the carried sections deny of the logged calls, and what policies do
                                       that are made of the logs themselves

The programs are those of PROGRAMS; a program that a machine lacks is left out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from callfence.policygen.implied.resolve import resolved
from callfence.policygen.implied.tables import unavailable_cells
from callfence.policygen.language.document import parse_file
from callfence.policygen.language.naming import format_expression
from callfence.policygen.learning.extend import sort_out
from callfence.policygen.learning.generalise import literal
from callfence.policygen.learning.rule import Rule, expression
from callfence.policygen.recording import recording_file
from callfence.tracer.abi import Arch, table

if TYPE_CHECKING:
    from callfence.policygen.model import Policy

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
BEFORE = "printf 'b\\na\\n' > data; mkdir -p tree/sub; cp data tree/sub/one; printf 'all:\\n\\techo made\\n' > Makefile"
PYTHON = "/usr/bin/python3"
PROGRAMS = {
    "cat": ["cat", "data"],
    "ls": ["ls", "-lR", "."],
    "cp": ["cp", "-a", "tree", "copy"],
    "mv": ["mv", "data", "moved"],
    "rm": ["rm", "-r", "tree"],
    "mkdir": ["mkdir", "-p", "a/b/c"],
    "ln": ["ln", "-s", "data", "soft"],
    "chmod": ["chmod", "-R", "g+w", "tree"],
    "touch": ["touch", "data", "new"],
    "find": ["find", ".", "-name", "o*", "-type", "f"],
    "grep": ["grep", "-r", "a", "."],
    "sed": ["sed", "-i", "s/a/c/", "data"],
    "awk": ["mawk", "{print $1}", "data"],
    "sort": ["sort", "-u", "data"],
    "tar": ["tar", "cf", "made.tar", "tree"],
    "gzip": ["gzip", "-k", "data"],
    "diff": ["diff", "-r", "tree", "tree"],
    "date": ["date"],
    "id": ["id"],
    "ps": ["ps", "ax"],
    "timeout": ["timeout", "5", "sleep", "0.01"],
    "xargs": ["sh", "-c", "ls | xargs -n1 echo"],
    "dash": ["dash", "-c", "cat data | sort | head -1; (cd tree && pwd); test -r data && echo yes > out"],
    "bash": ["bash", "-c", "cat data | sort | head -1; for f in *; do echo $f; done; x=$(cat data); echo $x > out"],
    "make": ["make"],
    "git": ["sh", "-c", "git init -q . && git add data && git -c user.name=a -c user.email=b commit -qm x && git log -1"],
    "gcc": ["gcc", "-w", "-o", "made", str(HERE / "libc.c")],
    "python": [PYTHON, "-c", "import json, os; print(json.dumps(sorted(os.listdir('.'))))"],
    "python threads": [PYTHON, "-c", "import threading as t; x = t.Thread(target=print); x.start(); x.join()"],
    "python subprocess": [PYTHON, "-c", "import subprocess as s; print(s.run(['cat', 'data'], capture_output=True).stdout)"],
    "python fork": [PYTHON, "-c", "import os\nif not os.fork(): os._exit(0)\nprint(os.wait()[1])"],
    "python select": [
        PYTHON, "-c",
        "import selectors, os\nfor name in ('Select', 'Poll', 'Epoll'):\n"
        "    s = getattr(selectors, name + 'Selector')(); r, w = os.pipe(); s.register(r, 1); os.write(w, b'x'); s.select(1)",
    ],
    "python asyncio": [PYTHON, "-c", "import asyncio\nasync def f(): await asyncio.sleep(0.01)\nasyncio.run(f())"],
    "python files": [
        PYTHON, "-c",
        "import tempfile, shutil, os\nwith tempfile.TemporaryDirectory(dir='.') as f:\n"
        "    os.makedirs(f + '/a/b'); shutil.copytree('tree', f + '/c'); os.rename(f + '/c', f + '/d'); os.utime('data')",
    ],
    "python server": [
        PYTHON, "-c",
        "import http.server as h, threading, urllib.request as u\ns = h.ThreadingHTTPServer(('127.0.0.1', 0), "
        "h.SimpleHTTPRequestHandler)\nthreading.Thread(target=s.serve_forever).start()\n"
        "print(len(u.urlopen('http://127.0.0.1:%d/data' % s.server_port).read())); s.shutdown()",
    ],
    "libc": ["./libc"],
    "libc static": ["./libc-static"],
    "libc musl": ["./libc-musl"],
}  # fmt: skip
BUILDS = {
    "libc": ["gcc", "-w", "-O1"], "libc-static": ["gcc", "-w", "-O1", "-static"], "libc-musl": ["musl-gcc", "-w", "-O1"],
}  # fmt: skip


def main(what: str, folder: Path, *words: str) -> None:
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if what == "compare":
        compare(folder, Arch(words[0]))
        return
    for name, command in PROGRAMS.items():
        if what == "trace" and words and name not in words:
            continue
        stem = name.replace(" ", "-")
        with tempfile.TemporaryDirectory() as work:
            if not prepared(Path(work), command[0]):
                continue
            if what == "trace":
                inject = "inject=clone3,openat2,io_uring_setup:error=ENOSYS"
                done = run(["strace", "-f", "-o", str(folder / f"{stem}.log"), "-e", inject, *command], work)
                print(f"{name}: {done.returncode}", flush=True)
                continue
            policy = folder / f"{stem}.policy"
            run([str(BIN / "learn"), "-q", "-o", str(policy), "--", *command], work)
            done = run([str(BIN / "callfence"), "carry", str(policy), "--to", words[0]], work)
            (folder / f"{stem}.said").write_text(done.stdout + done.stderr)


def prepared(work: Path, program: str) -> bool:
    """Make the folder in which a program runs, and return whether it can."""
    subprocess.run(["sh", "-c", BEFORE], cwd=work, check=True)
    build = BUILDS.get(program.removeprefix("./"))
    if build is None:
        return shutil.which(program) is not None
    if shutil.which(build[0]) is None:
        return False
    made = [*build, "-o", program, str(HERE / "libc.c")]
    return subprocess.run(made, cwd=work, check=False, stderr=subprocess.DEVNULL).returncode == 0


def run(command: list[str], work: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C", "HOME": work}
    return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=600, check=False)


def compare(folder: Path, arch: Arch) -> None:
    """Print a row for each program, and the denied calls.

    What only the bit PROT_BTI denies is counted by itself: the loader sets it on processors that have that protection."""
    print("| program | kinds of calls | denied | denied for PROT_BTI | failed as not available |\n|---|--:|--:|--:|--:|")
    totals = Counter[str]()
    denials: list[str] = []
    for name in PROGRAMS:
        stem = name.replace(" ", "-")
        log, policy = folder / f"{stem}.log", folder / f"{stem}.policy"
        if not (log.exists() and policy.exists()):
            continue
        words = ["import", "--from", "strace", "--arch", arch, "-o", f"{stem}.rec", log.name]
        made = run([str(BIN / "callfence"), *words], str(folder))
        if made.returncode:
            print(f"{name}: {made.stderr}", file=sys.stderr)
            continue
        kinds, lines = judged(parse_file(policy).policy, folder / f"{stem}.rec", arch)
        counts = Counter("milder" if is_milder else "bti" if "PROT_BTI" in line else "denied" for line, is_milder in lines)
        totals.update(counts)
        totals.update(programs=1, kinds=kinds, whole=not counts["denied"])
        others = [(line, is_milder) for line, is_milder in lines if "PROT_BTI" not in line]
        denials += [f"{name}: {line}{' (not available)' if is_milder else ''}" for line, is_milder in others]
        print(f"| {name} | {kinds} | {counts['denied']} | {counts['bti']} | {counts['milder']} |")
    sums = " | ".join(str(totals[word]) for word in ("kinds", "denied", "bti", "milder"))
    print(f"| {totals['programs']} programs, {totals['whole']} without a denial | {sums} |")
    print("\n".join(denials))


def judged(policy: Policy, recording: Path, arch: Arch) -> tuple[int, list[tuple[str, bool]]]:
    """Return how many kinds of calls a recording has, and those that the policy denies, each with whether `enforce` fails it as
    not available instead of ending the program."""
    meant, calls = resolved(policy), table(arch)
    observations = [each for each in recording_file.load(recording).observations if each.arch == arch.audit]
    denied = []
    for each in observations:
        entry = meant.entries[arch].get(each.number)
        if sort_out(entry, meant.default, [each], calls).is_beyond:
            is_milder = each.number in unavailable_cells(arch) or each.number > calls.newest(policy.table)
            is_milder |= entry is not None and entry.action.errno != 0
            denied.append((shown(each.number, literal(each, calls), arch), is_milder))
    return len(observations), denied


def shown(number: int, rule: Rule, arch: Arch) -> str:
    call = table(arch).by_number[number]
    return f"{call.name}: {format_expression(arch, number, expression(rule, call.arguments))}"


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("learn", "trace", "compare"):
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
