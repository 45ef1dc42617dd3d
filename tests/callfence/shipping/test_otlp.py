"""OpenTelemetry: records and metrics at a receiver, which is gone, overloaded, or takes not all of them."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import nullcontext
from resource import RUSAGE_SELF, getrusage

import pytest

from callfence.shipping import otlp
from callfence.shipping.destinations import UndeliveredError
from callfence.shipping.metrics import METRICS
from callfence.shipping.otlp import Collector, attributes
from callfence.shipping.records import parsed
from callfence.shipping.tally import Tally
from tests.callfence.shipping.collectors import Receiver
from tests.callfence.shipping.conftest import OF_EVENT, Place, append, line, total
from tests.enforcer.conftest import wait_until


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def test_records_are_log_records(place: Place, receiver: Receiver) -> None:
    in_pod = {"unit": "crio-1.scope", "container": "ab" * 32, "pod": {"name": "app-1", "namespace": "shop", "uid": "u"}}
    text = b"".join(line(event, number) for number, event in enumerate(OF_EVENT, 1))
    append(place.folder / "log", text + line("start", run="1" * 8, image="r/app@sha256:1", **in_pod))
    done = place.once("--otlp", receiver.url, "log")
    assert (done.returncode, done.stderr) == (0, "")
    assert [log.event_name for log in receiver.logs] == [f"callfence.{event}" for event in (*OF_EVENT, "start")]
    assert [log.severity for log in receiver.logs] == [9, 13, 10, 13, 17, 9, 9]  # INFO WARN INFO2 WARN ERROR INFO INFO
    assert [log.uid for log in receiver.logs[:2]] == ["web1/0123abcd/1", "web1/0123abcd/2"]
    denied, in_a_pod = receiver.logs[1], receiver.logs[-1]
    assert (denied.body, denied.time) == ("denied: ptrace(request=PTRACE_ATTACH)", 1772366400250000000)
    assert denied.resource == {"service.name": "app", "host.name": "web1"}
    expected = {
        "process.pid": 7, "process.parent_pid": 1, "process.executable.path": "/bin/app", "process.command_args": ["app"],
        "process.working_directory": "/", "callfence.call": "ptrace(request=PTRACE_ATTACH)", "callfence.count": 1,
        "callfence.allow.line": ["ptrace: allow"], "callfence.policies.sha256": ["ab" * 32], "callfence.run": "0123abcd",
        "callfence.unit": "app.service", "callfence.verdict": "denied",
    }  # fmt: skip
    assert {name: denied.attributes[name] for name in expected} == expected
    assert in_a_pod.resource == {
        "service.name": "unknown_service", "host.name": "web1", "container.id": "ab" * 32, "k8s.pod.name": "app-1",
        "k8s.namespace.name": "shop", "k8s.pod.uid": "u", "container.image.repo_digests": ["r/app@sha256:1"],
    }  # fmt: skip


def test_metrics_are_those_of_the_table(place: Place, receiver: Receiver) -> None:
    append(place.folder / "log", line("start") + line("denied", 2))
    assert place.once("--otlp", receiver.url, "log").returncode == 0
    assert receiver.total("callfence.starts") == receiver.total("callfence.denials") == 1
    labels = {"service": "app.service", "policy": "/etc/callfence/app.policy", "rule": "ptrace", "mode": "enforced"}
    assert receiver.metrics["callfence.denials", tuple(labels.items())] == 1
    assert {name for name, _ in receiver.metrics} <= {metric.otlp_name for metric in METRICS}
    append(place.folder / "log", line("denied", 3, count=5))
    assert place.once("--otlp", receiver.url, "log").returncode == 0
    assert receiver.total("callfence.denials") == 5
    assert len(receiver.starts) == 1, "the counters go on, and do not begin anew"


@pytest.mark.long
@pytest.mark.parametrize("status", [503, 500, 401, 302])
def test_a_collector_that_fails(place: Place, receiver: Receiver, status: int) -> None:
    append(place.folder / "log", b"".join(line("start", run=f"{run:08x}") for run in range(600)))
    receiver.status = status
    process = place.start("--otlp", receiver.url, "--prometheus", "callfence.prom", "log")
    place.wait_for("callfence_starts_total", 600)  # which this does not hold up
    wait_until(lambda: f"{receiver.url}: {status}" in place.said())
    wait_until(lambda: place.values()['callfence_ship_failures_total{destination="otlp"}'] > 0)
    receiver.status = 200
    wait_until(lambda: receiver.total("callfence.starts") == 600, 60)
    assert place.stop(process) == 0
    assert [log.attributes["callfence.run"] for log in receiver.logs] == [f"{run:08x}" for run in range(600)]
    assert f"callfence ship: {receiver.url}: works again" in place.said()
    assert receiver.total("callfence.ship_failures") > 0


@pytest.mark.long
def test_a_network_that_goes_and_comes_back(place: Place, receiver: Receiver) -> None:
    process = place.start("--otlp", receiver.url, "log")
    append(place.folder / "log", line("start"))
    wait_until(lambda: receiver.total("callfence.starts") == 1)
    receiver.close()
    with socket.socket() as holder:  # so that nobody else gets the port meanwhile
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", receiver.port))
        append(place.folder / "log", line("denied", 2))
        wait_until(lambda: "no connection, or no answer in time; trying again" in place.said())
    again = Receiver(receiver.port)
    try:
        wait_until(lambda: again.total("callfence.denials") == 1, 60)
        assert place.stop(process) == 0
        assert [log.uid for log in again.logs] == ["web1/0123abcd/2"]
    finally:
        again.close()
        receiver.__init__()


@pytest.mark.long
def test_what_is_not_delivered_is_sent_by_the_next_shipper(place: Place, receiver: Receiver) -> None:
    append(place.folder / "log", line("start"))
    receiver.status = 429
    assert place.once("--otlp", receiver.url, "log").returncode == 1
    assert (receiver.logs, receiver.metrics) == ([], {})
    receiver.status = 200
    assert place.once("--otlp", receiver.url, "log").returncode == 0
    assert len(receiver.logs) == 1


@pytest.mark.long
def test_killed_at_any_moment(place: Place, receiver: Receiver) -> None:
    """Each record arrives, some twice with the same id; the counters have each once."""
    assert place.once("--otlp", receiver.url, "log").returncode == 0
    for number in range(1, 8):
        for part in range(200):
            append(place.folder / "log", line("denied", (number - 1) * 200 + part + 1, pid=part, count=number))
        process = place.start("--otlp", receiver.url, "log")
        before = receiver.requests
        wait_until(lambda before=before: receiver.requests > before)
        place.stop(process, signal.SIGKILL)
    assert place.once("--otlp", receiver.url, "log").returncode == 0
    assert {log.uid for log in receiver.logs} == {f"web1/0123abcd/{number}" for number in range(1, 1401)}
    assert receiver.total("callfence.denials") == receiver.total("callfence.ship_records") == 1400
    assert receiver.total("callfence.lost_records") == 0


def test_records_that_are_refused_are_dropped_one_by_one(place: Place, receiver: Receiver) -> None:
    lines = [line("message", number, message="poison" if number in (3, 90) else "fine") for number in range(1, 101)]
    append(place.folder / "log", b"".join(lines))
    receiver.refused = "poison"
    done = place.once("--otlp", receiver.url, "log")
    assert done.returncode == 0
    assert [text.partition(": dropped")[0] for text in done.stderr.splitlines()] == [
        f"callfence ship: {place.folder}/log:{number}" for number in (3, 90)
    ]
    assert "400 Bad Request a record is not to my taste" in done.stderr
    assert len(receiver.logs) == 98
    assert receiver.total("callfence.ship_dropped") == 2


@pytest.mark.parametrize(("status", "dropped"), [(401, 0), (413, 1), (414, 0), (422, 1)])
def test_only_what_is_about_the_records_drops_one(receiver: Receiver, status: int, dropped: int) -> None:
    receiver.refused, receiver.refusal = "poison", status
    records = [parsed(line("message", number, message=word), "log:1") for number, word in ((1, "fine"), (2, "poison"))]
    with nullcontext() if dropped else pytest.raises(UndeliveredError, match=str(status)):
        assert Collector(receiver.url).deliver(records) == dropped
    assert len(receiver.logs) == dropped


def test_a_partial_success_is_counted(place: Place, receiver: Receiver) -> None:
    append(place.folder / "log", line("start") + line("end", 2))
    receiver.rejected = 1
    done = place.once("--otlp", receiver.url, "log")
    assert (done.returncode, done.stderr) == (0, f"callfence ship: {receiver.url} rejects 1 records: too old\n")
    assert receiver.total("callfence.ship_dropped") == 1


@pytest.mark.parametrize(("rejected", "counted"), [(-5, 0), (1 << 62, 2)])
def test_no_more_are_rejected_than_were_sent(place: Place, receiver: Receiver, rejected: int, counted: int) -> None:
    """A counter that goes back is another start for Prometheus, and what an answer says is a line of bounded length."""
    append(place.folder / "log", line("start") + line("end", 2))
    receiver.rejected, receiver.reason = rejected, 100_000 * "y"
    done = place.once("--otlp", receiver.url, "log")
    assert done.returncode == 0
    assert len(done.stderr) < 300
    assert receiver.total("callfence.ship_dropped") == counted


@pytest.mark.parametrize("pause", [-1, 0.05])
def test_an_answer_without_an_end_is_not_waited_for(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, pause: float
) -> None:
    monkeypatch.setattr(otlp, "TIMEOUT", 1.0)
    receiver.endless = pause
    collector = Collector(receiver.url)
    begun, memory = time.monotonic(), getrusage(RUSAGE_SELF).ru_maxrss
    assert collector.deliver([parsed(line("start"), "log:1")]) == 0
    assert time.monotonic() - begun < 10
    assert getrusage(RUSAGE_SELF).ru_maxrss - memory < 100 << 10
    assert len(receiver.logs) == 1
    collector.close()


HOSTILE = {
    "comm\udcff\x00and": [1, None, {"a\udcff": {"b": [[]]}}, 1.5],
    "mixed": [{"a": 1}, {"b": "\udcff"}],
    "huge": 1 << 70,
    "nested": {"a": {"b": None}},
    "pod": "none",
    "container": 7,
    "image": ["x"],
    "host": "h\udcff",
    "command": ["\ud800", 3],
    "unit": "a\udcff.service",
    "pid": "seven",
}


@pytest.mark.long
def test_hostile_fields_are_sent_as_text(receiver: Receiver) -> None:
    """What a program or another writer puts into a record can neither stop the shipper nor be refused by protobuf."""
    collector = Collector(receiver.url)
    hostile = parsed(line("start", 1 << 52, **HOSTILE).replace(b'"seven"', b"1e999"), "log:1")
    assert collector.deliver([hostile, parsed(line("end"), "log:2")]) == 0
    assert len(receiver.logs) == 2
    assert receiver.logs[0].attributes["callfence.mixed.a"] == ["1", ""]
    assert receiver.logs[0].resource["host.name"] == "h\\udcff"
    assert all(isinstance(name, str) for name in attributes(hostile))
    tally = Tally(0)
    tally.fold(hostile)
    collector.publish(tally.samples(1.0, {}))
    assert receiver.total("callfence.starts") == 1
    receiver.status = 503
    with pytest.raises(UndeliveredError, match="503 Service Unavailable"):
        collector.publish(tally.samples(1.0, {}))
    collector.close()


def test_hostile_fields_in_the_text_file(place: Place) -> None:
    append(place.folder / "log", line("start", 1, **HOSTILE) + line("denied", 2, allow=[{"file": 'a"\n\udcff', "line": ""}]))
    assert place.once("--prometheus", "callfence.prom", "log").returncode == 0
    assert 'policy="a\\"\\n\\\\udcff"' in place.file.read_text()
    assert total(place.values(), "callfence_starts_total") == 1
