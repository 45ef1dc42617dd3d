"""Text and a little Markdown in the language of manual pages (groff_man(7))."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_INLINE = re.compile(
    r"\*\*(?P<bold>.+?)\*\*|``? ?(?P<code>.+?) ?``?(?!`)|(?<!\w)\*(?P<italic>\w[\w ]*)\*|\[(?P<link>[^]]+)\]\([^)]+\)"
)
_SPECIAL = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"}


def escape(text: str) -> str:
    """Every character as itself: typed options and quotes can be copied out of the page."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def bold(text: str) -> str:
    return f"\\fB{escape(text)}\\fR"


def italic(text: str) -> str:
    return f"\\fI{escape(text)}\\fR"


def line(text: str) -> str:
    """A line of input: none is taken for a request."""
    return f"\\&{text}" if text.startswith((".", "'", "\\(aq")) else text


def inline(text: str) -> str:
    """Markdown within a paragraph: code is bold, too; of a link, its text."""
    made, end = [], 0
    for match in _INLINE.finditer(text):
        made.append(escape(text[end : match.start()].replace("\\|", "|")))
        if match["bold"] or match["code"]:
            made.append(bold((match["code"] or match["bold"].replace("`", "")).replace("\\|", "|")))
        else:
            made.append(italic(match["italic"]) if match["italic"] else escape(match["link"]))
        end = match.end()
    made.append(escape(text[end:].replace("\\|", "|")))
    return "".join(made)


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


def _filled(lines: Iterable[str]) -> Iterator[str]:
    """A sentence a line, as roff wants it."""
    text = " ".join(one.strip() for one in lines)
    for sentence in re.split(r"(?<=[.:;]) +(?=[A-Z^`*])", text):
        if sentence:
            yield line(inline(sentence))


def markdown(text: str) -> Iterator[str]:
    """Headings of two and more `#`, paragraphs, lists, tables, and code that is indented or fenced."""
    blocks = re.split(r"\n(?:[ \t]*\n)+", re.sub(r"(?m)^```.*$\n?", "", text).strip("\n"))
    for block in blocks:
        lines = block.splitlines()
        if lines[0].startswith("#"):
            level, _, title = lines[0].partition(" ")
            yield f"{'.SH' if len(level) < 3 else '.SS'} {inline(title)}".replace("\\fB", "").replace("\\fR", "")
            lines = lines[1:]
        if not lines:
            continue
        if all(one.startswith("    ") for one in lines):
            yield from (".PP", ".RS 4", ".nf", *(line(escape(one[4:])) for one in lines), ".fi", ".RE")
        elif lines[0].startswith("|"):
            yield from _table(lines)
        elif re.match(r"(- |\d+\. )", lines[0]):
            for item in re.split(r"\n(?=- |\d+\. )", "\n".join(lines)):
                mark, _, rest = item.partition(" ")
                yield ".IP \\(bu 2" if mark == "-" else f".IP {mark} 4"
                yield from _filled(rest.splitlines())
        else:
            yield ".PP"
            yield from _filled(lines)


def _table(lines: list[str]) -> Iterator[str]:
    """Its first column as tags, the second as their text, the others with what stands above them."""
    heads, _, *rows = ([cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip().strip("|"))] for row in lines)
    for first, second, *others in rows:
        yield from (".TP", line(inline(first)), line(inline(second)) or "\\&")
        for head, cell in zip(heads[2:], others, strict=True):
            if cell:
                yield line(f"({escape(head)}: {inline(cell)})")
