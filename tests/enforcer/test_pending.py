"""What the helper waits for: listeners, here the read ends of pipes, other descriptors, and calls that are answered later; and
the descriptors and moments of a hub."""

from __future__ import annotations

import os
import resource
import select
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from callfence.enforcer import hub as hub_module
from callfence.enforcer.hub import READABLE, WRITABLE, Hub
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


# A hub


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test sets."""
    time = [100.0]
    monkeypatch.setattr(hub_module.time, "monotonic", lambda: time[0])
    return time


def is_ready(hub: Hub) -> bool:
    return bool(select.select([hub.descriptor], [], [], 0)[0])


def test_a_descriptor_is_watched_for_what_was_said_last(pipe: tuple[int, int]) -> None:
    hub, calls = Hub(), list[str]()
    reader, writer = pipe
    hub.watch(reader, READABLE, lambda: calls.append("first"))
    hub.watch(writer, READABLE, lambda: calls.append("never"))
    hub.run()
    assert (calls, is_ready(hub)) == ([], False)
    os.write(writer, b"x")
    hub.watch(reader, READABLE, lambda: calls.append("second"))
    hub.watch(writer, WRITABLE, lambda: calls.append("writable"))
    assert is_ready(hub)
    hub.run()
    assert sorted(calls) == ["second", "writable"]
    assert hub.descriptors() == (hub.descriptor, reader, writer)


def test_what_is_forgotten_is_not_called(pipe: tuple[int, int]) -> None:
    hub, calls = Hub(), list[str]()
    reader, writer = pipe
    os.write(writer, b"x")
    hub.watch(reader, READABLE, lambda: calls.append("forgotten"))
    hub.forget(reader)
    hub.forget(reader)
    assert not is_ready(hub)
    hub.watch(reader, READABLE, lambda: calls.append("again"))
    hub.run()
    assert calls == ["again"]


def test_of_two_that_are_ready_the_first_may_forget_the_other(pipe: tuple[int, int]) -> None:
    hub, calls = Hub(), list[int]()
    reader, writer = pipe
    os.write(writer, b"x")

    def call(own: int, other: int) -> None:
        calls.append(own)
        hub.forget(other)

    hub.watch(reader, READABLE, lambda: call(reader, writer))
    hub.watch(writer, WRITABLE, lambda: call(writer, reader))
    hub.run()
    assert len(calls) == 1


def test_a_descriptor_that_was_closed_before_it_is_forgotten() -> None:
    hub = Hub()
    reader, writer = os.pipe()
    hub.watch(reader, READABLE, lambda: None)
    os.close(reader)
    os.close(writer)
    hub.forget(reader)
    assert hub.descriptors() == (hub.descriptor,)


def test_moments_are_called_once_in_their_order_and_not_before(now: list[float]) -> None:
    hub, calls = Hub(), list[str]()
    hub.after(2, lambda: calls.append("later"))
    hub.after(1, lambda: calls.append("sooner"))
    cancelled = hub.after(1.5, lambda: calls.append("never"))
    hub.cancel(cancelled)
    hub.cancel(cancelled)
    for elapsed, pause, expected in ((0.0, 1.0, []), (1.0, 0.5, ["sooner"]), (2.0, None, ["sooner", "later"])):
        now[0] = 100 + elapsed
        hub.run()
        assert (calls, hub.pause()) == (expected, pause)


def test_what_a_call_makes_due_waits_for_the_next_time(now: list[float]) -> None:
    hub, calls = Hub(), list[str]()

    def again() -> None:
        calls.append("again")
        now[0] += 1
        hub.after(0, again)

    hub.after(0, again)
    hub.run()
    assert (calls, hub.pause()) == (["again"], 0.0)
    hub.run()
    assert calls == ["again", "again"]


def test_no_wait_is_longer_than_the_kernel_takes_or_negative(now: list[float]) -> None:
    hub = Hub()
    assert hub.pause() is None
    hub.after(1e9, lambda: None)
    assert hub.pause() == 86400.0
    hub.after(3, lambda: None)
    now[0] += 5
    assert hub.pause() == 0.0


def test_moments_that_are_cancelled_take_no_memory_without_end() -> None:
    hub, calls = Hub(), list[str]()
    kept = [hub.after(0, lambda: calls.append("kept")) for _ in range(3)]
    for _ in range(1000):
        hub.cancel(hub.after(60, lambda: calls.append("never")))
        assert len(hub._moments) <= 2 * len(kept) + 64
    hub.run(waits=True)
    assert calls == ["kept"] * 3


def test_the_moments_that_are_left_are_called_in_their_order(now: list[float]) -> None:
    hub, calls = Hub(), list[int]()
    numbers = [hub.after(place * 37 % 199, partial(calls.append, place * 37 % 199)) for place in range(199)]
    for number in numbers[:150]:
        hub.cancel(number)
    assert len(hub._moments) < 199
    now[0] += 1000
    hub.run()
    assert calls == sorted(place * 37 % 199 for place in range(150, 199))
