"""Installations of callfence that every user may execute, as pip leaves them, without a network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PYTHON = "/usr/bin/python3"
"""One that every user may execute, and that is not in a home."""


def copy_needed(site: Path) -> None:
    """Copy what callfence needs from the tests' own environment into a folder of packages."""
    (others,) = {path for path in sys.path if path.endswith("site-packages")}
    for package in ("ptrace", "pyseccomp.py", "rich", "pygments", "markdown_it", "mdurl"):
        path = Path(others) / package
        (shutil.copytree if path.is_dir() else shutil.copy)(path, site / package)


def install(folder: Path, prefix: str | Path = "") -> None:
    """Install callfence and what it needs into a virtual environment in `folder`, which is to be run as `prefix` (default: as
    `folder`)."""
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    (site,) = (folder / "lib").glob("python3*/site-packages")
    shutil.copytree(ROOT / "callfence", site / "callfence", ignore=shutil.ignore_patterns("__pycache__"))
    copy_needed(site)
    for name in ("callfence", "callfence-sh", "enforce", "learn"):
        script = folder / "bin" / name
        lines = (ROOT / "callfence" / "bin" / name).read_text().splitlines(keepends=True)
        script.write_text("".join([f"#!{prefix or folder}/bin/python3\n", *lines[1:]]))
        script.chmod(0o755)
    subprocess.run([folder / "bin/python3", "-m", "compileall", "-q", site], check=True, timeout=120)
