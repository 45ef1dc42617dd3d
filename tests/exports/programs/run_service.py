"""From an audited unit to an enforced one, under the user manager that there is: run_service.py FOLDER RESULTS.

FOLDER has `it.policy` and `app`, the unit's program.  RESULTS gets a JSON object: how each start ended, what was logged.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

folder, results = map(Path, sys.argv[1:])
units = Path(os.environ["XDG_CONFIG_HOME"], "systemd/user")
log = Path(os.environ["HOME"], ".local/state/log/callfence/it/enforce.log")
UNIT = f"""\
[Service]
Type=notify
NotifyAccess=all
WorkingDirectory={folder}
ExecStart={folder}/app "two words" ${{HOME}} %n
"""


def run(*words: str | Path) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    return f"{done.stdout}{done.stderr}".strip()


def callfence(*words: str) -> str:
    return run(sys.executable, "-m", "callfence", *words)


def started(*options: str) -> dict[str, str]:
    """The unit with a drop-in as exported with these options: how it starts, and how it ends."""
    named = ("--to", "systemd-enforce", "--unit", str(units / "it.service"))
    said = callfence("export", *named, *options, "-o", "dropin", "it.policy")
    (units / "it.service.d").mkdir(exist_ok=True)
    (units / "it.service.d/callfence.conf").write_text((folder / "dropin").read_text())
    run("systemctl", "--user", "daemon-reload")
    run("systemctl", "--user", "reset-failed", "it.service")
    run("systemctl", "--user", "start", "it.service")
    shown = "ActiveState,MainPID,ExecMainPID"
    state = dict(line.split("=", 1) for line in run("systemctl", "--user", "show", "-p", shown, "it.service").splitlines())
    wrote = (folder / "wrote").read_text() if (folder / "wrote").exists() else ""
    run("systemctl", "--user", "stop", "it.service")
    ended = run("systemctl", "--user", "show", "-p", "Result,ExecMainStatus", "it.service")
    state |= dict(line.split("=", 1) for line in ended.splitlines())
    (folder / "wrote").unlink(missing_ok=True)
    return {"said": said, "wrote": wrote, **state}


units.mkdir(parents=True)
(units / "it.service").write_text(UNIT)
found = {"denied": started()}
log.unlink()
found["audited"] = started("--audit")
found["logged"] = [record["call"] for record in map(json.loads, log.read_text().splitlines()) if record["event"] == "denied"]
found["allowed"] = callfence("allow", "it.policy", "--log", str(log))
found["enforced"] = started()
found["why"] = callfence("why", "it.policy", "symlinkat")
results.write_text(json.dumps(found))
