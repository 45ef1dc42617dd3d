"""Grants on a tree: each operation gives at every path exactly what it should, and no more lines than it takes."""

from __future__ import annotations

import itertools
import operator
import time
from functools import reduce
from ipaddress import ip_network

import pytest
from calls import parse
from hypothesis import given, strategies as st

from callfence.policygen.files import algebra
from callfence.policygen.grants import (
    ALL,
    ANY_PORT,
    BARE,
    NOT_CONFINED,
    NOTHING,
    Files,
    Right,
    format_ports,
    ranges,
    single,
    written,
)
from callfence.policygen.hosts import is_name
from callfence.policygen.paths import covers, folders
from callfence.policygen.values import replace

PATHS = ["/", "/a", "/a/b", "/a/b/c", "/d", ".", "./a", "./a/b", "$HOME", "$HOME/a", "$HOME/.a", "$TMPDIR"]
PLACES = [*PATHS, "/a/b/c/e", "/d/e", "./b", "$HOME/a/b", "/e"]
RIGHTS = st.lists(st.sampled_from([Right.READ, *list(Right)[1:4]]), max_size=3).map(lambda parts: sum_of(parts))
TREES = st.dictionaries(st.sampled_from(PATHS), RIGHTS, max_size=5)
PORTS = st.sets(st.integers(0, 12), max_size=6).map(lambda ports: ranges((port, port) for port in ports))
HOSTS = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "0.0.0.0/0", "::/0", "2001:db8::/32", "*.org", "*.example.org", "example.org"]
SOCKETS = ["any", "/", "/run", "/run/x", "@a", "@a*", "@*", "./x"]
SEEN = {
    "connect": ["any", *HOSTS, "10.1.2.4", "10.2.0.0/16", "2001:db8::1", "a.example.org", "*.a.example.org", "b.com"],
    "query": ["any", *HOSTS[-3:], "a.example.org", "*.a.example.org", "b.com"],
    "unix": [*SOCKETS, "/run/x/y", "/y", "@ab", "@b*", "@ab*", "./x/y", "./y"],
}
"""Places beside those that lines name, by kind."""
TO_HOSTS = st.dictionaries(st.sampled_from(HOSTS), PORTS, max_size=4)
NAMES = st.lists(st.sampled_from(["any", *HOSTS[-3:]]), max_size=3).map(tuple)
TO_SOCKETS = st.lists(st.sampled_from(SOCKETS), max_size=4).map(tuple)
FILES = st.builds(
    Files,
    st.none() | TREES,
    *[st.none() | PORTS] * 3,
    st.none() | TO_SOCKETS,
    st.just({}) | TO_HOSTS,
    st.just({}) | TO_HOSTS,
    st.none() | NAMES,
)


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
        if path == "$HOME/.a" and reduced[path] & ~repeated:
            repeated &= ~(grants[path] & Right.CREATE)  # `enforce` makes the folder by it
        assert repeated in (NOTHING, Right.LIST), "a line says what another says already"
        assert not repeated or Right.READ in reduced[path], "`read` has no word without `list`"


@given(TREES, TREES)
def test_union_and_intersection_are_exact(a, b):
    union, both = algebra.combined((a, b), operator.or_), algebra.combined((a, b), operator.and_)
    for path in PLACES:
        assert at(union, path) == at(a, path) | at(b, path)
        assert at(both, path) == at(a, path) & at(b, path)


@pytest.mark.parametrize("rule", [operator.or_, operator.and_])
def test_a_folder_that_is_made_by_its_line_keeps_create_and_no_file_gets_it(rule):
    folder, file = "$HOME/.app", "$HOME/.rc"
    all_of_home = {"$HOME": Right.CREATE | Right.REMOVE, file: Right.READ, folder: Right.READ}
    made = {"$HOME": Right.CREATE, file: Right.READ, folder: Right.READ | Right.CREATE}
    result = algebra.combined((all_of_home, made), rule)
    assert (result[folder], result[file]) == (Right.READ | Right.LIST | Right.CREATE, Right.READ | Right.LIST)
    assert folder not in algebra.reduced({"$HOME": Right.CREATE, folder: Right.CREATE}), "it needs no line"


@given(TREES, TREES)
def test_the_gaps_are_exactly_the_differences(a, b):
    gaps = algebra.gaps(a, b)
    assert bool(gaps) == any(at(a, path) != at(b, path) for path in PLACES)
    for path in {*a, *b}:
        more = sum_of(gap.more for gap in gaps if gap.place in folders(path))
        less = sum_of(gap.less for gap in gaps if gap.place in folders(path))
        assert at(b, path) & ~at(a, path) & ~more == NOTHING, "each is told there or above"
        assert at(a, path) & ~at(b, path) & ~less == NOTHING
    for gap in gaps:
        assert gap.more == gap.more & at(b, gap.place) & ~at(a, gap.place), "nothing else is told"
        assert gap.less == gap.less & at(a, gap.place) & ~at(b, gap.place)
        for other in gaps:
            if other != gap and other.place in folders(gap.place):
                assert not gap.more & other.more and not gap.less & other.less, "and once"


def contains(place, other):
    """Whether a host or socket contains another, written differently."""
    if place in ("any", other):
        return True
    if place.startswith(("/", "./", "@")):
        if place.startswith("@"):
            return place.endswith("*") and other.startswith(place[:-1])
        return other.startswith(place.rstrip("/") + "/") or (place == "/" and other[0] in "./")
    if place.startswith("*."):
        return other.endswith(place[1:])
    try:
        return ip_network(other).subnet_of(ip_network(place))
    except (ValueError, TypeError):
        return False


def reached(files, kind, place):
    """What is granted at a host or socket, from the fields: a number with a bit for each port, or whether the place is."""
    if kind in BARE:
        places = getattr(files, kind)
        return int(places is None or any(contains(one, place) for one in places))
    own = {"any": files.ports(kind), **files.hosts(kind)}
    return bits(span for host, ports in own.items() if contains(host, place) for span in ports)


def bits(spans):
    return reduce(operator.or_, ((2 << last) - (1 << first) for first, last in spans), 0)


def found(files, kind, place):
    """The same; what can be looked up by the line of a host too."""
    return int(algebra.looking_up(files)(place)) if kind == "query" else reached(files, kind, place)


@given(FILES, FILES)
def test_hosts_and_sockets_are_combined_exactly(a, b):
    united, both, wider = algebra.united(a, b), algebra.intersected(a, b), algebra.extended(a, b)
    for kind, place in ((kind, place) for kind, places in SEEN.items() for place in places):
        one, other = found(a, kind, place), found(b, kind, place)
        assert found(united, kind, place) == one | other
        if kind in ("connect", "send") and is_name(place) and both.query is not None and not algebra.looking_up(both)(place):
            assert not found(both, kind, place) & ~(one & other), "of what cannot be found, no line is left"
        else:
            asks = kind == "send" and both.query == () and not both.names  # no name server, where no name is left
            assert found(both, kind, place) | (asks and one & other & 1 << 53) == one & other
        free = getattr(a, kind) is None or getattr(b, kind) is None
        assert found(wider, kind, place) == (one if free else one | other)


@pytest.mark.long
@given(FILES, FILES)
def test_differences_of_hosts_and_sockets_are_exact_and_told_once(a, b):
    told = algebra.differences(a, b)
    assert len({difference.line for difference in told}) == len(told)
    for kind, start in {"connect": "tcp connect", **BARE}.items():
        own = [difference for difference in told if difference.line.startswith(start)]
        places = {line.removeprefix(start).strip() or "any": (more, less) for line, more, less in own}
        if kind == "query" and a.names != b.names:  # told of the lines of these hosts
            continue
        moved = {name for name in places if is_name(name) and algebra.looking_up(a)(name) != algebra.looking_up(b)(name)}
        for place in SEEN[kind]:
            one, other = (found(files, kind, place) or int(kind == "query" and files.asks_freely) for files in (a, b))
            mores = [of(kind, more) for where, (more, _) in places.items() if contains(where, place)]
            lesses = [of(kind, less) for where, (_, less) in places.items() if contains(where, place)]
            assert not other & ~one & ~reduce(operator.or_, mores, 0), "each is told there or above"
            assert not one & ~other & ~reduce(operator.or_, lesses, 0)
            once = [of(kind, more) for where, (more, _) in places.items() if contains(where, place) and where not in moved]
            assert sum(once) == reduce(operator.or_, once, 0), "and once"
            if place in places and place not in moved:
                assert not of(kind, places[place][0]) & ~(other & ~one)
                assert not of(kind, places[place][1]) & ~(one & ~other)


def of(kind, words):
    """What words of a difference grant."""
    if kind in BARE or not words:
        return int(bool(words))
    return bits(parse(f"tcp connect: {words}").policy.files.connect)


def test_without_a_name_whom_udp_lets_ask_asks_everything():
    """So `dns query: none` in the place of the last name lets every name be looked up, unless no name server can be asked."""
    for send, more, less in (("192.0.2.1: 53", "any", ""), ("192.0.2.1: 123", "", "any"), (": 50-60", "any", "")):
        send = send if send.startswith(":") else f" {send}"
        old, new = (parse(f"udp send{send}\ndns query{names}").policy.files for names in (" a.org", ": none"))
        assert algebra.differences(old, new) == (algebra.Difference("dns query" if more else "dns query a.org", more, less),)
        assert bool(algebra.differences(new, parse(f"udp send{send}").policy.files)) == (not more)
    one, other = (parse(f"udp send: 53, 123\ndns query {name}").policy.files for name in ("a.org", "b.org"))
    assert algebra.intersected(one, other) == parse("udp send: 123\ndns query: none").policy.files


def test_a_line_of_a_host_grants_that_its_name_is_looked_up():
    lines = ("", "tcp connect: any\ntcp connect *.org: 443")
    old, new = (parse(f"udp send: none\ndns query: none\n{line}").policy.files for line in lines)
    assert algebra.differences(old, new) == (algebra.Difference("tcp connect *.org", "443", ""),)
    assert algebra.differences(new, old) == (algebra.Difference("tcp connect *.org", "", "443"),)
    assert algebra.united(old, new).query == ("*.org",), "not confined to it, the union has no line of that host"
    assert not algebra.intersected(old, new).names
    free, named = parse("udp send: any").policy.files, parse("udp send a.example: 53").policy.files
    assert algebra.extended(named, free).query == ("a.example",)


@given(FILES)
def test_every_port_is_that_of_any_host_and_of_all(files):
    every = files.every_port("connect")
    assert (every is None) == (files.connect is None)
    somewhere = reduce(operator.or_, (reached(files, "connect", place) for place in SEEN["connect"]))
    assert somewhere == bits(ANY_PORT if every is None else every)


@given(FILES)
def test_lines_are_read_back_and_no_line_says_what_another_does(files):
    text = "".join(f"{written(line, granted)}\n" for line, granted in files.lines().items())
    assert parse(text).policy.files == files
    least = algebra.united(files, files)
    assert not algebra.differences(files, least)
    for line in least.lines():
        kind = algebra.line_kind(line)
        if line not in (kind.line(kind.root), "path /") and "list" not in least.lines()[line]:
            rest = kind.fields({place: bits for place, bits in kind.grants(least).items() if kind.line(place) != line})
            assert algebra.differences(least, replace(least, **rest))


@given(FILES, FILES, FILES)
def test_merges_form_a_semilattice(a, b, c):
    assert algebra.united(a, b) == algebra.united(b, a)
    assert algebra.united(a, algebra.united(b, c)) == algebra.united(algebra.united(a, b), c)
    assert not algebra.differences(algebra.united(a, a), a)
    assert not algebra.differences(algebra.united(a, algebra.intersected(a, b)), a)


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


def test_lines_that_one_side_drops_while_the_other_confines_more_are_a_conflict():
    base, fewer, free = (parse(lines).policy.files for lines in ("path ./a: read\npath ./b: read", "path ./a: read", ""))
    assert algebra.merged(base, fewer, free)[1] == algebra.merged(base, free, fewer)[1] == ("path ./b",)
    assert algebra.merged(base, base, free) == (free, ())
    base, theirs = (parse(line).policy.files for line in ("tcp connect *.example: 443", "dns query a.example"))
    assert "dns query *.example" in algebra.merged(base, free, theirs)[1]


@given(FILES, FILES)
def test_a_line_of_another_policy_is_put_back(a, b):
    for line in {*a.lines(), *b.lines()}:
        kind = algebra.line_kind(line)
        if (getattr(a, kind.name) is None) == (getattr(b, kind.name) is None):
            after = algebra.with_lines(a, [line], b)
            assert after.lines().get(line) == b.lines().get(line) or line == "path /" or (line == kind.line(kind.root))
            if line == kind.line(kind.root):
                assert kind.grants(after).get(kind.root, kind.nothing) == kind.grants(b).get(kind.root, kind.nothing)


def without_empty_root(files):
    """The files without a line for the root that grants nothing, which stands alone where there is no other."""
    others = {path: rights for path, rights in (files.paths or {}).items() if rights or path != "/"}
    return replace(files, paths=others) if others else files


@given(FILES, FILES, st.data())
def test_lines_are_put_back_together_as_one_after_the_other(a, b, data):
    every = sorted({*a.lines(), *b.lines()})
    lines = data.draw(st.lists(st.sampled_from(every), unique=True)) if every else []
    lines.sort(key=lambda line: algebra.line_kind(line).name)
    one_by_one = a
    for line in lines:
        one_by_one = algebra.with_lines(one_by_one, [line], b)
    assert without_empty_root(algebra.with_lines(a, lines, b)) == without_empty_root(one_by_one)
    with pytest.raises(ValueError, match="no line about files"):
        algebra.with_lines(a, ["read"], b)


def test_what_is_not_confined_is_everything():
    assert algebra.differences(NOT_CONFINED, Files({"/a": ALL}))[0].line == "path /"
    assert algebra.united(NOT_CONFINED, Files({"/a": Right.READ})) == NOT_CONFINED
    assert algebra.intersected(NOT_CONFINED, Files({"/a": Right.READ})) == Files({"/a": Right.READ})
    assert algebra.extended(NOT_CONFINED, Files({"/a": Right.READ})) == NOT_CONFINED
    assert Files({}).lines() == {"path /": "none"}, "no grants are not no lines"


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)).map(lambda span: (span[0], sum(span)))))
def test_ports_are_the_same_as_ranges(spans):
    found = ranges(spans)
    assert single(found) == single(tuple(spans))
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


@pytest.mark.parametrize("folder", [*PLACES, "", "/a/", "//a", "/a/bc"])
def test_what_a_folder_covers_is_what_is_in_it(folder: str) -> None:
    for path in (*PLACES, "", "/a/", "//a", "//a/b", "/a/bc", "/a//b"):
        assert covers(folder, path) == (folder in folders(path))


@pytest.mark.long
def test_thousands_of_names_are_compared_in_time() -> None:
    """Each was compared with all."""
    hosts = {f"h{number}.example.org": ((443, 443),) for number in range(10_000)}
    files = Files(None, (), connect_to=hosts)
    begin = time.process_time()
    assert len(algebra.differences(NOT_CONFINED, files)) == 2
    assert len(algebra.differences(files, replace(files, connect_to={}))) == 10_001  # and all names
    assert algebra.united(files, files) == files
    assert time.process_time() - begin < 10
