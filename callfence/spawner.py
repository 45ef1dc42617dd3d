"""`callfence.Spawner`: start programs by a `callfence spawn` that runs already, with the options of `subprocess`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from callfence.enforcer.spawning import client

Word = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_CLIENT = "callfence-run"
"""The client in C, include/callfence-run.c; if PATH has none, the one in Python takes its place."""


class Spawner:
    """Starts programs confined by their policies, by the `callfence spawn` that listens at a socket.

    The process that `subprocess` starts is a small client, which becomes the program: pid, descriptors, signals and exit status
    are the program's, and all options of `subprocess.Popen` but `executable` and `shell` mean what they mean for it.  A program
    that could not be confined was not run, and the status is 125 (126, 127: as `enforce` has them)."""

    def __init__(self, socket: str | os.PathLike[str] | None = None, client: str | os.PathLike[str] | None = None) -> None:
        """`socket`: where `callfence spawn` listens; default: $CALLFENCE_SPAWN, else $XDG_RUNTIME_DIR/callfence/spawn.
        `client`: the executable of include/callfence-run.c; default: `callfence-run` on PATH, else a client in Python, which
        takes an interpreter's start longer."""
        self._socket = socket
        self._client = client

    def command(
        self, argv: Sequence[Word], *, policy: Word | Sequence[Word] | None = None, options: Sequence[Word] = ()
    ) -> list[Word]:
        """Return the command line that runs the program `argv`.  `policy`: a policy or several, all of which have to allow a
        call; default: NAME.policy in the program's working folder.  `options`: further options of `enforce`."""
        policies = [] if policy is None else [policy] if isinstance(policy, (str, bytes, os.PathLike)) else policy
        executable = self._client or shutil.which(_CLIENT)
        script = [sys.executable, "-I", "-S", client.__file__]
        words: list[Word] = [*([executable] if executable else script), "-s", self._socket or client.default_socket()]
        for policy in policies:
            words += ["-p", policy]
        return [*words, *options, "--", *argv]

    def popen(
        self,
        argv: Sequence[Word],
        *,
        policy: Word | Sequence[Word] | None = None,
        options: Sequence[Word] = (),
        **settings: Any,
    ) -> subprocess.Popen[Any]:
        """Start a program; `settings` are those of `subprocess.Popen`, the other parameters those of `command`."""
        return subprocess.Popen(self.command(argv, policy=policy, options=options), **settings)

    def run(
        self,
        argv: Sequence[Word],
        *,
        policy: Word | Sequence[Word] | None = None,
        options: Sequence[Word] = (),
        **settings: Any,
    ) -> subprocess.CompletedProcess[Any]:
        """Run a program to its end; `settings` are those of `subprocess.run`, the other parameters those of `command`."""
        return subprocess.run(self.command(argv, policy=policy, options=options), **settings)
