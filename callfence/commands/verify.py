"""`callfence verify`: prove that a filter is equivalent to its policy, or print a call that they answer differently."""

from __future__ import annotations

import argparse

from callfence.enforcing import cache, filters
from callfence.enforcing.compile import check_cached, misfit
from callfence.enforcing.sealed import is_bundle, unbundle
from callfence.policygen.evaluate import answer
from callfence.policygen.filter import bpf
from callfence.policygen.filter.compile import WrongFilterError, compile_policy
from callfence.policygen.filter.lift import lift
from callfence.policygen.filter.symbolic import UnsupportedError
from callfence.policygen.filter.verify import reported, verify
from callfence.policygen.implied.resolve import Resolved, resolve, resolved
from callfence.policygen.language.naming import format_action, format_call
from callfence.policygen.model import Policy
from callfence.policygen.reading import read
from callfence.policygen.sets.algebra import TooComplexError
from callfence.shared.inputs import content, document, is_program, program, run_command
from callfence.shared.options import Parser
from callfence.shared.text import plural, printable
from callfence.tracer.abi import Event
from callfence.tracer.errors import CallfenceError, UserError


def parser() -> argparse.ArgumentParser:
    description = (
        "Prove that a filter answers every call as its policy does, for all values of all arguments, or print a call "
        "that it answers differently.  POLICY is compiled, with and without reports, and both filters are proved, as are "
        "the filters that `enforce` has cached for POLICY.  FILTER is converted into a policy, as `callfence import --from "
        "bpf` does, and compared with that policy; a file of `callfence compile` is compared with the policy in it."
    )
    parser = Parser(prog="callfence verify", description=description)
    parser.add_argument("--bpf", metavar="FILE", help="a filter to compare with POLICY: an array of struct sock_filter")
    parser.add_argument("--cached", action="store_true", help="prove all filters in the caches, of all policies")
    parser.add_argument("file", metavar="POLICY|FILTER", nargs="?", help="a file; - is standard input")
    return parser


def main(arguments: list[str]) -> int:
    """Run `verify`.  Return 0 if each filter is proved equivalent to its policy, 1 if one is not equivalent, 2 if an input
    cannot be read or nothing can be proved."""
    command = parser()
    options = command.parse_args(arguments)
    if options.cached == (options.file is not None) or (options.cached and options.bpf):
        command.error("give one of POLICY, FILTER and --cached")

    def work() -> int:
        if options.cached:
            return _cached()
        data = content(options.file)
        if is_bundle(data):
            return _bundled(options.file, data)
        try:
            if is_program(data):
                if options.bpf:
                    raise UserError(f"{options.file} is a filter: name a policy, with which --bpf {options.bpf} is compared")
                return _read_back(options.file, program(options.file, data))
            policy = document(options.file, data).policy
            return _is_policy(program(options.bpf), policy) if options.bpf else _compiled(options.file, policy)
        except (UnsupportedError, TooComplexError) as error:
            raise UserError(f"{options.bpf or options.file}: nothing is proved: {error}") from error

    return run_command("verify", work)


def _compiled(name: str, policy: Policy) -> int:
    proved = []
    for phase, meant in resolve(policy).items():
        lengths = []
        for report in (False, True):
            try:
                lengths.append(len(compile_policy(policy, phase, report=report)) // 8)
            except WrongFilterError as error:
                return _refuted(error.program, error.event, reported(meant) if report else meant)
            except CallfenceError as error:
                raise UserError(f"{name}: {error}") from error
        which = f"the filter of {phase}" if policy.phases else "the filter"
        counts = f"{lengths[0]} instructions; {lengths[1]} with reports"
        proved.append(f"proved: {which} ({counts}) is equivalent to the policy, for every call")
    cached = [filter_ for variant in filters.VARIANTS if (filter_ := cache.load(name, variant, read))] if name != "-" else []
    for filter_ in cached:
        if wrong := misfit(filter_):
            print(
                f"{name}: its cached filter ({filter_.variant}) does not match the policy: {wrong}; "
                "enforce --no-cache does not use it"
            )
            return 1
    print("\n".join(proved))
    return 0


def _bundled(name: str, data: bytes) -> int:
    try:
        filters_ = unbundle(data)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error
    wrong = {variant: text for variant, filter_ in filters_.items() if (text := misfit(filter_))}
    for variant, text in wrong.items():
        print(
            f"{name}: the filter ({variant}) does not match the policy in the file: {text}; "
            "do not use the file: write it again with callfence compile"
        )
    if not wrong:
        print(f"proved: the filters in {name} are equivalent to the policy in it, for every call")
    return int(bool(wrong))


def _cached() -> int:
    """Prove the filters in the caches; print those that differ from their policies or are not used.  Return 1 if a filter that
    `enforce` would use differs, else 0."""
    status = count = 0
    for file, policy, wrong in check_cached():
        if wrong:
            print(f"{file} of {printable(policy)}: {wrong}")
            status |= not wrong.startswith("not used")
        else:
            count += 1
    print(f"proved: {plural(count, 'cached filter')}")
    return status


def _is_policy(filter_: bytes, policy: Policy) -> int:
    wrong = verify(filter_, policy)
    if wrong is not None and verify(filter_, policy, report=True) is not None:
        return _refuted(filter_, wrong, resolved(policy))
    suffix = "" if wrong is None else "; it notifies a supervisor of denied calls, as `enforce` does for its reports"
    print(f"proved: the filter is equivalent to the policy, for every call{suffix}")
    return 0


def _read_back(name: str, filter_: bytes) -> int:
    lifted = lift(filter_)
    for remark in lifted.remarks:
        print(f"no policy can express this: {remark}")
    if lifted.remarks:
        return 1
    print(f"proved: the filter is equivalent to the policy that `callfence import --from bpf {name}` prints, for every call")
    return 0


def _refuted(filter_: bytes, event: Event, policy: Resolved) -> int:
    print("the filter is not equivalent to the policy; for example, they answer this call differently:")
    print(f"  {format_call(event)}")
    print(f"  the policy answers  {format_action(answer(policy, event))}")
    print(f"  the filter answers  {bpf.action_text(bpf.run(filter_, event))}")
    return 1
