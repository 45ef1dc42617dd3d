"""Files of each version of each format are read as ever, and those of a version to come are refused (README.md)."""

from __future__ import annotations

import json
import re
import shutil
import socket
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from callfence import Listener, cli
from callfence.lake import logs, parquet
from callfence.lake.identity import Identity
from callfence.policygen import versions
from callfence.policygen.errors import PolicyError
from callfence.policygen.formats import FormatOptions, ImportFormatError
from callfence.policygen.formats.logs.denials import violations
from callfence.policygen.language import LANGUAGE_VERSION
from callfence.policygen.language.document import parse, parse_file
from callfence.policygen.model import IMPLIED
from callfence.policygen.recording import recording_file
from callfence.policygen.recording.recording_file import RecordingError
from callfence.policygen.review import companion
from callfence.shipping.records import parsed
from callfence.tracer.errors import UserError
from tests.formats.make import COMMANDS, WRITTEN, inputs
from tests.formats.outputs import OUTPUTS, check_output

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = Path(__file__).parent
RECORDINGS = sorted(HERE.glob("recordings/*.rec"))
LOG = HERE / f"events/{versions.EVENTS}.log"
NEWER = "of a newer callfence"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    import_module(cli.module_of(words[0])).main([*words[1:]])
    return capsys.readouterr().out


def fields(value: Any, place: str = "") -> Iterator[str]:
    """The place of each field in an output."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield f"{place}.{name}"
            yield from fields(part, f"{place}.{name}")
    for part in value if isinstance(value, list) else ():
        yield from fields(part, f"{place}[]")


def test_the_page_has_the_versions_of_all_formats() -> None:
    """In the order of the table in docs/compatibility.md."""
    page = (HERE.parent.parent / "docs" / "compatibility.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| (\d+)(?: each)? \|", page, re.MULTILINE)
    v = versions
    formats = [v.LANGUAGE, *IMPLIED, v.RECORDING, v.EVIDENCE, v.EVENTS, v.QUESTIONS, v.LAKE, v.SHIPPER, *{*v.OUTPUTS.values()}]
    assert [int(version) for _, version in rows] == formats
    assert rows[-1][0].partition(": ")[2].split(", ") == [*v.OUTPUTS]


# Policies


def test_every_version_of_the_language_has_a_file() -> None:
    assert [path.stem for path in sorted(HERE.glob("policy/*.policy"))] == [*map(str, range(1, LANGUAGE_VERSION + 1))]


@pytest.mark.parametrize("path", sorted(HERE.glob("policy/*.policy")), ids=lambda path: path.name)
def test_a_policy_is_its_normal_form(path: Path) -> None:
    assert parse_file(path).text() == path.read_text()


def test_a_policy_of_a_newer_language_is_refused() -> None:
    with pytest.raises(PolicyError, match=NEWER) as raised:
        parse(f"# top\n  callfence {LANGUAGE_VERSION + 1}\n~ new\n", "app.policy")
    assert (raised.value.line, raised.value.column) == (2, 13)


# Recordings


def test_every_version_of_recordings_has_a_file() -> None:
    assert [path.stem for path in RECORDINGS] == [*map(str, range(1, versions.RECORDING + 1))]
    for path in RECORDINGS:
        assert path.read_text().startswith(f'{{"callfence recording": {path.stem}, ')


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name)
def test_a_recording_gives_the_same_policy(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(path.parent)
    policy = run(capsys, "import", "--from", "recording", "-o", "-", path.name)
    assert policy == path.with_suffix(".policy").read_text()


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name)
def test_a_recording_is_written_in_the_format_of_today(path: Path) -> None:
    read = recording_file.load(path)
    text = recording_file.text(read)
    assert recording_file.parse(text.encode(), "again") == read
    assert len(read.runs) == 2
    if path.stem == str(versions.RECORDING):
        assert text == path.read_text()


def test_a_newer_recording_is_refused() -> None:
    data = RECORDINGS[-1].read_bytes().replace(b": %d," % versions.RECORDING, b": %d," % (versions.RECORDING + 1), 1)
    with pytest.raises(RecordingError, match=f"new.rec:1: .*{NEWER}"):
        recording_file.parse(data, "new.rec")


# Evidence


def test_evidence_is_read_and_written() -> None:
    path = HERE / f"evidence/{versions.EVIDENCE}.evidence"
    read = companion.read(path.read_text(), path.name)
    assert not read.unread
    assert companion.text(read.observations, "app.policy") == path.read_text()


def test_newer_evidence_is_refused() -> None:
    with pytest.raises(UserError, match=f"new.evidence: .*{NEWER}"):
        companion.read(f"callfence evidence {versions.EVIDENCE + 1}\n", "new.evidence")


# Events


def test_events_give_the_same_policy(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(LOG.parent)
    assert run(capsys, "import", "--from", "violations", "-o", "-", LOG.name) == LOG.with_suffix(".policy").read_text()


def changed(**more: Any) -> list[bytes]:
    """The lines of the log, with other fields."""
    return [json.dumps(json.loads(line) | more).encode() for line in LOG.read_bytes().splitlines()]


def read_by_all(lines: Sequence[bytes], folder: Path) -> tuple[Any, ...]:
    """What the readers of events make of them: the shipper, the lake and the import."""
    (folder / "log").write_bytes(b"\n".join(lines) + b"\n")
    with (folder / "log").open("rb") as stream:
        imported = violations(stream, "log", FormatOptions())
    shipped = [parsed(line, "log").fields for line in lines]
    rows = [row[:-1] for line in lines for row in logs.rows(line, Identity())]  # without the line itself
    return imported.observations, imported.runs[0].files, rows, [each["event"] for each in shipped]


def test_readers_ignore_fields_that_they_do_not_know(tmp_path: Path) -> None:
    assert read_by_all(changed(later={"a": [1]}, zone=None), tmp_path) == read_by_all(changed(), tmp_path)


def test_newer_events_are_refused(tmp_path: Path) -> None:
    lines = changed(version=versions.EVENTS + 1)
    with pytest.raises(ImportFormatError, match=NEWER), (tmp_path / "log").open("w+b") as stream:
        stream.write(lines[1])
        stream.seek(0)
        violations(stream, "log", FormatOptions())
    with pytest.raises(UserError, match=NEWER):
        parsed(lines[1], "log")
    with pytest.raises(logs.BadLineError, match=NEWER):
        list(logs.rows(lines[1], Identity()))


# Questions


@pytest.mark.parametrize(("version", "answer"), [(versions.QUESTIONS, "run"), (versions.QUESTIONS + 1, "no")])
def test_a_newer_question_is_answered_by_no(version: int, answer: str, tmp_path: Path) -> None:
    denied = json.loads(LOG.read_text().splitlines()[1])
    question = {"type": "question", "id": 1, "rule": [], "record": denied, "answers": ["run", "no"], "takes_effect": "now"}
    path = tmp_path / "socket"
    with Listener(path, lambda question: "run"), socket.socket(socket.AF_UNIX) as enforce:
        enforce.connect(str(path))
        enforce.sendall(json.dumps(question | {"version": version}).encode() + b"\n")
        with enforce.makefile("rb") as lines:
            answered = json.loads(lines.readline())
    assert answered["answer"] == answer
    assert (NEWER in answered["reason"]) == (answer == "no")


# Lakes


def test_a_newer_lake_is_refused(tmp_path: Path) -> None:
    (tmp_path / parquet.MARKER).write_text(f"{versions.LAKE + 1}\n")
    with pytest.raises(UserError, match=NEWER):
        parquet.check(tmp_path)


# Outputs


def test_every_output_has_a_schema_and_a_file() -> None:
    assert {*COMMANDS, "status"} == {*versions.OUTPUTS}
    for kind, version in versions.OUTPUTS.items():
        assert OUTPUTS["$defs"][kind]["properties"]["version"] == {"const": version}
    made = {f"{kind}-{version}.json" for kind in COMMANDS for version in range(1, versions.OUTPUTS[kind] + 1)}
    assert {path.name for path in HERE.glob("outputs/*")} == made


@pytest.mark.parametrize("kind", COMMANDS)
def test_an_output_has_what_it_had(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """It has the fields of the file from then, and none that the schema lacks."""
    inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    printed = run(capsys, *COMMANDS[kind].split())
    text = (tmp_path / WRITTEN[kind]).read_text() if kind in WRITTEN else printed
    before = (HERE / f"outputs/{kind}-{versions.OUTPUTS[kind]}.json").read_text()
    check_output(kind, text)
    check_output(kind, before)
    assert {*fields(json.loads(before))} <= {*fields(json.loads(text))}
    if kind in ("carry", "check", "lake"):  # nothing in it depends on the catalogue of risks or on libseccomp
        assert json.loads(text) == json.loads(before)


@pytest.mark.parametrize("names", [("git", "npm"), ("mcp-server", "cargo"), ("shell", "python-agent")])
def test_outputs_about_start_policies_fit(names: tuple[str, str], tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for name in names:
        shutil.copyfile(HERE.parent.parent / "callfence" / "start_policies" / f"{name}.policy", f"{name}.policy")
    old, new = (f"{name}.policy" for name in names)
    check_output("diff", run(capsys, "diff", "--format", "json", old, new))
    check_output("lint", run(capsys, "lint", "--accepted", "--format", "json", old, new))
