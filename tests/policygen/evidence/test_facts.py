"""Facts: their text, and that joining them is a join."""

from __future__ import annotations

import json

import pytest
from calls import event
from hypothesis import given, strategies as st

from callfence.policygen.evidence.facts import Places, Varying, created, examples, facts, join, parse, places, text
from callfence.policygen.evidence.pointed import Value
from callfence.policygen.evidence.words import escaped

OPENAT = event("openat AT_FDCWD 1 O_RDWR|O_CREAT|O_EXCL 0o600")
TEXTS = [
    'filename="/etc/redis.conf"',
    'filename="/"',
    'filename="."',
    'filename="./x/y"',
    'filename="?/x"',
    'filename=""',
    'filename="/usr/lib/**"',
    'oldname=text:"tmpfs"',
    'oldname=text:""',
    'argv=["a"]',
    'argv=["a, b", "c", ...]',
    "argv=[...]",
    "uservaddr=127.0.0.1:80",
    "uservaddr=[::1]:*",
    "uservaddr=127.0.0.1:**",
    "uservaddr=AF_NETLINK",
    "uservaddr=**",
    'addr=unix:"/run/x.sock"',
    'addr=unix:"@x/y"',
]


def texts(value: Value, where: Places, varying: Varying) -> list[str]:
    return [text(fact) for fact in facts(OPENAT, {1: value}, where, varying)]


@given(
    st.sampled_from(["path", "text", "unix"]),
    st.binary(max_size=40).map(escaped) | st.text("/.ab1*@", max_size=30).map(escaped),
    st.sampled_from(["", "/", "/srv/a"]),
)
def test_a_fact_is_what_its_text_is_read_as(sort: str, name: str, folder: str) -> None:
    """So it does not matter whether facts are joined as they come, or as texts of several recordings."""
    for fact in facts(OPENAT, {1: Value(sort, (name,), folder)}, Places("/srv"), Varying((7,), {"/srv/a/ab1abcd"})):
        assert parse(text(fact)) == fact


@pytest.mark.parametrize("fact", TEXTS)
def test_a_text_is_read_back(fact: str) -> None:
    found = parse(fact)
    assert found is not None and text(found) == fact and join([fact]) == (fact,)


@pytest.mark.parametrize(
    "wrong",
    ["", "f", "f=", 'f="a', 'f="a"b"', 'a b="c"', 'f="\x1b"', 'f="' + 5000 * "x" + '"', "f=[a]", "f=1 "],
)
def test_what_is_no_fact_is_left_out(wrong: str) -> None:
    assert parse(wrong) is None and join([wrong, 'f="/a"']) == ('f="/a"',)


names = st.sampled_from("abcdefghij")
some = st.one_of(
    st.lists(names, min_size=1, max_size=10).map(lambda parts: f'f="/{"/".join(parts)}"'),
    st.lists(names, min_size=1, max_size=3).map(lambda words: f"argv={json.dumps(words)}"),
    st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda one: f"addr=10.0.0.{one[0]}:{one[1]}"),
    st.sampled_from(TEXTS),
)


@given(st.lists(some, max_size=60), st.lists(some, max_size=60), st.lists(some, max_size=60))
def test_joining_is_a_join(a: list[str], b: list[str], c: list[str]) -> None:
    whole = join([*a, *b, *c])
    assert join([*join([*a, *b]), *c]) == join([*a, *join([*c, *b])]) == whole == join(whole)


def test_what_grows_too_wide_becomes_a_pattern() -> None:
    assert join(f'f="/usr/lib/{one}"' for one in range(3)) == ('f="/usr/lib/0"', 'f="/usr/lib/1"', 'f="/usr/lib/2"')
    many = [f'f="/usr/lib/{one}/x"' for one in range(100)]
    assert join([*many, 'f="/etc/passwd"']) == ('f="/etc/passwd"', 'f="/usr/lib/**"')
    for folder, most in (("", 8), ("/p", 4), ("/p/q", 3), ("/p/q/r", 3)):
        names = [f'f="{folder}/{name}"' for name in "abcdefghi"]
        assert join(names[:most]) == (*names[:most],)
        assert join(names[: most + 1]) == (f'f="{folder}/**"',)
    deep = 'f="/' + "/".join("abcdefghijk") + '"'
    assert join([deep]) == ('f="/a/b/c/d/e/f/g/**"',)


@pytest.mark.parametrize(
    ("given", "folder", "fact"),
    [
        ("/etc/passwd", "", "/etc/passwd"),
        ("//etc/./passwd/", "", "/etc/passwd"),
        ("passwd", "/etc", "/etc/passwd"),
        ("x", "/srv/app", "./x"),
        (".", "/srv/app", "."),
        ("/srv/app/data/x", "", "./data/x"),
        ("/srv/apple", "", "/srv/apple"),
        ("/home/me/.cache/x", "", "~/.cache/x"),
        ("x", "", "?/x"),
        ("", "/srv/app", "."),
        ("/proc/1234/fd/3", "", "/proc/*/fd/*"),
        ("/tmp/sortA7xK2q", "", "/tmp/sort*"),
        ("/scratch/tmpab12_xyz", "", "/scratch/tmp*"),
        ("/var/cache/3f2a9c0d11.o", "", "/var/cache/*.o"),
        ("/run/app-77.pid", "", "/run/app-*.pid"),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", "", "/usr/lib/x86_64-linux-gnu/libc.so.6"),
    ],
)
def test_names_that_vary_become_patterns(given: str, folder: str, fact: str) -> None:
    where = places("/srv/app/", {"HOME": "/home/me", "TMPDIR": "/scratch"})
    value = Value("path", (given,), folder)
    assert texts(value, where, Varying((77, 78))) == [f'filename="{fact}"']


@pytest.mark.parametrize(
    ("call", "name", "shown"),
    [
        ("openat AT_FDCWD 1 O_RDWR|O_CREAT|O_EXCL 0o600", "tbp6A4M", "*"),
        ("openat AT_FDCWD 1 O_RDWR|O_CREAT|O_EXCL 0o600", "config.lock", "config.lock"),
        ("openat AT_FDCWD 1 O_RDWR|O_CREAT 0o600", "tbp6A4M", "tbp6A4M"),
        ("mkdir 1 0o700", "build-Ab12Cd", "build-*"),
        ("mkdir 1 0o755", "build-Ab12Cd", "build-Ab12Cd"),
    ],
)
def test_names_that_a_program_makes_up_become_patterns(call: str, name: str, shown: str) -> None:
    """Also in the calls that come after, and for what is in such a folder."""
    made = created(event(call), {int(call.startswith("openat")): Value("path", (name,), "/srv")})
    inside = Value("path", (f"/srv/{name}/data",))
    assert texts(inside, Places(), Varying((), {made})) == [f'filename="/srv/{shown}/data"']


def test_the_root_is_no_place() -> None:
    """A run that begins in the root, or has it for a home, would have a sign for every path."""
    value = Value("path", ("/etc/passwd",))
    for where in (places("/", {"HOME": "/"}), Places()):
        assert texts(value, where, Varying()) == ['filename="/etc/passwd"']


def test_the_first_fact_about_each_argument_is_an_example() -> None:
    evidence = ['oldname="a"', 'oldname="b"', 'newname="c"', "at /srv"]
    assert examples(event("rename"), evidence) == ({0: '"a"', 1: '"c"'}, ['oldname="b"', "at /srv"])
