"""`callfence allow`: add to a policy what enforce reported as denied."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from callfence.judging.adding import added, parse_lines
from callfence.policygen.files.algebra import differences
from callfence.policygen.grants import written
from callfence.policygen.language.document import parse_file
from callfence.policygen.language.naming import format_action
from callfence.policygen.model import Entry, Policy, alternatives
from callfence.policygen.phases import phase_policies, with_phases
from callfence.policygen.recording import atomic
from callfence.policygen.values import replace
from callfence.shared.files import locked
from callfence.shared.inputs import run_command
from callfence.shared.options import Parser, architecture
from callfence.shared.text import on_one_line, printable
from callfence.tracer.abi import Arch, name_of
from callfence.tracer.errors import UserError

DESCRIPTION = """\
Add LINE to POLICY: one or more entries, as enforce prints them.  Rules and comments of the policy stay.  What the policy
denies explicitly stays denied, unless --force is given.

With --log, allow every violation of POLICY that `enforce --log` wrote to LOG, with the rules that `learn` would write, and add
the violations to the recording of POLICY, so that `callfence why` shows which programs made the calls.  The log may contain an
attacker's calls, too: `callfence review --log` asks before it allows each."""


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="callfence allow", description=DESCRIPTION)
    of_line = "the architecture of LINE (default: the policy's first)"
    parser.add_argument("--arch", choices=[*Arch], type=architecture, help=of_line)
    parser.add_argument("--force", action="store_true", help="also allow what the policy denies explicitly")
    parser.add_argument("--until", metavar="PHASE", default="", help="allow LINE only until PHASE begins (default: in all)")
    parser.add_argument("policy", metavar="POLICY", type=Path)
    parser.add_argument("line", metavar="LINE", nargs="*", help="an entry, such as 'openat: flags == O_RDONLY'")
    logged = parser.add_argument_group("violations from a log")
    logged.add_argument("--log", action="append", default=[], metavar="LOG", help="a log of `enforce --log`; repeatable")
    logged.add_argument("--only", action="append", default=[], metavar="SYSCALL", help="only this call of LOG; repeatable")
    return parser


def main(arguments: list[str]) -> int:
    """Run `allow`.  Return 0 if the policy now allows all that was to be added, 1 if it denies a part of that explicitly, 2 if
    an input cannot be read or merged."""
    command = parser()
    options = command.parse_args(arguments)
    if bool(options.line) == bool(options.log):
        command.error("give either LINE or --log LOG")
    if options.log and (options.arch or options.force or options.until):
        command.error("--arch, --force and --until cannot be used with --log: they are for LINE")
    if options.only and not options.log:
        command.error("--only requires --log")

    def work() -> int:
        if options.log:
            return _allow_logged(options)
        with locked(options.policy):
            return _allow(options)

    return run_command("allow", work)


def _allow(options: argparse.Namespace) -> int:
    """Add the lines to the policy file and return the exit status.  Raises PolicyError, JoinError, UserError or OSError, and
    has written nothing then."""
    document = parse_file(options.policy)
    whole = document.policy
    names = [name for name, _ in phase_policies(whole)]
    arch = options.arch or next(iter(whole.entries))
    if options.until and any(parse_lines(line, arch).files.lines() for line in options.line):
        raise UserError("--until: lines about files, ports and hosts hold in all phases; leave out --until")
    if options.until and options.until not in names[1:]:
        has = ", ".join(names[1:]) or "no phase"
        raise UserError(f"--until {options.until}: {options.policy} has no such phase to enter; it has {has}")
    policies, lines = [], dict[str, None]()
    for place, (_, policy) in enumerate(phase_policies(whole)):
        if options.until and place >= names.index(options.until):
            policies.append(policy)
            continue
        result = _allowed(options, policy)
        if result is None:
            return 1
        policies.append(result[0])
        lines |= dict.fromkeys(result[1])
    policy = with_phases(policies, whole.phases) if whole.phases else policies[0]
    if policy != whole:
        atomic.write(options.policy, document.with_policy(policy).text().encode())
        lines = {line: None for line in lines if not line.endswith(": already allowed")} or lines
        lines |= dict.fromkeys(_newer(options.policy, whole, policy))
    print("\n".join(lines))
    return 0


def _allowed(options: argparse.Namespace, policy: Policy) -> tuple[Policy, list[str]] | None:
    """Add the lines to a policy, or to one phase of it; return the new policy and lines that describe the changes.  If the
    policy denies a line explicitly, print that and return None."""
    done = added(policy, options.line, options.arch, name=str(options.policy), force=options.force)
    file = printable(str(options.policy))
    for arch, number in done.refused[:1]:
        name, old = name_of(arch, number), policy.entries[arch][number]
        print(f"{file} denies {name} explicitly: {on_one_line(arch, number, old)}", file=sys.stderr)
        print("  the policy is unchanged; --force allows the call anyway", file=sys.stderr)
        return None
    lines: list[str] = []
    for arch, number, before, after in done.entries:
        name = name_of(arch, number)
        if before == after:
            lines.append(f"{file}: {name}: already allowed")
        else:
            lines += [f"{file}: {name}", *(f"  {line}" for line in _changes(arch, number, before, after))]
    lines += [f"{file}: {_added(line, more)}" for line, more, _ in done.files]
    lines += [f"{file}: {line}: already allowed" for line in done.given]
    for name, changes in _changed(done.equivalents, done.policy) if done.equivalents else ():
        lines += [f"  portable: {name}", *(f"    {line}" for line in changes)]
    return done.policy, lines


def _allow_logged(options: argparse.Namespace) -> int:
    """Allow the violations in the logs; return the exit status.  Raises UserError, PolicyError or OSError before it writes."""
    from callfence.learning import logs

    recording = logs.read_logs("allow", options.policy, options.log)
    logs.check_names(options.only, recording)
    with locked(options.policy):
        document = parse_file(options.policy)
        denied = logs.still_denied(document.policy, recording, options.only)
        generated = logs.with_allowed(document, denied, options.policy.name)
        policy = generated.document.policy
        if policy != document.policy:
            atomic.write(options.policy, generated.document.text().encode())
    logs.remember(options.policy, generated.document, logs.allowed_by(policy, denied))
    file = printable(str(options.policy))
    for name, changes in _changed(document.policy, policy):
        print("\n  ".join([f"{file}: {name}", *changes]))
    for line, more, _ in differences(document.policy.files, policy.files):
        print(f"{file}: {_added(line, more)}")
    for line in _newer(options.policy, document.policy, policy):
        print(line)
    if policy == document.policy:
        reason = "" if denied.observations else ", because it already allows all calls in the log"
        print(f"{file}: unchanged{reason}")
    refused = [*logs.refused_lines(document.policy, generated)]
    for line in refused:
        print(f"{file}: not allowed: {line}", file=sys.stderr)
    return int(bool(refused))


def _newer(path: Path, before: Policy, after: Policy) -> Iterator[str]:
    """Yield what a newer table changes for the calls that the old one did not have."""
    if before.table != after.table:
        old, new = (".".join(map(str, policy.table)) for policy in (before, after))
        answers = f"get `default` ({format_action(after.default)}), not `unknown` ({format_action(after.unknown)})"
        yield f"{printable(str(path))}: table {old} -> {new}: other calls that Linux {new} has and {old} has not {answers}"


def _added(line: str, more: str) -> str:
    """Return what a line newly grants, as two lines; as one if the line says it by itself."""
    return line if written(line, more) == line else f"{line}\n  + {more}"


def _changed(before: Policy, after: Policy) -> Iterator[tuple[str, Iterator[str]]]:
    """Yield the name of each call whose entry has changed, and its changed rules."""
    for arch, number, entry in after.each():
        old = before.entries.get(arch, {}).get(number)
        if entry != old:
            yield name_of(arch, number), _changes(arch, number, old, entry)


def _changes(arch: Arch, number: int, old: Entry | None, new: Entry) -> Iterator[str]:
    """Yield the removed (-) and added (+) rules of an entry, or the old and the new entry if an action has changed."""
    if old is None:
        yield f"+ {on_one_line(arch, number, new)}"
    elif (old.action, old.otherwise) != (new.action, new.otherwise):
        yield f"- {on_one_line(arch, number, old)}"
        yield f"+ {on_one_line(arch, number, new)}"
    else:
        before, after = alternatives(old.expression), alternatives(new.expression)
        for sign, these, others in (("-", before, after), ("+", after, before)):
            for rule in these:
                if rule not in others:
                    yield f"{sign} {on_one_line(arch, number, replace(new, expression=rule))}"
