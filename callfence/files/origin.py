"""Where lines about files and ports come from: the names that runs used, by whom, and what more a line opens now."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from callfence.shared.text import plural, printable
from policygen.files.generalise import is_path
from policygen.files.model import path_line
from policygen.files.paths import covers, encoded, shown
from policygen.files.places import PlaceError, located
from policygen.files.rights import NOTHING, Right, format_rights, rights_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policygen.language.document import Document
    from policygen.recording.runs import Recording

_MANY = 6
"""Names that are listed for a line."""
_LOOKED_AT = 20_000
"""Files below a folder that are counted at most."""


class Used(NamedTuple):
    """A name that runs used."""

    path: str
    rights: Right
    runs: tuple[int, ...]
    """From 1."""
    executables: tuple[str, ...]

    def __str__(self) -> str:
        runs = ", ".join(map(str, self.runs))
        where = f"run{'s' * (len(self.runs) > 1)} {runs}"
        return printable(f"{shown(self.path)}: {format_rights(self.rights)} in {where} by {', '.join(self.executables)}")


def is_about_files(text: str) -> bool:
    return text.startswith(("path ", "tcp "))


def origin_lines(document: Document, recording: Recording, wanted: str = "") -> Iterator[str]:
    """The lines about files and ports, or the one that is `wanted`, each with what it comes from."""
    files = document.policy.files
    for path, rights in (files.paths or {}).items():
        if wanted.removesuffix(":") in ("", path_line(path)):
            yield f"{path_line(path)}: {format_rights(rights)}"
            yield from _of_path(path, recording)
            yield from _below(path)
            yield ""
    for line, value in files.lines().items():
        if line.startswith("tcp ") and wanted.removesuffix(":") in ("", line):
            yield f"{line}: {value}"
            yield from _of_port(line, recording)
            yield ""


def used(path: str, recording: Recording) -> list[Used]:
    """Return the names that the line of a path covers, in the order in which runs had them first."""
    found: dict[str, Used] = {}
    for column, run in enumerate(recording.runs, 1):
        for name, words, executable in run.files:
            if is_path(name) and covers(path, name):
                one = found.get(name, Used(name, NOTHING, (), ()))
                runs, executables = dict.fromkeys((*one.runs, column)), dict.fromkeys((*one.executables, executable))
                found[name] = Used(name, one.rights | rights_of(words), tuple(runs), tuple(executables))
    return list(found.values())


def _of_path(path: str, recording: Recording) -> Iterator[str]:
    found = used(path, recording)
    if not found:
        yield "  no recorded run used it: written by hand, or learned from runs that are not recorded"
    for one in found[:_MANY]:
        yield f"  {one}"
    if len(found) > _MANY:
        yield f"  and {plural(len(found) - _MANY, 'name')} more"


def _of_port(line: str, recording: Recording) -> Iterator[str]:
    for column, run in enumerate(recording.runs, 1):
        for used, port, executable in run.files:
            if used == line:
                yield printable(f"  {port} in run {column} by {executable}")


def _below(path: str) -> Iterator[str]:
    """What is below a folder on this machine now."""
    environment = [os.fsencode(f"{name}={value}") for name, value in os.environ.items()]
    try:
        top = located(encoded(path), environment)
    except PlaceError:
        return
    if not os.path.isdir(top):
        return
    count = executables = 0
    for folder, _, names in os.walk(top):
        for name in names:
            count += 1
            try:
                executables += bool(os.lstat(os.path.join(folder, name)).st_mode & stat.S_IXUSR)
            except OSError:
                continue
        if count > _LOOKED_AT:
            yield f"  it is about everything below: more than {_LOOKED_AT:,} files now"
            return
    yield f"  it is about everything below: {plural(count, 'file')} now, {executables} of them executable"
