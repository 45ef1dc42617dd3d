"""Runs the questions and the fold of a lake on other engines, and compares them with DuckDB's: engines.py LAKE POLICY

Engines are those that are installed: pyspark (which needs Java) and chdb, which is ClickHouse.  It ends with 1 if a result
differs, and with 2 if no other engine is there.
"""

from __future__ import annotations

import sys
import tempfile
import time
from decimal import Decimal
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callfence.lake import asking, engine, folding, keys
from callfence.lake.engine import Engine
from callfence.lake.schema import QUESTIONS
from callfence.policygen.language.document import parse_file

if TYPE_CHECKING:
    from collections.abc import Iterator

VALUES = {"hosts": 500, "chance": 0.05, "since_ns": 0, "since_order": keys.version_order("2")}


class Spark:
    """Spark in this process, with the methods of `engine.Lake`."""

    def __init__(self) -> None:
        from pyspark.sql import SparkSession

        builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
        builder = builder.config("spark.sql.shuffle.partitions", "4").config("spark.driver.memory", "4g")
        self.session = builder.config("spark.sql.warehouse.dir", tempfile.mkdtemp()).getOrCreate()
        self.session.sparkContext.setLogLevel("ERROR")

    def run(self, statement: str) -> None:
        self.session.sql(statement)

    def keep(self, name: str, sql: str) -> None:
        self.session.sql(sql).cache().createOrReplaceTempView(name)

    def rows(self, sql: str) -> Iterator[tuple[Any, ...]]:
        return map(tuple, self.session.sql(sql).toLocalIterator())

    def close(self) -> None:
        self.session.stop()


class ClickHouse:
    """ClickHouse in this process, with the methods of `engine.Lake`."""

    def __init__(self) -> None:
        from chdb import session

        self.session = session.Session()

    def run(self, statement: str) -> None:
        self.session.query(statement)

    def keep(self, name: str, sql: str) -> None:
        self.run(f"CREATE TABLE {name} ENGINE = Memory AS {sql}")

    def rows(self, sql: str) -> Iterator[tuple[Any, ...]]:
        import pyarrow

        data = self.session.query(f"{sql} SETTINGS output_format_arrow_string_as_string = 1", "ArrowStream").bytes()
        for batch in pyarrow.ipc.open_stream(data) if data else ():
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def close(self) -> None:
        self.session.close()


ENGINES = {Engine.SPARK: ("pyspark", Spark), Engine.CLICKHOUSE: ("chdb", ClickHouse)}


def plain(value: Any) -> Any:
    """A value as it is compared: engines have other types for the same number."""
    return round(float(value), 9) if isinstance(value, float) else int(value) if isinstance(value, (int, Decimal)) else value


def fold(lake: Any) -> str:
    digest = sha256()
    for line in folding.lines(lake):
        digest.update(line)
    return digest.hexdigest()


def results(lake: Any, setting_up: list[str]) -> dict[str, tuple[float, Any]]:
    """The time and the result of the fold and of each question."""
    for statement in setting_up:
        lake.run(statement)
    found: dict[str, tuple[float, Any]] = {}
    for name in ("fold", *QUESTIONS):
        began = time.monotonic()
        try:
            if name == "fold":
                result: Any = fold(lake)
            else:
                sql = engine.with_values(engine.query(f"questions/{name}"), VALUES)
                result = [tuple(map(plain, row)) for row in lake.rows(sql)]
        except Exception as error:  # any engine's
            result = f"{type(error).__name__}: {str(error)[:600]}"
        found[name] = time.monotonic() - began, result
    return found


def main(lake: Path, policy: Path) -> int:
    with engine.opened(lake, {}) as opened:
        rules = asking.rules_of(parse_file(policy).policy, opened)
        expected = results(opened, rules.views())
    other = 0
    differing = 0
    for of, (package, make) in ENGINES.items():
        if find_spec(package) is None:
            print(f"{of}: {package} is not installed")
            continue
        other += 1
        connection = make()
        settings = ["SET join_use_nulls = 1"] if of is Engine.CLICKHOUSE else []
        found = results(connection, [*settings, *engine.views(str(lake.absolute()), {}, of), *rules.views(of)])
        connection.close()
        for name, (seconds, result) in found.items():
            same = result == expected[name][1]
            differing += not same
            rows = "" if isinstance(result, str) else f"{len(result)} rows, "
            how = "equal" if same else "DIFFERENT"
            print(f"{of:10} {name:10} {rows}{how}, {seconds:.2f} s (DuckDB: {expected[name][0]:.2f} s)")
            if not same:
                print(f"    {str(result)[:700]}\n    {str(expected[name][1])[:300]}")
    return 2 if not other else int(bool(differing))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
