"""A C program that loads the filter and executes another program, for machines without Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policygen.filter import bpf
from policygen.formats import Exported
from policygen.formats.bpf import armed
from policygen.formats.effect import EXECVE

if TYPE_CHECKING:
    from policygen.formats import FormatOptions
    from policygen.model import Policy

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

#if !defined(__x86_64__)
#error "the filter is for programs of x86_64"
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


def export(policy: Policy, options: FormatOptions) -> Exported:
    data, losses, added = armed(policy, "the loader", EXECVE)
    rows = (f"\t{{{code:#04x}, {jt}, {jf}, {k:#010x}}}," for code, jt, jf, k in bpf.decode(data))
    source = _SOURCE.format(name=options.name, filter="\n".join(rows))
    return Exported(source.encode(), losses, added, use="cc -O2 -o confine {file} && ./confine PROGRAM ...")
