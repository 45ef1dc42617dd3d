"""System calls written down, as events and as policies; and events as points of the space in which policies are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracer.abi import COMPAT, NATIVE, Arch, Event, constants, table

if TYPE_CHECKING:
    from policygen.sets import region

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
    head = ["callfence 1", f"arch {NATIVE}", "table 6.18", "default errno EPERM", "unknown errno ENOSYS", *lines]
    calls = [f"{name}: allow" for name in sorted(table(NATIVE).by_name)]
    if compat:
        calls += [f"arch {COMPAT}", *(f"{name}: allow" for name in sorted(table(COMPAT).by_name))]
    return "\n".join([*head, "", *calls, ""])
