"""The folder of a shipper's state: for each destination a file with the positions in the sources, and the counters there."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from callfence.policygen import reading
from callfence.policygen.recording import atomic
from callfence.policygen.versions import SHIPPER, unknown
from callfence.tracer.errors import UserError


class State:
    """An existing folder, which no other shipper can use at the same time."""

    def __init__(self, folder: Path) -> None:
        """Create the folder, for this user alone, unless it exists; its parent must exist.  Raises UserError if another shipper
        uses the folder, or OSError."""
        if not folder.exists():
            atomic.make_folder(folder)
            folder.chmod(0o700)  # records name files and command lines
        self.folder = folder
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            if error.errno != errno.EWOULDBLOCK:
                raise
            raise UserError(f"another `callfence ship` uses the state in {folder}: give each its own folder") from error

    def load(self, destination: str) -> dict[str, Any] | None:
        """Return what was saved for a destination; None if nothing was.  Raises UserError if it is damaged, and OSError, also
        for a FIFO, a device, and more than 64 MiB, which are not read."""
        path = self._path(destination)
        remove_leftovers(path)
        try:
            data = json.loads(reading.read(str(path)))
            if data["version"] != SHIPPER:
                raise ValueError(unknown(data["version"], SHIPPER))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self.damaged(destination, error) from error
        return dict(data)

    def damaged(self, destination: str, error: Exception) -> UserError:
        """Return the error that what was saved for a destination is none of ours."""
        what = "move it away to begin anew: then all logs are read and counted from their beginning"
        return UserError(f"{self._path(destination)} is not the state of a shipper ({error}): {what}")

    def save(self, destination: str, data: dict[str, Any]) -> None:
        """Replace what is saved for a destination, durably.  Raises OSError, with nothing changed."""
        atomic.write(self._path(destination), json.dumps({"version": SHIPPER, **data}).encode())

    def _path(self, destination: str) -> Path:
        return self.folder / f"{destination}.json"


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of `atomic.write` for this path that killed processes have left."""
    for leftover in path.parent.glob(f".{path.name}.{'[0-9a-f]' * 16}.tmp"):
        with suppress(OSError):
            leftover.unlink()
