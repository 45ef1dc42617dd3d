"""A raw filter: the array of struct sock_filter that the kernel loads, 8 bytes an instruction, in host byte order.

The formats of two programs that load such a filter and execute another program are here too: bubblewrap (`--seccomp FD`), and a
C program that is generated, for machines without Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from callfence.policygen.filter import bpf
from callfence.policygen.filter.compile import compile_resolved
from callfence.policygen.filter.lift import Lifted, lift
from callfence.policygen.filter.symbolic import UnsupportedError
from callfence.policygen.formats import Direction, Exported, ExportError, Imported, ImportFormatError, Loss
from callfence.policygen.formats.effect import EXECVE, LINKS, effect, has_proc, losses, machines, mounts, with_calls
from callfence.policygen.model import ENOSYS, Action, ActionKind, Arm, Entry
from callfence.policygen.paths import encoded
from callfence.policygen.sets.algebra import TooComplexError
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch
from callfence.tracer.errors import CallfenceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from callfence.policygen.formats import Addition, FormatOptions
    from callfence.policygen.grants import Files, Right
    from callfence.policygen.implied.resolve import Resolved
def imported(lifted: Lifted, more: tuple[Loss, ...] = (), *, instructions: str = "") -> Imported:
    """Return the policy of a lifted filter, with its remarks as losses, and with `more` losses.  The text `instructions`, the
    disassembled filter, is added if the remarks do not describe the whole difference."""
    losses = []
    for remark in lifted.remarks:
        directions = [d for d, held in ((Direction.WIDER, remark.wider), (Direction.NARROWER, remark.narrower)) if held]
        calls = (remark.call,) if remark.call else ()
        losses += [Loss(direction, remark.text, calls) for direction in directions or [Direction.OTHER]]
    are_needed = not all(remark.whole for remark in lifted.remarks)
    return Imported(lifted.policy, (*losses, *more), tuple(instructions.splitlines()) if are_needed else ())


def export(policy: Resolved, options: FormatOptions) -> Exported:
    """Return the policy's filter.  The only losses say that the moment at which it takes effect, and the listener for `notify`,
    are not in the file.  Raises ExportError if the policy cannot be compiled."""
    losses = []
    if policy.arm is not Arm.NOW:
        text = "the filter takes effect when it is loaded; if that is before the program's execve, it must allow execve"
        losses.append(Loss(Direction.OTHER, text))
    if ActionKind.NOTIFY in kinds(policy):
        text = "the file has no listener for `notify`; unless the loader creates one, these calls fail with ENOSYS"
        losses.append(Loss(Direction.OTHER, text))
    return Exported(compiled(policy), tuple(losses), use="seccomp(SECCOMP_SET_MODE_FILTER, 0, {{len, {file}}})")


def read(data: bytes, filename: str, options: FormatOptions) -> Imported:
    try:
        return imported(lift(data), instructions=bpf.disassemble(data))
    except bpf.InvalidProgramError as error:
        raise ImportFormatError(f"{filename}: the kernel would not load this filter: {error}") from error
    except (UnsupportedError, TooComplexError) as error:
        text = f"{filename}: the filter cannot be written as a policy: {error}; its instructions:\n{bpf.disassemble(data)}"
        raise ImportFormatError(text) from error


def compiled(policy: Resolved) -> bytes:
    """Return the policy's filter.  Raises ExportError if it cannot be compiled."""
    try:
        return compile_resolved(policy)
    except CallfenceError as error:
        raise ExportError(str(error)) from error


def kinds(policy: Resolved) -> set[ActionKind]:
    """Return the kinds of all actions that the policy has: those of entries, `default` and `unknown`."""
    return {action.kind for action in policy.actions() | {policy.default, policy.unknown}}


def _armed(policy: Resolved, target: str, calls: Mapping[str, str]) -> tuple[bytes, tuple[Loss, ...], tuple[Addition, ...]]:
    """Return a filter for the policy and the target's own `calls` (name -> reason), the losses, and the additions."""
    machines(policy, what=f"the architecture of {target}")
    meant, added = with_calls(unheard(policy), calls)
    return compiled(meant), losses(policy, meant, target, added), added


def unheard(policy: Resolved) -> Resolved:
    """Return the policy with `errno ENOSYS` in place of `notify`, which is what the kernel does with `notify` if there is no
    listener (seccomp_unotify(2))."""

    def answered(action: Action) -> Action:
        return ENOSYS if action.kind is ActionKind.NOTIFY else action

    def changed(_arch: Arch, _number: int, entry: Entry) -> Entry:
        return replace(entry, action=answered(entry.action), otherwise=entry.otherwise and answered(entry.otherwise))

    return replace(policy.changed(changed), default=answered(policy.default), unknown=answered(policy.unknown))


_SOURCE = """\
/* The seccomp filter of {name}, made by `callfence export --to c`, and a program that runs another one under it.
 *
 *     cc -O2 -o confine THIS_FILE && ./confine PROGRAM [ARGUMENT ...]
 *
 * The filter takes effect before the execve, so it allows that call.  Exit status: the program's; 125 if the filter could not
 * be loaded (the program is not run), 126 if the program cannot be executed, 127 if it was not found.
 * For a program that arms itself: with -DFILTER_ONLY this file is only filter[] and arm().
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if {undefined}
#error "the filter is for programs of {archs}"
#endif

static const struct sock_filter filter[] = {{
{filter}
}};

/* 0, or -1 with errno.  Needs no privileges; there must be one thread only, for the others would not be confined. */
static int arm(void)
{{
	const struct sock_fprog program = {{sizeof filter / sizeof filter[0], (struct sock_filter *)filter}};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -1;
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}}

#ifndef FILTER_ONLY
int main(int argc, char **argv)
{{
	if (argc < 2) {{
		fprintf(stderr, "usage: %s PROGRAM [ARGUMENT ...]\\n", argc ? argv[0] : "confine");
		return 125;
	}}
	if (arm()) {{
		perror("seccomp");
		return 125;
	}}
	execvp(argv[1], argv + 1);
	return errno == ENOENT ? 127 : 126;
}}
#endif
"""


def export_c(policy: Resolved, options: FormatOptions) -> Exported:
    """Return the source of a C program that installs the policy's filter for itself, and executes the program that its
    arguments name.  Raises ExportError if the policy cannot be compiled, or has no entries for a machine."""
    data, losses, added = _armed(policy, "the loader", EXECVE)
    rows = (f"\t{{{code:#04x}, {jt}, {jf}, {k:#010x}}}," for code, jt, jf, k in bpf.decode(data))
    archs = [arch for arch in Arch if arch in machines(policy)]
    undefined = " && ".join(f"!defined(__{arch}__)" for arch in archs)
    source = _SOURCE.format(name=options.name, filter="\n".join(rows), undefined=undefined, archs=" and ".join(archs))
    return Exported(source.encode(), losses, added, use="cc -O2 -o confine {file} && ./confine PROGRAM ...")


# bubblewrap.c, do_init() and the end of main(), after seccomp_programs_apply(); seen with 0.12.0 under strace
BWRAP_CALLS = EXECVE | {
    "exit_group": "its process 1 ends (only with --unshare-pid, and not with --as-pid-1)",
    "wait4": "its process 1 waits for the program (only with --unshare-pid, and not with --as-pid-1)",
    "write": "its process 1 passes the exit status on (only with --unshare-pid, and not with --as-pid-1)",
}


def export_bwrap(policy: Resolved, options: FormatOptions) -> Exported:
    """Return the filter for bubblewrap and, as a second file, the arguments that make only the policy's files visible.  Raises
    ExportError if the policy cannot be compiled, or has no entries for a machine."""
    data, losses, added = _armed(policy, "bubblewrap", BWRAP_CALLS)
    if policy.files.paths is None:
        return Exported(data, losses, added, use="bwrap ... --seccomp 9 PROGRAM ... 9<{file}")
    words, files = _binds(policy.files.paths, machines(policy))
    use = "bwrap --args 8 --seccomp 9 PROGRAM ... 8<the .args file beside it 9<{file}"
    return Exported(data, losses, added, (".args", b"".join(word + b"\0" for word in words)), use=use, files=files)


def _binds(paths: Mapping[str, Right], archs: Iterable[Arch]) -> tuple[list[bytes], Files]:
    """Return the arguments that make only these paths visible, and the `Files` that they enforce."""
    mounted, proc = mounts(paths, archs), has_proc(paths)
    words: list[bytes] = []
    for mount in mounted:
        option = b"--dev-bind-try" if mount.is_device else b"--bind-try" if mount.changes else b"--ro-bind-try"
        words += [option, encoded(mount.path), encoded(mount.path)]
    words += [b"--proc", b"/proc"] * proc
    for name in LINKS:
        words += [b"--symlink", b"usr/" + name.encode(), b"/" + name.encode()]
    return words, effect(mounted, proc=proc, noexec=False)
