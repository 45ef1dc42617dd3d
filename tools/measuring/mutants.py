"""Changes the source in one place at random, again and again, and counts the changes that a test notices.

    mutants.py PAGE [COUNT] [--seed N] [--only PATH ...]

A change negates a condition, swaps an operator, moves a number by one, drops a statement.  It is made in a copy of what is
committed, where all tests have to pass first.  Then the tests of the changed file's folder run, then those of its package, then
all others, until one fails.
What none notices is printed, and stands on PAGE: a person judges whether it changes what the program does.
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
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("tracer", "policygen", "enforcer", "callfence")
TIMEOUT = 1800
"""Seconds for the tests; one that waits for ever has noticed the change."""
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


def folders(root: Path, path: Path) -> list[list[str]]:
    """Which tests to run, one after another: of the folder, of the package, all others."""
    package = f"tests/{path.parts[0]}"
    near = next((place for place in (f"tests/{path.parent}", package) if (root / place).is_dir()), package)
    rest = [f"--ignore={package}", "tests"]
    return [[near], *([[f"--ignore={near}", package]] if near != package else []), rest]


ALONE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", '"$@"; exit $?', "sh")
"""Runs a command in a pid namespace whose first process takes the status of orphans, as some tests need."""


def noticed_by(root: Path, tests: Sequence[Sequence[str]]) -> str:
    """The test that fails or does not end, "" if none does; `tests`: arguments of pytest for one run after the other.  They run
    in a pid namespace, since changed code may signal anything.  Of the tests that are marked `long` none runs."""
    alone = ALONE if os.geteuid() == 0 else ()
    for words in tests:
        pytest = [str(root / ".venv/bin/python"), "-m", "pytest", "-x", "-q", "-n", "2", "--dist", "loadfile", "-m", "not long"]
        try:
            done = subprocess.run([*alone, *pytest, *words], cwd=root, capture_output=True, timeout=TIMEOUT, check=False)
        except subprocess.TimeoutExpired:
            return f"no end within {TIMEOUT} s"
        if done.returncode not in (0, 5):  # 5: there are none
            failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout.decode(errors="replace"), re.MULTILINE)
            return failed[1] if failed else f"pytest ends with {done.returncode}"
    return ""


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
        if failing := noticed_by(root, [["tests"]]):
            sys.exit(f"nothing can be measured where a test fails without a change: {failing}")
        chosen, tried, noticed, rest = mutants(root, random.Random(options.seed), options.only), Counter(), Counter(), []
        for mutant in (next(chosen) for _ in range(options.count)):
            kept = (root / mutant.path).read_text()
            (root / mutant.path).write_text(mutant.text)
            test = noticed_by(root, folders(root, mutant.path))
            (root / mutant.path).write_text(kept)
            shutil.rmtree((root / mutant.path).parent / "__pycache__", ignore_errors=True)
            package = mutant.path.parts[0]
            tried[package] += 1
            noticed[package] += bool(test)
            print(f"{'noticed by ' + test if test else 'NOT NOTICED'}: {mutant}", file=sys.stderr, flush=True)
            rest += [] if test else [f"- {mutant}"]
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
    table = "\n".join(f"| {package}/ | {tried[package]} | {noticed[package]} |" for package in PACKAGES if tried[package])
    options.page.write_text(
        PAGE.format(
            count=options.count,
            what=WHAT,
            seed=options.seed,
            commit=commit.stdout.strip(),
            noticed=noticed.total(),
            minutes=round((time.monotonic() - began) / 60),
            table=table,
            rest="\n".join(rest) or "nothing",
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
