"""`learn` trusts neither a policy that changes while the program runs, nor a recording that does not fit its policy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from calls import native
from needed import needs_root

from callfence.learning.files import _is_public

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Nobody

CHANGED = "it.policy was changed while the program ran"
RMDIR = native("rmdir")
NEW = f"rmdir made; echo '{RMDIR}: allow' >> it.policy"
"""A program that does something new, and allows it to itself."""


def learn(folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "callfence", "learn", "-o", "it.policy", *arguments]
    changed = {**os.environ, **(environment or {})}
    return subprocess.run(command, cwd=folder, env=changed, capture_output=True, text=True, timeout=60, check=False)


def test_check_compares_with_the_policy_before_the_run(tmp_path: Path) -> None:
    learn(tmp_path, "-q", "sh", "-c", "echo '# seen' >> seen; true; ls -d . >> seen")
    done = learn(tmp_path, "--check", "sh", "-c", NEW)
    assert done.returncode == 1
    assert CHANGED in done.stderr
    assert f"+ {RMDIR}: " in done.stderr


def test_what_needs_no_line_is_not_new_to_a_check(tmp_path: Path) -> None:
    command = ("sh", "-c", "for file; do cat $file; done > seen", "sh")
    learn(tmp_path, "-q", "--files", *command, "/etc/hostname")
    unlisted = ("/dev/null", "/sys/devices/system/cpu/online", "/usr/share/zoneinfo/UTC")
    done = learn(tmp_path, "--check", *command, "/etc/hostname", *unlisted)
    assert "nothing new" in done.stderr
    assert done.returncode == 0
    done = learn(tmp_path, "--check", *command, *unlisted, "/etc/services", "/sys/devices/system/cpu/present")
    new = [line.strip() for line in done.stderr.splitlines() if "+ " in line]
    assert new == ["+ path /etc/services: read", "+ path /sys/devices/system/cpu/present: read"]
    assert done.returncode == 1


def test_a_standard_stream_that_is_opened_anew_needs_no_line(tmp_path: Path) -> None:
    """It is another file in the next run.  What is named itself needs one, and so does what a shell has redirected to."""
    text = "cat /dev/stdin a > /dev/stderr; (echo x > /dev/fd/1) > out"
    for name in ("a", "b", "out"):
        (tmp_path / name).touch()
    with open(tmp_path / "b") as given:
        command = [sys.executable, "-m", "callfence", "learn", "-q", "--files", "-o", "it.policy", "sh", "-c", text]
        with open(tmp_path / "errors", "w") as errors:
            done = subprocess.run(command, cwd=tmp_path, stdin=given, stderr=errors, timeout=60, check=False)
    assert done.returncode == 0
    lines = (tmp_path / "it.policy").read_text()
    assert [line for line in lines.splitlines() if line.startswith("path .")] == ["path ./a: read", "path ./out: write"]


def test_new_is_what_the_policy_before_the_run_did_not_have(tmp_path: Path) -> None:
    learn(tmp_path, "-q", "sh", "-c", "echo '# seen' >> seen; true; ls -d . >> seen")
    done = learn(tmp_path, "sh", "-c", NEW)
    assert CHANGED in done.stderr
    assert f"+ {RMDIR}: " in done.stderr
    assert f"{RMDIR}: allow" in (tmp_path / "it.policy").read_text()


@pytest.mark.parametrize("options", [("-q",), ("-q", "--check")])
def test_a_change_is_told_although_nothing_is_new(tmp_path: Path, options: tuple[str, ...]) -> None:
    command = ("sh", "-c", "echo 'reboot: allow' >> ${TARGET:-other}")
    learn(tmp_path, "-q", *command)
    assert learn(tmp_path, *options, *command).stderr == ""
    done = learn(tmp_path, *options, "env", "TARGET=it.policy", *command)
    assert CHANGED in done.stderr


def test_a_policy_that_appears_while_the_program_runs_is_told(tmp_path: Path) -> None:
    done = learn(tmp_path, "-q", "sh", "-c", "echo 'reboot: allow' > it.policy")
    assert done.returncode == 0
    assert CHANGED in done.stderr


def test_tight_takes_nothing_from_a_recording_that_the_policy_does_not_allow(tmp_path: Path) -> None:
    learn(tmp_path, "-q", "mkdir", "made")
    recording = (tmp_path / ".callfence" / "it.rec").read_bytes()
    learn(tmp_path, "-q", "--fresh", "--exact", "true")
    (tmp_path / ".callfence" / "it.rec").write_bytes(recording)
    done = learn(tmp_path, "--tight", "true")
    assert done.returncode == 0
    assert "of earlier runs not used, because the policy does not allow them" in done.stderr
    assert "mkdir" not in (tmp_path / "it.policy").read_text()


HIDDEN = """
import ctypes, sys
ctypes.CDLL(None).prctl(4, int(sys.argv[1]), 0, 0, 0)  # PR_SET_DUMPABLE
open("found", "w")
"""


@pytest.mark.parametrize(("is_dumpable", "is_said"), [("1", False), ("0", True)])
def test_a_process_that_cannot_be_looked_into_is_said(nobody: Nobody, is_dumpable: str, is_said: bool) -> None:
    """ssh-agent and gpg-agent make themselves such."""
    words = ("-m", "callfence", "learn", "--files", "-o", "hidden.policy", "/usr/bin/python3", "-c", HIDDEN, is_dumpable)
    done = subprocess.run([*nobody.python, *words], cwd=nobody.folder, capture_output=True, text=True, check=False)
    assert ("the files and ports that it names are not recorded; learn it as root" in done.stderr) is is_said, done.stderr
    assert (", create" in (nobody.folder / "hidden.policy").read_text()) is not is_said


BINDS = """
import ctypes, socket, sys
ctypes.CDLL(None).prctl(4, int(sys.argv[1]), 0, 0, 0)  # PR_SET_DUMPABLE
socket.create_server(("127.0.0.1", 0))
"""


@pytest.mark.parametrize(("is_dumpable", "is_said"), [("1", False), ("0", True)])
def test_so_it_is_where_only_ports_are_recorded(nobody: Nobody, is_dumpable: str, is_said: bool) -> None:
    words = ("-m", "callfence", "learn", "-o", "hidden.policy", "/usr/bin/python3", "-c", BINDS, is_dumpable)
    done = subprocess.run([*nobody.python, *words], cwd=nobody.folder, capture_output=True, text=True, check=False)
    assert ("the files and ports that it names are not recorded; learn it as root" in done.stderr) is is_said, done.stderr
    assert ("tcp bind: none" in (nobody.folder / "hidden.policy").read_text()) is is_said


PERMITS = """
import os
place = os.path.abspath("data/locked")
for mode in (0, 0o600):
    os.chmod(place, mode)
    try:
        print(open(place).read())
    except PermissionError:
        pass
"""


def test_a_file_that_may_be_read_later_is_recorded(nobody: Nobody) -> None:
    """The same call, which has failed before."""
    made = ("-c", "import os; os.mkdir('data'); open('data/locked', 'w')")
    subprocess.run([*nobody.python, *made], cwd=nobody.folder, check=True)
    words = ("-m", "callfence", "learn", "--files", "-o", "locked.policy", "/usr/bin/python3", "-c", PERMITS)
    subprocess.run([*nobody.python, *words], cwd=nobody.folder, capture_output=True, check=True)
    assert "path ./data/locked: read" in (nobody.folder / "locked.policy").read_text()


@pytest.fixture
def configuration() -> Iterator[Path]:
    """A folder below /etc with a file that every user may read."""
    folder = Path(tempfile.mkdtemp(prefix="callfence-test-", dir="/etc"))
    folder.chmod(0o755)
    (folder / "app.conf").write_text("one\n")
    yield folder
    shutil.rmtree(folder)


READS = """
import os
for name in ("~/.apprc", "~/.config/app/conf", ".app", "~/.cache/app", "~/plain", "~/.netrc"):
    try:
        print(open(os.path.expanduser(name)).read(), end="")
    except FileNotFoundError:
        pass
"""
ASKS = """
import os
for name in ("~/.apprc", "~/.config/app/conf", ".app", "~/.cache/app", "~/plain", "~/.netrc"):
    if os.access(os.path.expanduser(name), os.R_OK):
        print(open(os.path.expanduser(name)).read(), end="")
for name in ("~/.writable", "/etc/ld.so.preload"):
    os.access(os.path.expanduser(name), os.W_OK)
"""


@pytest.mark.parametrize("program", [READS, ASKS])
def test_configuration_that_is_made_later_is_read(tmp_path: Path, program: str) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    work.mkdir()
    home.mkdir()
    environment = {**os.environ, "HOME": str(home)}
    callfence = (sys.executable, "-m", "callfence")
    for _ in range(2):
        learning = (*callfence, "learn", "-q", "--files", "-o", "it.policy", "/usr/bin/python3", "-c", program)
        subprocess.run(learning, cwd=work, env=environment, timeout=60, check=True)
    lines = (work / "it.policy").read_text().splitlines()
    sought = ["path $HOME/.apprc: read", "path $HOME/.config/app/conf: read", "path ./.app: read"]
    assert {line for line in lines if line.startswith(("path $HOME", "path ./"))} == {*sought}
    asked = (*callfence, "why", "it.policy", sought[0].removesuffix(": read"))
    why = subprocess.run(asked, cwd=work, capture_output=True, text=True, timeout=60, check=False).stdout
    assert "it was looked for when it was not there" in why
    assert "no recorded run used it" not in why
    (home / ".apprc").write_text("one\n")
    (home / ".config" / "app").mkdir(parents=True)
    (home / ".config" / "app" / "conf").write_text("two\n")
    (work / ".app").write_text("three\n")
    enforced = (*callfence, "enforce", "-p", "it.policy", "/usr/bin/python3", "-c", program)
    done = subprocess.run(enforced, cwd=work, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "one\ntwo\nthree\n", done.stderr


AGAIN = {
    "state": (
        "try: print(open('run/state').read())\nexcept FileNotFoundError: open('run/state', 'w').write('1')",
        ["path ./run: write, create", "path ./run/state: read"],
    ),
    "asked": (
        "import os\nif os.access('run/state', 0): print(open('run/state').read())\nelse: open('run/state', 'w').write('1')",
        ["path ./run: write, create", "path ./run/state: read"],
    ),
    "opened to be changed": (
        "import os\ntry: open('run/db', 'r+').write('2')\n"
        "except FileNotFoundError: open('run/new', 'w').write('1'); os.rename('run/new', 'run/db')",
        ["path ./run: write, create, remove", "path ./run/db: read"],
    ),
    "removed": (
        "import os, socket\ntry: os.unlink('run/s')\nexcept FileNotFoundError: pass\n"
        "own = socket.socket(socket.AF_UNIX); own.bind('run/s')",
        ["path ./run: remove, socket"],
    ),
    "renamed": (
        "import os\ntry: os.rename('run/log', 'run/log.1')\nexcept FileNotFoundError: pass\nopen('run/log', 'w').write('1')",
        ["path ./run: write, create, remove"],
    ),
    "cache": (
        "import os\ntry: print(open('run/a/b/x').read())\n"
        "except FileNotFoundError: os.makedirs('run/a/b'); open('run/a/b/x', 'w').write('1')",
        ["path ./run: write, create", "path ./run/a: read"],
    ),
    "listed": (
        "import os\ntry: print(os.listdir('run/d'))\nexcept FileNotFoundError: os.makedirs('run/d')",
        ["path ./run: create", "path ./run/d: list"],
    ),
    "removed at the end": (
        "import os\nif os.access('run/lock', os.F_OK): print(open('run/lock').read())\n"
        "open('run/lock', 'w').write('1')\nos.unlink('run/lock')",
        ["path ./run: write, create, remove", "path ./run/lock: read"],
    ),
    "cache in a new folder": (
        "import os\nos.makedirs('run/a', exist_ok=True)\ntry: print(open('run/a/x').read())\n"
        "except FileNotFoundError: open('run/a/x', 'w').write('1')",
        ["path ./run: write, create", "path ./run/a: read"],
    ),
    "temporary": (
        "import os, tempfile\nos.makedirs('run/b', exist_ok=True)\nf = tempfile.mkdtemp()\n"
        "if not os.access(f'{f}/x', os.F_OK): open(f'{f}/x', 'w')\n"
        "if not os.access(f'{f}.x', os.F_OK): open(f'{f}.x', 'w')\nos.unlink(f'{f}.x')\n"
        "f = tempfile.mktemp()\nif not os.access(f, os.F_OK): open(f, 'w')",
        ["path ./run: create"],
    ),
    "removed with its folder": (
        "import os, shutil\ntry: print(open('run/a/x').read())\nexcept FileNotFoundError: os.makedirs('run/a')\n"
        "open('run/a/x', 'w').write('1')\nshutil.rmtree('run/a')",
        ["path ./run: write, create, remove"],
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("case", AGAIN)
def test_a_run_finds_what_the_first_one_left(tmp_path: Path, case: str) -> None:
    """It was learned once, with nothing there."""
    program, expected = AGAIN[case]
    (tmp_path / "run").mkdir()
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "it.py").write_text(program)
    words = ("/usr/bin/python3", "it.py")
    callfence = (sys.executable, "-m", "callfence")
    learning = (*callfence, "learn", "-q", "--files", "-o", "it.policy", *words)
    subprocess.run(learning, cwd=tmp_path, env=environment, timeout=60, check=True)
    lines = (tmp_path / "it.policy").read_text().splitlines()
    assert [line for line in lines if line.startswith(("path ./run", "path $TMPDIR/", "path ./tmp"))] == expected
    for _ in range(2):
        enforced = (*callfence, "enforce", "-p", "it.policy", *words)
        subprocess.run(enforced, cwd=tmp_path, env=environment, timeout=60, check=True)


def test_a_run_finds_what_one_that_was_killed_left(tmp_path: Path) -> None:
    """A file that names its process, which a server reads at its start, and removes at its end."""
    program = "import os\ntry: print(open('run/pid').read())\nexcept FileNotFoundError: pass\nopen('run/pid', 'w').write('1')"
    (tmp_path / "run").mkdir()
    (tmp_path / "it.py").write_text(f"{program}\nos.unlink('run/pid')\n")
    words = ("/usr/bin/python3", "it.py")
    callfence = (sys.executable, "-m", "callfence")
    subprocess.run((*callfence, "learn", "-q", "--files", "-o", "it.policy", *words), cwd=tmp_path, timeout=60, check=True)
    (tmp_path / "run" / "pid").write_text("4711")
    enforced = (*callfence, "enforce", "-p", "it.policy", *words)
    assert subprocess.run(enforced, cwd=tmp_path, timeout=60, check=True, stdout=subprocess.PIPE).stdout == b"4711\n"


@pytest.mark.long
def test_files_with_numbers_are_read_and_removed_by_later_runs(tmp_path: Path) -> None:
    """A third run reads what the second one made; a policy that is learned anew beside its recording grants the same."""
    (tmp_path / "run").mkdir()
    program = """if 1:
        import os, sys
        last = max((int(name[4:]) for name in os.listdir("run")), default=0)
        open(f"run/log.{last + 1}", "w").write("1")
        if last: print(open(f"run/log.{last}").read())
        if len(sys.argv) > 1: os.unlink(f"run/log.{last}")
    """
    (tmp_path / "it.py").write_text(program)
    words = ("/usr/bin/python3", "it.py")
    callfence = (sys.executable, "-m", "callfence")
    learning = (*callfence, "learn", "-q", "--files", "-o", "it.policy", *words)
    for _ in range(2):
        subprocess.run(learning, cwd=tmp_path, timeout=60, check=True)
    for _ in range(2):
        enforced = (*callfence, "enforce", "-p", "it.policy", *words, "remove")
        subprocess.run(enforced, cwd=tmp_path, timeout=60, check=True)
        (tmp_path / "it.policy").unlink()
        subprocess.run(learning, cwd=tmp_path, timeout=60, check=True)


AT_HOME = {
    "kept": ("mkdir -p ~/.app/a; echo x > ~/.app/a/f; cat ~/.app/a/f", ["path $HOME/.app: read, write, create"]),
    "removed": ("mkdir ~/.app; echo x > ~/.app/f; rm -r ~/.app", ["path $HOME: list, write, create, remove"]),
    "made again": (
        "mkdir ~/.app; echo x > ~/.app/f; rm -r ~/.app; mkdir ~/.app; echo x > ~/.app/f",
        ["path $HOME: list, write, create, remove"],
    ),
    "a file": ("echo x > ~/.app", ["path $HOME: write, create"]),
    "beside a file": (
        "mkdir -p ~/.app; echo x > ~/.app/f; cat ~/.app/f; echo x > ~/.rc",
        ["path $HOME: write, create", "path $HOME/.app: read, create"],
    ),
    "renamed": (
        "mkdir ~/.app.new; mv ~/.app.new ~/.app; echo x > ~/.app/f; cat ~/.app/f",
        ["path $HOME: read, write, create, remove"],
    ),
    "configured": (
        "mkdir -p ~/.config/app ~/.local/share/app; echo x > ~/.config/app/f; ls ~/.config >&2",
        [
            *("path $HOME/.config: list", "path $HOME/.config/app: read, write, create"),
            *("path $HOME/.local: list", "path $HOME/.local/share/app: read, create"),
        ],
    ),
    "configured beside a file": (
        "mkdir -p ~/.config/app; echo x > ~/.config/app/f; cat ~/.config/app/f; echo x > ~/.config/apprc",
        ["path $HOME/.config: list, write, create", "path $HOME/.config/app: read, create"],
    ),
    "cached and removed": (
        "mkdir -p ~/.cache/app; echo x > ~/.cache/app/f; rm -r ~/.cache/app",
        ["path $HOME/.cache: list, write, create, remove"],
    ),
    "at random": ("mkdir -p ~/.cache/x-aBcDeF; echo x > ~/.cache/x-aBcDeF/f", ["path $HOME/.cache: list, write, create"]),
    "numbered": ("mkdir ~/.app1; echo x > ~/.app1/f", ["path $HOME: write, create"]),
    "numbered in the middle": ("mkdir ~/.app-7.x; echo x > ~/.app-7.x/f", ["path $HOME: write, create"]),
    "dated": ("mkdir -p ~/.cache/1.12.26; echo x > ~/.cache/1.12.26/f", ["path $HOME/.cache: list, write, create"]),
    "of a version": (
        "mkdir -p ~/.config/gtk-3.0; echo x > ~/.config/gtk-3.0/f; mkdir -p ~/.w3m",
        ["path $HOME/.config: list", "path $HOME/.config/gtk-3.0: read, write, create", "path $HOME/.w3m: read, create"],
    ),
}


@pytest.mark.long
@needs_root
def test_a_service_keeps_its_data_in_its_home(tmp_path: Path) -> None:
    """What the configuration names there is granted as for other folders, whoever starts it, and hidden files by HOME."""
    program = "n=$(ls $1 | wc -l); cat $1/log.$n || true; echo x > $1/log.$((n + 1)); mkdir -p ~/.app; echo x > ~/.app/f"
    callfence = (sys.executable, "-m", "callfence")
    with tempfile.TemporaryDirectory(dir="/var/lib") as home:
        for how, environment in (("learn", home), ("learn", home), ("enforce", home), ("enforce", str(tmp_path))):
            options = ("-q", "--files", "-o") if how == "learn" else ("-p",)
            command = (*callfence, how, *options, "it.policy", "/bin/sh", "-ec", program, "-", home)
            subprocess.run(command, cwd=tmp_path, env={**os.environ, "HOME": environment}, timeout=60, check=True)
        assert {"log.1", "log.2", "log.3", "log.4", ".app"} <= {*os.listdir(home)}
    assert (tmp_path / ".app" / "f").exists()
    assert f"path {home}: read, write, create" in (tmp_path / "it.policy").read_text()


@pytest.mark.parametrize("case", AT_HOME)
def test_a_hidden_folder_that_a_run_makes_in_the_home_is_granted_itself(tmp_path: Path, case: str) -> None:
    """Neither the home with all that is in it, nor does another user lack the folder."""
    program, expected = AT_HOME[case]
    callfence = (sys.executable, "-m", "callfence")
    for name in ("home", "other"):
        (tmp_path / name).mkdir()
        how = ("learn", "-q", "--files", "-o") if name == "home" else ("enforce", "-p")
        environment = {**os.environ, "HOME": str(tmp_path / name)}
        command = (*callfence, *how, "it.policy", "/bin/sh", "-ec", program)
        subprocess.run(command, cwd=tmp_path, env=environment, timeout=60, check=True)
    lines = (tmp_path / "it.policy").read_text().splitlines()
    assert [line for line in lines if line.startswith("path $HOME")] == expected


def test_a_hidden_folder_is_made_in_a_home_that_is_the_working_folder(tmp_path: Path) -> None:
    """Its line begins with a dot, and `enforce` makes no such folder."""
    callfence = (sys.executable, "-m", "callfence")
    for name in ("home", "other"):
        (tmp_path / name).mkdir()
        how = ("learn", "-q", "--files", "-o") if name == "home" else ("enforce", "-p")
        command = (*callfence, *how, "../it.policy", "/bin/sh", "-c", "mkdir ~/.app ~/.config && echo x > ~/.app/f")
        environment = {**os.environ, "HOME": str(tmp_path / name)}
        subprocess.run(command, cwd=tmp_path / name, env=environment, timeout=60, check=True)


@needs_root
def test_a_hidden_folder_is_made_in_a_service_s_home_below_the_working_folder(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/srv") as place:
        (Path(place) / "home").mkdir()
        command = ("--files", "-o", str(tmp_path / "it.policy"), "/bin/sh", "-c", "mkdir ~/.app; echo x > ~/.app/f")
        done = learn(Path(place), *command, environment={"HOME": f"{place}/home"})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "it.policy").read_text().count("path $HOME/.app: read, write, create\npath /") == 1


@needs_root
@pytest.mark.parametrize(
    ("kind", "mode", "is_public"),
    [
        ("file", 0o644, True), ("file", 0o755, True), ("file", 0o640, False), ("file", 0o646, False), ("folder", 0o755, True),
        ("folder", 0o754, False), ("folder", 0o751, False), ("folder", 0o757, False), ("fifo", 0o644, False),
    ],
)  # fmt: skip
def test_a_folder_is_public_if_all_in_it_is(kind: str, mode: int, is_public: bool) -> None:
    with tempfile.TemporaryDirectory(dir="/srv") as place:
        os.chmod(place, 0o755)
        path = os.path.join(place, "it")
        {"file": os.mknod, "folder": os.mkdir, "fifo": os.mkfifo}[kind](path)
        os.chmod(path, mode)
        assert _is_public(place) is is_public
        os.chmod(place, 0o711)
        assert not _is_public(place)


@needs_root
def test_what_an_earlier_run_has_left_in_an_emptied_folder_is_made_anew(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/run", prefix="app") as folder:
        Path(folder, "pid").touch()
        done = learn(tmp_path, "--files", "-o", "it.policy", "/bin/sh", "-c", f"echo 1 > {folder}/pid")
        assert done.returncode == 0, done.stderr
        assert f"path {folder}: write, create\n" in (tmp_path / "it.policy").read_text()


@needs_root
def test_a_log_beside_those_of_others_is_granted_itself_in_the_working_folder(tmp_path: Path) -> None:
    with tempfile.NamedTemporaryFile(dir="/var/log", prefix="app", suffix=".log") as log:
        done = learn(Path("/var/log"), "--files", "-o", str(tmp_path / "it.policy"), "/bin/sh", "-c", f"echo x >> {log.name}")
    name = os.path.basename(log.name)
    assert f"./{name} was there before" in done.stderr
    assert f"path ./{name}: write\npath /" in (tmp_path / "it.policy").read_text()


@needs_root
def test_configuration_that_is_replaced_is_read_again(configuration: Path, tmp_path: Path) -> None:
    program = ("/usr/bin/python3", "-c", "import sys\nfor _ in sys.stdin: print(open(sys.argv[1]).read(), end='', flush=True)")
    conf = configuration / "app.conf"
    callfence = (sys.executable, "-m", "callfence")
    learning = (*callfence, "learn", "-q", "--files", "-o", "it.policy", *program, conf)
    subprocess.run(learning, cwd=tmp_path, input="\n", text=True, timeout=60, check=True)
    assert f"path {configuration}: read\n" in (tmp_path / "it.policy").read_text()
    enforced = (*callfence, "enforce", "-p", "it.policy", *program, conf)
    with subprocess.Popen(enforced, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        print(file=running.stdin, flush=True)
        assert running.stdout.readline() == "one\n"
        (configuration / "new").write_text("two\n")
        (configuration / "new").rename(conf)
        print(file=running.stdin, flush=True)
        assert running.stdout.readline() == "two\n"


@needs_root
@pytest.mark.parametrize("change", ["key", "owner", "writable", "socket", "closed", "closed above"])
def test_a_folder_with_a_secret_is_not_granted(configuration: Path, tmp_path: Path, change: str) -> None:
    (inner := configuration / "conf.d").mkdir()
    (other := inner / "other").write_text("it")
    if change == "key":
        other.chmod(0o640)
    elif change == "owner":
        os.chown(other, 65534, 0)
    elif change == "writable":
        inner.chmod(0o777)
    elif change == "closed":
        inner.chmod(0o700)
    else:
        os.mkfifo(inner / "fifo")
    (shown := configuration / "templates").mkdir()
    (shown / "page").write_text("it")
    configuration.chmod(0o750 if change == "closed above" else 0o755)
    done = learn(tmp_path, "--files", "cat", str(configuration / "app.conf"), str(shown / "page"))
    assert done.returncode == 0, done.stderr
    granted = shown / "page" if change == "closed above" else shown
    assert f"path {configuration}/app.conf: read\npath {granted}: read\n" in (tmp_path / "it.policy").read_text()


@pytest.mark.long
@needs_root
def test_message_queues_are_files_of_their_file_system(compile_c: Callable[..., Path], tmp_path: Path) -> None:
    program = compile_c(Path(__file__).parent / "programs" / "queue.c", "-lrt")
    script = """
        umount -a -t mqueue
        [ -d /dev/mqueue ] || { mkdir /dev/mqueue && trap 'umount -a -t mqueue; rmdir /dev/mqueue' EXIT; }
        learn -q --files -o it.policy "$1" && mount -t mqueue none /dev/mqueue && enforce -p it.policy "$1" && echo ran
        sed -i /mqueue/d it.policy
        enforce --explain -p it.policy "$1" || umount -a -t mqueue
        learn --files -o other.policy "$1"
    """
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    # --ipc: what may not remove its queue leaves it, and a user may have about ten (RLIMIT_MSGQUEUE)
    command = ["unshare", "--mount", "--ipc", "sh", "-c", script, "sh", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "ran\n", done.stderr
    assert "path /dev/mqueue: read, write: not granted" in done.stderr
    assert "opens message queues, which fails under a policy that confines files: /dev/mqueue is not mounted" in done.stderr


def test_links_of_another_users_process_end_no_learn_and_no_lint(nobody: Nobody) -> None:
    """A program looks for a file below /proc/1/root, where this user cannot read the link."""
    script = """
        "$@" learn -q --files -o it.policy -- cat /proc/1/root/x && exit 9
        printf 'path /proc/1/root: read\npath ./link: read\nread: allow\n' > it.policy
        ln -s /proc/1/root link
        "$@" lint it.policy
    """
    command = ["sh", "-c", script, "sh", *nobody.python, "-m", "callfence"]
    done = subprocess.run(command, cwd=nobody.folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == "cat: /proc/1/root/x: Permission denied\n"
    assert "danger: path /proc/1/root: it grants every file" in done.stdout
    assert "danger: path ./link: it leads to /proc/1/root by a symbolic link" in done.stdout


@pytest.mark.long
def test_files_below_a_folder_that_the_user_may_not_enter(nobody: Nobody) -> None:
    """As in `sudo -u nobody` in a home: what the program opens by relative paths is learned, and it is said if a denied one
    cannot be explained."""
    folder = nobody.folder / "closed" / "inner"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    (folder / "file").write_text("text")
    script = """
        "$@" learn -q --files -o it.policy -- sh -c 'cat file; echo x > made'
        rm made
        "$@" enforce -p it.policy sh -c 'cat file; echo x > made'
        sed '/^path \\./d' it.policy > less.policy
        "$@" enforce --explain -p less.policy cat file
    """
    command = ["sh", "-c", script, "sh", *nobody.python, "-m", "callfence"]
    (nobody.folder / "closed").chmod(0o700)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "texttext"
    first, *rest = done.stderr.splitlines()
    assert first == "cat: file: Permission denied"
    assert rest and all("in no report if" in line and "that they may not enter" in line for line in rest), done.stderr
