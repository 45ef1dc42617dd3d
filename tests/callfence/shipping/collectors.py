"""A receiver of OTLP over HTTP, which decodes the official messages, and can fail as one does."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue


class Log:
    """A log record that was received."""

    def __init__(self, record: Any, resource: Any) -> None:
        self.body = record.body.string_value
        self.event_name = record.event_name
        self.time = record.time_unix_nano
        self.severity = record.severity_number
        self.attributes = named(record.attributes)
        self.resource = named(resource.attributes)

    @property
    def uid(self) -> str:
        return str(self.attributes["log.record.uid"])


class Receiver:
    """A server on a free port of the loopback interface."""

    def __init__(self, port: int = 0) -> None:
        self.logs: list[Log] = []
        self.metrics: dict[tuple[str, tuple[tuple[str, Any], ...]], float] = {}
        """The last value of each series: by name and attributes."""
        self.starts: set[int] = set()
        """The start times of the sums."""
        self.status = 200
        self.refused = ""
        """A word: a request with a record that has it is answered with `refusal`."""
        self.refusal = 400
        self.rejected = 0
        """How many records the next answer says to be rejected."""
        self.reason = "too old"
        self.endless = 0.0
        """Seconds between the bytes of an answer that has no end; less than 0: none; 0: answers have one."""
        self.requests = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(length := int(self.headers["Content-Length"]))
                if len(data) < length:  # the shipper was killed
                    return
                status, answer = receiver.answer(self.path, data)
                with suppress(ConnectionError):
                    self.send_response(status)
                    if receiver.endless:
                        self.end_headers()
                        while receiver.endless:
                            self.wfile.write(b"x" if receiver.endless > 0 else bytes(1 << 20))
                            time.sleep(max(receiver.endless, 0))
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.endless = 0
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def answer(self, path: str, data: bytes) -> tuple[int, bytes]:
        self.requests += 1
        if self.status != 200:
            return self.status, b""
        if path == "/v1/metrics":
            self.take_metrics(ExportMetricsServiceRequest.FromString(data))
            return 200, ExportMetricsServiceResponse().SerializeToString()
        assert path == "/v1/logs"
        if self.refused and self.refused.encode() in data:
            return self.refusal, b"a record is not to my taste"
        for resource in ExportLogsServiceRequest.FromString(data).resource_logs:
            for scope in resource.scope_logs:
                self.logs += [Log(record, resource.resource) for record in scope.log_records]
        answer = ExportLogsServiceResponse()
        if self.rejected:
            answer.partial_success.rejected_log_records, self.rejected = self.rejected, 0
            answer.partial_success.error_message = self.reason
        return 200, answer.SerializeToString()

    def take_metrics(self, request: ExportMetricsServiceRequest) -> None:
        for resource in request.resource_metrics:
            assert named(resource.resource.attributes)["service.name"] == "callfence-ship"
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                for point in (metric.sum if metric.HasField("sum") else metric.gauge).data_points:
                    key = metric.name, tuple(named(point.attributes).items())
                    self.metrics[key] = point.as_double or point.as_int
                    if metric.HasField("sum"):
                        assert (metric.sum.is_monotonic, metric.sum.aggregation_temporality) == (True, 2)
                        self.starts.add(point.start_time_unix_nano)

    def total(self, name: str) -> float:
        return sum(value for (metric, _), value in list(self.metrics.items()) if metric == name)


def named(attributes: Any) -> dict[str, Any]:
    return dict(pairs(attributes))


def pairs(attributes: Iterator[KeyValue]) -> Iterator[tuple[str, Any]]:
    for attribute in attributes:
        yield attribute.key, value_of(attribute.value)


def value_of(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return [*map(value_of, value.array_value.values)] if kind == "array_value" else getattr(value, kind)
