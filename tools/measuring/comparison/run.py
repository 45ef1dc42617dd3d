#!/usr/bin/env python3
"""run.py FOLDER MINIJAIL SHH [TOOL ...]: measures the tables of docs/comparison.md, and writes them into the page.

As root, on Debian with firejail, firejail-profiles, bubblewrap, strace, patchelf, gcc, systemd, python3-venv, git, curl,
sqlite3 and redis.  All runs are in a system of its own (tests/support/system.sh), of which nothing is left.  FOLDER gets a
virtual environment with callfence, sandlock and nono-py, and what was measured, with all outputs; MINIJAIL is a checkout of
minijail in which minijail0 and libminijailpreload.so are built, SHH the program of that name.  With TOOLs only these are
measured, and the page stays as it is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from page import PAGE, RESULTS, abridged, written

ROOT = Path(__file__).resolve().parent.parent.parent.parent
PEERS = ("sandlock==0.9.0", "nono-py==0.16.0")


def prepare(folder: Path, minijail: Path, shh: Path) -> None:
    ignore = shutil.ignore_patterns(".venv", ".git", "build", "__pycache__", ".*_cache")
    for name in ("checkout", "venv"):
        shutil.rmtree(folder / name, ignore_errors=True)
    shutil.copytree(ROOT, folder / "checkout", symlinks=True, ignore=ignore)
    shutil.copytree(minijail, folder / "minijail", symlinks=True, dirs_exist_ok=True)
    shutil.copy(shh, folder / "shh")
    install = f"/usr/bin/python3 -m venv /mnt/venv && /mnt/venv/bin/pip install -q /mnt/checkout {' '.join(PEERS)}"
    inside(folder, ["sh", "-c", install])


def inside(folder: Path, command: list[str]) -> None:
    subprocess.run(["bash", ROOT / "tests/support/system.sh", folder, *command], check=True)


def main() -> None:
    folder, minijail, shh, *tools = sys.argv[1:]
    place = Path(folder).resolve()
    prepare(place, Path(minijail), Path(shh))
    inside(place, ["/usr/bin/python3", "/mnt/checkout/tools/measuring/comparison/measure.py", *tools])
    if not tools:
        results = abridged(json.loads((place / "results.json").read_text()))
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        PAGE.write_text(written(PAGE.read_text(), results))


if __name__ == "__main__":
    main()
