"""Kafel, the language of nsjail's policies (github.com/google/kafel), for nsjail 3.6.

Every call is written by number, under a name that the policy defines, and every argument as a 64-bit word with a mask
for the bits that the kernel uses: nothing depends on the names and sizes in a version of Kafel.

What a policy grants of files is written as mounts of nsjail (its config.proto, as protobuf text).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, assert_never

from policygen.formats import Direction, Exported, Loss
from policygen.formats.bpf import unheard
from policygen.formats.effect import EXECVE, LINKS, NATIVE, effect, explicit, has_proc, losses, mounts, native, with_calls
from policygen.language.normal import normal
from policygen.model import (
    KILL,
    Action,
    ActionKind,
    Always,
    And,
    Condition,
    Expression,
    Not,
    Operator,
    Or,
    Policy,
    alternatives,
)
from policygen.paths import encoded
from policygen.values import replace
from tracer.abi import table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from policygen.formats import FormatOptions
    from policygen.grants import Files, Right
    from tracer.abi import Argument, Syscall

_NAMED = {"$HOME": "HOME", "$TMPDIR": "TMPDIR"}
"""Folders that nsjail finds in its environment."""
KEYWORDS: Final = frozenset((
    "ALLOW", "LOG", "USER_NOTIF", "ERRNO", "KILL_PROCESS", "KILL_THREAD", "KILL", "DENY", "TRAP", "TRACE", "SYSCALL", "USE",
    "POLICY", "DEFAULT", "ON", "define",
))  # fmt: skip
"""Words that cannot be names (src/lexer.l)."""
_WORDS = {
    ActionKind.ALLOW: "ALLOW",
    ActionKind.KILL: "KILL_PROCESS",
    ActionKind.TRAP: "TRAP(0)",
    ActionKind.LOG: "LOG",
    ActionKind.NOTIFY: "USER_NOTIF",
}
_FOREIGN = Loss(Direction.OTHER, "calls of other architectures kill the thread that makes them, and not the whole process")
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # src/lexer.l
_FEW = 16
"""Most operands joined in a row; more are paired, since an expression may be only 200 deep (src/expression.h)."""


def mounted(paths: Mapping[str, Right], name: str) -> tuple[str, Files]:
    """Return the text that makes only these paths visible, and what it confines."""
    made, proc = mounts(paths, ("", *_NAMED)), has_proc(paths)
    lines = [f"# Files of {name}, made by `callfence export --to kafel` for nsjail 3.6.", f"mount_proc: {_flag(proc)}"]
    for one in made:
        start, _, rest = one.path.partition("/")
        path = _quoted(f"/{rest}" if rest or not start else "")
        named = f'prefix_src_env: "{_NAMED[start]}" prefix_dst_env: "{_NAMED[start]}" ' if start else ""
        fields = f"{named}src: {path} dst: {path} is_bind: true mandatory: false rw: {_flag(one.changes or one.is_device)}"
        lines.append(f"mount {{ {fields} noexec: {_flag(not one.executes)} }}")
    lines += [f'mount {{ src: "usr/{link}" dst: "/{link}" is_symlink: true mandatory: false }}' for link in LINKS]
    return "".join(f"{line}\n" for line in lines), effect(made, proc=proc, noexec=True)


def _flag(flag: bool) -> str:
    return "true" if flag else "false"


def _quoted(path: str) -> str:
    """Return a path as protobuf text has it: odd bytes in octal."""
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in encoded(path))
    return f'"{"".join(plain)}"'


def export(policy: Policy, options: FormatOptions) -> Exported:
    meant, added = with_calls(unheard(explicit(native(policy))), EXECVE)
    effect = normal(replace(meant, unknown=meant.default))
    lost = (*losses(policy, effect, "nsjail", added), *_x32(effect.default), _FOREIGN)
    data = _text(effect, options.name).encode()
    if policy.files.paths is None:
        return Exported(data, lost, added, use="nsjail --seccomp_policy {file} ... -- PROGRAM")
    text, files = mounted(policy.files.paths, options.name)
    use = "nsjail -C the .cfg file beside it --seccomp_policy {file} ... -- PROGRAM"
    return Exported(data, lost, added, (".cfg", text.encode()), files, use)


def _x32(default: Action) -> tuple[Loss, ...]:
    if default == KILL:
        return ()
    wider = default.kind in (ActionKind.ALLOW, ActionKind.LOG)
    text = "x32 calls meet the default action, where a policy always kills"
    return (Loss(Direction.WIDER if wider else Direction.OTHER, text),)


def _text(policy: Policy, name: str) -> str:
    calls = [(table(NATIVE).by_number[number], entry) for number, entry in policy.entries[NATIVE].items()]
    defined = [call for call, _ in calls if _IDENTIFIER.fullmatch(call.name)]
    names = {call.number: call.name for call in defined}
    rules: dict[Action, list[str]] = {}  # those with conditions first: of several rules for a call the first one decides
    rest: dict[Action, list[str]] = {}
    for call, entry in calls:
        word = names.get(call.number, f"SYSCALL[{call.number}]")
        if entry.expression != Always(True):
            rules.setdefault(entry.action, []).extend(_rules(word, call, entry.expression, set(names.values())))
        action = entry.action if entry.expression == Always(True) else entry.otherwise or policy.default
        if action != policy.default:
            rest.setdefault(action, []).append(word)
    blocks = ",\n".join(_block(action, found) for some in (rules, rest) for action, found in some.items() if found)
    identifier = re.sub(r"\W", "_", f"callfence_{name}", flags=re.ASCII)
    defines = "".join(f"#define {call.name} {call.number}\n" for call in defined)
    return (
        f"// System calls of {name}, made by `callfence export --to kafel` for nsjail 3.6 on x86_64.\n{defines}\n"
        f"POLICY {identifier} {{\n{blocks}\n}}\n\nUSE {identifier}\nDEFAULT {_word(policy.default)}\n"
    )


def _block(action: Action, rules: Sequence[str]) -> str:
    return f"  {_word(action)} {{\n" + ",\n".join(f"    {rule}" for rule in rules) + "\n  }"


def _word(action: Action) -> str:
    return f"ERRNO({action.errno})" if action.kind is ActionKind.ERRNO else _WORDS[action.kind]


def _rules(word: str, call: Syscall, expression: Expression, taken: set[str]) -> Iterator[str]:
    """One rule for each alternative."""
    if isinstance(expression, Always):
        return
    plain = [argument.name.lstrip("_") for argument in call.arguments]  # an identifier begins with a letter
    names = [f"{name}_" if name in taken or name in KEYWORDS else name for name in plain]
    arguments = [argument._replace(name=name) for argument, name in zip(call.arguments, names, strict=True)]
    for alternative in alternatives(expression):
        yield f"{word}({', '.join(names)}) {{ {_expression(alternative, arguments)} }}"


def _expression(expression: Expression, arguments: Sequence[Argument]) -> str:
    match expression:
        case Always():
            raise AssertionError("no part of an expression in normal form always holds")
        case Condition(index):
            return _condition(expression, arguments[index])
        case Not(part):
            return f"!({_expression(part, arguments)})"
        case And(parts) | Or(parts):
            operator = "&&" if isinstance(expression, And) else "||"
            return _joined(operator, [_part(part, arguments) for part in parts])


def _part(part: Expression, arguments: Sequence[Argument]) -> str:
    text = _expression(part, arguments)
    return text if isinstance(part, Condition | Not) and "||" not in text else f"({text})"


def _joined(operator: str, texts: Sequence[str]) -> str:
    if len(texts) <= _FEW:
        return f" {operator} ".join(texts)
    half = len(texts) // 2
    return f"({_joined(operator, texts[:half])}) {operator} ({_joined(operator, texts[half:])})"


def _condition(condition: Condition, argument: Argument) -> str:
    name, mask = argument.name, argument.mask
    word = name if argument.width == 64 else f"({name} & {mask:#x})"
    bits = condition.value & mask
    match condition.operator:
        case Operator.EQ:
            return f"{word} == {_number(bits)}"
        case Operator.NE:
            return f"{word} != {_number(bits)}"
        case Operator.ONE_OF:
            return _joined("||", [f"{word} == {_number(value & mask)}" for value in condition.values])
        case Operator.LT:
            return _less(argument, word, condition.value)
        case Operator.LE:
            return _less(argument, word, condition.value + 1)
        case Operator.GE:
            return f"!({_less(argument, word, condition.value)})"
        case Operator.GT:
            return f"!({_less(argument, word, condition.value + 1)})"
        case Operator.IN:
            return f"({name} & {mask & ~bits:#x}) == 0"
        case Operator.HAS:
            return f"({name} & {bits:#x}) == {bits:#x}"
        case Operator.ANY:
            return f"({name} & {bits:#x}) != 0"
        case Operator.MASKED:
            return f"({name} & {condition.mask:#x}) == {_number(bits)}"
        case _:
            assert_never(condition.operator)


def _less(argument: Argument, word: str, value: int) -> str:
    """Return the condition that the argument is less than the value, with comparisons of unsigned numbers only."""
    sign = 1 << argument.width - 1
    if not argument.signed:
        return f"{word} < {_number(value)}"
    negative = f"({argument.name} & {sign:#x}) != 0"
    if value > 0:
        return f"({negative} || {word} < {_number(value)})"
    if value == 0:
        return negative
    return f"({negative} && {word} < {_number(value & argument.mask)})"


def _number(value: int) -> str:
    return str(value) if value < 10 else f"{value:#x}"
