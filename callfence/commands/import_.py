"""`callfence import`: a policy from a file in another program's format."""

from __future__ import annotations

import argparse
import re
import sys
from functools import partial
from pathlib import Path

from callfence.shared.files import output, put
from callfence.shared.inputs import content, run_command
from callfence.shared.options import Parser
from callfence.shared.profiles import loss_lines, read_policy
from policygen import formats
from policygen.formats import FormatOptions
from tracer.abi import Arch
from tracer.errors import UserError

DESCRIPTION = """\
Print a container profile, or any filter, as a policy: from FILE, or with --pid the filters of a running process.  What a policy
cannot express is reported on standard error and in comments, and whether the policy is wider or narrower there.

Logs of a program's calls become a recording.  With -o NAME.policy it is added to NAME.policy and .callfence/NAME.rec, as
`learn` adds a run; with -o NAME.rec it is added to that recording alone, for `callfence merge`."""


def parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="callfence import",
        description=DESCRIPTION,
        epilog="formats:\n" + "\n".join(f"  {name:10} {formats.FORMATS[name].title}" for name in _NAMES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--from", dest="format", metavar="FORMAT", choices=_NAMES, help="the format; see below")
    add("--pid", metavar="PID", type=int, help="instead of FILE: the filters of a process (CAP_SYS_ADMIN), each as a policy")
    add("--strict", action="store_true", help="write nothing, with status 1, if the policy would be wider than the file")
    add("--arch", choices=[*Arch], type=Arch, default=Arch.X86_64, help="the architecture, if the file does not name one")
    add("--kernel", metavar="X.Y", type=_kernel, help="the kernel version for rules with a minKernel (default: newest)")
    add("--cap", metavar="CAP_NAME", action="append", default=[], type=_capability, help="that the container has; repeatable")
    add("--runtime", default="", choices=["runc", "crun"], help="what reads the file; runc answers newer calls differently")
    add("--program", default="", metavar="NAME", help="audit, violations: of this executable only, by path or its last part")
    add("--exact", action="store_true", help="logs: allow only what was seen, not what grants nothing beyond it (implied 1)")
    add("--within", metavar="BASE", help="logs: never allow what this policy or container profile (JSON) denies")
    add(
        "-o",
        "--output",
        metavar="POLICY",
        type=output,
        help="write to POLICY instead of standard output; for logs, see above",
    )
    add("file", metavar="FILE", nargs="?", help="- is standard input")
    return parser


def main(arguments: list[str]) -> int:
    """0; 1: --strict, and the policy would be wider than the file; 2: bad input."""
    command = parser()
    options = command.parse_args(arguments)
    if (options.pid is None) == (options.format is None) or (options.format is None) != (options.file is None):
        command.error("give --from FORMAT and FILE, or --pid PID")
    return run_command("import", lambda: _import(options) if options.pid is None else _of_process(options))


_NAMES = [name for name, row in formats.FORMATS.items() if row.read or row.record]


def _kernel(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)\.(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"a kernel version is X.Y, as 6.1: not {text}")
    return int(match[1]), int(match[2])


def _capability(text: str) -> str:
    if not re.fullmatch(r"CAP_[A-Z0-9_]+", text):
        raise argparse.ArgumentTypeError(f"a capability is named as in CAP_SYS_ADMIN: not {text}")
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
    return _print(options, options.format, options.file, content(options.file), format_options)


def _of_process(options: argparse.Namespace) -> int:
    """The filters of a process, in the order in which they were installed.  Raises TracerError, UserError."""
    from tracer.running.attach import filter_counts, read_filters

    pid, programs = options.pid, read_filters(options.pid)
    others = sorted(thread for thread, count in filter_counts(pid).items() if count != len(programs))
    if others:
        hint = f"thread {others[0]}, given as the PID, shows those of one of {len(others)}"
        print(f"callfence import: not all threads of process {pid} have the same filters: {hint}", file=sys.stderr)
    if not programs:
        raise UserError(f"process {pid} has no filter")
    if options.output is not None and len(programs) > 1:
        how = "each a policy of its own: leave out -o, and they are printed"
        raise UserError(f"process {pid} has {len(programs)} filters, {how}")
    worst = 0
    for place, filter_ in enumerate(programs, 1):
        name = f"process {pid}, filter {place} of {len(programs)}"
        work = partial(_print, options, "bpf", name, filter_, FormatOptions())
        worst = max(worst, run_command("import", work))
        if place < len(programs):
            print()
    return worst


def _print(options: argparse.Namespace, format_: str, name: str, data: bytes, format_options: FormatOptions) -> int:
    document, losses = read_policy(format_, name, data, format_options)
    for line in loss_lines(losses, f"than {name}"):
        print(f"callfence import: {line}", file=sys.stderr)
    if options.strict and formats.wider(losses):
        print("callfence import: nothing was written, because of --strict", file=sys.stderr)
        return 1
    put(options.output, document.text())
    return 0
