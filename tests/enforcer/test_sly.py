"""Attacks on the helper, the log and the cache by a program that does not know who the helper is."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from callfence.policygen.language.document import newest_table
from callfence.tracer.abi import NATIVE, table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.enforcer.conftest import Workplace

DEATHS = (-signal.SIGSYS, -signal.SIGKILL)


OTHERS = ("getppid", "getuid", "prctl", "seccomp")
NAMES = [call.name for call in table(NATIVE).by_number.values() if call.name not in OTHERS]


def policy(default: str) -> str:
    """A filter of its own would have the kernel kill, without the helper."""
    header = f"{newest_table()}default {default}\nprctl: option in {{PR_SET_NAME, PR_SET_PTRACER}}\n"
    return header + "".join(f"{name}: allow\n" for name in NAMES)


@pytest.fixture
def sly(place: Workplace, build: Callable[..., Path]) -> Path:
    place.policy(policy("kill"), "kill.policy")
    place.policy(policy("errno EACCES"), "errno.policy")
    return build("sly")


def test_a_name_with_lines_of_its_own_does_not_save_it(place: Workplace, sly: Path) -> None:
    done = place.enforce("-p", "kill.policy", sly, "name")
    assert (done.returncode in DEATHS, done.stdout) == (True, "")
    assert "denied getppid(): the process is killed" in done.stderr


@pytest.mark.parametrize("pause", [0, 3, 10, 30, 100, 300, 1000, 3000])
def test_an_execve_of_another_thread_does_not_save_it(pause: int, place: Workplace, sly: Path) -> None:
    done = place.enforce("-p", "kill.policy", sly, "exec", str(pause))
    assert (done.returncode in DEATHS, done.stdout) == (True, "")


@pytest.mark.parametrize("action", ["kill", "errno"])
def test_only_the_process_that_made_the_call_is_killed(action: str, place: Workplace, sly: Path) -> None:
    """Although it, and its pid, may be gone when the helper looks at it."""
    done = place.enforce("-p", f"{action}.policy", sly, "children", timeout=120)
    assert (done.returncode, done.stdout) == (0, "all killed\n")


def test_a_log_that_becomes_something_else_holds_up_nothing(place: Workplace, sly: Path) -> None:
    (place.folder / "victim").write_text("")
    done = place.enforce("-p", "errno.policy", "--log", "log", sly, "log")
    assert (done.returncode, done.stdout) == (0, "done\n")
    place.wait_for_helpers()
    assert (place.folder / "victim").read_text() == ""
    assert '"getppid()"' in (place.folder / "log.1").read_text()


@pytest.mark.parametrize("how", ["sparse", "fifo", "link", "folder"])
def test_a_spoilt_cache_is_not_used_and_holds_up_nothing(how: str, place: Workplace, sly: Path, tmp_path: Path) -> None:
    place.environment["XDG_CACHE_HOME"] = str(tmp_path / "own")
    cache = tmp_path / "own" / "callfence"
    assert place.enforce("-p", "errno.policy", sly, "cache", cache, how).returncode == 0
    assert [path for path in cache.iterdir() if how == "sparse" or not path.is_file() or path.is_symlink()]
    for _ in range(2):
        done = place.enforce("-p", "kill.policy", sly, "after", timeout=60)
        assert (done.returncode in DEATHS, done.stdout) == (True, "")
        done = place.enforce("-p", "errno.policy", sly, "name", timeout=60)
        assert (done.returncode, done.stdout) == (0, "survived\n")


@pytest.mark.parametrize("way", ["return", "exit", "thread", "again", "traced", "vfork"])
def test_no_way_to_exit_hides_that_a_report_was_lost(way: str, place: Workplace, sly: Path) -> None:
    done = place.enforce("--audit", "-p", "errno.policy", "--log", "/dev/full", sly, way, timeout=60)
    assert done.returncode in ((-signal.SIGKILL,) if way == "traced" else (125,))
    assert "2 records of the log could not be written" in done.stderr
    done = place.enforce("--audit", "-p", "errno.policy", "--log", "log", sly, way, timeout=60)
    assert done.returncode == 0
