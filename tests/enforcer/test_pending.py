"""What the helper waits for: listeners, here the read ends of pipes, other descriptors, and calls that are answered later."""

from __future__ import annotations

import os
import resource
import select
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from callfence.enforcer.listener import Descriptors, Request, Waiting, shared
from callfence.enforcer.pending import Pending

if TYPE_CHECKING:
    from collections.abc import Iterator

READY, ENDED = select.POLLIN, select.POLLHUP


@contextmanager
def lowered(limit: int) -> Iterator[None]:
    former = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, former)


@pytest.fixture
def pipes() -> Iterator[list[tuple[int, int]]]:
    made = [os.pipe() for _ in range(4)]
    yield made
    for end in (end for pipe in made for end in pipe):
        try:
            os.close(end)
        except OSError:
            continue


@pytest.mark.parametrize("limit", [None, 1])
def test_what_is_ready_is_returned(pipes, limit):
    """Also where poll(2) fails, since fewer descriptors are permitted than it has to wait for."""
    (listener, to_listener), (other, to_other), (later, to_later), (_, _) = pipes
    waited = Descriptors()
    waited.add_listener(listener)
    waited.add(other)
    with lowered(limit or resource.getrlimit(resource.RLIMIT_NOFILE)[0]):
        assert waited.wait(0) == []
        os.write(to_listener, b"x")
        assert waited.wait(None) == [(listener, READY)]
        os.write(to_other, b"x")
        assert sorted(waited.wait(None)) == sorted([(listener, READY), (other, READY)])
        waited.add_listener(later)
        os.close(to_later)
        os.read(other, 1)
        assert sorted(waited.wait(None)) == sorted([(listener, READY), (later, ENDED)])
        waited.remove(later)
        waited.remove(listener)
        os.write(to_other, b"x")
        assert waited.wait(None) == [(other, READY)]
        waited.remove(other)
        assert waited.wait(0.001) == []
    waited.close()


def test_a_lower_limit_while_it_waits_for_several_loses_nothing(pipes):
    waited = Descriptors()
    for listener, to_listener in pipes:
        waited.add_listener(listener)
        os.write(to_listener, b"x")
    ready = sorted((listener, READY) for listener, _ in pipes)
    assert sorted(waited.wait(0)) == ready
    with lowered(2):
        assert sorted(waited.wait(0)) == ready
    assert sorted(waited.wait(0)) == ready
    waited.close()


def test_what_is_no_longer_waited_for_leaves_its_place() -> None:
    places: set[int] = set()
    pending = Pending(cast("Waiting", places))
    request = cast("Request", SimpleNamespace(is_stopped=False, call=SimpleNamespace(id=7, task=1)))
    pending.add(request, lambda _result: None, 0)
    assert (places, pending.count) == ({7}, 1)
    pending.remove(request)
    assert (places, pending.count) == (set(), 0)


def test_thousands_of_calls_that_wait_are_taken_over() -> None:
    """Of 3,000 calls, 968 waited for ever once the helper was killed."""
    _, waiting = shared()
    for id_ in range(1, 50_001):
        waiting.add(id_)
    for id_ in range(1, 50_001, 2):
        waiting.remove(id_)
    waiting.add(50_001)
    assert sorted(waiting.take_over()) == [*range(2, 50_001, 2), 50_001]
    assert waiting.take_over() == []
