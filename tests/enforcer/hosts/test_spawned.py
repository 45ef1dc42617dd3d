"""Hosts are confined for a program that `callfence spawn` starts, too: its helper makes the calls."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from calls import allowing_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Network

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def test_the_helper_makes_the_calls(network: Network, talks: Path, compile_c: Callable[..., Path]) -> None:
    client = compile_c(ROOT / "include" / "callfence-run.c", "-std=c11")
    (network.folder / "it.policy").write_text(allowing_all("tcp connect api.example.org: 8080", "udp send 192.0.2.4: 9000"))
    socket = network.folder / "own"
    socket.mkdir(mode=0o700)
    words = [sys.executable, HERE / "spawned.py", Path(sys.executable).parent / "callfence", client, socket / "socket"]
    for request, is_reached in {
        "tcp api.example.org 8080": True,
        "send sendto 192.0.2.4 9000": True,
        "tcp www.example.org 8080": False,
        "tcp api.example.org 9000": False,
        "send sendto 192.0.2.4 9001": False,
    }.items():
        ran = network.plain(*words, "-p", "it.policy", talks, *request.split())
        assert (b"denied" in ran.stderr) != is_reached, (request, ran)
        assert b"could not" not in ran.stderr
