"""Lines about files and ports in other programs' formats, loaded by those programs; and what they lose."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from calls import format_options, parse
from needed import needs, needs_root

from callfence.commands import export
from callfence.policygen import formats
from callfence.policygen.formats import Direction, ExportError

ROOT = Path(__file__).parents[2]
LINES = """\
path ./data: read
path $HOME/.cache: read, write, create
path "/srv/two words%": write
path /usr/bin/cat: read, execute
path /usr/lib: read
tcp connect: 443
tcp bind: 80, 8000-8009
"""


def exported(name: str, lines: str) -> formats.Exported:
    return formats.exported(name, parse(f"default allow\n{lines}").policy, format_options(name="it"))


def about_files(made: formats.Exported) -> dict[Direction, tuple[str, ...]]:
    return {loss.direction: loss.calls for loss in made.losses if "files and ports" in loss.what}


def test_systemd() -> None:
    made = exported("systemd", LINES)
    section = made.data.decode().partition("NoNewPrivileges=yes\n")[2]
    assert section == """\
NoExecPaths=
NoExecPaths=-/
NoExecPaths=-/dev
NoExecPaths=-/proc
NoExecPaths=-/sys
NoExecPaths=-%h/.cache
NoExecPaths=-"/srv/two words%%"
ExecPaths=
ExecPaths=-/usr/bin/cat
ExecPaths=-/usr/lib
ProtectSystem=strict
ReadWritePaths=
ReadWritePaths=-%h/.cache
ReadWritePaths=-"/srv/two words%%"
BindReadOnlyPaths=-/usr/bin/cat
BindReadOnlyPaths=-/usr/lib
SocketBindDeny=any
SocketBindAllow=
SocketBindAllow=udp
SocketBindAllow=tcp:80-80
SocketBindAllow=tcp:8000-8009
"""
    losses = about_files(made)
    assert "path /" in losses[Direction.WIDER], "all can be read"
    assert "tcp connect" in losses[Direction.WIDER]
    assert Direction.NARROWER not in losses, "reading ./data is not confined"
    assert any("/root" in loss.what for loss in made.losses)
    assert not any("/root" in loss.what for loss in exported("systemd", "path /srv: read, write\npath $HOME/a: read\n").losses)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze (systemd)")
def test_systemd_reads_its_settings(tmp_path: Path) -> None:
    unit = tmp_path / "it.service"
    unit.write_bytes(b"[Unit]\nDescription=it\n" + exported("systemd", LINES).data + b"ExecStart=/bin/true\n")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if "it.service" in line]
    assert not said, done.stderr
    unit.write_bytes(unit.read_bytes() + b"ReadWritePaths=relative\n")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert "relative" in done.stderr, "a mistake would be told"


ODD = {
    r"/srv/out/a\" / \"": r'/srv/out/a" / "',
    r"/srv/b\\": "/srv/b\\",
    "/srv/c'd": "/srv/c'd",
    "/srv/e$HOME%h": "/srv/e$HOME%h",
    "/srv/é": "/srv/é",
}
"""Paths as a policy writes them, and as they are."""
UNWRITABLE = (r"/srv/x\nExecStart=/bin/false", r"/srv/y\x1b", r"/srv/z\xff", r"/srv/w\x0d")


def test_systemd_loses_what_a_unit_cannot_name() -> None:
    made = exported("systemd", "path /usr: read\n" + "".join(f'path "{path}": write\n' for path in (*ODD, *UNWRITABLE)))
    text = made.data.decode()
    assert text.count("ReadWritePaths=-") == len(ODD)
    assert not any(word in text for word in ("ExecStart", "\x1b", "\r", "/srv/z"))
    assert [path for path in about_files(made)[Direction.NARROWER] if path.startswith('path "/srv/')] == sorted(
        f'path "{path}"' for path in UNWRITABLE
    )


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze (systemd)")
def test_systemd_reads_the_paths_of_the_policy_and_no_others(tmp_path: Path) -> None:
    unit = tmp_path / "it.service"
    lines = "".join(f'path "{path}": write\n' for path in ODD)
    unit.write_bytes(b"[Unit]\nDescription=it\n" + exported("systemd", lines).data + b"ExecStart=/bin/true\n")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], env={**os.environ, "SYSTEMD_LOG_LEVEL": "debug"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    (read,) = (line.strip() for line in done.stdout.splitlines() if line.strip().startswith("ReadWritePaths: "))
    assert read == "ReadWritePaths: " + " ".join(f"-{path}" for path in sorted(ODD.values())), done.stderr


TRIES = """\
for folder in /usr/bin /etc /dev/shm /srv/written /srv/executed /srv/both /srv/both/data /srv/units; do
    if echo "exit 0" 2>/dev/null >$folder/new; then echo "write $folder"; fi
    if $folder/true 2>/dev/null; then echo "execute $folder"; fi
done
"""
GRANTS = """\
path /usr: read, execute
path /mnt: read
path /srv/written: read, write, create
path "/srv/a:b": read, execute
path /srv/executed: read, execute
path /srv/both: read, execute
path /srv/both/data: read, write, create
"""


@pytest.mark.long
@needs_root
@needs("systemd")
@pytest.mark.parametrize("root", ["read", "any"])
def test_a_unit_writes_and_executes_what_the_policy_grants(tmp_path: Path, root: str) -> None:
    """In each folder of a list, a unit could write what it may only execute, and execute what it may only write; `path /: any`
    let it do neither; and the lists of the unit itself stayed."""
    made = exported("systemd", f"{GRANTS}path /: {root}\n")
    (tmp_path / "tries").write_text(TRIES)
    unit = "[Service]\nType=oneshot\nExecStart=/bin/sh /mnt/tries\nStandardOutput=file:/mnt/printed\n"
    (tmp_path / "it.service").write_text(f"{unit}ReadWritePaths=/srv/units\n")
    (tmp_path / "callfence.conf").write_bytes(made.data)
    (tmp_path / "script").write_text("""\
set -eu
mkdir -p /srv/written /srv/executed /srv/both/data /srv/units "/srv/a:b" /etc/systemd/system/it.service.d
for folder in /etc /dev/shm /srv/written /srv/executed /srv/both /srv/both/data /srv/units; do cp /usr/bin/true $folder; done
cp /mnt/it.service /etc/systemd/system/
cp /mnt/callfence.conf /etc/systemd/system/it.service.d/
systemctl daemon-reload
systemctl start it.service
rm /dev/shm/true /dev/shm/new
journalctl --no-pager | grep "callfence.conf:" >/mnt/wrong || true
""")
    command = ["bash", ROOT / "tests/support/system.sh", tmp_path, "bash", "/mnt/script"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, (tmp_path / "wrong").read_text()) == (0, ""), done.stderr
    all_ = {f"{right} {folder}" for right in ("write", "execute") for folder in TRIES.partition(";")[0].split()[3:]}
    granted = {"execute /usr/bin", "write /dev/shm", "write /srv/written", "execute /srv/executed"}
    granted |= {"execute /srv/both", "write /srv/both/data", "execute /srv/both/data"}
    assert {*(tmp_path / "printed").read_text().splitlines()} == (all_ if root == "any" else granted)
    assert ("path /dev" in about_files(made).get(Direction.WIDER, ())) is (root == "read")


def test_what_a_unit_loses_beside_its_lines() -> None:
    """listen(2), other families and mounts: what `enforce` denies beside such lines."""

    def lost(name: str, lines: str) -> list[str]:
        made = formats.exported(name, parse(lines).policy, format_options(name="it"))
        words = ("listen(2)", "other families", "what is mounted", "signals")
        return [word for word in words for loss in made.losses if word in loss.what and loss.direction is Direction.WIDER]

    hosts = "tcp bind: none\ntcp connect 192.0.2.1: any\nudp send 192.0.2.1: any\n"
    assert lost("systemd", f"{hosts}listen: allow\nsocket: allow\n") == ["listen(2)", "other families"]
    assert lost("systemd", f"{hosts}socket: family in {{AF_INET, AF_UNIX}}\n") == []
    assert lost("systemd", "tcp bind: any\nlisten: allow\n") == []
    assert lost("systemd", "path /srv: read\nmount: flags == 0\n") == ["what is mounted"]
    assert lost("bwrap", "path /srv: read\nmount: errno EPERM if flags == 0 else allow\n") == ["what is mounted"]
    assert lost("oci", "path /srv: read\nmount: allow\n") == lost("systemd", "path /: any\nmount: allow\n") == []
    assert lost("systemd", "kill: errno EPERM if sig == SIGKILL else allow\n") == ["signals"]
    assert lost("bpf", "default allow\n") == ["signals"]


def test_bubblewrap_loses_what_has_no_whole_path() -> None:
    made = exported("bwrap", LINES)
    assert made.beside is not None
    words = made.beside[1].split(b"\0")
    assert words[3:6] == [b"--bind-try", b"/srv/two words%", b"/srv/two words%"]
    assert words[6:9] == [b"--ro-bind-try", b"/usr/bin/cat", b"/usr/bin/cat"]
    assert about_files(made)[Direction.NARROWER] == ("path $HOME/.cache", "path ./data")
    assert exported("bwrap", "read: allow").beside is None


@pytest.mark.skipif(not shutil.which("bwrap"), reason="needs bwrap (bubblewrap)")
def test_bubblewrap_shows_what_is_granted(tmp_path: Path) -> None:
    for name in ("granted", "other"):
        (tmp_path / name).write_text(name)
    lines = f"path {tmp_path}/granted: read\npath /usr/bin/cat: read, execute\npath /usr/lib: read\n"
    made = exported("bwrap", lines)
    assert made.beside is not None
    arguments = tmp_path / "args"
    arguments.write_bytes(made.beside[1])
    command = f"exec bwrap --args 8 /usr/bin/cat {tmp_path}/granted {tmp_path}/other 8<{arguments}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    if "Creating new namespace failed" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip("namespaces are not permitted here")
    assert done.stdout == "granted"
    assert "other: No such file or directory" in done.stderr


def granted_to(tmp_path: Path) -> str:
    """Lines about files below a folder, which are made: what a shell needs, `read`, a folder `changed`, and `run`."""
    for name in ("read", "two words", "other"):
        (tmp_path / name).write_text(f"{name}\n")
    for name in ("changed", "run"):
        (tmp_path / name).mkdir()
        shutil.copy("/usr/bin/true", tmp_path / name / "true")
    (tmp_path / "changed/kept").mkdir()
    shell = Path("/bin/sh").resolve()
    return f"""\
default allow
unknown allow
path {shell}: read, execute
path /usr/bin/cat: read, execute
path /usr/lib: read
path {tmp_path}/read: read
path "{tmp_path}/two words": read
path {tmp_path}/changed: read, write, create
path {tmp_path}/changed/kept: read
path {tmp_path}/run: read, write, create, execute
path /dev/null: read, write
"""


TRIED = {
    "cat read": "read",
    "cat 'two words'": "two words",
    "cat other": "",
    "echo x > read": "",
    "echo x > changed/new && cat changed/new": "x",
    "changed/true && echo ran": "",
    "echo y > changed/kept/new && cat changed/kept/new": "y",  # by the line for the folder above
    "run/true && echo ran": "ran",
    "echo x > /dev/null && echo written": "written",
    "cat /etc/passwd": "",
}
"""What a shell tries in the folder, and what comes of it."""


def tried(command: list[str], folder: Path) -> None:
    """Run a shell, with `command` before it, that does each of TRIED."""
    shell = str(Path("/bin/sh").resolve())
    for words, output in TRIED.items():
        script = f"cd {shlex.quote(str(folder))}; {words}"
        done = subprocess.run([*command, shell, "-c", script], capture_output=True, text=True, check=False, timeout=60)
        if "amespace" in done.stderr and "not permitted" in done.stderr:
            pytest.skip("namespaces are not permitted here")
        assert done.stdout.strip() == output, (words, done.stderr)


def written(made: formats.Exported, folder: Path, name: str) -> tuple[Path, Path]:
    """The file, and the one beside it."""
    file = folder / name
    file.write_bytes(made.data)
    beside = folder / name
    if made.beside is not None:
        beside = file.with_suffix(made.beside[0])
        beside.write_bytes(made.beside[1])
    return file, beside


def policy_of(lines: str, name: str) -> formats.Exported:
    return formats.exported(name, parse(lines).policy, format_options(name="it"))


def test_nsjail_mounts_what_is_granted(tmp_path: Path) -> None:
    made = policy_of(granted_to(tmp_path), "kafel")
    file, config = written(made, tmp_path, "it.kafel")
    spaces = ["user", "net", "pid", "ipc", "uts", "cgroup"][os.geteuid() != 0 :]
    jail = [f"--disable_clone_new{space}" for space in spaces]
    nsjail = str(Path(sys.executable).parent / "nsjail")
    tried([nsjail, "-Q", "-C", str(config), *jail, "--seccomp_policy", str(file), "--"], tmp_path)


def test_nsjail_knows_named_folders_and_escapes() -> None:
    made = policy_of(f'default allow\n{LINES}path "/a\\"b\\xff": read', "kafel")
    assert made.beside is not None
    text = made.beside[1].decode()
    assert 'prefix_src_env: "HOME" prefix_dst_env: "HOME" src: "/.cache" dst: "/.cache"' in text
    assert r'src: "/a\042b\377"' in text
    assert about_files(made)[Direction.NARROWER] == ("path ./data",)


@needs("firejail")
def test_firejail_whitelists_what_is_granted(tmp_path: Path) -> None:
    """Below a folder of the root that is whitelisted: tmp_path is in /tmp."""
    made = policy_of(granted_to(tmp_path), "firejail")
    file, _ = written(made, tmp_path, "it.profile")
    tried(["firejail", "--quiet", f"--profile={file}", "--"], tmp_path)
    text = made.data.decode()
    assert f"whitelist {tmp_path}/two words\nread-only {tmp_path}/two words\n" in text
    assert f"noexec {tmp_path}/changed\n" in text
    assert f"noexec {tmp_path}/run\n" not in text
    assert "blacklist /etc\n" in text


def test_firejail_loses_what_it_cannot_name() -> None:
    made = policy_of(f"default allow\n{LINES}path /srv/a*: read", "firejail")
    assert about_files(made)[Direction.NARROWER] == ('path "/srv/a*"', "path ./data")
    wider = [loss.what for loss in made.losses if loss.direction is Direction.WIDER]
    assert any("programs and libraries" in what for what in wider)
    assert "whitelist ${HOME}/.cache\nread-write ${HOME}/.cache\nnoexec ${HOME}/.cache" in made.data.decode()


@pytest.mark.parametrize("name", ["a  b", "c ", "d#x"])
def test_firejail_is_given_no_path_that_it_reads_otherwise(name: str) -> None:
    """It would be `a b`, `c` and `d`."""
    made = policy_of(f'default allow\npath /usr: read, execute\npath "/srv/{name}": read, write\n', "firejail")
    assert "/srv/" not in made.data.decode()
    assert f'path "/srv/{name}"' in about_files(made)[Direction.NARROWER]


def test_minijail_binds_what_is_granted() -> None:
    """By text: Debian has no package of minijail0."""
    of_others = 'path ./data: read\npath "/a,b": read\npath /proc: read\n'
    lines = "path /srv/a: read\npath /srv/b: write\npath /usr/lib/x: read\npath /usr/share/x: read\n"
    made = policy_of(f"openat: allow\n{of_others}{lines}", "minijail")
    assert made.beside == (
        ".conf",
        b"""\
% minijail-config-file v0
# Files of it, made by `callfence export --to minijail`.
ns-mount
mount = tmpfs,/,tmpfs,MS_NOSUID|MS_NODEV,mode=755
mount = proc,/proc,proc,MS_NOSUID|MS_NODEV|MS_NOEXEC
bind-mount = /usr/lib64,/usr/lib64,0
bind-mount = /usr/lib64,/lib64,0
bind-mount = /srv/a,/srv/a,0
bind-mount = /srv/b,/srv/b,1
bind-mount = /usr/lib/x,/usr/lib/x,0
bind-mount = /usr/lib/x,/lib/x,0
bind-mount = /usr/share/x,/usr/share/x,0
""",
    )
    assert about_files(made)[Direction.NARROWER] == ("path ./data", "path /a,b")
    assert made.files is not None and made.files.lines()["path /srv/a"] == "read, execute"


APPARMOR = """\
  "/a b\\052\\377{,/,/**}" mr,
  "/srv/in{/,/**/}" r,
  "/srv/out{,/,/**}" wkl,
  "/usr/bin/cat{,/,/**}" mrix,
"""


@needs("apparmor")
def test_apparmor_parses_its_profile(tmp_path: Path) -> None:
    lines = 'path "/a b*\\xff": read\npath $HOME/.cache: read, write\npath ./x: read\n'
    lines += "path /srv/out: create\npath /srv/in: list\n"
    made = policy_of(f"default allow\n{lines}path /usr/bin/cat: read, execute\ntcp bind: 1\n", "apparmor")
    text = made.data.decode()
    assert APPARMOR in text
    assert '  "@{HOME}.cache{,/,/**}" mrwkl,\n' in text
    assert '  "/srv/in{/,/**/}" r,\n' in text
    assert "path /srv/in" not in about_files(made)[Direction.WIDER]
    assert about_files(made)[Direction.NARROWER] == ("path ./x",)
    assert {"path /srv/out", "tcp bind"} <= {*about_files(made)[Direction.WIDER]}
    assert "\n  dbus,\n" in text
    file, _ = written(made, tmp_path, "it")
    parser = shutil.which("apparmor_parser") or "/sbin/apparmor_parser"
    done = subprocess.run([parser, "-Q", "-K", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    file.write_text(text.replace("mrix", "mrq"))
    assert subprocess.run([parser, "-Q", "-K", file], capture_output=True, check=False).returncode != 0


def test_apparmor_needs_lines_about_files() -> None:
    with pytest.raises(ExportError, match="no `path` lines"):
        policy_of("read: allow\n", "apparmor")


@pytest.mark.parametrize("name", ["oci", "k8s", "spo", "bpf", "c"])
def test_other_formats_say_that_they_confine_no_files(name: str) -> None:
    lines = "path /etc: read\nopenat: allow\n"
    policy = parse(lines).policy
    made = formats.exported(name, policy, format_options(name="it", runtime="runc" if name in ("oci", "k8s", "spo") else ""))
    assert about_files(made) == {Direction.WIDER: ()}
    assert any(loss.what == f"{name} does not confine files and ports" for loss in made.losses)


@pytest.mark.parametrize("name", ["oci", "k8s", "spo", "bpf", "c"])
def test_lines_about_what_no_call_reaches_are_not_lost(name: str) -> None:
    policy = parse("path /etc: read\ntcp connect: none\ntcp bind: 80\nread: allow\n").policy
    made = formats.exported(name, policy, format_options(name="it", runtime="runc" if name in ("oci", "k8s", "spo") else ""))
    assert not about_files(made)


def test_without_such_lines_nothing_is_lost() -> None:
    for name in {name for name, row in formats.FORMATS.items() if row.export} - {"systemd-enforce", "apparmor"}:
        made = formats.exported(name, parse("read: allow\n").policy, format_options(name="it"))
        assert not about_files(made)
        assert made.files == formats.NOT_CONFINED


def test_a_second_file_may_have_any_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    policy = tmp_path / "it.policy"
    policy.write_text('openat: allow\npath "/srv/\\xff": read\n')
    assert export.main(["--to", "minijail", str(policy)]) == 0
    assert r"bind-mount = /srv/\xff,/srv/\xff,0" in capfd.readouterr().err
