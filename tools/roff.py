"""Text and Markdown in the language of manual pages (groff_man(7))."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MARKDOWN: Final = MarkdownIt("commonmark", {"html": False}).enable("table")
_PLAIN: Final = MarkdownIt("zero").enable("backticks")
"""For help texts: `*.policy` is no emphasis there."""
_SPECIAL = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"}


def escape(text: str) -> str:
    """Show every character as itself, so that options and quotes can be copied out of the page."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def bold(text: str) -> str:
    return f"\\fB{escape(text)}\\fR"


def italic(text: str) -> str:
    return f"\\fI{escape(text)}\\fR"


def line(text: str) -> str:
    """Return a line of input that is not taken for a request."""
    return f"\\&{text}" if text.startswith((".", "'", "\\(aq")) else text


def inline(text: str, language: MarkdownIt = _PLAIN) -> str:
    """What stands within a paragraph: code is bold, too; of a link, its text."""
    return "".join(map(_inline, SyntaxTreeNode(language.parseInline(text))))


def _inline(node: SyntaxTreeNode) -> str:
    match node.type:
        case "strong":
            return bold("".join(part.content for part in node.walk() if not part.children))
        case "em":
            return italic("".join(part.content for part in node.walk() if not part.children))
        case "code_inline":
            return bold(node.content)
        case "softbreak":
            return " "
    return "".join(map(_inline, node.children)) if node.children else escape(node.content)


def paragraphs(text: str) -> Iterator[str]:
    """Plain text, `code` in it bold; blank lines part paragraphs, and indented lines stay lines."""
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        yield ".PP"
        run: list[str] = []
        for one in block.splitlines():
            if one.startswith("  "):
                yield from _filled(run)
                run = []
                yield from (".br", line(escape(one.strip())))
            else:
                run.append(one)
        yield from _filled(run)


def _filled(lines: Iterable[str], language: MarkdownIt = _PLAIN) -> Iterator[str]:
    """One sentence in each line, as roff wants it."""
    text = " ".join(one.strip() for one in lines)
    for sentence in re.split(r"(?<=[.:;]) +(?=[A-Z^`*])", text):
        if sentence:
            yield line(inline(sentence, language))


def markdown(text: str) -> Iterator[str]:
    """Headings of two and more `#`, paragraphs, lists, tables and code."""
    for block in SyntaxTreeNode(_MARKDOWN.parse(text)):
        yield from _block(block)


def _block(node: SyntaxTreeNode) -> Iterator[str]:
    match node.type:
        case "heading":
            title = inline(_source(node), _MARKDOWN).replace("\\fB", "").replace("\\fR", "")
            yield f"{'.SH' if node.tag == 'h2' else '.SS'} {title}"
        case "paragraph":
            yield from (".PP", *_filled(_source(node).splitlines(), _MARKDOWN))
        case "code_block" | "fence":
            yield from (".PP", ".RS 4", ".nf", *(line(escape(one)) for one in node.content.splitlines()), ".fi", ".RE")
        case "bullet_list" | "ordered_list":
            for item in node.children:
                yield f".IP {item.info}. 4" if item.info else ".IP \\(bu 2"
                first, *others = item.children
                yield from _filled(_source(first).splitlines(), _MARKDOWN)
                for other in others:
                    yield from _block(other)
        case "table":
            yield from _table([[_source(cell) for cell in row.children] for part in node.children for row in part.children])
        case _:
            raise ValueError(f"no manual page shows Markdown's {node.type}")


def _source(node: SyntaxTreeNode) -> str:
    """The Markdown of a block that holds text only."""
    return node.children[0].content


def _table(rows: list[list[str]]) -> Iterator[str]:
    """Its first column as tags, the second as their text, the others with the head of their column."""
    heads, *body = rows
    for first, second, *others in body:
        yield from (".TP", line(inline(first, _MARKDOWN)), line(inline(second, _MARKDOWN)) or "\\&")
        for head, cell in zip(heads[2:], others, strict=True):
            if cell:
                yield line(f"({escape(head)}: {inline(cell, _MARKDOWN)})")
