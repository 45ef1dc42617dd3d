"""Ports that `learn` finds out without a connection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from needed import require

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
