"""`learn --rehearse` with programs that misbehave where a call fails: each ends, leaves no process, and what it did is kept."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from calls import native
from needed import needs_root

PROGRAM = Path(__file__).parent / "programs" / "rehearsed.c"
LEARN = (sys.executable, "-m", "callfence", "learn", "--exact", "-o", "it.policy")
FAULTS = ("--rehearse", "--rehearse-only", "faults", "--rehearse-runs", "5")
"""Enough for the first failure of each call."""


@pytest.fixture
def app(compile_c: Callable[..., Path], tmp_path: Path) -> Path:
    copy = tmp_path / "app"
    copy.write_bytes(compile_c(PROGRAM).read_bytes())
    copy.chmod(0o755)
    return copy


def learn(folder: Path, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    settings = {"stdin": subprocess.DEVNULL, "timeout": 100} | options
    return subprocess.run([*LEARN, *words], cwd=folder, capture_output=True, text=True, check=False, **settings)


def policy(folder: Path) -> set[str]:
    """The calls that the policy has."""
    lines = (folder / "it.policy").read_text().splitlines()
    return {line.partition(":")[0] for line in lines if ": " in line and line[0].isalpha()}


def runs(folder: Path) -> list[dict[str, Any]]:
    rows = map(json.loads, (folder / ".callfence" / "it.rec").read_text().splitlines())
    return [row for row in rows if "rehearsed" in row]


def is_running(app: Path) -> bool:
    """Whether a process of the program is left."""
    for one in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{one}/exe") == str(app):
                return True
        except OSError:
            continue
    return False


@pytest.mark.long
@pytest.mark.parametrize(
    ("what", "brings"),
    [("hang", native("pause")), ("spin", "getppid"), ("daemon", "setsid"), ("leaves", native("creat"))],
)
def test_what_a_program_does_when_a_call_fails_is_learned(tmp_path: Path, app: Path, what: str, brings: str) -> None:
    done = learn(tmp_path, *FAULTS, "./app", what)
    assert done.returncode == 0, done.stderr
    assert brings in policy(tmp_path)
    assert "openat(flags=O_RDONLY) fails with ENOENT:" in done.stderr
    assert not is_running(app)
    plain, *rehearsed = runs(tmp_path)
    assert plain["rehearsed"] == ""
    assert [one["rehearsed"] for one in rehearsed] == ["openat(flags=O_RDONLY) fails with ENOENT"]


def test_a_scratch_folder_keeps_the_current_one_as_it_is(tmp_path: Path, app: Path) -> None:
    temporary = tmp_path.parent / f"{tmp_path.name}-temporary"
    temporary.mkdir()
    done = learn(tmp_path, *FAULTS, "--scratch", "./app", "leaves", env=os.environ | {"TMPDIR": str(temporary)})
    assert done.returncode == 0, done.stderr
    assert native("creat") in policy(tmp_path)
    assert not (tmp_path / "left").exists()
    assert {row["executable"] for row in observations(tmp_path)} == {str(app)}
    assert 'pathname="./left"' in evidence(tmp_path)
    assert [*temporary.iterdir()] == []


def observations(folder: Path) -> list[dict[str, Any]]:
    rows = map(json.loads, (folder / ".callfence" / "it.rec").read_text().splitlines())
    return [row for row in rows if "executable" in row]


def evidence(folder: Path) -> set[str]:
    return {fact for row in observations(folder) for fact in row.get("evidence", ())}


def test_where_no_overlay_is_permitted_each_run_gets_a_copy(
    tmp_path: Path, app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who may make no more namespaces cannot mount."""
    code = "import sys\nfrom callfence.learning.rehearsal import surroundings\n"
    code += "surroundings.Scratch._can_overlay = lambda self: False\n"
    code += "from callfence.learning.command import main\nmain(sys.argv[1:])\n"
    command = [sys.executable, "-c", code, "--exact", "-o", "it.policy", *FAULTS, "--scratch", "./app", "leaves"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and "each in a copy of the current folder" in done.stderr
    assert native("creat") in policy(tmp_path) and not (tmp_path / "left").exists()
    assert {row["executable"] for row in observations(tmp_path)} == {str(app)}
    assert 'pathname="./left"' in evidence(tmp_path)


def test_calls_are_failed_until_many_runs_in_a_row_bring_nothing_new(tmp_path: Path, app: Path) -> None:
    code = "import sys\nfrom callfence.learning.rehearsal import after\nafter.QUIET_RUNS = 2\n"
    code += "from callfence.learning.command import main\nmain(sys.argv[1:])\n"
    words = ("-o", "it.policy", "--exact", "--rehearse", "--rehearse-only", "faults", "cat", "app")
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    assert b"; 2 runs in a row brought nothing new\n" in done.stderr


def test_a_dangerous_grant_is_left_to_a_person(tmp_path: Path, app: Path) -> None:
    done = learn(tmp_path, *FAULTS, "./app", "debugger")
    assert "not added, because allowing them is dangerous: execve; `callfence review it.policy` shows them" in done.stderr
    assert "execve" not in policy(tmp_path)
    command = [sys.executable, "-m", "callfence", "review", "it.policy", "--against", "it.policy"]
    listed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "when openat(flags=O_RDONLY) fails with ENOENT\n    to allow it: callfence allow it.policy 'execve: allow'" in listed
    assert learn(tmp_path, "-q", "--tight", "./app").returncode == 0
    assert "execve" not in policy(tmp_path)


SAVES = """
#include <fcntl.h>
#include <unistd.h>
int main(void)
{
    int file = open("notes", O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (write(file, "buy milk", 8) != 8)
        unlink("notes");
    return 0;
}
"""


@pytest.mark.parametrize("scratch", [(), ("--scratch",)])
def test_files_that_only_rehearsed_runs_use_are_granted(
    tmp_path: Path, compile_c: Callable[..., Path], scratch: tuple[str, ...]
) -> None:
    (tmp_path / "saves.c").write_text(SAVES)
    (tmp_path / "saves").write_bytes(compile_c(tmp_path / "saves.c").read_bytes())
    (tmp_path / "saves").chmod(0o755)

    def granted() -> set[str]:
        return {line for line in (tmp_path / "it.policy").read_text().splitlines() if line.startswith("path .")}

    assert learn(tmp_path, "--files", "./saves").returncode == 0
    assert granted() == {"path .: write, create", "path ./saves: read, execute"}
    choice = ("--rehearse-only", "small-files,empty-folder")
    assert "+ path .: remove" in learn(tmp_path, "--files", "--rehearse", *choice, *scratch, "./saves").stderr
    assert granted() == {"path .: write, create, remove", "path ./saves: read, execute"}
    assert learn(tmp_path, "-q", "--files", "./saves").returncode == 0
    narrow = (*LEARN[:4], "--narrow", "it.policy", "--last", "1", "--write")
    assert subprocess.run(narrow, cwd=tmp_path, capture_output=True, timeout=60, check=False).returncode == 0
    assert any(line.startswith("path .: ") and "remove" in line for line in granted())


def test_with_another_tmpdir_tmp_itself_is_seen(tmp_path: Path) -> None:
    """Without TMPDIR, /tmp is `$TMPDIR`, whether the program looked at TMPDIR or not."""
    (tmp_path / "script").write_text('#!/bin/sh\nread line </tmp/it.callfence; : >"${TMPDIR:-/tmp}/made.callfence"\n')
    (tmp_path / "script").chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "TMPDIR"}

    def granted(*options: str) -> set[str]:
        done = learn(tmp_path, *options, "--files", "./script", env=environment)
        assert done.returncode == 0, done.stderr
        return {line for line in (tmp_path / "it.policy").read_text().splitlines() if "tmp" in line.lower()}

    try:
        Path("/tmp/it.callfence").write_text("\n")
        plain = granted()
        assert all(line.startswith("path $TMPDIR") for line in plain)
        rehearsed = granted("--rehearse", "--rehearse-only", "other-tmpdir")
        assert {line.partition(":")[0] for line in rehearsed - plain} == {"path /tmp/it.callfence"}
    finally:
        Path("/tmp/it.callfence").unlink()
        Path("/tmp/made.callfence").unlink(missing_ok=True)


@needs_root
def test_files_that_are_executed_or_dangerous_are_left_to_a_person(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/bin/sh\ntest -n \"$HOME\" || read line </etc/shadow || head -1 other\n")
    (tmp_path / "script").chmod(0o755)
    choice = ("--rehearse-only", "no-home")
    done = learn(tmp_path, "--files", "--rehearse", *choice, "./script")
    assert "because it is executed or lint warns of it: path /etc/shadow; a plain run adds it" in done.stderr
    (tmp_path / "script").write_text("#!/bin/sh\ntest -n \"$HOME\" || head -1 script\n")
    done = learn(tmp_path, "--fresh", "--files", "--rehearse", *choice, "./script")
    assert "path /usr/bin/head" in done.stderr
    assert "head" not in (tmp_path / "it.policy").read_text()


def test_why_tells_what_was_only_rehearsed_until_a_plain_run_needs_it(tmp_path: Path, app: Path) -> None:
    def told() -> str:
        command = [sys.executable, "-m", "callfence", "why", "it.policy", "exit_group"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    learn(tmp_path, *FAULTS, "./app", "leaves")
    command = [sys.executable, "-m", "callfence", "why", "it.policy", "creat"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "only rehearsed: openat(flags=O_RDONLY) fails with ENOENT" in done
    assert "only rehearsed" not in told()


def test_what_a_program_does_without_its_files_is_learned(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/bin/sh\ntest -e here || umask 7\n: >made\n")
    (tmp_path / "script").chmod(0o755)
    (tmp_path / "here").touch()
    assert learn(tmp_path, "--rehearse", "--rehearse-only", "empty-folder", "./script").returncode == 0
    assert "umask" in policy(tmp_path)
    assert [one["rehearsed"] for one in runs(tmp_path)] == ["", "in an empty folder"]
    assert sorted(one.name for one in tmp_path.iterdir()) == [".callfence", "here", "it.policy", "made", "script"]


def test_what_is_printed_to_a_pipe_or_a_file_is_in_a_rehearsal_too(tmp_path: Path) -> None:
    """But not to the same file again, nor a second time to the pipe's reader."""
    (tmp_path / "script").write_text("#!/bin/sh\ntest -p /proc/self/fd/1 && echo >>piped\necho printed\n")
    (tmp_path / "script").chmod(0o755)
    done = learn(tmp_path, "--rehearse", "--rehearse-only", "no-home", "./script")
    assert done.stdout == "printed\n"
    assert (tmp_path / "piped").read_text() == "\n\n"
    (tmp_path / "piped").unlink()
    command = [*LEARN, "--rehearse", "--rehearse-only", "no-home", "./script"]
    with open(tmp_path / "output", "w") as output:
        subprocess.run(command, cwd=tmp_path, stdout=output, stderr=subprocess.DEVNULL, check=True, timeout=60)
    assert (tmp_path / "output").read_text() == "printed\n"
    assert not (tmp_path / "piped").exists()


def test_a_file_as_standard_input_is_read_again_from_where_it_began(tmp_path: Path) -> None:
    (tmp_path / "input").write_text("before\nread\n")
    with open(tmp_path / "input") as file:
        os.lseek(file.fileno(), len("before\n"), os.SEEK_SET)
        words = ("sh", "-c", "read line; echo $line >>lines")
        done = learn(tmp_path, "--rehearse", "--rehearse-only", "no-home", *words, stdin=file)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "lines").read_text() == "read\nread\n"
    assert "give its input as a file" not in done.stderr


def test_a_pipe_as_standard_input_is_read_once(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"read\n")
    os.close(writing)
    words = ("sh", "-c", "read line; echo $line >>lines")
    done = learn(tmp_path, "--rehearse", "--rehearse-only", "no-home", *words, stdin=reading)
    os.close(reading)
    assert "is a pipe, which is empty in these runs; use a file: learn --rehearse COMMAND < FILE\n" in done.stderr
    assert (tmp_path / "lines").read_text() == "read\n\n"


@pytest.mark.parametrize(("stream", "fails"), [("stdout-full", True), ("stdout-null", False)])
def test_a_full_device_fails_what_is_written(tmp_path: Path, stream: str, fails: bool) -> None:
    (tmp_path / "script").write_text("#!/bin/sh\necho something || : >failed\n")
    (tmp_path / "script").chmod(0o755)
    done = learn(tmp_path, "--rehearse", "--rehearse-only", stream, "./script")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "failed").exists() is fails


NULL, PIPE, WRITTEN, CLOSED, FULL = "/dev/null 1", "pipe 0", "/dev/null 0", "closed -9", "/dev/full -28"
STREAMS = {
    "": (NULL, PIPE, PIPE),
    "in a terminal": ("/dev/pts/ 0", "/dev/pts/ 0", "/dev/pts/ 0"),
    "with standard output closed": (NULL, CLOSED, PIPE),
    "with standard output on a full device": (NULL, FULL, PIPE),
    "with standard output on a pipe without a reader": (NULL, "pipe -32", PIPE),
    "with standard output on a file": (NULL, "a file 0", PIPE),
    "with standard output on a pipe": (NULL, PIPE, PIPE),
    "with standard output on /dev/null": (NULL, WRITTEN, PIPE),
    "with standard input closed": ("closed 32", PIPE, PIPE),  # POLLNVAL
    "with an empty pipe as standard input": ("pipe 16", PIPE, PIPE),  # POLLHUP
    "with standard error closed": (NULL, PIPE, CLOSED),
    "with standard error on a full device": (NULL, PIPE, FULL),
    "with standard error on a pipe": (NULL, PIPE, PIPE),
    "with all standard streams closed": ("closed 32", CLOSED, CLOSED),
    "with output and errors on a full device": (NULL, FULL, FULL),
}
"""By what differs in a run: its standard streams, as programs/streams.c has them."""


def test_streams_are_what_the_description_says(tmp_path: Path, compile_c: Callable[..., Path]) -> None:
    """And each rehearsed run is in a session of its own, with a terminal only in a terminal."""
    program = compile_c(PROGRAM.parent / "streams.c")
    done = learn(tmp_path, "--rehearse", "--rehearse-only", "streams", str(program))
    assert done.returncode == 0, done.stderr
    assert f"rehearsed: {len(STREAMS) - 1} runs in " in done.stderr and "filled half of" not in done.stderr
    found = (tmp_path / "log").read_text()
    for pattern, word in ((r"pipe:\[\d+\]", "pipe"), (r"/dev/pts/\d+", "/dev/pts/"), (r"/\S+ \(deleted\)", "a file")):
        found = re.sub(pattern, word, found)
    plain, *rehearsed = found.splitlines()
    assert plain.startswith(", ".join(STREAMS[""]))
    terminals = ["a terminal" if what == "in a terminal" else "no terminal" for what in STREAMS]
    expected = [", ".join((*streams, "leads", has)) for streams, has in zip(STREAMS.values(), terminals, strict=True)]
    assert rehearsed == expected[1:]


SURROUNDINGS = """
printf '%s,' "$(id -u)" "$(id -g)" "$(id -G)" "$(ulimit -f)" "${HOME-none}" "${LC_ALL-none}" "${LANG-none}" "$(ls file)" >&9
echo >&9
"""


@needs_root
def test_surroundings_are_what_the_description_says(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    choice = "no-environment,no-home,other-locale,empty-folder,small-files,other-user"
    nine = "import os, sys; os.dup2(int(sys.argv[1]), 9); os.execv(sys.argv[2], sys.argv[2:])"
    words = (*LEARN, "--rehearse", "--rehearse-only", choice, "sh", "-c", SURROUNDINGS)
    command = [sys.executable, "-c", nine, str(writing), *words]
    given: dict[str, Any] = {"env": {"PATH": os.environ["PATH"], "HOME": "/h", "LANG": "de_DE.UTF-8"}, "extra_groups": [0, 7]}
    (tmp_path / "file").touch()
    subprocess.run(command, cwd=tmp_path, pass_fds=[writing], capture_output=True, timeout=100, check=True, **given)
    os.close(writing)
    with open(reading) as file:
        found = file.read().splitlines()
    root, own = "0,0,0 7,unlimited,", "/h,none,de_DE.UTF-8,file,"
    assert found == [
        f"{root}{own}",
        f"{root}none,none,none,file,",
        f"{root}none,none,de_DE.UTF-8,file,",
        f"{root}/h,C,none,file,",
        f"{root}/h,none,de_DE.UTF-8,,",
        f"0,0,0 7,0,{own}",
        "65534,65534,65534,unlimited,/h,none,de_DE.UTF-8,,",  # the folder is root's alone
    ]


def test_a_signal_that_is_caught_arrives(tmp_path: Path, app: Path) -> None:
    done = learn(tmp_path, "--rehearse", "--rehearse-only", "signals", "./app", "catch")
    assert "getppid" in policy(tmp_path) and "SIGTERM arrives at" in done.stderr


def test_a_run_that_fills_the_disk_ends_the_rehearsal(tmp_path: Path, app: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk takes root")
    script = 'mount -t tmpfs -o size=16m small . && cp "$1" app && shift && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", str(app), *LEARN, *FAULTS, "./app", "fill"]
    command[command.index("it.policy")] = str(tmp_path / "it.policy")
    folder = tmp_path / "small"
    folder.mkdir()
    command[command.index("-c") + 1] = f"cd {folder} && {script.replace('small .', f'small {folder} && cd {folder}')}"
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "filled half of the free disk space" in done.stderr
    assert "write" in policy(tmp_path)
    assert not is_running(folder / "app")


def test_an_interrupt_ends_the_rehearsal_and_what_was_found_is_kept(tmp_path: Path, app: Path) -> None:
    command = [*LEARN, "--rehearse", "--rehearse-only", "faults", "./app", "hang"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    while not process.stderr.readline().startswith("learn: rehearsing"):
        assert process.poll() is None
    while not is_running(app):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert "interrupted by the user" in process.stderr.read()
    assert process.wait(60) == 0
    assert "openat" in policy(tmp_path) and not is_running(app)


def test_a_program_that_reads_the_terminal_is_not_rehearsed(tmp_path: Path, app: Path) -> None:
    master, slave = pty.openpty()
    os.write(master, b"x\n")
    done = learn(tmp_path, *FAULTS, "./app", "reads", stdin=slave)
    os.close(master)
    os.close(slave)
    assert done.returncode == 0
    assert "not rehearsed: the program reads the terminal" in done.stderr
    assert "read" in policy(tmp_path)


def test_an_unknown_name_to_rehearse_is_an_error(tmp_path: Path) -> None:
    done = learn(tmp_path, "--rehearse", "--rehearse-only", "nonsense", "true")
    assert (done.returncode, "unknown name to rehearse: nonsense; choose from faults," in done.stderr) == (125, True)


def test_a_plain_learn_says_what_could_be_rehearsed(tmp_path: Path, app: Path) -> None:
    last = learn(tmp_path, "./app").stderr.splitlines()[-1]
    assert last.startswith("  not rehearsed: ")
    assert last.endswith("to try them: learn --rehearse --exact -o it.policy ./app")
