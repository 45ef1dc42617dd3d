"""bubblewrap: a raw filter for `--seccomp FD`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.formats import Exported
from policygen.formats.bpf import armed
from policygen.formats.effect import EXECVE, LINKS, effect, has_proc, mounts
from policygen.paths import encoded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policygen.formats import FormatOptions
    from policygen.grants import Files, Right
    from policygen.model import Policy

# bubblewrap.c, do_init() and the end of main(), after seccomp_programs_apply(); seen with 0.12.0 under strace
CALLS = EXECVE | {
    "exit_group": "its process 1 ends (only with --unshare-pid, and not with --as-pid-1)",
    "wait4": "its process 1 waits for the program (only with --unshare-pid, and not with --as-pid-1)",
    "write": "its process 1 passes the exit status on (only with --unshare-pid, and not with --as-pid-1)",
}


def export(policy: Policy, options: FormatOptions) -> Exported:
    data, losses, added = armed(policy, "bubblewrap", CALLS)
    if policy.files.paths is None:
        return Exported(data, losses, added, use="bwrap ... --seccomp 9 PROGRAM ... 9<{file}")
    words, files = _binds(policy.files.paths)
    use = "bwrap --args 8 --seccomp 9 PROGRAM ... 8<the .args file beside it 9<{file}"
    return Exported(data, losses, added, (".args", b"".join(word + b"\0" for word in words)), use=use, files=files)


def _binds(paths: Mapping[str, Right]) -> tuple[list[bytes], Files]:
    """Return the arguments that make only these paths visible, and what they confine."""
    made, proc = mounts(paths), has_proc(paths)
    words: list[bytes] = []
    for one in made:
        option = b"--dev-bind-try" if one.is_device else b"--bind-try" if one.changes else b"--ro-bind-try"
        words += [option, encoded(one.path), encoded(one.path)]
    words += [b"--proc", b"/proc"] * proc
    for name in LINKS:
        words += [b"--symlink", b"usr/" + name.encode(), b"/" + name.encode()]
    return words, effect(made, proc=proc, noexec=False)
