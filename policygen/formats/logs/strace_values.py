"""What strace prints for an argument, back into the value of a register.

strace prints numbers as they are, flags by their C names, and for a pointer, what it points to.  Such a pointer has
no value here, and neither has a name that the tables lack.  (strace 6.13, `doc/strace.1.in` and `src/`.)
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from tracer.abi import Arch, constants
from tracer.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Each pattern matches in time linear in the line, even if what it begins with is never closed.
QUOTED = r'"(?:[^"\\]|\\.)*+(?:"|\Z)'
_COMMENT = r"/\*(?:(?!/\*).)*?\*/"
# of -y, -yy and -Y: `3</etc/passwd>`, in which `<` and `>` are escaped; `1</dev/pts/0<char 136:0>>`
_DECORATION = r"(?<=\w)<(?!<)(?:->|[^<>]|<(?:->|[^<>])*+>)*>"
_TOKEN = re.compile(rf"{QUOTED}|{_COMMENT}|{_DECORATION}|(?P<open>[\[({{])|(?P<close>[\])}}])|(?P<comma>,)|(?P<bar>\|)")
_NO_VALUE = re.compile(rf"{_COMMENT}|{_DECORATION}")
_POINTED_TO = ('"', "{", "[", "~[", "@", "<", "...")
_NUMBER = re.compile(r"-?(?:0x[0-9a-f]{1,64}|0[0-7]{,64}|[1-9]\d{,64})", re.ASCII)
_FUNCTION = re.compile(r"(\w+)\((.*)\)")
_FIRST_REALTIME = 32
"""strace counts real-time signals from the kernel's first one (asm-generic/signal.h SIGRTMIN), not from libc's."""
_MAX_DEPTH = 8
"""Limit of terms within terms, as in `makedev(0x1, 0x3)`."""
_DIRECTIONS = {"_IOC_NONE": 0, "_IOC_WRITE": 1, "_IOC_READ": 2}
"""asm-generic/ioctl.h"""

_OTHER_NAMES = {
    "AT_STATX_SYNC_AS_STAT": 0,  # linux/fcntl.h
    "AT_STATX_SYNC_TYPE": 0x6000,
    "FUTEX_BITSET_MATCH_ANY": 0xFFFFFFFF,  # linux/futex.h
    "IPC_64": 0x100,  # linux/ipc.h
    "IOPRIO_CLASS_NONE": 0,  # linux/ioprio.h
    "IOPRIO_CLASS_RT": 1,
    "IOPRIO_CLASS_BE": 2,
    "IOPRIO_CLASS_IDLE": 3,
    "KEYCTL_MOVE_EXCL": 1,  # linux/keyctl.h
    "MAP_HUGE_SHIFT": 26,  # asm-generic/hugetlb_encode.h
    "MFD_HUGE_SHIFT": 26,
    "SHM_HUGE_SHIFT": 26,
    "MSG_NO_SHARED_FRAGS": 0x80000,  # linux/socket.h
    "MSG_SENDPAGE_NOTLAST": 0x20000,
    "MS_MGC_VAL": 0xC0ED0000,  # linux/mount.h
    "OPEN_TREE_CLOEXEC": 0o2000000,
    "PTRACE_PEEKUSER": 3,  # linux/ptrace.h has PEEKUSR
    "PTRACE_POKEUSER": 6,
    "SCHED_OTHER": 0,  # linux/sched.h has NORMAL
    "SUID_DUMP_DISABLE": 0,  # linux/sched/coredump.h
    "SUID_DUMP_USER": 1,
    "SUID_DUMP_ROOT": 2,
}
"""Values that strace names and that have another name, or none, in our tables."""


class UnnamedError(UserError):
    """A printed name without a value in our tables; `str()` is the name."""


def split(text: str, start: int = 0, *, separator: str = "comma") -> tuple[list[tuple[int, str]], int | None]:
    """Return the parts of a list that begins at `start`, each with its place, and the place after the closing parenthesis,
    or None without one.  An empty list has no parts."""
    parts, depth, begin = [], 0, start
    end = None
    for token in _TOKEN.finditer(text, start):
        if token["open"]:
            depth += 1
        elif token["close"]:
            depth -= 1
            if depth < 0:
                end = token.start()
                break
        elif not depth and token[separator]:
            parts.append((begin, text[begin : token.start()].strip()))
            begin = token.end()
    last = text[begin : len(text) if end is None else end].strip()
    if last or parts:
        parts.append((begin, last))
    return parts, None if end is None else end + 1


@lru_cache(maxsize=1 << 16)
def value(text: str, arch: Arch) -> int | None:
    """Return the value of an argument, negative if it is printed so; None for what a pointer points to, or for nothing.

    Raises UnnamedError.
    """
    plain = _NO_VALUE.sub("", text).strip()
    if not plain or plain.startswith(_POINTED_TO):
        return None
    if plain == "NULL":
        return 0
    first, _, _ = plain.partition(" or ")  # several names of one ioctl
    result = 0
    for term in _terms(first):
        result |= _term(term, arch, _MAX_DEPTH)
    return result


def integer(text: str) -> int | None:
    """Return a number in hexadecimal, decimal or C's octal; None for anything else."""
    if not _NUMBER.fullmatch(text):
        return None
    return int(text, 8 if text.lstrip("-").startswith("0") and "x" not in text else 0)


def _terms(text: str) -> Iterator[str]:
    return (part for _, part in split(text, separator="bar")[0])


def _term(text: str, arch: Arch, depth: int) -> int:
    if not depth:
        raise UnnamedError(text)
    if (plain := integer(text)) is not None:
        return plain
    if not text:
        return 0  # `-X raw` prints statx's synchronisation type, which is 0, as nothing at all: `|0x900`
    known = _OTHER_NAMES.get(text, constants.value(text, arch))
    if known is not None:
        return known
    if text.startswith("SIGRT_") and (place := integer(text[6:])) is not None:
        return _FIRST_REALTIME + place
    shifted, _, by = text.partition("<<")
    if by and 0 <= (places := _term(by, arch, depth - 1)) < 64:
        return _term(shifted, arch, depth - 1) << places
    if match := _FUNCTION.fullmatch(text):
        arguments = [part for _, part in split(match[2])[0]]
        if match[1] == "makedev" and len(arguments) == 2:
            major, minor = (_term(part, arch, depth - 1) for part in arguments)
            return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12  # new_encode_dev (linux/kdev_t.h)
        if match[1] == "IOPRIO_PRIO_VALUE" and len(arguments) == 2:
            return _term(arguments[0], arch, depth - 1) << 13 | _term(arguments[1], arch, depth - 1)
        if match[1] == "_IOC" and len(arguments) == 4:
            direction = sum(_DIRECTIONS.get(one, 0) for one in _terms(arguments[0]))
            kind, number, size = (_term(part, arch, depth - 1) for part in arguments[1:])
            return direction << 30 | size << 16 | kind << 8 | number
    raise UnnamedError(text)


_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|([0-7]{1,3})|(.))")
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "v": "\v", "f": "\f"}


def unquoted(text: str) -> str:
    """Return a string without strace's C quotes, with `...` at its end if it was abbreviated.  Bytes that are not UTF-8
    are surrogate-escaped."""
    body, _, rest = text.strip().removeprefix('"').rpartition('"')

    def plain(match: re.Match[str]) -> str:
        code = int(match[1], 16) if match[1] else int(match[2], 8) & 0xFF if match[2] else 0
        return chr(code) if match[1] or match[2] else _LETTERS.get(match[3], match[3])

    raw = _ESCAPE.sub(plain, body.encode("utf-8", "surrogateescape").decode("latin-1"))
    return raw.encode("latin-1").decode("utf-8", "surrogateescape") + rest
