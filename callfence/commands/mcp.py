"""`callfence mcp`: a server of the Model Context Protocol that runs an agent's commands under a policy."""

from __future__ import annotations

import argparse

from callfence.policygen.text import pip_install
from callfence.shared.inputs import run_command
from callfence.shared.options import Parser
from callfence.tracer.errors import UserError

DESCRIPTION = """\
Serve the Model Context Protocol on standard input and output (the `mcp` extra, docs/install.md).  An agent gets
three tools: `run` runs a command confined by POLICY; `explain_denial` says what a command was denied, and which line would
allow it; `request_permission` asks the person at the client, who may allow it for this session, or always: then the line is
written into POLICY, with the reason."""

TIMEOUT = 600.0
"""How many seconds a command may take at most."""


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="callfence mcp", description=DESCRIPTION)
    parser.add_argument("--within", metavar="BASE", help="never allow what the policy BASE does not grant")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=TIMEOUT, help="of a command (default: 600)")
    parser.add_argument("policy", metavar="POLICY")
    return parser


def main(arguments: list[str]) -> int:
    """Run `mcp`.  Return 0 when the client has gone, 2 if a policy cannot be read or the `mcp` package is missing."""
    options = parser().parse_args(arguments)
    return run_command("mcp", lambda: _serve(options))


def _serve(options: argparse.Namespace) -> int:
    try:
        import mcp  # noqa: F401
    except ImportError as error:
        raise UserError(f"the package `mcp` is missing ({error}): {pip_install('mcp')}") from error
    from callfence.asking.mcp_server import server
    from callfence.asking.session import Session

    with Session(options.policy, options.within) as session:
        server(session, options.timeout).run("stdio")
    return 0
