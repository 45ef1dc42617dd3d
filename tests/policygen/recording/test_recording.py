"""Recordings: merging is a join, and a file that is not valid is refused with the line."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, strategies as st

from callfence.policygen.recording import atomic, many
from callfence.policygen.recording.many import merge
from callfence.policygen.recording.model import Circumstances, Observation, Recording, Run
from callfence.policygen.recording.recording_file import RecordingError, load, parse, save, text, update

X86_64 = 0xC000003E


def run(name: str, started: int = 0, **changes: object) -> Run:
    values = {"command": ("./app",), "status": 0, "complete": True, "gaps": (), "executed": (("", "/app"),)} | changes
    return Run(name, started, **values)  # type: ignore[arg-type]


def observation(number: int = 3, *counts: int, **changes: object) -> Observation:
    values = {"arguments": (None,), "executable": "/app", "site": "libc+0x1", "example": (3, 0, 0, 0, 0, 0)} | changes
    return Observation(X86_64, number, counts=counts or (1,), **values)  # type: ignore[arg-type]


@st.composite
def one_run(draw: st.DrawFn, name: str) -> Recording:
    numbers = draw(st.sets(st.integers(0, 4)))
    seen = [
        observation(
            number,
            draw(st.integers(1, 3)),
            arguments=draw(st.sampled_from([(None,), (-1,), (2**64 - 1,)])),
            site=draw(st.sampled_from("ab")),
            evidence=draw(st.sampled_from([(), ('f="/a"',), ('f="/a"', 'f="/b"'), ('f="/c/**"',)])),
            after=draw(st.sampled_from([(), (0,), (0, 9), (8,), (9, 1 << 28 | 8)])),
        )
        for number in sorted(numbers)
    ]
    return Recording((run(name, started=ord(name) % 3),), tuple(seen))


@st.composite
def shards(draw: st.DrawFn) -> list[Recording]:
    """Recordings with common runs, like shards that were merged before."""
    runs = [draw(one_run(name)) for name in "abcd"]
    chosen = st.lists(st.sampled_from(runs), max_size=4)
    return [merge(*draw(chosen)) for _ in range(3)]


@given(shards())
def test_merge_is_commutative_associative_and_idempotent(recordings: list[Recording]) -> None:
    a, b, c = recordings
    assert merge(a, b) == merge(b, a)
    assert merge(a, merge(b, c)) == merge(merge(a, b), c) == merge(a, b, c)
    assert merge(a, a) == a == merge(a)
    assert merge(a, Recording()) == a


@given(shards())
def test_a_written_file_reads_back_equal(recordings: list[Recording]) -> None:
    recording = merge(*recordings)
    assert parse(text(recording).encode(), "x.rec") == recording


def test_merge_counts_each_run_once_and_keeps_the_earliest_site() -> None:
    early = Recording((run("a", started=1),), (observation(3, 5, site="early"),))
    late = Recording((run("b", started=2),), (observation(3, 7, site="a late one"), observation(4, 1)))
    both = merge(late, early, late)
    assert [r.id for r in both.runs] == ["a", "b"]
    assert [(o.number, o.counts, o.site) for o in both.observations] == [(3, (5, 7), "early"), (4, (0, 1), "libc+0x1")]
    assert both.observations[0].calls == 12
    assert both.of_run("a") == both.observations[:1]


def test_the_better_known_account_of_a_run_does_not_depend_on_the_order() -> None:
    circumstances = Circumstances("/dev/null", "a pipe", "a pipe", "root", "C.UTF-8")
    known = Recording((run("a", circumstances=circumstances),), (observation(3, 2),))
    unknown = Recording((run("a"),), (observation(3, 2),))
    assert merge(known, unknown) == merge(unknown, known) == known


def test_the_complete_account_of_a_run_wins() -> None:
    part = Recording((run("a", complete=False, status=None),), (observation(3, 2),))
    whole = Recording((run("a"),), (observation(3, 9),))
    assert merge(part, whole) == merge(whole, part) == whole


@given(st.permutations([run("a", executed=pairs) for pairs in [(), (("", "/app"),), (("", "/app"), ("/app", "/bin/ls"))]]))
def test_who_executed_what_is_one_account_of_a_run(accounts: list[Run]) -> None:
    whole = max(accounts, key=lambda one: len(one.executed))
    assert merge(*(Recording((one,)) for one in accounts)) == Recording((whole,))


def test_an_invalid_recording_is_refused() -> None:
    with pytest.raises(ValueError):
        Recording((run("a"), run("a")))
    with pytest.raises(ValueError):
        Recording((run("a"),), (observation(3, 0),))
    with pytest.raises(ValueError):
        Recording((run("a"),), (observation(3, 1), observation(3, 1)))
    with pytest.raises(ValueError):
        Recording((run("a"),), (observation(3, 1, 1),))


def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    name = os.fsdecode(b"/bin/caf\xe9\n")
    seen = run("a", command=(name, ""), executed=(("", name), (name, "/\U0001f600")))
    recording = Recording((seen,), (observation(3, 1, executable=name),))
    save(tmp_path / "x.rec", recording)
    assert load(tmp_path / "x.rec") == recording


def lines() -> list[str]:
    recording = Recording((run("a"), run("b", 1)), (observation(3, 1, 2), observation(4, 0, 1)))
    return text(recording).splitlines(keepends=True)


def changed(line: int, **fields: object) -> str:
    """The example file with fields of one line (from 1) changed."""
    file = lines()
    file[line - 1] = json.dumps({**json.loads(file[line - 1]), **fields}) + "\n"
    return "".join(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "1: not a callfence recording"),
        ("\n", "1: not a callfence recording"),
        ("# callfence policy\ncallfence 1\n", "1: not a callfence recording"),
        ("[1, 2]\n", "1: not a callfence recording"),
        ("[" * 100_000, "1: not a callfence recording"),
        ("\x7fELF\x02\x01\x00\xff", "1: not a callfence recording"),
        (changed(1, **{"callfence recording": 5}), "1: a recording whose version 5 is of a newer callfence"),
        (changed(1, **{"callfence recording": True}), "1: a recording whose version True is unknown"),
        (changed(1, **{"callfence recording": 1}), "2: corrupt: not an object of id, started"),
        (changed(1, runs=-1), "1: corrupt: the header lacks the number of runs"),
        (changed(1, observations="2"), "1: corrupt: the header lacks the number of runs"),
        ("".join(lines()[:4]), "5: truncated"),
        ("".join(lines())[:-1], "5: truncated"),
        ("".join(lines())[:-20], "5: truncated"),
        ("".join([*lines(), "\n"]), "6: more lines than the header announces"),
        ("".join([*lines()[:2], "<<<<<<< HEAD\n", *lines()[3:]]), "3: corrupt: not JSON"),
        ("".join([*lines()[:3], "[" * 100_000 + "\n", *lines()[4:]]), "4: corrupt: not JSON"),
        ("".join([*lines()[:3], "{}\n", *lines()[4:]]), "4: corrupt: not an object of arch, number"),
        (changed(4, extra=1), "4: corrupt: not an object of arch, number"),
        (changed(2, status=256), "2: corrupt: status is 256"),
        (changed(2, complete=1), "2: corrupt: complete is 1"),
        (changed(2, command="./app"), "2: corrupt: command is './app'"),
        (changed(2, executed=None), "2: corrupt: executed is None"),
        (changed(2, executed=["/app"]), "2: corrupt: executed is ['/app']"),
        (changed(2, executed=[["", "/app", ""]]), "2: corrupt: executed is"),
        (changed(2, executed=[["", 1]]), "2: corrupt: executed is"),
        (changed(2, executed=[["", {"a": 1}]]), "2: corrupt: executed is"),
        (changed(2, executed=[["", "/app"], ["", "/app"]]), "2: corrupt: executed is"),
        (changed(3, executed=[["/b", "/a"], ["", "/b"]]), "3: corrupt: executed is"),
        (changed(3, id="a"), "3: corrupt: out of order, given twice"),
        (changed(4, number=1 << 32), "4: corrupt: number is 4294967296"),
        (changed(4, arch="x86_64"), "4: corrupt: arch is 'x86_64'"),
        (changed(4, arguments=[True]), "4: corrupt: arguments is [True]"),
        (changed(4, arguments=[1 << 64]), "4: corrupt: arguments is [18446744073709551616]"),
        (changed(4, example=[0] * 5), "4: corrupt: example is [0, 0, 0, 0, 0]"),
        (changed(4, evidence=[1]), "4: corrupt: evidence is [1]"),
        (changed(4, after=[8, 0]), "4: corrupt: after is [8, 0]"),
        (changed(2, waits=[-1]), "2: corrupt: waits is [-1]"),
        (changed(4, counts=[1, -1]), "4: corrupt: counts is [1, -1]"),
        (changed(4, counts=[]), "4: corrupt: counts is []"),
        (changed(4, counts=[1]), "4: corrupt: out of order, given twice, or not counted"),
        (changed(5, counts=[0, 0]), "5: corrupt: out of order, given twice, or not counted"),
        (changed(5, number=2), "5: corrupt: out of order"),
        (changed(5, number=3), "5: corrupt: out of order"),
    ],
)
def test_bad_files_are_refused_with_their_line(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecordingError) as error:
        parse(content.encode("latin-1"), "app.rec")
    assert str(error.value).startswith(f"app.rec:{message}")
    good, bad, output = tmp_path / "good.rec", tmp_path / "bad.rec", tmp_path / "out.rec"
    good.write_text("".join(lines()))
    bad.write_bytes(content.encode("latin-1"))
    with pytest.raises(RecordingError) as error:
        many.merge_files(output, [good, bad])
    assert str(error.value).startswith(f"{bad}:{message}")
    assert not output.exists()


def test_a_file_that_has_not_changed_is_decoded_once(tmp_path: Path) -> None:
    path, other = tmp_path / "app.rec", Recording((run("b"),), (observation(3, 1),))
    path.write_text("".join(lines()))
    first = load(path)
    assert load(path) is first
    save(path, other)
    assert load(path) == other


@given(shards())
def test_files_are_merged_as_recordings_are(recordings: list[Recording]) -> None:
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.rec" for number in range(len(recordings))]
        for path, recording in zip(paths, recordings, strict=True):
            save(path, recording)
        many.merge_files(paths[0], paths)
        assert load(paths[0]) == merge(*recordings)


@pytest.mark.parametrize(
    ("counts", "is_valid"),
    [
        *[(right, True) for right in ("2", " 2")],
        *[(wrong, False) for wrong in ("[2", "02", "+2", "2_0", "2.0", "true", "0", "-1", "", "2, 2", '"2"', "2" * 5000, "{}")],
    ],
)
def test_counts_of_one_run_are_read_strictly(counts: str, is_valid: bool, tmp_path: Path) -> None:
    path, output = tmp_path / "a.rec", tmp_path / "out.rec"
    content = text(Recording((run("a"),), (observation(3, 7777),))).replace("7777", counts)
    path.write_text(content)
    if is_valid:
        many.merge_files(output, [path])
        assert load(output) == parse(content.encode(), "a.rec") == Recording((run("a"),), (observation(3, 2),))
    else:
        with pytest.raises(RecordingError):
            many.merge_files(output, [path])


@pytest.mark.parametrize("order", [(1, 0), (0, 0)])
def test_lines_that_are_known_must_be_in_order_all_the_same(order: tuple[int, int], tmp_path: Path) -> None:
    good, bad, output = tmp_path / "good.rec", tmp_path / "bad.rec", tmp_path / "out.rec"
    header, first, *rows = text(Recording((run("a"),), (observation(3, 1), observation(4, 1)))).splitlines(keepends=True)
    good.write_text("".join((header, first, *rows)))
    bad.write_text("".join((header, first, *(rows[index] for index in order))))
    with pytest.raises(RecordingError) as error:
        many.merge_files(output, [good, bad])
    assert str(error.value).startswith(f"{bad}:4: corrupt: out of order, given twice")


@pytest.mark.parametrize("remembered", [0, 1, 1000])
def test_what_is_remembered_of_lines_changes_nothing(
    remembered: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many, "_MANY_LINES", remembered)
    seen = [(observation(3, 1), observation(4, 2)), (observation(3, 1),), (observation(3, 2), observation(4, 2))]
    recordings = [Recording((run(name, number),), some) for number, (name, some) in enumerate(zip("abc", seen, strict=True))]
    paths = [tmp_path / f"{number}.rec" for number in range(3)]
    for path, recording in zip(paths, recordings, strict=True):
        save(path, recording)
    many.merge_files(tmp_path / "out.rec", [*paths, *paths])
    assert load(tmp_path / "out.rec") == merge(*recordings)


def test_the_parts_of_a_line_in_another_order_or_within_texts(tmp_path: Path) -> None:
    """What is taken apart as text means what JSON says."""
    name = ', "counts": [5], "site": "x"]}'
    recording = Recording((run("a"),), (observation(3, 1, executable=name, site=name), observation(4, 2)))
    path, output = tmp_path / "a.rec", tmp_path / "out.rec"
    header, first, *rows = text(recording).splitlines()
    turned = (json.dumps(dict(reversed(json.loads(row).items()))) for row in rows)
    for lines in ((header, first, *rows), (header, first, *turned)):
        path.write_text("".join(f"{line}\n" for line in lines))
        many.merge_files(output, [path, path])
        assert load(output) == recording


@pytest.mark.parametrize(
    ("number", "lacks"),
    [(1, ("executed", "rehearsed", "circumstances")), (2, ("rehearsed", "circumstances")), (3, ())],
)
def test_an_older_format_is_read_and_written_as_the_newest(tmp_path: Path, number: int, lacks: tuple[str, ...]) -> None:
    header, *rows = map(json.loads, lines())
    for row in rows[:2]:
        for name in ("files", "waits", "signals", *lacks):
            del row[name]
    for row in rows[2:]:
        del row["evidence"], row["after"]
    path = tmp_path / "app.rec"
    path.write_text("".join(json.dumps(row) + "\n" for row in ({**header, "callfence recording": number}, *rows)))
    old = [one._replace(executed=() if number == 1 else one.executed) for one in (run("a"), run("b", 1))]
    expected = Recording(tuple(old), (observation(3, 1, 2), observation(4, 0, 1)))
    assert load(path) == expected
    many.merge_files(tmp_path / "merged", [path])
    update(path, lambda old: old)
    assert load(path) == load(tmp_path / "merged") == expected and path.read_text().startswith('{"callfence recording": 4,')


def test_what_only_rehearsed_runs_brought_is_marked() -> None:
    plain, faulty, both = run("a"), run("b", 1)._replace(rehearsed="write fails"), (observation(3, 1, 1), observation(4, 0, 1))
    seen = Recording((plain, faulty), both)
    assert [seen.rehearsed(one) for one in both] == [(), ("write fails",)]
    assert seen.plain() == Recording((plain,), (observation(3, 1),))
    later = Recording((run("c", 2),), (observation(4, 1),))
    assert merge(seen, later) == merge(later, seen)
    assert [merge(seen, later).rehearsed(one) for one in merge(seen, later).observations] == [(), ()]


def add(name: str, recording: Recording) -> Recording:
    return merge(recording, Recording((run(name),), (observation(3, 1),)))


def test_update_creates_and_extends(tmp_path: Path) -> None:
    path = tmp_path / ".callfence" / "app.rec"
    for name in "ab":
        update(path, partial(add, name))
    assert [r.id for r in load(path).runs] == ["a", "b"]
    assert [entry.name for entry in path.parent.iterdir()] == ["app.rec"]


def test_update_leaves_a_corrupt_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "app.rec"
    path.write_text("precious\n")
    with pytest.raises(RecordingError):
        update(path, partial(add, "a"))
    assert path.read_text() == "precious\n"
    assert list(tmp_path.iterdir()) == [path]


_UPDATE = """
import sys
from pathlib import Path
from callfence.policygen.recording.many import merge
from callfence.policygen.recording.model import Recording, Run
from callfence.policygen.recording.recording_file import update
for i in range(int(sys.argv[3])):
    new = Recording((Run(f"{sys.argv[2]}-{i}", i, (), 0, True),))
    update(Path(sys.argv[1]), lambda old: merge(old, new))
"""


def test_two_updates_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "app.rec"
    writers = [subprocess.Popen([sys.executable, "-c", _UPDATE, str(path), name, "40"]) for name in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert len(load(path).runs) == 120
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_the_file_whole_and_the_lock_free(tmp_path: Path) -> None:
    path = tmp_path / "app.rec"
    for attempt in range(5):
        writer = subprocess.Popen([sys.executable, "-c", _UPDATE, str(path), f"k{attempt}", "100000"])
        deadline = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.01 * attempt)
        writer.kill()
        writer.wait()
        before = len(load(path).runs)
        assert before > 0
        update(path, partial(add, f"after{attempt}"))
        assert len(load(path).runs) == before + 1


def test_scale(tmp_path: Path) -> None:
    """One run is added to ten with 5,000 observations each."""
    seen = [observation(n // 50, *[1] * 10, arguments=(n,)) for n in range(5000)]
    save(tmp_path / "app.rec", Recording(tuple(run(f"r{i}", i) for i in range(10)), tuple(seen)))
    new = Recording((run("new", 10),), tuple(observation(n // 50, 1, arguments=(n,)) for n in range(5000)))
    started = time.process_time()
    update(tmp_path / "app.rec", lambda old: merge(old, new))
    assert time.process_time() - started < 4  # about 0.3 s on an idle machine
    assert load(tmp_path / "app.rec").observations[0].counts == (1,) * 11


class TestAtomic:
    def test_keeps_the_mode_and_follows_umask_for_a_new_file(self, tmp_path: Path) -> None:
        path = tmp_path / "app.policy"
        before = os.umask(0o027)
        try:
            atomic.write(path, b"new")
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        atomic.write(path, b"newer")
        assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"newer", 0o604)

    def test_refuses_what_is_no_file_of_its_own(self, tmp_path: Path) -> None:
        target = tmp_path / "target"
        target.write_text("precious")
        link = tmp_path / "link"
        link.symlink_to(target)
        with pytest.raises(OSError, match="is a symbolic link"):
            atomic.write(link, b"new")
        with pytest.raises(OSError, match="not a regular file"):
            atomic.write(tmp_path, b"new")
        with pytest.raises(OSError, match="not a regular file"):
            atomic.write(Path("/dev/null"), b"new")
        with pytest.raises(FileNotFoundError):
            atomic.write(tmp_path / "missing" / "file", b"new")
        for path in (link, tmp_path, Path("/dev/null"), tmp_path / "missing" / "file"):
            with pytest.raises(OSError):
                atomic.check_writable(path)
        atomic.check_writable(target)
        atomic.check_writable(tmp_path / "new")
        assert target.read_text() == "precious"
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["link", "target"]

    @pytest.mark.parametrize("call", ["write", "fsync", "rename"])
    def test_a_full_disk_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
        path = tmp_path / "app.policy"
        path.write_text("old")

        def fail(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        if call == "write":
            real = os.open

            def full(name: str, flags: int, *mode: int, **folder: int) -> int:  # full(4): each write fails so
                return real("/dev/full", os.O_WRONLY) if flags & os.O_CREAT else real(name, flags, *mode, **folder)

            monkeypatch.setattr(os, "open", full)
        else:
            monkeypatch.setattr(os, call, fail)
        with pytest.raises(OSError) as error:
            atomic.write(path, b"new" * 10_000)
        assert error.value.errno == errno.ENOSPC
        monkeypatch.undo()
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_a_lock_in_the_way_of_a_link_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / ".app.policy.lock").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError) as error, atomic.locked(tmp_path / "app.policy"):
            pass
        assert error.value.errno == errno.ELOOP


@pytest.mark.long
@pytest.mark.parametrize("first", ["", '{"callfence recording": 4, "runs": 1, "observations": 0}\n'])
def test_a_sparse_file_takes_no_memory(tmp_path: Path, first: str) -> None:
    """It takes no disk: who sends a recording could fill the memory of who merges it."""
    file = tmp_path / "it.rec"
    file.write_text(first)
    os.truncate(file, 8 << 30)
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); from pathlib import Path; "
    imported = "logs.read_log('recording', str(path), None)"
    for call in ("recording_file.load(path)", "recording_file.runs_in(path)", "many.merge_files(path, [path])", imported):
        code = (
            f"{limit}from callfence.learning import logs\n"
            "from callfence.policygen.recording import many, recording_file\npath = Path(sys.argv[1])\n"
            f"try: {call}\nexcept recording_file.RecordingError as error: print(error)"
        )
        done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=False, timeout=60)
        assert done.stdout.startswith(f"{file}:"), done


GOOD = [
    ("./a: b\n#", "read"), ("$TMPDIR", "list"), ("/", "read"), ("abstract sockets", "family"), ("dns query", "none"),
    ("dns query a.b", ""), ("made", "./a b/"), ("made", "/"), ("name a.b", "10.0.0.1"), ("tcp bind", "0"),
    ("tcp connect 10.0.0.0/8", "65535"),
    ("udp send ::1", "53"), ("unix connect ./a b", ""), ("unix connect @a\n\0", ""),
]  # fmt: skip
BAD = [
    ("./..", "read"), ("/a//b", "read"), ("/\0", "read"), ("dns query a\nunix connect @*", ""), ("dns query any", ""),
    ("made", "/a/.."), ("name a\nb", "10.0.0.1"), ("tcp bind", "99999"), ("tcp bind", "9" * 5000), ("tcp connect a", "b"),
    ("tcp connect any", "1"), ("udp send a\nb", "1"), ("unix connect ../x", ""), ("unix connect any", ""),
    ("unix connect @a*b", ""),
]  # fmt: skip


@pytest.mark.parametrize(("use", "is_good"), [*((use, True) for use in GOOD), *((use, False) for use in BAD)])
def test_a_recording_uses_only_what_a_policy_can_name(use: tuple[str, str], is_good: bool) -> None:
    """What it names becomes lines of policies, and recordings come from elsewhere, too."""
    recording = Recording((run("a", files=((*use, "/app"),)),), ())
    if is_good:
        assert parse(text(recording).encode(), "a.rec") == recording
    else:
        with pytest.raises(RecordingError, match="corrupt: files is"):
            parse(text(recording).encode(), "a.rec")
