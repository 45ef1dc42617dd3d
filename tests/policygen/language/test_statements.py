"""Lines about files and ports: what they mean, how they are printed, and what is wrong with those that are refused."""

from __future__ import annotations

import time

import pytest
from calls import parse
from hypothesis import given, strategies as st

from callfence.policygen.errors import PolicyError
from callfence.policygen.grants import NOTHING, Files, Right
from callfence.policygen.paths import PathError, canonical, shown, unquoted
from callfence.policygen.values import replace

BYTES = st.binary(min_size=1, max_size=8).filter(lambda name: not {b"/"[0], 0} & set(name) and name not in (b".", b".."))
NAMES = st.lists(BYTES.map(lambda name: name.decode("utf-8", "surrogateescape")), min_size=1, max_size=3)
ROOTS = st.sampled_from(["", ".", "$HOME", "$TMPDIR", "$XDG_RUNTIME_DIR"])


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("/", "/"),
        ("//usr///lib/", "/usr/lib"),
        ("/usr/./lib", "/usr/lib"),
        (".", "."),
        ("./", "."),
        ("$CWD", "."),
        ("$CWD/data", "./data"),
        ("./data", "./data"),
        ("$HOME/.cache", "$HOME/.cache"),
        ("$TMPDIR", "$TMPDIR"),
        ("/a$HOME", "/a$HOME"),
        ('"/a b"', "/a b"),
        (r'"/a\"\\\n\t\xff"', '/a"\\\n\t\udcff'),
        (r'"/\xc3\xa9"', "/é"),
        ('"/a:b#c"', "/a:b#c"),
        ("/é", "/é"),
    ],
)
def test_a_path_has_one_form(written, path):
    document = parse(f"path {written}: read\n")
    assert document.policy.files == Files({path: Right.READ})
    assert parse(document.text()) == document


@given(ROOTS, NAMES)
def test_every_path_can_be_written(root, names):
    path = "/".join((root, *names))
    text = shown(path)
    assert canonical(unquoted(text) if text.startswith('"') else text) == path
    assert parse(f"path {text}: read").policy.files == Files({path: Right.READ})


@pytest.mark.parametrize("unseen", [*"\u3164\u2800\ufe0f\u034f\uffa0\u200b\u202e\u00a0\U000e0100"])
def test_no_path_looks_like_another(unseen):
    """A program chooses names, and a person reads them in a question."""
    text = shown(f"/run/a{unseen}")
    assert text == '"/run/a' + "".join(f"\\x{byte:02x}" for byte in unseen.encode()) + '"'
    assert parse(f"path {text}: read").policy.files == Files({f"/run/a{unseen}": Right.READ})


def test_the_canonical_text():
    text = """\
# top
tcp bind: 80, 81, 82, 443
path /etc/ssl: read   # certificates
path $HOME/.cache: create, write, read
# what it makes
path ./data: remove,
   read
path "/a b": execute
tcp connect: any
read: allow
"""
    document = parse(text)
    assert document.text().partition("unknown errno ENOSYS\n")[2] == """
# what it makes
path ./data: read, remove
path $HOME/.cache: read, write, create
path "/a b": execute
path /etc/ssl: read            # certificates
tcp connect: any
# top
tcp bind: 80-82, 443

read: allow
"""
    assert parse(document.text()) == document


def test_the_canonical_text_of_hosts_and_sockets():
    text = """\
unix connect @b*
unix connect "/run/x y"  # blank
unix connect ./s
udp send [2001:DB8::1]:53, 54
tcp connect *.Example.ORG.: 443
tcp connect 2001:db8::/32: any
tcp connect api.example.org:443
tcp connect ::ffff:10.0.0.0/104: 5432, 8000-8099
tcp connect any: 22
# v6
tcp connect ::1: 1
tcp connect in: 2
"""
    document = parse(text)
    assert document.text().partition("unknown errno ENOSYS\n")[2] == """
tcp connect: 22
tcp connect 10.0.0.0/8: 5432, 8000-8099
# v6
tcp connect ::1: 1
tcp connect 2001:db8::/32: any
tcp connect in: 2
tcp connect *.example.org: 443
tcp connect api.example.org: 443
udp send 2001:db8::1: 53-54
unix connect ./s
unix connect "/run/x y"        # blank
unix connect @b*
"""
    assert parse(document.text()) == document


def test_what_confines_hosts_and_sockets():
    def files(text):
        return parse(text).policy.files

    assert files("unix connect: none") == Files(unix=())
    assert files("unix connect any") == files("unix connect: any") == Files(unix=("any",))
    assert files("dns query: none") == Files(query=())
    assert files("dns query any") == files("dns query: any") == Files(query=("any",))
    assert files("dns query B.example.ORG.\ndns query *.a.org") == Files(query=("*.a.org", "b.example.org"))
    assert files("udp send: none") == Files(send=())
    at_host = Files(connect=(), connect_to={"10.0.0.1": ((80, 80),)})
    assert files("tcp connect 10.0.0.1: 80") == at_host
    assert files("tcp connect: none\ntcp connect 10.0.0.1: 80") == at_host, "no ports of any host, beside others"


def test_names_of_hosts_confine_what_is_looked_up():
    def files(text):
        return parse(text).policy.files

    assert files("tcp connect a.org: 80").query == files("udp send *.org: 80").query == ()
    assert files("tcp connect a.org: 80\ndns query: none") == files("tcp connect a.org: 80")
    assert files("tcp connect a.org: 80\ndns query: any").query == ("any",)
    assert files("tcp connect a.org: 80\ndns query b.org").query == ("b.org",)
    assert files("tcp connect 10.0.0.1: 80").query is None
    assert "dns" not in parse("tcp connect a.org: 80\ndns query: none").text()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dns query 10.0.0.1", "10.0.0.1 is an address, and only names are looked up"),
        ("dns query 2001:db8::/32", "2001:db8::/32 is an address"),
        ("dns query a.org: 53", "dns query NAME has no colon"),
        ("dns query: 53", "expected one of none, any"),
        ("dns queries", "query"),
        ("dns query *", "`*` can only be the whole first label"),
    ],
)
def test_lines_about_names_that_are_no_such_lines(line, message):
    with pytest.raises(PolicyError) as caught:
        parse(f"callfence 1\n{line}\n")
    assert message in f"{caught.value} {caught.value.hint}"


def test_the_comment_of_a_line_that_grants_nothing_beside_others_stays():
    document = parse("callfence 1\ntcp connect: none  # no more\ntcp connect 10.0.0.1: 80\n")
    assert document.text().startswith("# no more\ncallfence 1\n")
    assert parse(document.text()) == document


def test_an_included_file_may_say_none_where_the_policy_names_hosts():
    files = {"base": "tcp connect: none\nunix connect: none\n"}.__getitem__
    document = parse("include base\ntcp connect 10.0.0.1: 80\nunix connect @a\n", "app.policy", read=files)
    again = document.with_policy(document.policy)
    assert "\ninclude base\n" in again.text() and "none" not in again.text()
    assert "# include base: replaced" in document.with_policy(replace(document.policy, files=Files())).text()


PIECES = [
    "tcp connect", "tcp bind", "udp send", "unix connect", "dns query", " ", ": ", ":", ",", "443", "8000-8099", "any", "none",
    "10.0.0.0/8", "[", "]",
    "2001:db8::1", "::", "/32", "%eth0", "*.", "a.example", "B.example.", "@n", "@n*", "/run/x", '"/a b"', "./s", "#",
    "\n", "-", "é", "1",
]  # fmt: skip
STARTS = ["", "tcp connect ", "udp send ", "unix connect ", "dns query "]


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join), st.sampled_from(STARTS))
def test_any_text_is_a_policy_that_reads_back_or_a_mistake_with_a_place(text, start):
    try:
        document = parse(f"{start}{text}")
    except PolicyError as error:
        assert error.line >= 1
        assert error.column >= 1
        return
    assert parse(document.text()) == document


def test_none_confines_and_grants_nothing():
    assert parse("path /: none\ntcp connect: none").policy.files == Files({"/": NOTHING}, connect=())


@pytest.mark.parametrize(
    ("line", "column", "message", "hint"),
    [
        ("path data: read", 6, "data is not relative to a named folder", "write ./data, or an absolute path"),
        ("path ~/x: read", 6, "~/x is not relative to a named folder", "$HOME/x"),
        ("path $FOO/x: read", 6, "no folder is named $FOO", "$HOME"),
        ("path /a/../b: read", 6, "a path has no `..`", "depends on links"),
        ('path "/a: read', 6, "the quotes are not closed", '\\"'),
        (r'path "/a\q": read', 6, "\\q is no escape", "\\n"),
        (r'path "/a\x00": read', 6, "a path has no NUL byte", ""),
        ('path "": read', 6, "the path is empty", "write /"),
        ("path /" + "a" * 4095 + ": read", 6, "a path has at most 4095 bytes", ""),
        ("path /a b: read", 9, "expected `:`, but found `b`", "in quotes"),
        ("path /a read, write", 9, "expected `:`, but found `read`", "path /a: read"),
        ("path /a: reed", 10, "no right is named reed", "did you mean read?"),
        ("path /a: read none", 15, "expected the end of the line", ""),
        ("path /a: read, none", 16, "no right is named none", "stand alone"),
        ("path /a:", 9, "expected a right", ""),
        ("path /a: 5", 10, "expected a right", ""),
        ("path", 5, "expected a path", "path PATH: RIGHTS"),
        ("path /a: read\npath //a: write", 6, "path /a is given twice", "first at"),
        ("tcp listen: 80", 5, "expected connect or bind", ""),
        ("tcp connect 80", 13, "expected `:`", "tcp connect: PORTS"),
        ("tcp connect: 65536", 14, "65536 is no port", "ports are 0 to 65535"),
        ("tcp connect: -1", 14, "-1 is no port", ""),
        ("tcp connect: 0x50", 14, "0x50 is no port", ""),
        ("tcp connect: 90-80", 16, "the range ends before it begins: 90-80", ""),
        ("tcp connect: 1-65536", 15, "65536 is no port", ""),
        ("tcp connect: https", 14, "expected a port, any or none", "443"),
        ("tcp bind: 80\ntcp bind: 81", 1, "tcp bind is given twice", "join the two"),
        ("tcp connect 80, 443", 13, "expected `:`", "tcp connect: PORTS"),
        ("tcp connect 2001:db8::1:443", 28, "expected `:`", "a blank after the colon"),
        ("tcp connect 2001:db8::g: 443", 23, "expected `:`, but found `g`", ""),
        ("tcp connect fe80::1%eth0: 443", 13, "an address has no scope id", "on every interface"),
        ("tcp connect [::1: 443", 13, "is no IP address", "such as"),
        ("tcp connect 10.0.0.1/8: 443", 13, "bits after the network's prefix", "write 10.0.0.0/8"),
        ("tcp connect *.*.org: 443", 13, "`*` can only be", "*.example.org"),
        ("tcp connect a.example: none", 24, "a line with a host grants ports", "tcp connect: none"),
        ("tcp connect a.example b: 1", 23, "expected `:`, but found `b`", ""),
        ("tcp bind 127.0.0.1: 80", 10, "names no host", "tcp bind: PORTS"),
        ("tcp connect: 1\ntcp connect any: 2", 13, "tcp connect is given twice", "join the two"),
        ("udp send a.example: 1\nudp send A.example.: 2", 10, "udp send a.example is given twice", ""),
        ("udp connect 192.0.2.1: 53", 5, "expected send", "udp send"),
        ("unix bind: none", 6, "expected connect", "unix connect"),
        ("unix connect /x: any", 16, "expected the end of the line", "no colon"),
        ("unix connect x", 14, "not relative to a named folder", "./x"),
        ("unix connect: x", 15, "unknown grant of unix sockets x", "none, any"),
        ("unix connect @a*b", 14, "`*` can only be at the end", ""),
        ("unix connect /x\nunix connect /x/", 14, "unix connect /x is given twice", ""),
    ],
)
def test_what_is_refused(line, column, message, hint):
    with pytest.raises(PolicyError) as caught:
        parse(line, "x.policy")
    error = caught.value
    assert message in error.message
    assert hint in error.hint
    assert (error.line, error.column) == (1 + line.count("\n"), column)


def test_included_lines_stay_in_their_file_until_they_change():
    files = {"ssl.policy": "path /etc/ssl: read\nread: allow\n"}.__getitem__
    document = parse("include ssl.policy\npath ./data: read\nwrite: allow\n", "app.policy", read=files)
    assert document.policy.files == Files({"/etc/ssl": Right.READ, "./data": Right.READ})
    assert "/etc/ssl" not in document.text()
    assert "path /etc/ssl: read\n" in document.inlined().text()
    wider = Files({"/etc/ssl": Right.READ | Right.WRITE, "./data": Right.READ})
    changed = document.with_policy(replace(document.policy, files=wider)).text()
    assert "# include ssl.policy: replaced by its entries, because they changed" in changed
    assert "path /etc/ssl: read, write\n" in changed
    with pytest.raises(PolicyError, match="given twice"):
        parse("path /etc/ssl: read\ninclude ssl.policy\n", "app.policy", read=files)


def test_the_comment_of_a_line_that_is_gone_moves_to_the_top():
    document = parse("# app\n\n# why: certs\npath /etc/ssl: read\npath /a: read\n")
    text = document.with_policy(replace(document.policy, files=Files({"/a": Right.READ}))).text()
    assert text.startswith("# app\n")
    assert "# why: certs\ncallfence 1\n" in text


@pytest.mark.parametrize("text", ["", "x", "/x\0"])
def test_what_is_no_path(text):
    with pytest.raises(PathError):
        canonical(text)


def test_many_lines_take_no_longer_each() -> None:
    """A tenth of a second of processor time, and 20 seconds where each line is compared with all others."""
    count = 8000
    text = "".join(f"path /usr/{place}: read\n" for place in range(count))
    began = time.process_time()
    assert len(parse(text).policy.files.grants) == count
    assert time.process_time() - began < 5
