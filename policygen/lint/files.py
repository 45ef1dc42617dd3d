"""Find the risks (risks.tsv) of what a policy grants beside calls, or of what it grants beyond another policy."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from functools import cache

from callfence.policygen import grants, hosts
from callfence.policygen.files.algebra import PATHS, TREES, differences, granted, line_kind
from callfence.policygen.files.generalise_hosts import suffixes
from callfence.policygen.files.ruleset import unconfined
from callfence.policygen.grants import Right
from callfence.policygen.hosts import is_name
from callfence.policygen.model import Policy
from callfence.policygen.paths import covers, folders
from callfence.tracer.abi.constants import table_rows
from callfence.tracer.named import NamedTuple

_BELOW = "/..."
_NEARLY_ALL_PORTS = 49152
"""The fewest ports of a line that is judged as one which has all: three quarters.  The ports that the kernel chooses from,
which learning writes as one range, are half of them."""
_LARGE, _LARGEST = "host networks", {4: 8, 6: 16}
"""What a row says for large networks, and the shortest prefix of one that is not large, by the version of IP."""
_ANY_DOMAIN = "host *.TLD"
"""What a row says for all names below a top-level domain, or below a suffix at which strangers have names (suffixes.tsv)."""
_LOOKUPS = "names"
"""What a row says for names of hosts in a policy that does not confine what is sent by UDP."""
EVERY_FILE = "root"
"""The id of the row about `path /`."""


class Risk(NamedTuple):
    """A row of risks.tsv: its stable id, its level, the grants that it matches, and the texts about them."""

    id: str
    level: str
    what: tuple[str, ...]
    rights: tuple[Right, ...]
    """A grant of a path matches if it has all rights of one of these; () for lines about something else."""
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
    return tuple(
        Risk(id_, level, tuple(what.split(", ")), _rights(rights), *rest)
        for id_, level, what, rights, *rest in table_rows(__spec__, "risks.tsv")
    )


def _rights(cell: str) -> tuple[Right, ...]:
    if cell == grants.ANY:
        return ()
    rights = []
    for alternative in cell.split(","):
        whole = grants.NOTHING
        for word in alternative.split("+"):
            whole |= grants.WORDS[word]
        rights.append(whole)
    return tuple(rights)


def risks_of(files: grants.Files, unconfined: Collection[str] = ()) -> list[tuple[str, Risk]]:
    """Return the risks of the grants, each with the line that grants it, up to its colon.

    `unconfined`: the kinds (`grants.KINDS`) that are judged by the line which permits the same as its absence, `path /` with
    all rights, or `any` for others."""
    paths = {"/": grants.ALL} if "paths" in unconfined else files.paths or {}
    lines = []
    for path, rights in paths.items():
        whole = granted(paths, path)
        rows = [risk for risk in risks() if _matches(risk, path, rights, whole)]
        if any(risk.id == EVERY_FILE for risk in rows):  # which says all that the others do
            rows = [risk for risk in rows if risk.id == EVERY_FILE]
        lines += [(grants.path_line(path), risk) for risk in rows]
    for use, start in grants.USES.items():
        if use in unconfined or getattr(files, use) is not None:
            ports = grants.ANY_PORT if use in unconfined else files.ports(use)
            count = sum(last - first + 1 for first, last in ports)
            is_any = ports == grants.ANY_PORT
            said = f"{'any' if is_any else f'{count:,}'} {start[:3].upper()} port{'s' * (not is_any)}"
            rows = [risk for risk in risks() if start in risk.what and count >= _NEARLY_ALL_PORTS]
            lines += [(start, risk._replace(grants=re.sub("any ... port", said, risk.grants))) for risk in rows]
        for host, granted_ports in files.hosts(use).items():
            lines += [(grants.host_line(use, host), risk) for risk in _at_host(host, granted_ports)]
    for kind, rows_of in {"unix": _of_socket, "query": _of_query}.items():
        for place in (grants.ANY,) if kind in unconfined else getattr(files, kind) or ():
            rows = [risk for risk in risks() if grants.BARE[kind] in risk.what] if place == grants.ANY else rows_of(place)
            lines += [(grants.bare_line(kind, place), risk) for risk in rows]
    named = [grants.host_line(use, host) for use in grants.TO_HOSTS for host in files.hosts(use) if is_name(host)]
    if named and files.send is None:
        lines += [(named[0], risk) for risk in risks() if _LOOKUPS in risk.what]
    return lines


@cache
def _of_hosts() -> tuple[tuple[Risk, tuple[tuple[str, str, str], ...]], ...]:
    """Return the rows about hosts; each with the hosts that it names, '/...' if it is about those that the host contains, and
    a port, '' for any."""
    rows = []
    for risk in risks():
        matches = (re.fullmatch(r"host (\S+?)(/\.\.\.)?(?: port (\d+))?", what) for what in risk.what)
        named = [match for match in matches if match and match[0] not in (_LARGE, _ANY_DOMAIN)]
        if any(what.startswith("host ") for what in risk.what):
            rows.append((risk, tuple((match[1], match[2] or "", match[3] or "") for match in named)))
    return tuple(rows)


def _at_host(host: str, ports: grants.Ports) -> list[Risk]:
    """Return the risks of a line that grants ports at a host."""
    containing = TREES["connect"].containing
    domain = host.removeprefix(hosts.BELOW)
    special = {_ANY_DOMAIN} if domain != host and ("." not in domain or domain in suffixes()) else set()
    reached = [host]
    if not is_name(host):
        reached += hosts.carried(host) if not _is_large(host) else ()
        special = {_LARGE} if any(map(_is_large, reached)) else set()
    return [
        risk
        for risk, named in _of_hosts()
        if special & {*risk.what}
        or any(
            any(place in containing(each) if below else each in containing(place) for each in reached)
            and (not port or any(first <= int(port) <= last for first, last in ports))
            for place, below, port in named
        )
    ]


def _is_large(host: str) -> bool:
    own = hosts.network(host)
    return own.prefixlen < _LARGEST[own.version]


def _of_query(name: str) -> list[Risk]:
    """Return the risks of a line that lets names be looked up: that below some of them, anybody can have one."""
    rows = [risk for risk in _at_host(name, ()) if _ANY_DOMAIN in risk.what]
    return [risk._replace(grants=risk.grants.replace("can reach", "can look up")) for risk in rows]


def _of_socket(socket: str) -> list[Risk]:
    """Return the risks of a line that grants a unix socket, but not every one."""
    places = (socket,) if socket.startswith("@") else _places(socket)
    return [risk for risk in risks() if any(_is_of_socket(risk, place) for place in places)]


def _is_of_socket(risk: Risk, socket: str) -> bool:
    containing = TREES["unix"].containing
    for what in (what.removeprefix("socket ") for what in risk.what if what.startswith("socket ")):
        place = what.removesuffix(_BELOW)
        is_named = socket in containing(place) or (what.endswith(_BELOW) and place in containing(socket))
        if is_named if what.startswith("@") else _is_about(what, socket):
            return True
    return False


def _matches(risk: Risk, path: str, rights: Right, whole: Right) -> bool:
    """Return whether a row matches a path's rights, and the line itself adds a right that the match needs."""
    if not any(every in whole and every & rights for every in risk.rights):
        return False
    return any(_is_about(what, place) for place in _places(path) for what in risk.what)


def _is_about(what: str, path: str) -> bool:
    """Return whether a path is the one that a row names, or above it; or one of those, if the row names several."""
    place = what.removesuffix(_BELOW)
    if what.endswith("*"):
        return path.startswith(what[:-1]) or covers(path, os.path.dirname(what))
    return covers(path, place) or (what.endswith(_BELOW) and covers(place, path))


def _places(path: str) -> tuple[str, ...]:
    """Return where a path leads, and for one in a user's home that it is there: whose home `$HOME` is depends on who starts the
    program."""
    place = _place(path)
    home = re.sub(r"^(/root|/home(?:/[^/]+)?)(?![^/])", "$HOME", place)
    return (place,) if home == place else (place, home)


def _place(path: str) -> str:
    """Return where a path leads by the links of each Linux system: /proc/PID/root, /proc/PID/cwd, /var/run."""
    if match := re.fullmatch(r"/proc/[^/]+(?:/task/[^/]+)?/(root|cwd)(/.*)?", path):
        return _place(match[2] or "/") if match[1] == "root" else f".{match[2] or ''}"
    return path.removeprefix("/var") if covers("/var/run", path) else path


def risen(old: Policy, new: Policy) -> dict[str, set[tuple[str, Risk]]]:
    """Return the new risks of each line that grants more than in `old`, with the lines that have them: itself, or one below."""
    found: dict[str, set[tuple[str, Risk]]] = {line: set() for line, more, _ in differences(old.files, new.files) if more}
    for of, risk in {*_all_risks(new, old)} - {*_all_risks(old, new)} if found else ():
        is_own = of in found or line_kind(of) is not PATHS
        for line in [of] if is_own else map(grants.path_line, folders(PATHS.place(of))):
            found.get(line, set()).add((of, risk))
    return found


def judged(old: Policy, new: Policy) -> list[Judged]:
    """Return the lines that grant more or less than in `old`, each with its most serious new risk; a line that a policy has not
    is judged as what its absence permits."""
    by_line = risen(old, new)
    result = []
    for line, more, less in differences(old.files, new.files):
        signs = [(sign, what) for sign, what in (("+", more), ("-", less)) if what]
        subject = f"{line}: {' '.join(f'{sign} {what}' for sign, what in signs)}"
        if grants.written(line, grants.ANY) == line:  # it has no colon
            subject = f"{signs[0][0]} {line}"
        new_risks = {risk for _, risk in by_line.get(line, ())}
        if not new_risks:
            rule = f"{line.split()[0]}-{'more' if more else 'less'}"
            result.append(Judged("note", rule, line, subject, f"it {_said(line, more, less)}"))
        for risk in sorted(new_risks, key=lambda risk: (_LEVELS.index(risk.level), risk.id))[:1]:
            result.append(Judged(risk.level, risk.id, line, subject, f"it {risk.grants}", risk.why, risk.safer))
    return result


def _all_risks(policy: Policy, other: Policy) -> list[tuple[str, Risk]]:
    """Return the risks of a policy's lines, and of the absence of those that the other policy has."""
    also = [kind for kind in grants.KINDS if getattr(other.files, kind) is not None]
    return risks_of(policy.files, unconfined(policy, also))


def _said(line: str, more: str, less: str) -> str:
    """Return what a change of a line lets the program do, or no longer lets it, as the end of a sentence."""
    use = next((use for use, start in grants.USES.items() if line.startswith(start)), "")
    if use:
        verb = {"connect": "connect to", "bind": "serve on", "send": "send to"}[use]
        which = "other" if more and less else "more" if more else "fewer"
        return f"may {verb} {which} {'UDP ' * (use == 'send')}ports{' there' * (line != grants.USES[use])}"
    doing = "{} there"
    for start, verb, every in ((grants.UNIX, "connect to {}", "every unix socket"), (grants.QUERY, "look {} up", "every name")):
        if line.startswith(start):
            doing = verb.format("it" if line != start else every)
    said = [(word, what) for word, what in (("also", more), ("no longer", less)) if what]
    return " and ".join(f"may {word} {doing.format('do anything' if what == grants.ANY else what)}" for word, what in said)


_LEVELS = ("danger", "warning", "note")
