"""Joining and merging entries, call by call against the reference semantics."""

from __future__ import annotations

import pytest
from calls import parse
from hypothesis import HealthCheck, assume, given, settings, strategies as st
from strategies import EXAMPLES, actions, entries, events

from callfence.policygen.evaluate import evaluate
from callfence.policygen.language.normal import normal_entry
from callfence.policygen.merging import _ConflictError, merge_documents, merge_entry, unite
from callfence.policygen.model import ALLOW, ENOSYS, KILL, Action, Always, Entry, Policy
from callfence.policygen.sets.join import JoinError, join_entries, refuses
from callfence.tracer.abi import Arch, Event, table

ARCH = Arch.X86_64
CALLS = [table(ARCH).by_name[name].number for name in ("read", "mmap", "ioctl", "fork")]
SLOW = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))


def answer(entry: Entry | None, event: Event, default: Action = KILL) -> Action:
    section = {} if entry is None else {event.number: entry}
    return evaluate(Policy({ARCH: section}, default=default), event)


@st.composite
def cases(draw: st.DrawFn, count: int) -> tuple[int, list[Entry | None]]:
    """A call, and entries of it, some of them alike."""
    number = draw(st.sampled_from(CALLS))
    made = [normal_entry(ARCH, number, draw(entries(ARCH, number))) for _ in range(count)]
    plain: list[Entry | None] = [Entry(entry.expression) for entry in made]
    choice = st.sampled_from([None, *made, *plain, *plain, *plain])
    return number, [draw(choice) for _ in range(count)]


@SLOW
@given(st.data(), cases(2), actions())
def test_a_union_allows_what_either_does(
    data: st.DataObject, case: tuple[int, list[Entry | None]], default: Action
) -> None:
    number, (a, b) = case
    try:
        joined = join_entries(ARCH, number, a, b, default)
    except JoinError:
        assume(False)
    entry = data.draw(st.sampled_from([one for one in (a, b) if one] or [Entry(Always(True))]))
    event = data.draw(events(Policy({ARCH: {number: entry}})))
    assume(event.arch == ARCH.audit and event.number == number)
    either = answer(a, event, default).allows or answer(b, event, default).allows
    assert answer(joined, event, default).allows is either


@pytest.mark.long
@SLOW
@given(st.data(), cases(3))
def test_a_merge_takes_each_call_from_the_side_that_changed_it(
    data: st.DataObject, case: tuple[int, list[Entry | None]]
) -> None:
    number, (base, ours, theirs) = case
    try:
        merged = merge_entry(ARCH, number, base, ours, theirs)
    except _ConflictError:
        assume(False)
    entry = data.draw(st.sampled_from([one for one in (base, ours, theirs) if one] or [Entry(Always(True))]))
    event = data.draw(events(Policy({ARCH: {number: entry}})))
    assume(event.arch == ARCH.audit and event.number == number)
    before, here, there, now = (answer(one, event) for one in (base, ours, theirs, merged))
    assert now == (there if here == before else here)
    assert there in (before, now) or here in (before, there)


READ = table(ARCH).by_name["read"].number


def entry(text: str) -> Entry | None:
    return parse(text).policy.entries[ARCH].get(READ)


@pytest.mark.parametrize(
    ("a", "b", "joined"),
    [
        ("read: fd == 0", "read: fd == 1", "read: fd == 0 || fd == 1"),
        ("read: fd in {0, 1}", "read: fd == 1", "read: fd in {0, 1}"),
        ("read: fd == 0", "", "read: fd == 0"),
        ("read: errno ENOSYS", "read: fd == 0", "read: fd == 0 else errno ENOSYS"),
        ("read: kill if fd == 0 else allow", "read: fd == 1", "read: kill if fd == 0 else allow"),
        ("read: deny", "read: allow", "read: allow"),
        ("read: errno ENOSYS", "", "read: errno ENOSYS"),
        ("", "", ""),
    ],
)
def test_unions(a: str, b: str, joined: str) -> None:
    for one, other in ((a, b), (b, a)):
        assert join_entries(ARCH, READ, entry(one), entry(other), KILL) == entry(joined)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("read: errno EPERM", "read: errno EACCES"),
        ("read: fd == 0 else errno EPERM", "read: errno EACCES"),
        ("read: log", "read: fd == 0"),
        ("read: kill if fd == 0 else errno EPERM", "read: allow"),
    ],
)
def test_what_has_no_union(a: str, b: str) -> None:
    with pytest.raises(JoinError):
        join_entries(ARCH, READ, entry(a), entry(b), KILL)


def test_calls_that_are_newer_than_one_table_are_not_lost() -> None:
    older, newer = (parse(f"table {table}\nunknown log\nread: allow\n") for table in ("6.1", "6.18"))
    with pytest.raises(JoinError, match="make the tables the same"):
        unite(older, newer)
    assert unite(parse("table 6.1\nread: allow\n"), parse("table 6.18\nread: allow\n")).policy.table == (6, 18)


@pytest.mark.parametrize(
    ("written", "wanted", "refused"),
    [
        ("read: deny", "read: fd == 1", True),
        ("read: errno EPERM", "read: fd == 1", True),
        ("read: fd == 0 else errno EPERM", "read: fd == 1", True),
        ("read: fd == 0 else errno EPERM", "read: fd == 0", False),
        ("read: fd == 0", "read: fd == 1", False),
        ("read: kill if fd == 0 else allow", "read: fd == 0", True),
        ("", "read: allow", False),
    ],
)
def test_explicit_denials(written: str, wanted: str, refused: bool) -> None:
    want = entry(wanted)
    assert want is not None and want.action == ALLOW
    assert refuses(ARCH, READ, entry(written), want.expression, KILL) is refused


def test_comments_merge_too() -> None:
    base = parse("# top\nread: allow  # one\nwrite: allow  # two\n")
    ours = parse("# top\n# ours\nread: allow  # ONE\nwrite: allow  # two\n")
    theirs = parse("# top\nread: allow  # one\nwrite: allow\nclose: allow  # three\n")
    merged, conflicts = merge_documents(base, ours, theirs)
    assert not conflicts
    text = merged.text()
    assert all(comment in text for comment in ("# top\n", "# ours\n", "# ONE", "# three"))
    assert "# one" not in text
    assert "# two" not in text


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "above", "trailing"),
    [
        ("# a", "# a", "# b", "", "# b"),
        ("# a", "# b", "# a", "", "# b"),
        ("# a", "# b", "# b", "", "# b"),
        ("# a", "# b", "", "", "# b"),
        ("# a", "", "# a", "", ""),
        ("# a", "", "# b", "", "# b"),
        ("# a", "# b", "# c", "# c", "# b"),
        ("", "# b", "# c", "# c", "# b"),
    ],
)
def test_which_comment_stays_on_a_line(base: str, ours: str, theirs: str, above: str, trailing: str) -> None:
    merged, _ = merge_documents(*(parse(f"read: allow  {comment}\n") for comment in (base, ours, theirs)))
    lines = [" ".join(line.split()) for line in merged.text().splitlines() if "#" in line or "read" in line]
    assert lines == [*[above] * bool(above), f"read: allow {trailing}".strip()]


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "merged"),
    [
        ("a", "a", "ab", "ab"),
        ("a", "ab", "a", "ab"),
        ("a", "", "a", ""),
        ("a", "", "ab", "b"),
        ("ab", "b", "a", ""),
        ("ab", "cb", "adb", "cbd"),
        ("", "a", "b", "ab"),
        ("", "a", "a", "a"),
    ],
)
def test_which_comments_stay_above_a_line(base: str, ours: str, theirs: str, merged: str) -> None:
    texts = ["close: allow\n" + "".join(f"# {line}\n" for line in lines) + "read: allow\n" for lines in (base, ours, theirs)]
    text = merge_documents(*map(parse, texts))[0].text()
    assert [line[2:] for line in text.splitlines() if line.startswith("#")] == [*merged]


def test_an_architecture_that_one_side_adds_is_there() -> None:
    base, theirs = parse("read: allow\n"), parse("read: allow\narch i386\nclose: allow\n")
    merged, _ = merge_documents(base, parse("read: allow\nwrite: allow\n"), theirs)
    assert list(merged.policy.entries) == [Arch.X86_64, Arch.I386]
    merged, _ = merge_documents(theirs, theirs, base)
    assert list(merged.policy.entries) == [Arch.X86_64]
    assert merged.policy.unknown == ENOSYS


def test_folders_between_which_one_policy_moves_files_get_what_the_other_grants_one_of_them():
    """Else Landlock would deny moves that it allows in one."""
    moves = parse("path ./a: create, remove, move\npath ./b: create, remove, move\n")
    reads = parse("path ./a: read\n")
    for one, other in ((moves, reads), (reads, moves)):
        lines = unite(one, other).policy.files.lines()
        assert lines == dict.fromkeys(("path ./a", "path ./b"), "read, create, remove, move")
    assert unite(moves, moves).policy == moves.policy


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "merged"),
    [("", "a", "b", "ab"), ("", "a", "a", "a"), ("ab", "a", "ab", "a"), ("ab", "ab", "b", "b"), ("ab", "abc", "a", "ac")],
)
def test_which_includes_stay(base: str, ours: str, theirs: str, merged: str) -> None:
    read = {"a": "read: allow", "b": "write: allow", "c": "dup: allow"}.__getitem__
    texts = ["".join(f"include {name}\n" for name in names) + "close: allow\n" for names in (base, ours, theirs)]
    document, _ = merge_documents(*(parse(text, read=read) for text in texts))
    assert [line[-1] for line in document.text().splitlines() if line.startswith("include ")] == [*merged]


def test_comments_of_both_sides_on_an_include_are_kept() -> None:
    read = {"more": "read: allow"}.__getitem__
    base, ours, theirs = (parse(f"include more{comment}", read=read) for comment in ("", " # ours", " # theirs"))
    for merged in (unite(ours, theirs), merge_documents(base, ours, theirs)[0]):
        assert "# theirs\ninclude more                   # ours" in merged.text()
    assert "# theirs" in merge_documents(base, base, theirs)[0].text()


def test_a_union_with_a_portable_policy_is_portable() -> None:
    """What the other allows is, too, by the calls of other C libraries."""
    portable, plain = parse("portable\nopen: flags == O_RDONLY\n"), parse("unlink: allow\n")
    texts = {unite(*pair).text() for pair in ((portable, plain), (plain, portable))}
    assert len(texts) == 1
    (text,) = texts
    assert "\nportable\n" in text and "\nunlinkat: dfd == AT_FDCWD && flag == 0\n" in text
    assert "unlinkat" not in unite(plain, parse("open: flags == O_RDONLY\n")).text()
