"""Measure `callfence ship`, and print what docs/telemetry.md says of it.

    tools/measuring/telemetry/measure.py [alerts | kill | speed | start] ...

`alerts` needs Debian's prometheus and prometheus-node-exporter; it starts them on free ports of 127.0.0.1, and ends them.
Everything is in a folder of its own, which is removed.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import timeit
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support"), str(ROOT / "tools")]  # as pytest has it

from tests.callfence.shipping.collectors import Receiver  # noqa: E402
from tests.callfence.shipping.conftest import append, line, metrics, rotate, total  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KILL_SECONDS = 60
RECORDS = 100_000


class Group:
    """Processes of a measurement, all of which are ended with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str | Path, under: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        with open(self.folder / "errors", "ab") as errors:
            process = subprocess.Popen([*under, *map(str, command)], cwd=self.folder, stdout=errors, stderr=errors)
        self.processes.append(process)
        return process

    def ship(self, name: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
        return self.start(*shipping(name), *arguments)

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def shipping(name: str) -> list[str]:
    return [sys.executable, "-m", "callfence", "ship", "--state", f"{name}.state", "--every", "0.5"]


@contextmanager
def group() -> Iterator[Group]:
    with tempfile.TemporaryDirectory(prefix="callfence-telemetry-") as folder:
        made = Group(Path(folder))
        try:
            yield made
        finally:
            made.end()


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> float:
    """Return after how many seconds a condition holds."""
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > seconds:
            raise SystemExit(f"it takes more than {seconds:g} s")
        time.sleep(0.1)
    return time.monotonic() - begin


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetched(url: str) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)["data"]
    except OSError:
        return None


# Prometheus


def alerts() -> None:
    """Two hosts, each with a shipper and node_exporter, whose text files Prometheus scrapes; then what each alert is about."""
    scaled = (ROOT / "samples/monitoring/callfence.rules.yml").read_text()
    for before, after in (("for: 1h", "for: 2s"), ("for: 1m", "for: 2s"), ("> 300", "> 10")):
        scaled = scaled.replace(before, after)
    with group() as here:
        folder = here.folder
        (folder / "rules.yml").write_text(scaled)
        ports = {name: free_port() for name in ("web1", "web2")}
        for name, port in ports.items():
            (folder / name).mkdir()
            only = ("--collector.disable-defaults", "--collector.textfile", f"--collector.textfile.directory={folder / name}")
            here.start("prometheus-node-exporter", *only, f"--web.listen-address=127.0.0.1:{port}")
        target = "      - {{targets: ['127.0.0.1:{}'], labels: {{instance: {}}}}}\n"
        jobs = "".join(target.format(port, name) for name, port in ports.items())
        scrape = f"scrape_configs:\n  - job_name: node\n    static_configs:\n{jobs}"
        head = "global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [rules.yml]\n"
        (folder / "prometheus.yml").write_text(head + scrape)
        port = free_port()
        here.start(
            "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        )  # fmt: skip
        api = f"http://127.0.0.1:{port}/api/v1"
        nowhere = f"http://127.0.0.1:{free_port()}"
        shippers = {
            "web1": here.ship("web1", "--prometheus", folder / "web1/callfence.prom", "--otlp", nowhere, folder / "web1/log"),
            "web2": here.ship("web2", "--prometheus", folder / "web2/callfence.prom", folder / "web2/log"),
        }
        written = f"{api}/query?query=callfence_ship_written_timestamp_seconds"
        up = wait_for(lambda: len((fetched(written) or {"result": ()})["result"]) == 2)
        print(f"both text files are scraped after {up:.1f} s; alerts that fire then: {firing(api) or 'none'}")
        causes: list[tuple[str, Callable[[], None]]] = [
            ("CallfenceDenials", lambda: append(folder / "web1/log", line("start") + line("denied", 2))),
            ("CallfenceRefused", lambda: append(folder / "web1/log", line("refused", run="1" * 8))),
            ("CallfenceRecordsLost", lambda: append(folder / "web1/log", line("denied", 9, count=2))),
            ("CallfencePolicyDiffers", lambda: append(folder / "web2/log", line("start", policies=[policy("cd")]))),
            ("CallfenceAuditOnly", lambda: append(folder / "web2/log", line("start", mode="audit", time=ago(15), run="2" * 8))),
            ("CallfenceShipperDrops", lambda: append(folder / "web1.state/received.log", b"\0dropped 7 the spool is full\n")),
            ("CallfenceShipperFails", lambda: None),  # web1's collector is not there
            ("CallfenceShipperSilent", lambda: shippers["web2"].kill()),
        ]
        print("| alert | fires after |\n|---|---|")
        for name, cause in causes:
            is_early = name in firing(api)
            cause()
            seconds = wait_for(lambda name=name: name in firing(api), 240)  # type: ignore[misc]
            print(f"| `{name}` | {'before' if is_early else f'{seconds:.1f} s'} |", flush=True)


def policy(digest: str) -> dict[str, str]:
    return {"file": "/etc/callfence/app.policy", "sha256": digest * 32}


def ago(days: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000+00:00", time.gmtime(time.time() - days * 86400))


def firing(api: str) -> set[str]:
    found = fetched(f"{api}/alerts") or {"alerts": ()}
    return {alert["labels"]["alertname"] for alert in found["alerts"] if alert["state"] == "firing"}


# Killed, without a network and without space


def kill(seconds: float = KILL_SECONDS) -> None:
    """Two destinations, two logs that are rotated, a collector that goes and comes back; the shipper is killed at random."""
    receiver, chance = Receiver(), random.Random(1)
    with group() as here:
        folder, stop, written = here.folder, threading.Event(), [0, 0]
        arguments = ("--prometheus", "callfence.prom", "--otlp", receiver.url, "0.log", "1.log")
        subprocess.run([*shipping("x"), "--once", *arguments], cwd=folder, check=True, timeout=60, stderr=subprocess.DEVNULL)

        def write(which: int) -> None:
            while not stop.is_set():
                written[which] += 1
                number = written[which]
                append(folder / f"{which}.log", line("denied", number, count=number, run=f"{which:08x}"))
                if number % 1000 == 0:
                    rotate(folder / f"{which}.log")
                time.sleep(0.001)

        writers = [threading.Thread(target=write, args=(which,)) for which in (0, 1)]
        for thread in writers:
            thread.start()
        begin, kills, outages = time.monotonic(), 0, 0
        while time.monotonic() - begin < seconds:
            receiver.status = 503 if chance.random() < 0.3 else 200
            outages += receiver.status == 503
            process = here.ship("x", *arguments)
            time.sleep(chance.uniform(0.2, 3))
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        stop.set()
        for thread in writers:
            thread.join()
        receiver.status = 200
        subprocess.run([*shipping("x"), "--once", *arguments], cwd=folder, check=True, timeout=300)
        values = metrics((folder / "callfence.prom").read_text())
        both = sum(written)
        uids = [log.uid for log in receiver.logs]
        print(f"{kills} times killed in {seconds:g} s, {outages} times while the collector answered 503; {both} records")
        print("| | Prometheus | OpenTelemetry |\n|---|---|---|")
        for name in ("ship_records", "denials", "lost_records", "ship_bad_lines"):
            counts = total(values, f"callfence_{name}_total"), receiver.total(f"callfence.{name}")
            print(f"| `callfence_{name}_total` | {counts[0]:.0f} | {counts[1]:.0f} |")
        print(f"| log records received; different ones | | {len(uids)}; {len({*uids})} |")
    receiver.close()
    assert total(values, "callfence_ship_records_total") == receiver.total("callfence.ship_records") == len({*uids}) == both


# Speed


def speed(count: int = RECORDS) -> None:
    """Records of one log, from the start of the shipper to its end."""
    receiver = Receiver()
    print("| destination | records a second | processor time for 1,000 records | memory |\n|---|---|---|---|")
    for title, destination in {
        "Prometheus": ("--prometheus", "callfence.prom"),
        "OpenTelemetry": ("--otlp", receiver.url),
    }.items():
        with group() as here:
            runs = (line("denied", number, count=number) for number in range(1, count + 1))
            (here.folder / "log").write_bytes(b"".join(runs))
            begin = time.monotonic()
            most, ended = 0, 0
            with subprocess.Popen([*shipping("x"), "--once", *destination, "log"], cwd=here.folder) as process:
                while not ended:
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    most = max([most, *map(int, re.findall(r"VmHWM:\s+(\d+)", status))])  # since the execve
                    time.sleep(0.02)
                    ended, code, usage = os.wait4(process.pid, os.WNOHANG)
                process.returncode = os.waitstatus_to_exitcode(code)
            assert process.returncode == 0
            seconds, used = time.monotonic() - begin, usage.ru_utime + usage.ru_stime
            print(f"| {title} | {count / seconds:,.0f} | {used / count * 1e6:.0f} ms | {most >> 10} MiB |")
    receiver.close()


def start() -> None:
    """What the identity adds to a start of `enforce --log`: in a service, and where the cgroup hides what is above."""
    from callfence.enforcer.reporting import identity as module

    read, variables = module._content, [f"NAME{number}=value".encode() for number in range(50)]
    service = {"cgroup": "0::/system.slice/app.service\n"}

    def content(process: int | str, name: str) -> str:
        read(process, name)
        return service.get(name, "")

    for title, reads in (("a service", content), ("a cgroup namespace, with /proc/self/mountinfo", read)):
        module._content = reads
        number = 5000
        seconds = min(timeit.repeat(lambda: module.identity("self", variables), number=number, repeat=5)) / number
        print(f"{title}: {seconds * 1e6:.0f} us")
    module._content = read
    command = [sys.executable, "-X", "importtime", "-c", "import callfence.enforcer.reporting.events"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr
    (own,) = re.findall(r"(?m)^import time: +(\d+) \| +\d+ \| +enforcer\.reporting\.identity$", lines)
    print(f"importing the module: {own} us")


PARTS: dict[str, Callable[[], None]] = {"alerts": alerts, "kill": kill, "speed": speed, "start": start}

if __name__ == "__main__":
    for name in sys.argv[1:] or PARTS:
        print(f"## {name}", flush=True)
        PARTS[name]()
