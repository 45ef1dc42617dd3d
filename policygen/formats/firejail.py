"""firejail: lines of a profile that filter calls by name, for firejail 0.9.74 (firejail(1), --seccomp.keep).

Lines for files (firejail-profile(5)): `whitelist` hides everything else in the same folder of the root or in the home folder;
the other folders of hier(7) are blacklisted.  Programs and libraries stay visible.
"""

from __future__ import annotations

from collections.abc import Mapping

from callfence.policygen.files.algebra import granted
from callfence.policygen.formats import Direction, Exported, FormatOptions, Loss, effect as effects
from callfence.policygen.grants import ALL, NOT_CONFINED, Files, Right
from callfence.policygen.implied.resolve import Resolved
from callfence.policygen.model import ALLOW, KILL, Action, Always, Condition, Entry, Operator
from callfence.policygen.paths import covers, encoded
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch, table

_VISIBLE = ("/bin", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr")
"""Folders that stay visible, but read-only: they contain programs and the dynamic loader."""
_TOPS = ("/boot", "/etc", "/media", "/mnt", "/opt", "/srv", "/tmp", "/var")
"""Other folders of the root (hier(7)), which are blacklisted if the policy grants nothing in them."""
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "pts", "ptmx", "shm", "fd", "stdin", "stdout", "stderr")
"""The files that `private-dev` keeps in /dev and that most programs use."""
_REST = Loss(
    Direction.WIDER,
    f"firejail leaves programs and libraries ({', '.join(_VISIBLE)}), /run, which it needs, and folders of the root with other "
    "names than hier(7) has visible for reading",
)
# src/lib/syscall.c, the group @default-keep: in every list of calls to keep
_KEPT = "firejail allows it in every list, since it makes this call before it executes the program"
CALLS = effects.EXECVE | {"execveat": _KEPT, "prctl": _KEPT}
_PERSONALITY = {"personality": "firejail denies changing the execution domain if it blocks other architectures"}


def whitelisted(paths: Mapping[str, Right]) -> tuple[list[str], Files, tuple[Loss, ...]]:
    """Return the lines of a profile that grant these paths, the `Files` that the lines actually enforce, and further losses."""
    written = {path: granted(paths, path) for path, rights in paths.items() if rights and _can_be_written(path)}
    effect = dict.fromkeys(_VISIBLE, effects.READS) | {"/proc": ALL}
    lines = ["read-only /"]
    for path, rights in written.items():
        top = _top(path)
        name = path.replace("$HOME", "${HOME}", 1)
        changes, is_device = bool(rights & ~effects.READS), covers("/dev", path)
        if path != top and top not in written and top not in _VISIBLE:
            lines.append(f"whitelist {name}")
        if not is_device:
            lines.append(f"{'read-write' if changes else 'read-only'} {name}")
        noexec = changes and Right.EXECUTE not in rights and not is_device
        lines += [f"noexec {name}"] * noexec
        given = ALL if changes or is_device else effects.READS
        effect[path] = effect.get(path, given) | (given & ~Right.EXECUTE if noexec else given)
    tops = {_top(path) for path in written}
    lines += [f"blacklist {top}" for top in _TOPS if top not in tops]
    if "$HOME" not in tops:
        lines.append("private")
    if "/run" not in tops:
        effect["/run"] = effects.READS
    if "/dev" not in tops:
        lines.append("private-dev")
        effect |= {f"/dev/{name}": ALL for name in _DEVICES}
    return lines, Files(effect), (_REST,)


def _top(path: str) -> str:
    """Return the folder of the root that contains a path; its first part if that is a variable such as `$HOME`."""
    start, _, rest = path.partition("/")
    return start or f"/{rest.partition('/')[0]}"


def _can_be_written(path: str) -> bool:
    """Return whether a profile can have a path: it cannot quote characters of patterns, comments and spaces, several of which
    count as one, and none at the end; and firejail hides other home folders."""
    start = path.partition("/")[0]
    if start not in ("", "$HOME") or path == "/" or _top(path) in ("/home", "/root"):
        return False
    text = path.removeprefix("$HOME")
    if "  " in text or text.endswith(" "):
        return False
    return text.isprintable() and encoded(text).isascii() and not any(character in text for character in "*?[]{}$\"\\,#")


def export(policy: Resolved, options: FormatOptions) -> Exported:
    meant, added = effects.with_calls(effects.explicit(effects.native(policy, options.arch)), CALLS)
    names = effects.names_only(meant)
    arch = effects.only(names)
    default = effects.fitted(names.default, KILL)
    error = KILL if default.may_allow else default
    section = {number: effects.fitted(entry.action, error) for number, entry in names.entries[arch].items()}
    listed = []
    for name, call in sorted(table(arch).by_name.items()):
        action = section.get(call.number, default)
        word = name if _named(arch, call.number) else f"${call.number}"
        if action.may_allow and not default.may_allow:
            listed.append(word)
        elif not action.may_allow and action != default:
            listed.append(f"{word}:{effects.action_word(action)}")
    lines = [
        f"# System calls of {options.name}, made by `callfence export --to firejail` for firejail 0.9.74.",
        *([f"seccomp.{'drop' if default.may_allow else 'keep'} {','.join(listed)}"] if listed else []),
        "seccomp.block-secondary",
        f"seccomp-error-action {effects.action_word(error)}",
    ]
    files = NOT_CONFINED
    if policy.files.paths is not None:
        more, files, ungranted = whitelisted(policy.files.paths)
        lines += more
    else:
        ungranted = ()
    # to a change of the execution domain firejail 0.9.74 answers EPERM if it has a list of calls, whatever its error action is
    effect = _effect(policy, arch, section, default, effects.EPERM if listed else error)
    lost = effects.losses(policy, effect, "firejail", added, _PERSONALITY)
    other = f"calls of {effects.FOREIGN[arch]} get the profile's error action"
    foreign = Loss(Direction.OTHER, f"{other}, and firejail kills the calling thread instead of the process")
    use = "firejail --profile={file} PROGRAM; or these lines in /etc/firejail/PROGRAM.local"
    return Exported(("\n".join(lines) + "\n").encode(), (*lost, *ungranted, foreign), added, files=files, use=use)


def _named(arch: Arch, number: int) -> bool:
    """Return whether firejail 0.9.74 has a name for the call (`firejail --debug-syscalls`); it ignores names that it does not
    have.  It has no table of aarch64 (src/lib/syscall.c)."""
    return arch is Arch.X86_64 and (number <= 334 or 424 <= number <= 440)


def _effect(policy: Resolved, arch: Arch, section: dict[int, Action], default: Action, blocked: Action) -> Resolved:
    """Return the policy that the profile enforces for `arch`; `blocked`: the action for changing the execution domain."""
    entries = {number: Entry(Always(True), action) for number, action in section.items()}
    call = table(arch).by_name["personality"]
    if section.get(call.number, default).may_allow:
        query = call.arguments[0].value(0xFFFFFFFF)  # personality(2): asks, and changes nothing
        entries[call.number] = Entry(Condition(0, Operator.ONE_OF, values=tuple(sorted((0, query)))), ALLOW, blocked)
    newest = table(arch).versions()[-1]
    return replace(policy, entries={arch: entries}, table=newest, default=default, unknown=default)
