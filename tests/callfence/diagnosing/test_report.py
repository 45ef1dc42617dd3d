"""What `callfence doctor --report` says, and what it never says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from callfence.diagnosing import masking, report
from callfence.tracer.errors import UserError

TOKEN = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
POLICY = f"""callfence 1

path /home/alice/projects/secret-plan: read  # why: alice needs it, token={TOKEN}
tcp connect db.corp.example: 443
tcp connect 2001:db8::17: 5432
unix connect /run/user/1000/bus

openat: flags == O_RDONLY && dfd == AT_FDCWD
kill: pid == 31337
"""
RECORD = {
    "version": 1, "event": "denied", "time": "2026-01-02T03:04:05.678+00:00", "host": "build-7.corp.example", "pid": 31337,
    "call": 'openat(dfd=AT_FDCWD, filename="/home/alice/it", flags=O_RDONLY)', "arguments": ["0x7ffd12345678"],
    "command": ["deploy", "--to", "customer", "--password", "<secret>"], "executable": "/opt/corp/deploy",
    "folder": "/home/alice", "message": "build-7 and alice",
}  # fmt: skip
PRIVATE = ("alice", "corp", "secret-plan", "2001:db8", "db8", "1000", "31337", "build-7", "deploy", "customer", "7ffd", "bus")


def run(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "callfence", "doctor", *words]
    return subprocess.run(
        command, cwd=folder, env=os.environ | variables, capture_output=True, text=True, timeout=300, check=False
    )


def without_checks(text: str, name: str) -> str:
    """The attachments: what comes after the heading of the first."""
    return text.partition(f"### {name}")[2]


def test_names_are_masked_and_the_policy_stays_readable() -> None:
    text = masking.without_names(POLICY, ())
    assert not [word for word in PRIVATE if word in text.replace("443", "") and word != "1000"], text
    assert "openat: flags == O_RDONLY && dfd == AT_FDCWD\n" in text
    assert re.search(r"^path <\d+>: read  # why: ", text, re.MULTILINE)
    assert re.search(r"^tcp connect <\d+>: 5432$", text, re.MULTILINE)


def test_a_word_has_one_number() -> None:
    text = masking.without_names("path /a: read\npath /b: read\npath /a: write\n", ())
    assert text == "path <1>: read\npath <2>: read\npath <1>: write\n"


def test_a_log_is_masked_to_its_structure() -> None:
    text = masking.without_names(json.dumps(RECORD), ())
    assert not [word for word in PRIVATE if word in text], text
    record = json.loads(re.sub(r": (<\d+>)", r': "\1"', text))
    assert record.keys() == RECORD.keys()
    assert (record["event"], record["call"].partition("(")[0]) == ("denied", "openat")


def test_a_name_that_is_a_word_of_the_language_is_masked_too() -> None:
    assert masking.without_names("path read: read\n", {"read"}) == "path <1>: <1>\n"


@pytest.mark.long
@pytest.mark.parametrize("name", ["plain", "back`tick", "a[x](y)", "white space", "new\nline", "-dash", "$(id)", "@everyone"])
def test_hostile_names_and_an_environment_with_secrets(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "it.policy").write_text(POLICY)
    (folder / "log").write_text(json.dumps(RECORD) + "\n")
    variables = {"HOME": str(folder), "USER": name, "XDG_CACHE_HOME": str(folder / "cache")}
    variables |= {"API_TOKEN": TOKEN, "CALLFENCE_IMAGE": TOKEN}
    attached = ("--attach", "it.policy", "--attach", "log", "--mask")
    done = run(folder, "--report", *attached, **variables)
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout
    assert str(tmp_path) not in done.stdout
    masked = without_checks(done.stdout, "Policy")
    assert not [word for word in PRIVATE if word in masked and word != "1000"]
    assert "CALLFENCE_IMAGE" in done.stdout, "that it is set"
    assert done.stdout.count("```") == 6, "three blocks, none of which ends early"
    assert os.uname().nodename not in done.stdout.replace(os.uname().release, "")


@pytest.mark.long
def test_without_mask_secrets_alone_are_taken_out(tmp_path: Path) -> None:
    (tmp_path / "it.policy").write_text(POLICY.replace("# why", "# ```` why"))
    done = run(tmp_path, "--report", "--attach", "it.policy")
    assert (TOKEN in done.stdout, "token=<secret>" in done.stdout, "/home/alice" in done.stdout) == (False, True, True)
    assert done.stdout.rstrip().endswith("`````"), "a fence longer than what is in the file"


@pytest.mark.long
@pytest.mark.parametrize("text", ["root:$6$salt$hash:19000:0:::\n", '{"password": "x"}\n', "-----BEGIN PRIVATE KEY-----\n"])
def test_another_file_is_not_attached(tmp_path: Path, text: str) -> None:
    (tmp_path / "it").write_text(text)
    done = run(tmp_path, "--report", "--attach", "it")
    assert (done.returncode, done.stdout) == (2, "")
    assert "is neither a policy nor a log of enforce, so it is not attached" in done.stderr


@pytest.mark.parametrize("text", ["root:x:0\n", '{"password": "x"}\n', '{"event": 1}\n{"event": 2\n', '{"event": 1}\n1\n'])
def test_what_is_neither_a_policy_nor_a_log_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "it").write_text(text)
    with pytest.raises(UserError, match="is neither a policy nor a log of enforce, so it is not attached"):
        report.report([], [str(tmp_path / "it")], masks=False)


def test_a_long_file_is_cut_and_counted(tmp_path: Path) -> None:
    (tmp_path / "log").write_text((json.dumps(RECORD) + "\n") * 1000)
    text = report.report([], [str(tmp_path / "log")], masks=False)
    assert len(text) < 60_000
    left = re.search(r"### Log \(1,000 lines, (\d+) lines left out\)", text)
    assert left and text.count('"event"') == 1000 - int(left[1])


def test_the_options_need_each_other(tmp_path: Path) -> None:
    assert "are for --report" in run(tmp_path, "--mask").stderr
    assert "name one by --attach" in run(tmp_path, "--report", "--mask").stderr


def test_a_report_of_trouble_names_no_files() -> None:
    text = "FAIL  learn records a program\n      -> /home/alice/x: Permission denied, for alice on build-7 (/proc/sys/kernel/x)"
    shown = masking.without_places(text, {"alice", "build-7"})
    assert shown.splitlines()[1] == "      -> <path>: Permission denied, for <name> on <name> (/proc/sys/kernel/x)"


def test_version_has_those_of_the_language_and_the_tables() -> None:
    done = subprocess.run([sys.executable, "-m", "callfence", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{report.versions()}\n"
    assert re.fullmatch(r"callfence [\d.]+ \(policy language 1, calls up to Linux \d\.\d+, implied set 1\)\n", done.stdout)


@pytest.mark.long
def test_a_file_that_is_not_there_is_named_once(tmp_path: Path) -> None:
    done = run(tmp_path, "--report", "--attach", "missing.policy")
    assert (done.returncode, done.stderr) == (2, "callfence doctor: missing.policy: No such file or directory\n")


@pytest.mark.long
def test_the_folder_in_which_it_is_called_is_no_part_of_callfence(tmp_path: Path) -> None:
    """Such as a checkout of somebody else's."""
    (tmp_path / "callfence").mkdir()
    (tmp_path / "callfence" / "__init__.py").write_text("import os; os.mkdir('made')\n")
    callfence = [sys.executable, "-P", "-m", "callfence"]
    subprocess.run([*callfence, "doctor"], cwd=tmp_path, capture_output=True, timeout=120, check=False)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    plain = os.environ | {"PATH": "/usr/bin:/bin"}  # without the command
    subprocess.run([*callfence, "git-setup"], cwd=tmp_path, env=plain, capture_output=True, check=True)
    said = subprocess.run(["git", "config", "merge.callfence.driver"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert " -I -m callfence " in said.stdout
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(("place", "options"), [("here", ["-P"]), ("elsewhere", ["-I"])])
def test_what_it_starts_finds_callfence_where_it_is(tmp_path: Path, place: str, options: list[str]) -> None:
    """Which may be in a folder of PYTHONPATH alone."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "callfence").symlink_to(Path(__file__).parents[3] / "callfence")
    code = "import sys; sys.path.insert(0, 'here'); from callfence import start; print(start.command()[1:-2])"
    words, environment = [sys.executable, "-P", "-c", code], os.environ | {"PYTHONPATH": f"/none:{place}"}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{options}\n"
