"""What `callfence service status` says of logs into which the unit's user has written."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from callfence.policygen.formats.systemd_enforce import folder_name
from callfence.policygen.values import replace
from callfence.services import command, drop_ins, units
from callfence.services.logs import MAX_SIZE
from callfence.services.status import described, has_violations, lines
from callfence.services.units import State, Unit
from callfence.tracer.errors import UserError
from tests.formats.outputs import check_output

if TYPE_CHECKING:
    from collections.abc import Callable

UNIT = Unit("it.service", "", "", "simple")
COMMON = {"version": 1, "time": "2026-01-01T00:00:00.000+00:00", "host": "node", "run": "0" * 8, "policies": []}
START = {**COMMON, "event": "start", "mode": "audit"}
DENIED = {
    **COMMON, "event": "denied", "verdict": "audited", "count": 1, "ungranted": [], "allow": [], "call": "socket()",
}  # fmt: skip
NO_RECORDS = (
    b"[" * 100_000,
    b"5",
    b"null",
    b"\xff",
    b"x" * (1 << 19),
    b"\0" * (1 << 19),
    *(
        json.dumps(fields).encode()
        for fields in (
            {"version": 1, "event": "start", "policies": ["x"]},
            {"version": 1, "event": "denied", "count": "x"},
            START | {"policies": ["x"]},
            START | {"policies": 5},
            START | {"time": "\x1b[31m\nEVIL"},
            DENIED | {"count": "x"},
            DENIED | {"count": None},
            DENIED | {"version": 99},
        )
    ),
    json.dumps(DENIED).encode().replace(b'"count": 1', b'"count": 1e999'),
    json.dumps(DENIED).encode()[:-1] + b', "more": ' + b"[" * 900 + b"]" * 900 + b"}",
)
"""Lines that enforce does not write."""


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "state", lambda name: State("active", "running", 0, "success", 0))


def status(log: Path, text: bytes | None = None) -> dict[str, Any]:
    if text is not None:
        log.write_bytes(text)
    return described(UNIT, "audit", log.with_name("it.policy"), lambda: [log])


def line(**fields: Any) -> bytes:
    return json.dumps(DENIED | fields).encode() + b"\n"


@pytest.mark.parametrize("text", NO_RECORDS, ids=lambda text: repr(text[:20]))
def test_what_is_no_record_is_counted(tmp_path: Path, text: bytes) -> None:
    log = tmp_path / "enforce.log"
    found = status(log, text + b"\n" + line())
    assert (found["unreadable"], found["denied"], found["calls"], found["problem"]) == (1, 1, ["socket()"], None)
    assert has_violations([log])
    log.write_bytes(text)
    assert not has_violations([log])


@pytest.mark.parametrize("call", ["\ud800", "\udcff", "\x1b[31m", "a\nEVIL", "\u202ex", 5, None, ["x"]])
def test_what_a_program_has_chosen_is_printed_on_its_line(tmp_path: Path, call: object) -> None:
    found = status(tmp_path / "enforce.log", line(call=call))
    printed = lines([found])
    assert len(printed) == 3
    assert "".join(printed).isprintable()
    check_output("status", json.dumps({"version": 1, "units": [found]}))


def test_the_last_count_of_each_kind_counts(tmp_path: Path) -> None:
    text = line(count=1) + line(count=3) + line(call="bind()") + line(run="1" * 8, count=2)
    found = status(tmp_path / "enforce.log", text)
    assert (found["denied"], found["calls"]) == (6, ["socket()", "bind()"])


def test_no_log_fills_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callfence.services.status.MAX_DISTINCT", 3)
    monkeypatch.setattr("callfence.services.status._MAX_CALLS", 2)
    found = status(tmp_path / "enforce.log", b"".join(line(call=f"call{number}") for number in range(5)))
    assert found["calls"] == ["ca"]
    assert "more than 3 kinds" in found["problem"]


def test_a_sparse_log_is_a_problem_of_its_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "enforce.log"
    monkeypatch.setattr("callfence.services.status.MAX_SIZE", 1 << 20)
    log.write_bytes(line())
    os.truncate(log, MAX_SIZE)
    found = status(log)
    assert (found["denied"], found["unreadable"]) == (1, 1)
    assert found["problem"].startswith(f"{log}: more than ")
    assert lines([found])[-1] == f"  PROBLEM {found['problem']}"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_a_log_that_is_exchanged_is_a_problem_of_its_unit(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """After the command has looked what it is; if it waited for a FIFO, it would wait until the other end is opened."""
    log = tmp_path / "enforce.log"
    make(log)
    opens = threading.Timer(60, lambda: os.close(os.open(log, os.O_RDWR | os.O_NONBLOCK)))
    opens.start()
    found = status(log)
    opens.cancel()
    assert found["problem"].startswith(f"{log}: ")
    assert found["denied"] == 0
    with pytest.raises(OSError, match=r"enforce\.log"):
        has_violations([log])


def test_one_units_problem_does_not_end_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "LOGS", tmp_path)
    monkeypatch.setattr(units, "FOLDER", tmp_path)
    monkeypatch.setattr(units, "unit", lambda name: Unit(name, "", "", "simple"))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.service.d").mkdir()
        (tmp_path / f"{name}.service.d" / units.DROP_IN).write_text("")
    (tmp_path / "a" / "enforce.log").symlink_to("/etc/shadow")
    (tmp_path / "b" / "enforce.log").write_bytes(line())
    monkeypatch.setattr(drop_ins, "mode_of", lambda text: "audit")
    assert command.main(["status"]) == 2
    printed = capsys.readouterr().out
    assert "PROBLEM" in printed.partition("b.service")[0]
    assert "enforce.log is a link" in printed
    assert "1 call would be denied" in printed
    assert command.main(["status", "b"]) == 0


@pytest.mark.parametrize("load", ["not-found", "masked"])
def test_a_unit_of_which_only_the_drop_in_is_left(
    load: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends the status of no other unit, says what it is, and can be removed."""
    for name in ("gone", "it", "template@"):
        (tmp_path / f"{name}.service.d").mkdir()
        (tmp_path / f"{name}.service.d" / units.DROP_IN).write_text("# it, made by `callfence service audit`.\n")
    file = tmp_path / "it.service"
    file.write_text("[Service]\nExecStart=/bin/true\n")
    shows = {
        "gone.service": f"Id=gone.service\nLoadState={load}\nFragmentPath=\nDropInPaths=\nDescription=\nType=\n",
        "it.service": f"Id=it.service\nLoadState=loaded\nFragmentPath={file}\nDropInPaths=\nDescription=it\nType=simple\n",
    }
    monkeypatch.setattr(units, "FOLDER", tmp_path)
    monkeypatch.setattr(units, "systemctl", lambda *words: shows[words[-1]] if words[0] == "show" else "")
    monkeypatch.setattr(command, "POLICIES", tmp_path)
    monkeypatch.setattr(command, "LOGS", tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert command.main(["status"]) == 2
    shown = capsys.readouterr().out
    assert "gone.service: audit" in shown
    assert f"PROBLEM systemd has no such service ({load}), but a drop-in: `callfence service remove gone` removes it" in shown
    assert "it.service: audit" in shown
    assert command.main(["enforce", "gone"]) == 2
    assert "`callfence service remove gone` removes the drop-in that is left" in capsys.readouterr().err
    assert command.main(["remove", "gone"]) == 0
    assert command.main(["status"]) == 0
    assert command.main(["status", "gone"]) == 2
    assert f"gone: systemd has no such service ({load})" in capsys.readouterr().err


@pytest.mark.long
def test_a_drop_in_that_systemd_reads_after_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `systemctl edit` makes it: with a command of its own, the unit would run unconfined, and count as enforced."""
    folder = tmp_path / "it.service.d"
    folder.mkdir()
    (tmp_path / "it.service").write_text("[Service]\nExecStart=/bin/true\n")
    (folder / "10-first.conf").write_text("[Service]\nExecStart=\nExecStart=/bin/false\n")
    (folder / "override.conf").write_text("[Service]\nRestart=no\n")
    written = f"{folder}/10-first.conf {folder}/override.conf"
    shown = f"Id=it.service\nLoadState=loaded\nFragmentPath={tmp_path}/it.service\nDropInPaths={written}\n"
    shown += "Description=it\nType=simple\n"
    state = "ActiveState=inactive\nSubState=dead\nNRestarts=0\nResult=success\n"
    monkeypatch.setattr(units, "FOLDER", tmp_path)
    monkeypatch.setattr(units, "systemctl", lambda *words: shown + state if words[0] == "show" else "")
    monkeypatch.setattr(command, "POLICIES", tmp_path)
    monkeypatch.setattr(command, "LOGS", tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert command.main(["learn", "it"]) == 0
    assert command.main(["status", "it"]) == 0
    (folder / "override.conf").write_text("[Service]\nExecStart=\nExecStart=/bin/false\n")
    capsys.readouterr()
    assert command.main(["learn", "it"]) == 2
    said = "override.conf sets ExecStart= after callfence.conf, which has no effect then: rename it, to 10-override.conf say"
    assert said in capsys.readouterr().err
    assert command.main(["status", "it"]) == 2
    assert said in capsys.readouterr().out
    assert command.main(["remove", "it"]) == 0


@pytest.mark.parametrize(
    ("names", "overriding"),
    [
        (["a.conf"], ""),
        (["z.conf"], "z.conf"),
        (["a.conf", "callfence.conf", "override.conf", "z.conf"], "override.conf"),
    ],
)
def test_the_first_drop_in_that_overrides_ours_is_named(
    names: list[str], overriding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "it.service.d"
    folder.mkdir()
    files = [tmp_path / "it.service", *(folder / name for name in names)]
    for file in files:
        file.write_text("[Service]\nExecStart=\nExecStart=/bin/true\n")
    drop_ins_ = " ".join(map(str, files[1:]))
    shown = f"Id=it.service\nLoadState=loaded\nFragmentPath={files[0]}\nDropInPaths={drop_ins_}\nDescription=it\nType=simple\n"
    monkeypatch.setattr(units, "FOLDER", tmp_path)
    monkeypatch.setattr(units, "systemctl", lambda *_: shown)
    assert units.unit("it").overriding == (str(folder / overriding) if overriding else "")


def test_a_list_that_an_override_clears_is_none() -> None:
    """Calls that are added to a list that is empty are all that the unit may make: it would not start."""
    unit = "[Service]\nExecStart=app\nSystemCallFilter=@system-service\nNoExecPaths=/\n"
    texts = [drop_ins.of(Unit("it.service", text, "", "simple"), "enforce", Path("/p"), ()) for text in (
        unit, f"{unit}[Service]\nSystemCallFilter=\nNoExecPaths=\n",
    )]  # fmt: skip
    assert [name in text for text in texts for name in ("SystemCallFilter", "ExecPaths")] == [True, True, False, False]
    assert not any("BindReadOnlyPaths" in text for text in texts), "without ProtectSystem="


def test_a_folder_whose_name_systemd_would_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd replaces specifiers, and variables but in the path of a program."""
    place = tmp_path / "50%$x"
    place.mkdir()
    for name in ("python", "enforce", "learn"):
        (place / name).write_text("#!/usr/bin/env python3\n")
    monkeypatch.setattr("sys.executable", str(place / "python"))
    unit = Unit("it.service", "[Service]\nExecStart=app\nNoExecPaths=/\n", "", "simple")
    start = f'="{tmp_path}/50%%$x/python"'
    for mode, name in (("learn", "learn"), ("enforce", "enforce"), ("audit", "enforce")):
        text = drop_ins.of(unit, mode, Path("/p"), ())
        assert f'ExecStart{start} -I "{tmp_path}/50%%$$x/{name}" ' in text
        assert f"ExecPaths{start}\n" in text
    (place / "learn").write_text("#!/bin/sh\n")
    assert f'ExecStart="{tmp_path}/50%%$x/learn" ' in drop_ins.of(unit, "learn", Path("/p"), ()), "another kind of script"


@pytest.mark.parametrize("folder", ["home", "path"])
def test_what_the_units_user_adds_to_python_does_not_run_outside_of_the_policy(tmp_path: Path, folder: str) -> None:
    """The program may write in its home, or in the folder of its own modules, and systemd starts it again."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    site = tmp_path / "home" / ".local" / "lib" / f"python{version}" / "site-packages"
    modules = tmp_path / "path"
    site.mkdir(parents=True)
    modules.mkdir()
    (site / "added.pth").write_text("import os; os.mkdir('added')\n")
    (modules / "sitecustomize.py").write_text("import os; os.mkdir('added')\n")
    unit = Unit("it.service", "[Service]\nExecStart=true\n", "", "simple")
    start = re.search("^ExecStart=(.+?) --log", drop_ins.of(unit, "enforce", Path("/p"), ()), re.MULTILINE)
    assert start
    added = {"HOME": tmp_path / "home"} if folder == "home" else {"PYTHONPATH": modules}
    words = [*shlex.split(start[1]), "--help"]
    subprocess.run(words, cwd=tmp_path, env={**os.environ, **added}, capture_output=True, check=True)
    assert not (tmp_path / "added").exists()


def test_a_program_that_was_replaced_since_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = Path(shutil.copy("/bin/sleep", tmp_path / "program"))
    with subprocess.Popen([program, "100"]) as process:
        try:
            monkeypatch.setattr(units, "state", lambda name: State("active", "running", 0, "success", process.pid))
            assert described(UNIT, "enforce", tmp_path / "none", lambda: [])["problem"] is None
            shutil.copy("/bin/sleep", tmp_path / "new")
            (tmp_path / "new").rename(program)
            assert "restart the unit" in described(UNIT, "enforce", tmp_path / "none", lambda: [])["problem"]
            assert described(UNIT, "audit", tmp_path / "none", lambda: [])["problem"] is None
        finally:
            process.kill()


@pytest.mark.parametrize("value", ["no", "No", "n", "false", "F", "off", "0", "yes\nProtectHome=n"])
def test_what_systemd_takes_for_no_hides_nothing(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setattr(drop_ins, "_executed", lambda: iter(["/home/it"]))
    unit = replace(UNIT, text=f"[Service]\nExecStart=/bin/true\nProtectHome={value}\n")
    assert drop_ins.of(unit, "audit", Path("/etc/callfence/it.policy"), ())
    with pytest.raises(UserError, match="which the unit does not see"):
        drop_ins.of(replace(unit, text=f"{unit.text}ProtectHome=tmpfs\n"), "audit", Path("/etc/callfence/it.policy"), ())


@pytest.mark.parametrize(
    ("unit", "folder"),
    [("nginx", "nginx"), ("postgresql@17-main", "postgresql@17-main"), ("a\\x2db:c", "a+x2db=c"), ("a:b:c", "a=b=c")],
)
def test_the_folder_of_a_unit_s_logs_has_no_character_that_systemd_reads_otherwise(unit: str, folder: str) -> None:
    assert folder_name(unit) == folder
