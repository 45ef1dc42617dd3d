"""What texts in minijail's and Kafel's languages mean, as far as callfence writes them: exports are held against it.

minijail: its C library (syscall_filter.c compile_file), since Debian has no minijail0.  Kafel: as nsjail compiles it for x86_64
(src/parser.y, src/codegen.c).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from callfence.policygen.filter import bpf
from callfence.policygen.filter.lift import lift_function
from callfence.policygen.model import ALLOW, KILL, Action, ActionKind
from callfence.policygen.sets import region
from callfence.policygen.sets.algebra import FALSE, TRUE, Space, constant
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch, constants, table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from callfence.policygen.model import Policy

_WORD = (1 << 64) - 1
_ERRNO = 0x00050000  # SECCOMP_RET_ERRNO, linux/seccomp.h
_ATOM = re.compile(r"arg([0-5]) (==|in|&) (0x[0-9a-f]+)")
_ACTIONS = {
    "ALLOW": bpf.ret(ALLOW),
    "LOG": bpf.ret(Action(ActionKind.LOG)),
    "USER_NOTIF": bpf.ret(Action(ActionKind.NOTIFY)),
    "KILL_PROCESS": bpf.ret(KILL),
    "TRAP(0)": bpf.ret(Action(ActionKind.TRAP)),
}
_RULE = re.compile(r"(?:(\w+)|SYSCALL\[(\d+)\])(?:\(([\w, ]*)\) \{ (.*) \})?,?")
_COMPARISON = re.compile(r"\(?(\w+)(?: & (0x[0-9a-f]+)\))? == (\w+)")


def read_minijail(text: str) -> Policy:
    """Return the policy of a file for `minijail0 -S`: a line is NAME: 1, NAME: return ERROR, or NAME: ATOMS[; return ERROR]."""
    space = region.space()
    allow, answers = space.terminal(bpf.ret(ALLOW)), {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        name, _, body = line.partition(": ")
        condition, _, returned = body.rpartition("; ") if "; " in body else (body, "", "")
        otherwise = space.terminal(_returned(returned))
        number = table(Arch.X86_64).by_name[name].number
        assert number not in answers, "a call is there once"
        if body == "1":
            answers[number] = allow
        elif body.startswith("return "):
            answers[number] = space.terminal(_returned(body))
        else:
            answers[number] = space.ite(_any_of(space, condition), allow, otherwise)
    return _policy_of(space, answers, bpf.KILL_THREAD)


def _returned(text: str) -> int:
    if not text:
        return bpf.KILL_THREAD
    name = text.removeprefix("return ")
    number = constants.value(name, Arch.X86_64) if name.isidentifier() else int(name, 0)
    assert number is not None
    return _ERRNO | number


def _any_of(space: Space, condition: str) -> int:
    holds = FALSE
    for group in condition.split(" || "):
        both = TRUE
        for atom in group.split(" && "):
            match = _ATOM.fullmatch(atom)
            assert match, f"{atom} is no comparison"
            both = space.and_(_atom(space, int(match[1]), match[2], int(match[3], 16)), both)
        holds = space.or_(both, holds)
    return holds


def _atom(space: Space, index: int, operator: str, value: int) -> int:
    """Return the set where a comparison of the whole register holds (bpf.c bpf_arg_comp)."""
    word = region.argument_word(space, index)
    if operator == "==":
        return space.equal(word, constant(value, 64))
    some = FALSE  # whether any of those bits is set
    for bit, is_compared in zip(word, constant(value if operator == "&" else ~value & _WORD, 64), strict=True):
        some = space.or_(bit, some) if is_compared else some
    return some if operator == "&" else space.invert(some)


def read_kafel(text: str) -> Policy:
    """Return the policy of a file for `nsjail --seccomp_policy`: of several rules for a call the first that holds decides."""
    space = region.space()
    numbers = {name: int(number) for name, number in re.findall(r"^#define (\w+) (\d+)$", text, re.MULTILINE)}
    default = _action(text.rpartition("DEFAULT ")[2].strip())
    rules: list[tuple[int, int, int]] = []
    ret = 0
    for line in map(str.strip, text.partition("POLICY ")[2].partition("\n}\n")[0].splitlines()[1:]):
        if line.endswith(" {"):
            ret = _action(line.removesuffix(" {"))
        elif not line.startswith("}"):
            match = _RULE.fullmatch(line)
            assert match, f"{line} is no rule"
            where = _all_of(space, match[4], (match[3] or "").split(", ")) if match[4] else TRUE
            rules.append((numbers[match[1]] if match[1] else int(match[2]), where, ret))
    answers: dict[int, int] = {}
    for number, where, ret in reversed(rules):
        answers[number] = space.ite(where, space.terminal(ret), answers.get(number, space.terminal(default)))
    return _policy_of(space, answers, default)


def _action(text: str) -> int:
    return _ERRNO | int(text[6:-1]) if text.startswith("ERRNO(") else _ACTIONS[text]


def _all_of(space: Space, condition: str, names: list[str]) -> int:
    holds = TRUE
    for part in condition.split(" && "):
        match = _COMPARISON.fullmatch(part)
        assert match, f"{part} is no comparison"
        mask, value = constant(int(match[2], 16) if match[2] else _WORD, 64), int(match[3], 0)
        word = region.argument_word(space, names.index(match[1]))
        masked = [bit if is_compared else FALSE for bit, is_compared in zip(word, mask, strict=True)]
        holds = space.and_(space.equal(masked, constant(value, 64)), holds)
    return holds


def _policy_of(space: Space, answers: Mapping[int, int], default: int) -> Policy:
    """Return the policy of a filter for calls of x86_64; it kills the thread for calls of other architectures."""
    section = space.terminal(default)
    for number, answer in answers.items():
        section = space.ite(space.equal(region.number_word(space), constant(number, 32)), answer, section)
    native = space.equal(region.arch_word(space), constant(Arch.X86_64.audit, 32))
    policy = lift_function(space, space.ite(native, section, space.terminal(bpf.KILL_THREAD))).policy
    # where nothing is allowed, the filter does not say of which machine it is
    return policy if Arch.X86_64 in policy.entries else replace(policy, entries={Arch.X86_64: {}})
