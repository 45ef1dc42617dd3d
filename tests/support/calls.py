"""System calls written down, as events and as policies; and events as points of the space in which policies are compared."""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from callfence.policygen import formats
from callfence.policygen.filter import lift
from callfence.policygen.language import attach, document, parser
from callfence.policygen.language.document import newest_table
from callfence.policygen.learning import generate
from callfence.tracer.abi import COMPAT, NATIVE, Arch, Event, constants, table

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from callfence.policygen.formats import FormatOptions
    from callfence.policygen.language.document import Document
    from callfence.policygen.sets import region
from callfence.policygen.sets.algebra import Space

OTHERWISE = {
    "mkdir": "mkdirat", "rmdir": "unlinkat", "unlink": "unlinkat", "symlink": "symlinkat", "poll": "ppoll", "pause": "ppoll",
    "open": "openat", "epoll_wait": "epoll_pwait", "fork": "clone", "vfork": "clone", "dup2": "dup3", "pipe": "pipe2",
    "readlink": "readlinkat", "access": "faccessat", "stat": "newfstatat", "lstat": "newfstatat", "getdents": "getdents64",
    "chmod": "fchmodat", "creat": "openat", "inotify_init": "inotify_init1", "getpgrp": "getpgid", "alarm": "setitimer",
}  # fmt: skip
"""The calls that C libraries make where a machine lacks one of x86_64."""


def native(name: str) -> str:
    """The name of a call on this machine."""
    return name if name in table(NATIVE).by_name else OTHERWISE.get(name, name)


def number_of(name: str) -> int:
    """The number of a call on this machine, or of the one that C libraries make here instead."""
    return table(NATIVE).by_name[native(name)].number


def for_this_machine(text: str) -> str:
    """The text of a policy without `arch`, with the calls that the C library makes on this machine for those of x86_64.

    arch_prctl has no equal: elsewhere a program sets that register itself."""
    if re.search(r"^arch ", text, re.MULTILINE):
        return text
    lines: list[str] = []
    seen = set(re.findall(r"^(\w+):", text, re.MULTILINE))
    for line in text.splitlines(keepends=True):
        name, colon, rest = line.partition(":")
        if name == "arch_prctl" and NATIVE is not Arch.X86_64:
            continue
        if colon and native(name) != name:
            if native(name) in seen:
                continue
            seen.add(native(name))
            line = f"{native(name)}:{rest}"
        elif line.startswith("phase "):
            line = re.sub(r"\w+", lambda word: native(word[0]), line)
        lines.append(line)
    return "".join(lines)


WORD = (1 << 64) - 1


def value(names: str, arch: Arch = Arch.X86_64) -> int:
    """The value of `A|B`, whose parts are constants or numbers."""
    result = 0
    for name in names.split("|"):
        known = constants.value(name, arch)
        result |= int(name, 0) if known is None else known
    return result


def event(call: str | int, *arguments: int, arch: Arch = Arch.X86_64) -> Event:
    """The call `socket AF_INET SOCK_STREAM|SOCK_CLOEXEC 0`, `i386 read 0`, or a number; `arguments` follow those in the text.

    Arguments that are not given are 0; negative ones fill the registers of the architecture."""
    name, *words = str(call).split()
    if name == Arch.I386:
        arch, name, *words = Arch.I386, *words
    mask = (1 << arch.bits) - 1 if words else WORD
    registers = [*(value(word, arch) & mask for word in words), *(argument & WORD for argument in arguments)]
    number = int(name) if name.isdigit() else table(arch).by_name[name].number
    a, b, c, d, e, f = (*registers, *(0,) * (6 - len(registers)))
    return Event(arch.audit, number, (a, b, c, d, e, f))


def point_of(event: region.Event) -> int:
    """Where the event is in `region.space()`."""
    point = event.arch << 32 | event.number
    for word in (*event.arguments, event.ip):
        point = point << 64 | word
    return point


def allowing_all(*lines: str, compat: bool = False) -> str:
    """The text of a policy that allows every native call, with `compat` also every call of 32-bit programs, and has these
    lines."""
    head = ["callfence 1", f"arch {NATIVE}", newest_table().strip(), "default errno EPERM", "unknown errno ENOSYS", *lines]
    calls = [f"{name}: allow" for name in sorted(table(NATIVE).by_name)]
    if compat:
        calls += [f"arch {COMPAT}", *(f"{name}: allow" for name in sorted(table(COMPAT).by_name))]
    return "\n".join([*head, "", *calls, ""])


# Tests that name no architecture are of x86_64, whatever the machine.


@contextmanager
def x86_64() -> Iterator[None]:
    """Within, to what reads policies and filters, and makes policies of observations, this machine is one of x86_64."""
    with ExitStack() as patched:
        for module in (parser, attach, lift, generate):
            patched.enter_context(patch.object(module, "NATIVE", Arch.X86_64))
        yield


def parse(text: str, filename: str = "<policy>", *, read: Callable[[str], str] | None = None) -> Document:
    """`document.parse`, for x86_64."""
    with x86_64():
        return document.parse(text, filename, read=read)


def format_options(**given: Any) -> FormatOptions:
    """The options of a format on a machine of x86_64."""
    return formats.FormatOptions(**{"arch": Arch.X86_64, **given})


def parse_file(path: str | os.PathLike[str]) -> Document:
    """`document.parse_file`, for x86_64."""
    with x86_64():
        return document.parse_file(path)


def at(space: Space, function: int, point: int) -> int:
    """Return the terminal that a function of a space has for a point (`point_of`)."""
    return space.fixed(function, ((1 << space.bits) - 1, point))
