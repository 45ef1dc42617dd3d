"""minijail's policies for `minijail0 -S`, each for one architecture.

minijail compares whole registers, where the kernel uses the low half of an `int`: conditions are written as bits that must be
zero (`in`) or set (`&`), so that the upper half can have any value.  A single value that is not negative is written with `==`.

minijail loads the filter of a dynamic program in a preloaded library, after the dynamic loader and before main(); that of a
static program before the execve.

What a policy grants of files is written as a configuration of mounts (minijail0(5)): binds into an empty root folder.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from callfence.policygen.evaluate import answers
from callfence.policygen.formats import Direction, Exported, ExportError, FormatOptions, Loss
from callfence.policygen.formats.bpf import unheard
from callfence.policygen.formats.effect import LINKS, Masked, effect, fitted, has_proc, losses, mounts, native, only
from callfence.policygen.grants import Files, Right
from callfence.policygen.implied.resolve import Resolved
from callfence.policygen.language.naming import format_action, format_expression
from callfence.policygen.language.normal import normal_entries, normal_expression
from callfence.policygen.model import ALLOW, KILL, Action, Always, Entry, strictest
from callfence.policygen.paths import encoded
from callfence.policygen.sets import region
from callfence.policygen.sets.algebra import FALSE, TRUE
from callfence.policygen.sets.express import negated
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch, Argument, name_of, table

MAX_INSTRUCTIONS, MAX_LABELS = 4096, 512  # BPF_MAXINSNS; BPF_LABELS_MAX (bpf.h)
_THREAD = Loss(Direction.OTHER, "minijail kills the calling thread instead of the process")
_WORD = (1 << 64) - 1
_WAY_OUT = "use `--to bpf`, which has no such limit, and minijail0 --seccomp-bpf-binary FILE"


def _bound(paths: Mapping[str, Right], name: str, arch: Arch) -> tuple[bytes, Files]:
    """Return the configuration that makes only these paths visible, and the `Files` that it enforces.

    minijail creates no links, so the folders in /usr are mounted a second time where other formats have links.  Unlike in other
    formats, minijail fails if a path does not exist."""
    mounted = [mount for mount in mounts(paths, (arch,)) if _can_be_written(mount.path)]
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
    """Return whether the configuration can have a path: commas and line ends separate, and spaces at the ends are lost."""
    return not any(character in path for character in ",\n\\") and path == path.strip()


def export(policy: Resolved, options: FormatOptions) -> Exported:
    heard = unheard(native(policy, options.arch))
    arch = only(heard)
    meant = replace(heard, entries=normal_entries(heard.entries))
    entries: dict[int, Entry] = {}
    lines, halves = [], []
    instructions, labels = 4, 0
    for number in meant.entries[arch]:
        name, arguments = name_of(arch, number), table(arch).by_number[number].arguments
        space = region.space()
        allowed, denials = FALSE, []
        for where, action in answers(space, meant, arch, number):
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
            entries[number] = _allowing(arch, number, meant.entries[arch][number], denied)
            alternatives = region.alternatives(space, allowed, MAX_LABELS)
            if alternatives is None:
                raise ExportError(f"{name}: its condition needs more than {MAX_LABELS} comparisons in minijail; {_WAY_OUT}")
            rules = [*_rules(alternatives, arguments)]
            narrow = tuple(f"arg{index} == " for index, argument in enumerate(arguments) if argument.width < 64)
            halves += [name] * any(atom.startswith(narrow) for rule in rules for atom in rule)
            instructions += 4 + sum(2 + 9 * len(rule) for rule in rules)
            labels += 2 + len(rules)
            lines.append(f"# {name}: {format_expression(arch, number, entries[number].expression)}")
            lines.append(f"{name}: {' || '.join(map(' && '.join, rules))}" + f"; {returned}" * (denied != KILL))
    for unit, count, limit in (("instructions", instructions, MAX_INSTRUCTIONS), ("labels", labels, MAX_LABELS)):
        if count > limit:
            raise ExportError(f"the policy needs up to {count} {unit}, and minijail permits {limit}; {_WAY_OUT}")
    effect = replace(meant, entries={arch: entries}, default=KILL, unknown=KILL)
    lost = [*losses(policy, effect, "minijail", before_loader=False), _THREAD]
    if halves:
        text = "minijail compares whole registers: it kills calls with an upper half that compilers do not produce"
        lost.append(Loss(Direction.NARROWER, text, tuple(halves)))
    head = f"# System calls of {options.name}, made by `callfence export --to minijail` for {arch}.\n"
    use = "minijail0 -n -S {file} -- PROGRAM; add `execve: 1` for a static program or with -T static"
    data = (head + "\n".join(lines) + "\n").encode()
    if policy.files.paths is None:
        return Exported(data, tuple(lost), use=use)
    config, files = _bound(policy.files.paths, options.name, arch)
    use = use.replace("-S {file}", "--config the .conf file beside it -P AN_EMPTY_FOLDER -S {file}")
    return Exported(data, tuple(lost), beside=(".conf", config), files=files, use=use)


def _allowing(arch: Arch, number: int, entry: Entry, denied: Action) -> Entry:
    """Return an entry that allows a call under the same condition as `entry`, and else has the action `denied`."""
    expression = entry.expression
    if not entry.action.may_allow:
        expression = normal_expression(arch, number, negated(expression))
    return Entry(expression, ALLOW, None if denied == KILL else denied)


def _rules(alternatives: Sequence[Masked], arguments: Sequence[Argument]) -> Iterator[list[str]]:
    """Yield rules in minijail's language; rules that differ only in which bit is set become one rule with `&`."""
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
