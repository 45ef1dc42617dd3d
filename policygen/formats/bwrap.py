"""bubblewrap: a raw filter for `--seccomp FD`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.files.model import Files
from policygen.files.paths import covers, encoded
from policygen.files.rights import ALL, Right
from policygen.formats import Exported
from policygen.formats.armed import armed
from policygen.formats.effect import EXECVE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policygen.formats import FormatOptions
    from policygen.model import Policy

# bubblewrap.c, do_init() and the end of main(), after seccomp_programs_apply(); seen with 0.12.0 under strace
CALLS = EXECVE | {
    "exit_group": "its process 1 ends (only with --unshare-pid, and not with --as-pid-1)",
    "wait4": "its process 1 waits for the program (only with --unshare-pid, and not with --as-pid-1)",
    "write": "its process 1 passes the exit status on (only with --unshare-pid, and not with --as-pid-1)",
}


_LOADERS = b"/usr/lib64"
"""On x86_64 every program names its dynamic loader in /lib64: on Debian a link there leads to the file that policies have."""


def export(policy: Policy, options: FormatOptions) -> Exported:
    data, losses, added = armed(policy, "bubblewrap", CALLS)
    if policy.files.paths is None:
        return Exported(data, losses, added, use="bwrap ... --seccomp 9 PROGRAM ... 9<{file}")
    words, files = _binds(policy.files.paths)
    use = "bwrap --args 8 --seccomp 9 PROGRAM ... 8<the .args file beside it 9<{file}"
    return Exported(data, losses, added, (".args", b"".join(word + b"\0" for word in words)), use=use, files=files)


def _binds(paths: Mapping[str, Right]) -> tuple[list[bytes], Files]:
    """Return the arguments that make only these paths visible, and what they confine.

    A mount is for reading and executing, or for changing as well.  Links of a merged /usr are made again, since policies
    have the files that they lead to."""
    words, effect = [b"--ro-bind-try", _LOADERS, _LOADERS], {_LOADERS.decode(): Right.READ | Right.EXECUTE}
    for path, rights in paths.items():
        if path.startswith("/") and rights:
            changes = bool(rights & ~(Right.READ | Right.EXECUTE))
            option = b"--dev-bind-try" if covers("/dev", path) else b"--bind-try" if changes else b"--ro-bind-try"
            words += [option, encoded(path), encoded(path)]
            effect[path] = ALL if changes or covers("/dev", path) else Right.READ | Right.EXECUTE
    for name in (b"bin", b"lib", b"lib64", b"sbin"):
        words += [b"--symlink", b"usr/" + name, b"/" + name]
    return words, Files(effect)
