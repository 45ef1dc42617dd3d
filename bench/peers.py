"""The filters that others write: for the rules of a policy of ours, and the profiles that they ship."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pyseccomp

from callfence.policygen.filter import bpf
from callfence.policygen.filter.bpf import Instruction
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.model import ALLOW, Policy
from callfence.policygen.sets import region
from callfence.policygen.sets.algebra import MAX_CUBES
from callfence.tracer.abi import Arch, table

FIREJAIL = tuple(Path("/usr/lib/x86_64-linux-gnu/firejail", name) for name in ("seccomp.32", "seccomp"))
"""What `firejail --seccomp` loads, in its order, without which it does not start (Debian: firejail)."""
CONTAINERS = Path("/usr/share/containers/seccomp.json")
"""The profile of podman, buildah and CRI-O, kept in step with Docker's (Debian: golang-github-containers-common)."""

Alternatives = tuple[tuple[tuple[int, int, int], ...], ...]
"""As `libseccomp.LibseccompRule.alternatives`: joined by OR, each (index, mask, value) joined by AND; ((),) always holds."""
Rules = dict[int, tuple[int, Alternatives]]
"""Number -> return value (32 bits) where one of the alternatives holds."""


def rules(policy: Policy) -> Rules:
    """The policy's x86_64 section; ValueError where an entry has more than one answer besides the default."""
    policy = resolved(policy).written()
    found: Rules = {}
    space = region.space()
    for number, entry in policy.entries[Arch.X86_64].items():
        if entry.otherwise not in (None, policy.default):
            raise ValueError(f"call {number} has two answers")
        holds = region.to_bdd(space, entry.expression, table(Arch.X86_64).by_number[number].arguments)
        found[number] = (bpf.ret(entry.action), region.alternatives(space, holds, MAX_CUBES) or ())
    return found


def libseccomp(policy: Policy, *, tree: bool) -> bytes:
    """libseccomp's own program, with or without its binary tree."""
    program = pyseccomp.SyscallFilter(pyseccomp.KILL_PROCESS)
    if tree:
        program.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, 2)
    for number, (ret, alternatives) in rules(policy).items():
        answer = pyseccomp.ALLOW if ret == bpf.ret(ALLOW) else pyseccomp.ERRNO(ret & bpf.DATA_MASK)
        for alternative in alternatives:
            arguments = [pyseccomp.Arg(index, pyseccomp.MASKED_EQ, *masked) for index, *masked in alternative]
            program.add_rule_exactly(answer, number, *arguments)
    return _exported(program)


def containers() -> bytes:
    """podman's default profile for a container without added capabilities, compiled as runc compiles it: for x86_64, i386
    and x32, with libseccomp's binary tree."""
    profile = json.loads(CONTAINERS.read_text())
    default = _answer(profile["defaultAction"], profile.get("defaultErrnoRet"))
    program = pyseccomp.SyscallFilter(default)
    program.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, 2)
    for arch in (pyseccomp.Arch.X86, pyseccomp.Arch.X32):
        program.add_arch(arch)
    operators = {"SCMP_CMP_EQ": pyseccomp.EQ, "SCMP_CMP_NE": pyseccomp.NE}
    for entry in profile["syscalls"]:
        wanted = entry.get("includes") or {}
        if wanted.get("caps") or not {"amd64"} & set(wanted.get("arches", ["amd64"])):
            continue
        answer = _answer(entry["action"], entry.get("errnoRet"))
        arguments = [pyseccomp.Arg(one["index"], operators[one["op"]], one["value"]) for one in entry.get("args") or ()]
        for name in entry["names"]:
            # runc too passes over what has the default answer, and names that its libseccomp does not know
            if answer != default and pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) != _UNKNOWN:
                program.add_rule(answer, name, *arguments)
    return _exported(program)


_UNKNOWN = -1  # __NR_SCMP_ERROR, seccomp.h


def _answer(action: str, errno: int | None) -> int:
    return int(pyseccomp.ALLOW if action == "SCMP_ACT_ALLOW" else pyseccomp.ERRNO(errno or 1))


def linear(policy: Policy) -> bytes:
    """One number compared after another, as minijail does without its binary tree: `jeq NUMBER, its conditions`; the
    conditions come after the last number."""
    numbers: list[tuple[int, list[Instruction]]] = []
    for number, (ret, alternatives) in sorted(rules(policy).items()):
        block = [Instruction(bpf.RET | bpf.K, k=bpf.ret(policy.default))]
        if alternatives == ((),):
            block = []
        for alternative in reversed(alternatives):
            block = [*_compared(alternative), Instruction(bpf.RET | bpf.K, k=ret), *block]
        numbers.append((number, block))
    head = [
        Instruction(bpf.LD | bpf.ABS, k=bpf.ARCH),
        Instruction(_JEQ, 1, 0, Arch.X86_64.audit),
        Instruction(bpf.RET | bpf.K, k=bpf.KILL_PROCESS),
        Instruction(bpf.LD | bpf.ABS, k=bpf.NUMBER),
    ]
    behind: list[Instruction] = []
    for place, (number, block) in enumerate(numbers):
        rest = 2 * (len(numbers) - place - 1) + 1  # what follows until the first block: the other numbers, a return
        head += [Instruction(_JEQ, 0, 1, number), Instruction(bpf.JMP | bpf.JA, k=rest + len(behind))]
        behind += block
    return bpf.encode([*head, Instruction(bpf.RET | bpf.K, k=bpf.ret(policy.default)), *behind])


_JEQ = bpf.JMP | bpf.JEQ | bpf.K


def _compared(alternative: tuple[tuple[int, int, int], ...]) -> list[Instruction]:
    """The comparisons: where one does not hold, the rest of them and the return after them are skipped."""
    halves = []
    for index, mask, value in alternative:
        low = 16 + 8 * index  # offsetof(struct seccomp_data, args), linux/seccomp.h
        halves += [(low + 4, mask >> 32, value >> 32), (low, mask & bpf.WORD, value & bpf.WORD)]
    code: list[Instruction] = []
    for offset, mask, value in reversed([half for half in halves if half[1]]):
        masking = [Instruction(bpf.ALU | bpf.AND | bpf.K, k=mask)] if mask != bpf.WORD else []
        code = [Instruction(bpf.LD | bpf.ABS, k=offset), *masking, Instruction(_JEQ, 0, len(code) + 1, value), *code]
    return code


def _exported(program: Any) -> bytes:
    with tempfile.TemporaryFile() as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read()
