"""systemd: drop-ins that run a unit's program under `enforce` or another command (systemd.service(5), systemd.syntax(7)).

A drop-in cannot prefix a command: it replaces the list of commands, so it repeats those of the unit.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from callfence.policygen.formats import Direction, Exported, ExportError, FormatOptions, Loss, Service
from callfence.policygen.implied.resolve import Resolved
from callfence.policygen.text import printable

_PREFIXES = "-:+!"
"""Characters before the path of an executable that apply to the whole command, so that they move before `enforce`."""
_ARGV0 = "@"
_UNCHANGED = ":"
"""The one of them with which systemd replaces no variables, nor `$$` by `$`."""
_PLAIN = re.compile(r"[\w@+=,./-]+", re.ASCII)
_WORD = re.compile(r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\\.|[^\s"'\\])+""")
"""A word of a command line, as it is written (systemd.syntax(7))."""
_ENDS = re.compile(r"\r\n|[\n\r\0]")
"""What ends a line of a unit's file."""
_FILTERS = ("SystemCallFilter", "SystemCallArchitectures", "NoExecPaths")


def export(policy: Resolved, options: FormatOptions) -> Exported:
    """Return a drop-in with which a unit starts its program under `enforce`, with the whole policy.  Raises ExportError if no
    unit is given (`options.service`), and as `drop_in` does."""
    service = options.service
    if service is None:
        raise ExportError("a drop-in for enforce repeats the command of a unit; name the unit with --unit")
    unit = service.name or options.name
    title = f"{unit} under `enforce`, made by `callfence export --to systemd-enforce`."
    name = folder_name(unit)
    before = [path(service.enforce), *enforcing(service.policy, name, is_audit=service.audit), "--"]
    text = drop_in(title, name, service.unit, before)
    place = f"/etc/systemd/system/{unit}.service.d/callfence.conf"
    started = f"{unit}INSTANCE" if unit.endswith("@") else unit
    use = f"save as {place}; systemctl daemon-reload; systemctl restart {started}"
    return Exported(text.encode(), tuple(_losses(service)), use=use, files=policy.files)


def folder_name(unit: str) -> str:
    """Return the name of a unit's folder of logs: the unit's, without what LogsDirectory= reads otherwise.  No two units have
    the same, since no unit's name has `+` or `=` (systemd.unit(5))."""
    return unit.replace("\\", "+").replace(":", "=")


def enforcing(policy: str, name: str, *, is_audit: bool) -> list[str]:
    """Return the options of `enforce` for a unit: its policy, and its log in the folder of this name."""
    return [*["--audit"] * is_audit, "--log", f"%L/callfence/{name}/enforce.log", "-p", literal(policy)]


def drop_in(
    title: str, name: str, unit: str, before: Sequence[str], settings: Sequence[str] = (), description: str = ""
) -> str:
    """Return a drop-in with which a unit runs each of its commands after the words `before`, with further settings, and has a
    folder of logs of its own: systemd gives that to the unit's user.

    `before` and `name`, that of the folder, are as systemd reads them: specifiers count, and `$$` is `$`, but in the name of
    the program.  `unit` is the text of the unit's files.  Raises ExportError if the unit has no ExecStart=, if a command has
    the prefix `@` or `|`: the program's argv[0] or shell cannot be set; or if a unit cannot have one of the words."""
    commands = _commands(unit)
    if not commands:
        raise ExportError("the unit has no ExecStart=, so there is nothing to run under enforce")
    if wrong := [word for word in before if not quoted(word)]:
        raise ExportError(f"{printable(wrong[0])}: a unit's file can only name what is UTF-8 without control characters")
    lines = [f"# {title}", *(["[Unit]", f"Description={description}"] if description else [])]
    starts = (f"ExecStart={prefixes}{_start(before, prefixes)} {command}" for prefixes, command in commands)
    lines += ["[Service]", "ExecStart=", *starts]
    return "\n".join((*lines, f"LogsDirectory=callfence/{name}", *settings, ""))


def _start(before: Sequence[str], prefixes: str) -> str:
    program, *words = before
    return " ".join(map(quoted, (program, *(word.replace("$$", "$") if _UNCHANGED in prefixes else word for word in words))))


def _commands(unit: str) -> list[tuple[str, str]]:
    """Return the prefixes and the rest of each command of a unit.  An empty value clears the list (systemd.service(5)).  Raises
    ExportError for a command that sets argv[0] or a shell, which enforce cannot pass on."""
    commands: list[tuple[str, str]] = []
    for key, value in settings_of(unit):
        if key != "ExecStart":
            continue
        if not value:
            commands.clear()
            continue
        for line in filter(None, _lines(value)):
            command = line.lstrip(_PREFIXES + _ARGV0 + "|")
            prefixes = line[: len(line) - len(command)]
            if _ARGV0 in prefixes or "|" in prefixes:
                raise ExportError(f"ExecStart={value}: enforce cannot set a program's argv[0] or shell; remove '@' or '|'")
            commands.append((prefixes, command))
    return commands


def _lines(value: str) -> Iterator[str]:
    """Yield the command lines of a setting: a semicolon that is a word, and is not quoted, ends one (systemd.service(5))."""
    start = 0
    for word in _WORD.finditer(value):
        if word[0] == ";":
            yield value[start : word.start()].strip()
            start = word.end()
    yield value[start:].strip()


def settings_of(unit: str) -> Iterator[tuple[str, str]]:
    """Yield the (name, value) of the settings in [Service]; a line that ends in a backslash continues after comments
    (systemd.syntax(7))."""
    section, line = "", ""
    for part in _ENDS.split(unit):
        if part.lstrip()[:1] in ("#", ";") or not (part.strip() or line):
            continue
        if (len(part) - len(part.rstrip("\\"))) % 2:  # the last one is not escaped
            line += f"{part[:-1]} "
            continue
        line, whole = "", f"{line}{part}".strip()
        if whole.startswith("["):
            section = whole
        elif section == "[Service]" and "=" in whole:
            key, _, value = whole.partition("=")
            yield key.strip(), value.strip()


def held(unit: str, keys: Collection[str]) -> list[str]:
    """Return those of these lists that a unit sets, sorted: an empty value clears a list (systemd.exec(5))."""
    last = {key: value for key, value in settings_of(unit) if key in keys}
    return sorted(key for key, value in last.items() if value)


def literal(text: str) -> str:
    """Return a text in which systemd replaces no specifiers and no variables."""
    return text.replace("%", "%%").replace("$", "$$")


def path(text: str) -> str:
    """Return the path of a command's program, or of a setting, in which systemd replaces no specifiers: variables it leaves."""
    return text.replace("%", "%%")


def quoted(word: str) -> str:
    """Return a word of a setting as systemd reads it (systemd.syntax(7)), in which specifiers and variables count; '' for one
    that a unit cannot have.  Settings with paths know no escapes but those of quotes and backslashes."""
    if _PLAIN.fullmatch(word.replace("%", "")):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if word.isprintable() else ""


def _losses(service: Service) -> Iterator[Loss]:
    if kept := held(service.unit, _FILTERS):
        what = f"the unit has {', '.join(kept)}, also for enforce, which executes Python and calls ptrace, seccomp, pidfd_getfd"
        yield Loss(Direction.NARROWER, f"{what} (--to systemd needs no enforce)")
    if service.audit:
        yield Loss(Direction.WIDER, "with --audit, calls that the policy denies are only reported")
