"""Lines about files and ports in other programs' formats, loaded by those programs; and what they lose."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from policygen import formats
from policygen.formats import Direction, FormatOptions
from policygen.language.document import parse

if TYPE_CHECKING:
    from pathlib import Path

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
    return formats.exported(name, parse(f"default allow\n{lines}").policy, FormatOptions(name="it"))


def about_files(made: formats.Exported) -> dict[Direction, tuple[str, ...]]:
    return {loss.direction: loss.calls for loss in made.losses if "files and ports" in loss.what}


def test_systemd() -> None:
    made = exported("systemd", LINES)
    section = made.data.decode().partition("NoNewPrivileges=yes\n")[2]
    assert section == """\
ProtectSystem=strict
ReadWritePaths=-%h/.cache
ReadWritePaths=-"/srv/two words%%"
NoExecPaths=/
ExecPaths=-/usr/bin/cat
ExecPaths=-/usr/lib
SocketBindDeny=any
SocketBindAllow=tcp:80-80
SocketBindAllow=tcp:8000-8009
"""
    losses = about_files(made)
    assert "path /" in losses[Direction.WIDER], "all can be read"
    assert "tcp connect" in losses[Direction.WIDER]
    assert Direction.NARROWER not in losses, "reading ./data is not confined"


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


@pytest.mark.parametrize("name", ["oci", "k8s", "spo", "bpf", "c", "minijail", "kafel", "firejail"])
def test_other_formats_say_that_they_confine_no_files(name: str) -> None:
    lines = "path /etc: read\nread: allow\n"
    policy = parse(lines).policy
    made = formats.exported(name, policy, FormatOptions(name="it", runtime="runc" if name in ("oci", "k8s", "spo") else ""))
    assert about_files(made) == {Direction.WIDER: ()}
    assert any(loss.what == f"{name} confines no files and ports" for loss in made.losses)


def test_without_such_lines_nothing_is_lost() -> None:
    for name in set(formats.names(exports=True)) - {"systemd-enforce"}:
        made = formats.exported(name, parse("read: allow\n").policy, FormatOptions(name="it"))
        assert not about_files(made)
        assert made.files == formats.NOT_CONFINED
