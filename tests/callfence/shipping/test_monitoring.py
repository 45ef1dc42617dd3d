"""samples/monitoring: what promtool, systemd and the table of metrics say of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from needed import needs, needs_root

from callfence.shipping.metrics import METRICS
from tests.callfence.shipping.conftest import line, metrics, total
from tests.conftest import COMMANDS

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "samples" / "monitoring"
RULES = SAMPLES / "callfence.rules.yml"
NAMES = {metric.name: {*metric.labels, "instance"} for metric in METRICS}
ALERTS = {rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}


def check_metrics(expression: str) -> None:
    """Each metric and label in an expression of PromQL exists."""
    used = re.findall(r"callfence_\w+", expression)
    assert used
    assert {*used} <= NAMES.keys()
    labels = {label for name in used for label in NAMES[name]}
    for names in re.findall(r"by \(([^)]*)\)", expression):
        assert {name.strip() for name in names.split(",")} <= labels
    assert {*re.findall(r'(\w+)=~?"', expression)} <= labels


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=120, check=False, cwd=SAMPLES)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs("prometheus")
def test_the_rules_are_valid_and_pass_their_tests() -> None:
    assert f"SUCCESS: {len(ALERTS)} rules found" in promtool("check", "rules", RULES)
    promtool("test", "rules", "callfence.rules.test.yml")


def test_each_rule_has_a_test() -> None:
    tested = re.findall(r"alertname: (\w+)\n +exp_alerts:", (SAMPLES / "callfence.rules.test.yml").read_text())
    assert {*tested} == {*ALERTS}
    for rule in ALERTS.values():
        check_metrics(rule["expr"])


@needs("prometheus")
def test_a_wrong_rule_is_noticed(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Otherwise the test above could not fail."""
    (tmp_path / RULES.name).write_text(RULES.read_text().replace("> 300", "> 30000"))
    (tmp_path / "test.yml").write_text((SAMPLES / "callfence.rules.test.yml").read_text())
    done = subprocess.run(["promtool", "test", "rules", tmp_path / "test.yml"], capture_output=True, timeout=120, check=False)
    assert done.returncode == 1


def test_the_dashboard_shows_metrics_that_there_are() -> None:
    board = json.loads((SAMPLES / "callfence.dashboard.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    for expression in expressions:
        check_metrics(expression)
    shown = {name for expression in expressions for name in re.findall(r"callfence_\w+", expression)}
    hidden = {"callfence_ship_cut_runs_total", "callfence_ship_forgotten_runs_total", "callfence_ship_since_timestamp_seconds"}
    assert shown == NAMES.keys() - hidden
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    places = [(place["x"], place["y"]) for place in (panel["gridPos"] for panel in board["panels"])]
    assert len({*places}) == len(places)


@needs("prometheus")
def test_the_expressions_of_the_dashboard_are_promql(tmp_path: Path) -> None:
    board = json.loads((SAMPLES / "callfence.dashboard.json").read_text())
    expressions = [target["expr"].replace("$__rate_interval", "5m") for panel in board["panels"] for target in panel["targets"]]
    rules = [{"record": f"x:{number}", "expr": expression} for number, expression in enumerate(expressions)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in promtool("check", "rules", tmp_path / "rules.yml")


@needs("systemd")
def test_the_unit_is_valid(tmp_path: Path) -> None:
    text = (SAMPLES / "callfence-ship.service").read_text()
    assert "/usr/bin/callfence ship " in text
    (tmp_path / "callfence-ship.service").write_text(text.replace("/usr/bin/callfence", str(COMMANDS / "callfence")))
    command = ["systemd-analyze", "verify", "--man=no", tmp_path / "callfence-ship.service"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_has_options_that_there_are() -> None:
    (start,) = re.findall(r"(?s)ExecStart=(.*?[^\\])\n", (SAMPLES / "callfence-ship.service").read_text())
    arguments = start.replace("\\\n", " ").split()
    assert arguments[:2] == ["/usr/bin/callfence", "ship"]
    from callfence.shipping.command import parser

    options = parser().parse_args(arguments[2:])
    assert (options.state, options.logs) == (Path("/var/lib/callfence-ship"), ["/var/log/callfence/*/enforce.log"])


def test_the_readme_names_each_alert_and_file() -> None:
    text = (SAMPLES / "README.md").read_text()
    assert {*re.findall(r"`(Callfence\w+)`", text)} == {*ALERTS}
    assert {*re.findall(r"(?m)^\| `(callfence[\w.-]+)`", text)} == {file.name for file in SAMPLES.iterdir()} - {"README.md"}

@needs_root
@needs("systemd", "dbus-user-session")
def test_the_unit_runs(tmp_path: Path) -> None:
    """Under a `systemd --user` of its own, with all that it confines but the folders in which the tests are, and /proc/sys,
    which a user's manager in namespaces cannot protect."""
    text = (SAMPLES / "callfence-ship.service").read_text()
    node = tmp_path / "node"
    node.mkdir()
    (tmp_path / "log").write_bytes(line("start"))
    for before, after in {
        "/usr/bin/callfence": f"{sys.executable} -m callfence", "/var/lib/callfence-ship": "${STATE_DIRECTORY}",
        "/var/lib/prometheus/node-exporter": str(node), "/var/log/callfence/*/enforce.log": f"{tmp_path}/l*g",
        "ProtectHome=yes\n": f"Environment=PYTHONPATH={ROOT}\nStandardError=file:{tmp_path}/errors\n", "PrivateTmp=yes\n": "",
        "ProtectKernelTunables=yes\n": "",
    }.items():  # fmt: skip
        assert before in text
        text = text.replace(before, after)
    units = tmp_path / "config" / "systemd" / "user"
    units.mkdir(parents=True)
    (units / "callfence-ship.service").write_text(text)
    script = f"""
        systemctl --user start callfence-ship
        for try in $(seq 400); do grep -q '^callfence_starts_total.* 1$' {node}/callfence.prom && break; sleep 0.05; done
        cat {node}/callfence.prom
        systemctl --user stop callfence-ship
        systemctl --user show callfence-ship --property=Result,ExecMainStatus,NRestarts
    """
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = [*namespaces, "sh", ROOT / "tests/exports/programs/user_manager.sh", tmp_path, "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert total(metrics(done.stdout), "callfence_starts_total") == 1, (tmp_path / "errors").read_text()
    assert {*done.stdout.splitlines()} >= {"Result=success", "ExecMainStatus=0", "NRestarts=0"}
