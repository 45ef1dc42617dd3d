"""systemd: a drop-in that filters a unit's calls by name (systemd.exec(5)), for systemd 257.

A list of allowed calls fails every call that systemd does not know with ENOSYS, and therefore cannot fail a known call
with ENOSYS: libseccomp refuses a rule that equals its default, and the unit does not start (status 228/SECCOMP; seen with
257.13).  If a policy needs ENOSYS for clone3, RestrictNamespaces= does it; where that would deny too much, every denied call
fails with ENOSYS, since libc does not fall back to clone after another error.  Other calls fail with EPERM instead, as
io_uring_setup does where kernel.io_uring_disabled is set, and openat2 under the filters of many containers.

Of files (systemd.exec(5), "Sandboxing"; systemd.resource-control(5)) the unit sees all for reading; what it may change and
execute, and which TCP ports it may bind, is confined; and with which addresses it may exchange packets, if the policy has hosts
that are addresses, and serves nobody.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Final

from callfence.policygen.evaluate import answers
from callfence.policygen.files.generalise import trees
from callfence.policygen.formats import Direction, Exported, FormatOptions, Loss, effect as effects
from callfence.policygen.formats.systemd_enforce import quoted
from callfence.policygen.grants import ALL, ANY_PORT, NO_PORT, Files, Right
from callfence.policygen.hosts import is_name, order
from callfence.policygen.implied.resolve import Resolved
from callfence.policygen.model import ALLOW, ENOSYS, KILL, Action, Always, Condition, Entry, Operator
from callfence.policygen.paths import covers
from callfence.policygen.sets import region
from callfence.policygen.sets.algebra import FALSE
from callfence.policygen.values import replace
from callfence.tracer.abi import NATIVE, Arch, constants, table
from callfence.tracer.abi.constants import table_rows

_SPECIFIERS = {"$HOME": "%h", "$TMPDIR": "%T"}
_ALWAYS_WRITABLE = ("/dev", "/proc", "/sys")
"""Folders that stay writable under ProtectSystem=strict."""
_FAMILIES = 1, 2, 10, 16
"""AF_UNIX, AF_INET, AF_INET6 and AF_NETLINK (linux/socket.h): unix sockets have lines of their own, netlink does not leave the
machine."""
_CHANGES = ALL & ~Right.READ & ~Right.EXECUTE
KNOWN: Final = "@known"
"""The group of all calls that systemd knows."""
IMPLIED: Final = "@default"
"""The group that systemd adds to every list of allowed calls (systemd.exec(5)); a later `~` removes it again."""
# src/core/exec-invoke.c apply_syscall_filter() adds write; execve is in @default, which a list of denied calls lacks
_MANAGER = "systemd writes to its manager before it executes the program, after the filter has taken effect"
CALLS = effects.EXECVE | {"write": _MANAGER}
_PACKETS = Loss(Direction.NARROWER, "systemd drops packets of every protocol, to and from all addresses that no line grants")
_OTHERS = Loss(
    Direction.WIDER, "systemd drops packets of IP alone: sockets of other families (AF_PACKET, AF_VSOCK) send anywhere"
)
_PORTS = Loss(
    Direction.WIDER,
    "systemd confines bind(2) alone, and only if it was built with BPF_FRAMEWORK (`systemctl --version`; Debian 13's was not): "
    "without bind(2), listen(2) takes any free port",
)
_HOME = Loss(Direction.OTHER, "%h, written for $HOME, is /root in units of the system manager, whatever User= is")
# src/shared/seccomp-util.c seccomp_restrict_namespaces()
_NAMESPACES = ("NEWNS", "NEWCGROUP", "NEWUTS", "NEWIPC", "NEWUSER", "NEWPID", "NEWNET", "NEWTIME")


def files_section(files: Files) -> tuple[str, Files]:
    """Return the lines of a unit that confine files, bound ports and hosts, and the `Files` that these lines actually enforce:
    a part is None if the lines do not confine it."""
    lines: list[str] = []
    effect: dict[str, Right] | None = None
    if files.paths is not None:
        lines, effect = _paths_section({path: rights for path, rights in files.paths.items() if _written(path)})
    if files.bind is not None:
        # no line of a policy is about the UDP ports that are bound
        lines += ["SocketBindDeny=any", "SocketBindAllow=", "SocketBindAllow=udp"]
        lines += [f"SocketBindAllow=tcp:{first}-{last}" for first, last in files.bind if (first, last) != ANY_PORT[0]]
        lines += ["SocketBindAllow=any"] * (files.bind == ANY_PORT)
    addresses = _addresses(files)
    if addresses is None:
        return "".join(f"{line}\n" for line in lines), Files(effect, None, files.bind)
    lines += ["IPAddressDeny=any", "IPAddressAllow=", *(f"IPAddressAllow={address}" for address in addresses)]
    reached = dict.fromkeys(addresses, ANY_PORT)
    enforced = Files(effect, NO_PORT, files.bind, NO_PORT, connect_to=reached, send_to=reached)
    return "".join(f"{line}\n" for line in lines), enforced


def _paths_section(paths: Mapping[str, Right]) -> tuple[list[str], dict[str, Right]]:
    """Return the lines for these paths, and the rights that they give.  An empty assignment clears the unit's own list.

    Each path of a list is a mount of its own, to which ProtectSystem= and NoExecPaths=/ do not extend.  Of two lists that have
    the same path, the stricter one counts."""
    changed = [path for path, rights in paths.items() if rights & _CHANGES]
    executed = [path for path, rights in paths.items() if Right.EXECUTE in rights]
    executed += [path for path in trees() if path in paths and path not in executed]  # libraries are mapped from there
    lines: list[str] = []
    if "/" not in executed:
        lines += ["NoExecPaths=", *_setting("NoExecPaths", _outside(("/", *_ALWAYS_WRITABLE, *changed), executed))]
        lines += ["ExecPaths=", *_setting("ExecPaths", executed)]
    if "/" not in changed:
        lines += ["ProtectSystem=strict", "ReadWritePaths=", *_setting("ReadWritePaths", changed)]
        lines += _setting("BindReadOnlyPaths", _outside(executed, (*changed, *_ALWAYS_WRITABLE)))
    effect = {"/": Right.READ, **dict.fromkeys(_ALWAYS_WRITABLE, _CHANGES)}
    for listed, rights in ((changed, _CHANGES), (executed, Right.EXECUTE)):
        for path in listed:
            effect[path] = effect.get(path, Right.READ) | rights
    return lines, effect


def _outside(paths: Iterable[str], folders: Collection[str]) -> list[str]:
    """Return the paths that are neither one of these folders nor below one."""
    return [path for path in paths if not any(covers(folder, path) for folder in folders)]


def _addresses(files: Files) -> list[str] | None:
    """Return the addresses and networks with which a unit may exchange packets, by whatever protocol and in both directions
    (IPAddressAllow=); None if that would deny what the policy grants: other hosts, names, or clients of a server."""
    hosts = {**files.connect_to, **files.send_to}
    if files.bind != NO_PORT or files.connect != NO_PORT or files.send != NO_PORT or any(map(is_name, hosts)):
        return None
    return sorted(hosts, key=order)


def _setting(name: str, paths: Iterable[str]) -> list[str]:
    """Return one assignment for each path; systemd ignores a path that does not exist."""
    return [f"{name}=-{_written(path)}" for path in paths]


def _written(path: str) -> str:
    """Return a path as systemd reads it; '' if a unit cannot have it, or has no specifier for its variable."""
    start, slash, rest = path.partition("/")
    if start not in ("", *_SPECIFIERS):
        return ""
    return quoted(_SPECIFIERS.get(start, "") + (slash + rest).replace("%", "%%"))


@cache
def groups(arch: Arch = NATIVE) -> Mapping[str, frozenset[str]]:
    """Return systemd's groups of calls, by name, each with the calls that the architecture has, for the systemd version in
    systemd_groups.tsv; its calls are those of x86_64, which has all that aarch64 has."""
    known, rows = table(arch).by_name.keys(), table_rows(__spec__, "systemd_groups.tsv")
    return MappingProxyType({name: frozenset(calls.split()) & known for name, calls in rows})


def grouped(names: Collection[str], arch: Arch = NATIVE) -> list[str]:
    """Return a short list of the same calls of an architecture: groups whose calls are all in `names`, then other names."""
    wanted = frozenset(names)
    whole = {name: calls for name, calls in groups(arch).items() if calls and calls <= wanted and name != KNOWN}
    chosen: list[str] = []
    covered: frozenset[str] = frozenset()
    for name, calls in sorted(whole.items(), key=lambda item: (-len(item[1]), item[0])):
        if len(calls - covered) > 1:
            chosen.append(name)
            covered |= calls
    return [*sorted(chosen), *sorted(wanted - covered)]


def export(policy: Resolved, options: FormatOptions) -> Exported:
    """Return a drop-in that filters a unit's calls by name.  Raises ExportError if the policy has no entries for a machine."""
    meant, added = effects.with_calls(effects.explicit(effects.native(policy, options.arch)), CALLS)
    names = _with_known_actions(effects.names_only(meant))
    if names.default.may_allow:
        section, effect = _denying(names)
    else:
        section, effect = _allowing(names, restrict=_unshares_nothing(meant))
    unknown = set(table(effects.only(effect)).by_name) - groups(effects.only(effect))[KNOWN]
    reasons = dict.fromkeys(unknown, "systemd 257 does not know these calls")
    lost = effects.losses(policy, effect, "systemd", added, reasons)
    lines, files = files_section(policy.files)
    head = f"# System calls of {options.name}, made by `callfence export --to systemd` for systemd 257.\n[Service]\n"
    use = f"save as /etc/systemd/system/{options.name}.service.d/callfence.conf; systemctl daemon-reload"
    others = effects.FOREIGN[effects.only(effect)]
    foreign = Loss(Direction.OTHER, f"calls of {others} kill the calling thread instead of the process")
    homes = any(path.startswith("$HOME") for path in files.paths or ())
    lost = (*lost, foreign, *_network(meant, policy.files, files), *[_HOME] * homes)
    return Exported(f"{head}{section}{lines}".encode(), lost, added, use=use, files=files)


def _network(policy: Resolved, meant: Files, files: Files) -> Iterator[Loss]:
    """Yield what the lines about ports and hosts lose, but for the lines themselves, to the calls of a policy of one
    architecture.  `meant`, `files`: the policy's, and what is enforced of them."""
    calls = table(effects.only(policy)).by_name
    binds = any(effects.possible(policy, calls[name].number)[0].may_allow for name in ("bind", "listen"))
    if meant.bind not in (None, ANY_PORT) and binds:
        yield _PORTS
    if files.send is not None:
        yield _PACKETS
        if _may(policy, "socket", Condition(0, Operator.ONE_OF, values=_FAMILIES), negated=True):
            yield _OTHERS


def _with_known_actions(policy: Resolved) -> Resolved:
    """Return the policy with other actions replaced by those that systemd has."""
    default = effects.fitted(policy.default, KILL)
    denied = KILL if default.may_allow else default
    fitted = policy.changed(lambda arch, number, entry: replace(entry, action=effects.fitted(entry.action, denied)))
    return replace(fitted, default=default)


def _actions(policy: Resolved) -> dict[str, Action]:
    """Return the actions of the calls that systemd knows and the policy names, by name."""
    arch = effects.only(policy)
    calls, section = table(arch).by_name, policy.entries[arch]
    return {name: section[calls[name].number].action for name in sorted(groups(arch)[KNOWN]) if calls[name].number in section}


def _allowing(policy: Resolved, *, restrict: bool) -> tuple[str, Resolved]:
    """Return a section that lists the allowed calls, without those that systemd would add, and the policy that it enforces.
    With `restrict`, RestrictNamespaces= is set if clone3 is denied with ENOSYS."""
    arch, actions = effects.only(policy), _actions(policy)
    allowed = {name for name, action in actions.items() if action.may_allow}
    failed = {name: action for name, action in actions.items() if not action.may_allow}
    restrict = restrict and failed.get("clone3") == ENOSYS
    if restrict:
        allowed.add("clone3")
        del failed["clone3"]
    default = ENOSYS if failed.get("clone3") == ENOSYS else policy.default
    if default != ENOSYS:
        failed = {name: effects.EPERM if action == ENOSYS else action for name, action in failed.items()}
    failed = {name: action for name, action in failed.items() if action != default}
    entries = {}
    for name, call in table(arch).by_name.items():
        action = ALLOW if name in allowed else failed.get(name, default) if name in groups(arch)[KNOWN] else ENOSYS
        entries[call.number] = Entry(Always(True), action)
    if restrict:
        _restrict(entries, arch)
    denied = grouped(groups(arch)[IMPLIED] - allowed - set(failed), arch)
    denied += [f"{name}:{effects.action_word(action)}" for name, action in sorted(failed.items())]
    section = _section(_list("", grouped(allowed, arch)) + _list("~", denied), default, restrict=restrict)
    return section, replace(policy, entries={arch: entries}, default=default, unknown=ENOSYS)


def _denying(policy: Resolved) -> tuple[str, Resolved]:
    """Return a section that lists the denied calls, and the policy that it enforces; it allows calls unknown to systemd."""
    denied = {name: action for name, action in _actions(policy).items() if not action.may_allow}
    listed = [f"{name}:{effects.action_word(action)}" for name, action in sorted(denied.items())]
    arch = effects.only(policy)
    entries = {table(arch).by_name[name].number: Entry(Always(True), action) for name, action in denied.items()}
    section = _section(_list("~", listed), KILL, restrict=False)
    return section, replace(policy, entries={arch: entries}, default=ALLOW, unknown=ALLOW)


def _section(lines: list[str], default: Action, *, restrict: bool) -> str:
    """Return the drop-in's settings with these lines, which replace those of the unit: an empty value clears a list."""
    lines = ["SystemCallFilter=", *lines, f"SystemCallErrorNumber={effects.action_word(default)}"]
    lines += ["SystemCallArchitectures=", "SystemCallArchitectures=native"]
    lines += ["RestrictNamespaces=yes"] * restrict
    return "\n".join([*lines, "NoNewPrivileges=yes"]) + "\n"


def _list(prefix: str, words: list[str]) -> list[str]:
    """Return assignments for the words, 100 columns each; each assignment adds to the list."""
    lines = textwrap.wrap(" ".join(words), 100, break_on_hyphens=False)
    return [f"SystemCallFilter={prefix}{line}" for line in lines]


def _flags(arch: Arch) -> int:
    values = [constants.value(f"CLONE_{name}", arch) for name in _NAMESPACES]
    return sum(value for value in values if value is not None)


def _unshares_nothing(policy: Resolved) -> bool:
    """Return whether the policy denies every call that RestrictNamespaces= fails."""
    arch = effects.only(policy)
    calls = table(arch).by_name
    if any(action.may_allow for name in ("unshare", "setns") for action in effects.possible(policy, calls[name].number)):
        return False
    return not _may(policy, "clone", Condition(0, Operator.ANY, _flags(arch)))


def _may(policy: Resolved, name: str, condition: Condition, *, negated: bool = False) -> bool:
    """Return whether a policy of one architecture allows a call whose arguments meet a condition, or do not (`negated`)."""
    arch, space = effects.only(policy), region.space()
    call = table(arch).by_name[name]
    some = region.to_bdd(space, condition, call.arguments)
    some = space.invert(some) if negated else some
    return any(
        space.and_(where, some) != FALSE for where, action in answers(space, policy, arch, call.number) if action.may_allow
    )


def _restrict(entries: dict[int, Entry], arch: Arch) -> None:
    """Change the entries to those with RestrictNamespaces=yes.  If both deny a call, the list decides its errno, since systemd
    installs it later."""
    calls = table(arch).by_name
    entries[calls["clone3"].number] = Entry(Always(True), ENOSYS)
    clone = calls["clone"].number
    if entries[clone].action == ALLOW:
        entries[clone] = Entry(Condition(0, Operator.MASKED, 0, _flags(arch)), ALLOW, effects.EPERM)
