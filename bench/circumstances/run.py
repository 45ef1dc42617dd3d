"""Learns each program on one input, enforces it in each circumstance, and counts the runs with a denied call.

    run.py RESULTS [--mode exact|implied|rehearsed] [--program NAME] [--circumstance NAME]

A result is a line of JSON that is added to RESULTS: program, circumstance, mode, the denied calls, the exit status.
table.py makes a page of them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))

from circumstances import BASE, CIRCUMSTANCES, Circumstance, Run
from packages import copy_packages
from programs import NUMBERS, PROGRAMS, SERVERS, SOURCES, Program, Server
from start import adopt_orphans, children, descendants, is_waiting, runs, started, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MODES = {"exact": ["--exact"], "implied": [], "rehearsed": []}
"""Options of the two learns."""
SIZES = {"input": 200, "other": 333, "large": 20_000, "empty": 0, "a b": 100, "secret": 100}
REHEARSING = ("--rehearse", "--rehearse-seconds", "60", "--scratch")
"""Options of a third learn, if the mode is `rehearsed`."""
SECONDS = 30
"""Until a program that does not end is ended."""


@dataclass(frozen=True, slots=True)
class Place:
    """The scratch folder of all runs."""

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def log(self) -> Path:
        return self.root / "log"

    def command(self, name: str, *options: str | Path) -> list[str]:
        """learn or enforce by the system's Python, from a copy that every user can read, with no variable for it."""
        start = f"import sys; sys.path.insert(0, {str(self.root / 'packages')!r}); from callfence.cli import main; main()"
        return ["/usr/bin/python3", "-c", start, name, *map(str, options), "--"]

    def filled(self, text: str, folder: Path) -> str:
        postgres = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/lib/postgresql"))
        values = {"sources": self.root / "sources", "built": self.root / "built", "folder": folder, "postgres": postgres}
        return re.sub(r"\{(sources|built|folder|postgres)\}", lambda match: str(values[match[1]]), text)


def prepare(root: Path) -> Place:
    place = Place(root)
    for name in ("home", "built"):
        (root / name).mkdir()
    copy_packages(root / "packages")
    shutil.copytree(SOURCES, root / "sources")
    subprocess.run(["g++", "-O2", "-pthread", "-o", root / "built/futures", SOURCES / "futures.cc"], check=True)
    subprocess.run(["gcc", "-O2", "-static", "-o", root / "built/static", SOURCES / "static.c"], check=True)
    subprocess.run(["chmod", "-R", "a+rX", root], check=True)
    for folder in (root, root / "home"):
        folder.chmod(0o777)
    return place


def fresh(place: Place, one: Program | Server, run: Run, port: int) -> Path:
    """A folder with the files, of which some are another user's if the run is."""
    folder = place.root / "work"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "folder").mkdir(parents=True)
    always = isinstance(one, Server) and one.user
    folder.chmod(0o777)
    (folder / "folder").chmod(0o777)
    environment = {**{name: value.replace("{home}", str(place.home)) for name, value in BASE.items()}, "PORT": str(port)}
    make = one.make if isinstance(one, Program) else NUMBERS
    script = "".join(f"FILE='{name}' N={size}\n{make}\n" for name, size in SIZES.items())
    script += place.filled(one.setup, folder)
    as_user = {"user": 65534, "group": 65534, "extra_groups": []} if always or (run.user and run.writable) else {}
    subprocess.run(["bash", "-euc", script], cwd=folder, env=environment, check=True, stdin=subprocess.DEVNULL, **as_user)
    (folder / "secret").chmod(0)
    if not run.writable:
        folder.chmod(0o755)
    return folder


def words_of(place: Place, one: Program | Server, run: Run, folder: Path, port: int) -> list[str]:
    text = one.waits if run.waits and isinstance(one, Program) else one.command
    words = shlex.split(place.filled(text, folder).replace("$PORT", str(port)))
    if run.arguments == "wrong":
        return [words[0], *shlex.split(one.wrong)]
    name = run.file if run.folder == "." else str(folder / run.file)
    return [re.sub(r"(?<![\w.])input\b", name, word) for word in words]


def attempt(place: Place, prefix: Sequence[str], program: Program, run: Run) -> int | None:
    """The exit status, or None if the program had to be ended."""
    folder, status = fresh(place, program, run, 0), None
    words = words_of(place, program, run, folder, 0)
    for _ in range(run.times):
        with started([*prefix, *words], run, folder, place.home) as process:
            if run.stdin in ("terminal", "pipe") and (run.signal or run.stdin == "terminal"):
                wait_until(lambda: process.poll() is not None or is_waiting(process.pid, words), 3)
                time.sleep(0.1)
            if run.signal and run.stdin == "terminal" and process.stdin:
                process.stdin.write(b"\x03")
            elif run.signal and process.poll() is None:
                process.send_signal(signal.Signals[f"SIG{run.signal}"])
            if process.stdin is not None:
                time.sleep(0.2)
                with suppress(OSError):
                    process.stdin.write(b"\x04") if run.stdin == "terminal" else process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(SECONDS * (5 if "--rehearse" in prefix else 1))
    return status


def serve(place: Place, prefix: Sequence[str], server: Server, run: Run) -> int | None:
    """Start, use and stop a server; None if it does not end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    run = replace(run, user=run.user or server.user)
    folder, status = fresh(place, server, run, port), None
    words = words_of(place, server, run, folder, port)
    taken = socket.create_server(("127.0.0.1", port)) if run.taken else None
    run = replace(run, environment={**run.environment, **({"PORT": str(port)} if run.environment else {})})
    for time_now in range(run.times):
        with started([*prefix, *words], run, folder, place.home) as process:
            up = not run.taken and wait_until(lambda: process.poll() is not None or listens(port), 15)
            pid = next((child for child in children(process.pid) if "learn" in prefix and runs(child, words)), process.pid)
            if "--rehearse" in prefix:
                attend(server, run, folder, port, place, process, words)
            elif up and process.poll() is None:
                ask(server, run, folder, port, place)
                if run.signal == "operator":
                    for name in server.signals:
                        with suppress(ProcessLookupError):
                            os.kill(pid, signal.Signals[f"SIG{name}"])
                        time.sleep(0.5)
                    ask(server, run, folder, port, place)
                with suppress(ProcessLookupError):
                    if run.signal == "KILL" and time_now == 0:
                        for one in (pid, *descendants(pid)):
                            os.kill(one, signal.SIGKILL)
                    else:
                        os.kill(pid, signal.Signals[f"SIG{server.stop}"])
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(SECONDS if up or run.taken else 1)
    if taken is not None:
        taken.close()
    return status


def attend(
    server: Server, run: Run, folder: Path, port: int, place: Place, learn: subprocess.Popen[bytes], words: Sequence[str]
) -> None:
    """Use and stop the server each time that learn starts it."""
    while learn.poll() is None:
        if listens(port):
            ask(server, run, folder, port, place)
            for pid in children(learn.pid):
                if runs(pid, words):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.Signals[f"SIG{server.stop}"])
        time.sleep(0.1)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def ask(server: Server, run: Run, folder: Path, port: int, place: Place) -> None:
    """What the clients do; whether they get an answer is their affair."""
    if run.client == "hangs up":
        for sent in (b"", b"GET / HT", b"GET /large HTTP/1.0\r\n\r\n", b"*1\r\n$4\r\nPI"):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as client:
                client.sendall(sent)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close by RST
    script = {"use": server.use, "other": server.other, "load": server.load}.get(run.client, "")
    environment = {**{name: value.replace("{home}", str(place.home)) for name, value in BASE.items()}, "PORT": str(port)}
    subprocess.run(
        ["timeout", str(SECONDS), "bash", "-c", script], cwd=folder, env={**environment, "PGPORT": str(port)},
        stdin=subprocess.DEVNULL, capture_output=True, check=False,
    )  # fmt: skip


def denied(log: Path) -> list[str]:
    with suppress(FileNotFoundError):
        records = map(json.loads, log.read_text().splitlines())
        return [text for record in records if record["event"] == "denied" for text in record["ungranted"] or [record["call"]]]
    return []


def fits(circumstance: Circumstance, one: Program | Server) -> bool:
    kinds = {"any", "server"} if isinstance(one, Server) else {"any", "program"} | ({"waits"} if one.waits else set())
    return circumstance.kind in kinds


def measure(place: Place, one: Program | Server, mode: str, only: Sequence[str]) -> Iterator[dict[str, object]]:
    policy = place.root / "policies" / f"{mode}.policy"
    shutil.rmtree(policy.parent, ignore_errors=True)
    policy.parent.mkdir()
    policy.parent.chmod(0o777)
    act = serve if isinstance(one, Server) else attempt
    for options in ([], [], *([REHEARSING] if mode == "rehearsed" else [])):
        learning = place.command("learn", "-q", *MODES[mode], *options, "-o", policy)
        status = act(place, learning, one, Run())  # type: ignore[arg-type]
        assert policy.exists(), f"{one.name}: learn ended with {status}"
    lines = sum(1 for line in policy.read_text().splitlines() if re.match(r"[a-z_0-9]+:|\s+\|\|", line))
    policy.chmod(0o644)
    yield {"program": one.name, "mode": mode, "lines": lines}
    for name, circumstance in CIRCUMSTANCES.items():
        if not fits(circumstance, one) or (only and name not in only):
            continue
        place.log.unlink(missing_ok=True)
        prefix = place.command("enforce", "-p", policy, "--log", place.log)
        place.log.touch()
        place.log.chmod(0o666)
        status = act(place, prefix, one, circumstance.change(Run()))  # type: ignore[arg-type]
        calls = denied(place.log)
        yield {"program": one.name, "circumstance": name, "mode": mode, "denied": calls, "status": status}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--mode", action="append", choices=MODES)
    parser.add_argument("--program", action="append", default=[])
    parser.add_argument("--circumstance", action="append", default=[])
    options = parser.parse_args()
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="callfence-circumstances-") as scratch, options.results.open("a") as results:
        place = prepare(Path(scratch))
        for one in (*PROGRAMS.values(), *SERVERS.values()):
            if options.program and one.name not in options.program:
                continue
            for mode in options.mode or MODES:
                begun = time.monotonic()
                rows = []
                for row in measure(place, one, mode, options.circumstance):
                    rows.append(row)
                    results.write(json.dumps(row) + "\n")
                    results.flush()
                bad = sum(bool(row.get("denied")) for row in rows)
                said = f"{one.name}, {mode}: {bad} of {len(rows) - 1} denied, {time.monotonic() - begun:.0f} s"
                print(said, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
