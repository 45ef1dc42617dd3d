"""`callfence lake`: recordings and logs of many hosts as Parquet files, which are folded, and answer questions."""

from __future__ import annotations

import argparse
import time
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from callfence.lake.schema import OF_A_POLICY, QUESTIONS
from callfence.policygen.text import pip_install
from callfence.shared.inputs import document, print_error, print_lines, run_command
from callfence.shared.options import Parser
from callfence.shared.outputs import as_output
from callfence.shared.text import plural
from callfence.tracer.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from callfence.lake.adding import Source
    from callfence.lake.engine import Lake, Parameter
    from callfence.lake.identity import Identity

DESCRIPTION = """\
Keep the recordings and logs of many hosts as Parquet files in the folder LAKE, and ask about them in SQL (the `lake` extra,
docs/install.md).

`add` adds recordings, and logs that `enforce --log` wrote, each once; of a FOLDER all *.rec, *.log and *.log.N files, also in
folders below.  `fold` writes the recording that `callfence merge` makes of the recordings.  `ask` answers a QUESTION:

  contents   what the lake has of each policy, and what is unknown about it
  new        which rules only hosts with the version of --since, or a newer
             one, needed
  denied     which hosts denied what in the last days
  log        the same as a log for `callfence review --log`, each line once
  used       which rules of POLICY its runs used in the last days
  stale      which rules of POLICY they did not use
  safe       whether it is safe to enforce each policy: no new rule and
             nothing denied in the last days, on enough hosts"""

USAGE = (
    "callfence lake add [--host HOST] [--version VERSION] [--policy NAME] [--layout PATTERN] LAKE FILE|FOLDER ...",
    "callfence lake fold [OPTION ...] -o OUT LAKE",
    "callfence lake ask [OPTION ...] LAKE QUESTION [POLICY]",
)
WORKS = ("add", "fold", "ask")
_MANY_DAYS = 100_000
_ONLY_ADD, _ONLY_FOLD = ("layout",), ("output",)
_ONLY_ASK = ("since", "days", "hosts", "chance", "now", "format", "print_sql", "engine")


def parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="callfence lake",
        usage="\n       ".join(USAGE),
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--host", help="add: the host of the files; else: only of this host")
    add("--version", metavar="VERSION", dest="of_version", help="add: the version of the program; else: only of this version")
    add("--policy", metavar="NAME", help="add: the name of the policy (default: of the file); else: only of this policy")
    layout = "add: what the paths say, with {host}, {version}, {policy} and * (default, below a FOLDER: {host}/*)"
    add("--layout", metavar="PATTERN", help=layout)
    add("-o", "--output", metavar="OUT", type=Path, help="fold: NAME.rec")
    add("--since", metavar="VERSION", help="ask new: the first of the new versions")
    add("--days", metavar="N", type=float, help="ask: the last N days (default: 30)")
    add("--hosts", metavar="M", type=int, help="ask safe: how many hosts must have run the program (default: 1)")
    add("--chance", metavar="P", type=float, help="ask safe: the highest chance that a run needs another rule (default: 0.05)")
    add("--now", metavar="TIME", help="ask: the end of the last days, in ISO 8601 (default: now)")
    add("--format", choices=["text", "json"], help="ask: default: text")
    add("--print-sql", action="store_true", default=None, help="ask: print the question as SQL, and do not ask it")
    add("--engine", choices=["duckdb", "spark", "clickhouse"], help="ask --print-sql: whose SQL is printed (default: duckdb)")
    add("--memory", metavar="SIZE", help="fold, ask: the most memory that DuckDB takes, such as 4GB (default: 80%% of all)")
    add("work", metavar="add|fold|ask", choices=WORKS, help="what is done")
    add("lake", metavar="LAKE", type=Path, help="the folder with the Parquet files; `add` creates it")
    add("inputs", metavar="FILE", nargs="*", help="add: recordings, logs and folders; ask: the question, and a policy")
    return parser


def main(arguments: list[str]) -> int:
    """Run `lake`.  Return 0; or 1 if files or lines were not added, or if it is not safe to enforce; or 2 if the lake cannot be
    read or written, a package is missing, or the command line has a mistake."""
    command = parser()
    options = command.parse_intermixed_args(arguments)
    others = {"add": (*_ONLY_FOLD, *_ONLY_ASK, "memory"), "fold": (*_ONLY_ADD, *_ONLY_ASK), "ask": (*_ONLY_ADD, *_ONLY_FOLD)}
    for name in others[options.work]:
        if getattr(options, name) is not None:
            command.error(f"{options.work} does not take {'-o' if name == 'output' else '--' + name.replace('_', '-')}")
    if options.work == "add" and not options.inputs:
        command.error("add takes LAKE FILE ...")
    if options.work == "fold" and (options.inputs or options.output is None or options.output.suffix != ".rec"):
        command.error("fold takes LAKE and -o NAME.rec")
    if options.work == "ask":
        _check_question(command, options)

    def work() -> int:
        for package in ("duckdb", "pyarrow"):
            if find_spec(package) is None:
                raise UserError(f"the package `{package}` is missing: {pip_install('lake')}")
        return {"add": _add, "fold": _fold, "ask": _ask}[options.work](options)

    return run_command("lake", work)


def _check_question(command: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    question, *policy = options.inputs or [""]
    if question not in QUESTIONS:
        command.error(f"ask takes LAKE QUESTION, one of {', '.join(QUESTIONS)}")
    if len(policy) != (question in OF_A_POLICY):
        command.error(f"ask {question} takes {'one' if question in OF_A_POLICY else 'no'} POLICY")
    if options.engine is not None and not options.print_sql:
        command.error("--engine is for --print-sql: DuckDB answers")
    if (question == "new") != (options.since is not None):
        command.error("--since VERSION is for `ask LAKE new`, which needs it")


def _add(options: argparse.Namespace) -> int:
    from callfence.lake import adding, parquet

    whose = _identity(options)
    parquet.create(options.lake)
    added = adding.add(options.lake, adding.sources([*map(Path, options.inputs)]), whose, print_error)
    counts = [f"{plural(added.added, 'file')} added"]
    counts += [f"{added.known:,} there already"] * bool(added.known)
    counts += [f"{added.damaged:,} not added"] * bool(added.damaged)
    counts += [f"{plural(added.skipped, 'line')} of logs not added"] * bool(added.skipped)
    counts += [f"{added.other:,} *.log files of other programs"] * bool(added.other)
    print_error(f"callfence lake: {', '.join(counts)}")
    if added.hostless:
        print_error(f"callfence lake: the host of {plural(added.hostless, 'recording')} is unknown: give --host or --layout")
    return int(bool(added.damaged or added.skipped))


def _identity(options: argparse.Namespace) -> Callable[[Source], Identity]:
    """Return the function that says whose a file is: what options say, then the path."""
    from callfence.lake.identity import Identity, layout

    given = Identity(options.host or "", options.of_version or "", options.policy or "")
    by_path = layout(options.layout or "{host}/*")

    def whose(source: Source) -> Identity:
        is_read = options.layout is not None or not (source.is_named or source.below.startswith(".callfence/"))
        return given.over(by_path(source.below)) if is_read else given

    return whose


def _fold(options: argparse.Namespace) -> int:
    from callfence.lake import folding
    from callfence.policygen.recording import atomic

    with _opened(options) as lake:
        names = [name for (name,) in lake.rows("SELECT DISTINCT policy FROM runs ORDER BY policy")]
        if not names:
            raise UserError(f"{options.lake} has no recording{' of these' if _only(options) else ''}")
        if len(names) > 1:
            names_shown = ", ".join(names[:8]) + ", ..." * (len(names) > 8)
            print_error(f"callfence lake: {len(names)} policies become one recording ({names_shown}): --policy NAME takes one")
        atomic.write_all(options.output, folding.lines(lake))
    return 0


def _ask(options: argparse.Namespace) -> int:
    from callfence.lake import asking
    from callfence.lake.engine import Engine
    from callfence.lake.identity import policy_name

    question, *policy = options.inputs
    values = _values(options)
    rules = None
    if policy and options.policy is None:
        options.policy = policy_name(policy[0])
    with _opened(options) as lake:
        if policy:
            if not [*lake.rows("SELECT run FROM runs LIMIT 1")]:
                raise UserError(f"{options.lake} has no recording of {options.policy}: --policy NAME is its name there")
            rules = asking.rules_of(document(policy[0]).policy, lake)
        if options.print_sql:
            of = Engine(options.engine or Engine.DUCKDB)
            print(asking.statements(str(options.lake.absolute()), question, values, _only(options), rules, of), end="")
            return 0
        answer = asking.answer(lake, question, values, rules)
        unknown = asking.unknown(asking.answer(lake, "contents", {}, None), question)
        records = [*map(asking.as_json, answer.rows)] if question == "log" else []
    if options.format == "json":
        rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
        print(as_output("lake", {"question": question, "rows": rows, "unknown": unknown}))
    else:
        print_lines(records if question == "log" else asking.table(answer))
        for line in unknown:
            print_error(f"callfence lake: {line}")
        if not answer.rows:
            print_error("callfence lake: nothing")
    return int(question == "safe" and any(row[-1] != "yes" for row in answer.rows))


def _values(options: argparse.Namespace) -> dict[str, Parameter]:
    """Return the parameters of the questions."""
    from callfence.lake import asking, keys

    try:
        now = int(datetime.fromisoformat(options.now).timestamp()) * 10**9 if options.now else time.time_ns()
    except ValueError as error:
        raise UserError(f"--now {options.now}: {error}") from error
    days = options.days if options.days is not None else 30
    if not 0 <= days <= _MANY_DAYS:
        raise UserError(f"--days {days}: expected a number from 0 to {_MANY_DAYS:,}")
    values: dict[str, Parameter] = {"hosts": options.hosts if options.hosts is not None else 1}
    values["since_ns"] = max(0, now - int(days * asking.DAY))
    chance = options.chance if options.chance is not None else 0.05
    if not 0 <= chance <= 1:
        raise UserError(f"--chance {chance}: expected a number from 0 to 1")
    values["chance"] = chance
    return values | {"since_order": keys.version_order(options.since or "")}


def _only(options: argparse.Namespace) -> dict[str, str]:
    """Return the columns of the identity that rows must have."""
    from callfence.lake import keys

    columns = {"host": options.host, "version": options.of_version, "policy": options.policy}
    return {name: keys.text(value) for name, value in columns.items() if value is not None}


def _opened(options: argparse.Namespace) -> AbstractContextManager[Lake]:
    from callfence.lake import engine, parquet

    parquet.check(options.lake)
    if not parquet.parts(options.lake):
        raise UserError(f"{options.lake} is empty: `callfence lake add {options.lake} FILE ...`")
    return engine.opened(options.lake, _only(options), options.memory)
