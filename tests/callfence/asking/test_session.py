"""What a session remembers of denials, and what an answer writes into the policy."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from calls import for_this_machine, native

from callfence.asking.session import Session, _Reader
from callfence.tracer.errors import UserError
from callfence.tracer.proc import state_of

if TYPE_CHECKING:
    from pathlib import Path

ANY = "default errno EPERM\nimplied 1\nopenat: allow\nmmap: allow\nexecve: allow\n"
LINK = ["link", "it.policy", "other"]


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "it.policy"
    file.write_text(for_this_machine(ANY))
    return file


def test_the_oldest_of_too_many_denials_are_forgotten(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callfence.asking.session._REMEMBERED", 2)
    with Session(policy, folder=tmp_path) as session:
        numbers = [session.run(LINK).denials[0].number for _ in range(3)]
        assert numbers == [1, 2, 3] == [1, *(session.denial(number).number for number in (2, 3))]
        with pytest.raises(UserError, match=r"^denial 1 is forgotten: the session remembers the last 2$"):
            session.grant(1, "", "me")
        for number in (0, 4):
            with pytest.raises(UserError, match=f"^no denial has the number {number}; the session has 3$"):
                session.grant(number, "", "me")


def test_no_answer_allows_what_the_policy_denies_explicitly(policy: Path, tmp_path: Path) -> None:
    policy.write_text(text := policy.read_text() + "sync: kill\n")
    with Session(policy, folder=tmp_path) as session:
        (denial,) = session.run(["sync"]).denials
        assert denial.lines == () and denial.text.endswith("\n  no line of a policy would allow it")
        with pytest.raises(UserError, match=r"^no line of a policy would allow what denial 1 is about$"):
            session.grant(1, "because", "me", always=True)
    assert policy.read_text() == text


@pytest.mark.parametrize(("reason", "why"), [("the build\nneeds it", "the build needs it (me)"), ("", "answered by me")])
def test_always_writes_the_line_and_why(reason: str, why: str, policy: Path, tmp_path: Path) -> None:
    policy.write_text(text := for_this_machine("default allow\npath /: read, execute\n"))
    with Session(policy, folder=tmp_path) as session:
        (denial,) = session.run(["touch", "made"]).denials
        assert session.grant(denial.number, reason, "me") == denial.lines == ("path .: write, create",)
        assert policy.read_text() == text and session.run(["touch", "made"]).status == 0
        assert session.grant(denial.number, reason, "me", always=True) == denial.lines
    assert [line.split("#") for line in policy.read_text().splitlines() if "path ." in line] == [
        [f"{'path .: write, create':31}", f" why: {why}"]
    ]


def test_always_adds_nothing_to_a_policy_that_denies_it_by_now(policy: Path, tmp_path: Path) -> None:
    with Session(policy, folder=tmp_path) as session:
        (denial,) = session.run(LINK).denials
        policy.write_text(text := policy.read_text() + for_this_machine("link: errno EPERM\n"))
        with pytest.raises(UserError) as caught:
            session.grant(denial.number, "", "me", always=True)
        assert str(caught.value) == f"{policy} denies {native('link')} explicitly; `callfence allow --force` allows it"
        assert policy.read_text() == text and session.run(LINK).status == 1


@pytest.mark.parametrize("stream", ["", " >&2"])
def test_the_first_16_mib_of_an_output_are_kept(stream: str, policy: Path, tmp_path: Path) -> None:
    policy.write_text("default allow\n")
    script = f"{{ head -c {(1 << 24) - 1} /dev/zero; printf 12; }}{stream}"
    with Session(policy, folder=tmp_path) as session:
        done = session.run(["sh", "-c", script])
    kept, other = (done.errors, done.output) if stream else (done.output, done.errors)
    assert (done.status, len(kept), kept[-2:], other) == (0, 1 << 24, b"\x001", b"")


def test_what_a_command_leaves_behind_may_write_soon_after(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callfence.asking.session._LAST", 60.0)
    policy.write_text("default allow\n")
    with Session(policy, folder=tmp_path) as session:
        assert session.run(["sh", "-c", "(sleep 1; echo late) & echo soon"]).output == b"soon\nlate\n"


def test_nothing_is_kept_of_what_comes_after_an_output_is_taken() -> None:
    reading, writing = os.pipe()
    reader = _Reader(reading)
    os.write(writing, b"one")
    assert reader.taken() in (b"", b"one")
    os.write(writing, b"two")
    os.close(writing)
    reader.join(20)
    assert (reader.is_alive(), reader.taken()) == (False, b"")


@pytest.mark.long
def test_a_command_that_takes_too_long_is_killed_with_what_it_started(policy: Path, tmp_path: Path) -> None:
    policy.write_text("default allow\n")
    with Session(policy, folder=tmp_path) as session, pytest.raises(subprocess.TimeoutExpired):
        session.run(["sh", "-c", "sleep 60 & echo $! > pid; wait"], timeout=8)
    pid = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 20
    while os.path.exists(f"/proc/{pid}") and state_of(pid) != "Z":
        assert time.monotonic() < until
        time.sleep(0.01)
