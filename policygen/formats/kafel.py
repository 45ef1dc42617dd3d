"""Kafel, the language of nsjail's policies (github.com/google/kafel), for nsjail 3.6.

Every call is written by number, under a name that the policy defines, and every condition as masked equalities of 64-bit words:
nothing depends on the names and sizes in a version of Kafel.

What a policy grants of files is written as mounts of nsjail (its config.proto, as protobuf text).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from callfence.policygen.formats import Direction, Exported, ExportError, FormatOptions, Loss, effect as effects
from callfence.policygen.formats.bpf import unheard
from callfence.policygen.grants import Files, Right
from callfence.policygen.implied.resolve import Resolved
from callfence.policygen.model import KILL, Action, ActionKind
from callfence.policygen.paths import encoded
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch, Syscall, table

_NAMED = {"$HOME": "HOME", "$TMPDIR": "TMPDIR", "$XDG_RUNTIME_DIR": "XDG_RUNTIME_DIR"}
"""Variables of policy paths that nsjail reads from its environment, with their names there."""
KEYWORDS: Final = frozenset((
    "ALLOW", "LOG", "USER_NOTIF", "ERRNO", "KILL_PROCESS", "KILL_THREAD", "KILL", "DENY", "TRAP", "TRACE", "SYSCALL", "USE",
    "POLICY", "DEFAULT", "ON", "define",
))  # fmt: skip
"""Words that cannot be names of arguments (src/lexer.l)."""
_WORDS = {
    ActionKind.ALLOW: "ALLOW",
    ActionKind.KILL: "KILL_PROCESS",
    ActionKind.TRAP: "TRAP(0)",
    ActionKind.LOG: "LOG",
    ActionKind.NOTIFY: "USER_NOTIF",
}
_FOREIGN = Loss(Direction.OTHER, "calls of other architectures kill the calling thread instead of the process")
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # src/lexer.l
_MAX_RULES = 1024
"""The most rules that are written for one call."""


def _mounted(paths: Mapping[str, Right], name: str, arch: Arch) -> tuple[str, Files]:
    """Return the configuration that makes only these paths visible, and the `Files` that it enforces."""
    mounted, proc = effects.mounts(paths, (arch,), ("", *_NAMED)), effects.has_proc(paths)
    lines = [f"# Files of {name}, made by `callfence export --to kafel` for nsjail 3.6.", f"mount_proc: {_flag(proc)}"]
    for mount in mounted:
        start, _, rest = mount.path.partition("/")
        path = _quoted(f"/{rest}" if rest or not start else "")
        named = f'prefix_src_env: "{_NAMED[start]}" prefix_dst_env: "{_NAMED[start]}" ' if start else ""
        writable = _flag(mount.changes or mount.is_device)
        fields = f"{named}src: {path} dst: {path} is_bind: true mandatory: false rw: {writable}"
        lines.append(f"mount {{ {fields} noexec: {_flag(not mount.executes)} }}")
    lines += [f'mount {{ src: "usr/{link}" dst: "/{link}" is_symlink: true mandatory: false }}' for link in effects.LINKS]
    return "".join(f"{line}\n" for line in lines), effects.effect(mounted, proc=proc, noexec=True)


def _flag(flag: bool) -> str:
    return "true" if flag else "false"


def _quoted(path: str) -> str:
    """Return a path as a string of protobuf text, its bytes that are not printable ASCII in octal."""
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in encoded(path))
    return f'"{"".join(plain)}"'


def export(policy: Resolved, options: FormatOptions) -> Exported:
    meant, added = effects.with_calls(unheard(effects.explicit(effects.native(policy, options.arch))), effects.EXECVE)
    effect = replace(meant, unknown=meant.default)
    lost = (*effects.losses(policy, effect, "nsjail", added), *_x32(effect), _FOREIGN)
    data = _text(effect, options.name).encode()
    if policy.files.paths is None:
        return Exported(data, lost, added, use="nsjail --seccomp_policy {file} ... -- PROGRAM")
    text, files = _mounted(policy.files.paths, options.name, effects.only(effect))
    use = "nsjail -C the .cfg file beside it --seccomp_policy {file} ... -- PROGRAM"
    return Exported(data, lost, added, (".cfg", text.encode()), files, use)


def _x32(effect: Resolved) -> tuple[Loss, ...]:
    default = effect.default
    if default == KILL or not effects.only(effect).has_x32:
        return ()
    wider = default.kind in (ActionKind.ALLOW, ActionKind.LOG)
    text = "x32 calls get the default action; in a policy they always kill"
    return (Loss(Direction.WIDER if wider else Direction.OTHER, text),)


def _text(policy: Resolved, name: str) -> str:
    arch = effects.only(policy)
    calls = sorted((table(arch).by_number[number] for number in policy.entries[arch]), key=lambda call: call.name)
    defined = [call for call in calls if _IDENTIFIER.fullmatch(call.name)]
    names = {call.number: call.name for call in defined}
    rules: defaultdict[Action, list[str]] = defaultdict(list)  # of several rules for a call the first one decides
    rest: defaultdict[Action, list[str]] = defaultdict(list)
    for call in calls:
        word = names.get(call.number, f"SYSCALL[{call.number}]")
        answers = effects.masked_answers(policy, call.number, _MAX_RULES, arch)
        others = max(answers, key=lambda action: (len(answers[action] or range(_MAX_RULES + 1)), action == policy.default))
        for action, alternatives in answers.items():
            if action != others:
                if alternatives is None:
                    most = f"{_MAX_RULES} kafel rules, the most that callfence writes for a call"
                    raise ExportError(f"{call.name}: its conditions need more than {most}; simplify them")
                rules[action] += [_rule(word, call, alternative, {*names.values()}) for alternative in alternatives]
        if others != policy.default:
            rest[others].append(word)
    blocks = ",\n".join(_block(action, lines) for part in (rules, rest) for action, lines in part.items())
    identifier = re.sub(r"\W", "_", f"callfence_{name}", flags=re.ASCII)
    defines = "".join(f"#define {call.name} {call.number}\n" for call in defined)
    return (
        f"// System calls of {name}, made by `callfence export --to kafel` for nsjail 3.6 on {arch}.\n{defines}\n"
        f"POLICY {identifier} {{\n{blocks}\n}}\n\nUSE {identifier}\nDEFAULT {_word(policy.default)}\n"
    )


def _block(action: Action, rules: Sequence[str]) -> str:
    return f"  {_word(action)} {{\n" + ",\n".join(f"    {rule}" for rule in rules) + "\n  }"


def _word(action: Action) -> str:
    return f"ERRNO({action.errno})" if action.kind is ActionKind.ERRNO else _WORDS[action.kind]


def _rule(word: str, call: Syscall, alternative: effects.Masked, taken: set[str]) -> str:
    """Return the kafel rule of one conjunction of a call; `taken` are the names that the policy defines."""
    plain = [argument.name.lstrip("_") for argument in call.arguments]  # an identifier begins with a letter
    names = [f"{name}_" if name in taken or name in KEYWORDS else name for name in plain]
    comparisons = (
        f"{names[index]} == {_number(value)}" if mask == (1 << 64) - 1 else f"({names[index]} & {mask:#x}) == {_number(value)}"
        for index, mask, value in alternative
    )
    return f"{word}({', '.join(names)}) {{ {' && '.join(comparisons)} }}"


def _number(value: int) -> str:
    return str(value) if value < 10 else f"{value:#x}"
