"""A unit of systemd -> the files, ports and calls that it leaves its program (systemd.exec(5), systemd.resource-control(5)).

It is meant as a baseline (`learn --within`): what is not read of it is told.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from policygen.formats import Direction, Imported, ImportFormatError, Loss
from policygen.formats.carved import at, carved
from policygen.formats.effect import NATIVE
from policygen.formats.systemd.groups import IMPLIED, KNOWN, groups
from policygen.grants import ALL, MAX_PORT, NOTHING, Files, Right, ranges, single
from policygen.model import ALLOW, ENOSYS, KILL, Action, ActionKind, Always, Entry, Policy
from policygen.paths import PathError, canonical
from policygen.values import replace
from tracer.abi import constants, table
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from policygen.formats import FormatOptions
    from policygen.grants import Ports

_READS = Right.READ | Right.EXECUTE
_CHANGES = ALL & ~_READS
_MAX_ERRNO = 4095  # linux/err.h
_FOLDERS = {
    "RuntimeDirectory": "/run", "StateDirectory": "/var/lib", "CacheDirectory": "/var/cache", "LogsDirectory": "/var/log",
    "ConfigurationDirectory": "/etc",
}  # fmt: skip
_SYSTEM = {"yes": ("/usr", "/boot", "/efi"), "full": ("/usr", "/boot", "/efi", "/etc"), "strict": ("/",), "no": ()}
_HOMES = ("/home", "/root", "/run/user")
_READ = {
    "ProtectSystem", "ProtectHome", "ReadOnlyPaths", "ReadWritePaths", "InaccessiblePaths", "NoExecPaths", "ExecPaths",
    "DynamicUser", "WorkingDirectory", "SystemCallFilter", "SystemCallErrorNumber", "SocketBindAllow", "SocketBindDeny",
    "NoNewPrivileges", *_FOLDERS,
}  # fmt: skip
_UNREAD = re.compile(r"Restrict|Private|Protect|SystemCall|Socket|IPAddress|Bind|TemporaryFile|RootDir|RootIm|MemoryDeny")
"""Settings of those that keep a program from something."""
_SPECIFIERS = {"%h": "$HOME", "%T": "$TMPDIR", "%t": "/run", "%S": "/var/lib", "%C": "/var/cache", "%L": "/var/log", "%%": "%"}
_FILES = {
    "ProtectSystem", "ProtectHome", "ReadOnlyPaths", "ReadWritePaths", "InaccessiblePaths", "NoExecPaths", "ExecPaths",
    "DynamicUser",
}  # fmt: skip


class _Setting(NamedTuple):
    line: int
    name: str
    value: str


def read(data: bytes, filename: str, options: FormatOptions) -> Imported:
    settings = [*_settings(data.decode("utf-8", "surrogateescape"), filename)]
    losses: list[Loss] = []
    unread = sorted({one.name for one in settings if one.name not in _READ and _UNREAD.match(one.name) and one.value})
    if unread:
        losses.append(Loss(Direction.WIDER, f"these settings are not read: {', '.join(unread)}"))
    paths = None
    if any(one.name in _FILES and one.value for one in settings):
        marks = _marks(settings, filename)
        grants, more = carved(marks)
        place = next((one for one in reversed(settings) if one.name == "WorkingDirectory"), _Setting(0, "", "/"))
        start = "$HOME" if place.value == "~" else _path(place, place.value or "/", filename)
        paths = grants | {".": at(marks, start)}
        losses += more
    policy, lost = _calls(settings, filename)
    files = Files(paths, None, _ports(settings, filename))
    return Imported(replace(policy, files=files), (*lost, *losses))


def _settings(text: str, filename: str) -> Iterator[_Setting]:
    """Yield the assignments of [Service], continued lines joined.  An empty value clears those before."""
    section, pending, first = "", "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if not pending and (not line.strip() or line.lstrip()[0] in "#;"):
            continue
        if pending and line.lstrip()[:1] in ("#", ";"):
            continue
        first = first if pending else number
        if line.endswith("\\"):
            pending += f"{line[:-1]} "
            continue
        whole, pending = (pending + line).strip(), ""
        if whole.startswith("[") and whole.endswith("]"):
            section = whole
        elif "=" not in whole:
            raise ImportFormatError(f"{filename}:{first}: neither a section nor NAME=VALUE: {whole[:60]}")
        elif section == "[Service]":
            name, _, value = whole.partition("=")
            yield _Setting(first, name.strip(), value.strip())
    if not section:
        raise ImportFormatError(f"{filename}:1: a unit has sections, such as [Service]")


def _last(settings: Sequence[_Setting], name: str) -> str:
    return next((one.value for one in reversed(settings) if one.name == name), "")


def _values(settings: Sequence[_Setting], name: str, filename: str) -> list[tuple[_Setting, str]]:
    """The words of all assignments after the last empty one."""
    found: list[tuple[_Setting, str]] = []
    for one in settings:
        if one.name == name:
            try:
                words = shlex.split(one.value)
            except ValueError as error:
                raise ImportFormatError(f"{filename}:{one.line}: {name}: {error}") from error
            found = [*found, *((one, word) for word in words)] if one.value else []
    return found


# -- files


def _marks(settings: Sequence[_Setting], filename: str) -> Mapping[str, Right]:
    dynamic = _is_yes(_last(settings, "DynamicUser"))
    system = _word(settings, "ProtectSystem", "strict" if dynamic else "no", (*_SYSTEM, "true", "false"), filename)
    home = _word(settings, "ProtectHome", "read-only" if dynamic else "no", ("yes", "no", "read-only", "tmpfs"), filename)
    marks = {"/": ALL} | dict.fromkeys(_SYSTEM[system], _READS)
    if system == "strict":
        marks |= dict.fromkeys(("/dev", "/proc", "/sys"), ALL)
    if home != "no":
        marks |= dict.fromkeys((*_HOMES, "$HOME"), _READS if home == "read-only" else NOTHING)
    for name, rights in (("InaccessiblePaths", NOTHING), ("ReadOnlyPaths", _READS), ("ReadWritePaths", ALL)):
        for setting, word in _values(settings, name, filename):
            path = _path(setting, word, filename)
            marks[path] = rights if rights == NOTHING or at(marks, path) else NOTHING
    for name, folder in _FOLDERS.items():
        for setting, word in _values(settings, name, filename):
            marks[_path(setting, f"{folder}/{word.partition(':')[0]}", filename)] = ALL
    executed = {"/": ALL}
    for name, may in (("NoExecPaths", ~Right.EXECUTE), ("ExecPaths", ALL)):
        executed |= {_path(setting, word, filename): may for setting, word in _values(settings, name, filename)}
    return {path: at(marks, path) & at(executed, path) for path in {*marks, *executed}}


def _path(setting: _Setting, word: str, filename: str) -> str:
    text = word.lstrip("-+!")
    for specifier, meant in _SPECIFIERS.items():
        text = text.replace(specifier, meant)
    try:
        if re.search(r"%[^%]", word.replace("%%", "")) and "%" in text:
            raise PathError(f"the specifier in {word} is not known here")
        return canonical(text)
    except PathError as error:
        raise ImportFormatError(f"{filename}:{setting.line}: {setting.name}: {error}") from error


def _word(settings: Sequence[_Setting], name: str, default: str, known: Sequence[str], filename: str) -> str:
    found = next((one for one in reversed(settings) if one.name == name), None)
    if found is None or not found.value:
        return default
    value = {"true": "yes", "on": "yes", "1": "yes", "false": "no", "off": "no", "0": "no"}.get(found.value, found.value)
    if value not in known:
        raise ImportFormatError(f"{filename}:{found.line}: {name}={found.value}: it is none of {', '.join(known)}")
    return value


def _is_yes(value: str) -> bool:
    return value in ("yes", "true", "on", "1")


# -- ports


def _ports(settings: Sequence[_Setting], filename: str) -> Ports | None:
    denied = _values(settings, "SocketBindDeny", filename)
    if not denied:
        return None
    ports = set(range(MAX_PORT + 1))
    for setting, word in denied:
        ports -= _of(setting, word, filename)
    for setting, word in _values(settings, "SocketBindAllow", filename):
        ports |= _of(setting, word, filename)
    return ranges(ports)


def _of(setting: _Setting, word: str, filename: str) -> set[int]:
    """The TCP ports of a rule: `[FAMILY:][PROTOCOL:]PORTS`, or `any`."""
    match = re.fullmatch(r"(?:(ipv4|ipv6):)?(?:(tcp|udp):?)?(any|[0-9]{1,5}(?:-[0-9]{1,5})?)?", word)
    if not match or not word:
        raise ImportFormatError(f"{filename}:{setting.line}: {setting.name}={word}: it is no rule for sockets")
    if match[2] == "udp":
        return set()
    if match[3] in (None, "any"):
        return single(((0, MAX_PORT),))
    first, _, last = match[3].partition("-")
    if max(int(first), int(last or first)) > MAX_PORT:
        raise ImportFormatError(f"{filename}:{setting.line}: {setting.name}={word}: ports are 0 to {MAX_PORT}")
    return single(((int(first), int(last or first)),))


# -- calls


def _calls(settings: Sequence[_Setting], filename: str) -> tuple[Policy, list[Loss]]:
    allows: bool | None = None
    listed: dict[str, Action | None] = {}
    for one in settings:
        if one.name != "SystemCallFilter":
            continue
        inverts = one.value.startswith("~")
        words = one.value.removeprefix("~").split()
        if not words:
            allows, listed = None, {}
            continue
        if allows is None:
            allows = not inverts
            listed = dict.fromkeys(groups()[IMPLIED], None) if allows else {}
        named = dict(pair for word in words for pair in _named(one, word, filename))
        if inverts != allows or (allows and any(named.values())):
            listed |= named
        else:
            listed = {name: action for name, action in listed.items() if name not in named}
    calls = table(NATIVE).by_name
    number = _last(settings, "SystemCallErrorNumber")
    denied = _error(number, f"{filename}: SystemCallErrorNumber") if number not in ("", "kill") else KILL
    if allows is None:
        return Policy({NATIVE: {}}, default=ALLOW, unknown=ALLOW), []
    entries = {
        calls[name].number: Entry(Always(True), action or (ALLOW if allows else denied)) for name, action in listed.items()
    }
    if allows:
        unknown = {call.number: Entry(Always(True), ENOSYS) for name, call in calls.items() if name not in groups()[KNOWN]}
        policy = Policy({NATIVE: unknown | entries}, default=denied, unknown=ENOSYS)
    else:
        policy = Policy({NATIVE: entries}, default=ALLOW, unknown=ALLOW)
    return policy, [Loss(Direction.OTHER, "calls of i386 and of x32 kill the process, and not only the thread that makes them")]


def _named(setting: _Setting, word: str, filename: str) -> Iterator[tuple[str, Action | None]]:
    """The calls of a name or a group, each with the error that it names."""
    name, _, error = word.partition(":")
    action = None if not error else KILL if error == "kill" else _error(error, f"{filename}:{setting.line}: {setting.name}")
    if name.startswith("@"):
        if name not in groups():
            raise ImportFormatError(f"{filename}:{setting.line}: {setting.name}: systemd 257 has no group {name}")
        yield from ((one, action) for one in sorted(groups()[name]))
    elif name in table(NATIVE).by_name:
        yield name, action


def _error(text: str, place: str) -> Action:
    number = int(text) if re.fullmatch(r"[0-9]{1,4}", text) else constants.family("errno", NATIVE).names.get(text)
    if not number or number > _MAX_ERRNO:
        raise ImportFormatError(f"{place}: {text} is no errno")
    return Action(ActionKind.ERRNO, number)
