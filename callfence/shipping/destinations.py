"""What a destination is, and the one for Prometheus: a text file that node_exporter's textfile collector reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Protocol

from callfence.policygen.recording import atomic
from callfence.shipping.metrics import Sample
from callfence.shipping.records import Record
from callfence.shipping.state import remove_leftovers
from callfence.tracer.errors import UserError


class UndeliveredError(Exception):
    """A destination does not take what it was given, now.  The text says why."""


class Destination(Protocol):
    """Where records and metrics go."""

    name: str
    """That of its state."""
    title: str
    """That in messages."""

    def deliver(self, records: Sequence[Record]) -> int:
        """Send records; return how many of them the destination has refused for good.  Raises UndeliveredError if it has to be
        tried again: then it may have some of them already."""

    def publish(self, samples: Iterable[Sample]) -> None:
        """Send the values of all metrics.  Raises UndeliveredError."""

    def close(self) -> None:
        """Release what is open."""


class TextFile:
    """A file in Prometheus' text format
    (https://prometheus.io/docs/instrumenting/exposition_formats), which is replaced as a whole."""

    name = "prometheus"

    def __init__(self, path: Path) -> None:
        """Raises UserError unless the name ends in `.prom`, as the collector requires; OSError if it cannot be written."""
        if path.suffix != ".prom":
            raise UserError(f"--prometheus {path}: the textfile collector reads only names that end in .prom")
        self.title = str(path)
        self._path = path
        atomic.check_writable(path)
        remove_leftovers(path)

    def deliver(self, records: Sequence[Record]) -> int:
        """Do nothing: the metrics have all that is written."""
        return 0

    def publish(self, samples: Iterable[Sample]) -> None:
        """Replace the file."""
        text = "".join(f"{line}\n" for line in _lines(samples))
        try:
            atomic.write(self._path, text.encode())
        except OSError as error:
            raise UndeliveredError(error.strerror) from error

    def close(self) -> None:
        """Do nothing: no file stays open."""


def _lines(samples: Iterable[Sample]) -> Iterator[str]:
    for metric, values in groupby(samples, lambda sample: sample.metric):
        yield f"# HELP {metric.name} {metric.help}"
        yield f"# TYPE {metric.name} {'counter' if metric.is_counter else 'gauge'}"
        for sample in values:
            labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(metric.labels, sample.labels, strict=True))
            yield f"{metric.name}{f'{{{labels}}}' if labels else ''} {sample.value!r}"


def clean(text: str) -> str:
    """Return a text without surrogates, which stand for bytes that are not UTF-8, and which no destination takes."""
    return text.encode(errors="backslashreplace").decode()


def _escaped(value: str) -> str:
    return clean(value).replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
