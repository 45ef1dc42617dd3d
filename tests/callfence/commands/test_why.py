"""`callfence why` prints nothing of a policy, a recording or a report as it is: it could drive the reader's terminal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from callfence.commands import why
from callfence.policygen.recording import recording_file
from callfence.policygen.recording.model import Observation, Recording, Run
from callfence.tracer.abi import Arch, table

RED = "\x1b[31m"
READ = table(Arch.X86_64).by_name["read"].number


@pytest.mark.parametrize("about", [(), ("read",), (f"write(fd={RED}1) at libc.so.6+0x10",), (f"{RED}read",)])
def test_nothing_is_printed_raw(tmp_path: Path, about: tuple[str, ...]) -> None:
    policy = tmp_path / "it.policy"
    policy.write_text("read: allow  # portable: as pread64\n")  # a policy itself may not have such characters
    run = Run(RED, 1, (RED,), 0, True)
    seen = Observation(Arch.X86_64.audit, READ, (3,), f"/bin/{RED}", (1,), f"/lib/{RED}+0x10", (3, 0, 0, 0, 0, 0))
    recording_file.save(tmp_path / "it.rec", Recording((run,), (seen,)))
    command = [sys.executable, "-m", "callfence", "why", "--recording", "it.rec", "it.policy", *about]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout + done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_learned_rules_come_before_what_is_implied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "it.policy").write_text("implied 1\nopenat: flags == O_RDONLY\n")
    assert why.main([str(tmp_path / "it.policy"), "openat"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "openat: flags == O_RDONLY"
    assert next(line.split(":")[0] for line in lines if line.startswith("  ")) == "  no recorded run needed it"
    assert any(line.startswith("  implied 1: ") for line in lines[2:])


@pytest.mark.parametrize(("warm", "last"), [(1, "1 incremental run more: calls"), (2, "2 incremental runs more: calls")])
def test_runs_that_recorded_only_what_was_new_are_counted(
    warm: int, last: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run in which a call was recorded is named, though it was such a run; other runs did not need the call."""
    (tmp_path / "it.policy").write_text("read: allow\n")
    kinds = [False, True, False, *[True] * warm]
    runs = tuple(Run(f"id{index}", index, ("app",), index, True, warm=is_warm) for index, is_warm in enumerate(kinds))
    counts = (1, 1, *[0] * (1 + warm))
    seen = Observation(Arch.X86_64.audit, READ, (3,), "/bin/a", counts, "/lib/a+0x10", (3, 0, 0, 0, 0, 0))
    recording_file.save(tmp_path / "it.rec", Recording(runs, (seen,)))
    assert why.main(["--recording", str(tmp_path / "it.rec"), str(tmp_path / "it.policy"), "read"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("run ")] == ["run 1  id0  status 0  app", "run 2  id1  status 1  app"]
    assert [line for line in lines if "incremental" in line] == [f"{last} that the policy allowed by then were not recorded"]


def test_a_call_newer_than_the_table_is_not_denied_explicitly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "it.policy").write_text("table 5.10\ndefault allow\nread: allow\n")
    assert why.main([str(tmp_path / "it.policy"), "cachestat(fd=0)"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert "by hand: it is newer than the policy's table, and with a newer table" in last


def test_a_call_of_a_newer_table_than_new_policies_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "it.policy").write_text("arch x86_64\ntable 7.3\nlistns: flags == 0\n")
    assert why.main([str(tmp_path / "it.policy"), "listns(flags=0)"]) == 0
    assert "  by this entry: listns: flags == 0" in capsys.readouterr().out


def test_bits_that_only_restrict_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "it.policy").write_text("implied 1\narch aarch64\nmprotect: prot == PROT_READ|PROT_EXEC\n")
    call = "mprotect(start=0, len=4096, prot=PROT_READ|PROT_EXEC|PROT_BTI)"
    assert why.main([str(tmp_path / "it.policy"), call]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  the policy says: allow",
        "  mprotect: prot == PROT_READ|PROT_EXEC",
        "    implied 1: PROT_BTI as well, which only restricts what the call does",
    ]


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ("memfd_create", "fails it instead, as where it is not available: memfd_create: errno ENOSYS if flags has MFD_CLOEXEC"),
        ("inotify_init()", "does not end the program, but fails the call with ENOSYS, as where it is not available"),
        ("memfd_create(flags=0)", None),
        ("ptrace", None),
    ],
)
def test_what_enforce_fails_instead_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], about: str, said: str | None
) -> None:
    for implied in ("implied 1\n", ""):
        (tmp_path / "it.policy").write_text(f"arch x86_64\n{implied}openat: flags == O_RDONLY\n")
        assert why.main([str(tmp_path / "it.policy"), about]) == 1
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  `enforce`")]
        assert lines == ([f"  `enforce` {said}"] if said and implied else [])


def test_an_entry_is_no_name_of_a_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "it.policy").write_text("read: allow\n")
    assert why.main([str(tmp_path / "it.policy"), "chmod: mode == 0o644"]) == 2
    assert f"that is an entry; `callfence why {tmp_path}/it.policy chmod` shows" in capsys.readouterr().err
