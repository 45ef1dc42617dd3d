"""Calls that are answered later."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from callfence.enforcer.listener import Request, Waiting
from callfence.enforcer.pending import Pending


def test_what_is_no_longer_waited_for_leaves_its_place() -> None:
    places: set[int] = set()
    pending = Pending(cast("Waiting", places))
    request = cast("Request", SimpleNamespace(listener=0, call=SimpleNamespace(id=7, task=1)))
    pending.add(request, lambda _result: None, 0)
    assert (places, pending.count) == ({7}, 1)
    pending.remove(request)
    assert (places, pending.count) == (set(), 0)
