"""What `callfence service review` does with a log, without systemd."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from calls import allowing_all

from callfence.services import command, units
from callfence.services.units import State, Unit

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Commands


@pytest.fixture
def folder(tmp_path: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has the policy of the unit `it`, and the folder `it` with a log of a call that it lacks."""
    policy = tmp_path / "it.policy"
    policy.write_text(allowing_all().replace("\nmkdir: allow\n", "\n"))
    assert commands.enforce(policy, ["/usr/bin/mkdir", "made"], tmp_path).violations
    (tmp_path / "it").mkdir()
    policy.with_suffix(".log").rename(tmp_path / "it" / "enforce.log")
    monkeypatch.setattr(command, "POLICIES", tmp_path)
    monkeypatch.setattr(command, "LOGS", tmp_path)
    monkeypatch.setattr(units, "FOLDER", tmp_path)
    monkeypatch.setattr(units, "systemctl", lambda *_: "")
    monkeypatch.setattr(units, "unit", lambda _: Unit("it.service", "[Service]\nExecStart=/bin/true\n", "", "simple"))
    monkeypatch.setattr(units, "state", lambda _: State("inactive", "dead", 0, "success", 0))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(command.compile_, "main", lambda _: 0)
    monkeypatch.setattr("os.geteuid", lambda: 0)  # services are root's
    return tmp_path


def review(*words: str) -> int:
    return command.main(["review", "it", "--", *words])


def test_a_log_that_is_decided_is_put_aside_and_not_asked_about_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert review("--accept-all") == 0
    assert "\nmkdir: allow\n" in (folder / "it.policy").read_text()
    (log,) = (folder / "it").iterdir()
    assert log.name.startswith("enforce.log-")
    capsys.readouterr()
    assert review() == 0
    assert capsys.readouterr().out == f"{folder}/it: nothing was denied\n"


def test_a_log_about_which_nobody_has_decided_stays(folder: Path) -> None:
    before = (folder / "it.policy").read_text()
    assert review("--no-terminal") == 1
    assert (folder / "it.policy").read_text() == before
    assert [log.name for log in (folder / "it").iterdir()] == ["enforce.log"]


def test_a_unit_is_enforced_once_its_log_is_decided_or_by_force(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    enforce = ["enforce", "it", "--no-restart"]
    drop_in = folder / "it.service.d" / "callfence.conf"
    assert command.main(enforce) == 1
    assert capsys.readouterr().err.startswith("callfence service: it would be denied the above: `callfence service review it`")
    assert not drop_in.exists()
    for words in (["--force"], []):
        assert command.main([*enforce, *words]) == 0
        assert capsys.readouterr().out.endswith(f"{drop_in}: enforce\n")
        drop_in.unlink()
        assert review("--accept-all") == 0


def test_a_removed_drop_in_leaves_policy_and_log(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["enforce", "it", "--force"]) == 0
    drop_in = folder / "it.service.d" / "callfence.conf"
    assert drop_in.exists()
    capsys.readouterr()
    assert command.main(["remove", "it"]) == 0
    assert capsys.readouterr().out == f"{drop_in}: removed; {folder}/it.policy and {folder} are left as they are\n"
    assert not drop_in.exists()
    assert (folder / "it.policy").exists() and (folder / "it" / "enforce.log").exists()
    assert command.main(["remove", "it"]) == 2
    assert "it has no drop-in of callfence" in capsys.readouterr().err


@pytest.mark.parametrize(("decided", "starts", "expected"), [(0, True, 0), (1, True, 1), (0, False, 1), (1, False, 1)])
def test_the_status_tells_of_what_is_undecided_and_of_a_unit_that_does_not_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], decided: int, starts: bool, expected: int
) -> None:
    def reviewed(_: list[str]) -> int:
        policy = folder / "it.policy"
        policy.write_text(f"{policy.read_text()}mkdir: allow\n")
        return decided

    def systemctl(action: str, *_: str) -> str:
        if action == "restart" and not starts:
            raise units.SystemdError("it failed")
        return ""

    monkeypatch.setattr(command.review, "main", reviewed)
    monkeypatch.setattr(units, "systemctl", systemctl)
    monkeypatch.setattr(units, "state", lambda _: State("active", "running", 0, "success", 0))
    assert command.main(["review", "it", "--settle", "0"]) == expected
    assert ("callfence service: it did not start: it failed" in capsys.readouterr().err) == (not starts)


@pytest.mark.parametrize(
    ("words", "missing", "active", "restarts"),
    [
        ([], "", "active", True),
        ([], "", "failed", True),
        ([], "", "inactive", False),
        (["--no-restart"], "", "active", False),
        ([], "systemd has no such service (not-found)", "active", False),
    ],
)
def test_only_a_unit_that_was_started_is_restarted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], missing: str, active: str, restarts: bool
) -> None:
    assert command.main(["enforce", "it", "--force", "--no-restart"]) == 0
    calls: list[str] = []
    monkeypatch.setattr(units, "unit", lambda _: Unit("it.service", "", "", "simple", missing))
    monkeypatch.setattr(units, "state", lambda _: State(active, "", 0, "success", 0))

    def systemctl(action: str, *_: str) -> str:
        calls.append(action)
        return ""

    monkeypatch.setattr(units, "systemctl", systemctl)
    assert command.main(["remove", "it", "--settle", "0", *words]) == int(active == "failed")
    assert [action for action in calls if action != "daemon-reload"] == (["reset-failed", "restart"] if restarts else [])
