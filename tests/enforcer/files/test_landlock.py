"""Policies that confine files and ports, enforced by the running kernel."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from callfence.enforcer.kernel import landlock_abi

pytestmark = pytest.mark.skipif(landlock_abi() < 4, reason="needs Landlock's ABI 4 (Linux 6.7)")
EVERY_CALL = "default allow\n"


@pytest.fixture
def files(place, program):
    """files(lines, *operations) -> what came of each operation, under these lines, in a folder with data."""
    def run(lines, *operations, options=(), **settings):
        place.policy(f"{EVERY_CALL}{lines}\npath {program}: read, execute\n", "files.policy")
        done = place.enforce("-p", "files.policy", *options, program, *operations, **settings)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return run


RIGHTS = (
    # the right, what it makes possible in ./data, and what it does not
    ("read", ["read:data/a", "list:data"], ["write:data/a", "create:data/n", "unlink:data/a", "execute:data/a"]),
    ("list", ["list:data", "list:data/inner"], ["read:data/a", "write:data/a", "create:data/n"]),
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


@pytest.mark.parametrize("line", ["path ./data/inner: write", "path ./data/inner/c: write"])
def test_a_link_that_the_program_may_have_made_grants_nothing(files, place, line):
    """It replaces what it was granted by a link to what it wants, and waits for the next start."""
    lines = f"path ./data: symlink, remove\n{line}"
    assert files(lines, "write:data/inner/c", "write:other/a") == ["ok", "EACCES"]
    if line.endswith("c: write"):
        (place.folder / "data/inner/c").unlink()
        (place.folder / "data/inner/c").symlink_to(place.folder / "other/a")
    else:
        shutil.rmtree(place.folder / "data/inner")
        (place.folder / "data/inner").symlink_to(place.folder / "other")
    assert files(lines, "write:other/a", "symlink:data/s") == ["EACCES", "ok"]


@pytest.mark.parametrize("folder", ["/", ".", "{}"])
def test_where_no_link_was_made_the_lines_hold(files, place, folder):
    """However the folder is named, in which the program may make links."""
    lines = f"path {folder.format(place.folder)}: symlink, remove\npath ./data/a: read\npath {place.folder}/other/a: read"
    assert files(lines, "read:data/a", "read:other/a", "symlink:data/s", "read:data/b") == ["ok", "ok", "ok", "EACCES"]
    for name in ("data/a", "other/a"):
        (place.folder / name).unlink()
        (place.folder / name).symlink_to(place.folder / "data/b")
    assert files(lines, "read:data/a", "read:other/a", "symlink:data/t") == ["EACCES", "EACCES", "ok"]


def test_a_link_above_a_folder_in_which_links_can_be_made_grants_nothing(files, place):
    environment = place.environment | {"HOME": str(place.folder)}
    lines = "path ./data: symlink, remove\npath $HOME: symlink, remove\npath ./data/a: read"
    assert files(lines, "read:data/a", env=environment) == ["ok"]
    (place.folder / "data").rename(place.folder / "former")
    (place.folder / "data").symlink_to("other")
    assert files(lines, "read:data/a", "read:other/a", env=environment) == ["EACCES", "EACCES"]


def test_a_link_that_was_moved_into_a_folder_grants_nothing(files, place):
    """Made where links can be made, it gets into another folder with the folder that it is in."""
    lines = "path ./data: symlink, create, move, remove\npath ./other: create, move, remove\npath ./other/sub/x: write"
    (place.folder / "target").mkdir()
    (place.folder / "target/f").touch()
    assert files(lines, "mkdir:data/sub", "symlink:data/sub/x") == ["ok", "ok"]
    (place.folder / "data/sub/x").unlink()  # the operation makes a link to itself
    (place.folder / "data/sub/x").symlink_to(place.folder / "target")
    assert files(lines, "rename:data/sub,other/sub") == ["ok"]
    assert files(lines, "write:target/f", "mkdir:data/d") == ["EACCES", "ok"]


def test_a_link_of_others_in_a_folder_that_was_moved_grants_nothing(files, place):
    """The program renames the folder in which it is to that which a line names; what it may not make is the link."""
    (place.folder / "data/old").mkdir()
    (place.folder / "data/old/c").symlink_to("../../other/a")
    lines = "path ./data: create, remove\npath ./data/inner/c: write\npath ./data/old/c: write"
    assert files(lines, "write:data/inner/c", "write:other/a") == ["ok", "EACCES"]
    operations = ("rename:data/inner,data/former", "rename:data/old,data/inner")
    assert files(lines, *operations) == ["ok", "ok"]
    assert files(lines, "write:other/a") == ["EACCES"]


def test_a_link_of_others_that_stays_where_it_is_grants_what_it_leads_to(files, place):
    """In the folder itself, only a program that makes links can put it; and to a line's name, it may rename any file of it."""
    (place.folder / "data/out").symlink_to("../other")
    (place.folder / "data/inner/in").symlink_to("../a")
    lines = "path ./data: create, remove\npath ./data/out: write\npath ./data/inner/in: write"
    assert files(lines, "write:other/a", "write:data/a", "write:data/b") == ["ok", "ok", "EACCES"]


def test_a_link_that_is_reached_by_another_name_of_its_folder_grants_nothing(files, place):
    (place.folder / "alias").symlink_to("data")
    lines = "path ./data: symlink, remove\npath ./alias/inner: write"
    assert files(lines, "write:data/inner/c", "write:other/a") == ["ok", "EACCES"]
    shutil.rmtree(place.folder / "data/inner")
    (place.folder / "data/inner").symlink_to(place.folder / "other")
    assert files(lines, "write:other/a", "symlink:data/s") == ["EACCES", "ok"]


def test_named_folders(files, place):
    environment = place.environment | {"HOME": str(place.folder / "data"), "TMPDIR": str(place.folder / "other")}
    lines = "path $HOME/inner: read\npath $TMPDIR: read"
    outcome = files(lines, "read:data/inner/c", "read:other/a", "read:data/a", env=environment)
    assert outcome == ["ok", "ok", "EACCES"]
    environment = place.environment | {"XDG_RUNTIME_DIR": str(place.folder / "data")}
    assert files("path $XDG_RUNTIME_DIR/inner: read", "read:data/inner/c", "read:data/a", env=environment) == ["ok", "EACCES"]


@pytest.mark.parametrize("options", [[], ["--explain"]], ids=str)
def test_a_working_folder_that_has_been_removed(place, program, options):
    place.policy(f"{EVERY_CALL}path .: read, create\npath {place.folder}/data: read\npath {program}: read, execute\n")
    enforce, policy = Path(sys.executable).parent / "enforce", place.folder / "calls.policy"
    script = 'mkdir gone; cd gone; rmdir ../gone; exec "$@"'
    words = [enforce, *options, "-p", policy, program, f"read:{place.folder}/data/a", f"read:{place.folder}/other/a"]
    done = subprocess.run(
        ["sh", "-c", script, "sh", *words], cwd=place.folder, env=place.environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.split()) == (0, ["ok", "EACCES"]), done.stderr


def test_an_odd_name(files, place):
    name = os.fsencode(place.folder) + b"/a b\n\xff"
    with open(name, "w") as file:
        file.write("x")
    assert files(r'path "./a b\n\xff": read', b"read:a b\n\xff", "read:data/a") == ["ok", "EACCES"]


def test_descriptors_that_are_given_stay_usable(files, place, program):
    place.policy(f"{EVERY_CALL}path {program}: read, execute", "files.policy")
    with (place.folder / "out").open("w") as out:
        done = place.enforce("-p", "files.policy", program, "read:data/a", "read:out", stdout=out)
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
    ("path $HOME: read", {"HOME": ""}, "HOME is not set, and the policy has path $HOME"),
    ("path $HOME: read", {"HOME": "/"}, "HOME is /, and the policy has path $HOME: that would be every file"),
    ("path $HOME: read", {"HOME": "/tmp/.."}, "HOME is /, and the policy has path $HOME: that would be every file"),
    ("path $TMPDIR: read", {"TMPDIR": "/proc/self/root"}, "TMPDIR is /, and the policy has path $TMPDIR: that would be every"),
    ("path $HOME/x: read", {"HOME": "here"}, "HOME is here, which is not an absolute path"),
    ("path ./data/a: create", {}, "path ./data/a is no folder, and only a folder can be granted create"),
    ("path ./data/a: list", {}, "path ./data/a is no folder, and only a folder can be granted list"),
    ("path /proc/self/fd/1: read", {}, "is a pipe or a socket in no folder"),
    ('path "./data/a": read, symlink', {}, "path ./data/a is no folder, and only a folder can be granted symlink"),
    ("path $TMPDIR: read", {"TMPDIR": "here"}, "TMPDIR is here, which is not an absolute path"),
    ("path /dev/null: remove", {}, "path /dev/null is no folder, and only a folder can be granted remove"),
)


def test_the_root_as_working_folder_is_an_error(place, files, program):
    place.policy(f"{EVERY_CALL}path {program}: read, execute\npath .: read", "files.policy")
    done = place.enforce("-p", place.folder / "files.policy", program, "nothing", cwd="/")
    assert (done.returncode, done.stdout) == (125, "")
    assert "files.policy:3: the working folder is /, and the policy has path .: that would be every file" in done.stderr


def test_without_home_it_is_that_of_passwd(place, files, program):
    """As services of the system are started."""
    home = Path(pwd.getpwuid(os.geteuid()).pw_dir)
    place.policy(f"{EVERY_CALL}path {program}: read, execute\npath $HOME: list", "files.policy")
    environment = {name: value for name, value in place.environment.items() if name != "HOME"}
    done = place.enforce("-p", "files.policy", program, f"list:{home}", f"list:{place.folder}", env=environment)
    assert (done.stdout.split(), done.returncode) == (["ok", "EACCES"], 0), done.stderr


@pytest.mark.parametrize(("line", "environment", "message"), FAILURES)
def test_what_cannot_be_granted_is_an_error(place, files, program, line, environment, message):
    changed = {name: value for name, value in (place.environment | environment).items() if value is not None}
    place.policy(f"{EVERY_CALL}path {program}: read, execute\n{line}", "files.policy")
    done = place.enforce("-p", "files.policy", program, "nothing", env=changed)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("enforce: files.policy:3: ")
    assert message in done.stderr


@pytest.mark.parametrize(("where", "name"), [("/.app", "/.app/link/new"), ("", "/.local/share")])
def test_no_folder_is_made_where_the_program_may_have_made_a_link(place, files, program, where, name):
    """It would be made where the link leads."""
    home = place.folder / "home"
    (home / where[1:]).mkdir(parents=True)
    (link := Path(f"{home}{name}").parent).symlink_to(place.folder / "data")
    lines = f"path $HOME{where}: create, symlink\npath $HOME{name}: write, create"
    place.policy(f"{EVERY_CALL}path {program}: read, execute\n{lines}", "files.policy")
    done = place.enforce("-p", "files.policy", program, "nothing", env=place.environment | {"HOME": str(home)})
    assert (done.returncode, f"path $HOME{name} grants nothing" in done.stderr) == (0, True), done.stderr
    assert link.is_symlink() and not Path(f"{home}{name}").exists()


def test_a_folder_of_which_old_files_are_removed_is_made_where_the_program_could_make_it(place, program):
    lines = f"{EVERY_CALL}path {program}: read, execute\npath $HOME/.app/logs: remove\npath $HOME/.app/state: write\n"
    place.environment["HOME"] = str(home := place.folder / "new home")
    home.mkdir()
    place.policy(lines, "files.policy")
    assert "path $HOME/.app/logs grants nothing" in place.enforce("-p", "files.policy", program, "nothing").stderr
    place.policy(f"{lines}path $HOME: create\n", "files.policy")
    done = place.enforce("-p", "files.policy", program, "nothing")
    assert "logs grants nothing" not in done.stderr
    assert [path.name for path in (home / ".app").iterdir()] == ["logs"], "a file is not made"


def test_folders_on_the_way_are_made_for_this_user_alone_and_not_the_home(place, program):
    place.policy(f"{EVERY_CALL}path {program}: read, execute\npath $HOME/.config/app: write, create\n", "files.policy")
    place.environment["HOME"] = str(home := place.folder / "new home")
    assert "the lines about $HOME grant nothing" in place.enforce("-p", "files.policy", program, "nothing").stderr
    assert not home.exists()
    home.mkdir()
    place.enforce("-p", "files.policy", program, "nothing")
    assert [oct(folder.stat().st_mode & 0o777) for folder in (home / ".config", home / ".config" / "app")] == ["0o700"] * 2


def test_what_is_not_there_grants_nothing(place, files, program):
    place.policy(f"{EVERY_CALL}path {program}: read, execute\npath ./no: read\npath ./none: write", "files.policy")
    done = place.enforce("-p", "files.policy", program, "nothing")
    assert done.stderr == "enforce: path ./none grants nothing: ./none: No such file or directory\n", "what is read is not told"
    (place.folder / "loop").symlink_to("loop")
    place.policy(f"{EVERY_CALL}path {program}: read, execute\npath ./loop: read", "files.policy")
    done = place.enforce("-p", "files.policy", program, "nothing")
    assert "path ./loop grants nothing: ./loop: Too many levels" in done.stderr


def test_a_home_that_is_not_there_is_told_once(place, program):
    lines = "path $HOME/.cache: write\npath $HOME/.app: write, remove\npath $HOME/.apprc: read\npath ./none: write"
    place.policy(f"{EVERY_CALL}path {program}: read, execute\n{lines}", "files.policy")
    home = place.folder / "no home"
    done = place.enforce("-p", "files.policy", program, "nothing", env=place.environment | {"HOME": str(home)})
    assert sorted(done.stderr.splitlines()) == [
        "enforce: path ./none grants nothing: ./none: No such file or directory",
        f"enforce: the lines about $HOME grant nothing: {home}: No such file or directory",
    ]
    assert not home.exists()


def test_what_its_user_may_not_reach_is_told_only_where_it_would_change(nobody, tmp_path):
    (hidden := tmp_path / "hidden").mkdir(mode=0o700)
    (hidden / "a").write_text("a")
    tmp_path.chmod(0o755)
    for rights, told in (("read", False), ("read, write", True)):
        lines = f"{EVERY_CALL}path /usr: read, execute\npath /etc/ld.so.cache: read\npath {hidden}/a: {rights}\n"
        (nobody.folder / "files.policy").write_text(lines)
        command = [*nobody.python, "-m", "callfence", "enforce", "-p", "files.policy", "/bin/true"]
        done = subprocess.run(command, cwd=nobody.folder, capture_output=True, text=True, check=False)
        assert (done.returncode, f"path {hidden}/a grants nothing" in done.stderr) == (0, told), done.stderr


def test_a_program_that_is_not_granted(place, program):
    place.policy(f"{EVERY_CALL}path /etc: read", "files.policy")
    for _ in range(2):  # the second finds the filter in the cache, and callfence's own files are as little granted
        done = place.enforce("-p", "files.policy", program, "nothing")
        assert (done.returncode, "Traceback" in done.stderr) == (126, False), done.stderr
        assert "cannot be executed: the policy does not grant `read, execute` to the program" in done.stderr


def test_the_log_says_so_too(place, program):
    """The process that writes it can load no module any more: what finds secrets in a command line is one."""
    place.policy(f"{EVERY_CALL}path /etc: read", "files.policy")
    done = place.enforce("--log", "log", "-p", "files.policy", program, "--password=x")
    (record,) = place.records("log")
    assert (done.returncode, record["event"], record["status"], record["command"]) == (
        126, "refused", 126, [str(program), "..."],
    )  # fmt: skip
    assert record["message"] in done.stderr and "Traceback" not in done.stderr


LINES = {
    "read and ports": "path ./data: read\ntcp connect: 9\ntcp bind: 9",
    "moving": "path .: read, create, remove, move\npath ./other: move",
}
OPERATIONS = ("read:data/a", "read:other/a", "write:data/a", "truncate:other/a", "rename:data/b,other/n", "connect:1", "bind:0")
AS = """
import sys
import callfence.enforcer.files.landlock
callfence.enforcer.kernel.landlock_abi = lambda: int(sys.argv[1])
from callfence.enforcing.command import main
sys.exit(main(sys.argv[2:]))
"""
KERNELS = (
    # lines, version, what it lacks, what comes of OPERATIONS with --best-effort
    ("read and ports", 0, "has no Landlock", "ok ok ok ok ok EACCES ok"),
    ("read and ports", 1, "truncating files that it may not write", "ok EACCES EACCES ok EACCES EACCES ok"),
    ("read and ports", 2, "truncating files that it may not write", "ok EACCES EACCES ok EACCES EACCES ok"),
    (
        "read and ports",
        3,
        "cannot restrict the TCP ports that the program can bind",
        "ok EACCES EACCES EACCES EACCES EACCES ok",
    ),
    ("read and ports", 4, "", "ok EACCES EACCES EACCES EACCES EACCES EACCES"),
    ("read and ports", 5, "", "ok EACCES EACCES EACCES EACCES EACCES EACCES"),
    ("read and ports", 6, "", "ok EACCES EACCES EACCES EACCES EACCES EACCES"),
    ("read and ports", 7, "", "ok EACCES EACCES EACCES EACCES EACCES EACCES"),
    ("moving", 1, "let the program move files between folders", "ok ok EACCES ok EXDEV ECONNREFUSED ok"),
    ("moving", 2, "truncating", "ok ok EACCES ok ok ECONNREFUSED ok"),
    ("moving", 3, "", "ok ok EACCES EACCES ok ECONNREFUSED ok"),
    ("moving", 7, "", "ok ok EACCES EACCES ok ECONNREFUSED ok"),
)


@pytest.mark.parametrize(("lines", "version", "lacking", "expected"), KERNELS)
def test_each_version_enforces_what_it_can(place, files, program, lines, version, lacking, expected):
    """Each version's rules on this kernel, which has them all: what one lacks is refused, and with --best-effort told.

    The helper judges the ports to which the program connects if Landlock does not."""
    if version > landlock_abi():
        pytest.skip(f"this kernel has version {landlock_abi()} of Landlock")
    place.policy(f"{EVERY_CALL}path {program}: read, execute\n{LINES[lines]}", "files.policy")
    command = [sys.executable, "-c", AS, str(version)]
    given = ["-p", "files.policy", program, *OPERATIONS]
    settings = {"cwd": place.folder, "env": place.environment, "capture_output": True, "text": True, "check": False}
    refused = subprocess.run([*command, *given], **settings)
    if lacking:
        assert (refused.returncode, refused.stdout) == (125, "")
        assert lacking in refused.stderr
        assert "--best-effort runs the program without that" in refused.stderr
    done = subprocess.run([*command, "--best-effort", *given], **settings) if lacking else refused
    assert " ".join(done.stdout.split()) == expected, done.stderr
    assert (lacking in done.stderr and "the program runs without that" in done.stderr) if lacking else done.stderr == ""


NO_LANDLOCK = """
import os, sys
sys.path.insert(0, "")
from callfence.enforcer import kernel
from callfence.policygen.filter.compile import compile_policy
from callfence.policygen.language.document import parse
calls = ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self")
policy = parse("default allow\\n" + "".join(f"{call}: errno ENOSYS\\n" for call in calls)).policy
filter_ = compile_policy(policy)
kernel.set_no_new_privs()
kernel.install(filter_, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_without_landlock_it_refuses(place, files, program):
    """Under a filter that fails Landlock's calls as a kernel does that lacks them."""
    place.policy(f"{EVERY_CALL}path {program}: read, execute\npath ./data: read\ntcp connect: none", "files.policy")
    under = (sys.executable, "-c", NO_LANDLOCK)
    done = place.enforce("-p", "files.policy", program, "read:other/a", under=under)
    assert (done.returncode, done.stdout) == (125, "")
    assert (
        "this kernel has no Landlock, or it is switched off, so the policy's files and ports cannot be enforced" in done.stderr
    )
    done = place.enforce("-p", "files.policy", "--best-effort", program, "read:other/a", under=under)
    assert done.stdout == "ok\n"
    assert "the policy's files and ports cannot be enforced; the program runs without that" in done.stderr
    done = place.enforce("-p", "files.policy", "--best-effort", "--explain", program, "read:other/a", under=under)
    assert "--explain cannot report files or ports: Landlock is not enforcing them" in done.stderr
    done = place.enforce("-p", "files.policy", "--audit", program, "read:other/a", under=under)
    assert (done.stdout, "path ./other/a: read: not granted" in done.stderr) == ("ok\n", True)


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


def test_a_file_cannot_be_linked_to_gain_rights(files):
    """REFER: both folders need `move`, and where it goes may not grant more than where it was."""
    lines = "path ./data: read, create, remove, move\npath ./other: read, write, create, remove, move"
    outcome = files(lines, "link:data/a,other/n", "rename:data/a,other/n", "link:other/a,data/n", "exchange:data/a,other/a")
    assert outcome == ["EXDEV", "EXDEV", "ok", "EXDEV"]
    same = "path ./data: read, create, remove, move\npath ./other: read, create, remove, move"
    assert files(same, "link:data/b,other/m", "exchange:data/a,data/b", "rename:data/b,other/o") == ["ok"] * 3


@pytest.mark.skipif(landlock_abi() < 6, reason="needs Landlock's ABI 6 (Linux 6.12)")
def test_files_move_also_in_the_domain_of_the_helper(files):
    """Where the helper connects, abstract sockets are kept by a ruleset of their own: it must permit moves (REFER), too."""
    lines = "path ./data: create, remove, move\nunix connect: none"
    assert files(f"scope signals, abstract sockets\n{lines}", "rename:data/a,data/inner/b") == ["ok"]


def test_a_temporary_file_without_a_name(files):
    """Opening it takes `write` of its folder; giving it a name takes `create`."""
    assert files("path ./data: create", "temporary:data") == ["EACCES"]
    assert files("path ./data: write", "temporary:data", "temporary:other", "named:data,data/n") == ["ok", "EACCES", "EACCES"]
    assert files("path ./data: write, create", "named:data,data/n") == ["ok"]


def test_devices(files):
    lines = "path /dev/null: read, write\npath /dev/zero: read"
    assert files(lines, "read:/dev/null", "write:/dev/null", "read:/dev/zero", "write:/dev/zero", "read:/dev/full") == [
        "ok", "ok", "ok", "EACCES", "ok",
    ]  # fmt: skip


@pytest.mark.parametrize("lines", ["path ./data: read", "path /dev/null: read"])
def test_what_grants_nothing_needs_no_line(files, lines):
    operations = ("read:/dev/null", "write:/dev/null", "write:/dev/full", "read:/dev/full", "read:/dev/zero")
    assert files(lines, *operations) == ["ok", "ok", "ok", "ok", "EACCES"]
    assert files(lines, "read:/dev/urandom", "read:/dev/random", "write:/dev/urandom") == ["ok", "ok", "EACCES"]
    cpu = "/sys/devices/system/cpu"
    processors = (f"read:{cpu}/online", f"read:{cpu}/possible", f"read:{cpu}/kernel_max", f"list:{cpu}")
    assert files(lines, *processors) == ["ok", "ok", "EACCES", "EACCES"]


@pytest.mark.parametrize("path", ["/dev/null", "/sys/devices/system/cpu/online"])
def test_what_is_another_file_there_is_one_like_others(files, path):
    under = mounting(f"mount --bind data/a {path}")
    assert files("path ./data/inner: read", f"read:{path}", under=under) == ["EACCES"]


LOCALE = "mount -t tmpfs -o mode=755 none /usr/share/locale && mkdir /usr/share/locale/de && echo x > /usr/share/locale/de/x"


@MOUNTED
def test_the_locales_of_the_c_library_need_no_line(files):
    """A program that was learned in the locale C opens them in any other."""
    operations = ("read:/usr/share/locale/de/x", "list:/usr/share/locale/de", "write:/usr/share/locale/de/x", "list:/usr/share")
    assert files("path ./data: read", *operations, under=mounting(LOCALE)) == ["ok", "ok", "EACCES", "EACCES"]


def test_the_time_zones_need_no_line(files):
    """A program writes its first local time when an error occurs, perhaps, or is run in another time zone."""
    zone, folder = os.path.realpath("/etc/localtime"), "/usr/share/zoneinfo"
    operations = ("read:/etc/localtime", f"read:{zone}", f"list:{folder}", "write:/etc/localtime", "list:/usr/share")
    assert files("path ./data: read", *operations) == ["ok", "ok", "ok", "EACCES", "EACCES"]


@MOUNTED
@pytest.mark.parametrize("folder", ["/etc/terminfo", "/usr/share/terminfo"])
def test_the_descriptions_of_terminals_need_no_line(files, folder):
    """A program whose output was no terminal while it was learned reads one once it is, or another one for another terminal."""
    mount = f"mount -t tmpfs -o mode=755 none {folder} && mkdir {folder}/x && echo x > {folder}/x/xterm"
    operations = (f"read:{folder}/x/xterm", f"list:{folder}", f"write:{folder}/x/xterm", f"list:{folder}/..")
    assert files("path ./data: read", *operations, under=mounting(mount)) == ["ok", "ok", "EACCES", "EACCES"]


@pytest.mark.parametrize(
    ("folder", "change"),
    [("nonexistent", None), pytest.param("other", "mount -t tmpfs -o ro none other", marks=MOUNTED)],
    ids=["not there", "not writable"],
)
def test_a_folder_for_temporary_files_that_is_of_no_use(files, place, folder, change):
    """Programs then use /tmp."""
    name = f"callfence-{os.getpid()}-{os.urandom(4).hex()}"
    (Path("/tmp") / name).write_text("text")
    environment, under = place.environment | {"TMPDIR": str(place.folder / folder)}, mounting(change) if change else ()
    try:
        outcome = files(f"path $TMPDIR/{name}: read", f"read:/tmp/{name}", env=environment, under=under)
    finally:
        (Path("/tmp") / name).unlink()
    assert outcome == ["ok"]


@MOUNTED
@pytest.mark.parametrize("change", ["chmod g+w", "chmod o+w", "chown 1"])
def test_locales_that_others_may_change_need_one(files, change):
    under = mounting(f"{LOCALE} && {change} /usr/share/locale")
    assert files("path ./data: read", "read:/usr/share/locale/de/x", under=under) == ["EACCES"]


@MOUNTED
@pytest.mark.parametrize("file", ["/etc/locale.alias", "/etc/localtime", "/etc/gai.conf"])
@pytest.mark.parametrize(("make", "outcome"), [("echo >", "ok"), ("ln /etc/x", "EACCES"), ("ln -s x", "EACCES")])
def test_a_file_of_the_c_library_that_needs_no_line_has_one_name(files, make, outcome, file):
    under = mounting(f"mount -t tmpfs none /etc && echo > /etc/x && {make} {file}")
    assert files("path ./data: read", f"read:{file}", under=under) == [outcome]


def test_standard_output_in_a_file_elsewhere_and_opened_anew(place, files, program):
    place.policy(f"{EVERY_CALL}path {program}: read, execute", "files.policy")
    with (place.folder / "out").open("w") as out:
        done = place.enforce("-p", "files.policy", program, "write:/dev/stdout", "write:/proc/self/fd/1", stdout=out)
    assert done.returncode == 0
    assert (place.folder / "out").read_text().split() == ["ok", "ok"]
    assert place.enforce("-p", "files.policy", program, "write:/proc/self/fd/1").stdout == "ok\n", "a pipe is in no folder"


def test_files_given_by_descriptor_stay_usable(place, files, program):
    place.policy(f"{EVERY_CALL}path {program}: read, execute", "files.policy")
    with (place.folder / "data/a").open("r+b") as given:
        number = given.fileno()
        done = place.enforce("-p", "files.policy", program, f"descriptor:{number}", "read:data/a", pass_fds=(number,))
    assert done.stdout.split() == ["ok", "EACCES"]


def test_unix_sockets(files, place):
    """Making one takes `socket`; connecting to one in a folder is its mode's business, whatever the lines say."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fsencode(place.folder / "other/s"))
        listening.listen()
        assert files("path ./data: socket", "socket:data/n", "socket:other/n", "unix-connect:other/s") == ["ok", "EACCES", "ok"]


@pytest.mark.skipif(landlock_abi() < 6, reason="needs Landlock's ABI 6 (Linux 6.12)")
def test_abstract_sockets(files):
    name = f"callfence-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0{name}")
        listening.listen()
        assert files("scope abstract sockets", f"abstract:{name}", f"own-abstract:{name}x") == ["EPERM", "ok"]
        assert files("scope signals", f"abstract:{name}") == ["ok"]
        assert files("scope signals, abstract sockets", f"abstract:{name}") == ["EPERM"]
        none = ("--scope", "none")
        assert files("scope abstract sockets", f"abstract:{name}", options=none) == ["ok"]
        assert files("path ./data: read", f"abstract:{name}", options=("--scope", "sockets")) == ["EPERM"]


def test_no_way_past_the_ports(files):
    """sendto(MSG_FASTOPEN) connects, and Landlock does not look at it; nor at MPTCP (262) and SMC (256)."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        assert files("path ./data: read", f"fast-open:{port}") == ["ok"], "the kernel can do it, or nothing is tested"
        ways = (f"fast-open:{port}", "protocol:262", "protocol:256", "protocol:6")
        assert files("tcp connect: none", *ways) == ["EOPNOTSUPP", "EPROTONOSUPPORT", "EPROTONOSUPPORT", "ok"]
        assert files("tcp connect: any", *ways[:2])[0] == "ok"
        assert files("tcp bind: none", *ways[:2]) == ["ok", "EPROTONOSUPPORT"]


def test_the_filter_keeps_from_truncating_where_landlock_need_not(place, program, files):
    """The same is denied, though by another part; and what may be written can be truncated."""
    calls = (
        "default errno EPERM\nimplied 1\nwrite: allow\nexecve: allow\ntruncate: errno EPERM\n"
        "openat: flags in O_WRONLY|O_RDWR|O_TRUNC|O_CLOEXEC "
        "&& flags & O_ACCMODE != O_RDONLY && flags & O_ACCMODE != O_ACCMODE || flags == O_RDONLY\n"
    )
    lines = f"path {program}: read, execute\npath ./data: read\npath ./other: read, write\n"
    place.policy(calls + lines, "files.policy")
    operations = ("truncate:data/a", "open-truncate:data/a", "write:data/a", "read:data/a", "open-truncate:other/a")
    done = place.enforce("-p", "files.policy", program, *operations)
    assert done.stdout.split() == ["EPERM", "EACCES", "EACCES", "ok", "ok"], done.stderr
    command = [sys.executable, "-c", AS, "1", "-p", "files.policy", program, "read:data/a"]
    done = subprocess.run(command, cwd=place.folder, env=place.environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("ok\n", ""), "so version 1 of Landlock lacks nothing for it"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have the kernel drop what it remembers")
def test_a_file_of_procfs_stays_granted_when_the_kernel_needs_memory(place):
    """It drops the inodes that nobody has open, and makes others of the same files later."""
    lines = "".join(f"path {path}: read\n" for path in ("/proc/meminfo", "/proc/self/net", "/proc/sys/kernel/pid_max", "/etc"))
    place.policy(f"{EVERY_CALL}{lines}path /usr: read, execute\n", "files.policy")
    read = "exec 3< /proc/meminfo 3< /proc/self/net/tcp 3< /proc/sys/kernel/pid_max 3< /proc/sys/vm/overcommit_memory || exit"
    with place.start("-p", "files.policy", "sh", "-c", f"{read}; echo; read x; {read}; echo all") as running:
        assert running.stdout.readline() == "\n"
        Path("/proc/sys/vm/drop_caches").write_text("2")
        assert running.communicate("\n")[0] == "all\n"


STREAMS = ("read:/dev/stdin", "write:/dev/stdin", "read:/dev/stderr", "write:/dev/stderr")
ANEW = (*STREAMS, "read:other/a", "list:other", "unlink:e")


@pytest.mark.parametrize(("option", "outcome"), [("--no-explain", "EACCES"), ("--explain", "EACCES"), ("--audit", "ok")])
def test_a_standard_stream_is_opened_anew_as_it_is(files, place, option, outcome):
    """What the program is given it holds, so /dev/stderr needs no line, whatever that is in this run."""
    with open(place.folder / "other/a") as given, open(place.folder / "e", "a") as errors:
        took = files("path ./data: read", *ANEW, options=[option], stdin=given, stderr=errors)
    assert took == ["ok", outcome, outcome, "ok", "ok", outcome, outcome]


def test_a_terminal_is_opened_anew_as_it_is(files):
    controller, terminal = os.openpty()
    os.write(controller, b"x\n")
    operations = ("write:/dev/stdin", "read:/dev/stdin", f"write:{os.ttyname(terminal)}", "write:/dev/ptmx")
    assert files("path ./data: read", *operations, stdin=terminal) == ["ok", "ok", "ok", "EACCES"]
    os.close(controller)
    os.close(terminal)


@pytest.mark.parametrize(("name", "operation"), [("/dev/zero", "read:/dev/stderr"), ("/dev/ptmx", "write:/dev/stderr")])
def test_a_stream_that_is_another_device_is_not(files, name, operation):
    descriptor = os.open(name, os.O_RDWR)
    assert files("path ./other: read", operation, stderr=descriptor) == ["EACCES"]
    os.close(descriptor)
