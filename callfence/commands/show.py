"""`callfence show`: print a policy in canonical form, rewrite its file in that form, or print its filter's instructions."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from callfence.policygen.filter import bpf
from callfence.policygen.filter.compile import compile_policy
from callfence.policygen.implied.resolve import Resolved, resolve, resolved, tidy
from callfence.policygen.language.document import included, parse, read_text
from callfence.policygen.language.lexer import decode
from callfence.policygen.phases import in_each
from callfence.policygen.recording import atomic
from callfence.policygen.text import file_word, printable
from callfence.shared.inputs import content, document, is_program, program, run_command
from callfence.shared.options import Parser
from callfence.shared.text import on_one_line
from callfence.tracer.errors import CallfenceError, UserError

DESCRIPTION = """\
Print a policy in canonical form, with its includes resolved, or print the instructions of its filter.  With --write, rewrite
policy files in canonical form; their comments and `include` lines stay."""


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="callfence show", description=DESCRIPTION)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help="rewrite each POLICY in canonical form; print it for -")
    what.add_argument("--check", action="store_true", help="write nothing; exit with 1 if --write would change a file")
    what.add_argument("--expanded", action="store_true", help="also print the entries that the policy's `implied` line adds")
    what.add_argument("--implied", action="store_true", help="print only the entries that `implied` adds, with the reasons")
    instructions = "print the instructions of POLICY's filter; POLICY may also be a file with a filter (BPF)"
    what.add_argument("--instructions", action="store_true", help=instructions)
    parser.add_argument("policies", metavar="POLICY", nargs="+", help="a policy file; - is standard input")
    return parser


def main(arguments: list[str]) -> int:
    """Run `show`.  Return 0; or 1, with --check, if a file is not in canonical form; or 2 if an input cannot be read."""
    command = parser()
    options = command.parse_args(arguments)
    if options.write or options.check:
        return max(run_command("show", partial(_rewrite, name, check=options.check)) for name in options.policies)
    if len(options.policies) > 1:
        command.error("give one POLICY; --write and --check take several")
    return run_command("show", lambda: _show(options.policies[0], options))


def _rewrite(name: str, *, check: bool) -> int:
    """Rewrite a policy file in canonical form, and return 0; with `check`, write nothing and return 1 if that would change the
    file.  Raises PolicyError for a mistake in it, OSError if it cannot be read or written."""
    if name == "-":
        before = decode(content(name), "<stdin>")
        after = parse(before, "<stdin>", read=included("<stdin>")).text()
        if not check:
            sys.stdout.write(after)
    else:
        before = read_text(name)
        after = parse(before, name, read=included(name)).text()
        if not check and after != before:
            atomic.write(Path(name), after.encode())
    if check and after != before:
        rewriting = f"`callfence show --write {file_word(name)}` rewrites it"
        print(f"{printable(name)} is not in canonical form; {rewriting}", file=sys.stderr)
        return 1
    return 0


def _show(name: str, options: argparse.Namespace) -> int:
    data = content(name)
    if is_program(data):
        filter_ = program(name, data)
        if not options.instructions:
            raise UserError(
                f"{name} is a filter, not a policy: `callfence import --from bpf {name}` prints it as a policy, "
                "--instructions prints its instructions"
            )
        print(bpf.disassemble(filter_))
        return 0
    shown = document(name, data)
    if options.implied:
        return _implied(name, resolved(shown.policy))
    policy = shown.policy
    try:
        if options.instructions:
            for phase in resolve(policy):
                sys.stdout.write(f"# {phase}\n" if policy.phases else "")
                sys.stdout.write(bpf.disassemble(compile_policy(policy, phase)) + "\n")
            return 0
        if options.expanded:
            shown = shown.inlined().with_policy(in_each(lambda each: tidy(resolved(each).written()), policy))
        sys.stdout.write(shown.inlined().text())
    except CallfenceError as error:
        raise UserError(f"{name}: {error}") from error
    return 0


def _implied(name: str, policy: Resolved) -> int:
    """Print each entry that the implied set adds, below its reason and the capability that it needs; return 0."""
    if not policy.added:
        print(printable(f"# {name}: the policy has no `implied` line that adds entries"))
    for (arch, number), rows in policy.added.items():
        for row in rows:
            capabilities = f" [{', '.join(sorted(row.given))}]" if row.given else ""
            print(f"# {row.why}{capabilities}\n{on_one_line(arch, number, row.entry)}")
    return 0
