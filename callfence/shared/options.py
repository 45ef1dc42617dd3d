"""The command line of a command: what argparse has, a suggestion for a misspelt option, and help of two lengths."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


class Parser(argparse.ArgumentParser):
    """A parser that names the option that was meant, and takes no abbreviations."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        super().error(f"{message}{suggestion(self, message)}")


def suggestion(parser: argparse.ArgumentParser, message: str) -> str:
    """`; did you mean --check?` for an option that a parser does not know; ''."""
    _, is_unknown, word = message.partition("unrecognized arguments: ")
    if not is_unknown or not word.startswith("-"):
        return ""
    from policygen.errors import did_you_mean

    hint = did_you_mean(word.split()[0].partition("=")[0], parser._option_string_actions)
    return f"; {hint}" if hint else ""


def add_helps(parser: argparse.ArgumentParser, common: Collection[str]) -> None:
    """Add --help, which shows the `common` options, and --help-all, to a parser that was made without help."""
    what = "print what most people need"
    parser.add_argument("-h", "--help", action=_ShortHelp, common=common, help=what)
    parser.add_argument("--help-all", action="help", help="print all options")


def short_help(parser: argparse.ArgumentParser, common: Collection[str]) -> str:
    """Return the text of --help.  The parser is of no use for more afterwards."""
    hidden = 0
    for action in parser._actions:
        if action.option_strings and action.option_strings[-1] not in common:
            hidden += action.help != argparse.SUPPRESS and action.dest != "help"
            action.help = argparse.SUPPRESS
    parser.epilog = f"{hidden} more options, the files and the exit status: {parser.prog} --help-all"
    return parser.format_help()


class _ShortHelp(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, *, common: Collection[str], help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)
        self.common = {*common, "--help-all"}

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(short_help(parser, self.common), end="")
        parser.exit()
