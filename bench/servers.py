"""Requests that a server answers in a second, plainly and under the first and the second learn."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from harness import LEARN, PATH, Figure, Section, Words, alternate, require, scratch, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TITLE = "servers"
ROUNDS = 5
GOAL, FIRST = 0.97, 0.9
ENVIRONMENT = {"PATH": PATH, "LC_ALL": "C.UTF-8"}
NGINX = """
daemon off; {user} pid {folder}/pid; error_log {folder}/error.log; worker_processes 2;
events {{ worker_connections 256; }}
http {{ access_log off; server {{ listen 127.0.0.1:{port}; root {folder}/www; }} }}
"""


def redis(folder: Path, port: int) -> Words:
    return ("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder))


def redis_load(port: int) -> float:
    text = said(("redis-benchmark", "-p", str(port), "-n", "60000", "-c", "20", "-t", "get", "--csv"))
    return float(text.splitlines()[-1].split(",")[1].strip('"'))


def nginx(folder: Path, port: int) -> Words:
    (folder / "www").mkdir(exist_ok=True)
    (folder / "www/index.html").write_text("hello\n" * 100)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "conf").write_text(NGINX.format(folder=folder, port=port, user=user))
    return ("nginx", "-e", str(folder / "error.log"), "-c", str(folder / "conf"))


def nginx_load(port: int) -> float:
    found = re.search(r"Requests/sec: +([\d.]+)", said(("wrk", "-t1", "-c20", "-d2s", f"http://127.0.0.1:{port}/index.html")))
    assert found
    return float(found[1])


SERVERS = {"redis": (redis, redis_load), "nginx": (nginx, nginx_load)}


def section() -> Section:
    """The measurements."""
    require("redis-server", "redis-benchmark", "nginx", "wrk")
    rows, figures = [], []
    for name, (command, load) in SERVERS.items():
        with scratch() as folder:
            port = free_port()
            words = command(folder, port)
            learned = (LEARN, "-q", "-o", folder / "b.policy", "--", *words)
            fresh = (LEARN, "-q", "--fresh", "-o", folder / "a.policy", "--", *words)
            for _ in range(2):
                measured(learned, port, load)
            spread = alternate(
                {
                    "native": lambda words=words, port=port, load=load: measured(words, port, load),  # type: ignore[misc]
                    "first learn": lambda words=fresh, port=port, load=load: measured(words, port, load),  # type: ignore[misc]
                    "second learn": lambda words=learned, port=port, load=load: measured(words, port, load),  # type: ignore[misc]
                },
                ROUNDS,
            )
        native, first, second = (one.median for one in spread.values())
        rows.append([name, *(f"{one.median:,.0f} ({one.least:,.0f}-{one.most:,.0f})" for one in spread.values())])
        figures.append(Figure(f"{name}, requests a second: first learn / native", FIRST, first / native, is_floor=True))
        figures.append(Figure(f"{name}, requests a second: second learn / native", GOAL, second / native, is_floor=True))
    header = ("", "native", "first learn", "second learn")
    text = f"Requests a second, median of {ROUNDS} (least-most).\n\n{table(header, rows)}"
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
    return subprocess.run([*words], env=ENVIRONMENT, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    print(section().text)
