"""Every kind of program, armed at every moment, with and without reports, under a policy that fails calls and one that kills:
none runs unconfined."""

from __future__ import annotations

import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from callfence.policygen.language.document import newest_table
from callfence.tracer.abi import COMPAT, NATIVE, table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.enforcer.conftest import Workplace

KINDS = {
    "dynamic": (),
    "no pie": ("-no-pie",),
    "static": ("-static",),
    "static pie": ("-static-pie",),
    "32 bits": ("-m32",),
    "32 bits static": ("-m32", "-static"),
    "set-uid": (),
    "script": (),
    "threads": (),
    "vfork": (),
    "execute-only": (),
}
ARMS = ("", "now", "exec", "entry")
REPORTS = {"reports": (), "log": ("--log", "log"), "quiet": ("--quiet-kernel",)}
DEFAULTS = ("errno EACCES", "kill")
LEFT_OUT = ("getppid", "seccomp", "prctl")


def policy(default: str) -> str:
    sections = (
        f"arch {arch}\n"
        + "".join(f"{call.name}: allow\n" for call in table(arch).by_number.values() if call.name not in LEFT_OUT)
        for arch in (NATIVE, COMPAT)
    )
    return "".join((f"callfence 1\n{newest_table()}default {default}\n", *sections))


@pytest.fixture(scope="session")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """In one place, so that each is compiled once."""
    folder = tmp_path_factory.mktemp("policies")
    for default in DEFAULTS:
        (folder / f"{default.split()[0]}.policy").write_text(policy(default))
    return {default: folder / f"{default.split()[0]}.policy" for default in DEFAULTS}


@pytest.fixture
def program(build: Callable[..., Path], place: Workplace, request: pytest.FixtureRequest) -> str:
    """A program of a kind, which prints 1 for each process or thread whose getppid does not succeed, and 0 where it does."""
    kind = request.param
    target = place.folder / "kind"
    made = build("kinds", *KINDS[kind])
    if kind == "script":
        shutil.copy(made, place.folder / "inner")
        target.write_text("#!/bin/sh\nexec ./inner\n")
        target.chmod(0o755)
    else:
        shutil.copy(made, target)
        target.chmod({"set-uid": 0o4755, "execute-only": 0o111}.get(kind, 0o755))
    return f"./kind {kind if kind in ('threads', 'vfork') else 'plain'}"


@pytest.mark.long
@pytest.mark.parametrize("default", DEFAULTS)
@pytest.mark.parametrize("reports", REPORTS)
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("program", KINDS, indirect=True)
def test_none_is_unconfined(
    program: str, arm: str, reports: str, default: str, place: Workplace, policies: dict[str, Path]
) -> None:
    options = [*REPORTS[reports], *(["--arm", arm] if arm else [])]
    done = place.enforce(*options, "-p", policies[default], *program.split())
    if default == "kill":
        assert done.returncode in (-signal.SIGSYS, -signal.SIGKILL), done.stderr
        assert done.stdout == ""
    else:
        assert (done.returncode, set(done.stdout)) == (0, {"1"}), done.stderr
