"""Questions about a lake: each is a query in `questions/`, whose first line says what it answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from callfence.lake import engine, keys
from callfence.lake.engine import Engine, Lake, Parameter, query
from callfence.lake.schema import OF_A_POLICY
from callfence.policygen.model import Policy
from callfence.policygen.narrowing import users
from callfence.policygen.recording.model import Observation
from callfence.policygen.text import printable
from callfence.tracer.named import NamedTuple

DAY: Final = 86_400 * 10**9
_NO_RULE: Final = 2**32 - 1
"""The number of no rule: a view has at least one row."""


class Rules(NamedTuple):
    """The rules of one policy, numbered, and the calls of a lake (recordings and logs of many hosts) that each allows."""

    rules: tuple[tuple[int, str], ...]
    """Number and line of each rule."""
    calls: tuple[tuple[int, str], ...]
    """The number of a rule and the key of a call that matches it."""

    def views(self, of: Engine = Engine.DUCKDB) -> list[str]:
        """Return the statements that make the views."""
        rules, calls = self.rules or ((_NO_RULE, ""),), self.calls or ((_NO_RULE, ""),)
        views = {"policy_rules": ("rule", rules), "policy_calls": ("call", calls)}
        return [
            f"{engine.values_view(name, {'number': 'UInt32', column: 'String'}, values, of)} WHERE number <> {_NO_RULE}"
            for name, (column, values) in views.items()
        ]


class Answer(NamedTuple):
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def rules_of(policy: Policy, lake: Lake) -> Rules:
    """Return the rules of a policy and the calls of the lake that match them."""
    sql = "SELECT call, min(example) FROM calls WHERE call IN (SELECT call FROM observations) GROUP BY call ORDER BY call"
    calls = [*lake.rows(sql)]
    used = users(policy, [Observation(*keys.key(call), (1,), "", tuple(example)) for call, example in calls])
    pairs = [(number, calls[index][0]) for number, found in enumerate(used.values()) for index in sorted(found)]
    return Rules(tuple(enumerate(used)), tuple(pairs))


def answer(lake: Lake, question: str, values: Mapping[str, Parameter], rules: Rules | None) -> Answer:
    """Return what the lake answers to a question; `rules` for those of `OF_A_POLICY`."""
    for statement in rules.views() if rules else ():
        lake.run(statement)
    sql = engine.with_values(query(f"questions/{question}"), values)
    columns = lake.columns(sql)
    rows = tuple(tuple(map(_plain, columns, row)) for row in lake.rows(sql))
    return Answer(tuple(column.removesuffix("_ns") for column in columns), rows)


def _plain(column: str, value: Any) -> Any:
    if value is None:
        return None
    if column.endswith("_ns"):
        return datetime.fromtimestamp(int(value) // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, str):
        return keys.plain(value)
    return value if isinstance(value, float) else int(value)


def statements(
    lake: str, question: str, values: Mapping[str, Parameter], only: Mapping[str, str], rules: Rules | None, of: Engine
) -> str:
    """Return the question as a script for an engine: views of the tables, and the query."""
    settings = ["SET join_use_nulls = 1"] if of is Engine.CLICKHOUSE else []
    views = [*engine.views(lake, only, of), *(rules.views(of) if rules else ())]
    sql = engine.with_values(query(f"questions/{question}"), values, of)
    return "".join(f"{statement};\n" for statement in (*settings, *views, sql.strip()))


_UNKNOWN: Final = {
    "incremental": ("runs recorded only new calls: which rules they used is unknown", (*OF_A_POLICY, "safe")),
    "without_version": ("runs are of an unknown version, and are not compared", ("new",)),
    "without_host": ("runs are of an unknown host, and count as one", ("new", *OF_A_POLICY)),
    "lost_records": ("records of logs are lost, those of denied calls among them", ("new", "denied")),
}
"""Column of `contents` -> what its count means, and for which questions."""


def unknown(contents: Answer, question: str) -> list[str]:
    """Return what the answer to a question cannot know, from the answer to `contents`."""
    totals = {name: sum(row[at] for row in contents.rows) for at, name in enumerate(contents.columns) if name in _UNKNOWN}
    asked = {name: what for name, (what, questions) in _UNKNOWN.items() if question in questions}
    return [f"{totals[name]:,} {what}" for name, what in asked.items() if totals[name]]


def as_json(row: tuple[Any, ...]) -> str:
    """Return the record of a row of `log`, an object of JSON, with unprintable characters escaped: all are in its texts."""
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in row[-1])


def table(answer: Answer) -> Iterator[str]:
    """Yield the lines of a table; numbers are aligned on the right."""
    cells = [[_cell(value) for value in row] for row in answer.rows]
    widths = [max(map(len, column)) for column in zip(answer.columns, *cells, strict=True)]
    right = [all(isinstance(row[at], (int, float, type(None))) for row in answer.rows) for at in range(len(widths))]
    for row in (list(answer.columns), *cells) if cells else ():
        aligned = zip(row, widths, right, strict=True)
        yield "  ".join(cell.rjust(width) if is_right else cell.ljust(width) for cell, width, is_right in aligned).rstrip()


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else printable(str(value))
