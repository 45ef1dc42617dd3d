"""Compile the policies of the helper itself, and make the instructions that shield it from the program:
`make_helper_filter.py FOLDER` writes helper.filter, helper-log.filter, helper-hosts.filter, follower.filter,
follower-hosts.filter and shield.filter for each machine, in a folder beside the policies that they are made of."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from callfence.enforcer.bpf import ARCH, ARGUMENTS, DENY, EQUAL, JUMP, LOAD, NO_PIDS, NUMBER, assembled
from callfence.policygen.filter.compile import compile_policy
from callfence.policygen.language.document import parse
from callfence.policygen.merging import unite
from callfence.tracer import pids
from callfence.tracer.abi import Arch, table
from callfence.tracer.machine.aarch64 import Arm
from callfence.tracer.machine.x86_64 import X86

if TYPE_CHECKING:
    from collections.abc import Sequence

    from callfence.enforcer.bpf import Line
    from callfence.policygen.language.document import Document
    from callfence.tracer.machine.model import Convention, Machine

_SIGKILL, _SIGSTOP = 9, 19  # asm/signal.h
_EVERYBODY = 0xFFFFFFFF  # -1
_KILL = "kill"
_ENTRY = re.compile(r"^(\w+): .*\n(?:[ \t]+.*\n)*", re.MULTILINE)
"""An entry, with the lines in which it goes on."""


MACHINES: dict[str, Machine] = {"x86_64": X86(), "aarch64": Arm()}


def shield(machine: Machine) -> bytes:
    """The instructions that deny calls on two processes (`enforcer.bpf.shielded`), for which NO_PIDS stand."""
    return b"".join(section(NO_PIDS, convention) for convention in machine.conventions)


def section(processes: Sequence[int], convention: Convention) -> bytes:
    """The instructions for the calls of one convention."""
    groups = [group for pid in processes for group in (pid, -pid & 0xFFFFFFFF)]  # a negative one is a process group
    named: dict[int, list[pids.Row]] = {}
    for row in (*pids.rows(pids.SIGNALS, pids.REGISTER), *pids.rows(pids.CHANGES, pids.REGISTER, pids.USER)):
        if (number := convention.numbers.get(row.name)) is not None:
            named.setdefault(number, []).append(row)
    blocks: dict[tuple[object, ...], tuple[str, list[Line]]] = {}
    lines: list[Line] = [(LOAD, ARCH), (EQUAL, convention.audit, "", "end"), (LOAD, NUMBER)]
    for number, rows in named.items():
        alike = (rows[0].name == _KILL, *((row.argument, row.place, row.selector) for row in rows))
        label, _ = blocks.setdefault(alike, (f"block {len(blocks)}", denied(rows, processes, groups)))
        lines.append((EQUAL, number, label, ""))
    lines.append((JUMP, "end"))
    for label, block in blocks.values():
        lines += [label, *block, (JUMP, "end")]
    return assembled([*lines, "deny", DENY, "end"])


def denied(rows: Sequence[pids.Row], processes: Sequence[int], groups: Sequence[int]) -> list[Line]:
    """Deny a call of which these are the rows: if it names one of the processes, or all processes of a user."""
    lines: list[Line] = []
    for row in rows:
        if row.selector:
            index, *values = row.selector
            is_user = row.place == pids.USER
            denied: list[Line] = [(EQUAL, value, "deny", "") for value in values]
            lines += [(LOAD, ARGUMENTS + 8 * index), *(denied if is_user else [(EQUAL, values[0], "", "end")])]
        if row.place == pids.REGISTER:
            values = [*(groups if row.selector or row.name == _KILL else processes)]
            lines += [(LOAD, ARGUMENTS + 8 * row.argument), *((EQUAL, value, "deny", "") for value in values)]
        if row.name == _KILL:
            signals: list[Line] = [(EQUAL, signal, "deny", "") for signal in (_SIGKILL, _SIGSTOP)]
            lines += [(EQUAL, _EVERYBODY, "", "end"), (LOAD, ARGUMENTS + 8), *signals]
    return lines


def main(folder: Path) -> None:
    for name, machine in MACHINES.items():
        (folder / name / "shield.filter").write_bytes(shield(machine))
        for filter_, document in documents(folder, Arch(name)).items():
            (folder / name / f"{filter_}.filter").write_bytes(compile_policy(document.policy))


def documents(folder: Path, arch: Arch) -> dict[str, Document]:
    """The policies of the helper on machines of an architecture, by the names of their filters."""
    names = ("helper", "helper-log", "helper-hosts", "follower", f"registers-{arch}")
    plain, log, hosts, follower, registers = (policy_for(folder / f"{name}.policy", arch) for name in names)
    logging = unite(plain, log)
    following = unite(unite(logging, follower), registers)
    documents = {"helper": plain, "helper-log": logging, "helper-hosts": unite(logging, hosts)}
    return documents | {"follower": following, "follower-hosts": unite(following, hosts)}


def policy_for(path: Path, arch: Arch) -> Document:
    """A policy for machines of an architecture, without the calls that it does not have."""
    known = table(arch).by_name
    text = _ENTRY.sub(lambda match: match[0] if match[1] in known else "", path.read_text())
    return parse(text.replace("callfence 1\n", f"callfence 1\narch {arch}\n"), str(path))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
