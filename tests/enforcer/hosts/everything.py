"""Policies for tests that are about hosts alone: they allow every call."""

from __future__ import annotations

from tracer.abi import Arch, table


def policy(*lines: str, i386: bool = False) -> str:
    """The text of a policy that allows every call of x86_64, and with `i386` of that, too, and has these lines."""
    head = ["callfence 1", "arch x86_64", "table 6.18", "default errno EPERM", "unknown errno ENOSYS", "scope none", *lines]
    calls = [f"{name}: allow" for name in sorted(table(Arch.X86_64).by_name)]
    if i386:
        calls += ["arch i386", *(f"{name}: allow" for name in sorted(table(Arch.I386).by_name))]
    return "\n".join([*head, "", *calls, ""])
