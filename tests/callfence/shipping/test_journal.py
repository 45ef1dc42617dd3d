"""systemd's journal as a source: by a played journalctl, and by the real one in a mount namespace."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from needed import needs, needs_root

from callfence.shipping.journal import Journal
from tests.callfence.shipping.conftest import Place, append, line, total
from tests.enforcer.conftest import wait_until

if TYPE_CHECKING:
    from tests.conftest import Commands

PLAYED = """\
import json, os, sys, time
with open("calls", "a") as calls:
    print(*sys.argv[1:], file=calls)
after = next((word.partition("=")[2] for word in sys.argv if word.startswith("--after-cursor=")), "0")
number = 0
while True:
    with open("entries") as file:
        entries = file.read().split("\\n")[:-1]
    for number, entry in enumerate(entries[number:], number + 1):
        if entry == "END" and number > int(after):
            sys.exit(3)
        if number > int(after) and entry != "END":
            print(json.dumps({"__CURSOR": str(number)} | json.loads(entry)), flush=True)
    if "--follow" not in sys.argv:
        sys.exit()
    time.sleep(0.01)
    if os.getppid() == 1:
        sys.exit()
"""


@pytest.fixture
def played(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A place with a journalctl that prints entries of a file."""
    program = place.folder / "journalctl"
    program.write_text(f"#!{sys.executable}\n{PLAYED}")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place.folder}:{os.environ['PATH']}")
    (place.folder / "entries").write_text("")
    return place


def enter(place: Place, value: object) -> None:
    append(place.folder / "entries", json.dumps({"CALLFENCE_RECORD": value}).encode() + b"\n")


def test_entries_are_records(played: Place) -> None:
    enter(played, line("start").decode())
    enter(played, [*line("denied", 2)])
    enter(played, None)
    enter(played, "bad")
    done = played.once("--prometheus", "callfence.prom", "--journal")
    assert done.returncode == 0
    assert [text.partition(": not")[0] for text in done.stderr.splitlines()] == [
        f"callfence ship: journal, entry {number}" for number in (3, 4)
    ]
    enter(played, line("end", 3).decode())
    assert played.once("--prometheus", "callfence.prom", "--journal").returncode == 0
    names = ("starts", "denials", "ends", "ship_bad_lines")
    assert [total(played.values(), f"callfence_{name}_total") for name in names] == [1, 1, 1, 2]
    options = "--quiet -t callfence -o json --output-fields=CALLFENCE_RECORD --all"
    calls = (played.folder / "calls").read_text().splitlines()
    assert calls == [options, f"{options} --after-cursor=4"]


def test_an_entry_that_is_too_long_is_no_record(played: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any user may write one, of up to 768 MiB."""
    (played.folder / "journalctl").write_text("#!/bin/sh\nhead -c 70000000 /dev/zero | tr '\\0' a; echo; cat entries\n")
    enter(played, line("start").decode())
    (played.folder / "entries").write_text((played.folder / "entries").read_text().replace("{", '{"__CURSOR": "1", ', 1))
    monkeypatch.chdir(played.folder)
    journal = Journal(is_once=True)
    lines = []
    while found := journal.read():
        lines += found
    assert [text.text[:8] for text in lines] == [b"a" * 8, line("start")[:8]]
    assert len(lines[0].text) < 3 << 20
    journal.close()


def test_the_journal_is_followed(played: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed with the shipper, it goes on after the last entry that was counted."""
    process = played.start("--prometheus", "callfence.prom", "--journal")
    for number in range(3):
        enter(played, line("start", run=f"{number:08x}").decode())
        played.wait_for("callfence_starts_total", number + 1)
        played.stop(process, signal.SIGKILL)
        process = played.start("--prometheus", "callfence.prom", "--journal")
    enter(played, line("start", run="f" * 8).decode())
    played.wait_for("callfence_starts_total", 4)
    assert played.stop(process) == 0
    assert "--follow --no-tail" in (played.folder / "calls").read_text()


@pytest.mark.long
def test_a_journalctl_that_ends_is_started_again(played: Place) -> None:
    process = played.start("--prometheus", "callfence.prom", "--journal")
    enter(played, line("start").decode())
    append(played.folder / "entries", b"END\n")
    wait_until(lambda: "journalctl ended with status 3: it is started again in 5 s" in played.said())
    (played.folder / "entries").write_text((played.folder / "entries").read_text().replace("END\n", ""))
    enter(played, line("end", 2).decode())
    played.wait_for("callfence_ends_total", 1)
    assert played.stop(process) == 0


@pytest.mark.parametrize(
    ("is_once", "status", "said"),
    [
        (True, 0, ""),
        (True, 3, "callfence ship: journalctl ended with status 3: the rest of the journal is not read\n"),
        (False, 0, "callfence ship: journalctl ended with status 0: it is started again in 5 s\n"),
    ],
)
def test_what_is_said_when_journalctl_ends(
    is_once: bool, status: int, said: str, played: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (played.folder / "journalctl").write_text(f"#!/bin/sh\ncat entries; exit {status}\n")
    monkeypatch.chdir(played.folder)
    journal = Journal(is_once=is_once)
    printed = []

    def has_ended() -> bool:
        assert journal.read() == []
        printed.append(capsys.readouterr().err)
        return is_once or any(printed)  # without --follow, reading waits for the end

    wait_until(has_ended)
    assert "".join(printed) == said


def test_without_journalctl(place: Place) -> None:
    environment = os.environ | {"PATH": "/nowhere"}
    done = place.once("--prometheus", "callfence.prom", "--journal", env=environment)
    assert (done.returncode, "--journal needs journalctl" in done.stderr) == (2, True)


@pytest.mark.long
@needs("systemd", "bsdutils")
@needs_root
def test_the_real_journal(place: Place, commands: Commands) -> None:
    """journald in a mount namespace; its entries of more than 4096 bytes, too, and a journalctl that ends with the shipper."""
    (place.folder / "any.policy").write_text("default allow\n")
    long = line("message", message="x" * 5000).decode()
    (place.folder / "long").write_text(f"MESSAGE=long\nSYSLOG_IDENTIFIER=callfence\nCALLFENCE_RECORD={long}")
    script = f"""
        mount -t tmpfs none /run && mkdir -p /run/systemd/journal /run/systemd/journald.conf.d /run/log/journal
        printf '[Journal]\nAudit=\n' > /run/systemd/journald.conf.d/own.conf  # audit is the whole machine's
        head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' > machine && mount --bind machine /etc/machine-id
        /lib/systemd/systemd-journald 2>/dev/null & journald=$!
        for try in $(seq 200); do [ -S /run/systemd/journal/socket ] && break; sleep 0.05; done
        ship() {{ exec {" ".join(place.command())} --prometheus callfence.prom --journal "$@"; }}
        wait_for() {{ for try in $(seq 400); do "$@" && break; sleep 0.05; done; }}
        counted() {{ grep -q "^callfence_starts_total.* $1$" callfence.prom; }}
        gone() {{ ! kill -0 $1 2>/dev/null; }}
        ship 2>errors & shipper=$!
        {sys.executable} -m callfence enforce --log journal -p any.policy true
        logger --journald=long
        wait_for counted 1; journalctl=$(pgrep -P $shipper); kill -9 $shipper; wait $shipper
        {sys.executable} -m callfence enforce --log journal -p any.policy true
        wait_for gone $journalctl; gone $journalctl && echo its journalctl has ended
        ship 2>>errors & shipper=$!
        wait_for counted 2; kill $shipper; wait $shipper; echo status $?
        (ship --once 2>>errors); echo status $?
        kill $journald; wait $journald
    """
    done = commands.plain(["unshare", "--mount", "bash", "-c", script], place.folder, env=os.environ)
    assert done.stdout == b"its journalctl has ended\nstatus 0\nstatus 0\n", (done, place.said())
    names = ("starts", "warnings", "ship_bad_lines", "lost_records")
    assert [total(place.values(), f"callfence_{name}_total") for name in names] == [2, 1, 0, 0]
