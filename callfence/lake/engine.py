"""DuckDB on the tables of a lake: the only module that imports duckdb.  What other engines need instead is text."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb

from callfence.lake.schema import TABLES
from callfence.tracer.errors import UserError

Parameter = str | int | float
_ROWS = 50_000
"""The rows that are fetched at once."""


class Engine(StrEnum):
    """An engine whose statements can be printed."""

    DUCKDB = "duckdb"
    SPARK = "spark"
    CLICKHOUSE = "clickhouse"


def query(name: str) -> str:
    """Return the text of a query: `questions/new`, `fold/counts`."""
    return resources.files("callfence.lake").joinpath(f"{name}.sql").read_text()


def literal(value: Parameter, engine: Engine = Engine.DUCKDB) -> str:
    """Return a value as a literal of the engine's SQL."""
    if not isinstance(value, str):
        return repr(value)
    text = value if engine is Engine.DUCKDB else value.replace("\\", "\\\\")
    return "'" + text.replace("'", "''") + "'"


def with_values(sql: str, values: Mapping[str, Parameter], engine: Engine = Engine.DUCKDB) -> str:
    """Return the query with a literal for each `:name`."""
    return re.sub(r":([a-z_]+)", lambda name: literal(values[name[1]], engine), sql)


def views(lake: str, only: Mapping[str, str], engine: Engine = Engine.DUCKDB) -> list[str]:
    """Return the statements that make a view of each table of the lake in the folder `lake`.  `only`: columns of the identity
    and their values, which rows must have."""
    return [
        f"CREATE {_VIEW[engine]} {name} AS SELECT * FROM {_source(lake, name, engine)}{_where(name, only, engine)}"
        for name in TABLES
    ]


_VIEW = {Engine.DUCKDB: "VIEW", Engine.SPARK: "TEMPORARY VIEW", Engine.CLICKHOUSE: "VIEW"}


def _source(lake: str, table: str, engine: Engine) -> str:
    match engine:
        case Engine.DUCKDB:
            escaped = re.sub(r"([*?\[])", r"[\1]", lake)
            return f"read_parquet({literal(f'{escaped}/part-*/{table}.parquet')})"
        case Engine.SPARK:
            return f"parquet.`{lake}/part-*/{table}.parquet`"
        case Engine.CLICKHOUSE:
            return f"file({literal(f'{lake}/part-*/{table}.parquet', engine)}, 'Parquet')"


def _where(table: str, only: Mapping[str, str], engine: Engine) -> str:
    conditions = [f"{column} = {literal(value, engine)}" for column, value in only.items() if column in TABLES[table]]
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def values_view(name: str, columns: Mapping[str, str], rows: Sequence[tuple[Parameter, ...]], engine: Engine) -> str:
    """Return the statement that makes a view of these rows, at least one; `columns`: name -> type in ClickHouse."""
    values = ", ".join(f"({', '.join(literal(value, engine) for value in row)})" for row in rows)
    if engine is Engine.CLICKHOUSE:
        described = ", ".join(f"{column} {kind}" for column, kind in columns.items())
        return f"CREATE VIEW {name} AS SELECT * FROM values({literal(described)}, {values})"
    return f"CREATE {_VIEW[engine]} {name} AS SELECT * FROM (VALUES {values}) AS rows({', '.join(columns)})"


class Lake:
    """A connection to the tables of a lake."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def run(self, statement: str) -> None:
        self._connection.execute(statement)

    def keep(self, name: str, sql: str) -> None:
        """Store the result of a query as a table."""
        self.run(f"CREATE TABLE {name} AS {sql}")

    def rows(self, sql: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query's result, some thousand of which are in memory."""
        with self._connection.cursor() as cursor:  # another query may begin before this one has ended
            result = cursor.sql(sql)
            reader = result.to_arrow_reader if hasattr(result, "to_arrow_reader") else result.fetch_arrow_reader  # DuckDB 1.1
            for batch in reader(_ROWS):
                yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def columns(self, sql: str) -> tuple[str, ...]:
        """Return the names of the columns of a query's result."""
        return tuple(self._connection.sql(sql).columns)


@contextmanager
def opened(lake: Path, only: Mapping[str, str], memory: str | None = None) -> Iterator[Lake]:
    """Context manager that opens a lake, of which only the rows with the identity `only` are there.  `memory`: the most memory
    that the engine takes, such as `4GB`; what needs more is sorted in a temporary folder.  Raises UserError if the engine
    fails: a part is damaged, or memory or disk are too little."""
    folder = tempfile.mkdtemp(prefix="callfence-lake-")
    try:
        settings: dict[str, Any] = {"temp_directory": folder, "preserve_insertion_order": False}
        settings |= {"autoinstall_known_extensions": False} | ({"memory_limit": memory} if memory else {})
        try:
            with duckdb.connect(f"{folder}/tables", config=settings) as connection:
                for statement in views(str(lake), only):
                    connection.execute(statement)
                yield Lake(connection)
        except duckdb.Error as error:
            raise UserError(f"{lake}: DuckDB failed: {error}") from error
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # of who reads the rows
            raise UserError(f"{lake}: a part is damaged: it has what `callfence lake add` does not write ({error})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
