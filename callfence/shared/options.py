"""Command lines: argparse with a suggestion for a misspelt option, and with a short and a full help."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from callfence.tracer.abi import Arch


class Parser(argparse.ArgumentParser):
    """A command-line parser that suggests an option for a misspelt one, and accepts no abbreviated options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        from callfence.policygen.text import printable

        super().error(f"{printable(message)}{suggestion(self, message)}")


def architecture(text: str) -> Arch:
    """Return the architecture of this name.  Raises argparse.ArgumentTypeError, with the names."""
    from callfence.tracer.abi import Arch

    try:
        return Arch(text)
    except ValueError:
        from callfence.policygen.language import hints

        hint = hints.architecture(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(Arch)}{hint and f'; {hint}'}") from None


def suggestion(parser: argparse.ArgumentParser, message: str) -> str:
    """Return a suggestion such as `; did you mean --check?` if `message` is argparse's message for an unknown option that is
    similar to one of the parser's; else ""."""
    _, is_unknown, word = message.partition("unrecognized arguments: ")
    if not is_unknown or not word.startswith("-"):
        return ""
    from callfence.policygen.errors import did_you_mean

    hint = did_you_mean(word.split()[0].partition("=")[0], parser._option_string_actions)
    return f"; {hint}" if hint else ""


def add_helps(parser: argparse.ArgumentParser, common: Collection[str]) -> None:
    """Add two options to a parser created without help: --help, which shows only the options in `common`, and --help-all."""
    what = "print the options that most people need"
    parser.add_argument("-h", "--help", action=_ShortHelp, common=common, help=what)
    parser.add_argument("--help-all", action="help", help="print all options")


def short_help(parser: argparse.ArgumentParser, common: Collection[str]) -> str:
    """Return the text of --help, with only the options in `common`.  The parser cannot be used afterwards."""
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
