"""`callfence show`: a policy as callfence reads it."""

from __future__ import annotations

import argparse
import sys

from policygen import bpf
from policygen.compile import CompileError, compile_policy
from policygen.document import PolicyError, parse_file


def main(arguments: list[str]) -> int:
    """0, or 2 for bad input."""
    description = "Print a policy in canonical form, its includes resolved; or what it is compiled to."
    parser = argparse.ArgumentParser(prog="callfence show", description=description, allow_abbrev=False)
    parser.add_argument("--filter", action="store_true", help="print the filter's instructions instead")
    parser.add_argument("policy", metavar="POLICY")
    options = parser.parse_args(arguments)
    try:
        document = parse_file(options.policy)
        if options.filter:
            print(bpf.disassemble(compile_policy(document.policy)))
        else:
            sys.stdout.write(document.inlined().text())
    except (PolicyError, CompileError) as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"callfence show: {options.policy}: {error.strerror}", file=sys.stderr)
        return 2
    return 0
