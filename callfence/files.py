"""Where a program's policy and recording are, unless the command line says otherwise."""

from __future__ import annotations

import os
from pathlib import Path


def policy_path(program: str) -> Path:
    """`NAME.policy` in the current folder, NAME being the basename of the program."""
    return Path(f"{os.path.basename(program.rstrip('/')) or 'program'}.policy")


def recording_path(policy: Path) -> Path:
    """`.callfence/NAME.rec` beside `NAME.policy`."""
    return policy.parent / ".callfence" / f"{policy.name.removesuffix('.policy')}.rec"
