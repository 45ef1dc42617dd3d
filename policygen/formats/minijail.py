"""minijail's policies for `minijail0 -S` on x86_64.

minijail compares whole registers, where the kernel uses the low half of an `int`: conditions are written as bits that are zero
(`in`) and bits that are set (`&`), which leaves the upper half free, but one value that is not negative is written with `==`.

minijail arms a dynamic program through a preloaded library, after the loader and before main(); a static one before the execve.

What a policy grants of files is written as a configuration of mounts (minijail0(5)): binds into an empty root folder.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from policygen.evaluate import answers
from policygen.formats import Direction, Exported, ExportError, Loss
from policygen.formats.bpf import unheard
from policygen.formats.effect import LINKS, NATIVE, effect, fitted, has_proc, losses, mounts, native
from policygen.language.naming import format_action, format_expression
from policygen.language.normal import normal_entries, normal_expression
from policygen.model import ALLOW, KILL, Action, Always, Entry, strictest
from policygen.paths import encoded
from policygen.sets import region
from policygen.sets.algebra import FALSE, TRUE
from policygen.sets.express import negated
from policygen.values import replace
from tracer.abi import table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from policygen.formats import FormatOptions
    from policygen.formats.effect import Masked
    from policygen.grants import Files, Right
    from policygen.implied.resolve import Resolved
    from tracer.abi import Argument

MAX_INSTRUCTIONS, MAX_LABELS = 4096, 512  # BPF_MAXINSNS; BPF_LABELS_MAX (bpf.h)
_THREAD = Loss(Direction.OTHER, "what minijail kills is the thread that calls, and not the whole process")
_WORD = (1 << 64) - 1
_WAY_OUT = "`--to bpf` has no such limit: minijail0 --seccomp-bpf-binary FILE"


def _bound(paths: Mapping[str, Right], name: str) -> tuple[bytes, Files]:
    """Return the file that makes only these paths visible, and what it confines.

    minijail makes no links, and a bind that is not there ends it, as in no other format: so the folders in /usr are bound a
    second time where others have links."""
    mounted = [mount for mount in mounts(paths) if _can_be_written(mount.path)]
    proc = has_proc(paths)
    lines = [
        b"% minijail-config-file v0",
        f"# Files of {name}, made by `callfence export --to minijail`.".encode(),
        b"ns-mount",
        b"mount = tmpfs,/,tmpfs,MS_NOSUID|MS_NODEV,mode=755",
        *[b"mount = proc,/proc,proc,MS_NOSUID|MS_NODEV|MS_NOEXEC"] * proc,
    ]
    for mount in mounted:
        source, mode = encoded(mount.path), b"1" if mount.changes or mount.is_device else b"0"
        lines.append(b"bind-mount = %s,%s,%s" % (source, source, mode))
        start, _, rest = mount.path.removeprefix("/usr/").partition("/")
        if mount.path.startswith("/usr/") and start in LINKS:
            lines.append(b"bind-mount = %s,%s,%s" % (source, encoded(f"/{start}/{rest}".rstrip("/")), mode))
    return b"\n".join(lines) + b"\n", effect(mounted, proc=proc, noexec=False)


def _can_be_written(path: str) -> bool:
    """Whether minijail's syntax can have a path: commas separate, and lines are stripped and end with the line."""
    return not any(character in path for character in ",\n\\") and path == path.strip()


def export(policy: Resolved, options: FormatOptions) -> Exported:
    heard = unheard(native(policy))
    meant = replace(heard, entries=normal_entries(heard.entries))
    entries: dict[int, Entry] = {}
    lines, halves = [], []
    instructions, labels = 4, 0
    for number in meant.entries[NATIVE]:
        name, arguments = table(NATIVE).by_number[number].name, table(NATIVE).by_number[number].arguments
        space = region.space()
        allowed, denials = FALSE, []
        for where, action in answers(space, meant, NATIVE, number):
            if fitted(action, KILL).may_allow:
                allowed = space.or_(where, allowed)
            else:
                denials.append(fitted(action, KILL))
        denied = strictest(denials) if denials else KILL
        returned = f"return {format_action(denied).removeprefix('errno ')}"
        instructions += 2
        if allowed == TRUE:
            entries[number] = Entry(Always(True), ALLOW)
            lines.append(f"{name}: 1")
        elif allowed == FALSE:
            entries[number] = Entry(Always(True), denied)
            lines += [f"{name}: {returned}"] * (denied != KILL)
        else:
            entries[number] = _allowing(number, meant.entries[NATIVE][number], denied)
            alternatives = region.alternatives(space, allowed, MAX_LABELS)
            if alternatives is None:
                raise ExportError(f"the condition of {name} takes minijail more than {MAX_LABELS} comparisons; {_WAY_OUT}")
            rules = [*_rules(alternatives, arguments)]
            narrow = tuple(f"arg{index} == " for index, argument in enumerate(arguments) if argument.width < 64)
            halves += [name] * any(atom.startswith(narrow) for rule in rules for atom in rule)
            instructions += 4 + sum(2 + 9 * len(rule) for rule in rules)
            labels += 2 + len(rules)
            lines.append(f"# {name}: {format_expression(NATIVE, number, entries[number].expression)}")
            lines.append(f"{name}: {' || '.join(map(' && '.join, rules))}" + f"; {returned}" * (denied != KILL))
    for unit, count, limit in (("instructions", instructions, MAX_INSTRUCTIONS), ("labels", labels, MAX_LABELS)):
        if count > limit:
            raise ExportError(f"minijail would need up to {count} {unit}, and takes {limit}; {_WAY_OUT}")
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
    config, files = _bound(policy.files.paths, options.name)
    use = use.replace("-S {file}", "--config the .conf file beside it -P AN_EMPTY_FOLDER -S {file}")
    return Exported(data, tuple(lost), beside=(".conf", config), files=files, use=use)


def _allowing(number: int, entry: Entry, denied: Action) -> Entry:
    """Return an entry with one allowing answer as the condition that allows, and the other answer."""
    expression = entry.expression
    if not entry.action.may_allow:
        expression = normal_expression(NATIVE, number, negated(expression))
    return Entry(expression, ALLOW, None if denied == KILL else denied)


def _rules(alternatives: Sequence[Masked], arguments: Sequence[Argument]) -> Iterator[list[str]]:
    """Yield alternatives in minijail's language; those that differ only in which bit is set are one, with `&` for any."""
    groups: defaultdict[tuple[Masked, int], list[tuple[Masked, int]]] = defaultdict(list)
    for alternative in alternatives:
        index, mask, bit = next((part for part in alternative if part[2].bit_count() == 1), (-1, 0, 0))
        rest = tuple(part if part[0] != index else (index, mask ^ bit, 0) for part in alternative if part != (index, bit, bit))
        groups[rest, index].append((alternative, bit))
    for (rest, index), group in groups.items():
        bits = sum(bit for _, bit in group) if len(group) > 1 else 0
        parts = rest if bits else group[0][0]
        yield [atom for part in parts for atom in _atoms(*part, arguments)] + [f"arg{index} & {bits:#x}"] * bool(bits)


def _atoms(index: int, mask: int, value: int, arguments: Sequence[Argument]) -> list[str]:
    """Return a masked equality: `==` for one value, else `in` for bits that are zero and `&` for each that is set."""
    if mask == _WORD or (mask == arguments[index].mask and value <= mask >> 1):
        return [f"arg{index} == {value:#x}"]
    zeros = [f"arg{index} in {_WORD & ~mask | value:#x}"] * (mask != value)
    return zeros + [f"arg{index} & {1 << bit:#x}" for bit in range(64) if value >> bit & 1]
