"""`learn --files`: what a program did with files and ports is granted to it, also elsewhere, and nothing else is."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from needed import require

from callfence.enforcer.kernel import landlock_abi
from callfence.policygen.language.document import parse_file

if TYPE_CHECKING:
    from conftest import Commands

pytestmark = pytest.mark.skipif(landlock_abi() < 4, reason="needs Landlock's ABI 4 (Linux 6.7)")
SOURCE = Path(__file__).parents[1] / "enforcer" / "programs" / "files.c"


@pytest.fixture(scope="module")
def program(compile_c):
    require("gcc", "libc6-dev")
    return compile_c(SOURCE, "-static")


class Place:
    """A folder with files, a home and a folder for temporary ones."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.folder = folder
        for name in ("data", "home", "temporary", "data/inner"):
            (folder / name).mkdir(parents=True)
        for name in ("data/a", "data/b", "data/inner/c", "home/h"):
            (folder / name).write_text("text")
        shutil.copy(program, folder / "files")
        self.environment = os.environ | {"HOME": str(folder / "home"), "TMPDIR": str(folder / "temporary")}


@pytest.fixture
def place(tmp_path, program):
    return Place(tmp_path / "here", program)


def learn(commands: Commands, place: Place, *operations: str, options: tuple[str, ...] = ("--files",)):
    policy = place.folder / "files.policy"
    done = commands.learn(policy, ["./files", *operations], place.folder, *options, env=place.environment)
    assert done.returncode == 0, done.stderr
    return parse_file(policy).policy.files.lines()


def enforce(commands: Commands, place: Place, policy: Path, *operations: str) -> list[str]:
    done = commands.enforce(policy, ["./files", *operations], place.folder, env=place.environment)
    return done.ran.stdout.decode().split()


USES = (
    ("read:data/a", {"path ./data/a": "read"}),
    ("list:data", {"path ./data": "list"}),
    ("write:data/a", {"path ./data/a": "write"}),
    ("truncate:data/a", {"path ./data/a": "write"}),
    ("create:data/n", {"path ./data": "write, create"}),
    ("mkdir:data/n", {"path ./data": "create"}),
    ("unlink:data/a", {"path ./data": "remove"}),
    ("rename:data/a,data/b", {"path ./data": "create, remove"}),
    ("rename:data/a,data/inner/n", {"path ./data": "create, remove, move"}),
    ("link:data/a,data/n", {"path ./data": "create"}),
    ("symlink:data/n", {"path ./data": "symlink"}),
    ("temporary:data", {"path ./data": "write"}),
    ("named:data,data/n", {"path ./data": "write, create"}),
    ("named:data,data/inner/n", {"path ./data": "write, create, move"}),
    ("exchange:data/a,data/b", {"path ./data": "create, remove"}),
    ("fifo:data/n", {"path ./data": "fifo"}),
    ("socket:data/n", {"path ./data": "socket"}),
    ("execute:./files", {}),
    ("read:/dev/null", {"path /dev/null": "read"}),
    ("read:/proc/self/status", {"path /proc/self/status": "read"}),
    ("read:/proc/1/status", {"path /proc": "read"}),
    ("read:nothing", {}),
    ("mkdir:data", {}),
    ("stat:data/a", {}),
)


@pytest.mark.long
@pytest.mark.parametrize(("operation", "lines"), USES, ids=[row[0] for row in USES])
def test_what_one_call_needs(commands, place, operation, lines):
    """Learned, and then allowed in another folder with another home, where nothing else is."""
    learned = learn(commands, place, operation)
    own = {"path ./files": "read, execute", "tcp connect": "none", "tcp bind": "none"}
    assert learned == own | lines
    other = Place(place.folder.parent / "there", place.folder / "files")
    policy = place.folder / "files.policy"
    natively = subprocess.run(["./files", operation], cwd=other.folder, capture_output=True, check=True).stdout.decode().split()
    other = Place(place.folder.parent / "elsewhere", place.folder / "files")
    assert enforce(commands, other, policy, operation, "read:data/inner/c")[: len(natively)] == natively


def test_ways_past_the_ports_fail_when_learned_as_when_enforced(commands, place):
    policy, operations = place.folder / "files.policy", ["fast-open:9", "protocol:262"]
    done = commands.learn(policy, ["./files", *operations], place.folder, "--files", env=place.environment)
    assert done.stdout.split() == [b"EOPNOTSUPP", b"EPROTONOSUPPORT"]
    assert enforce(commands, place, policy, *operations) == ["EOPNOTSUPP", "EPROTONOSUPPORT"]


THREADS = """
import os, threading
for _ in range(2):
    ready, thread = threading.Event(), None
    thread = threading.Thread(target=ready.wait)
    thread.start()
    place = f"/proc/self/task/{thread.native_id}"
    open(f"{place}/stat").close()
    try:
        open(f"{place}/comm", "w").write("worker")
    except PermissionError:
        print("not named")
    ready.set()
    thread.join()
"""


NO_LINE = "a thread's number is another one in each run, so no line grants writing its files"


def test_threads_have_no_lines_of_their_own(commands, place):
    """Their numbers are others in each run; and a line for all of them would permit writing their memory."""
    policy, program = place.folder / "threads.policy", ["python3", "-c", THREADS]
    done = commands.learn(policy, program, place.folder, "--files", env=place.environment)
    assert done.returncode == 0, done.stderr
    assert b"names threads by /proc, which fails under a policy that confines files" in done.stderr
    lines = parse_file(policy).policy.files.lines()
    assert {line: rights for line, rights in lines.items() if "/proc/self/task" in line} == {"path /proc/self/task": "read"}
    enforced = commands.enforce(policy, program, place.folder, env=place.environment)
    assert enforced.ran.stdout == b"not named\n" * 2
    assert {(*record["ungranted"], *record["ungrantable"]) for record in enforced.violations} == {(NO_LINE,)}


def test_the_first_thread_is_granted_its_own_files(commands, place):
    """To write: its number, which is that of the process, is another one in each run."""
    policy, program = place.folder / "thread.policy", ["sh", "-c", "echo 0 > /proc/thread-self/oom_score_adj && echo ok"]
    assert commands.learn(policy, program, place.folder, "--files", env=place.environment).stdout == b"ok\n"
    assert parse_file(policy).policy.files.lines()["path /proc/thread-self/oom_score_adj"] == "write"
    assert commands.enforce(policy, program, place.folder, env=place.environment).ran.stdout == b"ok\n"


@pytest.mark.parametrize(("operation", "has_line"), [("own-abstract:{}", True), ("abstract:{}", False), ("read:data/a", False)])
def test_abstract_sockets_of_its_own_are_kept_among_its_processes(commands, place, operation, has_line):
    name = f"callfence-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listening:
        if not has_line:
            listening.bind(f"\0{name}")
            listening.listen()
        learn(commands, place, operation.format(name))
        text = (place.folder / "files.policy").read_text()
        assert ("abstract sockets" in text) == has_line
    if has_line:
        learn(commands, place, operation.format(name), options=())
        assert (place.folder / "files.policy").read_text() == text
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"\0{name}")
            listening.listen()
            learn(commands, place, f"abstract:{name}", options=())
        assert "scope" not in (place.folder / "files.policy").read_text(), "another one's was connected to"


def test_a_later_run_is_warm_and_sees_files_all_the_same(commands, place):
    """What the policy allows runs without a stop, but for the calls that name files and ports."""
    learn(commands, place, "read:data/a")
    lines = learn(commands, place, "read:data/a", "read:data/b", "stat:data/b", options=())
    assert lines["path ./data"] == "read"
    recording = (place.folder / ".callfence/files.rec").read_text().splitlines()
    assert [json.loads(line)["warm"] for line in recording if '"warm"' in line] == [False, True]


def test_what_a_program_makes_is_granted_by_the_folder_that_was_there(commands, place):
    operations = ("mkdir:out", "mkdir:out/deep", "create:out/deep/x", "read:out/deep/x", "unlink:out/deep/x", "rmdir:out/deep")
    lines = learn(commands, place, *operations)
    assert lines["path ."] == "read, write, create, remove"
    other = Place(place.folder.parent / "there", place.folder / "files")
    assert enforce(commands, other, place.folder / "files.policy", *operations) == ["ok"] * len(operations)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes its root folder")
def test_names_in_another_root_folder_are_those_of_its_files(commands, place):
    """rsync's and vsftpd's; what has the same name here is another file."""
    (place.folder / "data/etc").mkdir()
    for name, target in (("l", "a"), ("hosts", "/etc/passwd")):
        (place.folder / "data/etc" / name).symlink_to(target)
    (place.folder / "data/etc/a").write_text("text")
    inside = ("read:/a", "read:/etc/l", "mkdir:/made", "socket:/inner/s", "list:/", "read:data/b", "read:home/h")
    missing = ("read:/etc/hosts", "read:/etc/passwd", "list:/usr")
    lines = learn(commands, place, "chroot:data", *inside, *missing)
    read = dict.fromkeys(("path ./data/a", "path ./data/b", "path ./data/etc/a", "path $HOME/h"), "read")
    expected = {"path ./data": "list, create", "path ./data/inner": "socket", **read}
    assert {name: rights for name, rights in lines.items() if name.startswith("path ") and "files" not in name} == expected
    (place.folder / "data/made").rmdir()
    (place.folder / "data/inner/s").unlink()
    outcomes = enforce(commands, place, place.folder / "files.policy", "chroot:data", *inside, *missing)
    assert outcomes == ["ok"] * (1 + len(inside)) + ["ENOENT"] * len(missing)


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes what is mounted")
def test_a_program_that_mounts_is_named(commands, place):
    """Landlock denies it, whatever is granted, and tells nobody."""
    command = ["unshare", "--mount", "mount", "--bind", "data", "data/inner"]
    policy = place.folder / "files.policy"
    told = "/mount changes what is mounted, which fails under a policy that confines files"
    for options, expected in ((("--files",), True), ((), True), (("--files", "--fresh"), True), (("--fresh",), False)):
        done = commands.learn(policy, command, place.folder, *options, env=place.environment)
        assert (done.returncode, told in done.stderr.decode()) == (0, expected), done.stderr
    done = commands.enforce(policy, command, place.folder, env=place.environment)
    assert done.ran.returncode == 0, done.ran.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes what is mounted")
def test_files_that_are_others_in_a_mount_namespace_are_not_recorded(commands, place):
    """Else a policy granted the file outside, of which the program has only used the path."""
    for name in ("data/it", "other/it"):
        (place.folder / name).parent.mkdir(exist_ok=True)
        (place.folder / name).write_text(name)
    script = "mount --bind other data && exec cat data/it"
    done = commands.learn(place.folder / "files.policy", ["unshare", "--mount", "sh", "-c", script], place.folder, "--files")
    assert done.stdout == b"other/it"
    assert "path ./data" not in (place.folder / "files.policy").read_text()
    assert "cat uses files of a mount namespace of its own; those that are others here are not recorded" in done.stderr.decode()


REPLACED = {
    "a state that is read, replaced and read": "for n in 1 2; do read x < $D/a || :; echo $n > $D/n; mv $D/n $D/a; done",
    "a log that is moved away and made anew": "for n in 1 2; do echo $n >> $D/a; mv $D/a $D/o; done",
    "a file that is removed and made anew": "for n in 1 2; do echo $n > $D/a; rm $D/a; done",
    "a folder that is moved and made anew": "for n in 1 2; do echo $n > $D/inner/c; mv $D/inner $D/o$n; mkdir $D/inner; done",
}


@pytest.mark.parametrize("script", REPLACED.values(), ids=REPLACED)
def test_a_file_that_is_replaced_is_granted_by_its_folder(commands, place, script):
    """By the name that was there before as well: the same call is about another file the second time."""
    policy, program = place.folder / "replaced.policy", ["sh", "-ec", f"D={place.folder}/data; {script}; echo ok"]
    assert commands.learn(policy, program, place.folder, "--files", env=place.environment).stdout == b"ok\n"
    shutil.rmtree(place.folder / "data")
    for name in ("data/a", "data/inner/c"):
        (place.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (place.folder / name).write_text("text")
    assert commands.enforce(policy, program, place.folder, env=place.environment).ran.stdout == b"ok\n"


OTHERS = {
    "its configuration, which is read again": 'cat "$D/a"; read x < "$D/pipe"; cat "$D/a"',
    "its log, which is opened again": 'echo 1 >> "$D/a"; read x < "$D/pipe"; echo 2 >> "$D/a"; tail -n 1 "$D/a"',
}


@pytest.mark.parametrize("script", OTHERS.values(), ids=OTHERS)
def test_a_file_that_others_replace_is_granted_by_its_folder(commands, place, script):
    """An administrator's editor, or logrotate(8), before a reload."""
    policy, program = place.folder / "replaced.policy", ["sh", "-ec", f"D={place.folder}/data; {script}"]
    os.mkfifo(place.folder / "data" / "pipe")

    def replace() -> None:
        with (place.folder / "data" / "pipe").open("w") as pipe:  # when the program opens it
            (place.folder / "new").write_text("another\n")
            (place.folder / "new").replace(place.folder / "data" / "a")
            pipe.write("go\n")

    printed = []
    for run in (commands.learn, lambda *words, **options: commands.enforce(*words, **options).ran):
        (place.folder / "data" / "a").write_text("text\n")
        other = threading.Thread(target=replace)
        other.start()
        extra = ("--files",) if run == commands.learn else ()
        printed.append(run(policy, program, place.folder, *extra, env=place.environment).stdout)
        other.join()
    assert printed[0] == printed[1] != b""
    assert "path ./data" in parse_file(policy).policy.files.lines()


def test_a_replaced_file_of_etc_takes_no_line_for_etc(commands, place):
    """Its folder has nothing to do with it: the summary says what will be missing."""
    policy, name = place.folder / "etc.policy", Path(f"/etc/callfence-{os.getpid()}")
    pipe = place.folder / "data" / "pipe"
    os.mkfifo(pipe)

    def replace() -> None:
        with pipe.open("w") as opened:
            name.with_suffix(".new").write_text("another\n")
            name.with_suffix(".new").replace(name)
            opened.write("go\n")

    other = threading.Thread(target=replace)
    name.write_text("text\n")
    try:
        other.start()
        program = ["sh", "-ec", f"cat {name}; read x < {pipe}; cat {name}"]
        done = commands.learn(policy, program, place.folder, "--files", env=place.environment)
        other.join()
    finally:
        name.unlink()
    assert f"{name} was replaced while the program ran".encode() in done.stderr
    assert "path /etc" not in parse_file(policy).policy.files.lines()


@pytest.mark.skipif(os.geteuid() != 0, reason="making files in these folders takes root")
@pytest.mark.parametrize(("above", "after"), [("/run", "the machine's next start"), ("/var/log", "a rotation of logs")])
def test_a_file_that_was_left_where_files_are_removed_is_made_again(commands, place, above, after):
    """For the folder itself, which others use as well, the summary says what will be missing."""
    name, folder = Path(f"{above}/callfence-{os.getpid()}.pid"), Path(f"{above}/callfence-{os.getpid()}")
    folder.mkdir()
    program = ["sh", "-ec", f"echo 1 > {folder}/pid; echo 2 > {name}; rm {name} {folder}/pid"]
    policy = place.folder / "run.policy"
    said = f"{name} was there before: the policy does not let the program make it, as it must after {after}:"
    try:
        for left in name, folder / "pid":
            left.write_text("text\n")
        kept = [*program[:2], program[2].replace(f"rm {name} {folder}/pid", "true")]
        done = commands.learn(policy, kept, place.folder, "--files", env=place.environment)
        lines = parse_file(policy).policy.files.lines()
        assert (lines[f"path {name}"], lines[f"path {folder}"]) == ("write", "write, create")
        assert f"path {above}" not in lines
        assert said.encode() in done.stderr.replace(b"\n               ", b" ")
        for left in name, folder / "pid":
            left.unlink()
        done = commands.learn(policy, program, place.folder, "--files", env=place.environment)
        assert said.encode() not in done.stderr
        done = commands.enforce(policy, program, place.folder, env=place.environment)
        assert done.ran.returncode == 0, done
    finally:
        for left in name, folder / "pid":
            left.unlink(missing_ok=True)
        folder.rmdir()


def test_who_makes_terminals_is_granted_their_other_ends(commands, place):
    lines = learn(commands, place, "terminal:/dev/ptmx")
    assert [line for line in lines if "/dev/p" in line] == ["path /dev/ptmx", "path /dev/pts"]
    assert enforce(commands, place, place.folder / "files.policy", "terminal:/dev/ptmx") == ["ok"]


def test_links_of_proc_are_the_program_s_own(commands, place):
    for name, target in {"mtab": "/proc/mounts", "other": f"{'../' * 32}proc/self/mounts"}.items():
        (place.folder / name).symlink_to(target)
    operations = ["read:/proc/net/tcp", "read:/proc/self/net/dev", "read:/proc/mounts", "read:mtab", "read:other"]
    for options in (), ("--exact",):
        lines = learn(commands, place, *operations, options=("--files", "--fresh", *options))
        found = {name: rights for name, rights in lines.items() if "/proc" in name}
        assert found == {"path /proc/self/mounts": "read", "path /proc/self/net": "read"}
        assert enforce(commands, place, place.folder / "files.policy", *operations) == ["ok"] * 5


def test_an_own_folder_is_made_though_the_home_is_granted(commands, place):
    """What a line for the home grants is missing in those for folders below it, but for `create`, by which they are made."""
    home = f"{place.folder}/home"
    operations = [f"mkdir:{home}/step", f"mkdir:{home}/.config", f"create:{home}/.config/x", f"write:{home}/.config/x"]
    lines = learn(commands, place, *operations)
    assert (lines["path $HOME"], lines["path $HOME/.config"]) == ("create", "write, create")
    other = Place(place.folder.parent / "there", place.folder / "files")
    operations = [text.replace(str(place.folder), str(other.folder)) for text in operations]
    assert enforce(commands, other, place.folder / "files.policy", *operations) == ["ok", "EEXIST", "ok", "ok"]


def test_the_cache_of_a_new_user_takes_no_right_to_the_home(commands, place):
    wanted = {"": "mkdir", "/it": "mkdir", "/it/x": "create"}
    operations = [f"{what}:{place.folder}/home/.cache{name}" for name, what in wanted.items()]
    lines = learn(commands, place, *operations)
    assert [line for line in lines if "HOME" in line] == ["path $HOME/.cache/it"]
    other = Place(place.folder.parent / "there", place.folder / "files")
    operations = [text.replace(str(place.folder), str(other.folder)) for text in operations]
    assert enforce(commands, other, place.folder / "files.policy", *operations) == ["EEXIST", "EEXIST", "ok"]


@pytest.mark.parametrize("folder", ["home/.app/state", "home/.local/share/app", "temporary/app-0"])
def test_a_folder_of_its_own_that_an_earlier_run_made_is_made_for_a_new_user(commands, place, folder):
    """By `enforce`, with this user alone in it; the program finds that it is there, as it did when it was learned."""

    def operations(here: Place) -> list[str]:
        return [f"mkdir:{here.folder}/{folder}", f"create:{here.folder}/{folder}/x", f"write:{here.folder}/{folder}/x"]

    (place.folder / folder).mkdir(parents=True)
    learn(commands, place, *operations(place))
    other = Place(place.folder.parent / "there", place.folder / "files")
    assert enforce(commands, other, place.folder / "files.policy", *operations(other)) == ["EEXIST", "ok", "ok"]
    assert (other.folder / folder).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("second", [["create:{}/history"], ["create:{}/history~", "rename:{}/history~,{}/history"]])
def test_a_folder_of_its_own_is_made_though_a_later_run_makes_a_file_in_the_home(commands, place, second):
    def at(here: Place, *operations: str) -> list[str]:
        return [operation.replace("{}", f"{here.folder}/home") for operation in operations]

    first = ["mkdir:{}/.app", "create:{}/.app/x", "read:{}/.app/x"]
    learn(commands, place, *at(place, *first))
    learn(commands, place, *at(place, *second), options=())
    other = Place(place.folder.parent / "there", place.folder / "files")
    assert enforce(commands, other, place.folder / "files.policy", *at(other, *first)) == ["EEXIST", "ok", "ok"]


def test_named_folders_are_those_of_the_machine(commands, place):
    operations = [f"create:{place.folder}/temporary/x", f"read:{place.folder}/home/h"]
    lines = learn(commands, place, *operations)
    assert lines["path $TMPDIR"] == "write, create"
    assert lines["path $HOME/h"] == "read"


def test_a_later_run_adds_what_it_needs_and_names_that_vary_become_their_folder(commands, place):
    learn(commands, place, "read:data/a")
    lines = learn(commands, place, "read:data/b", "connect:9", options=())
    assert lines == {"path ./data": "read", "path ./files": "read, execute", "tcp connect": "9", "tcp bind": "none"}
    before = (place.folder / "files.policy").read_text()
    learn(commands, place, "read:data/b", options=())
    assert (place.folder / "files.policy").read_text() == before


def test_files_are_moved_after_a_later_run_as_before(commands, place):
    learn(commands, place, "rename:data/a,temporary/a")
    learn(commands, place, "create:data/n", options=())
    os.rename(place.folder / "temporary" / "a", place.folder / "data" / "a")
    policy = place.folder / "files.policy"
    assert enforce(commands, place, policy, "rename:data/a,temporary/a", "rename:temporary/a,data/a") == ["ok", "ok"]


def test_exact_is_each_name_that_was_used(commands, place):
    for number in range(9):
        (place.folder / f"data/{number}").write_text("")
    operations = [*(f"read:data/{number}" for number in range(9)), "read:/usr/share/dict", "read:/usr/lib/os-release"]
    lines = learn(commands, place, *operations, options=("--files", "--exact"))
    assert [line for line in lines if "data" in line] == [f"path ./data/{number}" for number in range(9)]
    assert "path /usr/lib/os-release" in lines
    lines = learn(commands, place, "read:data/a", "create:home/new", options=("--exact",))
    assert lines["path ./data/a"] == "read"
    assert lines["path $HOME"] == "write, create", "nothing narrower grants a new name"


def test_a_check_finds_new_files(commands, place):
    learn(commands, place, "read:data/a")
    policy = place.folder / "files.policy"
    done = commands.learn(policy, ["./files", "read:home/h"], place.folder, "--check", env=place.environment)
    assert done.returncode == 1
    assert b"+ path $HOME/h: read" in done.stderr
    assert commands.learn(policy, ["./files", "read:data/a"], place.folder, "--check", env=place.environment).returncode == 0


def test_a_check_does_not_ask_for_what_no_run_used(commands, place):
    """Configuration that was not there: who takes it out of the policy does not want it."""
    learn(commands, place, "read:.apprc")
    policy = place.folder / "files.policy"
    policy.write_text(policy.read_text().replace("path ./.apprc: read\n", ""))
    done = commands.learn(policy, ["./files", "read:.apprc"], place.folder, "--check", env=place.environment)
    assert done.returncode == 0, done.stderr


def test_nothing_is_learned_that_a_baseline_forbids(commands, place):
    (place.folder / "base.policy").write_text("default allow\npath .: read, execute\npath /: none\n")
    options = ("--files", "--within", "base.policy")
    lines = learn(commands, place, "read:data/a", "write:data/b", "connect:9", options=options)
    assert lines == {"path ./data/a": "read", "path ./files": "read, execute", "tcp connect": "9", "tcp bind": "none"}


def test_two_machines_give_one_policy(commands, place):
    """Another folder, home and folder for temporary files, and another user's names: the same bytes."""
    texts = []
    for name in ("one", "two/deep"):
        other = Place(place.folder.parent / name, place.folder / "files")
        operations = ("read:data/a", f"create:{other.folder}/temporary/{name[:3]}", f"read:{other.folder}/home/h")
        learn(commands, other, *operations)
        texts.append((other.folder / "files.policy").read_text())
    assert texts[0] == texts[1]


def test_without_the_option_no_files_are_confined(commands, place):
    assert learn(commands, place, "read:data/a", options=()) == {"tcp connect": "none", "tcp bind": "none"}
    assert learn(commands, place, "connect:9", options=()) == {"tcp connect": "9", "tcp bind": "none"}
    assert "path ./data/b" in learn(commands, place, "read:data/a", "read:data/b")


def test_a_script_needs_its_interpreter(commands, place):
    script = place.folder / "script"
    script.write_text("#!/bin/sh\n./files read:data/a\n")
    script.chmod(0o755)
    policy = place.folder / "script.policy"
    assert commands.learn(policy, ["./script"], place.folder, "--files", env=place.environment).returncode == 0
    done = commands.enforce(policy, ["./script"], place.folder, env=place.environment)
    assert done.ran.stdout == b"ok\n", done.ran.stderr


WAYS = (
    ("mkdir out; ln -s out/n link", "echo n > link; cat out/n; rm out/n", {"./out": "read, write, create, remove"}),
    ("mkdir out", "exec 5> out/n; rm out/n; echo n >&5; cat /dev/fd/5", {"./out": "read, write, create, remove"}),
    ("", "cat /dev/stdin <&3; cat /dev/stdin <&4", {"./data/a": "read", "./data/b": "read"}),
    ("", "echo n > data; echo n > /dev/stdout; echo n > /proc/self/fd/1; echo n > /dev/fd/9", {}),
    (
        "mkdir out; printf '#!/bin/sh\ncat $1' > out/first; printf '#!./first\n' > out/second; chmod +x out/*",
        "cd out; ./second",
        {"./out/first": "read, execute", "./out/second": "read, execute"},
    ),
    ("echo > real; ln -s /dev/fd/3 one; ln -s one two", "exec 3< real; read a < two", {"./real": "read"}),
    ("ln -s /dev/fd/3 one; ln -s one two", "read a < two", {"./data/a": "read"}),
)
"""What is there before; what a program does; and the files of its folder, of /dev and of /proc that are granted for that."""


@pytest.mark.parametrize(("before", "script", "granted"), WAYS, ids=[script for _, script, _ in WAYS])
def test_a_file_is_named_in_other_ways(commands, place, before, script, granted):
    """By a link that leads to no file, by a descriptor, or by a path that starts elsewhere than for `learn`."""
    (place.folder / "app").write_text(f"#!/bin/sh\n{script}\n")
    subprocess.run(["sh", "-c", f"chmod +x app\n{before}"], cwd=place.folder, check=True)
    policy, given = place.folder / "app.policy", ["sh", "-c", 'exec "$@" 3< data/a 4< data/b', "sh"]
    learning, enforcing = commands.learning(policy, "-q", "--files"), commands.enforcing(policy, policy.with_suffix(".log"))
    learned, enforced = (
        commands.plain([*given, *words, "./app"], place.folder, env=place.environment) for words in (learning, enforcing)
    )
    lines = parse_file(policy).policy.files.lines()
    wanted = {f"path {name}": rights for name, rights in granted.items()} | {"path ./app": "read, execute"}
    assert {line: lines[line] for line in lines if line.startswith(("path .", "path /dev", "path /proc"))} == wanted
    assert (enforced.stdout, enforced.stderr) == (learned.stdout, learned.stderr)


def test_a_program_for_i386_names_sockets_in_memory(commands, place, compile_c):
    """By socketcall(2), also if a later run makes it where the policy allows it already."""
    shutil.copy(compile_c(SOURCE, "-static", "-m32"), place.folder / "files")
    lines = learn(commands, place, "socket:data/n", "bind:7011", "own-abstract:it")
    ports = {"tcp connect": "none", "tcp bind": "7011"}
    assert lines == {"path ./data": "socket", "path ./files": "read, execute"} | ports
    assert parse_file(place.folder / "files.policy").policy.scope == "signals, abstract sockets"
    lines = learn(commands, place, "socket:temporary/n", "bind:7012", "connect:9", options=())
    assert (lines["path $TMPDIR"], lines["tcp bind"], lines["tcp connect"]) == ("socket", "7011-7012", "9")
    (place.folder / "data" / "n").unlink()
    assert enforce(commands, place, place.folder / "files.policy", "socket:data/n", "bind:7011", "bind:7013") == [
        "ok",
        "ok",
        "EACCES",
    ]


IN_MEMORY = """
import os
file = os.memfd_create("it", 0)
os.write(file, open("files", "rb").read())
os.execve(file, ["it", "read:data/a"], os.environ)
"""


def test_a_file_in_memory_has_no_line(commands, place):
    policy, program = place.folder / "memory.policy", ["/usr/bin/python3", "-c", IN_MEMORY]
    assert commands.learn(policy, program, place.folder, "--files", env=place.environment).stdout == b"ok\n"
    assert "/memfd:" not in policy.read_text()
    done = commands.enforce(policy, program, place.folder, env=place.environment)
    assert done.ran.stdout == b"ok\n", done.ran.stderr


def test_odd_names_are_learned_and_granted(commands, place):
    name = os.fsdecode(b'data/a b\n\xff"\\')
    (place.folder / name).write_text("text")
    lines = learn(commands, place, f"read:{name}")
    assert r'path "./data/a b\n\xff\"\\"' in lines
    assert enforce(commands, place, place.folder / "files.policy", f"read:{name}", "read:data/a") == ["ok", "EACCES"]


@pytest.mark.long
def test_why_tells_the_names_that_a_line_comes_from(commands, place):
    learn(commands, place, "read:data/a")
    learn(commands, place, "read:data/b", "connect:9", options=())
    words = [sys.executable, "-m", "callfence", "why", "files.policy"]
    settings = {"cwd": place.folder, "env": place.environment, "capture_output": True, "text": True, "check": False}
    done = subprocess.run([*words, "path ./data"], **settings)
    assert (
        re.sub(r" at files\+0x[0-9a-f]+", " at SITE", done.stdout)
        == f"""\
path ./data: read
  ./data/a: read in run 1 by {place.folder}/files at SITE
  ./data/b: read in run 2 by {place.folder}/files at SITE
  the whole folder is granted, because the names in it differ from run to run
  the line covers everything below the folder: 3 files now, 0 of them executable

"""
    )
    for name in ("data/id_rsa", "data/inner/x.pem"):
        (place.folder / name).write_text("")
    done = subprocess.run([*words, "path ./data"], **settings)
    assert "5 files now, 0 of them executable, 2 keys\n" in done.stdout
    whole = subprocess.run(words, **settings).stdout
    assert f"tcp connect: 9\n  9 in run 2 by {place.folder}/files\n\ntcp bind: none\n  no recorded run bound a port\n" in whole
    assert subprocess.run([*words, "path ./none"], **settings).returncode == 1


def test_what_is_dangerous_is_told_when_it_is_learned(commands, place):
    policy = place.folder / "files.policy"
    words = ["./files", f"create:{place.folder}/home/new"]
    done = commands.learn(policy, words, place.folder, "--files", env=place.environment)
    assert b"risk         path $HOME: it grants everything in the user's home [whole-home]" in done.stderr


def test_the_report_has_the_lines_and_the_names_behind_them(commands, place):
    learn(commands, place, "read:data/a")
    learn(commands, place, "read:data/b", "connect:9", options=())
    words = [sys.executable, "-m", "callfence", "report", "files.policy", "-o", "report.html"]
    subprocess.run(words, cwd=place.folder, env=place.environment, check=True, capture_output=True)
    page = (place.folder / "report.html").read_text()
    assert "path ./data: read</code>" in page
    assert "the whole folder is granted, because the names in it differ from run to run" in page
    assert "the line covers everything below the folder: 3 files now, 0 of them executable" in page
    assert f"./data/b: read in run 2 by {place.folder}/files" in page
    assert f"<code>9</code> by {place.folder}/files" in page


def test_recordings_of_several_machines_give_one_policy(commands, place):
    learn(commands, place, "read:data/a")
    other = Place(place.folder.parent / "there", place.folder / "files")
    learn(commands, other, "read:data/b", "connect:9")
    recordings = [str(one.folder / ".callfence/files.rec") for one in (place, other)]
    callfence = [sys.executable, "-m", "callfence"]
    subprocess.run([*callfence, "merge", "-o", "both.rec", *recordings], cwd=place.folder, check=True)
    words = [*callfence, "import", "--from", "recording", "-o", "both.policy", "both.rec"]
    subprocess.run(words, cwd=place.folder, check=True, capture_output=True)
    lines = parse_file(place.folder / "both.policy").policy.files.lines()
    assert lines == {"path ./data": "read", "path ./files": "read, execute", "tcp connect": "9", "tcp bind": "none"}


@pytest.mark.long
def test_recordings_are_imported_one_by_one_as_they_are_together(commands, place):
    """With the earlier runs of the policy's recording, as `learn` does."""
    callfence, texts = [sys.executable, "-m", "callfence"], set()
    for name in "ab":
        learn(commands, place, f"read:data/{name}")
        shutil.move(place.folder / ".callfence" / "files.rec", place.folder / f"{name}.rec")
        (place.folder / "files.policy").unlink()
    for order in ("ab", "ba"):
        for name in order:
            words = [*callfence, "import", "--from", "recording", f"{name}.rec", "-o", "it.policy"]
            subprocess.run(words, cwd=place.folder, env=place.environment, check=True, capture_output=True)
        assert parse_file(place.folder / "it.policy").policy.files.lines()["path ./data"] == "read"
        texts.add((place.folder / "it.policy").read_text())
        (place.folder / "it.policy").unlink()
        (place.folder / ".callfence" / "it.rec").unlink()
    assert len(texts) == 1


def test_a_recording_with_a_run_of_a_clock_that_was_ahead_is_an_earlier_one(commands, place):
    learn(commands, place, "read:data/a")
    recording = place.folder / ".callfence" / "files.rec"
    recording.write_text(recording.read_text().replace('"started": 1', '"started": 2', 1))
    learn(commands, place, f"own-abstract:callfence-{os.getpid()}", "read:.apprc", options=())
    assert "abstract sockets" in (place.folder / "files.policy").read_text()
    assert "path ./.apprc: read" in (place.folder / "files.policy").read_text()
