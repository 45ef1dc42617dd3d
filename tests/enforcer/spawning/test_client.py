"""A client of `callfence spawn` that cannot confine itself does not become the program."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from callfence.enforcer.errors import EnforceError, KernelError
from callfence.enforcer.spawning import client


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """The programs that the client has executed; who listens traces it, and asks it to enter a Landlock ruleset."""
    programs: list[bytes] = []
    traced, rulesets = iter((False, True)), [(os.open("/", os.O_RDONLY), 0, b"")]

    def execute(command: object, *_: object) -> int:
        programs.append(bytes(command[0]))  # type: ignore[index]
        return errno.ENOENT

    monkeypatch.setattr(client, "_is_traced", lambda: next(traced))
    monkeypatch.setattr(client, "connected", lambda _: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(client, "send", lambda *_: None)
    monkeypatch.setattr(client, "answer", lambda _: (b"/bin/true\0", rulesets, 0))
    monkeypatch.setattr(client.execution, "restore_signals", lambda: None)
    monkeypatch.setattr(client.execution, "execute", execute)
    for name in ("set_no_new_privs", "landlock_enter"):
        monkeypatch.setattr(client.kernel, name, lambda *_: None)
    yield programs
    if not programs:  # else the client has closed it
        os.close(rulesets[0][0])


def test_it_executes_the_program_when_it_is_confined(executed: list[bytes]) -> None:
    with pytest.raises(EnforceError, match="not found"):  # so it was tried
        client.become("socket", [b"true"], [])
    assert executed == [b"true"]


@pytest.mark.parametrize("name", ["set_no_new_privs", "landlock_enter"])
def test_it_executes_nothing_if_the_kernel_refuses(
    executed: list[bytes], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refuses(*_: object) -> None:
        raise OSError(errno.E2BIG, "too many", name)

    monkeypatch.setattr(client.kernel, name, refuses)
    with pytest.raises(KernelError, match="too many"):
        client.become("socket", [b"true"], [])
    assert executed == []


def test_it_executes_nothing_for_who_does_not_trace_it(executed: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_is_traced", lambda: False)
    with pytest.raises(EnforceError, match="does not trace this process"):
        client.become("socket", [b"true"], [])
    assert executed == []
