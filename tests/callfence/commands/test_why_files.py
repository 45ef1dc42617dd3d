"""`callfence why POLICY PATH [RIGHT]`: whether a policy grants a right to a file, or a port, and by which line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HOSTS = "tcp connect 10.0.0.0/8: 80, 443\ntcp connect *.example.org: 443\nudp send 192.0.2.1: 53\nunix connect /run/x\n"
POLICY = "read: allow\npath ./data: read\npath ./data/in: write\npath $HOME/.cache: read, write\ntcp connect: 443\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.policy").write_text(POLICY)
    (tmp_path / "free.policy").write_text("read: allow\n")
    (tmp_path / "data" / "in").mkdir(parents=True)
    return tmp_path


def why(folder: Path, *words: str, status: int, stdin: str = "") -> tuple[str, str]:
    command = [sys.executable, "-m", "callfence", "why", *words]
    environment = {**os.environ, "HOME": str(folder / "home")}
    done = subprocess.run(
        command, cwd=folder, env=environment, input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("./data/x", "read"), 0, "./data/x: read: granted\n  path ./data: read\n"),
        (("path ./data/x: read",), 0, "./data/x: read: granted\n  path ./data: read\n"),
        (('path "./data/x y": read',), 0, "./data/x y: read: granted\n  path ./data: read\n"),
        (("tcp connect: 443",), 0, "tcp connect: 443: granted\n  tcp connect: 443\n"),
        (("./data/x", "write"), 1, "./data/x: write: not granted\n  path ./data: read\n"
            "  to grant it: callfence allow app.policy 'path ./data/x: write'\n"),
        (("./data/in/x",), 0, "./data/in/x: read, write: granted\n  path ./data/in: write\n  path ./data: read\n"),
        (("~/.cache/x", "write"), 0, "~/.cache/x: write: granted\n  path $HOME/.cache: read, write\n"),
        (("$HOME/.cache/x", "write"), 0, "$HOME/.cache/x: write: granted\n  path $HOME/.cache: read, write\n"),
        (("path $HOME/.cache: read, write",), 0, "$HOME/.cache: read: granted\n  path $HOME/.cache: read, write\n"
            "$HOME/.cache: write: granted\n  path $HOME/.cache: read, write\n"),
        (("./other",), 1, "./other: no right is granted\n"
            "  no line grants rights to this file or to a folder that contains it\n"
            "  what would grant one: callfence why app.policy ./other read\n"),
        (("tcp connect", "443"), 0, "tcp connect: 443: granted\n  tcp connect: 443\n"),
        (("tcp connect", "80"), 1, "tcp connect: 80: not granted\n  tcp connect: 443\n"
            "  to grant it: callfence allow app.policy 'tcp connect: 80'\n"),
        (("tcp bind", "80"), 0, "tcp bind: 80: granted\n"
            "  the policy has no `tcp bind` line, so it grants all ports to the calls that it allows\n"),
    ],
)  # fmt: skip
def test_files_and_ports(folder: Path, words: tuple[str, ...], status: int, said: str) -> None:
    (folder / "data" / "x").touch()
    assert why(folder, "app.policy", *words, status=status) == (said, "")


@pytest.mark.parametrize("name", ["data/x", "data/new"])
def test_a_file_itself_can_have_no_right_of_folders(folder: Path, name: str) -> None:
    """Making or removing a file takes the right in its folder: `enforce` refuses the line, or says that it grants nothing."""
    (folder / "data" / "x").touch()
    (folder / "it.policy").write_text(f"path ./{name}: write, create, remove\npath $HOME/.new: create\n")
    line = f"  path ./{name}: write, create, remove\n"
    said, _ = why(folder, "it.policy", f"./{name}", "remove", status=1)
    assert said.startswith(f"./{name}: remove: not granted\n{line}  to grant it: ")
    assert said.endswith("'path ./data: remove'\n")
    assert why(folder, "it.policy", f"./{name}", status=0)[0] == f"./{name}: write: granted\n{line}"
    assert ": granted" in why(folder, "it.policy", "$HOME/.new", "create", status=0)[0]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("tcp connect 10.1.1.1", "443"), 0, "tcp connect 10.1.1.1: 443: granted\n  tcp connect 10.0.0.0/8: 80, 443\n"),
        (("tcp connect A.example.org", "80"), 1, "tcp connect A.example.org: 80: not granted\n"
            "  tcp connect *.example.org: 443\n"
            "  to grant it: callfence allow hosts.policy 'tcp connect a.example.org: 80'\n"),
        (("tcp connect", "80"), 1, "tcp connect: 80: not granted\n  tcp connect: none\n"
            "  to grant it: callfence allow hosts.policy 'tcp connect: 80'\n"),
        (("udp send 192.0.2.2", "53"), 1, "udp send 192.0.2.2: 53: not granted\n  udp send: none\n"
            "  to grant it: callfence allow hosts.policy 'udp send 192.0.2.2: 53'\n"),
        (("unix connect /run/x/y",), 0, "unix connect /run/x/y: granted\n  unix connect /run/x\n"),
        (("unix connect @a",), 1, "unix connect @a: not granted\n  no line grants unix connect @a\n"
            "  to grant it: callfence allow hosts.policy 'unix connect @a'\n"),
        (("tcp bind 10.0.0.1", "80"), 2, "callfence why: tcp bind 10.0.0.1: a `tcp bind` line names no host\n"),
        (("tcp connect a..b", "80"), 2, "callfence why: a..b is no host name\n"),
        (("tcp connect straße.example", "80"), 2, "callfence why: straße.example is no host name\n"),
        (("unix connect @a", "80"), 2, "callfence why: 80 is too much: a unix socket has no ports\n"),
    ],
)  # fmt: skip
def test_hosts_and_sockets(folder: Path, words: tuple[str, ...], status: int, said: str) -> None:
    (folder / "hosts.policy").write_text(HOSTS)
    assert "".join(why(folder, "hosts.policy", *words, status=status)) == said


def test_a_policy_without_lines_grants_all(folder: Path) -> None:
    lines = "  the policy has no `path` line, so it grants all files to the calls that it allows\n"
    assert why(folder, "free.policy", "/etc", status=0)[0] == f"/etc: every right: granted\n{lines}"
    assert why(folder, "-", "/etc", "read", status=0, stdin="read: allow\n")[0] == f"/etc: read: granted\n{lines}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("data/x", "read"), "data/x: unknown; give a path, which begins with /, ./, ~ or $HOME, or a line such as `tcp"),
        (("./data", "raed"), "no right is named raed: did you mean read"),
        (("tcp connect", "x"), "x is not a port; give a number from 0 to 65535"),
        (("tcp connect", "9" * 5000), f"{'9' * 5000} is not a port; give a number from 0 to 65535"),
        (("data/x",), "no syscall is named data/x: about a file: callfence why app.policy ./data/x\n"),
        (("a.org",), "no syscall is named a.org: about a host: callfence why app.policy 'tcp connect a.org' 443\n"),
        (("10.0.0.1:8",), "no syscall is named 10.0.0.1:8: about a host: callfence why app.policy 'tcp connect 10.0.0.1' 8\n"),
        (("[::1]:8",), "no syscall is named [::1]:8: about a host: callfence why app.policy 'tcp connect ::1' 8\n"),
    ],
)
def test_mistakes(folder: Path, words: tuple[str, ...], said: str) -> None:
    out, err = why(folder, "app.policy", *words, status=2)
    assert (out, err.startswith(f"callfence why: {said}")) == ("", True), err


def test_a_socket_is_looked_for_where_the_lines_lead(folder: Path) -> None:
    (folder / "link").symlink_to("data")
    (folder / "app.policy").write_text("unix connect $HOME/run\nunix connect ./link/s\nunix connect @a\n")
    for socket, line in ((f"{folder}/home/run/s", "$HOME/run"), (f"{folder}/data/s", "./link/s"), ("./data/s", "./link/s")):
        assert why(folder, "app.policy", f"unix connect {socket}", status=0)[0].endswith(f": granted\n  unix connect {line}\n")
    why(folder, "app.policy", "unix connect ./data/t", status=1)


def test_a_line_is_asked_about_as_the_policy_has_it(folder: Path) -> None:
    (folder / "app.policy").write_text('path ./data: any\npath ./none: none\npath "./a: b": read\nunix connect "/run/a: b"\n')
    rights = why(folder, "app.policy", "path ./data: any", status=0)[0].splitlines()[::2]
    assert (rights[0], len(rights)) == ("./data: read: granted", 11)
    assert "./data: list: not granted" not in rights
    assert why(folder, "app.policy", "path ./none: none", status=1)[0].startswith("./none: no right is granted\n")
    why(folder, "app.policy", "path ./none: any", status=1)
    for line in ('path "./a: b": read', 'path "./a: b"', 'unix connect "/run/a: b"'):
        assert 'a: b"' in why(folder, "app.policy", line, status=0)[0]


def test_a_call_has_one_value_of_each_argument(folder: Path) -> None:
    (folder / "app.policy").write_text("read: fd == 0\n")
    for value in ("1 || fd == 2", "1 && count > 4", "1 || fd != 1"):
        _, said = why(folder, "app.policy", f"read(fd={value})", status=2)
        assert "an argument has one value here" in said
