"""`callfence verify`, `diff`, `merge --narrow-by` and `import` of filters, as commands."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from calls import native
from needed import needs_root

from callfence.enforcing.sealed import bundle
from callfence.policygen.filter.compile import compile_policy
from callfence.policygen.filter.libseccomp import LibseccompRule, generate
from callfence.policygen.language.document import parse
from callfence.tracer.abi import NATIVE

ALLOW_ALL = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)


def callfence(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "callfence", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "old.policy").write_text("read: fd == 1\nwrite: allow\n")
    (tmp_path / "new.policy").write_text("# another\nwrite: 1\nread: fd in {2, 1}\n")
    (tmp_path / "less.policy").write_text("write: 0")
    (tmp_path / "broken.policy").write_text("read: fd = 1\n")
    (tmp_path / "old.bpf").write_bytes(compile_policy(parse("read: fd == 1\nwrite: allow\n").policy))
    (tmp_path / "all.bpf").write_bytes(ALLOW_ALL)
    (tmp_path / "bad.bpf").write_bytes(ALLOW_ALL[:-1])
    (tmp_path / "damaged").write_bytes(bundle([], b"") + b"\x04\0\0\0text")
    return tmp_path


def test_a_policy_is_proved(folder: Path) -> None:
    done = callfence(folder, "verify", "old.policy")
    assert done.returncode == 0
    assert done.stdout.startswith("proved: ")


def test_a_filter_is_its_policy(folder: Path) -> None:
    assert callfence(folder, "verify", "old.policy", "--bpf", "old.bpf").returncode == 0
    report = compile_policy(parse("read: fd == 1\nwrite: allow\n").policy, report=True)
    (folder / "report.bpf").write_bytes(report)
    assert callfence(folder, "verify", "old.policy", "--bpf", "report.bpf").returncode == 0


def test_a_counterexample_is_a_call_with_both_answers(folder: Path) -> None:
    done = callfence(folder, "verify", "new.policy", "--bpf", "old.bpf")
    assert done.returncode == 1
    assert done.stdout == (
        "the filter is not equivalent to the policy; for example, they answer this call differently:\n"
        "  read(fd=2, buf=NULL, count=0)\n"
        "  the policy answers  allow\n  the filter answers  kill\n"
    )


def test_libseccomp_by_itself_is_refuted(folder: Path) -> None:
    """It compares all 64 bits, never numbers above the table, and leaves foreign architectures to the first jump."""
    rule = LibseccompRule(0, 0x7FFF0000, (((0, 2**64 - 1, 1),),))
    raw = b"".join(struct.pack("=HBBI", *one) for one in generate(0x80000000, [rule]))
    start = struct.pack("=HBBI", 0x20, 0, 0, 0)
    (folder / "raw.bpf").write_bytes(start + raw)
    done = callfence(folder, "verify", "old.policy", "--bpf", "raw.bpf")
    assert done.returncode == 1
    assert "the filter answers" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("verify", "broken.policy"), "broken.policy:1:10"),
        (("verify", "nosuch"), "callfence verify: nosuch: No such file"),
        (("verify", "/dev/zero"), "/dev/zero: is not a regular file"),
        (("verify", "bad.bpf"), "the kernel would not load this filter: 7 bytes"),
        (("verify", "old.policy", "--bpf", "bad.bpf"), "bad.bpf: the kernel would not load this filter"),
        (("verify", "old.bpf", "--bpf", "all.bpf"), "old.bpf is a filter"),
        (("verify", "damaged"), "callfence verify: damaged: the file is damaged"),
        (("diff", "old.policy", "broken.policy"), "broken.policy:1:10"),
        (("merge", "--narrow-by", "nosuch", "old.policy"), "nosuch: No such file"),
        (("merge", "--intersect", "broken.policy", "old.policy"), "broken.policy:1:10"),
        (("diff", "--not-wider", "broken.policy", "old.policy"), "broken.policy:1:10"),
        (("import", "--from", "bpf", "bad.bpf"), "7 bytes are not a whole number"),
        (("import", "--pid", str(2**22 + 1)), "there is no such process"),
        pytest.param(("import", "--pid", str(os.getpid())), "has no filter", marks=needs_root),
    ],
)
def test_bad_input(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    done = callfence(folder, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_diff(folder: Path) -> None:
    done = callfence(folder, "diff", "old.policy", "new.policy")
    assert done.returncode == 0
    assert done.stdout == (
        "wider: NEW allows every call that OLD allows, and more\nNEW allows no known risk that OLD denies\n"
        "+ grants nothing beyond the rest (1 call): read\n"
    )


@pytest.mark.parametrize(
    ("old", "new", "status"), [("old", "new", 1), ("new", "old", 0), ("old", "old", 0), ("old", "less", 0), ("less", "old", 1)]
)
def test_a_policy_that_is_not_wider(folder: Path, old: str, new: str, status: int) -> None:
    assert callfence(folder, "diff", "--not-wider", f"{old}.policy", f"{new}.policy").returncode == status


def test_narrow_by(folder: Path) -> None:
    made = callfence(folder, "merge", "--narrow-by", "less.policy", "old.policy")
    assert made.returncode == 0
    assert callfence(folder, "merge", "--narrow-by", "less.policy", "-o", "written.policy", "old.policy").stdout == ""
    assert (folder / "written.policy").read_text() == made.stdout
    assert made.stdout.endswith("\nread: fd == 1\nwrite: deny\n")
    (folder / "made.policy").write_text(made.stdout)
    assert callfence(folder, "diff", "--not-wider", "old.policy", "made.policy").returncode == 0
    more = callfence(folder, "diff", "--not-wider", "--full", "made.policy", "old.policy")
    assert more.returncode == 1
    assert "+ write: allow\n      kill -> allow, for example write(fd=0, buf=NULL, count=0)" in more.stdout


def test_intersect(folder: Path) -> None:
    made = callfence(folder, "merge", "--intersect", "less.policy", "old.policy")
    assert made.returncode == 0
    assert callfence(folder, "merge", "--intersect", "less.policy", "-o", "written.policy", "old.policy").stdout == ""
    assert (folder / "written.policy").read_text() == made.stdout
    for other in ("old.policy", "less.policy"):
        assert callfence(folder, "diff", "--not-wider", other, "written.policy").returncode == 0
    assert callfence(folder, "merge", "--intersect", "written.policy", "less.policy").stdout == callfence(
        folder, "merge", "--intersect", "less.policy", "written.policy"
    ).stdout
    both = callfence(folder, "merge", "--intersect", "less.policy", "--narrow-by", "less.policy", "old.policy")
    assert both.returncode == 2
    assert "excludes" in both.stderr


def test_an_intersection_says_what_the_base_takes_away(folder: Path) -> None:
    (folder / "base.json").write_text(json.dumps({
        "defaultAction": "SCMP_ACT_ERRNO", "architectures": [f"SCMP_ARCH_{NATIVE.upper()}"], "syscalls": [
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": family, "op": "SCMP_CMP_EQ"}]}
            for family in (1, 2)
        ],
    }))  # fmt: skip
    (folder / "app.policy").write_text("path /usr: read\nread: allow\nsocket: family in {AF_UNIX, AF_NETLINK}\n")
    made = callfence(folder, "merge", "--intersect", "base.json", "app.policy")
    assert made.returncode == 0
    assert "\nsocket: family == AF_UNIX\n" in made.stdout
    assert "callfence merge: base.json denies, which app.policy allows: read\n" in made.stderr
    assert "callfence merge: base.json denies for some arguments, which app.policy allows: socket\n" in made.stderr
    why = callfence(folder, "merge", "--intersect", "base.json", "--why", "socket", "app.policy")
    assert why.stdout.splitlines() == [
        str(NATIVE),
        "  app.policy: family in {AF_UNIX, AF_NETLINK}",
        "  base.json:  family == AF_INET || family == AF_UNIX",
        "  both:       family == AF_UNIX",
    ]
    none = callfence(folder, "merge", "--intersect", "base.json", "--why", "sokcet", "app.policy")
    assert (none.returncode, none.stdout) == (2, "")
    assert f"--why sokcet: {NATIVE} has no such call; did you mean socket?" in none.stderr
    alone = callfence(folder, "merge", "--narrow-by", "base.json", "--why", "socket", "app.policy")
    assert alone.returncode == 2 and "--why requires --intersect" in alone.stderr


def test_a_filter_is_imported_as_its_policy(folder: Path) -> None:
    done = callfence(folder, "import", "--from", "bpf", "old.bpf")
    assert done.returncode == 0
    assert done.stdout.endswith("\nread: fd == 1\nwrite: allow\n")
    assert callfence(folder, "verify", "old.bpf").returncode == 0


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize(
    "command",
    [
        ("import", "--from", "bpf", "old.bpf"),
        ("diff", "--full", "large.policy", "other.policy"),
        ("diff", "--format", "json", "large.policy", "other.policy"),
        ("show", "large.policy"),
        ("why", "large.policy"),
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_a_reader_that_has_gone_is_no_error(folder: Path, command: tuple[str, ...], blocked: bool) -> None:
    """At once, or in the middle of more than a pipe holds; also where SIGPIPE was blocked by who started the command."""
    for name, right in (("large", "read"), ("other", "execute")):
        lines = (f"path /srv/a-folder-with-a-long-name/{number:05}: {right}\n" for number in range(1600))
        (folder / f"{name}.policy").write_text("".join(lines))
    how = "SIG_BLOCK" if blocked else "SIG_UNBLOCK"
    block = f"import os, sys; from signal import *; pthread_sigmask({how}, [SIGPIPE]); os.execv(sys.executable, sys.argv[1:])"
    words = [sys.executable, "-c", block, sys.executable, "-m", "callfence", *command]
    reader, writer = os.pipe()
    if "large.policy" not in command:
        os.close(reader)
    with subprocess.Popen(words, cwd=folder, stdout=writer, stderr=subprocess.PIPE, text=True) as process:
        os.close(writer)
        if "large.policy" in command:
            assert os.read(reader, 1)
            os.close(reader)
        assert process.stderr is not None
        said = process.stderr.read().replace(NO_RECORDING, "")
    assert (process.returncode, said) == (-signal.SIGPIPE, "")


NO_RECORDING = "callfence why: no calls can be shown, because there is neither .callfence/large.rec nor large.evidence: "
NO_RECORDING += "learn writes both\n"


def test_what_no_policy_says_is_told(folder: Path) -> None:
    done = callfence(folder, "import", "--from", "bpf", "all.bpf")
    assert done.returncode == 0
    what = "calls of other architectures (allow here)"
    assert f"# not said: narrower than the file: {what}, which a policy always kills\n" in done.stdout
    assert f"callfence import: narrower than all.bpf: {what}" in done.stderr
    assert "default allow" in done.stdout
    verified = callfence(folder, "verify", "all.bpf")
    assert verified.returncode == 1
    assert "no policy can express this: " in verified.stdout


def test_a_filter_that_cannot_be_followed_is_disassembled(folder: Path) -> None:
    program = b"".join(struct.pack("=HBBI", *one) for one in [(0x20, 0, 0, 16), (0x16, 0, 0, 0)])
    (folder / "odd.bpf").write_bytes(program)
    done = callfence(folder, "import", "--from", "bpf", "odd.bpf")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("   0: ld args[0].low\n   1: ret a\n")
    assert callfence(folder, "show", "--instructions", "odd.bpf").stdout == "   0: ld args[0].low\n   1: ret a\n"
    refused = callfence(folder, "show", "odd.bpf")
    assert refused.stderr.startswith(
        "callfence show: odd.bpf is a filter, not a policy: `callfence import --from bpf odd.bpf` prints it as"
    )


@pytest.fixture
def confined() -> Iterator[subprocess.Popen[str]]:
    """A process with two filters that answers each line on its standard input."""
    program = (
        "import callfence, os\n"
        f"callfence.apply('default allow\\nunknown allow\\n{native('rmdir')}: errno EPERM')\n"
        f"callfence.apply('default allow\\nunknown allow\\n{native('mkdir')}: kill if mode == 0o7')\n"
        "print('ready', flush=True)\nwhile True: print(input(), flush=True)"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", program], text=True, **pipes)  # type: ignore[call-overload]
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


@needs_root
def test_the_filters_of_a_process(folder: Path, confined: subprocess.Popen[str]) -> None:
    assert confined.stdin and confined.stdout
    done = callfence(folder, "import", "--pid", str(confined.pid))
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.split("\n\n# callfence policy for: ")
    assert f"process {confined.pid}, filter 1 of 2" in first
    assert f"{native('rmdir')}: errno EPERM" in first
    assert f"{native('mkdir')}: mode != 07 else kill" in second
    refused = callfence(folder, "import", "--pid", str(confined.pid), "-o", "it.policy")
    assert (refused.returncode, (folder / "it.policy").exists()) == (2, False)
    assert f"process {confined.pid} has 2 filters, and -o takes only one" in refused.stderr
    confined.stdin.write("still there\n")
    confined.stdin.flush()
    assert confined.stdout.readline() == "still there\n"


@needs_root
def test_threads_that_differ_are_told(folder: Path) -> None:
    program = (
        "import threading\nfrom enforcer import kernel\n"
        "def confine():\n"
        "    kernel.set_no_new_privs(); kernel.install(bytes([6, 0, 0, 0, 0, 0, 255, 127]), 0)\n"
        "    print(threading.get_native_id(), flush=True); input()\n"
        "threading.Thread(target=confine).start()"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        thread = process.stdout.readline().strip()
        whole = callfence(folder, "import", "--pid", str(process.pid))
        one = callfence(folder, "import", "--pid", thread)
        process.stdin.write("\n")
    assert (whole.returncode, process.returncode) == (2, 0)
    assert f"there is 1 thread of process {process.pid} with other filters: give --pid {thread}" in whole.stderr
    assert "default allow" in one.stdout


def state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


@needs_root
def test_a_stopped_process_stays_stopped(folder: Path, confined: subprocess.Popen[str]) -> None:
    os.kill(confined.pid, signal.SIGSTOP)
    while state(confined.pid) != "T":
        time.sleep(0.01)
    assert callfence(folder, "import", "--pid", str(confined.pid)).returncode == 0
    time.sleep(0.1)
    assert state(confined.pid) == "T"
    os.kill(confined.pid, signal.SIGCONT)
    while state(confined.pid) == "T":
        time.sleep(0.01)


@needs_root
def test_a_confined_reader_is_refused(folder: Path, confined: subprocess.Popen[str]) -> None:
    program = (
        "import sys, callfence; from callfence.commands.import_ import main\n"
        "callfence.apply('default allow\\nunknown allow')\nsys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "--pid", str(confined.pid)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "it needs CAP_SYS_ADMIN, and no filter on this process" in done.stderr
