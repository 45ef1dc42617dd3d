"""The logs of a unit: those that nobody has decided about, and those that are put aside.

The unit's user may write the folder: no link is followed, and nothing is waited for or read without end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from callfence.policygen import reading
from callfence.policygen.recording.log_records import lines

NAMES: Final = ("enforce.log.1", "enforce.log")
"""The names of the logs that nobody has decided about, the older one first: as logrotate(8) calls it."""
MAX_SIZE: Final = 1 << 30
"""The most bytes of a log that are read, against sparse files: enforce writes as much about a million kinds of denials."""


@contextmanager
def sizes(logs: Sequence[Path]) -> Iterator[dict[int, int]]:
    """Yield the bytes of each log by its inode, which no other file gets while this context lasts.  Raises OSError."""
    with ExitStack() as opened:
        statuses = [os.fstat(opened.enter_context(read(log)).fileno()) for log in logs]
        yield {status.st_ino: status.st_size for status in statuses}


def put_aside(logs: Sequence[Path], decided: Mapping[int, int]) -> None:
    """Move logs to `enforce.log-DATE`, so that they are not asked about again; `enforce` begins a new one.

    `decided` are the `sizes` of those whose violations were read: what has come since, also by a rotation, is written to
    `enforce.log.1`.  Raises OSError; the logs have their names again then, so that nothing counts as decided."""
    date = time.strftime("%Y%m%dT%H%M%S")
    moved = [log.rename(log.with_name(f"enforce.log-{date}.{number}")) for number, log in enumerate(logs)]
    try:
        _write_rest(moved, decided)
    except OSError:
        for log, aside in zip(logs, moved, strict=True):
            if not os.path.lexists(log):  # `enforce` may have begun a new one
                aside.rename(log)
        raise


def _write_rest(moved: Sequence[Path], decided: Mapping[int, int]) -> None:
    """Write what has come to logs since they were `decided` about to `enforce.log.1`.  Raises OSError, without that file."""
    with ExitStack() as opened:
        target: BinaryIO | None = None
        for log in moved:
            source = opened.enter_context(read(log))
            status = os.fstat(source.fileno())
            if source.seek(decided.get(status.st_ino, 0)) < status.st_size:
                target = target or opened.enter_context(_made(log.with_name(NAMES[0]), status))
                target.writelines(line for _, line in lines(source, MAX_SIZE))


def read(log: Path) -> BinaryIO:
    """Open a log.  Raises OSError, also for a link, and for a pipe without waiting for it."""
    return reading.regular(str(log), follow=False)


@contextmanager
def _made(log: Path, like: os.stat_result) -> Iterator[BinaryIO]:
    """Make a log with the user, group and mode of another; remove it if it cannot be written.  Raises OSError; FileExistsError
    for one that is there, as root must not follow a user's link."""
    file = open(log, "xb")  # noqa: SIM115, as what is below must not remove a file that was there
    try:
        with file:
            os.fchown(file.fileno(), like.st_uid, like.st_gid)
            os.fchmod(file.fileno(), like.st_mode & 0o777)
            yield file
    except OSError:
        log.unlink()
        raise
