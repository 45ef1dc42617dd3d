"""Changes the source in one place at random, again and again, and counts the changes that a test notices.

    mutants.py PAGE [COUNT] [--seed N] [--only PATH ...]

A change negates a condition, swaps an operator, moves a number by one, drops a statement.  It is made in a copy of what is
committed, where all tests run first; those that fail are left out.  Then the tests that name the changed module run, then those
of its folder, until one fails.  The changes that none of them notices are tried together with all tests, since a whole run
takes minutes.  What no test notices is printed, and stands on PAGE: a person judges whether it changes what the program does.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("tracer", "policygen", "enforcer", "callfence")
TIMEOUT = 1800
"""Seconds for the tests."""
_WAITING = ("--max-worker-restart=3", "-o", "faulthandler_timeout=200", "-o", "faulthandler_exit_on_timeout=true")
"""Arguments of pytest by which a test that waits for ever fails, and has noticed the change, and others run after it."""
SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift,
    ast.RShift: ast.LShift, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult,
}  # fmt: skip
PAGE = """\
# Changes that tests notice

`make mutants` changes the source in one place at random and runs the tests, {count} times: {what}.
Of the changes of the last run (seed {seed}, commit {commit}) {noticed} of {count} were noticed, in {minutes} minutes.

| package | changes | noticed |
|---|--:|--:|
{table}

What was not noticed:

{rest}

Tests that were left out, since they fail in a pid namespace without a change (firejail and others look at process 1):

{left_out}
"""
WHAT = "it negates conditions, swaps operators, moves numbers by one, drops statements"


class Mutant(NamedTuple):
    """A change of one place in a file."""

    path: Path
    """Relative to the root of the tree."""
    line: int
    before: str
    after: str
    text: str
    """Of the whole file, changed."""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: `{self.before}` -> `{self.after}`"


def changed(node: ast.AST) -> str:
    """The node, changed; "" if it is of no kind that is changed."""
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in SWAPPED:
            return ast.unparse(ast.Compare(node.left, [SWAPPED[type(operator)]()], node.comparators))
        case ast.BoolOp():
            return ast.unparse(ast.BoolOp(SWAPPED[type(node.op)](), node.values))
        case ast.BinOp() if type(node.op) in SWAPPED:
            return ast.unparse(ast.BinOp(node.left, SWAPPED[type(node.op)](), node.right))
        case ast.UnaryOp(op=ast.Not()):
            return ast.unparse(node.operand)
        case ast.IfExp():
            return ast.unparse(ast.IfExp(node.test, node.orelse, node.body))
        case ast.Constant(value=bool() as value):
            return repr(not value)
        case ast.Constant(value=int() as value):
            return repr(value + 1)
        case ast.Return(value=ast.AST()) if not (isinstance(node.value, ast.Constant) and node.value.value is None):
            return "return None"
        case ast.Continue() | ast.Break() | ast.AugAssign() | ast.Raise():
            return "pass"
        case ast.Expr(value=ast.Call()):
            return "pass"
    return ""


def places(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that can be changed, without annotations and what is there for types alone."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "type_comment", "decorator_list"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if not isinstance(node, ast.AST) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
                continue
            if hasattr(node, "lineno") and changed(node):
                yield node
            yield from places(node)


def mutants(root: Path, source: random.Random, only: Sequence[str]) -> Iterator[Mutant]:
    """Changes at random, without end; each place that can be changed is as likely as any other."""
    paths = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    paths = [path for path in paths if any(str(path.relative_to(root)).startswith(p) for p in only)]
    every = [(path, node) for path in paths for node in places(ast.parse(path.read_text()))]
    while True:
        path, node = source.choice(every)
        text = path.read_text()
        lines = text.encode().splitlines(keepends=True)
        start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset  # type: ignore[attr-defined]
        end = sum(map(len, lines[: node.end_lineno - 1])) + node.end_col_offset  # type: ignore[attr-defined]
        new = changed(node)
        if isinstance(node, ast.expr):
            new = f"({new})"
        before = text.encode()[start:end].decode()
        after = (text.encode()[:start] + new.encode() + text.encode()[end:]).decode()
        try:
            ast.parse(after)
        except SyntaxError:
            continue  # within a text with braces
        yield Mutant(path.relative_to(root), node.lineno, " ".join(before.split()), new, after)  # type: ignore[attr-defined]


def near(root: Path, path: Path) -> list[list[str]]:
    """The tests that are nearest to a file: those that name or import its module, then the folder of tests that is its own or
    the nearest above; without any, its package's."""
    *packages, name = path.with_suffix("").parts
    package = re.escape(".".join(packages))
    module = re.compile(rf"\b{package}\.{name}\b|\b{package} import (\([^)]*|[^\n]*)\b{name}\b")
    tests = [str(file.relative_to(root)) for file in (root / "tests").rglob("test_*.py") if module.search(file.read_text())]
    folder = next(tests_of for folder in path.parents if (root / (tests_of := f"tests/{folder}")).is_dir())
    ignored = [f"--ignore={test}" for test in tests]
    runs = [*([sorted(tests)] if tests else []), *([[*ignored, folder]] if "/" in folder.removeprefix("tests/") else [])]
    return runs or [[f"tests/{path.parts[0]}"]]


ALONE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", '"$@"; exit $?', "sh")
"""Runs a command in a pid namespace whose first process takes the status of orphans, as some tests need."""


def failing(root: Path, words: Sequence[str]) -> list[str]:
    """The tests that fail, or a sentence that says why there is no list of them; `words`: arguments of pytest.  They run in a
    pid namespace, since changed code may signal anything.  Of the tests that are marked `long` none runs."""
    namespace = ALONE if os.geteuid() == 0 else ()
    pytest = [str(root / ".venv/bin/python"), "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "-m", "not long"]
    try:
        command = [*namespace, *pytest, *_WAITING, *words]
        done = subprocess.run(command, cwd=root, capture_output=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return [f"no end within {TIMEOUT} s"]
    if done.returncode in (0, 5):  # 5: there are none
        return []
    found = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout.decode(errors="replace"), re.MULTILINE)
    return found or [f"pytest ends with {done.returncode}"]


@contextmanager
def made(root: Path, changes: Sequence[Mutant]) -> Iterator[None]:
    """Make changes of different files for a while."""
    kept = {root / change.path: (root / change.path).read_bytes() for change in changes}
    try:
        for change in changes:
            (root / change.path).write_text(change.text)
        yield
    finally:
        for path, text in kept.items():
            path.write_bytes(text)
            shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)


def alone(root: Path, change: Mutant, runs: Sequence[Sequence[str]]) -> str:
    """The test that notices one change, "" if none does: the first that fails in runs of pytest, one after the other."""
    with made(root, [change]):
        return next((tests[0] for words in runs if (tests := failing(root, ["-x", *words]))), "")


def together(root: Path, changes: Sequence[Mutant]) -> Iterator[tuple[Mutant, str]]:
    """Each change with the test that notices it: all tests run with one change of each file, then the files of those that fail,
    with each change alone, until no more are noticed."""
    left = list(changes)
    while left:
        tried = list({change.path: change for change in left}.values())
        with made(root, tried):
            tests = failing(root, ["tests"])
        files = [*dict.fromkeys(test.partition("::")[0] for test in tests)]
        runs = [files if all((root / file).exists() for file in files) else ["tests"]]
        noticed = {change: test for change in tried if tests and (test := alone(root, change, runs))}
        done = list(noticed) or tried
        yield from ((change, noticed.get(change, "")) for change in done)
        left = [change for change in left if change not in done]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("count", type=int, nargs="?", default=100)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 100_000)
    parser.add_argument("--only", nargs="*", default=[""], help="beginnings of paths")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # some tests run the commands as another user
        root = Path(folder) / "tree"
        subprocess.run(["git", "clone", "-q", ROOT, root], check=True)
        subprocess.run(["make", "-s", ".venv/developer"], cwd=root, check=True, capture_output=True)
        left_out = failing(root, ["tests"])
        if any("::" not in test for test in left_out):
            sys.exit(f"nothing can be measured where the tests fail without a change: {left_out}")
        os.environ["PYTEST_ADDOPTS"] = " ".join(f"--deselect={test}" for test in left_out)
        tests_of: dict[Mutant, str] = {}
        for change in islice(mutants(root, random.Random(options.seed), options.only), options.count):
            tests_of[change] = alone(root, change, near(root, change.path))
            print(f"{tests_of[change] or 'not noticed nearby'}: {change}", file=sys.stderr, flush=True)
        for change, test in together(root, [change for change, test in tests_of.items() if not test]):
            tests_of[change] = test
            print(f"{test or 'NOT NOTICED'}: {change}", file=sys.stderr, flush=True)
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
    tried = Counter(change.path.parts[0] for change in tests_of)
    noticed = Counter(change.path.parts[0] for change, test in tests_of.items() if test)
    options.page.write_text(
        PAGE.format(
            count=len(tests_of),
            what=WHAT,
            seed=options.seed,
            commit=commit.stdout.strip(),
            noticed=noticed.total(),
            minutes=round((time.monotonic() - began) / 60),
            table="\n".join(f"| {name}/ | {tried[name]} | {noticed[name]} |" for name in PACKAGES if tried[name]),
            rest="\n".join(f"- {change}" for change, test in tests_of.items() if not test) or "nothing",
            left_out="\n".join(f"- {test}" for test in left_out) or "none",
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
