"""`callfence carry`: carry what a policy allows on one architecture to another one, or compare two sections of a policy."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path

from callfence.carrying.text import as_lines, as_object, gap_lines, gap_object
from callfence.policygen.equivalents.carry import carry
from callfence.policygen.equivalents.compare import gaps, pairs
from callfence.policygen.model import Policy
from callfence.policygen.sets.algebra import TooComplexError
from callfence.shared.carried import with_comments
from callfence.shared.files import locked, output, put
from callfence.shared.inputs import content, document, print_lines, run_command
from callfence.shared.options import Parser, architecture
from callfence.shared.outputs import as_output
from callfence.tracer.abi import Arch
from callfence.tracer.errors import UserError

DESCRIPTION = """\
Add to POLICY a section for another architecture that allows the same effects: the same calls, or those that do the same there
(open becomes openat), with their constants by name.  Nothing is allowed whose effect the policy denies.  What cannot be carried
is listed; `learn` on a machine of that architecture adds it.  What belongs to the whole policy, such as its lines about files,
stays as it is.

With --check, write nothing, and show which effects one section of POLICY allows and another does not."""

USAGE = ("callfence carry [OPTION ...] POLICY --to ARCH", "callfence carry --check [OPTION ...] POLICY")


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="callfence carry", usage="\n       ".join(USAGE), description=DESCRIPTION)
    add = parser.add_argument
    add("--to", metavar="ARCH", choices=[*Arch], type=architecture, help=f"the architecture that is added: {', '.join(Arch)}")
    add("--from", dest="source", metavar="ARCH", choices=[*Arch], type=architecture,
        help="the architecture whose section is carried (default: the only one that POLICY has besides --to)")  # fmt: skip
    add("--update", action="store_true", help="add to a section that the policy already has; nothing is removed from it")
    add("--check", action="store_true", help="exit with 1 if two sections of POLICY allow different effects")
    add("-o", "--output", metavar="OUT", help="write to OUT instead of POLICY; - is standard output")
    add("--format", choices=["text", "json"], default="text", help="default: text")
    add("policy", metavar="POLICY", help="a policy file; - is standard input, which is then written to standard output")
    return parser


def main(arguments: list[str]) -> int:
    """Run `carry`.  Return 0; or 1, with --check, if two sections allow different effects; or 2 if the policy cannot be read,
    carried or compared."""
    command = parser()
    options = command.parse_args(arguments)
    if options.check and (options.update or options.output):
        command.error("--check writes nothing: it excludes --update and -o")
    if not options.check and options.to is None:
        command.error("--to ARCH is missing")

    def work() -> int:
        try:
            return _check(options) if options.check else _carry(options)
        except TooComplexError as error:
            raise UserError(f"{options.policy} is too complex to be carried or compared: {error}") from error

    return run_command("carry", work)


def _carry(options: argparse.Namespace) -> int:
    """Write the policy with the carried section, and return 0.  Raises CallfenceError or OSError before it writes."""
    name, target = options.policy, options.to
    place = output(options.output or name)
    with nullcontext() if name == "-" else locked(Path(name)):
        data = content(name)
        if place == name and data.lstrip()[:1] == b"{":
            raise UserError(f"{name} is a container profile, not a policy: write the policy to another file, by -o OUT")
        before = document(name, data)
        source = _source(options, before.policy)
        if target in before.policy.entries and not options.update:
            raise UserError(
                f"{name} already has a section for {target}: --update adds to it what {source} allows, --check compares the two"
            )
        done = carry(before.policy, source, target)
        differences = gaps(done.policy, source, target)
        put(place, with_comments(before, done).text())
    if place is None:
        return 0
    if options.format == "json":
        print(as_output("carry", as_object(name, done, differences)))
    else:
        print_lines(as_lines(place, done, differences))
    return 0


def _source(options: argparse.Namespace, policy: Policy) -> Arch:
    """Return the architecture of the section that is carried.  Raises UserError if it is not clear which that is."""
    sections = [arch for arch in policy.entries if arch is not options.to]
    if options.source is not None or len(sections) == 1:
        return Arch(options.source or sections[0])
    have = f"sections for {', '.join(sections)}" if sections else f"no section but that for {options.to}"
    raise UserError(f"{options.policy} has {have}: say with --from ARCH which one is carried")


def _check(options: argparse.Namespace) -> int:
    """Print the differences between sections, and return whether there is one.  Raises UserError if there are no two."""
    policy = document(options.policy).policy
    chosen = [arch for arch in (options.source, options.to) if arch is not None]
    if missing := [arch for arch in chosen if arch not in policy.entries]:
        name, has = options.policy, ", ".join(policy.entries)
        raise UserError(f"{name} has sections for {has} only: `callfence carry {name} --to {missing[0]}` adds that one")
    compared = [pair for pair in pairs(policy, every=len(chosen) == 2) if {*chosen} <= {*pair}]
    if not compared:
        name = options.policy
        raise UserError(f"{name} has no two sections to compare: `callfence carry {name} --to ARCH` adds one")
    found = [gap for a, b in compared for gap in gaps(policy, a, b)]
    if options.format == "json":
        print(as_output("check", {"policy": options.policy, "differences": [gap_object(gap) for gap in found]}))
    else:
        for a, b in compared:
            between = [gap for gap in found if {gap.arch, gap.other} == {a, b}]
            print_lines([*gap_lines(between)] or [f"{options.policy}: {a} and {b} allow the same effects"])
    return int(bool(found))
