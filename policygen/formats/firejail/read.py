"""A profile of firejail -> the files and calls that it leaves its program (firejail-profile(5)), for firejail 0.9.74.

It is meant as a baseline (`learn --within`): what is not read of it is told.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from policygen.formats import Direction, Imported, ImportFormatError, Loss
from policygen.formats.carved import at, carved
from policygen.formats.effect import NATIVE
from policygen.grants import ALL, NOTHING, Files, Right
from policygen.model import ALLOW, KILL, Action, ActionKind, Always, Entry, Policy
from policygen.paths import PathError, canonical
from tracer.abi import constants, table
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from policygen.formats import FormatOptions

_READS = Right.READ | Right.EXECUTE
_CHANGES = ALL & ~_READS
_MANY = 12
_MAX_ERRNO = 4095  # linux/err.h
_DEPTH = 16
"""Most includes within each other."""
_ABOUT_FILES = (
    "blacklist", "blacklist-nolog", "noblacklist", "whitelist", "whitelist-ro", "nowhitelist", "read-only", "read-write",
    "noexec", "tmpfs",
)  # fmt: skip
_ERRNO = ActionKind.ERRNO


class _Line(NamedTuple):
    place: str
    """File and number."""
    word: str
    rest: str


def read(data: bytes, filename: str, options: FormatOptions) -> Imported:
    lost: dict[str, list[str]] = {}

    def lose(why: str, what: str) -> None:
        if what not in lost.setdefault(why, []):
            lost[why].append(what)

    lines = [*_lines(data, filename, options, lose, 0)]
    if not lines:
        raise ImportFormatError(f"{filename}: it has no line that a profile of firejail has")
    marks = _marks(lines, lose)
    grants, losses = carved(marks)
    policy = _calls(lines, lose)
    is_offline = any((line.word, line.rest) == ("net", "none") for line in lines)
    files = Files(grants, () if is_offline else None, () if is_offline else None)
    told = [
        Loss(Direction.WIDER, f"{why}: {', '.join(what[:_MANY])}{' and more' * (len(what) > _MANY)}")
        for why, what in lost.items()
    ]
    told.append(Loss(Direction.NARROWER, "where the working folder is does not follow from a profile: `.` is granted nothing"))
    return Imported(Policy(policy.entries, default=policy.default, unknown=policy.unknown, files=files), (*told, *losses))


def _lines(data: bytes, filename: str, options: FormatOptions, lose: Lose, depth: int) -> Iterator[_Line]:
    for number, text in enumerate(data.decode("utf-8", "surrogateescape").splitlines(), 1):
        word, _, rest = text.strip().partition(" ")
        rest = re.sub(r"\s+#.*$", "", rest).strip()
        if not word or word.startswith("#"):
            continue
        if word.startswith("?"):
            lose("lines that depend on an option are not read", text.strip())
        elif word == "include":
            included = options.read(rest.rpartition("/")[2]) if options.read and depth < _DEPTH else None
            if included is not None:
                yield from _lines(included, rest, options, lose, depth + 1)
            elif not rest.endswith(".local"):  # those are for a machine's owner, and may be missing
                lose("these files are not read", rest)
        elif not re.fullmatch(r"[a-z0-9.-]+", word):
            raise ImportFormatError(f"{filename}:{number}: no line of a profile begins with {word[:40]!r}")
        else:
            yield _Line(f"{filename}:{number}", word, rest)


# -- files


def _marks(lines: Sequence[_Line], lose: Lose) -> Mapping[str, Right]:
    taken: dict[str, Right] = {}
    """What is taken from a path."""
    shown: dict[str, bool] = {}
    """Whitelisted paths, and whether they can be written."""
    kept: set[str] = set()
    for line in lines:
        if line.word in ("private", "private-dev", "private-tmp", "private-bin", "private-etc", "private-lib"):
            _private(line, taken, lose)
        elif line.word not in _ABOUT_FILES or (path := _path(line, lose)) is None:
            continue
        elif line.word.startswith("no") and line.word != "noexec":
            kept.add(path)
        elif line.word in ("blacklist", "blacklist-nolog", "tmpfs"):
            if path not in kept:
                taken[path] = ALL
        elif line.word in ("whitelist", "whitelist-ro"):
            if path not in kept:
                shown[path] = line.word == "whitelist"
        elif line.word == "read-write":
            taken[path] = taken.get(path, NOTHING) & ~_CHANGES
        else:
            taken[path] = taken.get(path, NOTHING) | (_CHANGES if line.word == "read-only" else Right.EXECUTE)
    marks = {"/": ALL}
    for path in shown:
        marks[_top(path)] = NOTHING
    marks |= {path: ALL if written else _READS for path, written in shown.items()}
    for path in sorted(taken, key=len):
        marks[path] = at(marks, path)
    for path in sorted(marks, key=len):
        for other, rights in taken.items():
            if other == path or (path.startswith(other.rstrip("/") + "/") and not _given_back(path, other, taken)):
                marks[path] &= ~rights
    return marks


def _given_back(path: str, above: str, taken: Mapping[str, Right]) -> bool:
    """Whether a deeper `read-write` ends what a `read-only` above took."""
    return any(
        len(other) > len(above) and (other == path or path.startswith(f"{other}/")) and not rights & _CHANGES
        for other, rights in taken.items()
        if taken[above] == _CHANGES
    )


def _private(line: _Line, taken: dict[str, Right], lose: Lose) -> None:
    """A folder of the program's own: what it had is not there."""
    if line.word == "private" and not line.rest:
        taken["$HOME"] = ALL
    elif line.word == "private-dev":
        lose("devices that stay in a /dev of its own are not told apart", "private-dev")
    elif line.word != "private-tmp":  # as much may be done in one's own
        lose("folders with copies of some files are not read", f"{line.word} {line.rest}".strip())


def _path(line: _Line, lose: Lose) -> str | None:
    text = line.rest.replace("${HOME}", "$HOME")
    text = f"$HOME{text[1:]}" if text.startswith("~") else text
    if any(character in text for character in "*?[{") or text.startswith("${"):
        lose(f"patterns and other macros than ${{HOME}} are not read, in {line.word}", line.rest)
        return None
    try:
        return canonical(text)
    except PathError as error:
        raise ImportFormatError(f"{line.place}: {line.word}: {error}") from error


def _top(path: str) -> str:
    """Return the folder that is empty but for what is whitelisted in it."""
    start, _, rest = path.partition("/")
    top = start or f"/{rest.partition('/')[0]}"
    return "/".join(path.split("/")[:3]) if top == "/usr" else top


# -- calls


def _calls(lines: Sequence[_Line], lose: Lose) -> Policy:
    calls = table(NATIVE).by_name
    kept: set[str] | None = None
    dropped: dict[str, Action | None] = {}
    denied = Action(_ERRNO, 1)  # firejail's own default: seccomp-error-action EPERM
    for line in lines:
        if line.word == "seccomp-error-action":
            denied = _action(line.rest, line)
        elif line.word in ("seccomp.keep", "seccomp.drop"):
            names = [name.strip() for name in line.rest.split(",")]
            groups = [name for name in names if name.startswith(("@", "!"))]
            for name in groups:
                lose("groups of calls are not read", name)
            plain = {name for name in names if name.partition(":")[0] in calls}
            if line.word == "seccomp.keep":
                kept = plain if not groups else kept
            else:
                split = (name.partition(":") for name in plain)
                dropped |= {name: _action(error, line) if error else None for name, _, error in split}
        elif line.word == "seccomp":
            lose("firejail's own list of calls is not read", f"seccomp {line.rest}".strip())
    if kept is not None:
        needed = {"execve", "execveat", "prctl"} | kept
        entries = {calls[name].number: Entry(Always(True), ALLOW) for name in needed}
        return Policy({NATIVE: entries}, default=denied, unknown=denied)
    entries = {calls[name].number: Entry(Always(True), action or denied) for name, action in dropped.items()}
    return Policy({NATIVE: entries}, default=ALLOW, unknown=ALLOW)


def _action(text: str, line: _Line) -> Action:
    if text in ("kill", "log"):
        return KILL if text == "kill" else ALLOW
    number = int(text) if re.fullmatch(r"[0-9]{1,4}", text) else constants.family("errno", NATIVE).names.get(text)
    if not number or number > _MAX_ERRNO:
        raise ImportFormatError(f"{line.place}: {text} is no errno")
    return Action(_ERRNO, number)


if TYPE_CHECKING:
    from collections.abc import Callable

    Lose = Callable[[str, str], None]
