"""What a policy, a recording and a file name hold, in Markdown: its reader sees it, and it is no markup.

Rendered with tables, strikethrough, HTML and bare links, as code hosts have them.  What they link beyond these (`@names`,
`#numbers`, hashes of commits) they do not read in code, so the tests require that all such text is code.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from calls import parse
from hypothesis import example, given, strategies as st
from markdown_it import MarkdownIt

from callfence.judging.formats import as_markdown
from callfence.judging.sites import behind_lines
from callfence.policygen.errors import PolicyError
from callfence.policygen.recording.model import Observation, Recording, Run
from callfence.policygen.review.judgement import judge
from callfence.policygen.text import file_word, pip_install
from callfence.shared.text import cell, code, printable
from callfence.tracer.abi import Arch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from markdown_it.token import Token

RENDERER = MarkdownIt("gfm-like")
HOSTILE = (
    "@octocat", "#1", "GH-1", "o/r#1", "a@b.org", "deadbeef1234567", "https://e.org/x", "www.e.org", "[x](https://e.org)",
    "![x](https://e.org/x.png)", "<https://e.org>", "[x]: https://e.org", "<img src=x>", "<details>", "<!-- callfence a -->",
    "-->", "&lt;b&gt;", "&#64;octocat", "**b**", "_i_", "~~s~~", "$x$", "$`x`$", ":tada:", "- [x] y", "# h", "> q", "| a | b |",
    "|---|", "`", "``", "a`b", "`a``b`", "```sh", "a\\`b", "a\\|b", "a\\", "\\|", " ", " a ", "a ", "\n# h", "\r\n\r\n* b",
    "\u202egnp.exe", "\u2066x\u2069", "\x1b[31m", "\u200b", "\x00", "e\u0301", "\udcff", "/close", "!1", "~label", "{+x+}",
)  # fmt: skip
TEXTS = st.one_of(
    st.sampled_from(HOSTILE), st.lists(st.sampled_from(HOSTILE), max_size=4).map("".join),
    st.text(st.sampled_from("`|\\ a<>[]()!@#*_~&;$:/-\n"), max_size=12), st.text(max_size=12),
)  # fmt: skip


def leaves(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield from leaves(token.children) if token.children else [token]


def codes(markdown: str) -> list[str]:
    """The texts of its code spans."""
    return [token.content for token in leaves(RENDERER.parse(markdown)) if token.type == "code_inline"]


def frame(markdown: str) -> list[tuple[str, str]]:
    """The elements and texts that are not in code."""
    return [(one.type, "" if one.type == "code_inline" else one.content) for one in leaves(RENDERER.parse(markdown))]


@given(st.text(st.characters(exclude_categories=())))
@example("\ud800\udcff")
@example("\u3164\ufe01\ufe0f\U000e0100\U000e0061\xad")
def test_any_text_can_be_printed(text: str) -> None:
    """Also one of JSON, which may have any surrogate; and be a comment of a policy."""
    assert printable(text).isprintable()
    printable(text).encode()
    assert parse(f"read: allow # {printable(text)}").policy.entries


@given(TEXTS)
def test_a_code_span_is_the_text_and_nothing_else(text: str) -> None:
    for line in (f"a {code(text)} b", f"- {code(text)}", code(text), f"**{code(text)}: x** {code(text)}", f"*x* {code(text)}."):
        assert set(codes(line)) <= {printable(text)}
        assert frame(line) == frame(line.replace(code(text), "`x`") if text else line)


@given(TEXTS, TEXTS)
def test_a_cell_is_the_text_and_nothing_else(one: str, other: str) -> None:
    table = f"| a | b |\n|---|---|\n| {cell(one)} | {cell(one)}<br>{cell(other)} |\n| x | y |\n"
    assert codes(table) == [printable(text) for text in (one, one, other) if text]
    assert [kind for kind, _ in frame(table)].count("td_open") == 4


def quoted(text: str) -> str:
    r"""The path as a policy has it, and as its lines show it."""
    return "".join(f"\\x{byte:02x}" if not chr(byte).isalnum() else chr(byte) for byte in text.encode(errors="surrogateescape"))


@pytest.mark.long
@given(TEXTS, TEXTS, TEXTS)
def test_a_comment_of_a_change_has_no_markup_but_its_own(path: str, reason: str, name: str) -> None:
    path, reason = path.replace("\0", "").strip("/") or "x", " ".join(reason.split()) or "x"
    line = f'path "/a/{quoted(path)}": read, write'
    texts = [("x", "x", "x"), (line, reason, name)]
    shown = []
    for text, why, file in texts:
        head = f"{text}\n" if text != "x" else 'path "/a/x": read, write\n'
        try:
            new = parse(f"{head}read: allow\nptrace: allow # why: {why}\n", "new.policy")
        except PolicyError:
            return  # a character that no policy may have
        shown.append(as_markdown(judge(parse('path /b: read\nread: allow\n', "old.policy"), new), file or "x"))
    assert frame(shown[1]) == frame(shown[0])
    assert any(text.startswith("path ") and "/a/" in text for text in codes(shown[1]))
    assert printable(name or "x") in codes(shown[1])
    assert any(printable(f"for this reason: {reason}") in text for text in codes(shown[1]))


@pytest.mark.parametrize("phase", ["deadbeef1234567", "GH", "_x_", "www"])
def test_the_name_of_a_phase_is_code(phase: str) -> None:
    """It could be taken for the hash of a commit."""
    new = f"phase {phase} after accept\naccept: allow\nread: allow\nbind: allow until {phase}\n"
    old = "accept: allow\nread: allow\nbind: allow\n"
    for one, other in ((old, new), (new, old)):
        shown = as_markdown(judge(parse(one, "a"), parse(other, "b")), "b")
        assert any(phase in text for text in codes(shown))
        assert not any(phase in text for _, text in frame(shown)), shown


@given(TEXTS, TEXTS, TEXTS)
def test_what_was_seen_behind_a_change_is_code(executable: str, site: str, fact: str) -> None:
    old, new = (parse(text, "a.policy") for text in ("read: allow\n", "read: allow\nopenat: allow\n"))
    number, registers, facts = 257, (3, 0, 0, 0, 0, 0), (f'filename="{fact}"',)
    seen = Observation(Arch.X86_64.audit, number, (None, None, 0, 0), executable, (1,), site, registers, facts)
    known = Recording((Run("1", 0, ("a",), 0, False),), (seen,))
    lines = list(behind_lines(old.policy, new.policy, judge(old, new).relevant, known))
    assert lines[1] == "Recorded calls that need it:"
    shown = codes("\n".join(lines))
    assert shown[0] == "openat" and printable(executable) in [*shown, ""] and printable(site) in [*shown, ""]
    kinds = [kind for kind, text in frame("\n".join(lines)) if kind != "text" or set(text) - set(": ,and;")]
    assert not {*kinds} & {"html_inline", "html_block", "link_open", "image", "em_open", "strong_open", "s_open", "fence"}


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("a.policy", "a.policy"), ("a b", "'a b'"), ("-p", "./-p"), ("-", "-"), ("é", "'é'"),
        ("\t a~'\\", r"$'\x09 a~\x27\x5c'"), ("\x1f\x7f\x80", r"$'\x1f\x7f\xc2\x80'"), ("\udcff", r"$'\xff'"),
    ],
)  # fmt: skip
def test_names_are_words_of_a_shell(name: str, quoted: str) -> None:
    assert file_word(name) == quoted
    shown = subprocess.run(["bash", "-c", f"printf %s {quoted}"], capture_output=True, check=True).stdout
    assert shown == os.fsencode(name if name != "-p" else "./-p")


def test_an_extra_is_installed_for_the_same_python(monkeypatch: pytest.MonkeyPatch) -> None:
    for python, command in (("/opt/my python", "'/opt/my python'"), ("", "python3")):
        monkeypatch.setattr(sys, "executable", python)
        assert pip_install("lake") == f"{command} -m pip install 'callfence[lake]'"


def test_ordinary_names_are_written_as_everybody_does() -> None:
    assert code("new.policy") == "`new.policy`" and code("") == ""
    assert cell("a|b") == "`a\\|b`"
