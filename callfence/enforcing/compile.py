"""`callfence compile`: compile filters ahead of time; and a check that a compiled filter is equivalent to its policy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from callfence.enforcing import cache, filters
from callfence.enforcing.sealed import Compiled, bundle
from callfence.policygen.evaluate import answer
from callfence.policygen.files.ruleset import changes_files
from callfence.policygen.filter import bpf
from callfence.policygen.filter.listener import expects_listener, may_install_filters, names_listener
from callfence.policygen.filter.processes import names_processes
from callfence.policygen.filter.verify import meaning, verify
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.language.naming import format_action, format_call
from callfence.policygen.reading import read
from callfence.policygen.recording import atomic
from callfence.shared.files import require_other
from callfence.shared.inputs import run_command
from callfence.shared.options import Parser
from callfence.tracer.errors import CallfenceError, UserError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from callfence.enforcing.filters import Variant

DESCRIPTION: Final = f"""\
Compile policies and prove their filters, so that `enforce` need not do it at the start.  As root, write them to
{cache.SYSTEM}, where `enforce` finds them for every user until the policy, its path or callfence changes.  With
-o FILE, write those of one policy to FILE, for `enforce --compiled FILE`, also on other machines."""

_VARIANTS: Final[tuple[Variant, ...]] = ("report", "audit", "silent")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="callfence compile", description=DESCRIPTION)
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="write the filters of one policy to FILE")
    parser.add_argument("policies", metavar="POLICY", nargs="+")
    return parser


def main(arguments: list[str]) -> int:
    """Run `compile`.  Return 0 if all filters are written, 2 if an input cannot be read or compiled or an output cannot be
    written."""
    command = parser()
    options = command.parse_args(arguments)
    if options.output and len(options.policies) > 1:
        command.error("-o FILE takes the filters of one policy: give one POLICY")
    if options.output == Path("-"):
        command.error("-o FILE takes the name of a file: what `enforce --compiled` reads is no text")
    return run_command("compile", lambda: _into_file(options) if options.output else _for_all(options.policies))


def _into_file(options: argparse.Namespace) -> int:
    """Write the filters of one policy to a file that does not identify this installation, since other machines may use it.
    Return 0.  Raises PolicyError, CompileError, OSError."""
    require_other(options.output, options.policies[0])
    atomic.write(options.output, bundle(_compiled(options.policies[0]), b""))
    print(f"{options.output}: written; `enforce --compiled {options.output}` uses it")
    return 0


def _for_all(policies: list[str]) -> int:
    if os.geteuid() != 0:
        raise UserError(f"only root can write to {cache.SYSTEM}; -o FILE writes a file for `enforce --compiled FILE` instead")
    for policy in policies:
        for filter_ in _compiled(os.path.join(os.getcwd(), policy)):
            file = cache.store_for_all(filter_)
            print(f"{policy}: {filter_.variant}: {file}")
    return 0


def _compiled(policy: str) -> list[Compiled]:
    """Compile all variants of a policy's filter.  Raises PolicyError, CompileError, OSError."""
    document, sources = filters.with_includes(policy, read(policy))
    return [filters.compiled_from(document, sources, variant) for variant in _VARIANTS]


def misfit(filter_: Compiled) -> str:
    """Return how a compiled filter differs from its policy; "" if it is proved to be equivalent."""
    try:
        document = filters.document(filter_)
        policy = document.policy
        if filter_.variant == "warm":
            current = filters.compiled_from(document, filter_.sources, "warm")
            is_same = (current.filter, current.is_settled) == (filter_.filter, filter_.is_settled)
            return "" if is_same else "compiling the policy now gives another filter"
        facts = (str(policy.arm), expects_listener(policy), names_listener(policy), may_install_filters(resolved(policy)))
        if (filter_.arm, filter_.expects_listener, filter_.may_listen, filter_.own_filters) != facts:
            return "it takes effect at another moment than the policy's `arm`, or its listener differs from the policy"
        if filter_.names_processes != names_processes(resolved(policy)):
            return "it differs from the policy in whether the program may change processes that it names"
        if filter_.changes_files != (not filter_.makes_calls or changes_files(policy)):
            return "it differs from the policy in whether the program may change files"
        if filter_.phases_optional != policy.phases_optional:
            return "it differs from the policy in what happens to a process that cannot enter its phase"
        if filter_.scope != (policy.scope if filter_.variant in ("report", "silent") else ""):
            return "its `scope` differs from the policy's"
        if (filter_.files, filter_.files_from_entry) != filters.files_of(policy):
            return "it grants other files or ports than the policy"
        report, audit = filter_.variant in ("report", "audit"), filter_.variant == "audit"
        phases = filters.stages(policy, report=report, audit=audit)
        if [phase.facts for phase in filter_.stages] != [phase.facts for phase in phases]:
            return "compiling the policy now gives other phases"
        if filter_.refusals != filters.refusals_of(filter_.filter, filter_.files, filter_.variant):
            return "compiling the policy now gives other instructions before the filter"
        wrong = verify(filter_.filter, policy, report=report, audit=audit)
    except (CallfenceError, KeyError) as error:
        return f"the comparison failed, so nothing is proved: {error}"
    if wrong is None:
        return ""
    expected = answer(meaning(resolved(policy), report=report, audit=audit)[0], wrong)
    answers = f"{bpf.action_text(bpf.run(filter_.filter, wrong))}, and the policy answers {format_action(expected)}"
    return f"to {format_call(wrong)} the filter answers {answers}"


def check_cached() -> Iterator[tuple[str, str, str]]:
    """Yield for each filter in the caches: its file, its policy's file ("?" if not known), and how it differs from the policy,
    "" if it does not; the last begins with `not used` if the filter is never used."""
    for file, filter_ in cache.all_filters():
        if isinstance(filter_, ValueError):
            yield file, "?", f"not used: {filter_}"
        else:
            yield file, filter_.sources[0][0], misfit(filter_)
