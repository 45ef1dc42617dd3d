"""`learn` loads its modules from one file, which its runs write, and which changes nothing but the time it takes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import pytest

from enforcer.kept import code_of, keep

ROOT = Path(__file__).parents[2]
WHERE = r"""
import sys
from enforcer import sealed
sealed.prefer(sealed.LOADED)
import callfence.learning.store, policygen.language.document, bisect, json
for module in (callfence.learning.store, policygen.language.document, json, bisect):
    print(module.__name__, type(module.__loader__).__name__)
"""
SEARCHED = r"""
import sys
from enforcer import sealed
class Spy:
    def find_spec(self, name, path=None, target=None):
        print(name)
sys.meta_path.insert(0, Spy())
sealed.prefer(sealed.LOADED)
import json
"""
MEMORY = ["callfence.learning.store Loader", "policygen.language.document Loader", "json Loader"]
FILES = ["callfence.learning.store SourceFileLoader", "policygen.language.document SourceFileLoader", "json SourceFileLoader"]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A copy of callfence that nobody has run."""
    for name in ("callfence", "enforcer", "policygen", "tracer"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "enforcer/__pycache__").mkdir()
    return tmp_path


def run(folder: Path, *words: str | Path, path: str = "", **variables: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = {**kept, "PYTHONPATH": f"{path}{folder}", **variables}
    work = folder / "work"
    work.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, *words], cwd=work, env=environment, check=False, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def learn(folder: Path, **variables: str) -> None:
    run(folder, folder / "callfence/bin/learn", "-q", "--fresh", "true", **variables)


def where(folder: Path) -> list[str]:
    return run(folder, "-c", WHERE).splitlines()


def kept(folder: Path) -> list[Path]:
    return [*(folder / "enforcer/__pycache__").glob("loaded.*.code")]


@pytest.mark.parametrize("cut", [1, 1000, 10**9])
def test_a_file_that_is_cut_is_not_used(installed: Path, cut: int) -> None:
    learn(installed)
    (file,) = kept(installed)
    file.write_bytes(file.read_bytes()[:-cut])
    assert where(installed)[:3] == FILES
    learn(installed)
    assert where(installed)[:3] == MEMORY


def test_a_run_writes_what_the_next_one_loads(installed: Path) -> None:
    assert where(installed)[:3] == FILES
    learn(installed)
    (file,) = kept(installed)
    assert where(installed)[:3] == MEMORY
    for _ in range(5):  # a run that the machine lets wait loads more, beforehand
        written = file.stat()
        learn(installed)
        if file.stat() == written:
            break
    else:
        pytest.fail("each run wrote the file")
    policy = (installed / "work/true.policy").read_bytes()
    learn(installed, PYTHONDONTWRITEBYTECODE="1")
    assert (installed / "work/true.policy").read_bytes() == policy


@pytest.mark.skipif("_json" in sys.builtin_module_names, reason="this Python has no file of _json")
def test_compiled_modules_are_not_searched_for(installed: Path) -> None:
    assert "_json" in run(installed, "-c", SEARCHED).split()
    learn(installed)
    assert "_json" not in run(installed, "-c", SEARCHED).split()


def test_what_a_run_needs_besides_is_added(installed: Path) -> None:
    learn(installed)
    (file,) = kept(installed)
    before = file.stat().st_size
    run(installed, installed / "callfence/bin/learn", "-q", "--fresh", "--files", "true")
    assert file.stat().st_size > before
    assert where(installed)[:3] == MEMORY


def test_a_source_that_has_changed_counts(installed: Path) -> None:
    learn(installed)
    store = installed / "callfence/learning/store.py"
    store.write_text(store.read_text() + "\nCHANGED = True\n")
    assert where(installed)[:3] == FILES
    learn(installed)
    assert where(installed)[:3] == MEMORY


def test_nothing_is_kept_from_elsewhere_or_unasked(installed: Path) -> None:
    learn(installed, PYTHONDONTWRITEBYTECODE="1")
    assert not kept(installed)
    run(installed, "-m", "callfence", "learn", "-q", "--fresh", "true")
    assert not kept(installed)
    theirs = installed / "theirs"
    theirs.mkdir()
    shutil.copy(shutil.__file__.replace("shutil", "bisect"), theirs / "bisect.py")
    run(installed, installed / "callfence/bin/learn", "-q", "--fresh", "true", path=f"{theirs}:")
    assert kept(installed)
    assert where(installed) == [*MEMORY, "bisect SourceFileLoader"]


def test_what_python_has_not_compiled_is_compiled(tmp_path: Path) -> None:
    source = tmp_path / "new.py"
    source.write_text("value = 1\n")
    assert code_of(str(source)).startswith(MAGIC_NUMBER)
    assert code_of(str(source), compiles=False) == source.read_bytes()


def test_what_cannot_be_kept_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "loaded.code"
    folder.mkdir()
    keep(str(folder), {}, {}, b"content")
    assert [*tmp_path.iterdir()] == [folder]
