"""`callfence import`: convert a file in another program's format into a policy or a recording."""

from __future__ import annotations

import argparse
import re
import sys
from functools import partial
from pathlib import Path

from callfence.policygen import formats
from callfence.policygen.formats import FormatOptions
from callfence.shared.files import output, put, require_other
from callfence.shared.inputs import content, run_command
from callfence.shared.options import Parser, architecture
from callfence.shared.profiles import loss_lines, read_policy
from callfence.shared.text import plural
from callfence.tracer.abi import NATIVE, Arch
from callfence.tracer.errors import UserError

DESCRIPTION = """\
Print a container profile or a filter as a policy: the one in FILE or, with --pid, the filters of a running process.  Standard
error and comments list what a policy cannot express, and whether the policy is wider or narrower there.

A log of a program's calls becomes a recording.  With -o NAME.policy, the recording is added to NAME.policy and
.callfence/NAME.rec, as `learn` adds a run; with -o NAME.rec, only to that recording, for `callfence merge`.  A recording of
runs of `learn --phases` gives the policy the phase that they show."""


def parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="callfence import",
        description=DESCRIPTION,
        epilog="formats:\n" + "\n".join(f"  {name:10} {formats.FORMATS[name].title}" for name in _NAMES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--from", dest="format", metavar="FORMAT", choices=_NAMES, help="the format; see below")
    add("--pid", metavar="PID", type=int, help="instead of FILE: each filter of a process (needs CAP_SYS_ADMIN) as a policy")
    add("--strict", action="store_true", help="do not write a policy that is wider than the file: exit with 1")
    add("--arch", choices=[*Arch], type=architecture, default=NATIVE, help="the architecture, if the file does not name one")
    add("--kernel", metavar="X.Y", type=_kernel, help="the kernel version for rules with a minKernel (default: newest)")
    cap = "a capability that the container has, for rules that depend on it; repeatable"
    add("--cap", metavar="CAP_NAME", action="append", default=[], type=_capability, help=cap)
    runtime = "the container runtime that reads the file; runc answers calls that it does not know differently"
    add("--runtime", default="", choices=["runc", "crun"], help=runtime)
    program = "audit, violations: import only calls of this executable, given by its path or file name"
    add("--program", default="", metavar="NAME", help=program)
    add("--exact", action="store_true", help="logs: allow only the logged calls, without the implied set (`implied 1`)")
    add("--within", metavar="BASE", help="logs: never allow what BASE, a policy or container profile (JSON), denies")
    add("-o", "--output", metavar="POLICY", type=output, help="write to POLICY instead of standard output; for logs, see above")
    add("file", metavar="FILE", nargs="?", help="- is standard input")
    return parser


def main(arguments: list[str]) -> int:
    """Run `import`.  Return 0; or 1 if the policy was not written because of --strict; or 2 if an input cannot be read or
    converted."""
    command = parser()
    options = command.parse_args(arguments)
    if (options.pid is None) == (options.format is None) or (options.format is None) != (options.file is None):
        command.error("give either --from FORMAT and FILE, or --pid PID")
    return run_command("import", lambda: _import(options) if options.pid is None else _of_process(options))


_NAMES = [name for name, row in formats.FORMATS.items() if row.read or row.record]


def _kernel(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)\.(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text} is not a kernel version such as 6.1")
    return int(match[1]), int(match[2])


def _capability(text: str) -> str:
    if not re.fullmatch(r"CAP_[A-Z0-9_]+", text):
        raise argparse.ArgumentTypeError(f"{text} is not a capability's name such as CAP_SYS_ADMIN")
    return text


def _import(options: argparse.Namespace) -> int:
    format_options = FormatOptions(
        runtime=options.runtime,
        arch=options.arch,
        kernel=options.kernel,
        capabilities=frozenset(options.cap),
        program=options.program,
    )
    if formats.FORMATS[options.format].record:
        from callfence.learning.logs import LogOptions, import_recording

        output = Path(options.output) if options.output else None
        return import_recording(LogOptions(options.format, options.file, output, options.within, options.exact, format_options))
    require_other(options.output, options.file)
    return _print(options, options.format, options.file, content(options.file), format_options)


def _of_process(options: argparse.Namespace) -> int:
    """Convert the filters of a process, in the order in which they were installed, and return the exit status.  Raises
    TracerError if they cannot be read, UserError if they cannot be converted."""
    from callfence.tracer.running.attach import filter_counts, read_filters

    pid, programs = options.pid, read_filters(options.pid)
    others = sorted(thread for thread, count in filter_counts(pid).items() if count != len(programs))
    if others:
        hint = f"{plural(len(others), 'thread')} of process {pid} with other filters: give --pid {others[0]} for the first"
        verb = "is" if len(others) == 1 else "are"
        print(f"callfence import: only the filters of thread {pid} are imported; there {verb} {hint}", file=sys.stderr)
    if not programs:
        raise UserError(f"process {pid} has no filter")
    if options.output is not None and len(programs) > 1:
        raise UserError(f"process {pid} has {len(programs)} filters, and -o takes only one: leave out -o to print them all")
    worst = 0
    for place, filter_ in enumerate(programs, 1):
        name = f"process {pid}, filter {place} of {len(programs)}"
        worst = max(worst, run_command("import", partial(_print, options, "bpf", name, filter_, FormatOptions())))
        if place < len(programs):
            print()
    return worst


def _print(options: argparse.Namespace, format_: str, name: str, data: bytes, format_options: FormatOptions) -> int:
    document, losses = read_policy(format_, name, data, format_options)
    for line in loss_lines(losses, f"than {name}"):
        print(f"callfence import: {line}", file=sys.stderr)
    if options.strict and formats.wider(losses):
        reason = f"the policy would allow more than {name}; leave out --strict to write it anyway"
        print(f"callfence import: --strict: nothing was written, because {reason}", file=sys.stderr)
        return 1
    put(options.output, document.text())
    return 0
