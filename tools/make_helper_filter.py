"""Compile the policies of the helper itself, and make the instructions that shield it from the program:
`make_helper_filter.py FOLDER` writes helper.filter, helper-log.filter, helper-hosts.filter, follower.filter and
follower-hosts.filter, beside the policies that they are made of, and shield.filter."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from enforcer.bpf import ARCH, ARCHITECTURES, ARGUMENTS, DENY, EQUAL, JUMP, LOAD, NO_PIDS, NUMBER, assembled
from policygen.filter.compile import compile_policy
from policygen.language.document import parse_file
from policygen.merging import unite
from tracer import pids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from enforcer.bpf import Line

_SIGKILL, _SIGSTOP = 9, 19  # asm/signal.h
_EVERYBODY = 0xFFFFFFFF  # -1
_KILL = "kill"


def shield() -> bytes:
    """The instructions that deny calls on two processes (`enforcer.bpf.shielded`), for which NO_PIDS stand."""
    return b"".join(section(NO_PIDS, place) for place in range(len(ARCHITECTURES)))


def section(processes: Sequence[int], place: int) -> bytes:
    """The instructions for one architecture, which has that place in `ARCHITECTURES`."""
    groups = [group for pid in processes for group in (pid, -pid & 0xFFFFFFFF)]  # a negative one is a process group
    named: dict[int, list[pids.Row]] = {}
    for row in (*pids.rows(pids.SIGNALS, pids.REGISTER), *pids.rows(pids.CHANGES, pids.REGISTER, pids.USER)):
        if row.numbers[place] >= 0:
            named.setdefault(row.numbers[place], []).append(row)
    blocks: dict[tuple[object, ...], tuple[str, list[Line]]] = {}
    lines: list[Line] = [(LOAD, ARCH), (EQUAL, ARCHITECTURES[place], "", "end"), (LOAD, NUMBER)]
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
    (folder / "shield.filter").write_bytes(shield())
    plain, log, hosts, follower = (
        parse_file(folder / f"{name}.policy") for name in ("helper", "helper-log", "helper-hosts", "follower")
    )
    logging = unite(plain, log)
    following = unite(logging, follower)
    filters = {"helper": plain, "helper-log": logging, "helper-hosts": unite(logging, hosts)}
    filters |= {"follower": following, "follower-hosts": unite(following, hosts)}
    for name, document in filters.items():
        (folder / f"{name}.filter").write_bytes(compile_policy(document.policy))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
