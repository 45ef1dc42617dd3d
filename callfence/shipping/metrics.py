"""The metrics: one table, which both destinations and docs/telemetry.md have."""

from __future__ import annotations

from typing import Final

from callfence.tracer.named import NamedTuple


class Metric(NamedTuple):
    """A metric of the table."""

    base: str
    """Its name without prefix, unit and `_total`."""
    is_counter: bool
    """Whether it only grows; else it is a gauge."""
    unit: str
    """As OpenTelemetry writes it (UCUM): `{call}` for a number of calls, `s` for seconds; "" for none."""
    labels: tuple[str, ...]
    help: str

    @property
    def name(self) -> str:
        """The name in Prometheus (https://prometheus.io/docs/practices/naming)."""
        return f"callfence_{self.base}{'_seconds' if self.unit == 's' else ''}{'_total' if self.is_counter else ''}"

    @property
    def otlp_name(self) -> str:
        """The name in OpenTelemetry, from which its collector makes the name in Prometheus."""
        return f"callfence.{self.base}"


def _counter(base: str, unit: str, labels: str, text: str) -> Metric:
    return Metric(base, True, f"{{{unit}}}", tuple(labels.split()), text)


def _gauge(base: str, unit: str, labels: str, text: str) -> Metric:
    return Metric(base, False, unit, tuple(labels.split()), text)


STARTS = _counter("starts", "start", "service mode", "Programs started: mode is enforce or audit.")
DENIALS = _counter(
    "denials", "call", "service policy rule mode", "Calls that were denied (enforced), or that only --audit let run (audit)."
)
ANSWERS = _counter("answers", "answer", "service answer", "Questions of --ask that were answered.")
REFUSALS = _counter("refusals", "start", "service status", "Programs that were not run, by the exit status of enforce.")
ENDS = _counter("ends", "run", "service status", "Runs that ended, by the exit status or the signal of the first process.")
WARNINGS = _counter("warnings", "warning", "service", "Messages that something is not enforced or not reported.")
LOST = _counter("lost_records", "record", "service", "Records that enforce could not write, or that did not arrive.")
POLICY = _gauge("policy_info", "", "policy sha256", "The digest of each policy in use, as sha256sum prints it; the value is 1.")
POLICY_SINCE = _gauge("policy_since_timestamp", "s", "policy", "When the first start with this content of the policy was.")
AUDIT_SINCE = _gauge(
    "audit_since_timestamp", "s", "service", "When a service was first started with --audit and not yet without since."
)
LAST_EVENT = _gauge("last_event_timestamp", "s", "", "The time of the newest record.")
SHIP_RECORDS = _counter("ship_records", "record", "event", "Records read.")
SHIP_BAD = _counter("ship_bad_lines", "line", "", "Lines read that are no records.")
SHIP_DROPPED = _counter("ship_dropped", "record", "reason", "Records that the shipper received and did not deliver.")
SHIP_CUT = _counter("ship_cut_runs", "run", "", "Runs whose connection to the shipper's socket ended with the shipper.")
SHIP_FORGOTTEN = _counter("ship_forgotten_runs", "run", "", "Runs that are no longer followed because there are too many.")
SHIP_FAILURES = _counter(
    "ship_failures", "attempt", "destination", "Attempts to deliver, to read or to save the state that failed, by destination."
)
SHIP_SINCE = _gauge("ship_since_timestamp", "s", "", "When the counters began: the first start of the shipper with this state.")
SHIP_WRITTEN = _gauge("ship_written_timestamp", "s", "", "When these metrics were written.")

METRICS: Final = (
    STARTS, DENIALS, ANSWERS, REFUSALS, ENDS, WARNINGS, LOST, POLICY, POLICY_SINCE, AUDIT_SINCE, LAST_EVENT,
    SHIP_RECORDS, SHIP_BAD, SHIP_DROPPED, SHIP_CUT, SHIP_FORGOTTEN, SHIP_FAILURES, SHIP_SINCE, SHIP_WRITTEN,
)  # fmt: skip
BY_BASE: Final = {metric.base: metric for metric in METRICS}


class Sample(NamedTuple):
    """One value of a metric."""

    metric: Metric
    labels: tuple[str, ...]
    """The values, in the order of `metric.labels`."""
    value: float
