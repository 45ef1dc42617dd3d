"""Where a program's policy and recording are, unless the command line says otherwise."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from policygen.recording import atomic

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


def policy_path(program: str) -> Path:
    """`NAME.policy` in the current folder, NAME being the basename of the program."""
    return Path(f"{os.path.basename(program.rstrip('/')) or 'program'}.policy")


def recording_path(policy: Path) -> Path:
    """`.callfence/NAME.rec` beside `NAME.policy`."""
    return policy.parent / ".callfence" / f"{policy.name.removesuffix('.policy')}.rec"


def companion_path(policy: Path) -> Path:
    """`NAME.evidence` beside `NAME.policy`."""
    return policy.with_name(f"{policy.name.removesuffix('.policy')}.evidence")


def output(name: str) -> str | None:
    """Return what `-o` names: None for `-`, which is standard output as it is without the option."""
    return None if name == "-" else name


def put(name: str | Path | None, text: str) -> None:
    """Write the text to the file that `-o` names, or to standard output.  Raises OSError."""
    if name is None:
        sys.stdout.write(text)
    else:
        atomic.write(Path(name), text.encode())


def locked(policy: Path) -> AbstractContextManager[None]:
    """Hold the lock that learn holds while it writes the policy; none where learn never ran."""
    recording = recording_path(policy)
    return atomic.locked(recording) if recording.parent.is_dir() else nullcontext()


def working_folder() -> str:
    """Return the whole path of the working folder, or "" if it has been deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""
