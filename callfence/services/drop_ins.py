"""The drop-ins of `callfence service`: a unit's program under `learn`, or under `enforce`, with what these need of the unit."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

from callfence.policygen.formats import ExportError
from callfence.policygen.formats.systemd_enforce import (
    drop_in,
    enforcing,
    folder_name,
    held,
    literal,
    path,
    quoted,
    settings_of,
)
from callfence.services.units import Unit
from callfence.tracer.errors import UserError

Mode = Literal["learn", "audit", "enforce"]
_DONE: Final[dict[Mode, str]] = {"learn": "learned", "audit": "audited", "enforce": "enforced"}
_TITLE: Final = "made by `callfence service"
_CALLS: Final = "@sandbox capset kcmp pidfd_getfd pidfd_open pidfd_send_signal process_vm_readv ptrace sched_setaffinity"
"""What `learn`, and `enforce` until the policy is in force, call beyond what services do."""
_HOMES: Final = ("/home/", "/root/", "/run/user/")
"""What ProtectHome= hides (systemd.exec(5))."""

_OFF: Final = ("no", "n", "false", "f", "off", "0")
"""What systemd takes for no (systemd.syntax(7))."""


def of(unit: Unit, mode: Mode, policy: Path, options: Sequence[str]) -> str:
    """Return the text of the drop-in for a mode.  `options` are further options of `learn` or `enforce`, before the program.
    Raises UserError if a drop-in cannot change what the unit runs, or if the unit does not see this installation."""
    places = (*_executed(), *_command("enforce"))
    hidden = [place for place in places if f"{place}/".startswith(_HOMES)]
    if hidden and _protects(unit, "Home") not in ("", "read-only"):
        raise UserError(
            f"{unit.stem}: callfence is in {hidden[0]}, which the unit does not see (ProtectHome=): install it in /opt or /usr"
        )
    name = literal(file_name(unit))
    if mode == "learn":
        before = [*_command("learn"), "-q", "--files", "-o", _output(unit)]
        settings = [*_of_learning(unit), *_needed(unit)]
    else:
        before = [*_command("enforce"), *enforcing(str(policy), name, is_audit=mode == "audit")]
        settings = [*_needed(unit)]
    before += [*map(literal, options), "--"]
    description = f"{own_title(unit)} ({_DONE[mode]} by callfence)".replace("%", "%%")
    try:
        return drop_in(f"{unit.stem}, {_TITLE} {mode}`.", name, unit.text, before, settings, description)
    except ExportError as error:
        raise UserError(f"{unit.name}: {error}") from error


def leaving(unit: Unit) -> str:
    """Return the text of a drop-in for the restart at which `learn` ends, and the unit's program starts without it."""
    settings = "".join(f"{line}\n" for line in _of_ending(unit))
    return f"# {unit.stem}, {_TITLE} learn`.\n[Service]\n{settings}"


def file_name(unit: Unit) -> str:
    """Return the name of the unit's policy and of its folder of logs."""
    return folder_name(unit.stem)


def mode_of(text: str) -> Mode | None:
    """Return the mode of a drop-in; None if it is not one of ours."""
    first = text.partition("\n")[0]
    return next((mode for mode in _DONE if first.endswith(f"{_TITLE} {mode}`.")), None)


def own_title(unit: Unit) -> str:
    """Return the title of a unit without what a drop-in of ours has added."""
    title = unit.description
    for done in _DONE.values():
        title = title.removesuffix(f" ({done} by callfence)")
    return title


def _protects(unit: Unit, what: str) -> str:
    """Return the value of a unit's setting in lower case; "" if it is off."""
    values = [value.lower() for key, value in settings_of(unit.text) if key == f"Protect{what}"]
    return "" if not values or values[-1] in _OFF else values[-1]


def _output(unit: Unit) -> str:
    """Return the file that `learn` writes the policy to, as a unit names it."""
    return f"%L/callfence/{literal(file_name(unit))}/learned.policy"


def _of_learning(unit: Unit) -> Iterator[str]:
    """Yield the settings with which systemd accepts `learn` as the main process, and signals reach the program once."""
    yield "NotifyAccess=all"
    yield from _of_ending(unit)
    if unit.kind == "forking":  # its first process ends when the service is ready, and `learn` does not
        yield "Type=exec"
        yield "PIDFile="


def _of_ending(unit: Unit) -> Iterator[str]:
    """Yield the settings with which systemd lets `learn` end the program, and write what it learned (`ending`)."""
    signals = [value for key, value in settings_of(unit.text) if key == "KillSignal" and value]
    words = [path(sys.executable), "-I", "-m", "callfence.services.ending", _output(unit), (signals or ["SIGTERM"])[-1]]
    yield f"ExecStop=+{' '.join(map(quoted, words))} ${{MAINPID}}"
    yield "KillMode=mixed"
    yield "TimeoutStopSec=300"


def _needed(unit: Unit) -> Iterator[str]:
    """Yield the settings that let a unit which restricts calls or executables run Python, and what it calls."""
    present = held(unit.text, ("SystemCallFilter", "NoExecPaths"))
    if "SystemCallFilter" in present:
        yield f"SystemCallFilter={_CALLS}"
    if "NoExecPaths" in present:
        places = dict.fromkeys(map(quoted, (*_command("enforce")[:1], *map(path, _executed()))))
        yield from (f"ExecPaths={place}" for place in places)
        if _protects(unit, "System") or held(unit.text, ("ReadOnlyPaths",)):  # which do not extend to what ExecPaths= mounts
            yield from (f"BindReadOnlyPaths={place}" for place in places)


def _executed() -> Iterator[str]:
    """Yield the files and folders of this installation that are executed, or mapped to be."""
    yield str(Path(__file__).parents[2])
    for prefix in (sys.prefix, sys.base_prefix):
        if prefix == "/usr":
            yield os.path.realpath(sys.executable)
            yield "/usr/lib"
        else:
            yield prefix


def _command(name: str) -> list[str]:
    """Return the words that run `learn` or `enforce` of this installation, without what the unit's user can add to Python: in
    its home, or in a folder of PYTHONPATH."""
    beside = Path(sys.executable).parent / name
    script = str(beside) if beside.exists() else shutil.which(name)
    if script and not _is_of_python(script):
        return [path(script)]  # a distribution's wrapper
    return [path(sys.executable), "-I", *([literal(script)] if script else ["-m", "callfence", name])]


def _is_of_python(script: str) -> bool:
    with open(script, "rb") as file:
        return b"python" in file.readline(256)
