"""Many events and many questions: nothing is lost without being counted, nothing runs that was not answered yes.

    python tools/storm/storm_events.py [CALLS] [PROCESSES]

A program makes CALLS denied calls (default: 1,000,000), of which each of the first thousands differs, and its log goes to a
FIFO whose reader is slow; then PROCESSES processes (default: 500) ask about the same call at once, five times, and an asker
answers them, dies, or says nothing.  Prints what was counted, and the most memory that the helper had.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests" / "support"))

from calls import allowing_all  # noqa: E402

ENFORCE = [sys.executable, "-m", "callfence", "enforce"]
RAW = ["-O1", "-static", "-nostdlib", "-fno-stack-protector", "-fno-pic", "-no-pie"]
DENYING = "default errno EACCES\nread: allow\nwrite: allow\nexit_group: allow\n"
ASKERS = """
import os
children = []
for _ in range({}):
    child = os.fork()
    if not child:
        try:
            os.chroot("/")
        except OSError:
            os._exit(1)
        os._exit(0)
    children.append(child)
print(sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 for child in children))
"""
DIFFERENT = 5000


def events(folder: Path, count: int) -> bool:
    """Make the calls; return whether all were counted."""
    calls = folder / "calls"
    subprocess.run(["gcc", *RAW, "-o", calls, ROOT / "tests" / "enforcer" / "programs" / "calls.c"], check=True)
    (folder / "calls.policy").write_text(DENYING)
    fifo = folder / "fifo"
    os.mkfifo(fifo)
    kept: list[bytes] = []

    def read() -> None:
        with open(fifo, "rb", buffering=0) as file:
            while part := file.read(4096):
                kept.append(part)
                time.sleep(0.002)

    reader = threading.Thread(target=read)
    reader.start()
    different = [f"16,{number % 50},{number}" for number in range(min(DIFFERENT, count))]
    rest = [f"{count - len(different)}x110"] if count > len(different) else []
    began = time.monotonic()
    program = subprocess.Popen(
        [*ENFORCE, "--log", fifo, calls, *different, *rest], cwd=folder, stdout=subprocess.DEVNULL, env=_environment(folder)
    )
    most = 0
    while program.poll() is None:
        most = max([most, *(_memory(pid) for pid in _helpers(str(fifo), program.pid))])
        time.sleep(0.2)
    reader.join()
    seconds = time.monotonic() - began
    records = [json.loads(line) for line in b"".join(kept).splitlines()]
    end = records[-1]
    written = sum(record["event"] == "denied" for record in records)
    print(f"{count:,} denied calls in {seconds:.0f} s: {end['denied']:,} counted, {written} records of them read, "
          f"{end['lost']} records lost; the helper had at most {most / 1024:.0f} MiB")  # fmt: skip
    return end["event"] == "end" and end["denied"] == count and most < 50 * 1024


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(ROOT)}


def _helpers(marker: str, program: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != program:
            try:
                if marker.encode() in (entry / "cmdline").read_bytes() and b"enforce" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def _memory(pid: int) -> int:
    """The most resident memory that a process had, in KiB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def questions(folder: Path, processes: int, how: str) -> bool:
    """Have processes ask at once; return whether as many calls ran as were answered yes, and nothing hung."""
    path = folder / f"ask-{how}"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    (folder / "python.policy").write_text(
        allowing_all().replace("chroot: allow\n", "").replace("seccomp: allow\n", "")
    )
    command = [*ENFORCE, f"--ask=unix:{path}", "--ask-timeout", "3", "-p", "python.policy", sys.executable, "-I", "-S", "-c"]
    began = time.monotonic()
    program = subprocess.Popen(
        [*command, ASKERS.format(processes)], cwd=folder, stdout=subprocess.PIPE, text=True, env=_environment(folder)
    )
    connection, _ = listener.accept()
    asked = 0
    with connection, connection.makefile("rb") as lines:
        for line in lines:
            message = json.loads(line)
            if message["type"] != "question":
                continue
            asked += 1
            if how == "dies":
                break
            if how != "says nothing":
                connection.sendall(json.dumps({"id": message["id"], "answer": how}).encode() + b"\n")
    output, _ = program.communicate(timeout=120)
    ran, expected = int(output), processes if how in ("run", "once") else 0
    seconds = time.monotonic() - began
    print(f"{processes} processes ask at once, asker: {how}: {asked} questions, {ran} calls ran, {seconds:.1f} s")
    return ran == expected and (asked == 1 or how == "once")


def main() -> int:
    count, processes = (int(word) for word in (sys.argv[1:] + ["1000000", "500"][len(sys.argv) - 1 :])[:2])
    with tempfile.TemporaryDirectory(prefix="callfence-storm-") as name:
        folder = Path(name)
        results = [events(folder, count)]
        results += [questions(folder, processes, how) for how in ("run", "once", "no", "dies", "says nothing")]
    print(f"{results.count(False)} wrong")
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main())
