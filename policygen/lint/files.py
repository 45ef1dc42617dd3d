"""Find the risks (risks.tsv) of the files and ports that a policy grants, or that it grants beyond another policy."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from policygen.files.algebra import differences, granted
from policygen.files.ruleset import unconfined
from policygen.grants import ALL, ANY, ANY_PORT, NOTHING, TCP, WORDS, Right, path_line
from policygen.paths import covers
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

    from policygen.grants import Files
    from policygen.model import Policy

_BELOW = "/..."
_MOST_PORTS = 49152
"""The fewest ports of a line that is judged as one which has all: three quarters.  The ports that the kernel chooses from,
which learning writes as one range, are half of them."""
EVERY_FILE = "root"
"""The id of the row about `path /`."""


class Risk(NamedTuple):
    """A row of risks.tsv: its stable id, its level, the grants that it matches, and the texts about them."""

    id: str
    level: str
    what: tuple[str, ...]
    rights: tuple[Right, ...]
    """A grant matches if it has all rights of one of these; () is `any`, for a `tcp` line."""
    grants: str
    """What the program may do, as the end of a sentence that begins with `it`."""
    why: str
    safer: str
    source: str


class Judged(NamedTuple):
    """A line that grants more or less than in another policy."""

    level: str
    rule: str
    name: str
    """The line, up to its colon."""
    subject: str
    """The line, with `+` what is newly granted, and with `-` what no longer is."""
    says: str
    why: str = ""
    safer: str = ""


@cache
def risks() -> tuple[Risk, ...]:
    """Return the rows of risks.tsv, in the file's order."""
    text = Path(__file__).with_name("risks.tsv").read_text("utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")][1:]
    return tuple(Risk(id_, level, tuple(what.split(", ")), _rights(rights), *rest) for id_, level, what, rights, *rest in rows)


def _rights(cell: str) -> tuple[Right, ...]:
    if cell == ANY:
        return ()
    rights = []
    for alternative in cell.split(","):
        whole = NOTHING
        for word in alternative.split("+"):
            whole |= WORDS[word]
        rights.append(whole)
    return tuple(rights)


def risks_of(files: Files, unconfined: Collection[str] = ()) -> list[tuple[str, Risk]]:
    """Return the risks of the grants, each with the line that grants it, up to its colon.

    `unconfined`: the kinds (`grants.KINDS`) that are judged by the line which permits the same as its absence, `path /` with
    all rights or `tcp USE: any`."""
    grants = {"/": ALL} if "paths" in unconfined else files.paths or {}
    lines = []
    for path, rights in grants.items():
        whole = granted(grants, path)
        rows = [risk for risk in risks() if _matches(risk, path, rights, whole)]
        if any(risk.id == EVERY_FILE for risk in rows):  # which says all that the others do
            rows = [risk for risk in rows if risk.id == EVERY_FILE]
        lines += [(path_line(path), risk) for risk in rows]
    for use in TCP:
        if use not in unconfined and getattr(files, use) is None:
            continue
        ports = ANY_PORT if use in unconfined else files.ports(use)
        count = sum(last - first + 1 for first, last in ports)
        if count >= _MOST_PORTS:
            rows = [risk for risk in risks() if f"tcp {use}" in risk.what]
            said = "any TCP port" if ports == ANY_PORT else f"{count:,} TCP ports"
            lines += [(f"tcp {use}", risk._replace(grants=risk.grants.replace("any TCP port", said))) for risk in rows]
    return lines


def _matches(risk: Risk, path: str, rights: Right, whole: Right) -> bool:
    """Return whether a row matches a path's rights, and the line itself adds a right that the match needs."""
    if not any(every in whole and every & rights for every in risk.rights):
        return False
    path = _place(path)
    for what in risk.what:
        place = what.removesuffix(_BELOW)
        if what == "*" or covers(path, place) or (what.endswith(_BELOW) and covers(place, path)):
            return True
    return False


def _place(path: str) -> str:
    """Return where a path leads by the links that each Linux system has: /proc/PID/root, /proc/PID/cwd, /var/run (proc(5),
    hier(7))."""
    if match := re.fullmatch(r"/proc/[^/]+(?:/task/[^/]+)?/(root|cwd)(/.*)?", path):
        return (match[2] or "/") if match[1] == "root" else f".{match[2] or ''}"
    return path.removeprefix("/var") if covers("/var/run", path) else path


def judged(old: Policy, new: Policy) -> list[Judged]:
    """Return the lines that grant more or less than in `old`, each with its most serious new risk; a line that a policy has not
    is judged as what its absence permits."""
    changes = differences(old.files, new.files)
    before, after = (set(risks_of(policy.files, unconfined(policy))) for policy in (old, new)) if changes else (set(), set())
    result = []
    for line, more, less in changes:
        subject = f"{line}: {' '.join(f'{sign} {what}' for sign, what in (('+', more), ('-', less)) if what)}"
        new_risks = [risk for of, risk in after - before if of == line] if more else []
        kind = "path" if line.startswith("path ") else "tcp"
        if not new_risks:
            says = f"it {' and '.join(_said(line, *each) for each in ((more, True), (less, False)) if each[0])}"
            result.append(Judged("note", f"{kind}-{'more' if more else 'less'}", line, subject, says))
        for risk in sorted(new_risks, key=lambda risk: (_LEVELS.index(risk.level), risk.id))[:1]:
            result.append(Judged(risk.level, risk.id, line, subject, f"it {risk.grants}", risk.why, risk.safer))
    return result


def _said(line: str, what: str, is_more: bool) -> str:
    """Return what a change of a line lets the program do, or no longer lets it, as the end of a sentence."""
    verb = {"tcp connect": "connect to", "tcp bind": "serve on"}.get(line)
    if verb:
        return f"may {verb} {'more' if is_more else 'fewer'} ports"
    return f"may {'also' if is_more else 'no longer'} {'do anything' if what == ANY else what} there"


_LEVELS = ("danger", "warning", "note")
