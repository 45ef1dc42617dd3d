"""Imports go one way (callfence -> enforcer -> policygen -> tracer.abi, callfence -> tracer), and ARCHITECTURE.md is true."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHARED = {
    "tracer.TYPE_CHECKING", "tracer.errors", "tracer.linux", "tracer.machine", "tracer.named", "tracer.pids", "tracer.proc",
    "tracer.stops", "tracer.running.child", "tracer.abi", "tracer.unwinding",
}  # fmt: skip
"""What every package may import: the kinds of errors, the kernel's numbers, what differs between machines, named tuples, the
calls that name a process, what /proc says and what a wait status says (no imports of their own but these), the one fork, the
ABI's tables, and who made a call."""
MAY_IMPORT = {
    **dict.fromkeys(SHARED, SHARED),
    "tracer": {"tracer", *SHARED},
    "policygen": {"policygen", *SHARED},
    "enforcer": {"enforcer", "policygen", *SHARED},
    "callfence": {"callfence", "enforcer", "policygen", "tracer", *SHARED},
}
ONE_PLACE = {
    "ptrace": "tracer/kernel.py",
    "pyseccomp": "policygen/filter/libseccomp.py",
    "rich": "callfence/shared/terminal.py",
    "yaml": "policygen/formats/containers/files.py",
    "opentelemetry": "callfence/shipping/otlp.py",
    "duckdb": "callfence/lake/engine.py",
    "pyarrow": "callfence/lake/parquet.py",
}


LAYERS = {
    "tracer": """
        errors linux named pids
        machine
        abi proc stops
        task unwinding
        kernel processor
        calls
        aims faults tally
        family late
        loop
        running
    """,
    "policygen": """
        text
        errors paths reading values versions
        evidence hosts
        grants
        model recording
        holds phases
        language
        sets
        implied
        equivalents evaluate
        files filter
        comparing lint
        learning
        completeness formats merging narrowing review
    """,
    "enforcer": """
        errors
        kernel importer alarms
        bpf confinement execution helper hub listener waiting
        guard pending
        files hosts
        reporting
        duty
        arming
        launch
        spawning
    """,
    "callfence": """
        shared start
        judging
        asking
        enforcing
        companion
        learning
        carrying diagnosing lake report shell shipping
        commands
        services
        api cli spawner
        __main__ pytest_plugin
    """,
}
"""The layers of each package, lowest first: a unit, which is a folder or a module of the package, imports only from the layers
below its own, never from its peers.  What the package itself (`__init__`) imports does not count."""


def _source(module: str) -> str:
    """The module by its place in the sources: they have the folders tracer, policygen and enforcer beside callfence."""
    folder = module.removeprefix("callfence.")
    return folder if folder.split(".")[0] in LAYERS else module


def _folder(name: str) -> str:
    return next((one for one in SHARED if f"{name}.".startswith(f"{one}.")), name.split(".")[0])


def _imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it; `from a import b` counts as a.b as well."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            is_tracer = node.module == "callfence.tracer"
            found.update({f"{node.module}.{alias.name}" for alias in node.names} if is_tracer else {node.module})
    assert not any(name.split(".")[0] in LAYERS.keys() - {"callfence"} for name in found), f"{path}: callfence is the only name"
    return {*map(_source, found)}


FILES = sorted(path for folder in ("tracer", "policygen", "enforcer", "callfence") for path in (ROOT / folder).rglob("*.py"))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    relative = path.relative_to(ROOT)
    own = _folder(".".join(relative.with_suffix("").parts))
    for name in _imports(path):
        folder = _folder(name)
        if folder in MAY_IMPORT:
            assert folder in MAY_IMPORT[own], f"{relative} imports {name}"
        if folder in ONE_PLACE:
            assert str(relative) == ONE_PLACE[folder], f"{relative} imports {name}"


def test_named_tuples_are_ours() -> None:
    """Those of `typing` take each start three times as long."""
    those = [path for path in FILES if re.search(r"from typing import .*\bNamedTuple\b", path.read_text())]
    assert those == [ROOT / "tracer/named.py"]


def test_there_is_one_fork() -> None:
    """The others are clones of the enforcer's, which have flags of their own."""
    those = [path for path in FILES if re.search(r"\bos\.(fork|forkpty)\b|preexec_fn", path.read_text())]
    assert those == [ROOT / "tracer/running/child.py"]


@pytest.mark.parametrize(("module", "place"), ONE_PLACE.items())
def test_the_one_place_exists(module: str, place: str) -> None:
    """Otherwise the rule above would hold for a module that is never imported."""
    assert module in {name.split(".")[0] for name in _imports(ROOT / place)}


def _files(path: Path) -> set[str]:
    """The modules, of MODULES, that a file imports by name, also for types and within functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(_source(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            names = {_source(f"{node.module}.{alias.name}") for alias in node.names}
            found.update(name if name in MODULES else _source(str(node.module)) for name in names)
    return found & MODULES.keys()


def test_no_files_import_each_other() -> None:
    try:
        TopologicalSorter({module: _files(path) for module, path in MODULES.items()}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def _unit(module: str) -> str:
    """The folder or module of its package that a module is in; '' for the package itself."""
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("package", LAYERS)
def test_layers_import_what_is_below(package: str) -> None:
    """Also for types, and within functions."""
    layers = [line.split() for line in LAYERS[package].split("\n") if line.strip()]
    place = {unit: number for number, layer in enumerate(layers) for unit in layer}
    own = [module for module in MODULES if module.startswith(f"{package}.")]
    assert {*map(_unit, own)} == {*place}
    imports = [(module, name) for module in own for name in sorted(_files(MODULES[module])) if name.startswith(f"{package}.")]
    inner = [(module, name) for module, name in imports if _unit(module) != _unit(name)]
    wrong = [f"{module} imports {name}" for module, name in inner if place[_unit(name)] >= place[_unit(module)]]
    assert not wrong


PAGE = (ROOT / "ARCHITECTURE.md").read_text()
TOP = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
PATHS = sorted(set(re.findall(rf"(?<![\w./])(?:{TOP})/[\w./-]*\w/?", PAGE)))
PACKAGES = sorted({str(path.parent.relative_to(ROOT)) for path in FILES})
OTHERS = [path for folder in ("tests", "tools", "bench") for path in (ROOT / folder).rglob("*.py")]
FOLDERS = sorted({str(path.parent.relative_to(ROOT)) for path in (*FILES, *OTHERS)})


@pytest.mark.parametrize("package", LAYERS)
def test_the_page_draws_the_layers(package: str) -> None:
    """The highest first, each in a line of its own."""
    layers = [" ".join(line.split()) for line in LAYERS[package].split("\n") if line.strip()]
    drawn = r"\n +".join(map(re.escape, reversed(layers)))
    assert re.search(rf"^    {package} +{drawn}$", PAGE, re.MULTILINE)


def test_the_page_names_paths() -> None:
    """Otherwise the tests below would check nothing."""
    assert len(PATHS) > 100


@pytest.mark.parametrize("name", PATHS)
def test_a_path_that_the_page_names_exists(name: str) -> None:
    assert (ROOT / name).exists()
    assert (ROOT / name).is_dir() == name.endswith("/")


NAMED = sorted(
    {
        (name, path)
        for names, path in re.findall(r"((?:`[\w.]+`(?:, | and ))*`[\w.]+`) in `([\w/]+\.py)`", PAGE)
        for name in re.findall(r"`([\w.]+)`", names)
    }
)


def test_the_page_says_what_is_in_files() -> None:
    """Otherwise the test below would check nothing."""
    assert len(NAMED) > 20


@pytest.mark.parametrize(("name", "path"), NAMED)
def test_what_the_page_says_is_in_a_file_is_there(name: str, path: str) -> None:
    for part in name.split("."):
        assert re.search(rf"\b{part}\b", (ROOT / path).read_text())


@pytest.mark.parametrize("package", PACKAGES)
def test_the_page_names_the_package(package: str) -> None:
    assert re.search(rf"^ +{re.escape(package)}/ ", PAGE, re.MULTILINE)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_package_says_what_it_is_for(package: str) -> None:
    assert ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text()))


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_is_small_enough_to_be_read(folder: str) -> None:
    assert len(list((ROOT / folder).glob("*.py"))) <= 16
