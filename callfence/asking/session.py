"""Commands of an agent under one policy: run each, keep what it was denied, and widen the session's policy by what is
granted."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock, Thread
from typing import Any, Self

from callfence import start
from callfence.asking import writing
from callfence.policygen.language.document import parse_file
from callfence.policygen.model import Policy
from callfence.policygen.text import printable
from callfence.policygen.values import frozen
from callfence.tracer.errors import UserError


@frozen
class Denial:
    """What a command of the session was denied."""

    number: int
    """Its number in the session, from 1."""
    record: Mapping[str, Any]
    """The event `denied` (docs/events.schema.json)."""

    @property
    def lines(self) -> tuple[str, ...]:
        """The policy lines that would allow it; () if none would, or the policy denies it explicitly.  One that belongs to a
        section but the first follows `arch NAME`, in one text."""
        texts = [each["line"] for each in self.record["allow"]]
        return tuple(line for text in texts for line in ([text] if text.startswith("arch ") else text.split("\n")) if line)

    @property
    def text(self) -> str:
        """What was denied, to whom, and what would allow it, in a few lines."""
        record = self.record
        what = ", ".join((*record["ungranted"], *record.get("ungrantable", ())))
        lines = [f"denied {self.number}: {record['call'] or what} ({record['action']})"]
        lines += [f"  not granted: {what}"] if record["call"] and what else []
        lines += [f"  by {record['executable']}: {' '.join(record['command'] or ())}"] if record["executable"] else []
        allowing = [part for line in self.lines for part in line.split("\n")]
        lines += [f"  would allow it: {line}" for line in allowing] or ["  no line of a policy would allow it"]
        risks = [each["risk"] for each in record["allow"] if each["risk"]]
        lines += [f"  {risk['level']}: it {risk['grants']}" for risk in risks]
        return "\n".join(map(printable, lines))  # a word of the command could otherwise be lines that look like these


@frozen
class Done:
    """A command that has ended."""

    status: int
    """Its exit status; negative for the signal that ended it."""
    output: bytes
    errors: bytes
    denials: tuple[Denial, ...]


class Session:
    """Runs commands under a copy of a policy, which `grant` widens.  The copy is in memory: a command that may write files of
    this user could otherwise replace it for the next one."""

    def __init__(
        self, policy: str | os.PathLike[str], base: str | os.PathLike[str] | None = None, folder: str | os.PathLike[str] = "."
    ) -> None:
        """`base`: the policy that bounds what is granted, None for no bound.  `folder`: what `.` in the policy means, wherever
        a command starts.  Raises UserError or OSError if a policy cannot be read."""
        self._folder = os.path.abspath(folder)
        self._policy = os.path.abspath(policy)
        self._base: Policy | None = parse_file(base).policy if base is not None else None
        self._document = parse_file(self._policy).inlined()
        # The kernel's audit records of denied files, where audit is on, name neither the call nor its process.
        self._explain = ["--explain"] if self._document.policy.files.lines() else []
        self._denials: dict[int, Denial] = {}
        self._last, self._numbering = 0, Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(
        self, command: Sequence[str], *, folder: str | os.PathLike[str] | None = None, timeout: float | None = None
    ) -> Done:
        """Run a command in a folder, relative to that of the session and by default that, with nothing as its input.  Raises
        subprocess.TimeoutExpired after `timeout` seconds: the command is killed then, with what it
        started, but for what has left its group of processes."""
        pipes = [os.pipe() for _ in range(3)]
        readers = [_Reader(reading) for reading, _ in pipes]
        ends = [end for _, end in pipes]
        try:
            with self._sealed() as policy:
                options = [*self._explain, "--log", f"fd:{ends[2]}", "-p", policy]
                options += ["--chdir", os.fspath(folder)] if folder is not None else []
                with subprocess.Popen(
                    start.command("enforce", *options, "--", *command),
                    stdin=subprocess.DEVNULL,
                    stdout=ends[0],
                    stderr=ends[1],
                    cwd=self._folder,
                    pass_fds=ends[2:],
                    start_new_session=True,  # without the terminal, on which the person may be asked
                ) as process:
                    try:
                        status = process.wait(timeout)
                    except BaseException:
                        os.killpg(process.pid, signal.SIGKILL)
                        raise
        except BaseException:
            for reader in readers:
                reader.taken()
            raise
        finally:
            for end in ends:
                os.close(end)
        until = time.monotonic() + _LAST
        for reader in readers:
            reader.join(max(0, until - time.monotonic()))
        printed, complaints, records = (reader.taken() for reader in readers)
        return Done(status, printed, complaints, self._numbered(records.split(b"\n")[:-1]))

    @contextmanager
    def _sealed(self) -> Iterator[str]:
        """Yield a path of the policy in a file in memory that nobody can change."""
        descriptor = os.memfd_create("policy", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with open(descriptor, "w") as file:
            file.write(self._document.text())
            file.flush()
            os.fchmod(descriptor, 0o400)
            seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
            yield f"/proc/{os.getpid()}/fd/{descriptor}"

    def _numbered(self, lines: Sequence[bytes]) -> tuple[Denial, ...]:
        """Number the denials among the records of a log; repetitions are one.  The oldest of too many are forgotten."""
        records = [record for record in map(json.loads, lines) if record["event"] == "denied" and record["count"] == 1]
        with self._numbering:  # of commands that end at the same time
            denials = tuple(Denial(number, record) for number, record in enumerate(records, self._last + 1))
            self._last += len(denials)
            self._denials |= {denial.number: denial for denial in denials}
            for number in list(self._denials)[:-_REMEMBERED]:
                del self._denials[number]
        return denials

    def denial(self, number: int) -> Denial:
        """Return a denial by its number.  Raises UserError if there is none, or if it has been forgotten."""
        if not 1 <= number <= self._last:
            raise UserError(f"no denial has the number {number}; the session has {self._last}")
        if number not in self._denials:
            raise UserError(f"denial {number} is forgotten: the session remembers the last {_REMEMBERED:,}")
        return self._denials[number]

    def grant(self, number: int, reason: str, name: str, *, always: bool = False) -> tuple[str, ...]:
        """Allow what a denial was about from the next command on; with `always`, also write it into the policy itself.

        Return the lines.  Raises UserError if no line would allow it, or `base` does not grant it; OSError if a file cannot be
        written."""
        lines = self.denial(number).lines
        if not lines:
            raise UserError(f"no line of a policy would allow what denial {number} is about")
        why = f"{reason} ({name})" if reason else f"answered by {name}"
        document = self._document
        for line in lines:
            if self._base:
                writing.require_within(document.policy, line, self._base)
            document = writing.with_line(document, line, why, self._policy)
        for line in lines if always else ():
            writing.write(self._policy, line, why, self._base)
        self._document = document
        return lines


_LAST = 5.0
"""How many seconds to wait for the last output when a command has ended; processes that it left behind may write more."""
_MAX_KEPT = 1 << 24
"""The most bytes of each output that are kept; what comes after them is read and left out, so that no command waits for it, or
takes this process's memory."""


_REMEMBERED = 10_000
"""The most denials that a session remembers, some 10 KB each."""


class _Reader(Thread):
    """Reads a pipe to its end, which may come long after the command's, and closes it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(daemon=True)
        self._content, self._most = bytearray(), _MAX_KEPT
        self._descriptor = descriptor
        self.start()

    def run(self) -> None:
        with open(self._descriptor, "rb", buffering=0) as pipe:
            while part := pipe.read(1 << 16):
                self._content += part
                del self._content[self._most :]

    def taken(self) -> bytes:
        """Return what has been read.  From now on nothing is kept."""
        self._most, content = 0, bytes(self._content)
        self._content.clear()
        return content
