"""The commands with a policy that has phases."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from terminal import Terminal

TEXT = "arch x86_64\nphase serving after epoll_wait\nepoll_wait: allow\nbind: allow until serving\nread: allow\n"


def callfence(folder: Path, *words: str) -> tuple[int, str, str]:
    (folder / "app.policy").exists() or (folder / "app.policy").write_text(TEXT)
    command = [sys.executable, "-m", "callfence", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=100)
    return done.returncode, done.stdout, done.stderr


def test_each_filter_is_proved_and_shown(tmp_path: Path) -> None:
    status, said, _ = callfence(tmp_path, "verify", "app.policy")
    assert status == 0
    assert [line.split(" (")[0] for line in said.splitlines()] == [
        "proved: the filter of start", "proved: the filter of serving"
    ]  # fmt: skip
    shown = callfence(tmp_path, "show", "--instructions", "app.policy")[1].splitlines()
    assert [line for line in shown if line.startswith("#")] == ["# start", "# serving"]


def test_an_export_says_that_there_are_no_phases(tmp_path: Path) -> None:
    status, start, said = callfence(tmp_path, "export", "--to", "kafel", "app.policy")
    assert (status, "bind" in start) == (0, True)
    assert (
        "wider than app.policy: the format has no phases: calls that the policy allows only until serving stay allowed" in said
    )
    status, serving, said = callfence(tmp_path, "export", "--to", "kafel", "--phase", "serving", "app.policy")
    assert (status, "bind" in serving, "phases" in said) == (0, False, False)
    assert callfence(tmp_path, "export", "--to", "kafel", "--phase", "x", "app.policy")[2] == (
        "callfence export: --phase x: no phase is named x; the phases are start, serving\n"
    )


def test_why_says_in_which_phase(tmp_path: Path) -> None:
    status, said, _ = callfence(tmp_path, "why", "app.policy", "bind(fd=3)")
    assert (status, said.splitlines()[1:3]) == (1, ["  the policy says in start: allow", "  the policy says in serving: kill"])


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (("bind: allow",), ["bind: allow", "epoll_wait: allow", "read: allow"]),
        (("listen: allow",), ["bind: allow until serving", "epoll_wait: allow", "listen: allow", "read: allow"]),
        (("--until", "serving", "listen: allow"),
         ["bind: allow until serving", "epoll_wait: allow", "listen: allow until serving", "read: allow"]),
    ],
)  # fmt: skip
def test_allow(tmp_path: Path, words: tuple[str, ...], lines: list[str]) -> None:
    *options, line = words
    assert callfence(tmp_path, "allow", *options, "app.policy", line)[0] == 0
    text = (tmp_path / "app.policy").read_text().splitlines()
    assert text[text.index("") + 1 :] == lines


def test_a_line_about_files_holds_in_all_phases(tmp_path: Path) -> None:
    done = callfence(tmp_path, "allow", "--until", "serving", "app.policy", "path /etc: read")
    assert (done[0], "hold in all phases" in done[2]) == (2, True)


def test_diff_says_in_which_phase(tmp_path: Path) -> None:
    (tmp_path / "new.policy").write_text(TEXT.replace("bind: allow until serving", "bind: allow\nlisten: allow until serving"))
    said = callfence(tmp_path, "diff", "app.policy", "new.policy")[1]
    assert "bind (in serving): allow" in said and "  + listen: allow" in said


@pytest.mark.parametrize(
    ("other", "rest", "phase"),
    [("read: allow\n", " (merge", True), ("bind: allow\n", "; nothing ends with it any more, so it is gone (merge", False)],
    ids=["something ends", "nothing ends"],
)
def test_a_merged_policy_lacks_no_phase_in_silence(tmp_path: Path, other: str, rest: str, phase: bool) -> None:
    (tmp_path / "other.policy").write_text(f"arch x86_64\n{other}")
    status, _, said = callfence(tmp_path, "merge", "-o", "all.policy", "app.policy", "other.policy")
    line = "callfence merge: other.policy without phase serving: what is allowed there stays allowed in it"
    assert (status, said.startswith(line + rest)) == (0, True), said
    assert ("phase serving" in (tmp_path / "all.policy").read_text()) is phase


def logged(*calls: tuple[str, int]) -> str:
    told = {"version": 1, "event": "denied", "time": "2026-01-01T00:00:00.000+00:00", "phase": "serving", "pid": 7}
    rest = {"arch": "x86_64", "arguments": ["0x3", "0x0", "0x10", "0x0", "0x0", "0x0"], "executable": "/app", "site": "?"}
    return "".join(
        json.dumps({"call": f"{name}(fd=3)", "number": number, "evidence": [], "count": 1} | told | rest | {
            "allow": [{"file": "app.policy", "line": f"{name}: allow"}]}) + "\n"
        for name, number in calls
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("bind: allow until serving", "bind: allow"), "bind (in serving) is newly allowed"),
        (("after epoll_wait", "after pause"), "phases begin at other calls, or are optional"),
        (("phase serving", "phases optional\nphase serving"), "phases begin at other calls, or are optional"),
    ],
)
def test_review_says_what_it_does_not_ask_about(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    more = "listen: allow until serving\npause: allow\n"
    early = "phase early after pause\n" if "pause" not in change[1] else "phase early after read\n"
    new = (TEXT + more).replace(*change).replace("phase serving", f"{early}phase serving") + "write: allow until early\n"
    (tmp_path / "old.policy").write_text(TEXT + more + "write: allow\n")
    (tmp_path / "app.policy").write_text(new)
    status, lines, _ = callfence(tmp_path, "review", "--no-terminal", "--against", "old.policy", "app.policy")
    assert (status, lines.splitlines()) == (
        1, [f"app.policy: {said}, and not reviewed here: callfence diff shows it", "app.policy: nothing else to review"]
    )  # fmt: skip


def test_allow_what_was_logged(tmp_path: Path) -> None:
    (tmp_path / "app.policy").write_text(f"{TEXT}listen: allow until serving\n")
    (tmp_path / "log").write_text(logged(("bind", 49)))
    status, said, wrong = callfence(tmp_path, "allow", "app.policy", "--log", "log")
    assert (status, "bind: allow\n" in (tmp_path / "app.policy").read_text()) == (0, True), said + wrong


@pytest.mark.parametrize(
    ("answers", "lines"),
    [
        ("aa", {"bind: allow", "mkdir: allow"}),
        ("ra", {"bind: allow until serving", "mkdir: allow"}),
        ("as", {"bind: allow"}),
        ("rr", set()),
    ],
)
def test_review_what_was_logged(tmp_path: Path, answers: str, lines: set[str]) -> None:
    """What the start allows already is asked, too; what is accepted is allowed in every phase, and nothing else is."""
    before = f"{TEXT}listen: allow until serving  # kept\n"
    (tmp_path / "app.policy").write_text(before)
    (tmp_path / "log").write_text(logged(("bind", 49), ("mkdir", 83)))
    terminal = Terminal([sys.executable, "-m", "callfence", "review", "app.policy", "--log", "log"], tmp_path)
    said = ""
    for answer in answers:
        said += terminal.expect(r"(?s).*\[\?\]: ")[0]
        terminal.send(f"{answer}\n")
    status = terminal.wait()
    terminal.close()
    assert (status, "+ mkdir: allow" in said, "+ bind: allow" in said) == (int("s" in answers), True, True)
    text = (tmp_path / "app.policy").read_text()
    if not lines:
        assert text == before
    else:
        found = {line.partition("  #")[0].strip() for line in text[text.index("\n\n") :].splitlines() if line}
        assert found == lines | {"epoll_wait: allow", "listen: allow until serving", "read: allow"}
        assert text.count("# kept") == 1 and "phase serving after epoll_wait" in text
