"""`callfence compile`: the filters of policies, for services and for installing beside a policy; and whether a filter fits its
policy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from callfence.enforcing import cache, filters
from callfence.enforcing.sealed import bundle
from callfence.shared.inputs import run_command
from callfence.shared.options import Parser
from policygen.evaluate import answer
from policygen.filter import bpf
from policygen.filter.listener import expects_listener, may_install_filters, names_listener
from policygen.filter.verify import meaning, verify
from policygen.implied.resolve import resolved
from policygen.language.naming import format_action, format_call
from policygen.reading import read
from policygen.recording import atomic
from tracer.errors import CallfenceError, UserError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from callfence.enforcing.filters import Variant
    from callfence.enforcing.sealed import Compiled

DESCRIPTION: Final = f"""\
Compile policies and prove their filters, so that `enforce` does not have to.  As root, into {cache.SYSTEM}, which
`enforce` uses for every user as long as the policy, its path and callfence stay as they are.  With -o, into a file that is
installed with the policy, for `enforce --compiled FILE`."""

_VARIANTS: Final[tuple[Variant, ...]] = ("report", "audit", "silent")


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="callfence compile", description=DESCRIPTION)
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="write the filters of one policy to FILE")
    parser.add_argument("policies", metavar="POLICY", nargs="+")
    return parser


def main(arguments: list[str]) -> int:
    """0; 2: bad input, or the place cannot be written."""
    command = parser()
    options = command.parse_args(arguments)
    if options.output and len(options.policies) > 1:
        command.error("-o takes the filters of one policy")
    return run_command("compile", lambda: _into_file(options) if options.output else _for_all(options.policies))


def _into_file(options: argparse.Namespace) -> int:
    """What the filters are made from counts, and not by which installation: the file goes to other machines."""
    atomic.write(options.output, bundle(_compiled(options.policies[0]), b""))
    print(f"{options.output}: enforce --compiled {options.output} uses it")
    return 0


def _for_all(policies: list[str]) -> int:
    if os.geteuid() != 0:
        raise UserError(f"only root can fill {cache.SYSTEM}; -o FILE writes a file for `enforce --compiled FILE`")
    for policy in policies:
        for filter_ in _compiled(os.path.join(os.getcwd(), policy)):
            file = cache.store_for_all(filter_)
            print(f"{policy}: {filter_.variant}: {file}")
    return 0


def _compiled(policy: str) -> list[Compiled]:
    """Raises PolicyError, CompileError, OSError."""
    document, sources = filters.with_includes(policy, read(policy))
    return [filters.compiled_from(document, sources, variant) for variant in _VARIANTS]


def misfit(filter_: Compiled) -> str:
    """Return what a filter does that its policy does not say; '' if they are proved to be equal."""
    try:
        document = filters.document(filter_)
        policy = document.policy
        if filter_.variant == "warm":
            same = filters.compiled_from(document, filter_.sources, "warm")
            is_same = (same.filter, same.is_settled) == (filter_.filter, filter_.is_settled)
            return "" if is_same else "it is not what is compiled now"
        facts = (str(policy.arm), expects_listener(policy), names_listener(policy), may_install_filters(resolved(policy)))
        if (filter_.arm, filter_.expects_listener, filter_.may_listen, filter_.own_filters) != facts:
            return "it takes effect at another moment, or its listener differs from the policy"
        if filter_.phases_optional != policy.phases_optional:
            return "it treats a process that cannot enter its phase differently"
        if filter_.scope != (policy.scope if filter_.variant in ("report", "silent") else ""):
            return "it lets signals go elsewhere"
        if filter_.files != filters.files_of(policy):
            return "it grants other files or ports"
        report, audit = filter_.variant in ("report", "audit"), filter_.variant == "audit"
        phases = filters.stages(policy, report=report, audit=audit)
        if [phase.facts for phase in filter_.stages] != [phase.facts for phase in phases]:
            return "its phases are not what is compiled now"
        wrong = verify(filter_.filter, policy, report=report, audit=audit)
    except (CallfenceError, KeyError) as error:
        return f"nothing is proved: {error}"
    if wrong is None:
        return ""
    expected = answer(meaning(resolved(policy), report=report, audit=audit)[0], wrong)
    answers = f"{bpf.action_text(bpf.run(filter_.filter, wrong))}, and the policy {format_action(expected)}"
    return f"to {format_call(wrong)} it answers {answers}"


def check_cached() -> Iterator[tuple[str, str, str]]:
    """Yield each filter in the caches: its file, its policy's, and what is wrong with it or ''."""
    for file, filter_ in cache.all_filters():
        if isinstance(filter_, ValueError):
            yield file, "?", f"not used: {filter_}"
        else:
            yield file, filter_.sources[0][0], misfit(filter_)
