"""Makes the files of the formats of today in this folder, by real runs: `python tests/formats/make.py`, on x86_64, as root.

A file that exists is left as it is: once a version is released, its files never change.  Those of earlier formats were made by
the callfence of their time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from callfence.policygen.versions import EVENTS, EVIDENCE, LAKE, LANGUAGE, OUTPUTS, RECORDING

HERE = Path(__file__).parent
HOST = "host.example"
READS = ["/bin/sh", "-c", "read x < /etc/hostname; kill -0 $$; echo $0"]
LISTS = ["/bin/sh", "-c", "ls /etc/ssl > /dev/null"]
WRITES = ["/bin/sh", "-c", "read x < /etc/hostname; echo $x > made; kill -0 1; : < /etc/passwd; kill -0 $$"]
OTHER = """\
callfence 1
arch x86_64
implied 1

path /etc: read
tcp connect: any

kill: sig == 0
mmap: prot == PROT_READ|PROT_EXEC && flags == MAP_PRIVATE
openat: flags == O_RDONLY
ptrace: allow
socket: allow
"""
COMMANDS = {
    "carry": "carry 1.policy --to aarch64 -o carried.policy --format json",
    "check": "carry --check sections.policy --format json",
    "diff": "diff --format json 1.policy other.policy",
    "lake": "lake ask --format json lake contents",
    "lint": "lint --format json other.policy",
    "losses": "export --to oci --arch x86_64 -o exported.json --losses losses.json 1.policy",
    "report": "report --format json -o report.json --recording 4.rec 1.policy",
}
"""The command for each of versions.OUTPUTS but `status`, which needs systemd (tests/services/)."""
WRITTEN = {"losses": "losses.json", "report": "report.json"}
"""Those that are written to a file."""


def callfence(*words: str, folder: Path) -> str:
    """Run a command of callfence; return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent.parent), "HOME": str(folder)}
    command = ["unshare", "--uts", "sh", "-c", f'hostname {HOST}; exec "$@"', "sh", sys.executable, "-m", "callfence", *words]
    done = subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    return done.stdout


def imported(file: Path, source: str) -> str:
    """The policy of a recording or a log."""
    return callfence("import", "--from", source, "-o", "-", file.name, folder=file.parent)


def keep(made: Path, place: str) -> Path:
    """Put a file or folder into this folder, unless there is one; return its place."""
    kept = HERE / place
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(made, kept) if made.is_dir() else shutil.copyfile(made, kept)
    return kept


def inputs(folder: Path) -> None:
    """Put what the commands of COMMANDS read into a folder."""
    for name in (f"policy/{LANGUAGE}.policy", f"recordings/{RECORDING}.rec"):
        shutil.copyfile(HERE / name, folder / Path(name).name)
    shutil.copytree(HERE / f"lake/{LAKE}", folder / "lake")
    (folder / "other.policy").write_text(OTHER)
    (folder / "sections.policy").write_text(f"{OTHER}\narch aarch64\n\nopenat: flags == O_RDONLY\n")


def main() -> None:
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for program in (READS, LISTS):
            callfence("learn", "-q", "--files", "--write-evidence", "-o", "app.policy", "--", *program, folder=folder)
        keep(folder / "app.policy", f"policy/{LANGUAGE}.policy")
        recording = keep(folder / ".callfence" / "app.rec", f"recordings/{RECORDING}.rec")
        keep(folder / "app.evidence", f"evidence/{EVIDENCE}.evidence")
        callfence("enforce", "--audit", "--log", "app.log", "-p", "app.policy", *WRITES, folder=folder)
        while '"event": "end"' not in (folder / "app.log").read_text():
            pass
        log = keep(folder / "app.log", f"events/{EVENTS}.log")
        shutil.copyfile(recording, folder / "app.rec")
        shutil.copyfile(log, folder / "events.log")
        callfence("lake", "add", "--policy", "app", "--host", HOST, "lake", "app.rec", "events.log", folder=folder)
        keep(folder / "lake", f"lake/{LAKE}")
    for file in sorted(HERE.glob("recordings/*.rec")):
        put(file.with_suffix(".policy"), imported(file, "recording"))
    put(log.with_suffix(".policy"), imported(log, "violations"))
    for kind, command in COMMANDS.items():
        with TemporaryDirectory() as temporary:
            folder = Path(temporary)
            inputs(folder)
            printed = callfence(*command.split(), folder=folder)
            text = (folder / WRITTEN[kind]).read_text() if kind in WRITTEN else printed
            json.loads(text)
            put(HERE / f"outputs/{kind}-{OUTPUTS[kind]}.json", text)


def put(file: Path, text: str) -> None:
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)


if __name__ == "__main__":
    main()
