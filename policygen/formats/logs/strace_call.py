"""One call as strace prints it, back into the registers that the kernel was given, as far as they are printed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from callfence.policygen.values import frozen, replace
from callfence.tracer.abi import Arch, Event, constants, table
from callfence.tracer.errors import UserError

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
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|([0-7]{1,3})|(.))")
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "v": "\v", "f": "\f"}
_NAME = re.compile(r"([a-zA-Z_]\w*)\(")
_END = re.compile(r"\s*(?:= (-?\d+|0x[0-9a-f]+|\?)(?: .*|<.*)?|<(?:detached|unfinished) \.\.\.>|)$")
_UNKNOWN_CALL = re.compile(r"syscall_0x([0-9a-f]+)")
_WORD = (1 << 32) - 1
"""The bits of the register that are the call's number; strace prints all 64."""
_CLONE = {"flags": 0, "child_stack": 1, "parent_tid": 2, "parent_tidptr": 2, "child_tidptr": 3, "tls": 4}
"""clone's arguments have names, since their order differs from one architecture to another (clone(2))."""
_PLACES: Mapping[str, tuple[int, ...]] = {
    "futex": (0, 1, 2, 3),  # what follows is printed as the operation has it
    "preadv": (0, 1, 2),  # both halves of the offset are printed as one
    "pwritev": (0, 1, 2),
    "preadv2": (0, 1, 2, -1, 5),
    "pwritev2": (0, 1, 2, -1, 5),
    **dict.fromkeys(("pread64", "pwrite64"), (0, 1, 2)),  # from here on those of 32 bits, where 64 bits take two registers
    **dict.fromkeys(("fallocate", "fanotify_mark"), (0, 1)),
    **dict.fromkeys(("truncate64", "ftruncate64", "readahead", "fadvise64", "fadvise64_64", "sync_file_range"), (0,)),
    "_llseek": (0, -1, 3, 4),
    "arm_fadvise64_64": (0, -1, -1, 1),
    "arm_sync_file_range": (0, 1),
}
"""The registers of the printed arguments, for calls where these are not the first ones; -1: no register."""
_ALIASES = {"fadvise64_64": "arm_fadvise64_64", "sync_file_range2": "arm_sync_file_range"}
"""Names that strace has for calls of arm -> the kernel's."""
_IN_BYTES = {"mmap2": 5}
"""An argument that strace prints in another unit than the kernel's."""
_MULTIPLEXED = re.compile(
    r"socket|bind|connect|listen|accept4?|getsockname|getpeername|socketpair|send|sendto|sendm{0,2}sg|recv|recvfrom|recvm{0,2}sg"
    r"|shutdown|[gs]etsockopt|sem(get|ctl|op|timedop)|shm(get|ctl|at|dt)|msg(get|ctl|snd|rcv)"
)
"""Names that strace also prints on i386 for socketcall and ipc; it does not print their only register of interest."""


class UnnamedError(UserError):
    """strace printed a name whose value is not in our tables; `str()` is the name."""


def split(text: str, start: int = 0, *, separator: str = "comma") -> tuple[list[tuple[int, str]], int | None]:
    """Return the parts of a list in `text` that begins at `start`, as (index in the text, part), and the index after the
    closing parenthesis (None if the list is not closed).  An empty list has no parts."""
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
    """Return the value of an argument as strace prints it; negative if it is printed with a minus sign.  None for an empty
    text, and for text that shows what a pointer points to.  Raises UnnamedError if a name in it is not in our tables."""
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
    """Return a number that is written in hexadecimal, decimal or C's octal; None for any other text."""
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
    constant = _OTHER_NAMES.get(text, constants.value(text, arch))
    if constant is not None:
        return constant
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
            direction = sum(_DIRECTIONS.get(part, 0) for part in _terms(arguments[0]))
            kind, number, size = (_term(part, arch, depth - 1) for part in arguments[1:])
            return direction << 30 | size << 16 | kind << 8 | number
    raise UnnamedError(text)


def unquoted(text: str) -> str:
    """Return a string without strace's quotes and escapes, and with `...` at its end if strace abbreviated it.  Bytes that are
    not UTF-8 are surrogate-escaped."""
    body, _, rest = text.strip().removeprefix('"').rpartition('"')

    def plain(match: re.Match[str]) -> str:
        code = int(match[1], 16) if match[1] else int(match[2], 8) & 0xFF if match[2] else 0
        return chr(code) if match[1] or match[2] else _LETTERS.get(match[3], match[3])

    raw = _ESCAPE.sub(plain, body.encode("utf-8", "surrogateescape").decode("latin-1"))
    return raw.encode("latin-1").decode("utf-8", "surrogateescape") + rest


class SyntaxProblem(UserError):
    """The text is not a call as strace prints it.  `place` is an index into the text."""

    def __init__(self, place: int, message: str) -> None:
        super().__init__(message)
        self.place = place


class UnreadableError(UserError):
    """Too few values of a call are printed for an observation.  `str()` says which; it is the same for similar calls."""


@frozen
class StraceCall:
    """A call as strace prints it."""

    name: str
    arguments: tuple[str, ...]
    result: int | None
    """The return value, negative for -1; None if it is not printed."""
    is_enosys: bool


def parse(text: str, *, is_whole: bool = True) -> StraceCall:
    """Return the call in a line whose process and time have been removed.  Raises SyntaxProblem if strace does not print calls
    so.  Unless `is_whole`, the end of the call may be missing, because strace did not see it."""
    name = _NAME.match(text)
    if name is None:
        raise SyntaxProblem(0, "expected a call, as `openat(AT_FDCWD, ...) = 3`, or what became of a process")
    parts, end = split(text, name.end())
    if end is None:
        if is_whole:
            raise SyntaxProblem(len(text), f"the arguments of {name[1]} are not closed by `)`")
        return StraceCall(name[1], tuple(part for _, part in parts), None, False)
    tail = _END.match(text, end)
    if tail is None:
        raise SyntaxProblem(end, f"expected ` = ` and what {name[1]} returned")
    return StraceCall(name[1], tuple(part for _, part in parts), integer(tail[1] or "?"), " ENOSYS" in tail[0])


def name_of(name: str, arch: Arch) -> str:
    """Return the kernel's name of a call on an architecture, where strace has another one."""
    return name if name in table(arch).by_name else _ALIASES.get(name, name)


def event(call: StraceCall, arch: Arch) -> tuple[Event, frozenset[int]]:
    """Return the call as an event, and the indexes of the registers whose values are not printed (0 in the event).  Raises
    UnreadableError if a policy would constrain such a register, or the call is not known."""
    calls = table(arch)
    call = replace(call, name=name_of(call.name, arch))
    if named := calls.by_name.get(call.name):
        number = named.number
    elif numbered := _UNKNOWN_CALL.fullmatch(call.name):
        number = int(numbered[1], 16) & _WORD
    else:
        raise UnreadableError(f"{call.name}: no call of {arch} has that name")
    if arch is Arch.I386 and _MULTIPLEXED.fullmatch(call.name):
        raise UnreadableError(f"{call.name} (i386): socketcall and ipc are printed by this name too")
    plain = calls.by_number[number].arguments if number in calls.by_number else ()
    registers: list[int | None] = [None] * 6
    unnamed: dict[int, str] = {}
    for index, text in _placed(call, len(plain)):
        try:
            printed = value(text, arch)
        except UnnamedError as error:
            printed, unnamed[index] = None, str(error)
        registers[index] = None if printed is None else printed & ((1 << arch.bits) - 1)
    a, b, c, d, e, f = (register or 0 for register in registers)
    missing = frozenset(index for index, register in enumerate(registers) if register is None)
    if plain:
        for index, meaning in enumerate(calls.arguments(number, (a, b, c, d, e, f))):
            if index in missing and meaning.kind.is_constrained:
                why = f"{unnamed[index]} has no value here" if index in unnamed else "its value is not printed"
                raise UnreadableError(f"{call.name}: {meaning.name}: {why}")
    return Event(arch.audit, number, (a, b, c, d, e, f)), missing


def _placed(call: StraceCall, arity: int) -> Sequence[tuple[int, str]]:
    """Return the printed arguments with their registers."""
    if call.name == "clone" and "=" in "".join(call.arguments):
        named = (argument.partition("=") for argument in call.arguments)
        return [(_CLONE[name], text) for name, _, text in named if name in _CLONE]
    if len(call.arguments) > arity:
        return []  # one register points to all of them
    if call.name in _PLACES and len(call.arguments) < arity:
        return [(index, text) for index, text in zip(_PLACES[call.name], call.arguments, strict=False) if index >= 0]
    return [(index, text) for index, text in enumerate(call.arguments) if index != _IN_BYTES.get(call.name)]
