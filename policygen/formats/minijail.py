"""minijail's policies for `minijail0 -S` on x86_64.

minijail compares whole registers, where the kernel uses the low half of an `int`.  A value is written as compilers pass it,
zero-extended and, if its sign bit is set, also sign-extended; sets of bits are written so that the upper half is free.

minijail arms a dynamic program through a preloaded library, after the loader and before main(); a static one before the execve.

What a policy grants of files is written as a configuration of mounts (minijail0(5)): binds into an empty root folder.
"""

from __future__ import annotations

from itertools import product
from math import prod
from typing import TYPE_CHECKING

from policygen.formats import Direction, Exported, ExportError, Loss
from policygen.formats.bpf import unheard
from policygen.formats.effect import LINKS, NATIVE, effect, has_proc, losses, mounts, native, possible, spoken
from policygen.language.naming import format_action, format_expression
from policygen.language.normal import normal
from policygen.model import (
    ALLOW,
    KILL,
    Action,
    Always,
    Condition,
    Entry,
    Expression,
    Operator,
    Policy,
    alternatives,
    conjuncts,
    strictest,
)
from policygen.paths import encoded
from policygen.sets import region
from policygen.sets.express import negated
from policygen.values import replace
from tracer.abi import Argument, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from policygen.formats import FormatOptions
    from policygen.grants import Files, Right
    from tracer.abi import Syscall

MAX_INSTRUCTIONS, MAX_LABELS = 4096, 512  # BPF_MAXINSNS; BPF_LABELS_MAX (bpf.h)
_THREAD = Loss(Direction.OTHER, "what minijail kills is the thread that calls, and not the whole process")
_WORD = (1 << 64) - 1
_WAY_OUT = "`--to bpf` has no such limit: minijail0 --seccomp-bpf-binary FILE"
Atoms = tuple[str, ...]
"""Atoms joined by AND."""


def bound(paths: Mapping[str, Right], name: str) -> tuple[bytes, Files]:
    """Return the file that makes only these paths visible, and what it confines.

    minijail makes no links, and a bind that is not there ends it, as in no other format: so the folders in /usr are bound a
    second time where others have links."""
    made = [one for one in mounts(paths) if _can_be_written(one.path)]
    proc = has_proc(paths)
    lines = [
        b"% minijail-config-file v0",
        f"# Files of {name}, made by `callfence export --to minijail`.".encode(),
        b"ns-mount",
        b"mount = tmpfs,/,tmpfs,MS_NOSUID|MS_NODEV,mode=755",
        *[b"mount = proc,/proc,proc,MS_NOSUID|MS_NODEV|MS_NOEXEC"] * proc,
    ]
    for one in made:
        source, mode = encoded(one.path), b"1" if one.changes or one.is_device else b"0"
        lines.append(b"bind-mount = %s,%s,%s" % (source, source, mode))
        start, _, rest = one.path.removeprefix("/usr/").partition("/")
        if one.path.startswith("/usr/") and start in LINKS:
            lines.append(b"bind-mount = %s,%s,%s" % (source, encoded(f"/{start}/{rest}".rstrip("/")), mode))
    return b"\n".join(lines) + b"\n", effect(made, proc=proc, noexec=False)


def _can_be_written(path: str) -> bool:
    """Whether minijail's syntax can have a path: commas separate, and lines are stripped and end with the line."""
    return not any(character in path for character in ",\n\\") and path == path.strip()


def export(policy: Policy, options: FormatOptions) -> Exported:
    meant = normal(unheard(native(policy)))
    entries, lines, halves = {}, [], []
    instructions, labels = 4, 0
    for number, entry in meant.entries[NATIVE].items():
        call = table(NATIVE).by_number[number]
        answers = [spoken(action, KILL) for action in possible(meant, number)]
        denials = [action for action in answers if not action.may_allow]
        denied = strictest(denials) if denials else KILL
        if not denials or not answers[0].may_allow:
            entries[number] = Entry(Always(True), ALLOW if not denials else denied)
            instructions += 2
            if not denials:
                lines.append(f"{call.name}: 1")
            elif denied != KILL:
                lines.append(f"{call.name}: return {_errno(denied)}")
            continue
        entries[number] = _mixed(entry, denied)
        rules = list(dict.fromkeys(_alternatives(call, entries[number].expression)))
        instructions += 6 + sum(2 + 9 * len(rule) for rule in rules)
        labels += 2 + len(rules)
        halves += [call.name] if _looks_at_upper_half(call, rules) else []
        otherwise = f"; return {_errno(denied)}" if denied != KILL else ""
        lines.append(f"# {call.name}: {format_expression(NATIVE, number, entries[number].expression)}")
        lines.append(f"{call.name}: {' || '.join(' && '.join(rule) for rule in rules)}{otherwise}")
    for name, count, limit in (("instructions", instructions, MAX_INSTRUCTIONS), ("labels", labels, MAX_LABELS)):
        if count > limit:
            raise ExportError(f"minijail would need up to {count} {name}, and takes {limit}; {_WAY_OUT}")
    effect = replace(meant, entries={NATIVE: entries}, default=KILL, unknown=KILL)
    lost = [*losses(policy, effect, "minijail", before_loader=False), _THREAD]
    if halves:
        text = "minijail compares whole registers: calls with other upper halves than compilers make are killed"
        lost.append(Loss(Direction.NARROWER, text, tuple(halves)))
    head = f"# System calls of {options.name}, made by `callfence export --to minijail` for x86_64.\n"
    use = "minijail0 -n -S {file} -- PROGRAM; add `execve: 1` for a static program or with -T static"
    data = (head + "\n".join(lines) + "\n").encode()
    if policy.files.paths is None:
        return Exported(data, tuple(lost), use=use)
    config, files = bound(policy.files.paths, options.name)
    use = use.replace("-S {file}", "--config the .conf file beside it -P AN_EMPTY_FOLDER -S {file}")
    return Exported(data, tuple(lost), beside=(".conf", config), files=files, use=use)


def _errno(action: Action) -> str:
    return format_action(action).removeprefix("errno ")


def _mixed(entry: Entry, denied: Action) -> Entry:
    """Return an entry with one allowing answer as the condition that allows, and the other answer."""
    otherwise = None if denied == KILL else denied
    match entry.expression:
        case _ if entry.action.may_allow:
            expression = entry.expression
        case Condition(operator=Operator.EQ):
            expression = replace(entry.expression, operator=Operator.NE)
        case _:
            expression = negated(entry.expression)
    return Entry(expression, ALLOW, otherwise)


def _alternatives(call: Syscall, expression: Expression) -> Iterator[Atoms]:
    """Yield an expression as minijail's rules, joined by OR."""
    for alternative in alternatives(expression):
        parts = conjuncts(alternative)
        conditions = [part for part in parts if isinstance(part, Condition)]
        choices = [_condition(call, condition) for condition in conditions]
        if len(conditions) == len(parts) and prod(map(len, choices)) <= MAX_LABELS:
            for rules in product(*choices):
                yield tuple(atom for rule in rules for atom in rule)
        else:
            yield from _cubes(call, alternative)


def _condition(call: Syscall, condition: Condition) -> list[Atoms]:
    """Return one comparison as rules joined by OR."""
    index = condition.index
    argument = call.arguments[index]
    bits = condition.value & argument.mask
    match condition.operator:
        case Operator.EQ:
            return [(f"arg{index} == {value:#x}",) for value in _passed(argument, condition.value)]
        case Operator.ONE_OF:
            return [(f"arg{index} == {one:#x}",) for value in condition.values for one in _passed(argument, value)]
        case Operator.IN:
            return [_masked(index, argument.mask & ~bits, 0)]
        case Operator.HAS:
            return [_masked(index, bits, bits)]
        case Operator.ANY:
            return [(f"arg{index} & {bits:#x}",)]
        case Operator.MASKED:
            return [_masked(index, condition.mask, bits)]
        case Operator.NE if argument.width == 64:
            return [(f"arg{index} != {bits:#x}",)]
        case Operator.NE:  # some bit differs
            ones = [_masked(index, 1 << bit, 0) for bit in range(argument.width) if bits >> bit & 1]
            return [(f"arg{index} & {argument.mask & ~bits:#x}",), *ones]
        case _:
            return [_between(index, first, last) for first, last in _intervals(argument, condition)]


def _intervals(argument: Argument, condition: Condition) -> Iterator[tuple[int, int]]:
    """Yield the ranges of register values, as compilers pass them, for which an ordering holds: first and last."""
    half, value = 1 << argument.width - 1, condition.value
    low, high = (-half, half - 1) if argument.signed else (0, argument.mask)
    match condition.operator:
        case Operator.LT | Operator.LE:
            high = value - (condition.operator is Operator.LT)
        case _:
            low = value + (condition.operator is Operator.GT)
    extension = _WORD & ~argument.mask
    for first, last in ((max(low, 0), high), (low, min(high, -1))):
        if first <= last:
            first, last = first & argument.mask, last & argument.mask
            yield first, last
            if extension and last >= half:
                yield max(first, half) | extension, last | extension


def _between(index: int, first: int, last: int) -> Atoms:
    if first == last:
        return (f"arg{index} == {first:#x}",)
    return (
        *([f"arg{index} >= {first:#x}"] if first else []),
        *([f"arg{index} <= {last:#x}"] if last < _WORD else []),
    )


def _passed(argument: Argument, value: int) -> list[int]:
    """Return the register values as which compilers pass a value."""
    bits = value & argument.mask
    extended = bits | _WORD & ~argument.mask
    return [bits, extended] if bits >> argument.width - 1 and extended != bits else [bits]


def _masked(index: int, mask: int, value: int) -> Atoms:
    """Return `argument & mask == value`: `in` for the bits that are zero, `&` for each of the others."""
    ones = [1 << bit for bit in range(64) if value >> bit & 1]
    zeros = mask & ~value
    return (*([f"arg{index} in {_WORD & ~zeros:#x}"] if zeros else []), *(f"arg{index} & {bit:#x}" for bit in ones))


def _cubes(call: Syscall, expression: Expression) -> Iterator[Atoms]:
    """Yield any expression as rules of masked comparisons."""
    space = region.space()
    found = region.alternatives(space, region.to_bdd(space, expression, call.arguments), MAX_LABELS)
    if found is None:
        raise ExportError(f"the condition of {call.name} takes minijail more than {MAX_LABELS} comparisons; {_WAY_OUT}")
    for cube in found:
        yield tuple(atom for index, mask, value in cube for atom in _masked(index, mask, value))


def _looks_at_upper_half(call: Syscall, rules: Sequence[Atoms]) -> bool:
    narrow = [
        f"arg{index} {operator} "
        for index, argument in enumerate(call.arguments)
        for operator in ("==", "<=", ">=")
        if argument.width < 64
    ]
    return any(atom.startswith(tuple(narrow)) for rule in rules for atom in rule)
