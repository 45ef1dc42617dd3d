"""AppArmor: a profile with the files that a policy grants (apparmor.d(5)), for AppArmor 4.1.

AppArmor denies what a profile does not name, so the profile permits everything except files: it confines only files.
"""

from __future__ import annotations

from string import ascii_letters, digits

from callfence.policygen.formats import Direction, Exported, ExportError, FormatOptions, Loss
from callfence.policygen.grants import ALL, Files, Right
from callfence.policygen.implied.resolve import Resolved
from callfence.policygen.paths import encoded

_READ, _WRITE, _EXECUTE = Right.READ, ALL & ~Right.READ & ~Right.EXECUTE, Right.EXECUTE
_PERMITTED = (
    "capability", "network", "mount", "remount", "umount", "pivot_root", "signal", "ptrace", "unix", "userns", "mqueue",
    "dbus",
)  # fmt: skip
"""Rules that permit everything except files, of what abi/4.0 has."""
_PLAIN = f"{ascii_letters}{digits}/._-+~=: "
_CALLS = Loss(Direction.WIDER, "AppArmor filters no system calls: load a seccomp filter, too")
_HOMES = Loss(Direction.WIDER, "$HOME becomes the home folders of all users (tunables/home)")


def export(policy: Resolved, options: FormatOptions) -> Exported:
    if policy.files.paths is None:
        raise ExportError("the policy has no `path` lines, and an AppArmor profile has nothing else; learn it with --files")
    lines, effect = [], {}
    for path, rights in policy.files.paths.items():
        if rights and (pattern := _pattern(path)):
            if not rights & ~Right.LIST:  # a pattern that ends with a slash is that of a folder (apparmor.d(5))
                effect[path] = Right.LIST
                lines.append(f"  {_pattern(path, folders=True)} r,")
                continue
            letters, effect[path] = _letters(rights)
            lines.append(f"  {pattern} {letters},")
    head = f"# Files of {options.name}, made by `callfence export --to apparmor` for AppArmor 4.1."
    body = [f"profile {options.name} {{", *(f"  {word}," for word in _PERMITTED), *lines, "}"]
    text = "\n".join([head, "abi <abi/4.0>,", "include <tunables/global>", *body])
    use = f"apparmor_parser -r {{file}}; aa-exec -p {options.name} -- PROGRAM"
    homes = any(path.startswith("$HOME") for path in effect)
    return Exported(f"{text}\n".encode(), (_CALLS, *[_HOMES] * homes), files=Files(effect), use=use)


def _letters(rights: Right) -> tuple[str, Right]:
    """Return AppArmor's permission letters for rights, and the rights that they give: `w` also creates, removes and renames."""
    letters, given = "", Right(0)
    for right, of, granted in (("mr", _READ, _READ), ("wkl", _WRITE, _WRITE), ("ix", _EXECUTE, _EXECUTE)):
        if rights & of:
            letters, given = letters + right, given | granted
    return letters, given


def _pattern(path: str, *, folders: bool = False) -> str:
    """Return the pattern for a file, or for a folder with everything below it, or with the `folders` below it only; '' if a
    profile cannot express the path's variable."""
    start, slash, rest = path.partition("/")
    if start not in ("", "$HOME") or (start and not rest):
        return ("@{HOME}{,**/}" if folders else "@{HOME}{,**}") if start == "$HOME" else ""
    if path == "/":
        return "/{,**/}" if folders else "/{,**}"
    text = "".join(chr(byte) if chr(byte) in _PLAIN else f"\\{byte:03o}" for byte in encoded(rest))
    prefix = "@{HOME}" if start else slash  # @{HOME} ends with a slash (tunables/home)
    return f'"{prefix}{text}{"{/,/**/}" if folders else "{,/,/**}"}"'
