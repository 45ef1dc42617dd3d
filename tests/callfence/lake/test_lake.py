"""The command: adding files of a fleet, folding them, asking about them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lakes import X86_64, event, observation, recording
from needed import needs, needs_root

from callfence.lake import parquet
from callfence.lake.command import main
from callfence.lake.engine import Engine, with_values
from callfence.policygen.recording import many, recording_file
from callfence.policygen.recording.model import Recording
from tests.formats.outputs import check_output

DAY = 86_400 * 10**9
NOW = "2026-11-30T00:00:00+00:00"
LAST = 1_796_000_000 * 10**9
"""A moment within the last day before NOW."""


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        status = main([*map(str, arguments)])
    except SystemExit as ended:  # argparse's, for mistakes in the command line
        status = int(ended.code or 0)
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def ask(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, object]]:
    _, out, err = run(capsys, "ask", "--format", "json", "--now", NOW, *arguments)
    assert out, err
    rows: list[dict[str, object]] = check_output("lake", out)["rows"]
    return rows


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """Folders of three hosts: two with version 1, one with 2, which makes another call and is denied it."""
    for number, (version, calls) in enumerate([("1", (0, 3)), ("1", (0, 3)), ("2", (0, 83))]):
        home = tmp_path / "hosts" / f"web{number}" / version
        (home / ".callfence").mkdir(parents=True)
        started = LAST - (number + 1) * 10 * DAY
        observations = [observation(call) for call in calls]
        recording_file.save(home / ".callfence" / "app.rec", recording(f"run{number}", started, observations))
        denied = [event("denied", number, line="mkdir: allow")] if version == "2" else []
        (home / "app.log").write_text("".join([event("start", number), *denied, event("end", number)]))
    return tmp_path / "hosts"


@pytest.fixture
def lake(fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    status, _, err = run(capsys, "add", "--layout", "{host}/{version}/*", tmp_path / "lake", fleet)
    assert (status, err) == (0, "callfence lake: 6 files added\n")
    return tmp_path / "lake"


def test_a_file_is_added_once(lake: Path, fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = ask(capsys, lake, "contents")
    assert run(capsys, "add", lake, fleet)[::2] == (0, "callfence lake: 0 files added, 6 there already\n")
    copy = fleet / "copy.rec"
    shutil.copy(fleet / "web0" / "1" / ".callfence" / "app.rec", copy)
    assert "1 there already" in run(capsys, "add", lake, copy)[2]
    assert ask(capsys, lake, "contents") == before
    assert [row["runs"] for row in before] == [3]


def test_what_is_there_twice_counts_once(lake: Path, fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A log that has grown has its old lines, and lakes may be united by copying parts."""
    questions = [("contents",), ("denied",), ("safe",), ("new", "--since", "2")]
    before = [ask(capsys, lake, *question) for question in questions]
    log = fleet / "web2" / "2" / "app.log"
    log.write_text(log.read_text() + event("message", 2))
    assert run(capsys, "add", "--layout", "{host}/{version}/*", lake, fleet)[0] == 0
    for part in lake.glob("part-*"):
        shutil.copytree(part, lake / f"{part.name}-again")
    assert [ask(capsys, lake, *question) for question in questions] == before


def test_damaged_files_are_named_and_the_others_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    good = recording("good", 1, [observation(0)])
    recording_file.save(folder / "good.rec", good)
    (folder / "cut.rec").write_bytes((folder / "good.rec").read_bytes()[:-40])
    (folder / "no.rec").write_text("x")
    (folder / "a\n::error::.rec").write_text("x")
    (folder / "other.log").write_text("hello\n")
    (folder / "app.log").write_text(event("start", 1) + '{"cut\n' + event("end", 1, version=9) + event("end", 1))
    status, _, err = run(capsys, "add", tmp_path / "lake", folder, tmp_path / "missing.rec")
    assert status == 1
    assert f"{folder}/cut.rec:3: " in err and f"{folder}/no.rec:1: not a callfence recording" in err
    assert f"{folder}/app.log:2: not a record" in err and f"{folder}/app.log: 1 more lines cannot be used" in err
    assert f"{tmp_path}/missing.rec: No such file" in err
    assert f"{folder}/a\\x0a::error::.rec:1: not a callfence recording" in err
    assert "2 files added, 4 not added, 2 lines of logs not added, 1 *.log files of other programs" in err
    assert "the host of 1 recording is unknown" in err
    assert run(capsys, "fold", "-o", tmp_path / "all.rec", tmp_path / "lake")[0] == 0
    assert recording_file.load(tmp_path / "all.rec") == good


def test_the_fold_of_one_policy(lake: Path, fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording_file.save(tmp_path / "b.rec", recording("b", 5, [observation(1)]))
    run(capsys, "add", lake, tmp_path / "b.rec")
    many.merge_files(tmp_path / "merged.rec", [*fleet.rglob("*.rec")])
    assert run(capsys, "fold", "--policy", "app", "-o", tmp_path / "app.rec", lake) == (0, "", "")
    assert (tmp_path / "app.rec").read_bytes() == (tmp_path / "merged.rec").read_bytes()
    status, _, err = run(capsys, "fold", "-o", tmp_path / "all.rec", lake)
    assert status == 0 and "2 policies become one recording (app, b)" in err
    assert len(recording_file.load(tmp_path / "all.rec").runs) == 4
    assert run(capsys, "fold", "--policy", "c", "-o", tmp_path / "c.rec", lake)[0] == 2
    assert not (tmp_path / "c.rec").exists()


def test_new(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ask(capsys, lake, "new", "--since", "2")
    assert {(row["rule"], row["version"], row["hosts"], row["runs"]) for row in rows} == {("mkdir: allow", "2", 1, 2)}
    assert ask(capsys, lake, "new", "--since", "3") == []
    assert ask(capsys, "--version", "1", lake, "new", "--since", "2") == []


def test_denied(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = ask(capsys, lake, "denied", "--days", "1")
    assert (row["host"], row["line"], row["times"], row["risk"]) == ("web2", "mkdir: allow", 3, "warning")
    assert ask(capsys, lake, "denied", "--days", "0.001") == []
    assert ask(capsys, "--host", "web1", lake, "denied") == []


def test_rules_that_were_used_and_that_were_not(lake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = tmp_path / "app.policy"
    policy.write_text("callfence 1\narch x86_64\n\nread: allow\nclose: allow\nmkdir: allow\nrmdir: allow\n")
    days = ("--days", "25")
    used = {row["rule"]: (row["hosts"], row["runs"]) for row in ask(capsys, *days, lake, "used", policy)}
    assert used == {"read: allow": (2, 2), "close: allow": (2, 2)}
    stale = {row["rule"]: (row["last"] is None, row["hosts_before"]) for row in ask(capsys, *days, lake, "stale", policy)}
    assert stale == {"mkdir: allow": (False, 1), "rmdir: allow": (True, 0)}
    recording_file.save(tmp_path / "b.rec", recording("b", LAST, [observation(83)]))
    assert run(capsys, "add", lake, tmp_path / "b.rec")[0] == 0  # of another policy
    assert {row["rule"] for row in ask(capsys, *days, lake, "used", policy)} == {*used}
    assert [row["rule"] for row in ask(capsys, *days, "--policy", "b", lake, "used", policy)] == ["mkdir: allow"]
    policy.rename(tmp_path / "c.policy")
    assert "has no recording of c: --policy NAME" in run(capsys, "ask", lake, "used", tmp_path / "c.policy")[2]


def test_safe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each reason, one after another, as they are added."""
    lake = tmp_path / "lake"

    def safe(*options: object) -> object:
        status, out, _ = run(capsys, "ask", "--format", "json", "--now", NOW, *options, lake, "safe")
        (row,) = check_output("lake", out)["rows"]
        assert status == (row["safe"] != "yes")
        return row["safe"]

    for number in range(60):
        path = tmp_path / f"{number}" / "app.rec"
        path.parent.mkdir()
        recording_file.save(path, recording(f"run{number}", LAST - 100 * DAY * (number == 0), [observation(0)]))
    assert run(capsys, "add", lake, tmp_path)[0] == 0
    assert safe("--hosts", "59") == "yes"
    assert safe("--hosts", "60") == "no: too few hosts"  # the first has not run for long
    assert safe("--chance", "0.01") == "no: record more runs"
    (tmp_path / "lost.log").write_text(event("end", 1, lost=1))
    run(capsys, "add", "--host", "1", lake, tmp_path / "lost.log")
    assert safe() == "no: lost records"
    (tmp_path / "denied.log").write_text(event("denied", 1))
    run(capsys, "add", "--host", "1", lake, tmp_path / "denied.log")
    assert safe() == "no: denied calls"
    recording_file.save(tmp_path / "app.rec", recording("new", LAST, [observation(83)]))
    run(capsys, "add", "--host", "1", lake, tmp_path / "app.rec")
    assert safe() == "no: new rules"


def test_runs_that_recorded_only_new_calls_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = recording("warm", LAST, [observation(0)])
    recording_file.save(tmp_path / "app.rec", Recording((whole.runs[0]._replace(warm=True),), whole.observations))
    (tmp_path / "app.policy").write_text("callfence 1\narch x86_64\n\nread: allow\nclose: allow\n")
    run(capsys, "add", tmp_path / "lake", tmp_path / "app.rec")
    _, out, err = run(capsys, "ask", "--now", NOW, tmp_path / "lake", "stale", tmp_path / "app.policy")
    assert "close: allow" in out and "1 runs recorded only new calls" in err


@pytest.mark.parametrize("question", ["contents", "new", "denied", "used", "stale", "safe"])
def test_printed_sql_gives_the_answer(question: str, lake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import duckdb

    policy = tmp_path / "app.policy"
    policy.write_text("callfence 1\narch x86_64\n\nread: allow\nrmdir: allow\n")
    options = ["--now", NOW, *(["--since", "2"] if question == "new" else [])]
    asked = [*options, lake, question, *([policy] if question in ("used", "stale") else [])]
    status, sql, _ = run(capsys, "ask", "--print-sql", *asked)
    assert status == 0
    with duckdb.connect() as connection:
        for statement in connection.extract_statements(sql):
            result = connection.execute(statement)
        assert len(result.fetchall()) == len(ask(capsys, *asked[2:])) > 0
    for engine in ("spark", "clickhouse"):
        assert run(capsys, "ask", "--print-sql", "--engine", engine, *asked)[0] == 0


@pytest.mark.parametrize(
    ("engine", "written"),
    [
        (Engine.DUCKDB, r"name = 'it''s C:\n' and days < 1.5"),
        (Engine.SPARK, r"name = 'it''s C:\\n' and days < 1.5"),
        (Engine.CLICKHOUSE, r"name = 'it''s C:\\n' and days < 1.5"),
    ],
)
def test_values_are_literals_of_the_engine(engine: Engine, written: str) -> None:
    """A backslash is itself for DuckDB; for the others it begins an escape."""
    assert with_values("name = :name and days < :days", {"name": r"it's C:\n", "days": 1.5}, engine) == written


def test_a_folder_with_other_characters(fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lake = tmp_path / "a [1]*'?"
    assert run(capsys, "add", lake, fleet)[0] == 0
    assert [row["hosts"] for row in ask(capsys, lake, "contents")] == [3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "FOLDER", "x.rec"], "is a folder with other files, not a lake"),
        (["fold", "-o", "x.rec", "FOLDER"], "is not a lake"),
        (["ask", "FOLDER", "contents"], "is not a lake"),
        (["add", "--layout", "{x}", "new", "x.rec"], "--layout {x}"),
        (["ask", "--days", "inf", "FOLDER", "contents"], "--days inf: expected a number"),
        (["ask", "--chance", "nan", "FOLDER", "safe"], "--chance nan: expected a number"),
        (["ask", "--now", "x", "FOLDER", "contents"], "--now x: "),
    ],
)
def test_mistakes(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    status, out, err = run(capsys, *[str(tmp_path) if word == "FOLDER" else word for word in arguments])
    assert (status, out) == (2, "") and message in err


def test_the_extra_is_named_if_it_is_missing(tmp_path: Path) -> None:
    code = "import sys; sys.modules['duckdb'] = None; from callfence.cli import main; main(['lake', *sys.argv[1:]])"
    command = [sys.executable, "-c", code, "add", tmp_path / "lake", "x.rec"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "pip install 'callfence[lake]'" in done.stderr


def test_a_killed_add_leaves_no_half_part(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Readers do not look into a part that is being written."""
    before = ask(capsys, lake, "contents")
    (part,) = lake.glob("part-*")
    half = lake / ".part-0123456789abcdef"
    shutil.copytree(part, half)
    (half / "runs.parquet").write_bytes(b"PAR1")
    assert ask(capsys, lake, "contents") == before


def test_a_damaged_part_is_an_error(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (part,) = lake.glob("part-*")
    (part / "runs.parquet").write_bytes(b"PAR1")
    status, _, err = run(capsys, "ask", lake, "contents")
    assert status == 2 and "DuckDB failed" in err and "runs.parquet" in err


@pytest.mark.parametrize("how", ["cut", "of others", "data"])
def test_a_part_with_damaged_digests_is_an_error(lake: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Arrow raises an error of its own kind, one of Python's, and an OSError without a number."""
    (part,) = lake.glob("part-*")
    files = part / "files.parquet"
    if how == "cut":
        files.write_bytes(b"PAR1")
    elif how == "of others":
        pq.write_table(pq.read_table(files).drop_columns(["digest"]), files)
    else:
        pq.write_table(pa.table({"digest": [f"{number:064x}" for number in range(1000)]}), files, compression="zstd")
        content = bytearray(files.read_bytes())
        content[100:1000] = bytes(900)
        files.write_bytes(content)
    status, _, err = run(capsys, "add", lake, "x.rec")
    assert status == 2 and f"{files} is damaged" in err


@pytest.mark.parametrize(
    ("table", "column", "value", "words"),
    [
        ("observations", "call", "zz", ("fold", "-o", "all.rec")),
        ("observations", "example", [], ("fold", "-o", "all.rec")),
        ("observations", "evidence", "{", ("fold", "-o", "all.rec")),
        ("runs", "record", None, ("fold", "-o", "all.rec")),
        ("events", "record", None, ("ask", "--now", NOW, "log")),
    ],
)
def test_a_part_that_another_program_wrote_is_an_error(
    lake: Path, table: str, column: str, value: object, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    (part,) = lake.glob("part-*")
    rows = pq.read_table(part / f"{table}.parquet")
    place = rows.schema.get_field_index(column)
    values = pa.array([value] * rows.num_rows, rows.schema.field(column).type)
    pq.write_table(rows.set_column(place, column, values), part / f"{table}.parquet")
    words = tuple(str(lake.parent / word) if word.endswith(".rec") else word for word in words)
    status, _, err = run(capsys, words[0], *words[1:3], lake, *words[3:])
    assert status == 2 and f"{lake}: a part is damaged" in err
    assert not (lake.parent / "all.rec").exists()


@pytest.mark.parametrize("table", parquet.TABLES)
def test_a_part_that_lacks_a_table_is_an_error(lake: Path, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It has been copied in part: what it has would be missing in each answer, such as denied calls in `safe`."""
    (part,) = lake.glob("part-*")
    shutil.copytree(part, lake / "part-other")
    (lost := lake / "part-other" / f"{table}.parquet").unlink()
    for _ in range(2):
        for command in (("ask", lake, "safe"), ("add", lake, part), ("fold", "-o", lake / "all.rec", lake)):
            status, out, err = run(capsys, *command)
            assert (status, out) == (2, "") and f"{lost} is missing, or no file: copy its part again" in err
        if not lost.exists():
            os.mkfifo(lost)


@pytest.mark.parametrize("kind", ["FIFO", "sparse"])
def test_the_marker_of_a_lake_is_a_short_file(lake: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    (marker := lake / parquet.MARKER).unlink()
    if kind == "FIFO":
        os.mkfifo(marker)
    else:
        with marker.open("wb") as file:
            file.truncate(1 << 40)
    for command in (("ask", lake, "safe"), ("add", lake, lake)):
        status, _, err = run(capsys, *command)
        assert (status, "is not a regular file" in err or "has tables whose version" in err) == (2, True)


@pytest.mark.long
def test_digests_without_end_take_no_memory(lake: Path) -> None:
    """1.3 GB of text, once in a file."""
    (part,) = lake.glob("part-*")
    schema = pq.read_schema(part / "files.parquet")
    same = [pa.repeat(pa.scalar("a" * 64 if field.name == "digest" else None, field.type), 1_000_000) for field in schema]
    with pq.ParquetWriter(part / "files.parquet", schema, compression="zstd") as file:
        for _ in range(20):
            file.write_batch(pa.record_batch(same, schema=schema))
    script = (
        "import resource, sys; from pathlib import Path; from callfence.lake.parquet import digests;"
        "resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30)); print(len(digests(Path(sys.argv[1]))))"
    )
    done = subprocess.run([sys.executable, "-c", script, lake], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "1\n", done.stderr


@pytest.mark.long
def test_a_log_takes_little_memory_whatever_its_records_are(tmp_path: Path) -> None:
    """Each of 4,000 policies that deny a call has a row with the whole record: 900 MB of text."""
    fields = json.loads(event("denied", 1))
    fields |= {"folder": "x" * 100_000, "allow": [{"file": "", "line": "", "risk": None}] * 4000}
    (tmp_path / "app.log").write_text(json.dumps(fields) + "\n")
    script = (
        "import resource, sys; from callfence.cli import main;"
        "resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30)); main(['lake', *sys.argv[1:]])"
    )
    command = [sys.executable, "-c", script, "add", tmp_path / "lake", tmp_path / "app.log"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == "callfence lake: 1 file added\n"


def test_several_may_add_the_same_files(lake: Path, fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "from callfence.cli import main; import sys; main(['lake', *sys.argv[1:]])"
    command = [sys.executable, "-c", code, "add", "--layout", "{host}/{version}/*", str(tmp_path / "shared"), str(fleet)]
    several = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(4)]
    assert [process.wait() for process in several] == [0] * 4
    assert ask(capsys, tmp_path / "shared", "safe") == ask(capsys, lake, "safe")
    assert not [*(tmp_path / "shared").glob(".part-*")]


def test_numbers_of_64_bits_are_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments are from -2**63 to 2**64 - 1, registers to 2**64 - 1."""
    odd = observation(9)._replace(arguments=(None, (1 << 64) - 1, -(1 << 63), None, None, None), example=((1 << 64) - 1,) * 6)
    recording_file.save(tmp_path / "app.rec", recording("a", 1, [odd]))
    run(capsys, "add", tmp_path / "lake", tmp_path / "app.rec")
    (path,) = (tmp_path / "lake").glob("part-*/calls.parquet")
    (row,) = pq.read_table(path).to_pylist()
    assert row["arguments"] == [None, (1 << 64) - 1, -(1 << 63), None, None, None]
    assert row["example"] == [(1 << 64) - 1] * 6 and row["arch"] == "x86_64" and odd.arch == X86_64


@needs_root
@needs("util-linux")
def test_a_full_disk_is_an_error_of_the_lake(fleet: Path, tmp_path: Path) -> None:
    """The files are not called damaged, and no part is there."""
    many = [observation(0)._replace(executable=f"/{number:0100}", site=f"{number * 7:0100}") for number in range(9000)]
    recording_file.save(fleet / "big.rec", recording("big", 1, many))
    assert_full(tmp_path / "small", 'size=128k none "$0"', fleet)


@needs_root
@needs("util-linux")
@pytest.mark.parametrize("inodes", [3, 4, 7])
def test_nor_is_a_part_left_that_could_not_begin(inodes: int, fleet: Path, tmp_path: Path) -> None:
    """There is room for the lake's folder and its marker, and then for nothing, for a folder, or for some of its files."""
    assert_full(tmp_path / "small", f'nr_inodes={inodes} none "$0" && printf 1 > "$0/callfence-lake"', fleet)


def assert_full(lake: Path, mounted: str, files: Path) -> None:
    lake.mkdir()
    code = "from callfence.cli import main; import sys; main(['lake', *sys.argv[1:]])"
    script = f'mount -t tmpfs -o {mounted} && "$@"; status=$?; ls -a "$0"; exit $status'
    command = ["unshare", "--mount", "sh", "-c", script, lake, sys.executable, "-c", code, "add", lake, files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "cannot be written to" in done.stderr and "not added" not in done.stderr
    assert "part-" not in done.stdout


def test_a_log_of_many_hosts_is_reviewed_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three hosts deny the same, one of them twice: one record, which `callfence review` reads."""
    for number in range(3):
        (tmp_path / "hosts" / f"web{number}").mkdir(parents=True)
        lines = [event("denied", number)] * (number + 1) + [event("denied", number, line="rmdir: allow")] * (number == 2)
        (tmp_path / "hosts" / f"web{number}" / "app.log").write_text("".join(lines))
    run(capsys, "add", tmp_path / "lake", tmp_path / "hosts")
    rows = ask(capsys, tmp_path / "lake", "log")
    assert [(row["line"], row["hosts"]) for row in rows] == [("mkdir: allow", 3), ("rmdir: allow", 1)]
    _, out, _ = run(capsys, "ask", "--now", NOW, tmp_path / "lake", "log")
    assert [json.loads(line)["allow"][0]["line"] for line in out.splitlines()] == ["mkdir: allow", "rmdir: allow"]
    (tmp_path / "asked.log").write_text(out)
    (tmp_path / "app.policy").write_text("callfence 1\narch x86_64\nread: allow\n")
    command = [sys.executable, "-m", "callfence", "review", "--no-terminal", "--log", "asked.log", "app.policy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, ""), "one change, which is undecided"
    assert "+ mkdir: " in done.stdout


def test_a_record_cannot_write_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hosts" / "web1").mkdir(parents=True)
    record = json.loads(event("denied", 1)) | {"executable": "/a\x9b2J\u202e\"b"}
    (tmp_path / "hosts" / "web1" / "app.log").write_text(json.dumps(record, ensure_ascii=False) + "\n")
    run(capsys, "add", tmp_path / "lake", tmp_path / "hosts")
    _, out, _ = run(capsys, "ask", "--now", NOW, tmp_path / "lake", "log")
    assert out.isascii()
    assert json.loads(out) == record


def test_what_people_read(lake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = tmp_path / "app.policy"
    policy.write_text("arch x86_64\nread: allow\n")
    (tmp_path / "none").mkdir()
    parquet.create(tmp_path / "empty")
    of_new = (
        "policy  rule          executable  version  hosts  runs  first\n"
        "app     mkdir: allow  /app        2            1     2  2026-10-31T00:53:20Z\n"
    )
    of_denied = (
        "policy  line          hosts  host  verdict  risk     times  first                 last\n"
        "app     mkdir: allow      1  web2  audited  warning      3  2026-11-29T12:00:00Z  2026-11-29T12:00:00Z\n"
    )
    for place, words, answer in (
        ("lake", ("new", "--since", "2"), (0, of_new, "")),
        ("lake", ("new", "--since", "3"), (0, "", "nothing")),
        ("lake", ("denied", "--days", "1"), (0, of_denied, "")),
        ("lake", ("denied", "--days", "100000"), (0, of_denied, "")),
        ("lake", ("denied", "--days", "0"), (0, "", "nothing")),
        ("lake", ("denied", "--days", "-1"), (2, "", "--days -1.0: expected a number from 0 to 100,000")),
        ("lake", ("denied", "--days", "100001"), (2, "", "--days 100001.0: expected a number from 0 to 100,000")),
        ("lake", ("safe", "--chance", "1.1"), (2, "", "--chance 1.1: expected a number from 0 to 1")),
        ("lake", ("safe", "--chance", "-0.1"), (2, "", "--chance -0.1: expected a number from 0 to 1")),
        ("lake", ("used", policy, "--policy", "b"), (2, "", f"{lake} has no recording of b: --policy NAME is its name there")),
        ("empty", ("contents",), (2, "", f"{tmp_path}/empty is empty: `callfence lake add {tmp_path}/empty FILE ...`")),
        (
            "none", ("contents",),
            (2, "", f"{tmp_path}/none is not a lake: `callfence lake add {tmp_path}/none FILE ...` makes one"),
        ),
    ):  # fmt: skip
        status, out, err = run(capsys, "ask", "--now", NOW, tmp_path / place, *words)
        assert (status, out, err.removeprefix("callfence lake: ").removesuffix("\n")) == answer
    folded = run(capsys, "fold", "--version", "7", "-o", tmp_path / "x.rec", lake)
    assert folded == (2, "", f"callfence lake: {lake} has no recording of these\n")
