"""The circumstances in which hosts.py runs programs that were learned plainly."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hosts_network import (
    CLOSED,
    FAR_SERVER,
    FIXED,
    HOSTS,
    MOVED,
    OTHER_SERVER,
    PROXY,
    RESOLV,
    ROTATING,
    SERVER,
    SERVER6,
    SILENT,
    configure,
    give_addresses,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hosts_network import NameServer
    from hosts_programs import Program

LEFT_OUT = ("pip download", "npm install", "npm view", "dig", "ping", "apt-get update", "apt-get update, by SRV")
"""They take long, or connect to nothing."""
MANY = 8
"""How many names below one parent are learned."""
PERIOD = 1.5
"""Seconds after which what changes in mid-run changes again."""


def target_of(program: Program, many: int = MANY) -> tuple[str, ...]:
    """The targets of a program in circumstances: two names, or one, and `many` below another."""
    if program.name in LEFT_OUT:
        return ()
    first = program.targets[0]
    parent = "dbs" if "db.example.org" in first else "many"
    own = next(name for name in ("api", "db", "git") if f"{name}.example.org" in first)
    below = [first.replace(f"{own}.example.org", f"n{number}.{parent}.example.org") for number in range(many)]
    return *program.targets[:2], *below


def nothing(names: NameServer) -> Callable[[], None] | None:
    """Change nothing."""


@dataclass(frozen=True)
class Circumstance:
    name: str
    change: Callable[[NameServer], Callable[[], None] | None] = nothing
    """Makes the circumstance; returns what is called again and again in mid-run, if anything is."""
    many: int = MANY
    at_once: int = 1
    user: int | None = None
    variables: dict[str, str] = field(default_factory=dict)
    seconds: float = 0
    """After which a run is ended, if it is about programs that wait."""
    line: str = ""
    """What `callfence allow` adds to the policies."""

    def targets(self, program: Program) -> tuple[str, ...]:
        targets = target_of(program, self.many)
        return targets[:1] if self.seconds else targets

    def settings(self, program: Program) -> dict[str, Any]:
        return {**self.variables, **({"user": self.user} if self.user else {})}

    @contextlib.contextmanager
    def made(self, names: NameServer) -> Iterator[None]:
        kept = dict(names.names), dict(names.chains)
        again, over = self.change(names), threading.Event()

        def repeat() -> None:
            while again and not over.wait(PERIOD):
                again()

        thread = threading.Thread(target=repeat)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            names.names, names.chains = kept
            names.mute, names.late, names.families = set(), 0.0, (4, 6)
            configure("resolv.conf", RESOLV)
            configure("hosts", HOSTS)
            for family in ("all", "lo"):
                subprocess.run(["sysctl", "-qw", f"net.ipv6.conf.{family}.disable_ipv6=0"], check=True)
            give_addresses()


def without_ipv6(names: NameServer) -> None:
    subprocess.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"], check=True)


def only_ipv6(names: NameServer) -> None:
    names.families = (6,)
    configure("resolv.conf", f"nameserver {SERVER6}\noptions timeout:1 attempts:3\n")


def down_and_back(names: NameServer) -> Callable[[], None]:
    names.late = 0.1

    def again() -> None:
        names.mute ^= {SERVER}

    return again


def first(server: str) -> Callable[[NameServer], None]:
    """Another name server comes first, which does not answer."""

    def change(names: NameServer) -> None:
        configure("resolv.conf", f"nameserver {server}\n{RESOLV}")
        names.mute = {server}

    return change


def to(*addresses: str) -> Callable[[NameServer], None]:
    """All servers have these addresses."""

    def change(names: NameServer) -> None:
        names.names = {name: found if "other." in name else [*addresses] for name, found in names.names.items()}

    return change


def moves(names: NameServer) -> Callable[[], None]:
    names.late = 0.1
    before = dict(names.names)
    is_moved = [False]

    def again() -> None:
        is_moved[0] = not is_moved[0]
        names.names = {name: [MOVED] for name in before} if is_moved[0] else dict(before)

    return again


def other_server(names: NameServer) -> Callable[[], None]:
    names.late, names.mute = 0.1, {OTHER_SERVER}
    servers = [SERVER, OTHER_SERVER]

    def again() -> None:
        servers.reverse()
        configure("resolv.conf", RESOLV.replace(SERVER, servers[0]))
        names.mute = {servers[1]}

    return again


def resolv(text: str) -> Callable[[NameServer], None]:
    return lambda names: configure("resolv.conf", RESOLV + text + "\n")


def by_file(names: NameServer) -> None:
    own = [name for name in names.names if "*" not in name] + ["www.example.org"]
    rows = [f"{FIXED if name == 'db.example.org' else ROTATING[0]} {name}" for name in own]
    for parent, address in (("many", ROTATING[1]), ("dbs", FIXED)):
        rows += [f"{address} n{number}.{parent}.example.org" for number in range(MANY)]
    configure("hosts", HOSTS + "\n".join(rows) + "\n")
    names.names, names.chains = {}, {}


def chained(names: NameServer) -> None:
    for name, found in list(names.names.items()):
        below = [name.replace("*", f"n{number}") for number in range(MANY)] if "*" in name else [name]
        for one in below:
            names.chains |= {one: f"a.{one}.edge.example.net", f"a.{one}.edge.example.net": f"b.{one}.cdn.example.com"}
            names.names[f"b.{one}.cdn.example.com"] = found
    names.names |= {"b.www.example.org.cdn.example.com": names.names["api.example.org"]}


def gone(names: NameServer) -> None:
    names.names, names.chains = {}, {}


CIRCUMSTANCES = [
    Circumstance("as learned"),
    Circumstance("IPv6 off", without_ipv6),
    Circumstance("only IPv6 addresses", only_ipv6),
    Circumstance("resolver down and back in mid-run", down_and_back),
    Circumstance("first nameserver of two out of reach", first(FAR_SERVER)),
    Circumstance("first nameserver of two silent", first(OTHER_SERVER)),
    Circumstance("first nameserver of two refuses", first(CLOSED)),
    Circumstance("server at another address", to(MOVED)),
    Circumstance("server moves in mid-run", moves),
    Circumstance("another nameserver in mid-run", other_server),
    Circumstance("search domain, ndots:5", resolv("search corp.example\noptions ndots:5")),
    Circumstance("options use-vc", resolv("options use-vc")),
    Circumstance("options edns0 rotate single-request", resolv("options edns0 rotate single-request")),
    Circumstance("names in /etc/hosts alone", by_file),
    Circumstance("100 names", many=100),
    Circumstance("CNAME chains", chained),
    Circumstance("names are gone (NXDOMAIN)", gone),
    Circumstance("server refuses connections", to(CLOSED)),
    Circumstance("server does not answer", to(SILENT), seconds=8),
    Circumstance("20 at once", at_once=20),
    Circumstance("as the user nobody", user=65534),
    Circumstance("http_proxy", variables={"http_proxy": f"http://{PROXY}:3128", "https_proxy": f"http://{PROXY}:3128"},
                 line=f"tcp connect {PROXY}: 3128"),
]
