"""Ports that `learn` finds out without a connection."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from needed import require

from callfence.learning.ports import PortWatcher, open_connections

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Commands

SOURCE = Path(__file__).parent / "programs" / "asks.c"


@pytest.mark.parametrize("call", ["sendto", "sendmsg", "sendmmsg"])
def test_who_asks_name_servers_by_udp_may_ask_by_tcp(
    call: str, compile_c: Callable[..., Path], commands: Commands, tmp_path: Path
) -> None:
    require("gcc", "libc6-dev")
    policy = tmp_path / "it.policy"
    ran = commands.learn(policy, [compile_c(SOURCE), call], tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "tcp connect: 53\ntcp bind: none\n" in policy.read_text()


def test_the_sockets_that_a_process_has_open_are_uses_of_ports() -> None:
    """Not those with which its clients are connected."""
    watcher = PortWatcher(lambda executable: f"renamed {executable}", print)
    assert watcher.uses() == (("tcp bind", "none", ""), ("tcp connect", "none", ""))
    with socket.socket() as server, socket.socket() as other:
        server.bind(("127.0.0.1", 0))
        server.listen()
        served = server.getsockname()[1]
        child = subprocess.Popen([sys.executable, "-c", CONNECTS, str(served)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdin and child.stdout
        with child, server.accept()[0] as client:
            theirs = client.getpeername()[1]
            low = int(child.stdout.readline())
            other.connect(("127.0.0.1", low))
            assert {*open_connections(os.getpid())} >= {("connect", b"\x7f\0\0\1", low)}
            assert {*open_connections(child.pid)} == {
                ("connect", b"\x7f\0\0\1", served), ("send", b"\x7f\0\0\1", 9), ("send", bytes(15) + b"\1", 9),
            }  # fmt: skip
            watcher.open_already({os.getpid(): "/bin/app", child.pid: "/bin/child", 1 << 22: "/bin/gone"})
            child.stdin.close()
    uses = watcher.uses()
    assert {use for use in uses if use[2] == "renamed /bin/child"} == {
        ("tcp connect", str(served), "renamed /bin/child"), ("tcp bind", str(low), "renamed /bin/child"),
    }  # fmt: skip
    own = {(use, port) for use, port, executable in uses if executable == "renamed /bin/app"}
    assert own >= {("tcp bind", str(served)), ("tcp bind", "0"), ("tcp connect", str(low))}
    assert not own & {("tcp connect", str(theirs)), ("tcp connect", str(served))}


CONNECTS = """
import socket, sys
made = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
server = socket.socket()
for port in range(20_000, 30_000):
    try:
        server.bind(("127.0.0.1", port))
        break
    except OSError:
        continue
server.listen()
udp, udp6 = socket.socket(type=socket.SOCK_DGRAM), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.connect(("127.0.0.1", 9))
udp6.connect(("::1", 9))
to_no_port = socket.socket(type=socket.SOCK_DGRAM)
to_no_port.connect(("127.0.0.1", 0))
print(port, flush=True)
sys.stdin.read()
"""
