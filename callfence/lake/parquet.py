"""The files of a lake: the only module that imports pyarrow.

    LAKE/callfence-lake             the version of the tables
    LAKE/part-<16 digits>/          what one `lake add` added: a Parquet file for each table

A part appears by one rename, so it is there as a whole or not at all.  Nothing changes or replaces a part: lakes are united by
copying their parts into one folder.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from callfence.lake.schema import TABLES, Type
from callfence.policygen import reading
from callfence.policygen.recording import atomic
from callfence.policygen.versions import LAKE, unknown
from callfence.tracer.errors import CallfenceError, UserError

MARKER = "callfence-lake"
_MAX_VERSION = 100
_GROUP = 100_000
"""The most rows of a row group: as many are in memory."""
_GROUP_TEXT = 64 << 20
"""The characters of its texts after which a row group is complete: one record can have 256 KiB, and be in thousands of rows."""

_LISTS = {Type.REGISTERS: pa.list_(pa.uint64()), Type.VALUES: pa.list_(pa.decimal128(20))}


_TEXTS = {
    name: itemgetter(*(at for at, kind in enumerate(table.values()) if kind is Type.TEXT)) for name, table in TABLES.items()
}
"""For each table, the function that returns the texts of a row."""
SCHEMAS = {
    name: pa.schema([(column, _LISTS.get(kind) or pa.type_for_alias(kind)) for column, kind in table.items()])
    for name, table in TABLES.items()
}


def create(lake: Path) -> None:
    """Create a lake, unless it exists.  Raises UserError if the folder has something else, or the lake of another version."""
    lake.mkdir(parents=True, exist_ok=True)
    if not (lake / MARKER).exists():
        if any(entry.name != MARKER and not entry.name.startswith((".", "part-")) for entry in lake.iterdir()):
            raise UserError(f"{lake} is a folder with other files, not a lake: name a new folder, or an empty one")
        atomic.write(lake / MARKER, f"{LAKE}\n".encode())
    check(lake)


def check(lake: Path) -> None:
    """Raise UserError unless the folder is a lake with the tables of this version."""
    try:
        with reading.regular(str(lake / MARKER)) as file:
            version = file.read(_MAX_VERSION).decode(errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{lake} is not a lake: `callfence lake add {lake} FILE ...` makes one") from None
    if version != str(LAKE):
        raise UserError(f"{lake} has tables whose {unknown(int(version) if version.isdecimal() else version, LAKE)}")


def parts(lake: Path) -> list[Path]:
    """Return the folders of the parts, ascending.  Raises UserError if one lacks a file: what it has would be missing in each
    answer."""
    found = sorted(lake.glob("part-*"))
    for path in (part / f"{name}.parquet" for part in found for name in TABLES):
        if not path.is_file():
            raise UserError(f"{path} is missing, or no file: copy its part again, or move it away and add its files again")
    return found


def digests(lake: Path) -> set[bytes]:
    """Return the digests of the files that a lake has, 32 bytes each."""
    return {digest for part in parts(lake) for digest in _digests(part / "files.parquet")}


def _digests(path: Path) -> set[bytes]:
    """Return the digests of a part.  A small file can have any number of equal ones, of which some thousand are in memory."""
    try:
        with pq.ParquetFile(path) as file:
            batches = file.iter_batches(columns=["digest"])
            return {bytes.fromhex(digest) for batch in batches for digest in batch.column(0).unique().to_pylist()}
    except (pa.ArrowException, OSError, LookupError, ValueError, TypeError) as error:
        if isinstance(error, OSError) and error.errno:  # Arrow raises others for contents that it cannot read
            raise
        raise UserError(f"{path} is damaged ({error}): move its part away, and add its files again") from error


class WriteError(CallfenceError):
    """A part cannot be written: not an error of the file that is being added."""


@contextmanager
def _written(lake: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(f"{lake} cannot be written to: {error}") from error


class Part:
    """A part that is being written, in a folder that no reader looks into.  A context manager: an exception removes it."""

    def __init__(self, lake: Path) -> None:
        self._lake = lake
        self._folder = lake / f".part-{os.urandom(8).hex()}"
        self._rows: dict[str, list[Sequence[Any]]] = {name: [] for name in TABLES}
        self._text = dict.fromkeys(TABLES, 0)
        """How many characters the texts of these rows have."""
        self._digests: list[str] = []
        self.size = 0
        """The number of observations and events."""

    def __enter__(self) -> Part:
        with _written(self._lake):
            self._folder.mkdir()
            try:
                self._writers = {
                    name: pq.ParquetWriter(self._folder / f"{name}.parquet", schema, compression="zstd")
                    for name, schema in SCHEMAS.items()
                }
            except BaseException:
                shutil.rmtree(self._folder, ignore_errors=True)
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            for name, writer in self._writers.items():
                if kind is None:
                    self._flush(name)
                with suppress(OSError) if kind else _written(self._lake):
                    writer.close()
                    _sync(self._folder / f"{name}.parquet")
            final = self._lake / f"part-{sha256(''.join(sorted(self._digests)).encode()).hexdigest()[:16]}"
            if kind is None and self._digests:
                self._appear(final)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _appear(self, final: Path) -> None:
        """Rename the folder, unless another `lake add` has added the same files meanwhile."""
        try:
            self._folder.rename(final)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        _sync(self._lake)

    def add(self, table: str, rows: Iterable[Sequence[Any]]) -> None:
        """Add rows to a table."""
        counted = table in ("observations", "events")
        for row in rows:
            self._rows[table].append(row)
            self._text[table] += sum(map(len, _TEXTS[table](row)))
            self.size += counted
            if len(self._rows[table]) >= _GROUP or self._text[table] >= _GROUP_TEXT:
                self._flush(table)

    def finish_file(self, digest: str, row: Sequence[Any]) -> None:
        """Add the row of a file whose rows have all been added."""
        self._digests.append(digest)
        self.add("files", [row])

    def _flush(self, table: str) -> None:
        rows, self._rows[table] = self._rows[table], []
        self._text[table] = 0
        if rows:
            schema = SCHEMAS[table]
            columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)]
            with _written(self._lake):
                self._writers[table].write_batch(pa.record_batch(columns, schema=schema))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
