"""Policies that confine files and ports, enforced by the running kernel."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from enforcer.files.landlock import abi

pytestmark = pytest.mark.skipif(abi() < 4, reason="needs Landlock's ABI 4 (Linux 6.7)")
EVERY_CALL = "default allow\n"


@pytest.fixture(scope="module")
def program(build):
    return build("files", "-static")


@pytest.fixture
def files(place, program):
    """files(lines, *operations) -> what came of each operation, under these lines, in a folder with data."""
    for folder in ("data/inner", "other"):
        (place.folder / folder).mkdir(parents=True)
    for name in ("data/a", "data/b", "other/a", "data/inner/c"):
        (place.folder / name).write_text("text")

    def run(lines, *operations, options=(), **settings):
        policy = f"{EVERY_CALL}path {program}: read, execute\n{lines}"
        place.policy(policy, "files.policy")
        done = place.enforce("-p", "files.policy", *options, program, *operations, **settings)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return run


RIGHTS = (
    # the right, what it makes possible in ./data, and what it does not
    ("read", ["read:data/a", "list:data"], ["write:data/a", "create:data/n", "unlink:data/a", "execute:data/a"]),
    ("write", ["write:data/a", "open-truncate:data/a", "truncate:data/a"], ["read:data/a", "create:data/n", "list:data"]),
    ("create, write", ["create:data/n", "mkdir:data/d"], ["unlink:data/a", "symlink:data/s", "fifo:data/f", "socket:data/u"]),
    ("create", ["mkdir:data/d", "link:data/a,data/l"], ["create:data/n", "rmdir:data/d"]),
    ("remove", ["unlink:data/a", "unlink:data/inner/c", "rmdir:data/inner"], ["read:data/b", "write:data/b", "mkdir:data/d"]),
    ("create, remove", ["rename:data/a,data/b"], ["rename:data/b,other/b", "rename:data/b,data/inner/b"]),
    ("create, remove, move", ["rename:data/a,data/inner/b"], ["rename:data/b,other/b"]),
    ("symlink", ["symlink:data/s"], ["fifo:data/f", "mkdir:data/d"]),
    ("fifo", ["fifo:data/f"], ["symlink:data/s", "socket:data/u"]),
    ("socket", ["socket:data/u"], ["fifo:data/f", "create:data/n"]),
    ("none", ["stat:data/a", "chmod:data/a"], ["read:data/a", "list:data", "truncate:data/a"]),
)


@pytest.mark.parametrize(("rights", "possible", "denied"), RIGHTS, ids=[row[0] for row in RIGHTS])
def test_a_right_permits_what_its_word_says(files, rights, possible, denied):
    outcome = files(f"path ./data: {rights}", *possible, *denied)
    assert outcome[: len(possible)] == ["ok"] * len(possible)
    assert set(outcome[len(possible) :]) <= {"EACCES", "EXDEV"}


def test_without_such_lines_nothing_is_confined(place, files, program):
    place.policy(EVERY_CALL, "files.policy")
    done = place.enforce("-p", "files.policy", program, "read:data/a", "create:other/n", "rename:data/a,other/b")
    assert done.stdout.split() == ["ok"] * 3


def test_executing(files, place, program):
    (place.folder / "data" / "copy").write_bytes(Path(program).read_bytes())
    (place.folder / "data" / "copy").chmod(0o755)
    assert files("path ./data: read", "execute:data/copy") == ["EACCES"]
    assert files("path ./data: execute", "execute:data/copy") == ["EACCES"], "the kernel reads what it executes"
    assert files("path ./data: read, execute", "execute:data/copy") == ["ok", "ok"]


def test_a_file_alone(files):
    outcome = files("path ./data/a: read, write", "read:data/a", "truncate:data/a", "read:data/b", "unlink:data/a")
    assert outcome == ["ok", "ok", "EACCES", "EACCES"]


def test_a_file_that_is_replaced_takes_its_line_with_it_and_a_folder_does_not(files):
    lines = "path ./data: create, remove\npath ./data/b: read"
    assert files(lines, "read:data/b", "rename:data/a,data/b", "read:data/b") == ["ok", "ok", "EACCES"]


def test_a_link_leads_to_what_it_names_when_the_program_is_started(files, place):
    (place.folder / "link").symlink_to("data")
    assert files("path ./link: read", "read:data/a", "read:link/a", "read:other/a") == ["ok", "ok", "EACCES"]


def test_named_folders(files, place):
    environment = place.environment | {"HOME": str(place.folder / "data"), "TMPDIR": str(place.folder / "other")}
    lines = "path $HOME/inner: read\npath $TMPDIR: read"
    outcome = files(lines, "read:data/inner/c", "read:other/a", "read:data/a", env=environment)
    assert outcome == ["ok", "ok", "EACCES"]


def test_an_odd_name(files, place):
    name = os.fsencode(place.folder) + b"/a b\n\xff"
    with open(name, "w") as file:
        file.write("x")
    assert files(r'path "./a b\n\xff": read', b"read:a b\n\xff", "read:data/a") == ["ok", "EACCES"]


def test_descriptors_that_are_given_stay_usable(files, place, program):
    place.policy(f"{EVERY_CALL}path {program}: read, execute", "files.policy")
    with (place.folder / "out").open("w") as out:
        done = place.enforce("-p", "files.policy", program, "read:data/a", "write:out", stdout=out)
    assert done.returncode == 0
    assert (place.folder / "out").read_text().split() == ["EACCES", "EACCES"]


def test_ports(files):
    with socket.socket() as listening, socket.socket() as other:
        for one in (listening, other):
            one.bind(("127.0.0.1", 0))
            one.listen()
        here, there = (one.getsockname()[1] for one in (listening, other))
        outcome = files(f"tcp connect: {here}", f"connect:{here}", f"connect:{there}", "bind:0")
        assert outcome == ["ok", "EACCES", "ok"]
        assert files("tcp bind: none", f"connect:{here}", f"connect:{there}", "bind:0") == ["ok", "ok", "EACCES"]
        assert files("tcp connect: any\ntcp bind: 0", f"connect:{there}", "bind:0") == ["ok", "ok"]


def test_every_policy_confines(place, files, program):
    place.policy(f"{EVERY_CALL}path {program}: read, execute\npath ./data: read", "one.policy")
    place.policy(f"{EVERY_CALL}path {program}: read, execute\npath ./data/a: read\npath ./other: read", "two.policy")
    done = place.enforce("-p", "one.policy", "-p", "two.policy", program, "read:data/a", "read:data/b", "read:other/a")
    assert done.stdout.split() == ["ok", "EACCES", "EACCES"]


@pytest.mark.parametrize("option", ["--quiet-kernel", "--arm=now", "--arm=entry"])
def test_however_it_is_armed(files, option):
    assert files("path ./data: read", "read:data/a", "read:other/a", options=[option]) == ["ok", "EACCES"]


def test_an_audit_enforces_nothing(files):
    assert files("path ./data: read", "read:other/a", options=["--audit"]) == ["ok"]


def test_a_denied_call_is_still_explained(place, program):
    """The helper has no Landlock rules: it can look into the program."""
    policy = f"default errno EPERM\nimplied 1\npath {program}: read, execute\nwrite: allow\nexecve: allow\n"
    place.policy(policy, "files.policy")
    done = place.enforce("-p", "files.policy", program, "chmod:data/a")
    assert done.stdout == "EPERM\n"
    assert "denied chmod" in done.stderr
    assert f"by {program}" in done.stderr


FAILURES = (
    ("path $HOME: read", {"HOME": None}, "HOME is not set, and the policy has path $HOME"),
    ("path $HOME: read", {"HOME": "/"}, "HOME is /, and the policy has path $HOME: that would be every file"),
    ("path $HOME/x: read", {"HOME": "here"}, "HOME is here, which is no whole path"),
    ("path ./data/a: create", {}, "path ./data/a: only a folder can be granted create"),
    ("path /proc/self/fd/1: read", {}, "is in no folder (a pipe or a socket)"),
)


@pytest.mark.parametrize(("line", "environment", "message"), FAILURES)
def test_what_cannot_be_granted_is_an_error(place, files, program, line, environment, message):
    changed = {name: value for name, value in (place.environment | environment).items() if value is not None}
    place.policy(f"{EVERY_CALL}path {program}: read, execute\n{line}", "files.policy")
    done = place.enforce("-p", "files.policy", program, "nothing", env=changed)
    assert (done.returncode, done.stdout) == (125, "")
    assert message in done.stderr


def test_what_is_not_there_grants_nothing(place, files, program):
    place.policy(f"{EVERY_CALL}path {program}: read, execute\npath ./no: read\npath ./none: write", "files.policy")
    done = place.enforce("-p", "files.policy", program, "nothing")
    assert done.stderr == "enforce: path ./none grants nothing: ./none: No such file or directory\n", "what is read is not told"
    (place.folder / "loop").symlink_to("loop")
    place.policy(f"{EVERY_CALL}path {program}: read, execute\npath ./loop: read", "files.policy")
    done = place.enforce("-p", "files.policy", program, "nothing")
    assert "path ./loop grants nothing: ./loop: Too many levels" in done.stderr


def test_a_program_that_is_not_granted(place, program):
    place.policy(f"{EVERY_CALL}path /etc: read", "files.policy")
    done = place.enforce("-p", "files.policy", program, "nothing")
    assert done.returncode == 126
    assert "cannot be executed: its policy grants `read, execute` neither to it" in done.stderr


WITHOUT = """
import sys
import enforcer.files.landlock
enforcer.files.landlock.abi = lambda: int(sys.argv[1])
from callfence.enforcing.command import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("version", "message"),
    [(0, "has no Landlock, or it is switched off"), (1, "has version 1 of Landlock, which cannot keep it from truncating")],
)
def test_what_the_kernel_cannot_enforce_is_refused(place, files, program, version, message):
    place.policy(f"{EVERY_CALL}path {program}: read, execute\npath ./data: read", "files.policy")
    command = [sys.executable, "-c", WITHOUT, str(version)]
    given = ["-p", "files.policy", program, "read:other/a", "truncate:other/a"]
    settings = {"cwd": place.folder, "env": place.environment, "capture_output": True, "text": True, "check": False}
    refused = subprocess.run([*command, *given], **settings)
    assert (refused.returncode, refused.stdout) == (125, "")
    assert message in refused.stderr
    assert "--best-effort runs it without that" in refused.stderr
    done = subprocess.run([*command, "--best-effort", *given], **settings)
    assert done.stdout.split() == (["ok", "ok"] if version == 0 else ["EACCES", "ok"])
    assert "it runs without that" in done.stderr


MOUNTED = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")


def mounting(command):
    """Words that run others in a namespace of mounts of their own, after a mount."""
    return ("unshare", "--mount", "sh", "-c", f'{command} && exec "$@"', "sh")


@MOUNTED
def test_a_folder_grants_what_is_mounted_below_it(files):
    under = mounting("mount --bind other data/inner")
    assert files("path ./data: read", "read:data/inner/a", "read:other/a", under=under) == ["ok", "EACCES"]
    assert files("path ./other: read", "read:data/inner/a", "read:data/a", under=under) == ["ok", "EACCES"]


@MOUNTED
def test_an_overlay_is_judged_by_the_names_in_it(files, place):
    for name in ("upper", "work"):
        (place.folder / name).mkdir()
    under = mounting("mount -t overlay overlay -o lowerdir=data,upperdir=upper,workdir=work other")
    operations = ("read:other/a", "write:other/a", "create:other/n", "read:data/a", "list:upper")
    assert files("path ./other: read, write, create", *operations, under=under) == ["ok", "ok", "ok", "EACCES", "EACCES"]
    assert files("path ./data: read", "read:other/a", "read:data/a", under=under) == ["EACCES", "ok"]


def test_the_program_s_own_folder_of_proc(files):
    assert files("path /proc/self: read", "read:/proc/self/status", "read:/proc/1/status") == ["ok", "EACCES"]
    assert files("path ./data: read", "read:/proc/self/status") == ["EACCES"]


def test_what_it_starts_is_confined_too_and_finds_no_privilege(files, place, program):
    """A set-user-ID program runs without its bits (no_new_privs), under the same rules."""
    helper = place.folder / "helper"
    helper.write_bytes(Path(program).read_bytes())
    helper.chmod(0o4755)
    lines = "path ./helper: read, execute\npath ./data: read"
    assert files(lines, "execute:helper", "read:other/a") == ["ok", "ok", "EACCES"]
