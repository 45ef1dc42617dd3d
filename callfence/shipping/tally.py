"""The values of the metrics, folded from records."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from typing import Any, Final

from callfence.policygen.recording.log_records import ANSWERED, DENIED, END, MESSAGE, REFUSED, START
from callfence.shipping import metrics
from callfence.shipping.metrics import Metric, Sample
from callfence.shipping.records import Record

SERIES: Final = 1000
"""The most label sets of a metric; of further ones, the labels that can have any value are `other`."""
RULES: Final = 200
"""The most rules of one policy of one service; further ones are `other`, so no program takes the room of all others."""
RUNS: Final = 10_000
"""The most runs, and KINDS the most kinds of denials, that are followed at a time.  The run whose last record is the oldest is
forgotten then: the next count of each of its denials is added in full."""
KINDS: Final = 100_000
_MAX_LABEL: Final = 256
"""The most characters of a label: records are not ours."""
OTHER: Final = "other"
UNDESCRIBED: Final = "not described"
"""The rule of denials that only the end of a run counts."""
_OPEN: Final = {"service", "policy", "rule"}
"""The labels that can have any value."""


class Tally:
    """The values of all metrics, and what is remembered of runs that have not ended."""

    def __init__(self, since: float) -> None:
        """`since`: when the counters begin, in seconds since 1970."""
        self.since = since
        self._counts: dict[tuple[str, tuple[str, ...]], int] = {}
        """By the metric's base and label values."""
        self._sizes: dict[tuple[str, ...], int] = {}
        """How many label sets there are, by metric, and by metric and labels but the rule."""
        self._policies: dict[str, tuple[str, float]] = {}
        """The digest of a file, and when it was first seen with it; the newest start last."""
        self._audited: dict[str, float] = {}
        self._last = 0.0
        self._runs: dict[str, _Run] = {}
        """The runs that have not ended; that with the newest record last."""
        self._kinds = 0

    def add(self, metric: Metric, *labels: str, by: int = 1) -> None:
        """Add to a counter."""
        if not by:
            return
        key = (metric.base, tuple(label[:_MAX_LABEL] for label in labels))
        if key not in self._counts and labels:
            key = (metric.base, self._bounded(metric, key[1]))
        if key not in self._counts:
            for group in _groups(metric, key[1]):
                self._sizes[group] = self._sizes.get(group, 0) + 1
        self._counts[key] = self._counts.get(key, 0) + by

    def value(self, metric: Metric, *labels: str) -> int:
        """Return the value of a counter."""
        return self._counts.get((metric.base, labels), 0)

    def fold(self, record: Record) -> None:
        """Count a record."""
        fields, event, service = record.fields, record.event, record.service
        self.add(metrics.SHIP_RECORDS, event)
        self._last = max(self._last, record.time)
        run = self._run(record)
        if event == START:
            run.mode = fields["mode"]
            self.add(metrics.STARTS, service, run.mode)
            self._use(record)
        elif event == DENIED:
            run.mode = "audit" if fields["verdict"] == "audited" else "enforce"
            self._deny(record, run)
        elif event == ANSWERED:
            self.add(metrics.ANSWERS, service, fields["answer"])
        elif event == MESSAGE and fields["level"] == "warning":
            self.add(metrics.WARNINGS, service)
        elif event == REFUSED:
            self.add(metrics.REFUSALS, service, str(fields["status"]))
            self._drop(record.run)
        elif event == END:
            if fields["complete"]:
                rest = fields["denied"] - run.denied
                self.add(metrics.DENIALS, service, record.policy, UNDESCRIBED, _mode(run.mode), by=max(rest, 0))
            self.add(metrics.LOST, service, by=max(fields["lost"] - run.gaps, 0))
            self.add(metrics.ENDS, service, _ending(fields))
            self._drop(record.run)

    def cut(self) -> None:
        """Count the runs whose connection has ended with the previous shipper, and forget them."""
        cut = [name for name, run in self._runs.items() if run.is_received]
        for name in cut:
            self._drop(name)
        self.add(metrics.SHIP_CUT, by=len(cut))

    def samples(self, now: float, failures: Mapping[str, int]) -> Iterator[Sample]:
        """Return all values, in the order of the table.  `failures`: how many attempts failed for each destination."""
        fixed: dict[Metric, dict[tuple[str, ...], float]] = {metrics.SHIP_SINCE: {(): self.since}}
        fixed[metrics.SHIP_WRITTEN] = {(): now}
        fixed[metrics.SHIP_FAILURES] = {(name,): count for name, count in failures.items()}
        fixed[metrics.POLICY] = {(policy, digest): 1.0 for policy, (digest, _) in self._policies.items()}
        fixed[metrics.POLICY_SINCE] = {(policy,): since for policy, (_, since) in self._policies.items()}
        fixed[metrics.AUDIT_SINCE] = {(service,): since for service, since in self._audited.items()}
        fixed[metrics.LAST_EVENT] = {(): self._last} if self._last else {}
        counts: dict[str, dict[tuple[str, ...], float]] = {metric.base: {} for metric in metrics.METRICS}
        for (base, labels), count in self._counts.items():
            counts[base][labels] = count
        for metric in metrics.METRICS:
            values = fixed.get(metric, counts[metric.base])
            if metric.is_counter and not metric.labels:
                values.setdefault((), 0)
            for labels in sorted(values):
                yield Sample(metric, labels, values[labels])

    def _run(self, record: Record) -> _Run:
        """Return the run of a record, having counted the records that are missing before it."""
        run = self._runs.pop(record.run, None)
        if run is None:
            run = _Run(is_received=record.is_received)
        elif record.sequence > run.last + 1 and run.last:
            missing = record.sequence - run.last - 1
            run.gaps += missing
            self.add(metrics.LOST, record.service, by=missing)
        run.last = record.sequence
        self._runs[record.run] = run
        while len(self._runs) > RUNS or (self._kinds > KINDS and len(self._runs) > 1):
            self._drop(next(iter(self._runs)))
            self.add(metrics.SHIP_FORGOTTEN)
        return run

    def _drop(self, name: str) -> None:
        if run := self._runs.pop(name, None):
            self._kinds -= len(run.counts)

    def _deny(self, record: Record, run: _Run) -> None:
        kind, count = record.kind, record.fields["count"]
        before = run.counts.get(kind, 0)
        self._kinds += kind not in run.counts
        run.counts[kind] = count
        further = count - before if count > before else count  # a helper that takes over counts anew
        run.denied += further
        self.add(metrics.DENIALS, record.service, record.policy, record.rule, _mode(run.mode), by=further)

    def _use(self, record: Record) -> None:
        """Note the policies and the mode of a start."""
        for name, content in record.policies.items():
            policy, digest = name[:_MAX_LABEL], content[:_MAX_LABEL]
            previous = self._policies.pop(policy, ("", 0.0))
            self._policies[policy] = previous if previous[0] == digest else (digest, record.time)
        while len(self._policies) > SERIES:
            del self._policies[next(iter(self._policies))]
        if service := record.service:
            if record.fields["mode"] != "audit":
                self._audited.pop(service[:_MAX_LABEL], None)
            elif len(self._audited) < SERIES:
                self._audited.setdefault(service[:_MAX_LABEL], record.time)

    def _bounded(self, metric: Metric, labels: tuple[str, ...]) -> tuple[str, ...]:
        """Return the labels of a new set, bounded as SERIES and RULES say."""
        named = dict(zip(metric.labels, labels, strict=True))
        if self._sizes.get((metric.base,), 0) >= SERIES:
            named |= dict.fromkeys(_OPEN & named.keys(), OTHER)
        elif "rule" in named and self._sizes.get(_groups(metric, labels)[1], 0) >= RULES:
            named["rule"] = OTHER
        return tuple(named.values())

    def to_json(self) -> dict[str, Any]:
        """Return all that `from_json` takes."""
        return {
            "since": self.since,
            "counts": [[base, list(labels), count] for (base, labels), count in self._counts.items()],
            "policies": self._policies,
            "audited": self._audited,
            "last": self._last,
            "runs": {name: run.to_json() for name, run in self._runs.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Tally:
        """Return the values that were saved."""
        tally = cls(data["since"])
        for base, labels, count in data["counts"]:
            if metric := metrics.BY_BASE.get(base):
                tally.add(metric, *labels, by=count)
        tally._policies = {policy: (digest, since) for policy, (digest, since) in data["policies"].items()}
        tally._audited, tally._last = dict(data["audited"]), data["last"]
        tally._runs = {name: _Run(**run) for name, run in data["runs"].items()}
        tally._kinds = sum(len(run.counts) for run in tally._runs.values())
        return tally


class _Run:
    """What is remembered of a run until its end."""

    __slots__ = ("counts", "denied", "gaps", "is_received", "last", "mode")

    def __init__(
        self,
        last: int = 0,
        gaps: int = 0,
        denied: int = 0,
        mode: str = "enforce",
        counts: Mapping[str, int] | None = None,
        *,
        is_received: bool = False,
    ) -> None:
        self.last = last
        """The number of its last record; 0 if its records have none."""
        self.gaps = gaps
        """How many records are missing so far."""
        self.denied = denied
        """How many denials were counted."""
        self.mode = mode
        self.counts = dict(counts or {})
        """The count of each kind of denial so far."""
        self.is_received = is_received

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def _ending(fields: Mapping[str, Any]) -> str:
    """Return the exit status or the signal in the record of an end, which are not many; `unknown` for anything else."""
    status, name = fields.get("status"), fields.get("signal")
    if isinstance(name, str) and (name in signal.Signals.__members__ or name.startswith("SIGRT")):
        return name[: len("SIGRTMIN")] if name.startswith("SIGRT") else name
    return str(status) if type(status) is int and status in range(256) else "unknown"


def _mode(mode: str) -> str:
    return "audit" if mode == "audit" else "enforced"


def _groups(metric: Metric, labels: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the keys of `Tally._sizes` to which a label set belongs."""
    groups: list[tuple[str, ...]] = [(metric.base,)]
    if "rule" in metric.labels:
        groups.append((metric.base, *(value for name, value in zip(metric.labels, labels, strict=True) if name != "rule")))
    return groups
