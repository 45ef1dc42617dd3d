"""What a server answers in a second, plainly and under the first and the second learn, in the ten seconds after its start."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness import BUSY, IDLE, LEARN, LOADS, PATH, Figure, Section, Words, alternate, load, require, scratch, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TITLE = "servers"
ROUNDS = {IDLE: 3, BUSY: 1}
SECONDS = 10
SECOND = 0.97
ENVIRONMENT = {"PATH": PATH, "LC_ALL": "C.UTF-8"}
NGINX = """
daemon off; {user} pid {folder}/pid; error_log {folder}/error.log; worker_processes 2;
events {{ worker_connections 256; }}
http {{ access_log off; server {{ listen 127.0.0.1:{port}; root {folder}/www; }} }}
"""
NOBODY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
"""Whom postgres runs as if root measures it, whom it refuses."""


def redis(folder: Path, port: int) -> Words:
    return ("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder))


def redis_load(port: int) -> float:
    """redis-benchmark takes a number of requests, so first a few of them tell how many take so long."""
    return _get(port, int(_get(port, 20_000) * SECONDS))


def _get(port: int, requests: int) -> float:
    text = said(("redis-benchmark", "-p", str(port), "-n", str(requests), "-c", "20", "-t", "get", "--csv"))
    return float(text.splitlines()[-1].split(",")[1].strip('"'))


def nginx(folder: Path, port: int) -> Words:
    (folder / "www").mkdir(exist_ok=True)
    (folder / "www/index.html").write_text("hello\n" * 100)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "conf").write_text(NGINX.format(folder=folder, port=port, user=user))
    return ("nginx", "-e", str(folder / "error.log"), "-c", str(folder / "conf"))


def nginx_load(port: int) -> float:
    return _number(r"Requests/sec: +([\d.]+)", ("wrk", "-t1", "-c20", f"-d{SECONDS}s", f"http://127.0.0.1:{port}/index.html"))


def postgres(folder: Path, port: int) -> Words:
    """With the tables of pgbench.  Without fsync: disks are not measured."""
    data = folder / "data"
    data.mkdir()
    as_user: Words = ()
    if os.geteuid() == 0:
        as_user = NOBODY
        folder.chmod(0o711)
        subprocess.run(["chown", "nobody", data], check=True)
    said((*as_user, _newest("initdb"), "-D", data, "-U", "bench", "--no-sync", "-A", "trust"))
    options = ("-F", "-p", str(port), "-k", str(data), "-c", "listen_addresses=127.0.0.1")
    words = (*as_user, _newest("postgres"), "-D", data, *options)
    with running(words, port):
        _wait_for_postgres(port)
        said((*_pgbench(port), "-q", "-i"))
    return words


def _newest(name: str) -> Path:
    """Debian keeps a server's programs out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    if not found:
        raise SystemExit("bench: PostgreSQL is missing: Debian's package postgresql")
    return found[-1]


def _pgbench(port: int) -> Words:
    return (_newest("pgbench"), "-h", "127.0.0.1", "-p", str(port), "-U", "bench", "-d", "postgres")


def _wait_for_postgres(port: int) -> None:
    """It listens before it answers."""
    end = time.monotonic() + 30
    while subprocess.run([_newest("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)], check=False).returncode:
        if time.monotonic() > end:
            raise RuntimeError("postgres does not answer")
        time.sleep(0.02)


def postgres_load(port: int) -> float:
    _wait_for_postgres(port)
    return _number(r"tps = ([\d.]+)", (*_pgbench(port), "-c", "8", "-T", str(SECONDS)))


def _number(pattern: str, words: Words) -> float:
    found = re.search(pattern, said(words))
    assert found
    return float(found[1])


WHY = """\
A process has its filter after some hundreds of calls (tracer/late/late.py). Processes of PostgreSQL wake one another by
kill(2), 1.5 times a transaction, and learn looks whom each signal reaches (`scope signals`). Under a first learn a known signal
runs if it goes to a process that was signalled before this filter was made: the filter compares its number. Processes that are
made by one that has its filter already stop at signals to newer ones: after some dozens of connections, those of each new one.
The filter of a second learn is there before any process, so each signal stops.
"""


class Server(NamedTuple):
    command: Callable[[Path, int], Words]
    load: Callable[[int], float]
    first: float
    """The least share of the native rate under a first learn."""


SERVERS = {
    "redis": Server(redis, redis_load, 0.9),
    "nginx": Server(nginx, nginx_load, 0.9),
    "postgres (pgbench)": Server(postgres, postgres_load, 0.85),
}


def section() -> Section:
    """The measurements."""
    require("redis-server", "redis-benchmark", "nginx", "wrk", "setpriv")
    rows, figures = [], []
    for name, server in SERVERS.items():
        with scratch() as folder, scratch() as policies:
            port = free_port()
            words = server.command(folder, port)
            fresh = (LEARN, "-q", "--fresh", "-o", policies / "a.policy", "--", *words)
            learned = (LEARN, "-q", "-o", policies / "b.policy", "--", *words)
            for _ in range(2):
                measured(learned, port, server.load)
            sides = {
                "native": lambda words=words, port=port, server=server: measured(words, port, server.load),  # type: ignore[misc]
                "first": lambda words=fresh, port=port, server=server: measured(words, port, server.load),  # type: ignore[misc]
                "second": lambda words=learned, port=port, server=server: measured(words, port, server.load),  # type: ignore[misc]
            }
            for kind in LOADS:
                with load(kind):
                    spread = alternate(sides, ROUNDS[kind], warm_up=False)
                native, first, second = (one.median for one in spread.values())
                shown = (f"{one.median:,.0f} ({one.least:,.0f}-{one.most:,.0f})" for one in spread.values())
                rows.append([f"{name}, {kind}", *shown, f"{first / native:.3f}", f"{second / native:.3f}"])
                for which, rate, goal in (("first", first, server.first), ("second", second, SECOND)):
                    figures.append(Figure(f"{name}: {which} learn / native ({kind})", goal, rate / native, is_floor=True))
    header = ("", "native", "first learn", "second learn", "first/native", "second/native")
    text = (
        f"Requests (pgbench: transactions) a second, over {SECONDS} seconds from the start of the server: the median of "
        f"{ROUNDS[IDLE]} rounds (least-most), and one with a busy processor.\n\n{table(header, rows)}\n{WHY}"
    )
    return Section(text, tuple(figures))


def measured(words: Words, port: int, load: Callable[[int], float]) -> float:
    """Requests a second."""
    with running(words, port):
        return load(port)


@contextmanager
def running(words: Words, port: int) -> Iterator[None]:
    """A server, from when it listens; ended with SIGTERM."""
    with subprocess.Popen([*words], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(port, server)
            yield
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


def wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 30
    while server.poll() is None and time.monotonic() < end:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError("the server does not listen")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def said(words: Words) -> str:
    return subprocess.run([*words], env=ENVIRONMENT, cwd="/", check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    print(section().text)
