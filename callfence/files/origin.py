"""Where lines about files and ports come from: the names that runs used, by whom, and what more a line opens now."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from typing import TYPE_CHECKING

from callfence.judging.symbols import Site
from callfence.shared.text import plural, printable
from policygen.files.generalise import is_path, learned
from policygen.files.places import PlaceError, located
from policygen.grants import NOTHING, Right, format_rights, path_line, rights_of
from policygen.lint.files import risks
from policygen.paths import covers, encoded, shown
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from policygen.language.document import Document
    from policygen.recording.model import Recording

_KINDS = {
    "ssh-keys": "key",
    "credentials": "credential file",
    "start-up-file": "start-up file",
    "accounts": "account file",
    "scheduled": "scheduled job",
}
"""By the id of a risk, what a file is that it is about."""
_KEY = re.compile(rb"id_(rsa|dsa|ecdsa|ed25519)|.+\.(pem|key|p12|pfx|kdbx)")
_SITES = 2
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
    sites: tuple[str, ...] = ()
    """Where calls came from whose recorded evidence has the name; they may be few of many."""

    def __str__(self) -> str:
        runs = ", ".join(map(str, self.runs))
        where = f"run{'s' * (len(self.runs) > 1)} {runs} by {', '.join(self.executables)}"
        where += f" at {', '.join(self.sites)}" if self.sites else ""
        return printable(f"{shown(self.path)}: {format_rights(self.rights)} in {where}")


def is_about_files(text: str) -> bool:
    return text.startswith(("path ", "tcp "))


def origin_lines(document: Document, recording: Recording, wanted: str = "") -> Iterator[str]:
    """The lines about files and ports, or the one that is `wanted`, each with what it comes from."""
    files = document.policy.files
    reasons = reasons_of(recording)
    for path, rights in (files.paths or {}).items():
        if wanted.removesuffix(":") in ("", path_line(path)):
            yield f"{path_line(path)}: {format_rights(rights)}"
            yield from _of_path(path, recording)
            yield from (f"  {line}" for line in beyond(path, reasons))
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
    return [one._replace(sites=_sites(one, recording)) for one in found.values()]


def _sites(used: Used, recording: Recording) -> tuple[str, ...]:
    """Where the calls of a name, or of names in a folder, came from, as far as the evidence has the name."""
    name = used.path.replace("$HOME", "~", 1)  # evidence.facts.Places
    found: dict[str, None] = {}
    for one in recording.observations:
        if one.executable in used.executables:
            names = (fact.partition('="')[2].rstrip('"') for fact in one.evidence)
            if any(text == name or text.startswith(f"{name}/") for text in names):
                found.setdefault(str(Site.parse(one.site) or one.site))
    return tuple(found)[:_SITES]


def reasons_of(recording: Recording) -> Mapping[str, str]:
    """Return why folders are granted instead of the names in them, by path."""
    return learned([run.files for run in recording.runs if run.files]).why


def beyond(path: str, reasons: Mapping[str, str]) -> Iterator[str]:
    """Why a folder is granted, and what is below it on this machine now."""
    if reason := reasons.get(path):
        yield f"so the folder is granted: {reason}"
    yield from _below(path)


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
    special = Counter[str]()
    places = _special(environment)
    for folder, _, names in os.walk(top):
        for name in names:
            count += 1
            path_ = os.path.join(folder, name)
            special.update(_kinds(path_, places))
            try:
                executables += bool(os.lstat(path_).st_mode & stat.S_IXUSR)
            except OSError:
                continue
        if count > _LOOKED_AT:
            yield f"it is about everything below: more than {_LOOKED_AT:,} files now{_told(special)}"
            return
    yield f"it is about everything below: {plural(count, 'file')} now, {executables} of them executable{_told(special)}"


def _special(environment: list[bytes]) -> list[tuple[bytes, str]]:
    """Files, or folders with a slash, of a kind that a reviewer wants to know of, as risks.tsv has them."""
    found = []
    for risk in risks():
        for what in risk.what if risk.id in _KINDS else ():
            try:
                place = located(encoded(what.removesuffix("/...")), environment)
            except PlaceError:
                continue
            found.append((place + b"/" if what.endswith("/...") else place, _KINDS[risk.id]))
    return found


def _kinds(path: bytes, places: list[tuple[bytes, str]]) -> set[str]:
    kinds = {kind for place, kind in places if path == place or (place.endswith(b"/") and path.startswith(place))}
    return kinds | ({"key"} if _KEY.fullmatch(os.path.basename(path)) else set())


def _told(special: Counter[str]) -> str:
    return "".join(f", {plural(number, kind)}" for kind, number in sorted(special.items()))
