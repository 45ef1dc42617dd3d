"""The records of a log that the helper may be writing still."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def records(log: Path) -> list[dict[str, Any]]:
    """Those whose lines are whole; none if there is no log."""
    text = log.read_text() if log.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
