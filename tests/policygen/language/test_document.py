"""Comments, includes and rewrites: nothing that a person wrote is lost."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from textwrap import dedent

import pytest
import strategies
from calls import parse, parse_file
from hypothesis import given, settings, strategies as st

from callfence.policygen.language.document import Document, PolicyError, new_document
from callfence.policygen.model import Policy
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch, table

READ, WRITE, CLOSE, IOCTL, EXIT = (
    table(Arch.X86_64).by_name[n].number for n in ("read", "write", "close", "ioctl", "exit")
)

SETTINGS = """\
callfence 1
arch x86_64
table 6.18
arm exec
default kill
unknown errno ENOSYS
"""


def fmt(text: str) -> str:
    """The canonical text, which must be a fixed point."""
    document = parse(dedent(text))
    canonical = document.text()
    assert parse(canonical) == document
    assert parse(canonical).text() == canonical
    return canonical


def entries(text: str) -> str:
    """The canonical text after the settings."""
    canonical = fmt(text)
    assert canonical.startswith(SETTINGS)
    return canonical.removeprefix(SETTINGS).removeprefix("\n")


def test_new_document() -> None:
    policy = parse("sys_exit: 1\nread: fd == 0 || fd == 1").policy
    text = new_document(policy, "./samples/hello", {(Arch.X86_64, EXIT): "floor: every program ends"}).text()
    assert text == dedent("""\
        # callfence policy for: ./samples/hello
        callfence 1
        arch x86_64
        table 6.18                     # kernel whose syscall table the policy was written against
        arm exec                       # now | exec | entry
        default kill                   # what happens to every call not allowed below
        unknown errno ENOSYS           # calls newer than the table

        exit: allow                    # floor: every program ends
        read: fd == 0
           || fd == 1
        """)
    assert parse(text).text() == text


def test_a_line_end_in_the_name_of_a_new_document_is_replaced() -> None:
    text = new_document(parse("exit: allow").policy, "a\nread: allow\x1b[2J").text()
    assert parse(text).policy == parse("exit: allow").policy


def test_comments_stay_on_and_above_their_lines() -> None:
    assert fmt("""\
        # about the file

        # second paragraph
        callfence 1                 # the version
        # why not kill
        default errno EPERM         # because

        # above write,
        # two lines
        write: allow                # on write
        # above read
        read: fd == 1               # on fd 1
            # above fd 0
            || fd == 0              # on fd 0
        # at the end
        """) == dedent("""\
        # about the file

        # second paragraph
        callfence 1                    # the version
        arch x86_64
        table 6.18
        arm exec
        # why not kill
        default errno EPERM            # because
        unknown errno ENOSYS

        # above read
        # above fd 0
        read: fd == 0                  # on fd 0
           || fd == 1                  # on fd 1
        # above write,
        # two lines
        write: allow                   # on write

        # at the end
        """)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("read: allow # a # b", "read: allow                    # a # b\n"),
        ("read: allow #", "read: allow                    #\n"),
        ("read: allow\t#!odd  ", "read: allow                    #!odd\n"),
        # alternatives on one line: the comment is on the last of them
        ("read: fd == 2 || fd == 1 # one", "read: fd == 1                  # one\n   || fd == 2\n"),
        ("read: (fd == 2 # two\n || fd == 1)", "read: fd == 1\n   || fd == 2                  # two\n"),
        # an alternative written on several lines has one line for all its comments
        (
            "socket: family == AF_INET # net\n && type == SOCK_STREAM # tcp\n || family == AF_UNIX",
            "# net\nsocket: family == AF_INET && type == SOCK_STREAM  # tcp\n     || family == AF_UNIX\n",
        ),
        # the same alternative twice
        ("read: fd == 1 # a\n || fd == 2\n || fd == 1 # b", "# a\nread: fd == 1                  # b\n   || fd == 2\n"),
        ("read: fd == 1 # a\n || fd == 1 # b", "# a\nread: fd == 1                  # b\n"),
        ("read: fd == 1 ||\n # above two\n fd == 2", "read: fd == 1\n   # above two\n   || fd == 2\n"),
        # a paragraph at the top that is set apart is about the file
        ("# top\n\n# mine\nread: allow", None),
    ],
)
def test_places_of_comments(text: str, expected: str | None) -> None:
    if expected is None:
        assert fmt(text) == f"# top\n\n{SETTINGS}\n# mine\nread: allow\n"
    else:
        assert entries(text) == expected


def test_an_alternative_in_parentheses_has_no_comments_of_its_own() -> None:
    """Found by fuzzing: the expression in parentheses is also an alternative of its own further down."""
    text = "read: (fd == 2 || fd == 3) && fd != 4  # both\n   || fd == 1\n   || fd == 2  # one\n"
    assert "(fd == 2 || fd == 3)  # both" in fmt(text)


def test_comments_of_sections() -> None:
    text = dedent("""\
        # header
        callfence 1
        arch x86_64                    # first
        table 6.18
        arm exec
        default kill
        unknown errno ENOSYS

        read: allow

        # below the first section

        # above the second
        arch i386                      # second

        # above write
        write: allow

        # below it
        """)
    assert fmt(text) == text


def test_a_text_of_comments_alone() -> None:
    assert fmt("# a\n\n# b") == f"# a\n\n# b\n{SETTINGS}"


def comments_of(text: str) -> list[str]:
    return sorted("#" + line.split("#", 1)[1].strip() for line in text.splitlines() if "#" in line)


STATEMENTS = ["read: fd == 2", " || fd == 1 && count == 3", " || fd == 1", "write: allow", "ioctl: cmd == TCGETS",
              " || cmd == FIONBIO", "include more", "close: (fd == 3 || fd == 4)", "arch i386", "exit: error_code == 4",
              " || error_code == 3"]  # fmt: skip


@given(st.lists(st.sampled_from(["own", "blank", "bare", "trailing"]), max_size=30))
def test_no_comment_is_ever_lost(plan: list[str]) -> None:
    """Every comment of a text is in its canonical text once, and the canonical text is a fixed point."""
    statements = iter(STATEMENTS)
    lines = []
    for count, kind in enumerate(plan):
        if kind == "own":
            lines.append(f"# own {count}")
        elif kind == "blank":
            lines.append("")
        elif statement := next(statements, None):
            lines.append(statement if kind == "bare" else f"{statement} # on {count}")
    text = "\n".join(lines)
    read = {"more": "openat: allow"}.__getitem__
    document = parse(text, read=read)
    canonical = document.text()
    assert comments_of(canonical) == comments_of(text)
    assert parse(canonical, read=read) == document
    emptied = document.with_policy(Policy({Arch.I386: {}})).text()
    assert comments_of(emptied.replace("# include more: what it held", "")) == comments_of(text)


def rewritten(before: str, after: str, notes: dict[tuple[Arch, int], str] | None = None) -> str:
    document = parse(before).with_policy(parse(after).policy, notes)
    text = document.text()
    assert parse(text).text() == text
    assert parse(text).policy == document.policy
    return text.removeprefix(SETTINGS).removeprefix("\n")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("read: allow # r", "read: allow\nwrite: allow", "read: allow                    # r\nwrite: allow\n"),
        ("read: allow # r", "read: fd == 1", "read: fd == 1                  # r\n"),
        # the alternative is still there, whatever its place
        (
            "read: fd == 1 # one\n || fd == 2 # two",
            "read: fd == 0 || fd == 1 || fd == 2",
            "read: fd == 0\n   || fd == 1                  # one\n   || fd == 2                  # two\n",
        ),
        # it is gone: above the entry
        (
            "read: fd == 1 # one\n || fd == 2 # two",
            "read: fd == 0 || fd == 2",
            "# one\nread: fd == 0\n   || fd == 2                  # two\n",
        ),
        ("read: fd == 1 # one\n || fd == 2", "read: allow", "# one\nread: allow\n"),
        # the entry is gone: below the last
        ("# a\nread: allow # r\nwrite: allow", "write: allow", "write: allow\n\n# a\n# r\n"),
        ("read: fd == 1 # one\n || fd == 2 # two", "", "\n# one\n# two\n".removeprefix("\n")),
    ],
)
def test_comments_after_a_rewrite(before: str, after: str, expected: str) -> None:
    assert rewritten(before, after) == expected


def test_notes_are_replaced() -> None:
    exit_ = (Arch.X86_64, EXIT)
    both = "exit: allow\nread: fd == 1 || fd == 2"
    once = rewritten(both, both, {exit_: "floor: ends"})
    assert once == "exit: allow                    # floor: ends\nread: fd == 1\n   || fd == 2\n"
    assert rewritten(once, both, {exit_: "floor: ends"}) == once
    assert rewritten(once, both) == once
    assert rewritten(once, both, {exit_: "floor: x"}) == once.replace("ends", "x")
    assert rewritten(once, both, {}) == "exit: allow\nread: fd == 1\n   || fd == 2\n"
    assert rewritten(once, "read: allow", {}) == "read: allow\n"


def test_a_note_beside_a_comment() -> None:
    exit_ = (Arch.X86_64, EXIT)
    once = rewritten("exit: allow # mine", "exit: allow", {exit_: "floor: ends"})
    assert once == "# floor: ends\nexit: allow                    # mine\n"
    assert rewritten(once, "exit: allow", {exit_: "floor: ends"}) == once
    assert rewritten(once, "exit: allow", {}) == "exit: allow                    # mine\n"


def test_a_note_on_alternatives_is_on_the_entry() -> None:
    notes = {(Arch.X86_64, READ): "opaque: x"}
    once = rewritten("read: fd == 1 || fd == 2", "read: fd == 1 || fd == 2", notes)
    assert once == "read: fd == 1                  # opaque: x\n   || fd == 2\n"
    assert rewritten(once, "read: fd == 0 || fd == 2", notes) == once.replace("fd == 1", "fd == 0")


@pytest.mark.parametrize("note", ["why: because", "floor", "floor: two\nlines"])
def test_a_note_has_one_line_and_a_known_word(note: str) -> None:
    document = parse("exit: allow")
    with pytest.raises(ValueError, match="a note begins with"):
        document.with_policy(document.policy, {(Arch.X86_64, EXIT): note})


def test_comments_of_removed_settings_move_to_the_top() -> None:
    document = parse("implied 1 # a\nphases required # b\nphase p after read # c\nread: allow\nclose: allow until p\n")
    assert document.layout.header == ("# b",), "what is the case without the line, too, is not printed"
    fewer = document.with_policy(replace(document.policy, implied=0, phases=()))
    assert fewer.layout.header == ("# b", "# a", "# c")
    assert parse(fewer.text()) == fewer
    learned = new_document(replace(document.policy, portable=True), "it")
    assert "C libraries" not in learned.with_policy(document.policy).text(), "a tool's comment goes with what it explains"


def test_comments_of_a_removed_architecture_move_to_the_top() -> None:
    document = parse("read: allow\n# mine\narch i386 # on\nwrite: allow # w\n# end")
    text = document.with_policy(parse("read: allow").policy).text()
    assert text == f"# mine\n# on\n# w\n# end\n{SETTINGS}\nread: allow\n"


# Includes


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def error(folder: Path, files: dict[str, str]) -> str:
    write(folder, files)
    with pytest.raises(PolicyError) as caught:
        parse_file(folder / "main")
    return str(caught.value).replace(f"{folder}/", "")


def test_include(tmp_path: Path) -> None:
    write(tmp_path, {
        "main": "# mine\ninclude lib/base.policy # shared\nread: allow\narch i386\ninclude lib/one",
        "lib/base.policy": "# theirs\nexit: allow\ninclude one",
        "lib/one": "close: fd == 1",
    })  # fmt: skip
    document = parse_file(tmp_path / "main")
    assert document.policy == parse("exit: 1\nread: 1\nclose: fd == 1\narch i386\nclose: fd == 1").policy
    first = "# mine\ninclude lib/base.policy        # shared\n\nread: allow\n"
    expected = f"{SETTINGS}\n{first}\narch i386\n\ninclude lib/one\n"
    assert document.text() == expected
    write(tmp_path, {"main": expected})
    assert parse_file(tmp_path / "main") == document


def test_an_inlined_document_needs_no_other_file(tmp_path: Path) -> None:
    write(tmp_path, {"main": "include base\nread: allow # mine", "base": "exit: allow\narch i386\nwrite: allow"})
    document = parse_file(tmp_path / "main")
    text = document.inlined().text()
    assert parse(text).policy == document.policy
    assert "read: allow                    # mine" in text


def test_sections_of_an_included_file_end_with_it(tmp_path: Path) -> None:
    write(tmp_path, {"main": "include base\nread: allow", "base": "exit: allow\narch i386\nwrite: allow"})
    document = parse_file(tmp_path / "main")
    assert document.policy == parse("exit: 1\nread: 1\narch i386\nwrite: 1").policy
    write(tmp_path, {"main": document.text()})
    assert parse_file(tmp_path / "main").text() == document.text()


def test_include_with_the_same_settings(tmp_path: Path) -> None:
    write(tmp_path, {"main": "default log\ninclude base", "base": "callfence 1\ndefault log\nexit: 1"})
    assert parse_file(tmp_path / "main").policy == parse("default log\nexit: 1").policy


def test_include_is_resolved_by_the_reader_given() -> None:
    asked = []

    def read(name: str) -> str:
        asked.append(name)
        return {"etc/lib/base": "include ../more", "etc/lib/../more": "exit: 1"}[name]

    assert parse("include lib/base", "etc/main", read=read).policy == parse("exit: 1").policy
    assert asked == ["etc/lib/base", "etc/lib/../more"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"main": "read: 1\ninclude a", "a": "\ninclude b", "b": "exit: 1\nread: allow"},
            """\
            b:2:1: read is given twice
              first at main:1; join the two by ||
              included at a:2
              included at main:2""",
        ),
        (
            {"main": "include a", "a": "include b", "b": "include main"},
            """\
            b:1:9: main includes itself
              main -> a -> b -> main
              included at a:1
              included at main:1""",
        ),
        (
            {"main": "include main"},
            """\
            main:1:9: main includes itself
              include main
                      ^^^^
              main -> main""",
        ),
        (
            {"main": "include a\ninclude ./a", "a": ""},
            """\
            main:2:9: ./a is included twice
              include ./a
                      ^^^
              first at main:1""",
        ),
        (
            {"main": "include gone"},
            """\
            main:1:9: gone cannot be read: No such file or directory
              include gone
                      ^^^^""",
        ),
        (
            {"main": "include /etc/passwd"},
            """\
            main:1:9: the name of an included file must be relative
              include /etc/passwd
                      ^^^^^^^^^^^
              name it relative to the file that includes it""",
        ),
        (
            {"main": "include a # why", "a": "default allow\nexit: 1"},
            """\
            a:1:1: this setting differs from that of the including file
              leave the setting out here, or make both the same
              included at main:1""",
        ),
    ],
)
def test_errors_of_includes(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    assert error(tmp_path, files) == dedent(expected)


def test_an_endless_chain_of_includes_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, {"main": "include d/main"})
    (tmp_path / "d").symlink_to(".")
    with pytest.raises(PolicyError, match="includes are nested deeper than 16"):
        parse_file(tmp_path / "main")


def test_a_rewrite_replaces_an_include_that_differs(tmp_path: Path) -> None:
    write(tmp_path, {"main": "include base # shared\nread: allow", "base": "exit: allow\nclose: allow"})
    document = parse_file(tmp_path / "main")
    same = document.with_policy(parse("exit: 1\nclose: 1\nread: fd == 0").policy)
    assert same.text() == f"{SETTINGS}\ninclude base                   # shared\n\nread: fd == 0\n"
    other = document.with_policy(parse("exit: 1\nclose: fd == 3\nread: 1").policy)
    assert other.text() == (
        f"{SETTINGS}\nclose: fd == 3\nexit: allow\nread: allow\n\n"
        "# shared\n# include base: replaced by its entries, because they changed\n"
    )


# Files


def test_invalid_utf8(tmp_path: Path) -> None:
    (tmp_path / "main").write_bytes("read: allow\n# é ".encode() + b"\xe9 latin\n")
    with pytest.raises(PolicyError) as caught:
        parse_file(tmp_path / "main")
    assert str(caught.value).replace(f"{tmp_path}/", "") == dedent("""\
        main:2:5: byte 0xe9 is not UTF-8
          # é \N{REPLACEMENT CHARACTER} latin
              ^
          save the file as UTF-8""")


def test_a_binary_file_gets_a_hint_at_the_commands_that_take_one(tmp_path: Path) -> None:
    (tmp_path / "main").write_bytes(b"\x20\0\0\0\xff\0\0\0")
    with pytest.raises(PolicyError) as caught:
        parse_file(tmp_path / "main")
    assert "byte 0xff is not UTF-8" in str(caught.value)
    assert "this file is binary: `callfence import --from bpf`" in caught.value.hint


def test_invalid_utf8_in_an_included_file(tmp_path: Path) -> None:
    (tmp_path / "main").write_text("include a")
    (tmp_path / "a").write_bytes(b"\xff")
    with pytest.raises(PolicyError) as caught:
        parse_file(tmp_path / "main")
    assert caught.value.chain == (f"{tmp_path}/main:1",)


def test_a_missing_file_is_the_kernels_refusal(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        parse_file(tmp_path / "main")


@pytest.mark.long
@settings(max_examples=50)
@given(strategies.policies(), strategies.policies())
def test_any_rewrite_reads_back(old: Policy, new: Policy) -> None:
    document = new_document(old, "x").with_policy(new)
    text = document.text()
    assert parse(text) == document
    assert text == Document(document.policy, new_document(new, "x").layout).text()


@pytest.mark.parametrize("how", ["parent", "link", "folder"])
def test_includes_stay_below_the_folder_of_the_policy(tmp_path: Path, how: str) -> None:
    write(tmp_path, {"secret": "exit: allow\n", "in/it.policy": ""})
    policy = tmp_path / "in" / "it.policy"
    (policy.parent / "link").symlink_to("../secret")
    (policy.parent / "folder").symlink_to("..")
    policy.write_text("include " + {"parent": "../secret", "link": "link", "folder": "folder/secret"}[how])
    with pytest.raises(PolicyError, match="below the folder of the policy"):
        parse_file(policy)


def test_links_below_the_folder_of_the_policy_are_followed(tmp_path: Path) -> None:
    """As Kubernetes mounts a ConfigMap; `..` is then the folder that the link leads to."""
    write(tmp_path, {"..data/base": "exit: allow", "..data/sub/more": "include ../base"})
    (tmp_path / "base").symlink_to("..data/base")
    (tmp_path / "sub").symlink_to("..data/sub")
    (tmp_path / "it.policy").write_text("include sub/../base\narch i386\ninclude sub/more\n")
    policy = parse_file(tmp_path / "it.policy").policy
    assert policy.entries == parse("exit: allow\narch i386\nexit: allow").policy.entries


@pytest.mark.parametrize("text", ["root:$6$salt$hash:19000::::::\n", "read = secret\n", "read: secret == 1\n"])
def test_an_error_in_an_included_file_quotes_no_line_of_it(tmp_path: Path, text: str) -> None:
    write(tmp_path, {"main": "include base", "base": text})
    with pytest.raises(PolicyError) as caught:
        parse_file(tmp_path / "main")
    assert text.strip() not in str(caught.value)
    assert "\n  included at " in str(caught.value)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "sparse"])
def test_what_may_never_end_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    special, policy = tmp_path / "special", tmp_path / "it.policy"
    policy.write_text("include special\n")
    if kind == "pipe":
        os.mkfifo(special)
    elif kind == "device":
        try:
            os.mknod(special, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # zero(4)
        except PermissionError:
            pytest.skip("making a device takes root")
    elif kind == "folder":
        special.mkdir()
    else:
        with special.open("wb") as file:
            file.truncate(1 << 40)
    with pytest.raises(PolicyError, match=r"it\.policy:1:9: .*special cannot be read: "):
        parse_file(policy)
    with pytest.raises(OSError):
        parse_file(special)
