"""The work of a shipper: lines are read, delivered, counted, and their position saved, in this order, for each destination."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Final

from callfence.shared.inputs import print_error
from callfence.shared.text import plural
from callfence.shipping.destinations import Destination, UndeliveredError
from callfence.shipping.metrics import SHIP_BAD, SHIP_DROPPED
from callfence.shipping.receiving import BEGUN, NOTE, Receiver, is_note
from callfence.shipping.records import BadLineError, Record, parsed
from callfence.shipping.sources import Source
from callfence.shipping.state import State
from callfence.shipping.tally import Tally

_POLL: Final = 0.5
"""Seconds between looks at sources that had nothing new."""
_FIRST_DELAY: Final = 1.0
_MAX_DELAY: Final = 30.0
"""Seconds between attempts to deliver: they double."""
_BATCH: Final = 500
"""The most records of a delivery."""
_NAMED: Final = 10
"""How many bad lines of one look are named; further ones are counted."""


class Pipeline:
    """The way of all sources to one destination, with its own positions and counters: no other destination holds it up."""

    def __init__(
        self,
        destination: Destination,
        state: State,
        failures: dict[str, int],
        spool: str,
        make: Callable[[dict[str, Any], Collection[str]], Sequence[Source]],
    ) -> None:
        """`failures`: how many attempts failed, by destination, of all pipelines: each publishes those of the others, too.
        `spool`: the name of the source that has received records, and notes about them.  `make`: makes the sources, from their
        positions by name, but those whose names are given: a pattern has more files later.  Raises UserError or OSError."""
        self._destination = destination
        self._state = state
        self._spool = spool
        saved = state.load(destination.name)
        self._make = make
        self._failures = failures
        self.positions: dict[str, Any] = {}
        """The positions that are saved."""
        self._tally = Tally(time.time())
        if saved is None:
            self._sources = [*make({}, ())]
            failures[destination.name] = 0
        else:
            try:
                self._tally = Tally.from_json(saved["tally"])
                self.positions = saved["positions"]
                self._sources = [*make(self.positions, ())]
                failures[destination.name] = int(saved["failures"])
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                raise state.damaged(destination.name, error) from error
        self._failing: dict[str, str] = {}
        """What fails now, and why."""
        self._published = 0.0
        self.is_behind = False
        """Whether something could not be delivered before the end."""
        self.error: BaseException | None = None
        """What ended `run`, if it was not meant to end."""
        if not saved:
            now = self._state_now()
            state.save(destination.name, now)
            self.positions = now["positions"]

    def run(self, stop: threading.Event, every: float) -> None:
        """Deliver what the sources have until `stop` is set, and then what they have at that time.  Publish the metrics each
        `every` seconds and at the end."""
        try:
            is_last, lines = False, list[Record | bytes | BadLineError]()
            while not is_last or lines:
                is_last = stop.is_set()
                lines = self._read()
                if lines and not self._handle(lines, stop):
                    self.is_behind = True  # and the metrics may count more than the state has
                    return
                if time.monotonic() >= self._published + every:
                    self._publish()
                if not lines:
                    stop.wait(min(_POLL, every))
            self._publish()
        except BaseException as error:
            self.error = error

    def close(self) -> None:
        """Release what is open."""
        for source in self._sources:
            source.close()
        self._destination.close()

    def _read(self) -> list[Record | bytes | BadLineError]:
        """Return what the next lines of all sources are: records, notes of the shipper, or neither."""
        found: list[Record | bytes | BadLineError] = []
        self._sources += self._make(self.positions, [source.name for source in self._sources])
        for source in self._sources:
            is_spool = source.name == self._spool
            try:
                lines = source.read()
            except OSError as error:
                self._fail(source.name, str(error.strerror))
                continue
            self._succeed(source.name)
            for line in lines:
                if is_spool and is_note(line.text):
                    found.append(line.text[len(NOTE) :])
                    continue
                try:
                    found.append(parsed(line.text, line.where, is_received=is_spool))
                except BadLineError as error:
                    found.append(error)
        return found

    def _handle(self, lines: Sequence[Record | bytes | BadLineError], stop: threading.Event) -> bool:
        """Deliver records, count all, and save the positions after them.  Return False if that is given up at the end."""
        bad = [line for line in lines if isinstance(line, BadLineError)]
        for error in bad[:_NAMED]:
            print_error(f"callfence ship: {error}")
        if len(bad) > _NAMED:
            print_error(f"callfence ship: and {plural(len(bad) - _NAMED, 'further line')} near there")
        records = [line for line in lines if isinstance(line, Record)]
        refused = 0
        for first in range(0, len(records), _BATCH):
            batch = records[first : first + _BATCH]
            answer = self._repeated(self._destination.title, partial(self._destination.deliver, batch), stop)
            if answer is None:
                return False
            refused += answer
        for line in lines:
            self._count(line)
        self._tally.add(SHIP_DROPPED, "refused by the collector", by=refused)
        return self._repeated("the state", self._save, stop) is not None

    def _count(self, line: Record | bytes | BadLineError) -> None:
        if isinstance(line, Record):
            self._tally.fold(line)
        elif isinstance(line, BadLineError):
            self._tally.add(SHIP_BAD)
        elif line == BEGUN.encode():
            self._tally.cut()
        else:
            _, count, reason = line.decode(errors="replace").split(" ", 2)
            self._tally.add(SHIP_DROPPED, reason, by=int(count))

    def _state_now(self) -> dict[str, Any]:
        positions = {**self.positions, **{source.name: source.position() for source in self._sources}}
        failures = self._failures[self._destination.name]
        return {"positions": positions, "failures": failures, "tally": self._tally.to_json()}

    def _save(self) -> int:
        state = self._state_now()
        try:
            self._state.save(self._destination.name, state)
        except OSError as error:
            raise UndeliveredError(f"it cannot be saved: {error.strerror}") from error
        self.positions = state["positions"]
        return 0

    def _publish(self) -> None:
        """Publish the metrics; if that fails, the next time has the same and more."""
        self._published = time.monotonic()
        try:
            self._destination.publish(self._tally.samples(time.time(), self._failures.copy()))
        except UndeliveredError as error:
            self._fail(f"the metrics in {self._destination.title}", str(error))
        else:
            self._succeed(f"the metrics in {self._destination.title}")

    def _repeated(self, what: str, attempt: Callable[[], int], stop: threading.Event) -> int | None:
        """Call `attempt` until it succeeds, and return its result; None if it fails after `stop` was set."""
        delay = _FIRST_DELAY
        while True:
            is_last = stop.is_set()
            try:
                result = attempt()
            except UndeliveredError as error:
                self._fail(what, str(error))
            else:
                self._succeed(what)
                return result
            if is_last:
                return None
            stop.wait(delay)
            delay = min(2 * delay, _MAX_DELAY)

    def _fail(self, what: str, why: str) -> None:
        """Count a failure, and print it unless that was its reason before."""
        self._failures[self._destination.name] += 1
        if self._failing.get(what) != why:
            print_error(f"callfence ship: {what}: {why}; trying again")
        self._failing[what] = why

    def _succeed(self, what: str) -> None:
        if self._failing.pop(what, ""):
            print_error(f"callfence ship: {what}: works again")


def run(pipelines: Sequence[Pipeline], receiver: Receiver, every: float, *, is_once: bool) -> int:
    """Run all pipelines, each in a thread, and the receiver in this one, until SIGTERM or SIGINT; with `is_once`, until the
    sources have nothing more.  Return 0, or 1 if something remains to be delivered.  Raises what ended a pipeline."""
    asked, stop = threading.Event(), threading.Event()
    wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake[1], warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    receiver.watch(wake[0])
    threads = [threading.Thread(target=pipeline.run, args=(stop, every)) for pipeline in pipelines]
    for thread in threads:
        thread.start()
    try:
        while not asked.is_set() and all(thread.is_alive() for thread in threads) and not (is_once and receiver.has_ended):
            receiver.step(_POLL)
        receiver.close()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for pipeline in pipelines:
        pipeline.close()
    for error in (pipeline.error for pipeline in pipelines if pipeline.error):
        raise error
    return int(any(pipeline.is_behind for pipeline in pipelines))
