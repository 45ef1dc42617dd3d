"""Writes the manual pages, which the wheel installs, from what --help is made of: make_manuals.py [FOLDER]; default: man.

callfence-policy(5) is docs/policy-language.md.  Nothing depends on argparse's own formatting, which changes with Python.
"""

from __future__ import annotations

import argparse
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))
from command_parsers import actions, parser_of
from roff import bold, escape, inline, italic, line, markdown, paragraphs

from callfence.cli import COMMANDS, module_of
from callfence.start import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

LANGUAGE = Path(__file__).parent.parent / "docs" / "policy-language.md"
ALONE = ("learn", "enforce")
"""Programs of their own, too: their pages have their names."""
ABOUT = (
    "callfence learns what a Linux program asks of the kernel, turns that into a small policy that a person can review, "
    "and runs the program confined by it.  Each command says more with --help, and in its own page."
)


def page_name(command: str) -> str:
    return command if command in ALONE else f"callfence-{command}"


def header(name: str, section: int, title: str) -> Iterator[str]:
    yield f'.TH {escape(name.upper())} {section} "" "callfence {__version__}" "callfence"'
    yield from (".SH NAME", f"{escape(name)} \\- {escape(title)}")


def command_page(command: str) -> Iterator[str]:
    parser = parser_of(command)
    yield from header(page_name(command), 1, COMMANDS[command])
    yield from (".SH SYNOPSIS", *synopsis(parser), ".SH DESCRIPTION", *paragraphs(parser.description or ""))
    optional = [one for one in actions(parser) if one.help != argparse.SUPPRESS and one.dest not in ("help", "help_all")]
    if optional:
        yield ".SH OPTIONS"
    for action in optional:
        yield from (".TP", line(tag(action)), line(inline(help_of(action, parser))) or "\\&")
    epilog = parser.epilog or ""
    if epilog:
        yield from (".SH NOTES", *paragraphs(epilog))
    if "xit status" not in epilog:
        status = " ".join((import_module(module_of(command)).main.__doc__ or "").split())
        yield from (".SH EXIT STATUS", line(inline(f"{status}")))
    others = [other for other in ("callfence", *ALONE) if other != command]
    yield from see_also([*((other, 1) for other in others), ("callfence-policy", 5)])


def synopsis(parser: argparse.ArgumentParser) -> Iterator[str]:
    if parser.usage:
        for place, usage in enumerate(parser.usage.splitlines()):
            yield from ([".br"] if place else [])
            program = next(word for word in (parser.prog, parser.prog.split()[0]) if usage.strip().startswith(word))
            yield bold(program) + escape(usage.strip().removeprefix(program))
        return
    words = [bold(parser.prog)]
    for action in actions(parser):
        if action.help == argparse.SUPPRESS or action.dest in ("help", "help_all"):
            continue
        word = bold(action.option_strings[-1]) if action.option_strings else ""
        if (value := value_of(action)) is not None:
            optional = action.nargs == "?" and word
            word = f"{word}[={value}]" if optional else f"{word}\\ {value}" if word else value
        word += " ..." if action.nargs in ("+", "*") else ""
        needed = action.required if action.option_strings else action.nargs not in ("?", "*")
        words.append(word if needed else f"[{word}]")
    yield " ".join(words)


def value_of(action: argparse.Action) -> str | None:
    """What the usage calls the argument of an option, or the positional one; None for a flag."""
    if action.nargs == 0:
        return None
    if action.metavar is None and action.choices:
        return "|".join(bold(str(choice)) for choice in action.choices)
    if isinstance(action.metavar, str):
        return italic(action.metavar)
    return italic(action.dest.upper() if action.option_strings else action.dest)


def tag(action: argparse.Action) -> str:
    value = value_of(action)
    names = [bold(name) for name in action.option_strings]
    shown = f"[={value}]" if action.nargs == "?" else f" {value}" if value else ""
    return ", ".join(f"{name}{shown}" for name in names) if names else value or ""


def help_of(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    text = (action.help or "") % {**vars(action), "prog": parser.prog}
    return "print the version" if isinstance(action, argparse._VersionAction) else text


def main_page() -> Iterator[str]:
    yield from header("callfence", 1, "learn what a program asks of the kernel, review it, enforce it")
    yield from (".SH SYNOPSIS", f"{bold('callfence')} {italic('COMMAND')} [{italic('ARGUMENT')} ...]", ".SH DESCRIPTION")
    yield from (*paragraphs(ABOUT), ".SH COMMANDS")
    for command, text in COMMANDS.items():
        yield from (".TP", f"{bold(page_name(command))}(1)", line(inline(text)))
    yield from (".SH EXIT STATUS", "Of the commands but learn and enforce: 0 fine, 1 a check found something, 2 bad input.")
    yield from see_also([("callfence-policy", 5), ("seccomp", 2), ("ptrace", 2)])


def language_page() -> Iterator[str]:
    yield from header("callfence-policy", 5, "the policy language of callfence")
    yield ".SH DESCRIPTION"
    yield from markdown(LANGUAGE.read_text().partition("\n")[2])
    yield from see_also([("callfence", 1), ("learn", 1), ("enforce", 1)])


def see_also(pages: list[tuple[str, int]]) -> Iterator[str]:
    yield ".SH SEE ALSO"
    yield ", ".join(f"{bold(name)}({section})" for name, section in sorted(pages))


def write(folder: Path) -> None:
    pages = {f"{page_name(command)}.1": command_page(command) for command in COMMANDS}
    pages |= {"callfence.1": main_page(), "callfence-policy.5": language_page()}
    for name, lines in pages.items():
        text = "\n".join(lines)
        section = folder / f"man{name[-1]}"
        section.mkdir(parents=True, exist_ok=True)
        (section / name).write_text(re.sub(r"(?m)^(\.S[HS].*)\n\.PP$", r"\1", text) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "man"))
