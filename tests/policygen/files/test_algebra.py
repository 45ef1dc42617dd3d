"""Grants on a tree: each operation gives at every path exactly what it should, and no more lines than it takes."""

from __future__ import annotations

import itertools
import operator

from hypothesis import given, settings, strategies as st

from policygen.files import algebra
from policygen.grants import ALL, NOT_CONFINED, NOTHING, Files, Right, format_ports, ranges, single
from policygen.paths import folders

PATHS = ["/", "/a", "/a/b", "/a/b/c", "/d", ".", "./a", "./a/b", "$HOME", "$HOME/a", "$TMPDIR"]
PLACES = [*PATHS, "/a/b/c/e", "/d/e", "./b", "$HOME/a/b", "/e"]
RIGHTS = st.lists(st.sampled_from([Right.READ, *list(Right)[1:4]]), max_size=3).map(lambda parts: sum_of(parts))
TREES = st.dictionaries(st.sampled_from(PATHS), RIGHTS, max_size=5)
PORTS = st.sets(st.integers(0, 12), max_size=6).map(ranges)
FILES = st.builds(Files, st.none() | TREES, st.none() | PORTS, st.none() | PORTS)


def sum_of(rights):
    found = NOTHING
    for right in rights:
        found |= right
    return found


def at(grants, path):
    """What holds at a path, written differently: by every grant that has the path below it."""
    return sum_of(
        rights for folder, rights in grants.items() if folder in (path, "/") or path.startswith(folder.rstrip("/") + "/")
    )


@given(TREES)
def test_a_grant_holds_at_the_path_and_below(grants):
    for path in PLACES:
        assert algebra.granted(grants, path) == at(grants, path)


@given(TREES)
def test_reducing_changes_nothing_and_leaves_nothing_out(grants):
    reduced = algebra.reduced(grants)
    for path in PLACES:
        assert at(reduced, path) == at(grants, path)
    for path in reduced:
        rest = {one: rights for one, rights in reduced.items() if one != path}
        repeated = at(rest, path) & reduced[path]
        assert repeated in (NOTHING, Right.LIST), "a line says what another says already"
        assert not repeated or Right.READ in reduced[path], "`read` has no word without `list`"


@given(TREES, TREES)
def test_union_and_intersection_are_exact(a, b):
    union, both = algebra.combined((a, b), operator.or_), algebra.combined((a, b), operator.and_)
    for path in PLACES:
        assert at(union, path) == at(a, path) | at(b, path)
        assert at(both, path) == at(a, path) & at(b, path)


@given(TREES, TREES)
def test_the_gaps_are_exactly_the_differences(a, b):
    gaps = algebra.gaps(a, b)
    assert bool(gaps) == any(at(a, path) != at(b, path) for path in PLACES)
    for path in {*a, *b}:
        more = sum_of(gap.more for gap in gaps if gap.path in folders(path))
        less = sum_of(gap.less for gap in gaps if gap.path in folders(path))
        assert at(b, path) & ~at(a, path) & ~more == NOTHING, "each is told there or above"
        assert at(a, path) & ~at(b, path) & ~less == NOTHING
    for gap in gaps:
        assert gap.more == gap.more & at(b, gap.path) & ~at(a, gap.path), "nothing else is told"
        assert gap.less == gap.less & at(a, gap.path) & ~at(b, gap.path)
        for other in gaps:
            if other != gap and other.path in folders(gap.path):
                assert not gap.more & other.more and not gap.less & other.less, "and once"


@settings(deadline=None)
@given(FILES, FILES, FILES)
def test_merges_form_a_semilattice(a, b, c):
    assert algebra.united(a, b) == algebra.united(b, a)
    assert algebra.united(a, algebra.united(b, c)) == algebra.united(algebra.united(a, b), c)
    assert not algebra.differences(algebra.united(a, a), a)
    assert not algebra.differences(algebra.united(a, algebra.intersected(a, b)), a)


@settings(deadline=None)
@given(FILES, FILES, FILES)
def test_a_change_of_one_side_is_taken(a, b, c):
    assert algebra.merged(a, a, b) == (b, ())
    assert algebra.merged(a, b, a) == (b, ())
    assert algebra.merged(a, b, b) == (b, ())
    merged, conflicts = algebra.merged(a, b, c)
    both = {path for path in PLACES if a.grants and algebra.granted(b.grants, path) == algebra.granted(c.grants, path)}
    for path in both if not conflicts else ():
        assert algebra.granted(merged.grants, path) == algebra.granted(b.grants, path), "what both sides have stays"


def test_a_grant_that_moves_up_while_the_other_side_drops_it_is_a_conflict():
    base, ours, theirs = (Files({path: Right.READ}) for path in ("/a/b", "/a", "/c"))
    merged, conflicts = algebra.merged(base, ours, theirs)
    assert conflicts == ("path /a/b",)
    assert merged == Files({"/a": Right.READ, "/c": Right.READ})


@settings(deadline=None)
@given(FILES, FILES)
def test_a_line_of_another_policy_is_put_back(a, b):
    for line in {*a.lines(), *b.lines()}:
        if (a.paths is None) == (b.paths is None) or line.startswith("tcp "):
            assert algebra.with_line(a, line, b).lines().get(line) == b.lines().get(line) or line == "path /"


def test_what_is_not_confined_is_everything():
    assert algebra.differences(NOT_CONFINED, Files({"/a": ALL}))[0].line == "path /"
    assert algebra.united(NOT_CONFINED, Files({"/a": Right.READ})) == NOT_CONFINED
    assert algebra.intersected(NOT_CONFINED, Files({"/a": Right.READ})) == Files({"/a": Right.READ})
    assert algebra.extended(NOT_CONFINED, Files({"/a": Right.READ})) == NOT_CONFINED
    assert Files({}).lines() == {"path /": "none"}, "no grants are not no lines"


@given(st.sets(st.integers(0, 40)))
def test_ports_are_the_same_as_ranges(ports):
    found = ranges(ports)
    assert single(found) == ports
    assert all(a[1] + 1 < b[0] for a, b in itertools.pairwise(found))
    assert format_ports(found).count(",") == max(0, len(found) - 1)


def test_read_implies_list():
    listed, read = Files({"/a": Right.LIST}), Files({"/a": Right.READ})
    assert algebra.united(listed, read) == read
    assert algebra.intersected(listed, read) == listed
    assert algebra.differences(listed, read) == (algebra.Difference("path /a", "read", ""),)
    assert algebra.differences(read, listed) == (algebra.Difference("path /a", "", "read"),)
    assert algebra.reduced({"/a": Right.LIST, "/a/b": Right.READ}) == {"/a": Right.LIST, "/a/b": Right.READ}
    assert algebra.reduced({"/a": Right.READ, "/a/b": Right.LIST}) == {"/a": Right.READ}
    assert Files({"/a": Right.CONTENT}) == read, "no value grants the one without the other"
