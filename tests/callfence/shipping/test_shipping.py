"""The command: from logs to the metrics of Prometheus, killed, out of space, and with wrong options."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from needed import needs, needs_root

from callfence.shipping import command
from callfence.shipping.metrics import METRICS
from tests.callfence.shipping.conftest import OF_EVENT, Place, append, line, metrics, rotate, total
from tests.enforcer.conftest import wait_until

if TYPE_CHECKING:
    from tests.conftest import Commands

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "telemetry.md").read_text()


def test_a_log_becomes_metrics(place: Place) -> None:
    append(place.folder / "log", b"".join(line(event, number) for number, event in enumerate(OF_EVENT, 1)) + b"bad\nbad\n")
    append(place.folder / "other", line("denied", run="1" * 8, count=4, unit='odd "name"\\ .service', verdict="audited"))
    done = place.once("--prometheus", "callfence.prom", "log", "other")
    assert (done.returncode, done.stdout) == (0, "")
    assert [text.partition(": not a record")[0] for text in done.stderr.splitlines()] == [
        f"callfence ship: {place.folder}/log:{number}" for number in (7, 8)
    ]
    values = place.values()
    labels = 'policy="/etc/callfence/app.policy",rule="ptrace"'
    assert values[f'callfence_denials_total{{service="app.service",{labels},mode="enforced"}}'] == 1
    assert values[f'callfence_denials_total{{service="odd \\"name\\"\\\\ .service",{labels},mode="audit"}}'] == 4
    assert values["callfence_ship_bad_lines_total"] == 2
    assert total(values, "callfence_ship_records_total") == 7
    assert place.once("--prometheus", "callfence.prom", "log", "other").returncode == 0
    assert {name: value for name, value in place.values().items() if "written" not in name} == {
        name: value for name, value in values.items() if "written" not in name
    }


def test_a_pattern_has_more_files_later(place: Place) -> None:
    """As when another service is confined while the shipper runs."""
    for name in ("a", "b"):
        (place.folder / name).mkdir()
    append(place.folder / "a" / "log", line("denied"))
    place.start("--prometheus", "callfence.prom", "*/log")
    place.wait_for("callfence_ship_records_total", 1)
    append(place.folder / "b" / "log", line("denied", run="2" * 8))
    place.wait_for("callfence_ship_records_total", 2)


def test_a_pattern_leaves_out_what_is_no_file(place: Place) -> None:
    """The user of one service may write its folder of logs, and must not end the shipper of all."""
    for name in ("a", "b"):
        (place.folder / name).mkdir()
    append(place.folder / "a" / "log", line("denied"))
    os.mkfifo(place.folder / "b" / "log")
    done = place.once("--prometheus", "callfence.prom", "*/log")
    assert (done.returncode, done.stderr.count("b/log is not a file that can be read")) == (0, 1)
    assert total(place.values(), "callfence_ship_records_total") == 1


def test_what_is_exchanged_after_the_look_at_it_ends_no_shipper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may write to the folder of one log must not end the shipper of all."""
    append(tmp_path / "a.log", line("denied", run="1" * 8))
    os.mkfifo(tmp_path / "b.log")
    monkeypatch.setattr(command, "_is_readable", lambda path: True)
    for name in ("signal", "set_wakeup_fd"):  # those of this process stay
        monkeypatch.setattr(signal, name, lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    assert command.main(["--once", "--state", "state", "--prometheus", "it.prom", "*.log"]) == 0
    assert 'callfence_ship_records_total{event="denied"} 1' in (tmp_path / "it.prom").read_text()
    assert command.main(["--once", "--state", "state", "--prometheus", "it.prom", "b.log"]) == 2


@needs("prometheus")
def test_promtool_finds_nothing_wrong(place: Place) -> None:
    append(place.folder / "log", b"".join(line(event, number) for number, event in enumerate(OF_EVENT, 1)))
    assert place.once("--prometheus", "callfence.prom", "log").returncode == 0
    text = place.file.read_text()
    check = ["promtool", "check", "metrics"]
    done = subprocess.run(check, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_enforce_writes(place: Place, commands: Commands) -> None:
    """Its log has the last record when the last confined process has ended: then the command is over, too."""
    policy = place.folder / "app.policy"
    commands.learn(policy, ["sh", "-c", "test -e a"], place.folder, "-q")
    commands.enforce(policy, ["sh", "-c", "kill -0 $$; kill -0 $$; kill -0 $$"], place.folder, "--audit")
    wait_until(lambda: '"event": "end"' in policy.with_suffix(".log").read_text())
    assert place.once("--prometheus", "callfence.prom", "app.log").returncode == 0
    values = place.values()
    names = ("starts", "denials", "ends", "lost_records", "ship_bad_lines")
    assert [total(values, f"callfence_{name}_total") for name in names] == [1, 3, 1, 0, 0]


def test_a_running_shipper_follows_a_log(place: Place) -> None:
    process = place.start("--prometheus", "callfence.prom", "log")
    wait_until(place.file.exists)
    append(place.folder / "log", line("start"))
    place.wait_for("callfence_starts_total", 1)
    (place.folder / "log").rename(place.folder / "log.1")
    append(place.folder / "log", line("denied", 2))
    place.wait_for("callfence_denials_total", 1)
    append(place.folder / "log", line("end", 3))
    assert place.stop(process) == 0
    assert total(place.values(), "callfence_ends_total") == 1
    mtime = place.file.stat().st_mtime_ns
    process = place.start("--prometheus", "callfence.prom", "log")
    wait_until(lambda: place.file.stat().st_mtime_ns != mtime)
    assert place.stop(process, signal.SIGINT) == 0
    assert total(place.values(), "callfence_denials_total") == 1
    assert [*place.folder.glob(".*")] == []


@pytest.mark.long
def test_killed_at_any_moment(place: Place) -> None:
    """While records are written and the log is rotated: each is counted once, and none is missing."""
    written, stop = [0], threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set() or number < 300:
            written[0] = number = number + 1
            append(place.folder / "log", line("denied", number, count=number, pid=1))
            if number % 100 == 0 and number <= 1500:  # no more moved logs than are read at a time, however slow the machine is
                rotate(place.folder / "log")
            time.sleep(0.002)

    assert place.once("--prometheus", "callfence.prom", "log").returncode == 0
    thread = threading.Thread(target=write)
    thread.start()
    chance = random.Random(1)
    for _ in range(8):
        process = place.start("--prometheus", "callfence.prom", "log")
        time.sleep(chance.uniform(0.1, 0.6))
        place.stop(process, signal.SIGKILL)
        values = place.values()
        assert total(values, "callfence_denials_total") == total(values, "callfence_ship_records_total") <= written[0]
    stop.set()
    thread.join()
    assert place.once("--prometheus", "callfence.prom", "log").returncode == 0
    values = place.values()
    names = ("denials", "ship_records", "lost_records", "ship_bad_lines")
    assert [total(values, f"callfence_{name}_total") for name in names] == [written[0], written[0], 0, 0], place.said()
    assert [*place.folder.glob("**/.*.tmp")] == []


@needs_root
def test_a_full_disk(place: Place) -> None:
    """The state is in a small file system, which is filled: nothing is counted beyond what is saved, and it goes on."""
    under = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=256k none small && exec "$@"', "sh")
    (place.folder / "small").mkdir()
    process = place.start("--state", "small/state", "--prometheus", "callfence.prom", "log", under=under)
    wait_until(place.file.exists)  # then the small one is mounted
    small = Path(f"/proc/{process.pid}/root{place.folder}/small")
    fill(small / "ballast")
    append(place.folder / "log", line("start"))
    wait_until(lambda: "the state: it cannot be saved: No space left on device; trying again" in place.said())
    assert total(place.values(), "callfence_starts_total") == 0
    (small / "ballast").unlink()
    place.wait_for("callfence_starts_total", 1)
    assert "callfence ship: the state: works again" in place.said()
    append(place.folder / "log", line("end", 2))
    place.wait_for("callfence_ends_total", 1)
    assert total(place.values(), "callfence_ship_failures_total") >= 1
    fill(small / "ballast")
    append(place.folder / "log", line("start", run="1" * 8))
    wait_until(lambda: place.said().count("cannot be saved") == 2)
    assert place.stop(process) == 1
    assert total(place.values(), "callfence_starts_total") == 1


def fill(path: Path) -> None:
    """Write until nothing fits any more, which is less than a MiB."""
    assert os.statvfs(path.parent).f_blocks * os.statvfs(path.parent).f_frsize <= 1 << 20
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            for _ in range(1 << 12):
                try:
                    file.write(b"x" * size)
                except OSError:
                    break


def test_a_text_file_that_cannot_be_written_is_tried_again(place: Place) -> None:
    (place.folder / "node").mkdir()
    process = place.start("--prometheus", "node/callfence.prom", "log")
    file = place.folder / "node" / "callfence.prom"
    wait_until(file.exists)
    (place.folder / "node").rename(place.folder / "moved")
    append(place.folder / "log", line("start"))
    wait_until(lambda: "the metrics in node/callfence.prom: No such file or directory; trying again" in place.said())
    (place.folder / "node").mkdir()
    wait_until(lambda: file.exists() and total(metrics(file.read_text()), "callfence_starts_total") == 1)
    assert place.stop(process) == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--prometheus x.prom", "give a LOG, --listen or --journal"),
        ("log", "give --prometheus or --otlp"),
        ("--prometheus x.prom --once --listen unix:s", "--once and --listen exclude each other"),
        ("--prometheus x.prom --every 0 log", "--every must be more than 0"),
        ("--prometheus x log", "the textfile collector reads only names that end in .prom"),
        ("--prometheus no/x.prom log", "No such file or directory"),
        ("--prometheus x.prom --listen tcp:1", "write unix:PATH, unix-datagram:PATH, unix-seqpacket:PATH or fd:NUMBER"),
        ("--prometheus x.prom --listen fd:99", "descriptor 99 is not an open socket"),
        ("--prometheus x.prom --listen unix:no/socket", "No such file or directory"),
        ("--prometheus x.prom .", "is not a regular file"),
        ("--otlp localhost:4318 log", "give the URL of a collector"),
    ],
)  # fmt: skip
def test_wrong_options(place: Place, arguments: str, reason: str) -> None:
    command = place.command(*arguments.split())
    done = subprocess.run(command, cwd=place.folder, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr


def test_a_state_is_for_one_shipper_and_is_checked(place: Place) -> None:
    process = place.start("--prometheus", "callfence.prom", "log")
    wait_until(place.file.exists)
    done = place.once("--prometheus", "callfence.prom", "log")
    assert (done.returncode, "another `callfence ship` uses the state in state" in done.stderr) == (2, True)
    assert place.stop(process) == 0
    saved = (place.folder / "state" / "prometheus.json").read_text()
    (place.folder / "state" / "prometheus.json").write_text('{"version": 2}')
    done = place.once("--prometheus", "callfence.prom", "log")
    assert (done.returncode, "is not the state of a shipper (version 2 is of a newer callfence" in done.stderr) == (2, True)
    assert os.stat(place.folder / "state").st_mode & 0o777 == 0o700
    whole = json.loads(saved)
    for damage in ({"tally": {}}, {"tally": whole["tally"] | {"counts": [[]]}}, {"positions": []}, {"failures": None}):
        (place.folder / "state" / "prometheus.json").write_text(json.dumps(whole | damage))
        done = place.once("--prometheus", "callfence.prom", "log")
        assert (done.returncode, "state/prometheus.json is not the state of a shipper (" in done.stderr) == (2, True), damage
    (place.folder / "state" / "prometheus.json").write_text("[" * 100_000)
    done = place.once("--prometheus", "callfence.prom", "log")
    assert (done.returncode, "state/prometheus.json is not the state of a shipper (" in done.stderr) == (2, True)
    (place.folder / "state" / "prometheus.json").unlink()
    os.mkfifo(place.folder / "state" / "prometheus.json")
    done = place.once("--prometheus", "callfence.prom", "log")
    assert (done.returncode, "state/prometheus.json: is not a regular file" in done.stderr) == (2, True)


def test_zeros_in_the_spool_are_no_note(place: Place) -> None:
    """A crash of the machine leaves some at the end of a file."""
    (place.folder / "state").mkdir()
    (place.folder / "state" / "received.log").write_bytes(bytes(500) + b"\n\0dropped many of them\n\0dropped 3 by hand\n")
    done = place.once("--prometheus", "callfence.prom", "log")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert 'callfence_ship_dropped_total{reason="by hand"} 3' in place.file.read_text()


def test_without_the_packages_of_opentelemetry(place: Place) -> None:
    (place.folder / "opentelemetry.py").write_text("")
    environment = os.environ | {"PYTHONPATH": str(place.folder)}
    done = place.once("--otlp", "http://localhost:1", "log", env=environment)
    assert (done.returncode, "pip install 'callfence[otel]'" in done.stderr) == (2, True)


def test_the_page_has_each_metric() -> None:
    rows = re.findall(r"(?m)^\| `(callfence_\w+)` \| (counter|gauge) \| ([^|]*) \| ([^|]*) \|$", PAGE)
    assert rows == [
        (each.name, "counter" if each.is_counter else "gauge", ", ".join(f"`{label}`" for label in each.labels), each.help)
        for each in METRICS
    ]


def test_the_state_is_what_the_page_says(place: Place) -> None:
    append(place.folder / "log", line("start"))
    place.once("--prometheus", "callfence.prom", "log")
    assert {file.name for file in (place.folder / "state").iterdir()} == {"lock", "prometheus.json", "received.log"}
    saved = json.loads((place.folder / "state" / "prometheus.json").read_text())
    assert {*saved} == {"version", "positions", "failures", "tally"}
