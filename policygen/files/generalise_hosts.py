"""Generalise the hosts, unix sockets and names that runs used into a policy's grants, by a few rules, each with its reason.

A use of a host is `tcp connect HOST` or `udp send HOST`, a port, and the executable; one of a unix socket is `unix connect
SOCKET`, and of a name that was only looked up `dns query NAME`, "", and the executable (`callfence.learning.hosts`).  Names
stay names, and addresses addresses; the rules widen them only where the next run must be expected to use others.
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from callfence.policygen.files.algebra import extended
from callfence.policygen.files.generalise_ports import VARYING, spans, varying
from callfence.policygen.files.made import KEPT_APART, MIN_GENERALISED
from callfence.policygen.grants import BARE, NOT_CONFINED, TO_HOSTS, UNIX, USES, bare_line, host_line, ranges, single
from callfence.policygen.hosts import BELOW, PLACES, containing, is_name, network
from callfence.policygen.paths import folders
from callfence.policygen.values import replace
from callfence.tracer.abi.constants import table_lines
from callfence.tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from callfence.policygen.grants import Files, Ports

    Use = tuple[str, str, str]
    Widening = tuple[str, str]
    """The host or socket that is granted instead, and the reason; "" if it is the one that was used."""

LOOPBACK = "127.0.0.0/8"
NEAR = {4: 24, 6: 64}
"""The prefix of the network that is granted for addresses of it that vary, by the version of IP."""
_EVERY_ABSTRACT = "@*"
"""Every abstract socket: unrelated ones, as in `KEPT_APART`."""
_VARIED = "the names differ from run to run"


class Hosts(NamedTuple):
    """The hosts of one use that runs need."""

    ports: Mapping[str, Ports]
    """Host -> ports."""
    why: Mapping[str, str]
    """Line -> why it grants more than was used."""


def recorded(run: Iterable[Use]) -> bool:
    """Return whether hosts and unix sockets were recorded in a run."""
    return any(use[0] == UNIX or use[0].startswith(f"{UNIX} ") for use in run)


def by_host(files: Files) -> bool:
    """Return whether a policy has lines about hosts, UDP, unix sockets or names."""
    return bool(files.connect_to) or any(getattr(files, kind) is not None for kind in ("send", *BARE))


def connects_by_host(files: Files) -> bool:
    """Return whether learning adds hosts, not ports of any host, to those to which a policy lets the program connect."""
    return files.connect is not None and (bool(files.connect_to) or (not files.connect and by_host(files)))


def used_hosts(run: Iterable[Use], use: str) -> dict[str, set[int]]:
    """Return the ports that a run used at each host, for a use of TO_HOSTS."""
    result: defaultdict[str, set[int]] = defaultdict(set)
    start = f"{USES[use]} "
    for line, port, _ in run:
        if line.startswith(start) and port.isdecimal():
            result[line.removeprefix(start)].add(int(port))
    return result


def used_places(run: Iterable[Use], kind: str) -> set[str]:
    """Return the unix sockets that a run used, or the names that it looked up without using them, by their kind in BARE."""
    start = f"{BARE[kind]} "
    return {line.removeprefix(start) for line, _, _ in run if line.startswith(start)}


def looked_up(run: Iterable[Use]) -> set[str]:
    """Return all names that a run asked name servers for."""
    uses = [*run]
    answered = {line.removeprefix("name ") for line, _, _ in uses if line.startswith("name ")}
    used = {host for use in TO_HOSTS for host in used_hosts(uses, use)}
    return used_places(uses, "query") | (used & answered)


def lacking_hosts(files: Files, run: Sequence[Use], use: str) -> set[tuple[str, int]]:
    """Return the hosts and ports that a run used and a policy does not grant.  A name needs no grant of its own if all
    addresses that the run found for it are granted."""
    if getattr(files, use) is None:
        return set()
    found: defaultdict[str, set[str]] = defaultdict(set)
    for line, address, _ in run:
        if line.startswith("name "):
            found[line.removeprefix("name ")].add(address)

    def grants(host: str, port: int) -> bool:
        ports = (files.ports(use), *(files.hosts(use).get(above, ()) for above in containing(host)))
        return any(first <= port <= last for spans_ in ports for first, last in spans_)

    def is_granted(host: str, port: int) -> bool:
        return grants(host, port) or (host in found and all(grants(address, port) for address in found[host]))

    used = ((host, port) for host, ports in used_hosts(run, use).items() for port in ports)
    return {(host, port) for host, port in used if not is_granted(host, port)}


def lacking_sockets(files: Files, run: Iterable[Use]) -> set[str]:
    """Return the unix sockets that a run used and a policy does not grant."""
    return set() if files.unix is None else _beyond(used_places(run, "unix"), files.unix, "unix")


def lacking_queries(files: Files, run: Iterable[Use]) -> set[str]:
    """Return the names that a run looked up and a policy grants neither to be looked up nor to be used.  If the policy says
    nothing of names, none is lacking unless its UDP lines let the program ask no name server."""
    if files.query is None and files.asks_servers:
        return set()
    return _beyond(looked_up(run), (*(files.query or ()), *files.names), "query")


def _beyond(places: Iterable[str], granted: Iterable[str], kind: str) -> set[str]:
    """Return those of the places of a kind of BARE that none of the `granted` contains."""
    whole = {*granted}
    return {place for place in places if whole.isdisjoint(PLACES[kind].containing(place))}


def lacks(files: Files, run: Sequence[Use]) -> bool:
    """Return whether a run used a host or a unix socket, or looked a name up, that a policy does not grant."""
    return bool(
        any(lacking_hosts(files, run, use) for use in TO_HOSTS) or lacking_sockets(files, run) or lacking_queries(files, run)
    )


def added_hosts(files: Files, run: Sequence[Use], needed: Files) -> dict[str, Any]:
    """Return the fields of `Files` that grant, as `needed` does, the hosts and unix sockets that `files` lacks for a run."""
    fields: dict[str, Any] = {}
    for use in TO_HOSTS if connects_by_host(files) else TO_HOSTS[1:]:
        hosts: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
        for host, port in lacking_hosts(files, run, use):
            for above in containing(host):
                if span := next((span for span in needed.hosts(use).get(above, ()) if span[0] <= port <= span[1]), None):
                    hosts[above].add(span)
                    break
        if getattr(files, use) is not None:
            fields |= {use: (), f"{use}_to": {host: ranges(ports) for host, ports in hosts.items()}}
    if files.unix is not None:
        fields["unix"] = _grants(lacking_sockets(files, run), needed.unix or (), "unix")
    return fields


def _grants(lacking: Iterable[str], needed: Iterable[str], kind: str) -> tuple[str, ...]:
    """Return those of the `needed` places of a kind of BARE that contain a lacking one."""
    whole = {*needed}
    return tuple(above for place in sorted(lacking) for above in PLACES[kind].containing(place) if above in whole)


def with_queries(
    before: Files, files: Files, runs: Sequence[Iterable[Use]], newest: Iterable[Use], *, exact: bool = False
) -> Files:
    """Return `files`, which are `before` with hosts added, with the names that the newest run looked up and that they do not
    grant; with those of all runs, if `before` had no names of hosts and so said nothing of names."""
    if before.query is None and files.query is not None:
        files, newest = replace(files, query=()), [use for run in runs for use in run]
    if lacking := lacking_queries(files, newest):
        needed, _ = learned_queries(runs, files.names, exact=exact)
        files = replace(files, query=files.query or ())
        files = extended(files, replace(NOT_CONFINED, query=_grants(lacking, needed, "query")))
    return files


def learned_hosts(runs: Sequence[Iterable[Use]], use: str, *, exact: bool = False) -> Hosts:
    """Return the hosts and ports that these runs need for a use of TO_HOSTS.  `exact`: only those that they used."""
    each = [used_hosts(run, use) for run in runs]
    widened = {} if exact else _widened_hosts([set(used) for used in each])
    ports: dict[str, Ports] = {}
    why: dict[str, str] = {}
    of_host: defaultdict[str, list[set[int]]] = defaultdict(lambda: [set() for _ in each])
    reasons_of: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for run, used in enumerate(each):
        for name, used_ports in used.items():
            host, reason = widened.get(name, (name, ""))
            of_host[host][run] |= used_ports
            reasons_of[host][reason] = None
    for host, own in sorted(of_host.items()):
        granted = spans(own, exact=exact)
        ports[host] = ranges(granted)
        if text := "; ".join(filter(None, sorted({*reasons_of[host], *granted.values()}))):
            why[host_line(use, host)] = text
    redundant = {
        host
        for host in ports
        if any(above != host and single(ports[host]) <= single(ports.get(above, ())) for above in containing(host))
    }
    return Hosts({host: ports[host] for host in ports if host not in redundant}, why)


def _widened_hosts(each: Sequence[set[str]]) -> dict[str, Widening]:
    """Return the hosts for which a wider one is granted, by the hosts that each run used."""
    every = set().union(*each)
    names = {host for host in every if is_name(host)}
    return _widened_names([hosts & names for hosts in each], names) | _widened_addresses(each, every - names)


def _widened_names(each: Sequence[set[str]], names: set[str]) -> dict[str, Widening]:
    """Return what is granted for names below a common one, if they are many, or have digits and differ from run to run: names
    without digits rather belong to other things that the program does."""
    result: dict[str, Widening] = {}
    labels = {name: name.removeprefix(BELOW).split(".") for name in names}
    every: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    for name, parts in labels.items():
        for start in range(1, len(parts) - 1):
            every[tuple(parts[start:])].add(name)
    for suffix in sorted(every, key=lambda suffix: (-len(suffix), suffix)):
        text = ".".join(suffix)
        below = every[suffix] - result.keys()
        if text in suffixes() or len(below) < 2:
            continue
        numbered = {name for name in below if any(map(str.isdigit, name.removesuffix(text)))}
        varied = varying([hosts & numbered for hosts in each])
        if len(below) >= MIN_GENERALISED:
            result |= dict.fromkeys(below, (BELOW + text, f"{len(below)} names below it were used"))
        elif len(varied) >= VARYING:
            result |= dict.fromkeys(varied, (BELOW + text, _VARIED))
    return result


def _widened_addresses(each: Sequence[set[str]], addresses: set[str]) -> dict[str, Widening]:
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for address in addresses:
        own = network(address)
        if own.is_loopback and own.version == 4:
            groups[LOOPBACK].add(address)
        elif not (own.is_loopback or own.is_link_local or own.is_multicast) and own.prefixlen > NEAR[own.version]:
            groups[str(own.supernet(new_prefix=NEAR[own.version]))].add(address)
    result: dict[str, Widening] = {}
    for near, group in groups.items():
        if near == LOOPBACK:
            if len(group) > 1:
                result |= dict.fromkeys(group, (LOOPBACK, "several addresses of this machine were used"))
        elif len(group) >= MIN_GENERALISED or len(varying([hosts & group for hosts in each])) >= VARYING:
            result |= dict.fromkeys(group, (near, "addresses of this network differ from run to run, or are many"))
    return result


@cache
def suffixes() -> frozenset[str]:
    """Return suffixes of two labels that no rule makes `*.SUFFIX` of."""
    return frozenset(table_lines(__spec__, "suffixes.tsv"))


# Names that are looked up, and unix sockets


def learned_queries(
    runs: Sequence[Iterable[Use]], named: Iterable[str] = (), *, exact: bool = False
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the names that these runs need to look up, and line -> why it grants more than was used.  A name that was used
    needs no line if one of the hosts `named` contains it.  `exact`: only those that they looked up."""
    each = [used_places(run, "query") | _beyond(looked_up(run), named, "query") for run in runs]
    every = set().union(*each)
    widened = {} if exact else _widened_names(each, every)
    return _kept([widened.get(name, (name, "")) for name in sorted(every)], "query")


def _kept(places: Iterable[Widening], kind: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the places of a kind of BARE that no other contains, and line -> the reason, if there is one."""
    reasons = dict(reversed([*places]))
    kept = [place for place in sorted(reasons) if len(reasons.keys() & {*PLACES[kind].containing(place)}) == 1]
    return tuple(kept), {bare_line(kind, place): reasons[place] for place in kept if reasons[place]}


def learned_sockets(runs: Sequence[Iterable[Use]], *, exact: bool = False) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the unix sockets that these runs need, and line -> why it grants more than was used.  `exact`: no more."""
    each = [used_places(run, "unix") for run in runs]
    every = sorted(set().union(*each))
    if exact:
        return tuple(every), {}
    varied = varying(each)
    stems = [{_stem(socket) for socket in sockets & varied} for sockets in each]
    repeated = {stem for stem in set().union(*stems) if sum(stem in those for those in stems) > 1}
    crowd: defaultdict[str, set[str]] = defaultdict(set)
    for socket in every:
        crowd[_stem(socket)].add(socket)
    result: list[Widening] = []
    for socket in every:
        stem = _stem(socket)
        place, reason = _without_random(socket), "a part of the name looks random"
        if place == socket and stem in repeated:
            place, reason = stem, _VARIED
        elif place == socket and len(crowd[stem]) >= MIN_GENERALISED:
            place, reason = stem, f"{len(crowd[stem])} sockets in it were used"
        result.append((place, reason) if place not in ("", _EVERY_ABSTRACT, socket, *KEPT_APART) else (socket, ""))
    return _kept(result, "unix")


def _stem(socket: str) -> str:
    """Return the folder of a socket, or the abstract sockets with the same beginning, up to the last separator."""
    if socket.startswith("@"):
        match = re.search(r"[/_.:-](?=[^/_.:-]*$)", socket)
        return f"{socket[: match.end()]}*" if match else _EVERY_ABSTRACT
    return [*folders(socket), ""][1]


def _without_random(socket: str) -> str:
    """Return the socket or, if a part of its name looks random, what contains those with another such part."""
    parts = socket.split("/")
    for index, part in enumerate(parts):
        start = fixed_start(part.removeprefix("@"))
        if start is not None and socket.startswith("@"):
            text = "/".join([*parts[:index], "@" * part.startswith("@") + start])
            return f"{text}*" if len(text) > 1 else socket
        if start is not None and index:
            return "/".join(parts[:index]) or "/"
    return socket


def fixed_start(part: str) -> str | None:
    """Return the beginning of a name whose rest looks random; None if none does."""
    from callfence.policygen.evidence.words import steady  # few runs use unix sockets

    pattern = steady(part, ())
    if "*" in pattern and "*" not in part:
        return pattern.partition("*")[0]
    if re.fullmatch("tmp[a-z0-9_]{8}", part):  # as Python's tempfile makes it
        return "tmp"
    return part[:-6] if _is_mixed(part[-6:]) else None


def _is_mixed(end: str) -> bool:
    """Return whether the end of a name has characters of several kinds in no order, as the six that mkstemp(3) makes."""
    if len(end) < 6 or not (end.isalnum() and end.isascii()):
        return False
    kinds = [(char.isdigit(), char.isupper()) for char in end]
    changes = sum(kind != following for kind, following in pairwise(kinds))
    return changes >= (2 if any(map(str.isdigit, end)) and not end.isdigit() else 4)
