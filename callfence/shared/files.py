"""The default paths of a program's policy, recording and companion; writing to what `-o` names."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

from callfence.policygen.recording import atomic
from callfence.tracer.errors import UserError


def policy_path(program: str) -> Path:
    """Return `NAME.policy` in the current folder, NAME being the basename of the program."""
    return Path(f"{os.path.basename(program.rstrip('/')) or 'program'}.policy")


def recording_path(policy: Path) -> Path:
    """Return `.callfence/NAME.rec` beside `NAME.policy`."""
    return policy.parent / ".callfence" / f"{policy.name.removesuffix('.policy')}.rec"


def companion_path(policy: Path) -> Path:
    """Return `NAME.evidence` beside `NAME.policy`."""
    return policy.with_name(f"{policy.name.removesuffix('.policy')}.evidence")


def output(name: str) -> str | None:
    """Return the file that `-o NAME` selects; None for `-`, which is standard output."""
    return None if name == "-" else name


def require_other(written: str | Path | None, *read: str | Path | None) -> None:
    """Raise UserError if a file that is to be written is one of those that are read: it would be lost."""
    for name in read:
        with suppress(OSError):  # one of them does not exist
            if written is not None and name is not None and os.path.samefile(written, name):
                raise UserError(f"{written} is the file that is read, and would be lost: name another file to write to")


def put(name: str | Path | None, text: str) -> None:
    """Write the text to a file, or to standard output if `name` is None or `-`.  Raises OSError."""
    if name is None or output(str(name)) is None:
        sys.stdout.write(text)
    else:
        atomic.write(Path(name), text.encode())


def locked(policy: Path) -> AbstractContextManager[None]:
    """Return a context manager with the lock that `learn` holds while it writes the policy; none without a recording folder."""
    recording = recording_path(policy)
    return atomic.locked(recording) if recording.parent.is_dir() else nullcontext()


def working_folder() -> str:
    """Return the absolute path of the working folder; "" if it has been deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""
