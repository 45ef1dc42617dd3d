"""`callfence.Spawner`, with the client in C and with the one in Python."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import callfence
from callfence.tracer.abi import NATIVE

ROOT = Path(__file__).resolve().parents[2]
COMMAND = Path(sys.executable).parent / "callfence"


@pytest.fixture
def socket(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "own").mkdir(mode=0o700)
    (tmp_path / "it.policy").write_text(f"callfence 1\narch {NATIVE}\ntable 6.18\ndefault allow\nuname: errno EPERM\n")
    place = tmp_path / "own" / "socket"
    with subprocess.Popen([sys.executable, COMMAND, "spawn", "--socket", place], stderr=subprocess.PIPE) as spawner:
        assert spawner.stderr is not None
        assert b"ready" in spawner.stderr.readline()
        yield place
        spawner.terminate()


@pytest.fixture(params=["C", "Python"])
def spawner(
    request: pytest.FixtureRequest, socket: Path, compile_c: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> callfence.Spawner:
    if request.param == "C":
        return callfence.Spawner(socket, compile_c(ROOT / "include" / "callfence-run.c", "-std=c11"))
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setenv("CALLFENCE_SPAWN", str(socket))
    return callfence.Spawner()


def test_options_are_those_of_subprocess(spawner: callfence.Spawner, tmp_path: Path) -> None:
    script = "read word; echo $word $X; uname; exit 3"
    settings = {"input": "a word\n", "capture_output": True, "text": True, "cwd": tmp_path}
    environment = {"X": "y", "PATH": "/usr/bin:/bin"}
    done = spawner.run(["sh", "-c", script], policy="it.policy", env=environment, **settings)
    assert (done.returncode, done.stdout) == (3, "a word y\n")
    assert "Operation not permitted" in done.stderr


def test_the_process_is_the_program(spawner: callfence.Spawner, tmp_path: Path) -> None:
    with spawner.popen(["sh", "-c", "echo $$; kill -9 $$"], policy=tmp_path / "it.policy", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert int(process.stdout.read()) == process.pid
    assert process.returncode == -9


def test_a_failure_is_a_status(spawner: callfence.Spawner, tmp_path: Path) -> None:
    settings = {"stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
    done = spawner.run(["nothing"], policy=["it.policy", "it.policy"], options=["--no-cache"], **settings)
    assert (done.returncode, done.stderr) == (127, "callfence-run: nothing: not found\n")
    done = spawner.run(["true"], policy="missing.policy", **settings)
    assert done.returncode == 125
    assert done.stderr.startswith("callfence-run: the policy missing.policy cannot be read")
