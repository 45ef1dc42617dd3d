"""What the helper imports to describe a call is what was noted when its policy was compiled, whatever happens to the files."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent
NOTE = r"""
import sys
sys.path.insert(0, ROOT)
from callfence.enforcing import command
from callfence.enforcer import importer
sys.stdout.buffer.write(importer.files())
"""
DESCRIBE = r"""
import os, sys
sys.path.insert(0, ROOT)
from callfence.enforcing import command, filters
from callfence.enforcer import importer
from callfence.enforcer.reporting.settings import Reporting
with open("note", "rb") as file:
    note = file.read()
code = importer.Importer(importer.without_digests(note) if sys.argv[1] == "elsewhere" else note)
for path in list(sys.path_importer_cache): del sys.path_importer_cache[path]
code.seal()
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name not in ("org", "nt", "_winapi", "_opcode", "_datetime"): missing.append(name)
missing = []
sys.meta_path.append(Finder())
opened = []
sys.addaudithook(lambda event, arguments: opened.append(arguments[0]) if event == "open" else None)
import callfence.enforcer.duty
from callfence.enforcer.listener import Notification, StoppedRequest
from callfence.enforcer.reporting.destination import LINES, TEXT, Destination
from callfence.enforcer.reporting.events import Log
from callfence.enforcer.reporting.output import Output
from callfence.enforcer.reporting.report import Reports
from callfence.enforcer.reporting.verdict import Verdicts
from callfence.tracer.abi import COMPAT, NATIVE
calls = "read: fd == 0 || fd == 3\nopenat: flags in O_CLOEXEC\nmmap: prot == PROT_READ\n"
text = f"arch {COMPAT}\nread: allow\narch {NATIVE}\n{calls}".encode()
for json in (False, True):
    policies = lambda: [("x.policy", filters.parsed("x.policy", text, lambda name: b"").policy)]
    destination = Destination(2, LINES if json else TEXT)
    reporting = Reporting(destination, policies, audit=False, log=Log(destination, []) if json else None)
    if json:
        reporting.log.start = {"command": ["app", "--key=x"]}
    reports, verdicts = Reports(reporting, Output(reporting)), Verdicts(policies())
    for arch in (0xC000003E, 0x40000003, 0xC00000B7, 5):
        for number in (0, 9, 11, 16, 41, 56, 72, 157, 257, 4000, 0x40000001):
            asked = Notification(1, os.getpid(), 0, number, arch, 77)
            for index in range(6):
                asked.arguments[index] = 0xFFFFFFFFFFFFFFFF >> 8 * index
            asked = StoppedRequest(asked, "")
            reports.report(asked, verdicts.of(asked.event(), ""))
    reports.summarise()
files = [str(name) for name in opened if not str(name).startswith("/proc/")]
print(missing, [name for name in files if sys.argv[1] == "elsewhere" or not name.endswith((".pyc", ".tsv"))])
"""


def run(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", script.replace("ROOT", repr(str(folder))), *arguments]
    return subprocess.run(command, check=False, capture_output=True, timeout=60, cwd=folder, env=environment)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of callfence, compiled, and a note of what describing takes."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(ROOT / "callfence", folder / "callfence", ignore=shutil.ignore_patterns("__pycache__"))
    for _ in range(2):  # of the first, what is imported later has not been compiled by Python when it is noted
        (folder / "note").write_bytes(run(folder, NOTE).stdout)
    return folder


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_nothing_is_missing(installed: Path, where: str) -> None:
    """And only compiled modules and tables are read, or, without digests, no file."""
    done = run(installed, DESCRIBE, where)
    assert (done.returncode, done.stdout) == (0, b"[] []\n"), done.stderr[-3000:]
    assert done.stderr.count(b"denied") > 20
    assert done.stderr.count(b'"call"') > 20
    assert b"could not be described" not in done.stderr


@pytest.mark.parametrize("which", ["policygen/model.py", "policygen/__pycache__/model.*.pyc", "tracer/abi/constants.tsv"])
def test_a_file_that_was_changed_is_not_read(installed: Path, tmp_path: Path, which: str) -> None:
    """A module that was compiled anew is compiled of its source, which is the same."""
    folder = tmp_path / "copy"
    shutil.copytree(installed, folder)
    (folder / "note").write_bytes(run(folder, NOTE).stdout)
    (file,) = folder.glob(f"callfence/{which}")
    file.write_bytes(file.read_bytes() + b"# changed")
    done = run(folder, DESCRIBE, "here")
    if which.endswith(".pyc"):
        assert f"[] ['{folder}/callfence/policygen/model.py']\n" == done.stdout.decode(), done.stderr[-3000:]
    elif which.endswith(".tsv"):
        assert b"has been changed" in done.stderr
    else:  # the compiled module is what was noted
        assert done.stdout == b"[] []\n", done.stderr[-3000:]
    for path in folder.glob("callfence/policygen/__pycache__/model.*"):
        path.unlink()
    if which == "policygen/model.py":
        done = run(folder, DESCRIBE, "here")
        assert b"model.py has been changed" in done.stderr


FULL = """
import os, resource, sys
sys.path.insert(0, ROOT)
from callfence.enforcer import importer
with open("note", "rb") as file:
    code = importer.Importer(file.read())
code.seal()
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1,) * 2)
try:
    import callfence.policygen.model
except OSError as error:
    print(error.strerror)
"""


def test_a_file_that_cannot_be_opened_for_lack_of_descriptors_is_not_called_changed(installed: Path) -> None:
    assert run(installed, FULL).stdout == b"Too many open files\n"


def test_what_another_python_noted_does_not_count(installed: Path, tmp_path: Path) -> None:
    """It is noted again, at the start."""
    (installed / "note").write_bytes(run(installed, NOTE).stdout)
    text = (installed / "note").read_bytes()
    try:
        (installed / "note").write_bytes(b"3.0\n\n0policygen/none.py - -")
        done = run(installed, DESCRIBE, "here")
        assert done.stdout == b"[] []\n", done.stderr[-3000:]
    finally:
        (installed / "note").write_bytes(text)


def late_imports(path: Path) -> Iterator[str]:
    """The modules of ours that functions of a module import."""
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


UNNEEDED = (
    "callfence", "callfence.enforcer.arming", "callfence.enforcer.files.landlock", "callfence.policygen.comparing",
    "callfence.policygen.files.ruleset", "callfence.policygen.filter", "callfence.policygen.learning.generate",
    "callfence.policygen.learning.warm", "callfence.tracer.kernel",
)  # fmt: skip
"""What compiling takes, and entering a phase, which `enforcer.arming.confining` imports before."""


def test_what_functions_import_is_noted(installed: Path) -> None:
    """A module that only a function imports is no part of what importing brings."""
    note = run(installed, NOTE).stdout.decode()
    lines = note.split("\n")[2:]
    noted = [line.split(" ")[0][1:] for line in lines if line.startswith("0") and ".py " in line]
    names = {path[:-3].replace("/", ".").removesuffix(".__init__") for path in noted}
    needed = {
        (name, module)
        for name in names
        for path in (installed / f"{name.replace('.', '/')}.py",)
        if path.exists()
        for module in late_imports(path)
        if (installed / f"{module.replace('.', '/')}.py").exists()
    }
    assert needed
    assert {pair for pair in needed if pair[1] not in names and not pair[1].startswith(UNNEEDED)} == set()
