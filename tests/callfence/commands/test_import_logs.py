"""Logs as recordings: what is learned from strace's output is what learn learns, byte for byte."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from needed import require

from callfence.policygen.recording import recording_file

CALLFENCE = [sys.executable, "-m", "callfence"]
AS_LEARN = ("-e", "inject=clone3,openat2,io_uring_setup:error=ENOSYS")
"""What learn answers to calls whose arguments are in memory."""
THREAD = "import threading; t = threading.Thread(target=print); t.start(); t.join()"
PROGRAMS = {
    "true": ["true"],
    "ls": ["ls", "-l", "/usr"],
    "cat": ["cat", "/etc/passwd"],
    "sort": ["sort", "/etc/passwd"],
    "sha256sum": ["sha256sum", "/etc/passwd"],
    "sed": ["sed", "-n", "1p", "/etc/passwd"],
    "awk": ["awk", 'BEGIN { system("echo hello") }'],
    "gzip": ["gzip", "-t", "file.gz"],
    "tar": ["sh", "-c", "tar cz file | tar tz"],
    "sqlite3": ["sqlite3", ":memory:", "create table t(a); insert into t values(1); select * from t"],
    "pipeline": ["sh", "-c", "ls /usr | sort | wc -l; kill -9 $$"],
    "threads": ["python3", "-c", THREAD],
}


def run(folder: Path, *words: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
    require(*(["strace"] if words[0] == "strace" else []), *(["sqlite3"] if "sqlite3" in words else []))
    ran = subprocess.run([*words], cwd=folder, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert ran.returncode == status, ran.stderr
    return ran


@pytest.mark.long
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_log_and_learning_give_the_same_policy(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x" * 1000)
    (tmp_path / "file.gz").write_bytes(gzip.compress(b"x" * 1000))
    status = -9 if name == "pipeline" else 0
    run(tmp_path, *CALLFENCE, "learn", "-q", "-o", "it.policy", "--", *PROGRAMS[name], status=status)
    # A log does not tell whom a signal reached.
    learned = (tmp_path / "it.policy").read_text()
    for log, flags in (("symbols", ()), ("numbers", ("-X", "raw", "-y", "-tt"))):
        made = tmp_path / log
        made.mkdir()
        run(tmp_path, "strace", "-f", "-o", made / "log", *AS_LEARN, *flags, *PROGRAMS[name], status=status)
        told = run(made, *CALLFENCE, "import", "--from", "strace", "-o", "it.policy", "log").stderr
        assert re.sub("scope none .*\n", "", (made / "it.policy").read_text()) == learned
        (recorded,) = recording_file.load(made / ".callfence" / "it.rec").runs
        assert (recorded.command[0], recorded.status, recorded.complete) == (PROGRAMS[name][0], status, True)
        assert "callfence import: log: " not in told.replace("callfence import: log: pointers are not printed", "")


@pytest.mark.long
@pytest.mark.parametrize(
    "flags", ["-n", "-i", "-n -i -ttt -T", "-k", "-C", "-e read=all -e write=all", "-r -Y -yy -v -xx -s 4096"]
)
def test_whatever_else_strace_prints_the_calls_are_the_same(flags: str, tmp_path: Path) -> None:
    policies = []
    for log, more in (("plain", []), ("other", flags.split())):
        run(tmp_path, "strace", "-f", "-o", log, *more, *PROGRAMS["awk"])
        made = run(tmp_path, *CALLFENCE, "import", "--from", "strace", log).stdout
        policies.append(made.partition("\n")[2])
    assert policies[0] == policies[1]


@pytest.mark.long
def test_recordings_of_logs_merge_and_are_added_to(tmp_path: Path) -> None:
    for name, command in (("a", ["true"]), ("b", ["cat", "/etc/passwd"])):
        run(tmp_path, "strace", "-f", "-o", f"{name}.log", *command)
        run(tmp_path, *CALLFENCE, "import", "--from", "strace", "-o", f"{name}.rec", f"{name}.log")
    run(tmp_path, *CALLFENCE, "merge", "-o", "all.rec", "a.rec", "b.rec", "b.rec")
    assert len(recording_file.load(tmp_path / "all.rec").runs) == 2
    run(tmp_path, *CALLFENCE, "import", "--from", "recording", "-o", "it.policy", "all.rec")
    before = (tmp_path / "it.policy").read_text()
    again = run(tmp_path, *CALLFENCE, "import", "--from", "strace", "-o", "it.policy", "b.log")
    assert (tmp_path / "it.policy").read_text() == before
    assert "new: 0 calls" in again.stderr
    run(tmp_path, *CALLFENCE, "learn", "-q", "-o", "it.policy", "--", "cat", "/etc/passwd")
    assert (tmp_path / "it.policy").read_text() == before
    assert len(recording_file.load(tmp_path / ".callfence" / "it.rec").runs) == 3


def test_32_bit_programs_are_told_apart(tmp_path: Path, compile_c: Callable[..., Path]) -> None:
    (tmp_path / "small.c").write_text("#include <stdio.h>\nint main(void) { return puts(\"hello\") < 0; }\n")
    program = compile_c(tmp_path / "small.c", "-m32")
    run(tmp_path, *CALLFENCE, "learn", "-q", "-o", "it.policy", "--", program)
    run(tmp_path, "strace", "-f", "-o", "log", "--quiet=none", program)
    made = run(tmp_path, *CALLFENCE, "import", "--from", "strace", "log").stdout
    assert made.partition("\n")[2] == (tmp_path / "it.policy").read_text().partition("\n")[2]
    run(tmp_path, "strace", "-f", "-o", "log", program)
    doubtful = run(tmp_path, *CALLFENCE, "import", "--from", "strace", "log", status=2)
    assert "mmap2 is a call of i386" in doubtful.stderr


def test_a_program_that_hides_its_arguments_is_told_of(tmp_path: Path) -> None:
    run(tmp_path, "strace", "-f", "-o", "log", "python3", "-c", THREAD)
    told = run(tmp_path, *CALLFENCE, "import", "--from", "strace", "log")
    assert "clone3 fails with ENOSYS under learn" in told.stderr
    assert "inject=clone3:error=ENOSYS" in told.stderr


def test_what_is_no_log_is_bad_input_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("7 getpid() = 7\n7 nonsense\n")
    wrong = run(tmp_path, *CALLFENCE, "import", "--from", "strace", "-o", "it.policy", "log", status=2)
    assert wrong.stderr.startswith("callfence import: log:2:3: expected a call")
    assert not (tmp_path / "it.policy").exists()
    other = run(tmp_path, *CALLFENCE, "import", "--from", "strace", "-o", "it.txt", "log", status=2)
    assert other.stderr.startswith("callfence import: it.txt: unknown suffix; name it NAME.rec")
    missing = run(tmp_path, *CALLFENCE, "import", "--from", "strace", "nowhere", status=2)
    assert missing.stderr == "callfence import: nowhere: No such file or directory\n"


def test_a_log_does_not_say_whom_signals_reached(tmp_path: Path) -> None:
    for call, has_line in (("kill(1, SIGTERM)", True), ("umask(022)", False)):
        (tmp_path / "log").write_text(f"7 {call} = 0\n7 exit_group(0) = ?\n7 +++ exited with 0 +++\n")
        printed = run(tmp_path, *CALLFENCE, "import", "--from", "strace", "log").stdout
        run(tmp_path, *CALLFENCE, "import", "--from", "strace", "-o", f"{has_line}.policy", "log")
        for made in (printed, (tmp_path / f"{has_line}.policy").read_text()):
            assert ("\nscope none " in made) == has_line


def test_audit_records_are_names(tmp_path: Path) -> None:
    (tmp_path / "audit.log").write_text(
        "type=SECCOMP msg=audit(1700000000.123:1): auid=0 uid=0 gid=0 ses=1 pid=7 comm=\"a\" exe=\"/bin/a\" sig=0 "
        "arch=c000003e syscall=41 compat=0 ip=0x7f12 code=0x7ffc0000\n"
    )  # fmt: skip
    made = run(tmp_path, *CALLFENCE, "import", "--from", "audit", "--program", "a", "audit.log")
    assert "\nsocket: allow\n" in made.stdout
    assert "arguments are not in audit records" in made.stderr
    other = run(tmp_path, *CALLFENCE, "import", "--from", "audit", "--program", "b", "audit.log", status=2)
    assert "it has no record of type SECCOMP (1326) or LANDLOCK_ACCESS (1423) of b" in other.stderr


def test_audit_records_of_landlock_are_files_and_ports(tmp_path: Path) -> None:
    record = "type=LANDLOCK_ACCESS msg=audit(1700000000.123:{}): domain=195ba459b blockers={}\n"
    lines = (record.format(2, 'fs.read_file path="/srv/data" dev="vda" ino=1'), record.format(3, "net.connect_tcp dest=5432"))
    (tmp_path / "audit.log").write_text("".join(lines))
    (tmp_path / "a.policy").write_text("default errno EPERM\nread: allow\npath /srv/other: read\ntcp connect: 80\n")
    run(tmp_path, *CALLFENCE, "import", "--from", "audit", "-o", "a.policy", "audit.log")
    text = (tmp_path / "a.policy").read_text()
    assert "path /srv/data: read\n" in text
    assert "tcp connect: 80, 5432\n" in text


def test_a_baseline_bounds_what_is_imported(tmp_path: Path) -> None:
    run(tmp_path, "strace", "-f", "-o", "log", "cat", "/etc/passwd")
    (tmp_path / "base.policy").write_text("default errno EPERM\nopenat: 1\nread: 1\n")
    made = run(tmp_path, *CALLFENCE, "import", "--from", "strace", "--within", "base.policy", "-o", "it.policy", "log")
    assert "base.policy denies " in made.stderr
    run(tmp_path, *CALLFENCE, "diff", "--not-wider", "base.policy", "it.policy")
