"""systemd: a drop-in by which a unit starts its program under `enforce`, with all that the policy says (systemd.service(5)).

A drop-in cannot put a command in front of another: it replaces the list of commands, so it repeats those of the unit.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from policygen.formats import Direction, Exported, ExportError, Loss

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policygen.formats import FormatOptions, Service
    from policygen.model import Policy

_PREFIXES = "-:+!"
"""Characters before the path of an executable that are about all of its command: they go before `enforce`."""
_ARGV0 = "@"
_PLAIN = re.compile(r"[\w@+=:,./-]+", re.ASCII)
_FILTERS = ("SystemCallFilter", "SystemCallArchitectures", "NoExecPaths")


def export(policy: Policy, options: FormatOptions) -> Exported:
    """Raises ExportError for a unit whose command cannot be repeated."""
    service = options.service
    if service is None:
        raise ExportError("a drop-in for enforce repeats the command of a unit: name the unit with --unit")
    commands = [*_commands(service.unit)]
    if not commands:
        raise ExportError("the unit has no ExecStart=, so there is nothing to run under enforce")
    log = f"%L/callfence/{options.name}.log"
    words = [service.enforce, *["--audit"] * service.audit, "--log", log, "-p", _escaped(service.policy), "--"]
    start = " ".join(map(_quoted, words))
    lines = [f"ExecStart={prefixes}{start} {command}" for prefixes, command in commands]
    text = "\n".join((
        f"# {options.name} under `enforce`, made by `callfence export --to systemd-enforce`.",
        "[Service]",
        "ExecStart=",
        *lines,
        "LogsDirectory=callfence",
        "",
    ))
    place = f"/etc/systemd/system/{options.name}.service.d/callfence.conf"
    use = f"save as {place}; systemctl daemon-reload; systemctl restart {options.name}"
    return Exported(text.encode(), tuple(_losses(service)), use=use, files=policy.files)


def _commands(unit: str) -> Iterator[tuple[str, str]]:
    """The prefixes and the rest of each command of a unit.  An empty value clears the list (systemd.service(5)).

    Raises ExportError for a command with an argv[0] of its own, which enforce cannot pass on."""
    found: list[tuple[str, str]] = []
    for key, value in _settings(unit):
        if key != "ExecStart":
            continue
        if not value:
            found.clear()
            continue
        command = value.lstrip(_PREFIXES + _ARGV0 + "|")
        prefixes = value[: len(value) - len(command)]
        if _ARGV0 in prefixes or "|" in prefixes:
            raise ExportError(f"ExecStart={value}: enforce cannot give a program another name or shell: leave out '@' and '|'")
        found.append((prefixes, command))
    yield from found


def _settings(unit: str) -> Iterator[tuple[str, str]]:
    """The settings of the section [Service]; a line that ends in a backslash goes on, past comments (systemd.syntax(7))."""
    section, line = "", ""
    for part in unit.splitlines():
        if part.lstrip()[:1] in ("#", ";") or not (part.strip() or line):
            continue
        if part.endswith("\\"):
            line += f"{part[:-1]} "
            continue
        line, whole = "", f"{line}{part}".strip()
        if whole.startswith("["):
            section = whole
        elif section == "[Service]" and "=" in whole:
            key, _, value = whole.partition("=")
            yield key.strip(), value.strip()


def _escaped(path: str) -> str:
    """A path in which systemd replaces nothing: specifiers and variables."""
    return path.replace("%", "%%").replace("$", "$$")


def _quoted(word: str) -> str:
    if _PLAIN.fullmatch(word.replace("%", "")):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _losses(service: Service) -> Iterator[Loss]:
    held = sorted({key for key, _ in _settings(service.unit) if key in _FILTERS})
    if held:
        what = f"the unit has {', '.join(held)}, also for enforce, which executes Python and calls ptrace, seccomp, pidfd_getfd"
        yield Loss(Direction.NARROWER, f"{what} (--to systemd needs no enforce)")
    if service.audit:
        yield Loss(Direction.WIDER, "with --audit nothing is denied, only reported")
