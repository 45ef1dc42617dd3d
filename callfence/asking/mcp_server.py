"""The tools of `callfence mcp`.  Only that command imports this module, since the `mcp` package may be missing."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import TYPE_CHECKING, Literal

from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

from callfence.tracer.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from callfence.asking.session import Denial, Session

MAX_OUTPUT = 100_000
"""The most characters of a command's output that are returned, and of what it was denied."""
_INSTRUCTIONS = (
    "Commands run confined by a policy. What it denies fails, or ends the process, and the result says so by number: "
    "explain_denial has the details, request_permission asks a person."
)


class Permission(BaseModel):
    """What a person decides."""

    answer: Literal["this session", "always", "no"]


def _listed(denials: Sequence[Denial]) -> Iterator[str]:
    """Yield the texts of denials, and if they are too long the numbers of the rest."""
    size = 0
    for denial in denials:
        size += len(denial.text)
        if size > MAX_OUTPUT:
            yield f"denied {denial.number} to {denials[-1].number}: explain_denial has the details"
            return
        yield denial.text


def server(session: Session, timeout: float) -> MCPServer:
    """Return the server of a session; a command may take `timeout` seconds."""
    serving = MCPServer("callfence", instructions=_INSTRUCTIONS)

    @serving.tool()
    async def run(command: list[str], folder: str = ".") -> str:
        """Run a command (a list of words) in a folder, confined by the policy of the session.  Returns its exit status, what it
        was denied, by number, and then what it printed."""
        try:
            done = await asyncio.to_thread(session.run, command, folder=folder, timeout=timeout)
        except subprocess.TimeoutExpired:
            return f"killed: it took longer than {timeout:g} s"
        except OSError as error:
            return f"not run: {error.strerror}: {error.filename}"
        except ValueError as error:  # a NUL in a word
            return f"not run: {error}"
        parts = [f"exit status {done.status}", *_listed(done.denials)]  # before what may look like them
        for name, data in (("standard output", done.output), ("standard error", done.errors)):
            text = data.decode(errors="replace")
            parts += [f"{name}:\n{text[:MAX_OUTPUT]}{'...' * (len(text) > MAX_OUTPUT)}"] if text else []
        return "\n".join(parts)

    @serving.tool()
    async def explain_denial(number: int) -> str:
        """Explain what a command was denied: the call, who made it, the policy line that would allow it, and what is dangerous
        about that."""
        try:
            return session.denial(number).text
        except UserError as error:
            return str(error)

    @serving.tool()
    async def request_permission(number: int, reason: str, context: Context) -> str:
        """Ask the person at the client to allow what a command was denied, with the reason why it is needed.  If they do, run
        the command again."""
        try:
            denial = session.denial(number)
            if not denial.lines:
                return "no line of a policy would allow it"
            question = f"{denial.text}\nThe agent's reason: {reason[:1000]!r}\nAllow it?"
            asked = await context.elicit(question, Permission)
            answer = asked.data.answer if asked.action == "accept" else "no"
            if answer == "no":
                return "not granted"
            name = os.environ.get("USER") or f"user {os.getuid()}"
            lines = session.grant(number, reason[:1000], name, always=answer == "always")
            return f"granted, {answer}: {'; '.join(lines)}"
        except UserError as error:
            return f"not granted: {error}"
        except OSError as error:
            return f"not granted: {error.strerror}"

    return serving
