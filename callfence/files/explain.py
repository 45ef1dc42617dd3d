"""`callfence explain`: whether a policy grants a right to a file, or a TCP port, and by which line."""

from __future__ import annotations

import argparse
import os
import shlex
from typing import TYPE_CHECKING

from callfence.shared.files import working_folder
from callfence.shared.inputs import document, judged
from policygen.errors import did_you_mean
from policygen.files.places import PlaceError, located, named
from policygen.grants import (
    MAX_PORT,
    NOTHING,
    OF_A_FILE,
    TCP,
    WORDS,
    Files,
    Right,
    format_ports,
    format_rights,
    path_line,
    single,
)
from policygen.paths import encoded
from tracer.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

DESCRIPTION = """\
Show whether POLICY grants RIGHT to the file PATH, and by which line; or what line would grant it.  Names such as $HOME and the
working folder are those of this process.  With `tcp connect` or `tcp bind` as PATH, RIGHT is a port."""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="callfence explain", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("path", metavar="PATH", help="a file that need not exist; or `tcp connect`, `tcp bind`")
    parser.add_argument("right", metavar="RIGHT", help=f"{', '.join(WORDS)}; or a port")
    parser.add_argument("policy", metavar="POLICY", help="a policy file; - is standard input")
    return parser


def main(arguments: list[str]) -> int:
    """0: granted; 1: not; 2: bad input."""
    options = parser().parse_args(arguments)
    return judged("explain", lambda: _explain(options))


def _explain(options: argparse.Namespace) -> int:
    files = document(options.policy).policy.files
    use = options.path.removeprefix("tcp ")
    if options.path.startswith("tcp ") and use in TCP:
        lines, wanted = _port(files, use, options.right)
    else:
        lines, wanted = _path(files, options.path, options.right)
    print(f"{options.path}: {options.right}: {'not granted' if wanted else 'granted'}")
    for line in lines:
        print(f"  {line}")
    if wanted:
        print(f"  to grant it: callfence allow {shlex.quote(options.policy)} {shlex.quote(wanted)}")
    return int(bool(wanted))


def _port(files: Files, use: str, text: str) -> tuple[list[str], str]:
    """Return what is said, and the line that would grant it or ''."""
    if not text.isdecimal() or int(text) > MAX_PORT:
        raise UserError(f"{text} is no port: ports are 0 to {MAX_PORT}")
    if getattr(files, use) is None:
        return [f"the policy has no line `tcp {use}`, so all ports are granted as far as the calls are"], ""
    ports = files.ports(use)
    is_granted = int(text) in single(ports)
    return [f"tcp {use}: {format_ports(ports)}"], "" if is_granted else f"tcp {use}: {text}"


def _path(files: Files, path: str, word: str) -> tuple[list[str], str]:
    if word not in WORDS:
        raise UserError(f"no right is named {word}: {did_you_mean(word, WORDS) or 'there are ' + ', '.join(WORDS)}")
    if files.paths is None:
        return ["the policy has no `path` line, so all files are granted as far as the calls are"], ""
    right, whole = WORDS[word], real(path)
    found = holding(files, whole)
    held = NOTHING
    for _, rights in found:
        held |= rights
    lines = [f"{path_line(one)}: {format_rights(rights)}" for one, rights in found if right in rights]
    if right in held:
        return lines, ""
    near = [f"{path_line(one)}: {format_rights(rights)}" for one, rights in found] or ["no line is about it or its folders"]
    place = whole if right in OF_A_FILE or os.path.isdir(whole) else os.path.dirname(whole)
    return near, f"{path_line(as_written(place))}: {word}"


def holding(files: Files, whole: bytes) -> list[tuple[str, Right]]:
    """Return the grants that hold at a whole path without links, the nearest first."""
    environment = [os.fsencode(f"{name}={value}") for name, value in os.environ.items()]
    above = _above(whole)
    places = []
    for path, rights in files.grants.items():
        try:
            place = real(os.fsdecode(located(encoded(path), environment)))
        except PlaceError:
            continue  # enforce refuses the policy here
        if place in above:
            places.append((above.index(place), path, rights))
    return [(path, rights) for _, path, rights in sorted(places, key=lambda one: one[:2])]


def real(path: str) -> bytes:
    """Return the whole path to a file, with links resolved as far as there are files."""
    return os.fsencode(os.path.realpath(path))


def as_written(path: bytes) -> str:
    """Return a whole path as a policy has it."""
    environment = [os.fsencode(f"{name}={value}") for name, value in os.environ.items()]
    return named(path, environment, os.fsencode(working_folder())).decode("utf-8", "surrogateescape")


def _above(path: bytes) -> Sequence[bytes]:
    """Return a path and the folders that hold it, the nearest first."""
    found = [path]
    while path != b"/":
        path = os.path.dirname(path)
        found.append(path)
    return found
