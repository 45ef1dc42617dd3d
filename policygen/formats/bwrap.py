"""bubblewrap: a raw filter for `--seccomp FD`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.formats import Exported
from policygen.formats.armed import armed
from policygen.formats.effect import EXECVE

if TYPE_CHECKING:
    from policygen.formats import FormatOptions
    from policygen.model import Policy

# bubblewrap.c, do_init() and the end of main(), after seccomp_programs_apply(); seen with 0.12.0 under strace
CALLS = EXECVE | {
    "exit_group": "its process 1 ends (only with --unshare-pid, and not with --as-pid-1)",
    "wait4": "its process 1 waits for the program (only with --unshare-pid, and not with --as-pid-1)",
    "write": "its process 1 passes the exit status on (only with --unshare-pid, and not with --as-pid-1)",
}


def export(policy: Policy, options: FormatOptions) -> Exported:
    data, losses, added = armed(policy, "bubblewrap", CALLS)
    return Exported(data, losses, added, use="bwrap ... --seccomp 9 PROGRAM ... 9<{file}")
