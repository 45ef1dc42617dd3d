"""What is said below a line about files, ports or hosts: the recorded uses, and what else the line covers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from callfence.judging import files
from callfence.judging.files import _of_path, beyond, origin_lines, uses_of
from callfence.judging.hosts import of_hosts
from callfence.policygen.language.document import parse
from callfence.policygen.recording.model import Recording, Run


@pytest.mark.parametrize(
    ("count", "last"), [(1, "  name 1"), (6, "  name 6"), (7, "  and 1 name more"), (9, "  and 3 names more")]
)
def test_six_names_are_shown_and_the_others_counted(count: int, last: str) -> None:
    names: list[Any] = [f"name {number}" for number in range(1, count + 1)]
    lines = [*_of_path("/etc", names, {})]
    assert (lines[:6], lines[-1]) == ([f"  {name}" for name in names[:6]], last)
    assert len(lines) == min(count, 7)


def test_a_line_that_no_run_used_and_for_which_there_is_no_reason_was_not_learned() -> None:
    (line,) = _of_path("/etc", [], {})
    assert line.startswith("  no recorded run used it: ")
    assert [*_of_path("/etc", [], {"/etc": "because"})] == []


RUN = Run("a", 1, ("app",), 0, True)
Use = tuple[str, str, str]


def recording(*uses: tuple[Use, ...]) -> Recording:
    return Recording(tuple(RUN._replace(id=str(number), files=of_run) for number, of_run in enumerate(uses)), ())


A, B = "/bin/a", "/bin/b"
UNUSED = "no recorded run used it: the line was written by hand, or learned from runs that are not in the recording"
PLACES = recording(
    (
        ("/none/hosts", "read", A), ("/none/x/y", "write", B), ("tcp connect", "443", A), ("tcp connect", "80", A),
        ("udp send", "none", ""),
    ),
    (("/none/hosts", "write", B), ("tcp connect", "none", ""), ("tcp bind", "none", "")),
)  # fmt: skip
POLICY = "path /none: read\npath /none/x: write\npath /void: read\ntcp connect: 80, 443\ntcp bind: none\nread: allow\n"


@pytest.mark.parametrize("wanted", ["", "path /none", "tcp bind:"])
def test_the_uses_behind_each_line(wanted: str) -> None:
    blocks = {
        "path /none: read": [
            "  /none/hosts: read, write in runs 1, 2 by /bin/a, /bin/b",
            "  /none/x/y: write in run 1 by /bin/b",
        ],
        "path /none/x: write": ["  /none/x/y: write in run 1 by /bin/b"],
        "path /void: read": [f"  {UNUSED}"],
        "tcp connect: 80, 443": ["  443 in run 1 by /bin/a", "  80 in run 1 by /bin/a"],
        "tcp bind: none": ["  no recorded run bound a port"],
    }
    start = f"{wanted.removesuffix(':')}:" if wanted else ""
    chosen = {line: of_line for line, of_line in blocks.items() if line.startswith(start)}
    assert [*origin_lines(parse(POLICY), PLACES, wanted)] == [
        each for line, of_line in chosen.items() for each in (line, *of_line, "")
    ]


def host(name: str, port: str = "443", by: str = A) -> Use:
    return (f"tcp connect {name}", port, by)


HOSTS = "tcp connect *.x: 443\ntcp connect 10.0.0.0/8: 80\ntcp connect 192.0.2.1: 1\nunix connect /run/x\nread: allow\n"
TALKS = recording(
    (
        *(host(f"h{number}.x") for number in range(1, 9)),
        *(("name h1.x", f"10.0.0.{number}", "") for number in range(1, 9)),
        ("name h2.x", "10.0.0.9", ""),
        ("unix connect /run/x/s", "", A),
    ),
    (host("h1.x"), host("10.0.0.7", "80", B), host("10.0.0.8", "81", B)),
)  # fmt: skip


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tcp connect 10.0.0.0/8", ["80 at 10.0.0.7 in run 2 by /bin/b", "81 at 10.0.0.8 in run 2 by /bin/b"]),
        ("tcp connect 192.0.2.1", [UNUSED]),
        ("unix connect /run/x", ["/run/x/s in run 1 by /bin/a"]),
        ("tcp connect", []),
        (
            "tcp connect *.x",
            [
                "443 at h1.x in runs 1, 2 by /bin/a; it had 8 addresses: "
                "10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4, 10.0.0.5, 10.0.0.6 and 2 more",
                "443 at h2.x in run 1 by /bin/a; it had 1 address: 10.0.0.9",
                *(f"443 at h{number}.x in run 1 by /bin/a" for number in range(3, 7)),
                "and 2 more",
                "it grants more than that, because it is so",
            ],
        ),
    ],
)
def test_the_uses_behind_a_host(line: str, said: list[str]) -> None:
    assert [*of_hosts(line, parse(HOSTS).policy.files, TALKS, {"tcp connect *.x": "it is so"})] == said


@pytest.mark.parametrize(
    ("line", "uses"),
    [
        ("tcp connect 10.0.0.0/8", [(2, "80 at 10.0.0.7", B)]),
        ("tcp connect 192.0.2.1", []),
        ("tcp connect h1.x", [(1, "443", A), (2, "443", A)]),
        ("unix connect /run/x", [(1, "/run/x/s", A)]),
        ("path /run/x", []),
    ],
)
def test_the_uses_that_a_line_grants(line: str, uses: list[Use]) -> None:
    assert [*uses_of(parse(HOSTS).policy.files, line, TALKS)] == uses


def test_what_else_a_folder_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    for name in (".ssh/id_rsa", ".bashrc", "a.pem", "run", "plain/1", "plain/2", "plain/3"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch(0o644)
    (tmp_path / "run").chmod(0o700)
    covers = "the line covers everything below the folder: "
    for path, said in (
        ("$HOME", ["because", f"{covers}7 files now, 1 of them executable, 2 keys, 1 start-up file"]),
        ("$HOME/.ssh", [f"{covers}1 file now, 0 of them executable, 1 key"]),
        ("$HOME/plain", [f"{covers}3 files now, 0 of them executable"]),
        ("$HOME/run", []),
        ("/nowhere", []),
        ("$XDG_RUNTIME_DIR", []),
    ):
        assert [*beyond(path, {"$HOME": "because"})] == said
    monkeypatch.setattr(files, "_LOOKED_AT", 3)
    assert [*beyond("$HOME/plain", {})] == [f"{covers}3 files now, 0 of them executable"]
    monkeypatch.setattr(files, "_LOOKED_AT", 2)
    assert [*beyond("$HOME/plain", {})] == [f"{covers}more than 2 files now (not all were looked at)"]
    assert [*beyond("$HOME", {})] == [f"{covers}more than 2 files now; among those looked at: 1 key, 1 start-up file"]
