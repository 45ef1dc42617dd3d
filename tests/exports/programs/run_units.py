"""Runs units under the user manager that there is: run_units.py CASES RESULTS, both JSON files.

A case is {"dropin": text, "command": [...], "wait": bool}, by the unit's name.  Of a unit that waits the filters are read,
in hexadecimal; of others the output and how the main process ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from callfence.tracer.running.attach import read_filters


def control(*words: str) -> str:
    return subprocess.run(["systemctl", "--user", *words], capture_output=True, text=True, timeout=60, check=False).stdout


def run(name: str, case: dict[str, object]) -> dict[str, object]:
    folder = Path(os.environ["XDG_CONFIG_HOME"], "systemd/user", f"{name}.service.d")
    folder.mkdir(parents=True)
    (folder / "callfence.conf").write_text(case["dropin"])
    command = ["systemd-run", "--user", "--quiet", f"--unit={name}"]
    command += ["--service-type=exec"] if case["wait"] else ["--wait", "--pipe"]
    ran = subprocess.run([*command, *case["command"]], capture_output=True, text=True, timeout=60, check=False)
    shown = control("show", "-p", "Result,ExecMainStatus,MainPID", f"{name}.service")
    state = dict(line.split("=", 1) for line in shown.splitlines())
    filters = [program.hex() for program in read_filters(int(state["MainPID"]))] if case["wait"] else []
    control("stop", f"{name}.service")
    return {"output": ran.stdout, "errors": ran.stderr, "status": ran.returncode, **state, "filters": filters}


cases, results = map(Path, sys.argv[1:])
results.write_text(json.dumps({name: run(name, case) for name, case in json.loads(cases.read_text()).items()}))
