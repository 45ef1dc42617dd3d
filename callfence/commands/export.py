"""`callfence export`: a policy in another program's format, and what that format cannot express."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from pathlib import Path

from callfence.policygen import formats
from callfence.policygen.formats import Direction, Exported, ExportError, FormatOptions, Loss, Service
from callfence.policygen.implied.resolve import resolve, resolved
from callfence.policygen.model import Policy
from callfence.policygen.phases import START
from callfence.policygen.recording.atomic import write
from callfence.policygen.text import file_word
from callfence.policygen.values import replace
from callfence.shared.files import output, require_other
from callfence.shared.inputs import content, document, run_command
from callfence.shared.options import Parser, architecture
from callfence.shared.outputs import as_output
from callfence.shared.profiles import as_objects, loss_lines
from callfence.tracer.abi import NATIVE, Arch
from callfence.tracer.errors import UserError

_NAMES = [name for name, row in formats.FORMATS.items() if row.export]
_UNITS = ("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system")
"""The folders in which systemd looks for a unit, in its order (systemd.unit(5))."""
_UNIT = r"[A-Za-z0-9:_.@-]+\.service"
"""The names of units, but those with escapes."""

DESCRIPTION = """\
Write a policy in another program's format.  Standard error lists what that format cannot express, and whether the result is
wider than the policy (more calls run) or narrower (fewer run).  With --strict, a wider result is not written."""


def parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="callfence export",
        description=DESCRIPTION,
        epilog="formats:\n" + "\n".join(f"  {name:15} {formats.FORMATS[name].title}" for name in _NAMES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--to", metavar="FORMAT", required=True, choices=_NAMES, help="the format; see below")
    strict = "do not write a result that allows more than the policy, or with which no container would start: exit with 1"
    add("--strict", action="store_true", help=strict)
    add("--runtime", metavar="NAME", default="", help="also allow what this runtime calls under the filter: runc, crun")
    add("--no-new-privs", action="store_true", help="with --runtime: allow only what it calls in a container with no_new_privs")
    add("--unit", metavar="UNIT", help="with systemd-enforce: the unit's name (nginx.service) or file")
    add("--audit", action="store_true", help="with systemd-enforce: only report what the policy denies")
    machine = "the machine's architecture, where the policy has several (default: this machine's)"
    add("--arch", choices=[str(arch) for arch in Arch if arch.compat], type=architecture, default=NATIVE, help=machine)
    add("--phase", metavar="NAME", default=START, help="write what one phase of the policy allows (default: start)")
    add("--name", help="name of the program in resources and units (default: the policy file's)")
    add("--losses", metavar="FILE", help="write what the format cannot express, and what was added, to FILE as JSON")
    add("-o", "--output", metavar="FILE", type=output, help="write to FILE instead of standard output")
    add("policy", metavar="POLICY", help="a policy file; - is standard input")
    return parser


def main(arguments: list[str]) -> int:
    """Run `export`.  Return 0; or 1 if the result was not written because of --strict; or 2 if an input cannot be read or
    exported."""
    options = parser().parse_args(arguments)
    return run_command("export", lambda: _export(options))


def _export(options: argparse.Namespace) -> int:
    for written in (options.output, options.losses):
        require_other(written, options.policy, options.unit)
    shown = document(options.policy)
    if options.audit and not options.unit:
        raise UserError("--audit requires --unit, and --to systemd-enforce")
    service = _service(options) if options.unit else None
    name = options.name or _name(options.unit.removesuffix(".service") if service else options.policy)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise UserError(
            f"--name {name}: the name must begin with a letter or digit, and have only letters, digits, '-', '_' and '.'"
        )
    format_options = FormatOptions(
        name=name, runtime=options.runtime, no_new_privileges=options.no_new_privs, service=service, arch=options.arch
    )
    try:
        resolved(shown.policy, options.phase)
    except ValueError as error:
        raise UserError(f"--phase {options.phase}: {error}") from error
    try:
        exported = _exported(options.to, shown.policy, options.phase, format_options)
    except ExportError as error:
        raise UserError(f"{options.policy}: {error}") from error
    beside = Path(options.output).with_suffix(exported.beside[0]) if options.output and exported.beside else None
    require_other(beside, options.policy, options.unit)
    if beside in [Path(written) for written in (options.output, options.losses) if written]:
        raise UserError(f"-o {options.output}: {beside} is the name of a second file: name another file to write to")
    is_wider = formats.wider(exported.losses)
    is_useless = options.to == "k8s" and not options.runtime
    _print_losses(options, exported)
    if options.losses:
        described = {
            "format": options.to,
            "policy": options.policy,
            "losses": as_objects(exported.losses),
            "added": [{"call": addition.call, "why": addition.why} for addition in exported.additions],
        }
        write(Path(options.losses), f"{as_output('losses', described)}\n".encode())
    if options.strict and (is_wider or is_useless):
        useless = "has no calls of a container runtime, so no container would start"
        reason = f"would allow more than {options.policy}" if is_wider else useless
        remedy = "leave out --strict to write it anyway" if is_wider else "give --runtime runc or crun"
        print(f"callfence export: --strict: the result was not written, because it {reason}; {remedy}", file=sys.stderr)
        return 1
    _put(options, exported, beside)
    return 0


def _exported(target: str, policy: Policy, phase: str, options: FormatOptions) -> Exported:
    """Export one phase of a policy; a target without phases loses them.  Raises ExportError if it cannot be exported."""
    exported = formats.exported(target, policy, options, phase)
    names = list(resolve(policy))
    later = names[names.index(phase) + 1 :]
    if not later or target == "systemd-enforce":
        return exported
    what = f"the format has no phases: calls that the policy allows only until {', '.join(later)} stay allowed"
    return replace(exported, losses=(*exported.losses, Loss(Direction.WIDER, what)))


def _service(options: argparse.Namespace) -> Service:
    """Return the service that --unit names.  Raises UserError if it cannot be started under `enforce`, OSError if its file
    cannot be read."""
    if options.to != "systemd-enforce":
        raise UserError("--unit requires --to systemd-enforce")
    if options.policy == "-":
        raise UserError("--unit: POLICY cannot be standard input, because enforce reads it at each start: name a file")
    places = [options.unit] if "/" in options.unit else [options.unit, *(f"{folder}/{options.unit}" for folder in _UNITS)]
    unit = next((place for place in places if os.path.isfile(place)), "")
    if not unit:
        raise UserError(f"--unit {options.unit}: there is no such file in the current folder or in {', '.join(_UNITS)}")
    beside = Path(sys.executable).parent / "enforce"
    enforce = str(beside) if beside.exists() else shutil.which("enforce") or "enforce"
    name = Path(unit).name.removesuffix(".service") if not options.name and re.fullmatch(_UNIT, Path(unit).name) else ""
    return Service(content(unit).decode("utf-8", "replace"), enforce, os.path.abspath(options.policy), options.audit, name)


def _name(policy: str) -> str:
    stem = "app" if policy == "-" else Path(policy).name.removesuffix(".policy")
    return re.sub(r"[^\w.-]", "-", stem, flags=re.ASCII).lstrip("-._") or "app"


def _print_losses(options: argparse.Namespace, exported: Exported) -> None:
    lines = loss_lines(exported.losses, f"than {options.policy}")
    lines += [f"added: {addition.call}: {addition.why}" for addition in exported.additions]
    for line in lines:
        print(f"callfence export: {line}", file=sys.stderr)


def _put(options: argparse.Namespace, exported: Exported, beside: Path | None) -> None:
    """Write the result to the file of -o or standard output, and a second file, if any, to `beside` or standard error."""
    if options.output is None:
        sys.stdout.buffer.write(exported.data)
        sys.stdout.buffer.flush()
    else:
        write(Path(options.output), exported.data)
    if exported.beside is not None:
        _, data = exported.beside
        if beside is None:
            sys.stderr.write(data.decode(errors="backslashreplace"))
        else:
            write(beside, data)
    if exported.use:
        file = file_word(options.output) if options.output else "FILE"
        print(f"to use it: {exported.use.format(file=file)}", file=sys.stderr)
