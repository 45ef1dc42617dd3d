"""Units of systemd: what their files say, what they do now, and `systemctl` (systemctl(1))."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from callfence.policygen.formats.systemd_enforce import settings_of
from callfence.policygen.values import frozen
from callfence.shared.inputs import content
from callfence.tracer.errors import CallfenceError, UserError

FOLDER: Final = Path("/etc/systemd/system")
"""Where the administrator's units and drop-ins are (systemd.unit(5))."""
DROP_IN: Final = "callfence.conf"
"""The name of our drop-in; `callfence export --to systemd-enforce` suggests the same."""
_PROPERTIES = "Id,LoadState,FragmentPath,DropInPaths,Description,Type,ActiveState,SubState,NRestarts,Result,MainPID"
_LINES = 5
"""Lines of the journal that are shown of a unit that did not start."""


class SystemdError(CallfenceError):
    """`systemctl` cannot be run, or failed."""


@frozen
class Unit:
    """A service that systemd knows, or of which only a drop-in of ours is left."""

    name: str
    """With its suffix: `nginx.service`."""
    text: str
    """Its file and its drop-ins but ours, in systemd's order."""
    description: str
    """Its title, with what a drop-in of ours adds."""
    kind: str
    """What systemd waits for at its start: `simple`, `exec`, `forking`, `notify` ... (`Type=`, systemd.service(5))."""
    missing: str = ""
    """Why it has no file that systemd loads: `systemd has no such service (not-found)`; "" if it has one."""
    overriding: str = ""
    """A drop-in with ExecStart= that systemd reads after ours, so that ours has no effect; "" if there is none."""

    @property
    def problem(self) -> str:
        """Why our drop-in has no effect, and what helps; "" if it has, or would have."""
        if self.missing:
            return f"{self.missing}, but a drop-in: `callfence service remove {self.stem}` removes it"
        if self.overriding:
            renamed = f"10-{os.path.basename(self.overriding)}"
            return f"{self.overriding} sets ExecStart= after {DROP_IN}, which has no effect then: rename it, to {renamed} say"
        return ""

    @property
    def stem(self) -> str:
        """The name of its policy and log."""
        return self.name.removesuffix(".service")

    @property
    def drop_in(self) -> Path:
        """The file of our drop-in, whether or not there is one."""
        return FOLDER / f"{self.name}.d" / DROP_IN


@frozen
class State:
    """What a unit does now, as `systemctl show` prints it."""

    active: str
    """`active`, `inactive`, `failed`, `activating` ..."""
    sub: str
    restarts: int
    """How often systemd itself has started it again."""
    result: str
    pid: int
    """Of the main process; 0 if there is none."""

    @property
    def runs_replaced_program(self) -> bool:
        """Whether the main process's program has been replaced by another file since, as an upgrade does (proc(5), exe)."""
        with suppress(OSError):
            return self.pid > 0 and os.readlink(f"/proc/{self.pid}/exe").endswith(" (deleted)")
        return False


def unit(name: str) -> Unit:
    """Return the unit of this name; `.service` may be left out.  Raises UserError if neither it nor a drop-in of ours is there,
    SystemdError, OSError."""
    shown = _show(f"{name.removesuffix('.service')}.service")
    missing = "" if shown["FragmentPath"] else "the unit has no file"
    if shown["LoadState"] != "loaded":
        missing = f"systemd has no such service ({shown['LoadState']})"
    own = str(FOLDER / f"{shown['Id']}.d" / DROP_IN)
    if missing:
        if not os.path.lexists(own):
            raise UserError(f"{name}: {missing}")
        return Unit(shown["Id"], "", "", "", missing)
    files = [shown["FragmentPath"], *(path for path in shown["DropInPaths"].split() if path != own)]
    texts = {file: content(file).decode("utf-8", "replace") for file in files}
    later = [
        file
        for file in files[1:]
        if os.path.basename(file) > DROP_IN and any(key == "ExecStart" for key, _ in settings_of(texts[file]))
    ]
    return Unit(shown["Id"], "\n".join(texts.values()), shown["Description"], shown["Type"], overriding="".join(later[:1]))


def state(name: str) -> State:
    """Return what a unit does now.  Raises SystemdError."""
    shown = _show(name)
    return State(
        shown["ActiveState"], shown["SubState"], int(shown["NRestarts"] or 0), shown["Result"], int(shown["MainPID"] or 0)
    )


def with_drop_in() -> list[str]:
    """Return the names of the units that have a drop-in of ours, sorted.  A template (`app@.service`), which may have one of
    `callfence export`, is no unit, and systemd says nothing of it."""
    names = (file.parent.name.removesuffix(".d") for file in FOLDER.glob(f"*.service.d/{DROP_IN}"))
    return sorted(name for name in names if not name.endswith("@.service"))


def _show(name: str) -> Mapping[str, str]:
    lines = systemctl("show", "-p", _PROPERTIES, "--", name).splitlines()
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def journal(name: str) -> list[str]:
    """Return the last lines that the journal has of a unit; none if there is no journal."""
    with suppress(OSError):
        command = ["journalctl", "--no-pager", "-q", "-o", "cat", "-n", str(_LINES), "-u", name]
        return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stdout.splitlines()
    return []


def systemctl(*arguments: str) -> str:
    """Run systemctl and return what it prints.  Raises SystemdError, with the errors that it prints, if it fails."""
    try:
        done = subprocess.run(
            ["systemctl", "--no-pager", *arguments], capture_output=True, text=True, errors="replace", check=False
        )
    except FileNotFoundError:
        raise SystemdError("systemctl was not found: this system has no systemd") from None
    if done.returncode:
        raise SystemdError(f"systemctl {' '.join(arguments)}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout
