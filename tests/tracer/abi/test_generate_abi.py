"""tools/generate_abi.py: what it writes is what is committed, and it says what it cannot do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from needed import require

ROOT = Path(__file__).resolve().parents[3]
TRACEFS = Path("/sys/kernel/tracing/events/syscalls")


def run(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "tools/generate_abi.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The generator with its inputs and outputs, to be spoilt."""
    require("linux-libc-dev", "gcc")
    if os.geteuid() or not TRACEFS.is_dir():
        pytest.skip("needs root, and tracefs at /sys/kernel/tracing")
    shutil.copytree(ROOT / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tracer").mkdir()
    shutil.copytree(ROOT / "tracer/abi", tmp_path / "tracer/abi", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_tables_are_what_the_kernel_says(copy: Path) -> None:
    done = run(copy, "--check")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.count("rows equal") == 4


def test_generating_changes_nothing_but_versions(copy: Path) -> None:
    if not os.uname().release.startswith("6.18."):
        pytest.skip("the tables are from Linux 6.18")
    assert run(copy).returncode == 0
    for path in sorted((copy / "tracer/abi").glob("syscalls_*.tsv")):
        said, committed = (one.read_text().splitlines() for one in (path, ROOT / "tracer/abi" / path.name))
        assert [line for line in said if line[0] != "#"] == [line for line in committed if line[0] != "#"]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_check_shows_a_difference(copy: Path) -> None:
    edit(copy / "tracer/abi/syscalls_x86_64.tsv", "prot:unsigned long:u64:protection", "prot:unsigned long:u64:flags")
    done = run(copy, "--check")
    assert done.returncode == 1
    assert "+9\tmmap\t" in done.stdout and "-9\tmmap\t" in done.stdout


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("kinds.tsv", "madvise,process_madvise\tbehavior", "madvise\tbehavior", "process_madvise: no row"),
        ("kinds.tsv", "flock\tcmd", "flock,flok\tcmd", "no call has flok"),
        ("signatures.tsv", "nice\tint increment", "nice\tfoo_t increment", "a type that tools/abi_kinds.py does not know"),
        ("signatures.tsv", "nice\tint increment", "nice\tloff_t increment", "wider than a register"),
    ],
)
def test_a_mistake_in_an_input_is_an_error(copy: Path, file: str, old: str, new: str, message: str) -> None:
    edit(copy / "tools" / file, old, new)
    done = run(copy)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_call_without_a_source_is_named(copy: Path) -> None:
    edit(copy / "tools/signatures.tsv", "kexec_load\t", "kexec_lode\t")
    assert "kexec_load: describe them in tools/signatures.tsv" in run(copy).stderr
    done = run(copy, "--check")
    assert done.returncode == 0
    assert "not compared, no source here: kexec_load" in done.stdout
