"""The servers of `make files`: learned while clients use them, in two folders, then used in three others."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from circumstances import BASE
from programs import SERVERS, Server
from start import NOBODY

from callfence.policygen.language.document import parse_file

if TYPE_CHECKING:

    from run import Place

PORT = 18473
SECONDS = 20
_VARIES = re.compile(rb"[0-9a-f]{6,}|\d+|[A-Z][a-z][a-z], .. [A-Z][a-z][a-z]")


LEARNED, ENFORCED = ("first", "second"), ("third", "fourth", "fifth/deep")
"""Folders."""


def section(place: Place) -> str:
    """The section of the page."""
    rows, notes = [], []
    for name in SERVERS:
        lines, denied, problem = measure(place, name)
        rows += [] if problem else [f"| {name} | {lines} | {len(denied)} of {len(ENFORCED)} |"]
        notes += [f"- {name}: {text}" for text in denied] + ([f"- {name} was not measured: {problem}"] if problem else [])
    head = (
        "Servers, learned twice while a client used them, and used elsewhere by the same client, as another user. A run is "
        "denied if the client gets other answers."
    )
    told = ["", *notes] if notes else []
    return "\n".join(["## Servers", "", head, "", "| server | lines | denied |", "|---|---|---|", *rows, *told, ""])


def measure(place: Place, name: str) -> tuple[int, list[str], str]:
    """How many lines its policy has, what was denied in the other folders, and why nothing was measured or ""."""
    server = SERVERS[name]
    policy = place.root / "server.policy"
    policy.unlink(missing_ok=True)
    shutil.rmtree(place.root / ".callfence", ignore_errors=True)
    for folder in LEARNED:
        words = place.command("learn", "--files", "-q", "-o", policy)
        _, problem = used(place, server, folder, words, other=server.user)
        if problem:
            return 0, [], f"learning: {problem}"
    lines = "".join(f"{line}: {value}\n" for line, value in parse_file(policy).policy.files.lines().items())
    policy.write_text(f"default allow\n{lines}")
    policy.chmod(0o644)
    denied = []
    for folder in ENFORCED:
        native = used(place, server, folder, [], other=True)
        confined = used(place, server, folder, place.command("enforce", "-p", policy), other=True)
        if native[1]:
            return lines.count("\n"), denied, f"natively: {native[1]}"
        if confined != native:
            denied.append(f"{folder}: {confined[1] or confined[0][-200:]!r}")
    return lines.count("\n"), denied, ""


def used(place: Place, server: Server, name: str, prefix: list[str], *, other: bool) -> tuple[bytes, str]:
    """What clients printed, numbers and dates apart, and what went wrong or ""."""
    top = place.root / "sites" / name
    shutil.rmtree(top, ignore_errors=True)
    folder, home, temporary = (top / one for one in ("work", "home", "temporary"))
    for one in (folder, home, temporary):
        one.mkdir(parents=True)
    environment = {one: value.replace("{home}", str(home)) for one, value in BASE.items()}
    environment |= {"HOME": str(home), "TMPDIR": str(temporary), "PORT": str(PORT)}
    as_user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if other else {}
    if other:
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", top], check=True)
    script = f"seq 200 >input; seq 20000 >large; {place.filled(server.setup, folder)}"
    settings = {"cwd": folder, "env": environment, "stdin": subprocess.DEVNULL, **as_user}
    subprocess.run(["bash", "-euc", script], check=True, stdout=subprocess.DEVNULL, **settings)  # type: ignore[call-overload]
    words = shlex.split(place.filled(server.command, folder).replace("$PORT", str(PORT)))
    process = subprocess.Popen([*prefix, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **settings)  # type: ignore[call-overload]
    try:
        end = time.monotonic() + SECONDS
        while process.poll() is None and not _answers() and time.monotonic() < end:
            time.sleep(0.05)
        if process.poll() is not None or not _answers():
            process.kill()
            return b"", f"it does not answer: {process.stderr.read()[-300:]!r}"
        client = subprocess.run(
            ["bash", "-c", place.filled(server.use, folder)], capture_output=True, timeout=60, check=False, **settings
        )  # type: ignore[call-overload]
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(getattr(signal, f"SIG{server.stop}"))
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=SECONDS)
        if process.poll() is None:
            process.kill()
    return _VARIES.sub(b"", client.stdout + client.stderr), ""


def _answers() -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", PORT)) == 0


