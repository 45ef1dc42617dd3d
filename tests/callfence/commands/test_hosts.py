"""What commands say of lines about hosts and unix sockets: `allow`, `diff`, `why`, `export`, `show`, `merge`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from callfence.commands import allow, diff, export, merge, report, show, why
from callfence.policygen.language.document import parse_file
from callfence.policygen.recording import recording_file
from callfence.policygen.recording.model import Recording, Run

OLD = """\
tcp connect 10.0.0.0/8: 5432
tcp bind: none
udp send: none
unix connect /run/x
connect: allow
sendto: allow
"""
ADDED = ("tcp connect api.example.org: 443", "udp send 192.0.2.7: 53", "unix connect /run/docker.sock")


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    (tmp_path / "old.policy").write_text(OLD)
    (tmp_path / "app.policy").write_text(OLD)
    return tmp_path / "app.policy"


def test_allow_adds_what_the_policy_lacks(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert allow.main([str(policy), *ADDED]) == 0
    said = f"{policy}: tcp connect api.example.org\n  + 443\n{policy}: udp send 192.0.2.7\n  + 53\n{policy}: {ADDED[2]}\n"
    assert capsys.readouterr().out == said
    lines = ["tcp connect 10.0.0.0/8: 5432", ADDED[0], "tcp bind: none", *ADDED[1:], "unix connect /run/x"]
    assert [line for line in policy.read_text().splitlines() if line.startswith(("tcp ", "udp ", "unix "))] == lines
    assert allow.main([str(policy), "tcp connect 10.1.1.1: 5432", "unix connect /run/x/y"]) == 0
    assert capsys.readouterr().out.count("already allowed") == 2
    diff.main([str(policy.parent / "old.policy"), str(policy)])
    assert capsys.readouterr().out.splitlines()[:3] == [
        "wider: danger: + unix connect /run/docker.sock: it can reach sockets whose servers act as root [root-sockets]",
        "note: tcp connect api.example.org: + 443: it may connect to more ports there [tcp-more]",
        "note: udp send 192.0.2.7: + 53: it may send to more UDP ports there [udp-more]",
    ]
    for form in ("json", "md", "sarif"):
        diff.main(["--format", form, str(policy.parent / "old.policy"), str(policy)])
        told = capsys.readouterr().out
        assert all(text in told for text in ("tcp connect api.example.org: + 443", "+ unix connect /run/docker.sock"))
    assert show.main([str(policy)]) == 0
    assert "\n".join(lines) in capsys.readouterr().out


def test_why_and_the_report_have_the_recorded_uses(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uses = (
        ("tcp connect 10.1.2.3", "5432", "/bin/app"),
        ("tcp connect 192.0.2.1", "5432", "/bin/app"),
        ("udp send", "none", ""),
        ("unix connect /run/x/s", "", "/bin/app"),
    )
    path = policy.parent / ".callfence" / "app.rec"
    path.parent.mkdir()
    recording_file.save(path, Recording((Run("a" * 32, 1, ("app",), 0, True, files=uses),), ()))
    assert why.main([str(policy), "tcp connect 10.0.0.0/8"]) == 0
    assert capsys.readouterr().out == "tcp connect 10.0.0.0/8: 5432\n  5432 at 10.1.2.3 in run 1 by /bin/app\n\n"
    assert why.main([str(policy), "unix connect /run/x"]) == 0
    assert capsys.readouterr().out == "unix connect /run/x\n  /run/x/s in run 1 by /bin/app\n\n"
    assert why.main([str(policy), "udp send"]) == 0
    assert capsys.readouterr().out == "udp send: none\n  no recorded run sent by UDP\n\n"
    page = policy.parent / "app.html"
    assert report.main(["-o", str(page), str(policy)]) == 0
    assert "5432 at 10.1.2.3" in page.read_text() and "unix connect /run/x" in page.read_text()


def test_exports_say_what_is_lost(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for form in ("systemd", "bwrap", "minijail", "kafel", "firejail", "oci", "c"):
        assert export.main(["--to", form, "-o", str(policy.parent / f"out.{form}"), str(policy)]) == 0
        told = capsys.readouterr().err
        assert "unix connect" in told or "does not confine files, ports, hosts and unix sockets" in told, form
    unit = (policy.parent / "out.systemd").read_text()
    assert "IPAddressDeny=any\nIPAddressAllow=\nIPAddressAllow=10.0.0.0/8\n" in unit
    policy.write_text(f"{OLD}tcp connect a.example: 443\n")
    assert export.main(["--to", "systemd", "-o", str(policy.parent / "out.systemd"), str(policy)]) == 0
    assert "IPAddress" not in (policy.parent / "out.systemd").read_text(), "a name has addresses that nobody knows here"


def test_merges(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, theirs = policy.parent / "old.policy", policy.parent / "theirs.policy"
    policy.write_text(OLD.replace("10.0.0.0/8", "10.0.0.0/7"))
    theirs.write_text(OLD.replace("5432", "5432, 80").replace("/run/x", "@x"))
    assert merge.main(["--driver", str(base), str(policy), str(theirs)]) == 0
    files = parse_file(policy).policy.files
    assert files.lines()["tcp connect 10.0.0.0/7"] == "5432"
    assert files.lines()["tcp connect 10.0.0.0/8"] == "80"
    assert files.unix == ("@x",)
    base.write_text("tcp connect 10.0.0.1: 80\nread: allow\n")
    policy.write_text("tcp connect 10.0.0.0/8: 80\nread: allow\n")
    theirs.write_text("tcp connect 192.0.2.1: 80\nread: allow\n")
    assert merge.main(["--driver", str(base), str(policy), str(theirs)]) == 1
    assert "conflict in tcp connect 10.0.0.1" in capsys.readouterr().err
    assert "<<<<<<< ours\n||||||| base\ntcp connect 10.0.0.1: 80\n=======\n>>>>>>> theirs\n" in policy.read_text()


def test_json_has_the_lines(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diff.main(["--format", "json", str(policy), str(policy)])
    assert json.loads(capsys.readouterr().out)["verdict"] == "equal"
