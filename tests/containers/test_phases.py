"""A program that enters a phase in a container without privileges, where it is the first process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from calls import native

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from conftest import Containers

PROGRAM = Path(__file__).parent.parent / "enforcer" / "programs" / "phased.c"
POLLED = b"poll 0 \npoll 1 \nevents 1 \n"
DENIED = b"socket -1 Operation not permitted\n"


@pytest.mark.long
@pytest.mark.parametrize("default", ["seccomp.json", ""], ids=["profile", "unconfined"])
def test_less_is_allowed_after_the_trigger(
    containers: Containers, tool: tuple[Path, tuple[str, ...]], place: Path, compile_c: Callable[..., Path], default: str
) -> None:
    folder, start = tool
    (place / "phased").write_bytes(compile_c(PROGRAM, "-pthread", "-static").read_bytes())
    (place / "phased").chmod(0o755)
    root = containers.image("empty", files=("/usr/bin/true",))
    mounts = (f"--volume={folder}:/callfence:ro", f"--volume={place}:/out", "--tmpfs=/tmp")
    profile = Path("/usr/share/containers") / default if default else None

    def ran(words: tuple[str, ...], *steps: str) -> subprocess.CompletedProcess[bytes]:
        command = (*start, *words, "--", "/out/phased", *steps)
        return containers.podman(root, command, *containers.UNPRIVILEGED, *mounts, profile=profile)

    learn = ("learn", "-q", "--phases", "--default", "errno EPERM", "-o", "/out/phased.policy")
    learned = ran(learn, "socket", "fork", "socket", "poll", "status")
    assert learned.returncode == 0, learned.stderr
    assert f"phase serving after {native('poll')}\n" in (place / "phased.policy").read_text()
    enforced = ran(("enforce", "-p", "/out/phased.policy"), "socket", "poll", "socket", "status")
    assert enforced.stdout.startswith(b"socket 0 \n" + POLLED + DENIED + b"TracerPid:\t0\n"), enforced.stderr
    assert b" in serving: it fails with EPERM" in enforced.stderr
