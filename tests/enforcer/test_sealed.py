"""What the helper may need to import is in memory before the program runs, and it imports nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DESCRIBE = r"""
import os, sys, tempfile
sys.path.insert(0, ROOT)
from callfence.enforcing import command, filters
from enforcer import kept
from enforcer.reporting.reporter import Reporter
code = kept.read()
for path in list(sys.path_importer_cache): del sys.path_importer_cache[path]
code.seal()
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name not in ("org", "nt", "_winapi", "_json", "_opcode", "_datetime", "_bisect", "_heapq"): missing.append(name)
missing = []
sys.meta_path.append(Finder())
opened = []
sys.addaudithook(lambda event, arguments: opened.append(arguments[0]) if event == "open" else None)
from enforcer.reporting import answer, end
from enforcer.reporting.listener import Notification, stopped
from enforcer.reporting.report import Reports
from enforcer.reporting.verdict import Verdicts, event_of
text = b"arch i386\nread: allow\narch x86_64\nread: fd == 0 || fd == 3\nopenat: flags in O_CLOEXEC\nmmap: prot == PROT_READ\n"
for json in (False, True):
    policies = lambda: [("x.policy", filters.parsed("x.policy", text, lambda name: b"").policy)]
    reports, verdicts = Reports(Reporter(2, policies, json=json, audit=False)), Verdicts(policies())
    for arch in (0xC000003E, 0x40000003, 0xC00000B7, 5):
        for number in (0, 9, 11, 16, 41, 56, 72, 157, 257, 4000, 0x40000001):
            asked = Notification(1, os.getpid(), 0, number, arch, 77)
            for index in range(6):
                asked.arguments[index] = 0xFFFFFFFFFFFFFFFF >> 8 * index
            asked = stopped(asked, "")
            reports.report(asked, verdicts.of(event_of(asked), ""))
    reports.summarise()
print(missing, [name for name in opened if not str(name).startswith("/proc/")])
"""


@pytest.mark.parametrize("kept", [True, False])
def test_nothing_is_missing_and_no_file_is_opened(kept: bool, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(2 if kept else 1):  # the second one reads what the first one has kept
        command = [sys.executable, *([] if kept else ["-B"]), "-c", DESCRIBE.replace("ROOT", repr(str(ROOT)))]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment)
        assert (done.returncode, done.stdout) == (0, "[] []\n"), done.stderr[-3000:]
        assert done.stderr.count("denied") > 20
        assert done.stderr.count('"call"') > 20
        assert "could not be described" not in done.stderr


KEEP = r"""
import os, sys
sys.path.insert(0, ROOT)
from enforcer import kept, sealed
kept.read()
code = sealed.kept()
modules = [name for name in code.index if not name.startswith("/")]
print(len(modules) > 80, [name for name in modules if not code._of(name).startswith(sealed.MAGIC_NUMBER)])
sealed.prefer()
import policygen.model, tracer.loop
print(policygen.model.__loader__ is sys.meta_path[0], os.path.exists(policygen.model.__file__), tracer.loop.__file__)
sys.meta_path.pop(0)
os.utime(sealed.__file__.replace("sealed", "text"), (1, 1))
print(sealed.kept())
"""


def test_what_is_kept_is_compiled_and_up_to_date(tmp_path: Path) -> None:
    for name in ("callfence", "enforcer", "policygen", "tracer"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", KEEP.replace("ROOT", repr(str(tmp_path)))]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment)
    assert done.stdout == f"True []\nTrue True {tmp_path}/tracer/loop.py\nNone\n", done.stderr[-3000:]


CHANGED = r"""
import sys
sys.path.insert(0, ROOT)
from enforcer import kept, sealed
kept.read()
sealed.prefer()
open(sealed.KEPT, "r+b").write(b"x" * (1 << 22))
try:
    import policygen.model
except ImportError as error:
    print(error)
"""


def test_code_that_was_changed_after_the_start_is_not_imported(tmp_path: Path) -> None:
    for name in ("callfence", "enforcer", "policygen", "tracer"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", CHANGED.replace("ROOT", repr(str(tmp_path)))]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment)
    assert done.stdout.endswith(".code has been changed\n"), done.stderr
