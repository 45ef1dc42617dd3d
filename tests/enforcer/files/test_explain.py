"""`enforce --explain` and `--audit`: which file or port was not granted, and the line that would grant it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from callfence.enforcer.kernel import landlock_abi
from tests.enforcer.conftest import wait_until

pytestmark = pytest.mark.skipif(landlock_abi() < 4, reason="needs Landlock's ABI 4 (Linux 6.7)")
EVERY_CALL = "default allow\n"
NO_LINES = "the policy has no lines about files, and those about ports, if any, are enforced by its filter alone"
START = "import sys; from callfence.enforcing.command import main; sys.exit(main())"


@pytest.fixture
def run(place, program):
    """run(lines, *operations) -> the finished process, under these lines, in a folder with data."""
    def started(lines, *operations, options=("--explain",), calls=EVERY_CALL, **settings):
        place.policy(f"{calls}path {program}: read, execute\n{lines}", "files.policy")
        done = place.enforce("-p", "files.policy", *options, program, *operations, **settings)
        assert done.returncode == 0, done.stderr
        return done

    return started


def not_granted(done):
    return re.findall(r"^  ((?:path|tcp) .*): not granted", done.stderr, re.MULTILINE)


WITHOUT = """
import callfence.enforcer.files.landlock
callfence.enforcer.files.landlock.Confinement = None
from callfence.enforcing.command import main
main()
"""
DENIALS = (
    # what is granted, what is tried, what has to be told
    ("path ./data: read", "read:other/a", ["path ./other/a: read"]),
    ("path ./other: read", "list:data", ["path ./data: list"]),
    ("path ./data: read", "write:data/a", ["path ./data/a: write"]),
    ("path ./data: read", "truncate:data/a", ["path ./data/a: write"]),
    ("path ./data: create", "create:data/n", ["path ./data: write"]),
    ("path ./data: write", "create:data/n", ["path ./data: create"]),
    ("path ./data: read", "mkdir:data/n", ["path ./data: create"]),
    ("path ./data: read", "unlink:data/a", ["path ./data: remove"]),
    ("path ./data: read", "rename:data/a,data/b", ["path ./data: create, remove"]),
    ("path ./data: create, remove", "rename:data/a,data/inner/n", ["path ./data: move"]),
    (
        "path ./data: create, remove, move\npath ./other: create, remove, move, read",
        "rename:data/a,other/n",
        ["path ./data: read"],
    ),
    ("path ./data: create, remove", "rename:data/inner/c,data/n", ["path ./data: move"]),
    ("path ./data: read", "symlink:data/n", ["path ./data: symlink"]),
    ("path ./data: read", "fifo:data/n", ["path ./data: fifo"]),
    ("path ./data: read", "socket:data/n", ["path ./data: socket"]),
    ("path ./data: read", "execute:data/run", ["path ./data/run: execute"]),
    ("path ./data: read", "fexecve:data/run", ["path ./data/run: execute"]),
    ("path ./data: read", "script:data/run", ["path ./data/run: execute"]),
    ("path ./data: read", "script:/proc/self/cwd/data/run", ["path ./data/run: execute"]),
    ("path ./data: read", "read:other/a (deleted)", ['path "./other/a (deleted)": read']),
    ("path ./data: read", "read:/proc/self/status", ["path /proc/self/status: read"]),
    ("path ./data: read", "read:/proc/1/status", ["path /proc: read"]),
    ("path ./data: read", "read:/proc/net/tcp", ["path /proc/self/net: read"]),
    ("path ./data: read", "read:data/mounts", ["path /proc/self/mounts: read"]),
    ("path ./data: read", "in-thread:/proc/self/status", ["path /proc/self/status: read"]),
    ("tcp connect: 443", "connect:9", ["tcp connect: 9"]),
    ("tcp bind: 443", "bind:0", ["tcp bind: 0"]),
)


@pytest.mark.long
@pytest.mark.parametrize(("lines", "operation", "told"), DENIALS, ids=[row[1] for row in DENIALS])
def test_each_denial_is_explained_by_the_line_that_would_grant_it(run, place, program, lines, operation, told):
    (place.folder / "data/run").write_bytes(Path(program).read_bytes())
    (place.folder / "data/run").chmod(0o755)
    (place.folder / "data/mounts").symlink_to("/proc/mounts")
    (place.folder / "other/a (deleted)").write_text("text")
    done = run(lines, operation)
    assert done.stdout.split()[-1] in ("EACCES", "EXDEV")
    assert not_granted(done) == told
    assert f"it fails with {done.stdout.split()[-1]}" in done.stderr
    commands = re.findall(r"to grant it: (.*)", done.stderr)
    for command in commands:
        words = [sys.executable, "-m", *shlex.split(command)]
        subprocess.run(words, cwd=place.folder, env=place.environment, check=True, capture_output=True)
    again = place.enforce("-p", "files.policy", "--explain", program, operation)
    # EEXIST: a file is made before opening it is denied (fs/namei.c, lookup_open)
    assert again.stdout.split()[-1] in ("ok", "ECONNREFUSED", "EEXIST"), again.stderr
    assert again.stderr == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="these calls are root's")
def test_what_only_root_opens_is_told_or_counted(run):
    done = run("path ./data: read", "account:other/a", "swap:other/a", "handle:other/a")
    assert done.stdout.split() == ["EACCES"] * 3
    assert not_granted(done) == ["path ./other/a: write", "path ./other/a: read, write"]
    assert "calls that name files or ports: 1 is in no report if it was denied" in done.stderr


def test_what_is_granted_or_fails_anyway_is_not_told(run):
    operations = ("read:data/a", "read:data/none", "mkdir:data", "create:data/n", "unlink:none", "udp:9")
    done = run("path ./data: read, write, create\ntcp connect: none", *operations)
    assert done.stdout.split() == ["ok", "ENOENT", "EEXIST", "ok", "ENOENT", "ok"]
    assert done.stderr == ""


def test_a_line_that_grants_nothing_since_a_link_leads_elsewhere_explains_nothing(run, place):
    (place.folder / "data/link").symlink_to("../other/a")
    done = run("path ./data: symlink\npath ./data/link: read", "read:data/link")
    assert done.stdout.split() == ["EACCES"]
    assert not_granted(done) == ["path ./other/a: read"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_what_would_change_a_read_only_file_system_fails_anyway(run):
    under = ("unshare", "--mount", "sh", "-c", 'mount --bind data data && mount -o remount,bind,ro data && exec "$@"', "sh")
    operations = ("write:data/a", "create:data/n", "mkdir:data/n", "unlink:data/a", "rename:data/a,data/inner/n")
    done = run("path ./other: read", *operations, "read:data/a", "write:other/a", under=under)
    assert done.stdout.split() == ["EROFS"] * len(operations) + ["EACCES"] * 2
    assert not_granted(done) == ["path ./data/a: read", "path ./other/a: write"]


def test_a_thread_s_own_folder_of_proc_is_the_process_s(run):
    done = run("path /proc/self/status: read", "in-thread:/proc/self/status")
    assert (done.stdout.split(), done.stderr) == (["ok"], "")


def test_a_file_that_was_replaced_is_told_with_its_folder(run):
    done = run("path ./data: create, remove\npath ./data/b: read", "read:data/b", "rename:data/a,data/b", "read:data/b")
    assert done.stdout.split() == ["ok", "ok", "EACCES"]
    assert "  path ./data: read: not granted: the file that the line named has been replaced by another" in done.stderr


def test_named_folders(run, place):
    environment = place.environment | {"HOME": str(place.folder / "data"), "TMPDIR": str(place.folder / "other")}
    done = run("path ./none: read", f"read:{place.folder}/data/a", f"create:{place.folder}/other/n", env=environment)
    assert not_granted(done) == ["path $HOME/a: read", "path $TMPDIR: write, create"]


def test_each_policy_is_told(run, place, program):
    run("path ./data: read", "nothing")
    place.policy(f"{EVERY_CALL}path {program}: read, execute", "two.policy")
    done = place.enforce("-p", "files.policy", "-p", "two.policy", "--explain", program, "read:data/a", "read:other/a")
    assert re.findall(r"allow (\S+) 'path (\S+):", done.stderr) == [
        ("two.policy", "./data/a"),
        ("files.policy", "./other/a"),
        ("two.policy", "./other/a"),
    ]


def test_without_the_option_nothing_is_told(run):
    done = run("path ./data: read", "read:other/a", options=())
    assert (done.stdout, done.stderr) == ("EACCES\n", "")


def test_a_log_has_denied_files_without_being_asked_to(run, place):
    done = run("path ./data: read", "read:data/a", "read:other/a", options=("--log", "log"))
    assert (done.stdout, done.stderr) == ("ok\nEACCES\n", "")
    place.wait_for_helpers()
    (record,) = place.denials()
    assert record["ungranted"] == ["path ./other/a: read"]


def test_a_log_has_them_for_an_unprivileged_user(program, nobody):
    copy = shutil.copy(program, nobody.folder)
    (nobody.folder / "key").write_text("secret")
    (nobody.folder / "it.policy").write_text(f"{EVERY_CALL}path {copy}: read, execute\n")
    command = [*nobody.python, "-c", START, "-p", "it.policy", "--log", "log", copy, "read:key"]
    done = subprocess.run(command, cwd=nobody.folder, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("EACCES\n", "")
    log = nobody.folder / "log"
    wait_until(lambda: '"event": "end"' in log.read_text())
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [record["ungranted"] for record in records if record["event"] == "denied"] == [["path ./key: read"]]


def test_a_log_without_files_begins_with_a_record_that_says_so(run, place):
    done = run("path ./data: read", "read:other/a", options=("--log", "log", "--no-explain"))
    assert (done.stdout, done.stderr) == ("EACCES\n", "")
    place.wait_for_helpers()
    (message,) = place.messages()
    assert message.startswith("denied files and ports are not reported: --no-explain")


def test_an_audit_can_leave_files_out(run):
    done = run("path ./data: read", "read:other/a", options=("--audit", "--no-explain"))
    assert done.stdout == "ok\n"
    assert not_granted(done) == []


def test_what_fails_without_a_denial_is_in_the_log(run, place):
    calls = "implied 1\nopenat: flags in O_ACCMODE|O_CLOEXEC\n"
    run("path ./data: read, write", "lease:data/a", "lease:data/a", options=("--log", "log"), calls=calls)
    place.wait_for_helpers()
    notes = [record["message"] for record in place.records() if record.get("level") == "note"]
    assert [text for text in notes if text.endswith("allow them): fcntl(cmd=F_SETLEASE) with EINVAL (2 times)")] != []


def test_an_explanation_says_what_failed_without_a_denial(run):
    calls = "implied 1\nopenat: flags in O_ACCMODE|O_CLOEXEC\n"
    done = run("path ./data: read, write", "lease:data/a", calls=calls)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("enforce: not denied, but failed: ")]
    assert line.endswith("(`enforce --audit` reports the lines that allow them): fcntl(cmd=F_SETLEASE) with EINVAL")


def test_an_explanation_says_so_if_there_is_nothing_for_landlock_to_enforce(place):
    calls = "openat: flags == O_RDONLY\nmmap: prot == PROT_READ|PROT_EXEC && flags == MAP_PRIVATE\n"
    place.policy(f"callfence 1\nimplied 1\n{calls}tcp connect: none\ntcp bind: none", "ports.policy")
    done = place.enforce("-p", "ports.policy", "--explain", "/bin/true")
    assert (done.returncode, done.stderr) == (0, f"enforce: --explain cannot report files or ports: {NO_LINES}\n")


@pytest.mark.parametrize("option", ["--arm=now", "--arm=entry"])
def test_however_it_is_armed(run, option):
    done = run("path ./data: read", "read:data/a", "read:other/a", options=["--explain", option])
    assert done.stdout.split() == ["ok", "EACCES"]
    assert not_granted(done) == ["path ./other/a: read"]


def test_an_audit_tells_what_would_be_denied_and_denies_nothing(run):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        operations = ("read:data/a", "read:other/a", "create:other/n", f"connect:{port}")
        done = run("path ./data: read\ntcp connect: none", *operations, options=["--audit"])
    assert done.stdout.split() == ["ok"] * 4
    assert not_granted(done) == ["path ./other/a: read", "path ./other: write, create", f"tcp connect: {port}"]
    assert done.stderr.count("would fail with EACCES") == 3


def test_an_audit_needs_no_landlock(place, run, program):
    run("path ./data: read", "nothing")
    words = [sys.executable, "-c", WITHOUT, "-p", "files.policy", "--audit", program, "read:other/a"]
    done = subprocess.run(words, cwd=place.folder, env=place.environment, capture_output=True, text=True, check=False)
    assert done.stdout == "ok\n"
    assert not_granted(done) == ["path ./other/a: read"]


def test_a_call_that_the_policy_denies_stays_denied(run):
    """Being asked about a file does not let a call run."""
    calls = "default errno EPERM\nimplied 1\nwrite: allow\nopenat: flags == O_RDONLY || flags == O_RDONLY|O_CLOEXEC\n"
    done = run("path ./data: read", "read:data/a", "write:data/a", "read:other/a", "mkdir:data/n", calls=calls)
    assert done.stdout.split() == ["ok", "EPERM", "EACCES", "EPERM"]
    assert not_granted(done) == ["path ./other/a: read"]
    assert "to allow it: callfence allow files.policy 'mkdir: " in done.stderr


def test_a_call_that_kills_still_kills(place, run, program):
    run("path ./data: read", "nothing")
    place.policy(f"implied 1\nwrite: allow\npath {program}: read, execute", "files.policy")
    done = place.enforce("-p", "files.policy", "--explain", program, "mkdir:x")
    assert done.returncode == -31, done.stderr


def test_a_log_and_what_becomes_of_it(run, place):
    run("path ./data: read\ntcp connect: 1", "read:other/a", "read:other/a", "connect:9", options=["--explain", "--log", "log"])
    place.wait_for_helpers()
    lines = place.denials()
    assert [(line["ungranted"], line["action"], line["count"]) for line in lines] == [
        (["path ./other/a: read"], "errno EACCES", 1),
        (["tcp connect: 9"], "errno EACCES", 1),
        (["path ./other/a: read"], "errno EACCES", 2),
    ]
    assert lines[0]["allow"] == [{"file": "files.policy", "line": "path ./other/a: read", "risk": None}]
    callfence = [sys.executable, "-m", "callfence"]
    settings = {"cwd": place.folder, "env": place.environment, "capture_output": True, "text": True, "check": True}
    done = subprocess.run([*callfence, "allow", "files.policy", "--log", "log"], **settings)
    assert "files.policy: path ./other/a\n  + read\nfiles.policy: tcp connect\n  + 9\n" in done.stdout
    assert "path ./other/a: read\n" in (place.folder / "files.policy").read_text()
    why = subprocess.run([*callfence, "why", "files.policy", "path ./other/a"], **settings).stdout
    assert "./other/a: read in run 1 by" in why


def test_a_log_is_reviewed(run, place):
    run("path ./data: read", "read:other/a", options=["--explain", "--log", "log"])
    words = [sys.executable, "-m", "callfence", "review", "--log", "log", "--accept-all", "files.policy"]
    done = subprocess.run(words, cwd=place.folder, env=place.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "path ./other/a: read\n" in (place.folder / "files.policy").read_text()


NOTHING_TO_TELL = (
    ("read: allow", ["--explain"], NO_LINES),
    ("path /: read, execute", ["--explain", "--quiet-kernel"], "--explain needs the helper process"),
)


@pytest.mark.parametrize(("lines", "options", "message"), NOTHING_TO_TELL)
def test_where_it_has_nothing_to_tell_it_says_so(place, program, lines, options, message):
    place.policy(f"{EVERY_CALL}{lines}", "files.policy")
    assert message in place.enforce("-p", "files.policy", *options, program, "nothing").stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="another namespace takes root")
def test_names_of_another_namespace_are_not_taken_for_ours(place):
    place.policy(f"{EVERY_CALL}path /: read, execute", "files.policy")
    write = ["sh", "-c", "echo x > new"]
    done = place.enforce("-p", "files.policy", "--explain", *write)
    assert not_granted(done) == ["path .: write, create"]
    done = place.enforce("-p", "files.policy", "--explain", "unshare", "--mount", "--propagation", "unchanged", *write)
    assert "Permission denied" in done.stderr
    assert not_granted(done) == []


def test_what_is_executed_is_opened_only_if_it_is_a_file(run, place):
    """Opening a FIFO would stop the helper for ever."""
    os.mkfifo(place.folder / "data/fifo", 0o755)
    done = run("path ./data: read", "execute:data/fifo", "read:other/a", timeout=30)
    assert done.stdout.split()[-1] == "EACCES"
    assert not_granted(done)[-1] == "path ./other/a: read"


def program_headers(head):
    """The places of the program headers of an ELF file's first bytes."""
    return (int.from_bytes(head[32:40], "little") + 56 * index for index in range(int.from_bytes(head[56:58], "little")))


def test_hostile_executables_are_told_and_what_cannot_be_executed_is_not(run, place):
    data = place.folder / "data"
    elf = bytearray(Path(sys.executable).resolve().read_bytes()[:4096])
    at = next(at for at in program_headers(elf) if elf[at : at + 4] == b"\3\0\0\0")  # PT_INTERP
    elf[at + 8 : at + 16] = b"\5\0\0\0\0\0\0\x80"  # p_offset: no file is that long
    for name, content in (("nul", b"#!/bin/\0sh\n"), ("root", b"#!/\n"), ("elf", bytes(elf))):
        (data / name).write_bytes(content)
        (data / name).chmod(0o755)
    done = run("path ./data: read", "execute:data/nul", "execute:data/root", "execute:data/elf", "execute:data", "execute:/")
    assert not_granted(done) == ["path ./data/nul: execute", "path ./data/root: execute", "path ./data/elf: execute"]
    assert "could not be described" not in done.stderr


def test_a_path_that_cannot_be_read_is_no_folder(run, place):
    done = run("path ./data: read", "no-path:data/n", f"unended:{place.folder}/other")
    assert (done.stdout.split(), done.stderr) == (["EFAULT", "EFAULT"], "")


def test_a_lease_of_the_program_does_not_stop_the_helper(run, place):
    """Opening the file would wait for 45 s (fs/locks.c, lease_break_time)."""
    (place.folder / "data/script").write_text("#!/bin/sh\n")
    (place.folder / "data/script").chmod(0o755)
    done = run("path ./data: read, write", "lease:data/script", "execute:data/script", timeout=30)
    assert done.stdout.split()[0] == "ok"
    assert not_granted(done)[0] == "path ./data/script: execute"


PHASED = """
import select
def write(name):
    try:
        open(name, "w").close()
        print("ok")
    except OSError:
        print("denied")
for name in ("other/a", "other/b"):
    write(name)
    select.poll().poll(1)
"""


def test_in_every_phase(run, place):
    """Before the last one, the helper is asked by ptrace; then by its listener."""
    run("path ./data: read", "nothing")
    (place.folder / "it.py").write_text(PHASED)
    command = [sys.executable, "-I", "-S", "it.py"]
    learn = [sys.executable, "-m", "callfence", "learn", "-q", "--files", "-o", "it.policy", *command]
    subprocess.run(learn, cwd=place.folder, env=place.environment, check=True, capture_output=True)
    lines = (place.folder / "it.policy").read_text().splitlines()
    assert "path ./other: write, create" in lines
    lines.remove("path ./other: write, create")
    after = next(number for number, line in enumerate(lines) if line.startswith("implied"))
    lines.insert(after + 1, "phase serving after poll")
    (place.folder / "it.policy").write_text("\n".join([*lines, "poll: allow", "setuid: allow until serving", ""]))
    for name in ("a", "b"):
        (place.folder / "other" / name).unlink()
    for option, outcome, verb in (("--explain", "denied", "denied"), ("--audit", "ok", "would deny")):
        done = place.enforce("-p", "it.policy", option, *command)
        assert done.stdout.split() == [outcome] * 2, done.stderr
        assert not_granted(done) == ["path ./other: write, create"] * 2
        assert all(part in done.stderr for part in (f"enforce: {verb} openat", " in start: ", " in serving: "))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_files_of_the_user_that_the_program_becomes(place):
    """In folders that root without its capabilities, as the helper is, may not enter; what no mode permits is no denial."""
    place.folder.chmod(0o755)
    for name, owner in (("own", 65534), ("private", 0)):
        folder = place.folder / name
        folder.mkdir(mode=0o700)
        for file in ("a", "b"):
            (folder / file).write_text("x\n")
        os.chown(folder, owner, owner)
    lines = "path /usr: read, execute\npath /etc: read\npath /proc: read\npath ./own/a: read\n"
    place.policy(f"{EVERY_CALL}{lines}", "files.policy")
    become = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    reads = ("sh", "-c", "for file in own/a own/b private/a; do (read x < $file) 2>/dev/null && echo $file; done; true")
    under = ("unshare", "--mount", "sh", "-c", 'mount --bind "$PWD" /mnt && cd /mnt && exec "$@"', "sh")  # which all may enter
    done = place.enforce("-p", "files.policy", "--explain", *become, *reads, under=under)
    assert (done.stdout, not_granted(done)) == ("own/a\n", ["path ./own/b: read"]), done.stderr


CHROOTED = """
import os
os.chroot("root")
for name in ("/etc/passwd", "/etc/group", "/etc/link", "/etc/shadow", "root/etc/passwd", "a"):
    try:
        open(name)
    except OSError as error:
        print(name, error.strerror)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes its root folder")
def test_names_in_another_root_folder_are_those_of_its_files(place):
    """Of the same name here is another file; an absolute link leads to one in that folder."""
    (place.folder / "root/etc").mkdir(parents=True)
    for name in ("root/etc/passwd", "root/etc/group", "a"):
        (place.folder / name).write_text("x")
    (place.folder / "root/etc/link").symlink_to("/etc/shadow")
    folders = {"/usr", "/proc", "/etc", sys.prefix, sys.base_prefix}
    lines = "".join(f"path {folder}: read, execute\n" for folder in sorted(folders))
    place.policy(f"{EVERY_CALL}{lines}path ./root/etc/group: read\n", "files.policy")
    done = place.enforce("-p", "files.policy", "--explain", sys.executable, "-I", "-S", "-c", CHROOTED)
    missing, denied = "No such file or directory", "Permission denied"
    expected = {"/etc/passwd": denied, "/etc/link": missing, "/etc/shadow": missing, "root/etc/passwd": denied, "a": denied}
    assert done.stdout == "".join(f"{name} {text}\n" for name, text in expected.items()), done.stderr
    assert not_granted(done) == ["path ./root/etc/passwd: read", "path ./a: read"], "each once"
