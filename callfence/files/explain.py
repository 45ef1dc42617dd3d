"""Whether a policy grants a right to a file, or a TCP port, and by which line: for `callfence why`."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from callfence.shared.files import working_folder
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

_UNCONFINED = "the policy has no `path` line, so all files are granted as far as the calls are"


def is_path(text: str) -> bool:
    """Whether a word names a file: it begins with /, ./, ../ or ~."""
    return text in (".", "..") or text.startswith(("/", "./", "../", "~"))


def print_grants(files: Files, policy: str, about: str, word: str) -> int:
    """Print whether a policy grants a right to the file `about`, or a port to `tcp connect` or `tcp bind`, and by which
    line; without a `word`, which rights it grants to the file.  1 if it does not.  Raises UserError."""
    use = about.removeprefix("tcp ")
    if about.startswith("tcp ") and use in TCP:
        lines, wanted = _port(files, use, word)
    elif not is_path(about):
        raise UserError(f"{about}: neither a path, which begins with /, ./ or ~, nor `tcp connect` or `tcp bind`")
    elif word:
        lines, wanted = _path(files, os.path.expanduser(about), word)
    else:
        return _print_rights(files, about)
    print(f"{about}: {word}: {'not granted' if wanted else 'granted'}")
    for line in lines:
        print(f"  {line}")
    if wanted:
        print(f"  to grant it: callfence allow {shlex.quote(policy)} {shlex.quote(wanted)}")
    return int(bool(wanted))


def _print_rights(files: Files, path: str) -> int:
    if files.paths is None:
        print(f"{path}: every right: granted\n  {_UNCONFINED}")
        return 0
    found = holding(files, real(os.path.expanduser(path)))
    held = NOTHING
    for _, rights in found:
        held |= rights
    print(f"{path}: {format_rights(held)}: granted" if held else f"{path}: no right is granted")
    for line in _lines(found):
        print(f"  {line}")
    return int(not held)


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
        return [_UNCONFINED], ""
    right, whole = WORDS[word], real(path)
    found = holding(files, whole)
    held = NOTHING
    for _, rights in found:
        held |= rights
    lines = [f"{path_line(one)}: {format_rights(rights)}" for one, rights in found if right in rights]
    if right in held:
        return lines, ""
    place = whole if right in OF_A_FILE or os.path.isdir(whole) else os.path.dirname(whole)
    return _lines(found), f"{path_line(as_written(place))}: {word}"


def _lines(found: Sequence[tuple[str, Right]]) -> list[str]:
    return [f"{path_line(one)}: {format_rights(rights)}" for one, rights in found] or ["no line is about it or its folders"]


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
