"""Print the canonical text of a policy: equal policies with equal layouts give equal bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from callfence.policygen.grants import written
from callfence.policygen.language import LANGUAGE_VERSION
from callfence.policygen.language.layout import Comments, Layout, Remarks, Section
from callfence.policygen.language.naming import entry_lines, format_action
from callfence.policygen.model import SIGNALS, Entry, Expression, Or, Policy
from callfence.policygen.phases import marked
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch, table

EXPLANATIONS = {
    "table": "# kernel whose syscall table the policy was written against",
    "arm": "# now | exec | entry",
    "default": "# what happens to every call not allowed below",
    "unknown": "# calls newer than the table",
    "implied": "# what grants nothing beyond the rest: callfence show --implied",
    "portable": "# learn and merge add what other C libraries do instead",
}
"""The comments on the settings of a policy that a tool writes anew."""

COMMENT_COLUMN = 31
"""The column, from 0, at which a trailing comment begins, if the line ends at least two columns before it."""


def print_policy(policy: Policy, layout: Layout) -> str:
    """Return the canonical text of a normal policy with the comments of `layout`.  Raises ValueError without architectures."""
    arches = [arch for arch in Arch if arch in policy.entries]
    if not arches:
        raise ValueError("a policy names at least one architecture")
    included = {
        (arch, number)
        for section in layout.sections.values()
        for include in section.includes
        for arch, entries in include.entries.items()
        for number in entries
    }
    lines = [*layout.header, *_settings(policy, arches[0], layout), *_files(policy, layout)]
    for arch in arches:
        section = layout.sections.get(arch, Section())
        if arch is not arches[0]:
            lines += ["", *_commented([f"arch {arch}"], section.arch)]
        own = {number: entry for number, entry in policy.entries[arch].items() if (arch, number) not in included}
        for block in _section(policy, arch, own, section):
            lines += ["", *block]
    return "".join(f"{line}\n" for line in lines)


def settled(policy: Policy, layout: Layout) -> Layout:
    """Return the layout with the comments of settings, and of lines about files or hosts, that the policy's text does not have,
    at the top of the file.  Those that tools wrote on settings are left out."""
    settings, lines = _values(policy, layout), policy.files.lines()
    gone = [own.all() for word, own in layout.settings.items() if word not in settings]
    gone += [own.all() for line, own in layout.files.items() if line not in lines]
    written = EXPLANATIONS.values()
    return replace(
        layout,
        header=(*layout.header, *(comment for own in gone for comment in own if comment and comment not in written)),
        settings={word: own for word, own in layout.settings.items() if word in settings},
        files={line: own for line, own in layout.files.items() if line in lines},
    )


def _settings(policy: Policy, first: Arch, layout: Layout) -> list[str]:
    lines = []
    for word, value in _values(policy, layout).items():
        lines += _commented([f"{word} {value}".rstrip()], layout.settings.get(word, Comments()))
        if word == "callfence":
            lines += _commented([f"arch {first}"], layout.sections.get(first, Section()).arch)
    return lines


def _values(policy: Policy, layout: Layout) -> dict[str, str]:
    """Return the policy's settings, but `arch`, in canonical order: word -> value."""
    values = {
        "callfence": str(LANGUAGE_VERSION),
        "table": "{}.{}".format(*policy.table),
        "arm": policy.arm,
        "default": format_action(policy.default),
        "unknown": format_action(policy.unknown),
    }
    if policy.implied:
        values["implied"] = str(policy.implied)
    if policy.portable:
        values["portable"] = ""
    if policy.scope != SIGNALS or "scope" in layout.settings:
        values["scope"] = policy.scope or "none"
    if policy.phases_optional:
        values["phases"] = "optional"
    for phase in policy.phases:
        values[f"phase {phase.name}"] = f"after {', '.join(phase.triggers)}"
    return values


def _files(policy: Policy, layout: Layout) -> list[str]:
    """Return the lines about files, ports, hosts and unix sockets, after a blank line, without the lines of included files."""
    includes = [include for section in layout.sections.values() for include in section.includes]
    included = {line for include in includes for line in include.files.lines()}
    lines = []
    for line, granted in policy.files.lines().items():
        if line not in included:
            lines += _commented([written(line, granted)], layout.files.get(line, Comments()))
    return ["", *lines] if lines else []


def _section(policy: Policy, arch: Arch, entries: Mapping[int, Entry], section: Section) -> Iterable[list[str]]:
    """Return the blocks of a section, to be separated by blank lines: includes, entries, final comments."""
    includes = [line for include in section.includes for line in _commented([include.line], include.comments)]
    own = []
    for call in sorted((table(arch).by_number[number] for number in entries), key=lambda call: call.name):
        remarks = section.entries.get(call.number, Remarks())
        own += _entry(arch, call.number, entries[call.number], remarks, until(policy, arch, call.number))
    return [block for block in (includes, own, list(section.end)) if block]


def until(policy: Policy, arch: Arch, number: int) -> dict[Expression, str]:
    """Return, for each alternative of a call's entry, the phase that ends it, or ""; {} for a policy without phases."""
    names = [*(phase.name for phase in policy.phases), ""]
    entries = [section.get(arch, {}).get(number) for section in (policy.entries, *(phase.entries for phase in policy.phases))]
    return {part: names[end - 1] for part, end in marked(entries)} if policy.phases else {}


def _entry(arch: Arch, number: int, entry: Entry, remarks: Remarks, ends: Mapping[Expression, str]) -> list[str]:
    lines = entry_lines(arch, number, entry, ends)
    comments = [Comments()] * len(lines)
    if isinstance(entry.expression, Or):
        for index, alternative in enumerate(entry.expression.parts):
            comments[index] = remarks.alternatives.get(alternative, Comments())
    comments[0] = remarks.entry.join(comments[0])
    return _commented(lines, *comments)


def _commented(lines: list[str], *comments: Comments) -> list[str]:
    """Return the lines, each with its comments above it and beside it."""
    out: list[str] = []
    for line, comment in zip(lines, comments, strict=True):
        indentation = line[: len(line) - len(line.lstrip())]
        out += [f"{indentation}{above}".rstrip() for above in comment.above]
        out.append(f"{line:<{COMMENT_COLUMN - 2}}  {comment.trailing}" if comment.trailing else line)
    return out
