"""The hosts and unix sockets that the policies of a program grant, and the calls by which it could reach others.

Made when the program is started; the helper judges by it.
"""

from __future__ import annotations

from callfence.enforcer import kernel
from callfence.enforcer.bpf import ALL_RUN, AND, ARGUMENTS, EQUAL, JUMP, LOAD, Filter
from callfence.enforcer.guard import FAST_OPEN, Check, guard
from callfence.enforcer.hosts.rules import ANY, LINES, Rules
from callfence.tracer import TYPE_CHECKING, linux
from callfence.tracer.machine import MACHINE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from callfence.enforcer.bpf import Line
    from callfence.enforcer.hosts.names.known import Names
    from callfence.enforcer.listener import Notification, Request
    from callfence.policygen.files.places import Linking
    from callfence.tracer.abi import Event

_CAP_SYS_PTRACE, _CAP_SYS_ADMIN = 1 << 19, 1 << 21  # linux/capability.h
_ALWAYS = ("connect", "socketcall")
_SENDS = ("sendmsg", "sendmmsg")
_RECEIVES = ("recvmsg", "getpeername")
NAMES = {
    (arch, number): name
    for name in (*_ALWAYS, "sendto", *_SENDS, "recvfrom", *_RECEIVES)
    for arch, number in sorted(MACHINE.calls(name))
}
"""AUDIT_ARCH_* and number of each call that may be made for the program -> its name."""


FAMILIES = (1, 2, 10, 16, 38)
"""AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_ALG (linux/socket.h): these reach no other host, or only by judged calls."""
PROTOCOLS = {1: (0, 6), 2: (0, 17, 1, 58)}
"""By SOCK_STREAM and SOCK_DGRAM: IPPROTO_TCP; IPPROTO_UDP, IPPROTO_ICMP, IPPROTO_ICMPV6 (linux/in.h), and 0 for the first."""
ROUTES = {0: (4, 15, 19), 41: (57, 5, 6, 32, 75, 78), 6: (31,)}
"""By level, the options that are refused: IP_OPTIONS, IPV6_RTHDR, IPV6_2292RTHDR, IPV6_2292PKTOPTIONS, IPV6_FLOWLABEL_MGR (a
label may have a routing header), by which packets go over other hosts, IP_TRANSPARENT, IPV6_TRANSPARENT, IP_FREEBIND and
IPV6_FREEBIND (with either, IPv6 sends from any address: net/ipv6.h, ipv6_can_nonlocal_bind()), by which the program could
answer in the place of its name server, and TCP_ULP, which makes another kind of socket (linux/in.h, linux/in6.h,
linux/tcp.h)."""
_UNLINED = ("other kind", "other family", "other protocol")
"""The labels of sockets about which there are no lines, and which learning lets a program make.  TCP_FAMILIES and TCP_PROTOCOLS
fail there too, and programs go on without."""


def _of(label: str, values: Sequence[int], among: str, otherwise: str) -> list[Line]:
    """Jump to `among` if the third argument is one of the values, else to `otherwise`."""
    return [label, (LOAD, ARGUMENTS + 16), *((EQUAL, value, among, "") for value in values), (JUMP, otherwise)]


MAKING = MACHINE.calls("socket", "socketpair")
"""The calls that make sockets."""
_SOCKETS = {
    "socket": Check(
        MACHINE.numbers_by_arch("socket", "socketpair"),
        [
            (LOAD, ARGUMENTS),
            (EQUAL, 2, "internet", ""),
            (EQUAL, 10, "internet", ""),
            *((EQUAL, family, "end", "") for family in FAMILIES),
            *((EQUAL, family, "family", "") for family in linux.TCP_FAMILIES),
            (JUMP, _UNLINED[1]),
            "internet",
            (LOAD, ARGUMENTS + 16),
            *((EQUAL, protocol, "protocol", "") for protocol in linux.TCP_PROTOCOLS),
            (LOAD, ARGUMENTS + 8),
            (AND, 0xF),  # SOCK_TYPE_MASK, linux/net.h
            *((EQUAL, kind, f"kind {kind}", "") for kind in PROTOCOLS),
            (JUMP, _UNLINED[0]),
            *(line for kind, protocols in PROTOCOLS.items() for line in _of(f"kind {kind}", protocols, "end", _UNLINED[2])),
        ],
    ),
    "setsockopt": Check(
        MACHINE.numbers_by_arch("setsockopt"),
        [
            (LOAD, ARGUMENTS + 8),
            *((EQUAL, level, f"level {level}", "") for level in ROUTES),
            (JUMP, "end"),
            *(line for level, names in ROUTES.items() for line in _of(f"level {level}", names, "not permitted", "end")),
        ],
    ),
}

_UNSEEN = ("io_uring_setup", "io_uring_enter", "request_key")
"""Calls that reach others without a call: a ring, also one that the program is given, and a key of the type `dns_resolver`, for
which the kernel runs /sbin/request-key, unconfined, which looks up any name (Documentation/networking/dns_resolver.rst)."""
_MOUNTS = {
    "mount": Check(MACHINE.numbers_by_arch("mount", "umount", "umount2", "pivot_root", "move_mount"), [(JUMP, "not permitted")])
}
"""Calls by which a socket that is not granted gets the path of one that is; Landlock refuses them as well."""


class Hosts:
    """The hosts and unix sockets that all policies of a program grant."""

    __slots__ = ("filters", "has_names", "is_audit", "is_scoped", "names", "policies", "remarks", "sends", "sockets")

    def __init__(
        self,
        confining: Sequence[tuple[str, bytes]],
        filters: Mapping[str, bytes],
        environment: Sequence[bytes],
        *,
        is_audit: bool,
        keeps: Callable[[], bool],
        linking: Callable[[], Linking],
    ) -> None:
        """`confining`: the path and the lines (`rules.encode`) of each policy that confines hosts or sockets.  `filters`: those
        of all policies as one, by phase, "" for the start.  `environment`: the program's.  `keeps` returns whether the program
        cannot change `names.files.FILES`.  `linking` returns where the program may have put symbolic links.  This process
        must be in the program's working folder."""
        self.policies = [(file, Rules(content)) for file, content in confining]
        self.filters = {phase: Filter(filter_) for phase, filter_ in filters.items()}
        """By phase, "" for the start: what answers whether the policies allow a call."""
        self.is_audit = is_audit
        """Whether nothing is enforced."""
        self.is_scoped = False
        """Whether abstract sockets are confined to the program's own processes (`enforcer.confinement.SCOPES`)."""
        self.has_names = any(rules.has_names for _, rules in self.policies)
        self.names: Names | None = None
        if self.has_names:
            from callfence.enforcer.hosts.names import known

            self.names = known.Names([rules for _, rules in self.policies], is_kept=keeps())
        confined = {use for _, rules in self.policies for use in rules.confines}
        self.sends = bool(confined & {"send", "unix"})
        """Whether datagrams are judged."""
        self.sockets: dict[str, list[bytes]] = {file: [] for file, _ in self.policies}
        """The unix sockets that each policy grants: absolute paths with links resolved, `@NAME`, `@START*` or `any`."""
        self.remarks: list[str] = []
        """Warnings for the user, one line each."""
        for file, rules in self.policies:
            for socket in rules.sockets:
                if place := _located(socket, environment):
                    self._add(file, socket, place, linking)

    def _add(self, file: str, socket: str, place: bytes, linking: Callable[[], Linking]) -> None:
        """Grant what a line is about, unless it is reached by a link that an earlier run may have made."""
        if socket == ANY or socket.startswith("@"):
            self.sockets[file].append(place)
            return
        from callfence.policygen.files.places import LED, is_led, real_path

        real = real_path(place)
        if is_led(place, real, linking()):
            self.remarks.append(f"unix connect {socket} grants nothing: {LED}")
        else:
            self.sockets[file].append(real)

    def grant(self, file: str, line: str) -> None:
        """Grant a line besides the policy of a file, until the program ends; do nothing if it is not about hosts or sockets."""
        if not line.startswith(LINES):
            return
        start, _, granted = line.rpartition(": ") if not line.startswith(("unix", "dns")) else (line, "", "")
        for name, rules in self.policies:
            if name == file:
                rules.add(start, granted)
                if start.startswith("unix connect "):
                    from callfence.policygen.paths import encoded, unquoted

                    socket = start.removeprefix("unix connect ")
                    self.sockets[file].append(encoded(unquoted(socket) if socket.startswith('"') else socket))

    def are_judged(self, request: Request, *, is_granted: bool = False) -> bool:
        """Return whether a call may reach another host or a unix socket, and the policies' filters allow it in its phase, or
        somebody who was asked does (`is_granted`)."""
        call = request.call
        if (call.arch, call.number) not in NAMES:
            return False
        return is_granted or self.filters[request.phase].allows(call.arch, call.number, call.ip, call.arguments)

    @staticmethod
    def refused(call: Notification | Event) -> int:
        """Return the errno with which a call fails that would make a socket about which there are no lines; 0 for others."""
        if (call.arch, call.number) not in MAKING:
            return 0
        check = Filter(guard(ALL_RUN, {"socket": _SOCKETS["socket"]}, (), reports=False) + ALL_RUN)
        answer = check.answer(call.arch, call.number, call.ip, call.arguments)
        return answer & linux.SECCOMP_RET_DATA if answer != linux.SECCOMP_RET_ALLOW else 0

    def refusals(self, filter_: bytes, *, reports: bool, notifies: bool) -> bytes:
        """Return instructions that fail the calls by which the program, whose filter this is, could reach hosts unseen.

        With `reports`, calls that the filter answers by SECCOMP_RET_USER_NOTIF do not run.  With `notifies`, the helper is
        notified of those that are `refused`, and reports them."""
        # Without that capability it can mount only in a namespace of its own; files have to be those outside (`unix.find`).
        mounts = any(self.sockets.values()) and kernel.capabilities()[1] & _CAP_SYS_ADMIN
        checks = {**_SOCKETS, **FAST_OPEN, **(_MOUNTS if mounts else {})}
        notified = _UNLINED if notifies else ()
        return guard(filter_, checks, _UNSEEN, reports=reports, notified=notified)

    def calls(self) -> list[tuple[int, int]]:
        """Return AUDIT_ARCH_* and number of each call that is judged whatever its arguments."""
        names = (*_ALWAYS, *_SENDS * self.sends, *_RECEIVES * self.has_names)
        return sorted(MACHINE.calls(*names))

    def calls_with_address(self) -> list[tuple[int, int]]:
        """Return the same for each call that is judged if its fifth argument, an address, is not NULL."""
        names = (*("sendto",) * (self.sends or self.has_names), *("recvfrom",) * self.has_names)
        return sorted(MACHINE.calls(*names)) if names else []


def problem() -> str:
    """Return why this process cannot make the calls of other processes of this user; "" if it can."""
    is_restricted = linux.yama_scope() not in ("", "0")
    if is_restricted and not kernel.capabilities()[0] & _CAP_SYS_PTRACE:
        why = "so this user may not read the addresses that the program connects to"
        return f"{linux.YAMA_SCOPE} is {linux.yama_scope()}, {why}: set it to 0, or run enforce as root"
    return ""


def _located(socket: str, environment: Sequence[bytes]) -> bytes:
    """Return what a line is about, a path with its named folder replaced; b"" for one below a folder that is unknown here."""
    name = socket.encode("utf-8", "surrogateescape")
    if socket == ANY or socket.startswith("@"):
        return name
    from callfence.policygen.files.places import PlaceError, located

    try:
        return located(name, environment)
    except PlaceError:
        return b""
