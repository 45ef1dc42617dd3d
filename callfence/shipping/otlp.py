"""OpenTelemetry as a destination: records become log records, by OTLP over HTTP.  Imported only if used: it takes 0.5 s."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, Final

import requests
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics import export as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from callfence.policygen.recording.log_records import ANSWERED, DENIED, END, MESSAGE, REFUSED, START
from callfence.shared.inputs import print_error
from callfence.shipping.destinations import UndeliveredError, clean
from callfence.shipping.metrics import Sample
from callfence.shipping.records import Record
from callfence.start import __version__

TIMEOUT: Final = 10.0
"""Seconds for one delivery, with the SDK's own attempts, and for the content of its answer."""
_MAX_ANSWER: Final = 1 << 20
"""The most bytes of an answer that are read: it may have no end."""
_SHOWN: Final = 200
"""The most characters of an answer that are printed."""
_REFUSED: Final = (400, 413, 422)
"""Answers that are about the records, and not about the collector or the way to it: fewer of them may be taken."""
_SCOPE: Final = InstrumentationScope("callfence", __version__)
_SEVERITIES: Final = {
    START: SeverityNumber.INFO, DENIED: SeverityNumber.WARN, ANSWERED: SeverityNumber.INFO2, MESSAGE: SeverityNumber.INFO,
    REFUSED: SeverityNumber.ERROR, END: SeverityNumber.INFO,
}  # fmt: skip
_SEMANTIC: Final = {
    "pid": "process.pid",
    "parent": "process.parent_pid",
    "executable": "process.executable.path",
    "command": "process.command_args",
    "folder": "process.working_directory",
}
"""The fields for which the semantic conventions have an attribute; the others are `callfence.NAME`."""
_OF_RESOURCE: Final = ("version", "event", "time", "host", "container", "pod", "image")
"""Fields that are elsewhere in the log record, or in its resource."""


class Collector:
    """A receiver of OTLP over HTTP, such as OpenTelemetry's collector."""

    name = "otlp"

    def __init__(self, endpoint: str) -> None:
        """`endpoint`: the URL without `/v1/logs`.  Headers and certificates are those of the variables OTEL_EXPORTER_OTLP_*."""
        self.title = endpoint
        logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
        logging.getLogger("opentelemetry").propagate = False  # what fails is reported here
        self._answer: requests.Response | None = None
        session = requests.Session()
        session.hooks["response"].append(self._note)
        base = endpoint.rstrip("/")
        self._logs = OTLPLogExporter(f"{base}/v1/logs", timeout=TIMEOUT, session=session, max_request_size=0)
        self._metrics = OTLPMetricExporter(f"{base}/v1/metrics", timeout=TIMEOUT, session=session)

    def deliver(self, records: Sequence[Record]) -> int:
        """Send records; halve what the collector refuses until it is a single record, which is dropped."""
        self._answer = None
        self._logs.export([_log_record(record) for record in records])
        if self._status() in _REFUSED:
            if len(records) > 1:
                middle = len(records) // 2
                return self.deliver(records[:middle]) + self.deliver(records[middle:])
            print_error(f"callfence ship: {records[0].where}: dropped, since {self.title} refuses it: {self._reason()}")
            return 1
        self._require_success()
        return self._rejected(len(records))

    def publish(self, samples: Iterable[Sample]) -> None:
        """Send all values, cumulative since the counters began."""
        self._answer = None
        values = [*samples]
        since = next(int(sample.value * 1e9) for sample in values if sample.metric.base == "ship_since_timestamp")
        now = time.time_ns()
        metrics = []
        for metric, group in groupby(values, lambda sample: sample.metric):
            labelled = [(dict(zip(metric.labels, map(clean, sample.labels), strict=True)), sample.value) for sample in group]
            points = [sdk.NumberDataPoint(labels, since, now, value) for labels, value in labelled]
            data = sdk.Sum(points, sdk.AggregationTemporality.CUMULATIVE, True) if metric.is_counter else sdk.Gauge(points)
            metrics.append(sdk.Metric(metric.otlp_name, metric.help, metric.unit, data))
        scope = sdk.ScopeMetrics(_SCOPE, metrics, "")
        self._metrics.export(sdk.MetricsData([sdk.ResourceMetrics(_resource(("service.name", "callfence-ship")), [scope], "")]))
        self._require_success()

    def close(self) -> None:
        """Close the connections."""
        self._logs.shutdown()  # type: ignore[no-untyped-call]
        self._metrics.shutdown()

    def _note(self, answer: requests.Response, *_: Any, **__: Any) -> None:
        """Keep an answer, of its content the beginning: `requests` would read all of it, however long that takes."""
        self._answer = answer
        content, end = bytearray(), time.monotonic() + TIMEOUT
        for byte in answer.iter_content(1):  # more at a time would wait for them
            content += byte
            if len(content) >= _MAX_ANSWER or time.monotonic() > end:
                break
        answer._content = bytes(content)
        answer.close()

    def _status(self) -> int:
        return 0 if self._answer is None else self._answer.status_code

    def _reason(self) -> str:
        if self._answer is None:
            return "no connection, or no answer in time"
        return f"{self._answer.status_code} {self._answer.reason} {self._answer.text[:_SHOWN]}".strip()

    def _require_success(self) -> None:
        """Raise UndeliveredError unless the last answer is one of success: the exporter takes a redirection for one."""
        if self._status() // 100 != 2:
            raise UndeliveredError(self._reason())

    def _rejected(self, sent: int) -> int:
        """Return how many records the collector says that it does not take, of those `sent` with the last request."""
        assert self._answer is not None
        try:
            partial = ExportLogsServiceResponse.FromString(self._answer.content).partial_success
        except Exception:  # not OTLP's: what answers may be any server
            return 0
        rejected = min(max(int(partial.rejected_log_records), 0), sent)
        if rejected:
            print_error(f"callfence ship: {self.title} rejects {rejected} records: {partial.error_message[:_SHOWN]}")
        return rejected


def _log_record(record: Record) -> ReadableLogRecord:
    fields = record.fields
    is_warning = fields.get("level") == "warning"
    severity = SeverityNumber.WARN if is_warning else _SEVERITIES[record.event]
    log_record = LogRecord(
        timestamp=round(record.time * 1000) * 1_000_000,
        observed_timestamp=time.time_ns(),
        severity_text=severity.name,
        severity_number=severity,
        body=clean(_body(fields)),
        attributes=attributes(record),
        event_name=f"callfence.{record.event}",
    )
    return ReadableLogRecord(log_record, _resource(*_identity(fields)), _SCOPE)


def attributes(record: Record) -> dict[str, Any]:
    """Return the attributes of a log record: scalars, and lists of texts."""
    found: dict[str, Any] = {"log.record.uid": clean(record.uid)} if record.uid else {}
    for name, value in record.fields.items():
        if name in _OF_RESOURCE or value is None:
            continue
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            for member in dict.fromkeys(key for item in value for key in item):
                found[f"callfence.{clean(name)}.{clean(member)}"] = [_text(item.get(member)) for item in value]
        elif isinstance(value, list):
            found[_SEMANTIC.get(name, f"callfence.{clean(name)}")] = [*map(_text, value)]
        elif isinstance(value, bool) or (isinstance(value, int) and -_INT64 <= value < _INT64):
            found[_SEMANTIC.get(name, f"callfence.{clean(name)}")] = value
        else:
            found[_SEMANTIC.get(name, f"callfence.{clean(name)}")] = _text(value)
    return found


_INT64: Final = 1 << 63


def _text(value: Any) -> str:
    """Return a value as text; of a risk, its level."""
    if isinstance(value, dict):
        value = value.get("level")
    return clean("" if value is None else str(value))


def _body(fields: Mapping[str, Any]) -> str:
    """Return the text that `journalctl` shows, too."""
    command = fields.get("command")
    words = " ".join(map(str, command)) if isinstance(command, list) else ""
    what = fields.get("message") or fields.get("call") or ", ".join(fields.get("ungranted", ()))
    return f"{fields['event']}: {what or words}"


def _identity(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the attributes of the resource that a record is about."""
    unit, image = str(fields.get("unit") or ""), str(fields.get("image") or "")
    pod = fields.get("pod") if isinstance(fields.get("pod"), dict) else {}
    assert pod is not None
    named = {
        "service.name": unit.removesuffix(".service") if unit.endswith(".service") else "unknown_service",
        "host.name": fields["host"],
        "container.id": fields.get("container"),
        "container.image.repo_digests" if "@" in image else "container.image.id": image,
        "k8s.pod.name": pod.get("name"),
        "k8s.namespace.name": pod.get("namespace"),
        "k8s.pod.uid": pod.get("uid"),
    }
    return [(name, clean(str(value))) for name, value in named.items() if value]


@lru_cache(1024)
def _resource(*pairs: tuple[str, str]) -> Resource:
    """Return a resource: the same one for the same attributes, which a request then has once."""
    return Resource({name: (value,) if name == "container.image.repo_digests" else value for name, value in pairs})
