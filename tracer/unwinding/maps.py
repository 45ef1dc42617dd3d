"""The mappings of a task."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from callfence.tracer.named import NamedTuple
from callfence.tracer.proc import proc

_NEAR: Final = 16
"""The most lines of /proc/PID/maps from the line of a file's code back to the line of its beginning."""


class Mapped(NamedTuple):
    """A mapping of a task: one line of /proc/PID/maps."""

    start: int
    end: int
    permissions: str
    offset: int
    file: tuple[str, str, str]
    """Device, inode and path."""

    @property
    def shift(self) -> int:
        """The difference between an address in the mapping and its offset in the file."""
        return self.start - self.offset


class Maps:
    """The mappings of a task; each line is parsed only when it is needed."""

    def __init__(self, text: str) -> None:
        """`text` is the content of /proc/PID/maps."""
        self._lines = text.split("\n")[:-1]  # ascending

    @classmethod
    def of(cls, tid: int) -> Maps:
        """Return the mappings of a task.  Raises OSError."""
        with open(f"{proc()}/{tid}/maps", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            return cls(file.read())

    def at(self, address: int) -> Mapped | None:
        """Return the mapping that contains an address; None if none does.  Raises ValueError for a malformed line."""
        index = self._index(address)
        mapped = _parsed(self._lines[index]) if index >= 0 else None
        return mapped if mapped and address < mapped.end else None

    def all(self) -> list[Mapped]:
        """Return all mappings, by ascending address.  Raises ValueError for a malformed line."""
        return [_parsed(line) for line in self._lines]

    def begin(self, mapped: Mapped) -> int:
        """Return the address at which the beginning of the file of `mapped` is mapped, if that is in one of the _NEAR lines
        before it; else 0.  Raises ValueError for a malformed line."""
        index = self._index(mapped.start)
        for line in reversed(self._lines[max(index - _NEAR, 0) : index + 1]):
            other = _parsed(line)
            if other.file == mapped.file and not other.offset:
                return other.start
        return 0

    def _index(self, address: int) -> int:
        return bisect_right(self._lines, address, key=lambda line: int(line[: line.index("-")], 16)) - 1


def _parsed(line: str) -> Mapped:
    fields = line.split(None, 5)
    start, _, end = fields[0].partition("-")
    file = (fields[3], fields[4], fields[5] if len(fields) > 5 else "[anonymous]")
    return Mapped(int(start, 16), int(end, 16), fields[1], int(fields[2], 16), file)
