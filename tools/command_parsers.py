"""The argument parsers of all commands, for what is made of them: completions, manual pages, docs/options.md."""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import TYPE_CHECKING

from callfence.cli import COMMANDS, module_of

if TYPE_CHECKING:
    from collections.abc import Mapping


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of a subcommand of `callfence`."""
    parser: argparse.ArgumentParser = import_module(module_of(name)).parser()
    return parser


def whole() -> argparse.ArgumentParser:
    """The parser of `callfence` with its subcommands.  The command itself does not use it: it loads one subcommand only."""
    description = "Learn what a program asks of the kernel, review it, enforce it."
    parser = argparse.ArgumentParser(prog="callfence", description=description)
    parser.add_argument("-V", "--version", action="store_true", help="print the version")
    subparsers = parser.add_subparsers(metavar="COMMAND")
    for name, text in COMMANDS.items():
        one = parser_of(name)
        subparsers.add_parser(name, help=text, description=one.description, parents=[one], add_help=False, usage=one.usage)
    return parser


def actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return parser._actions  # argparse has no public way to list them


def options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options that any help shows, without those for help and the version."""
    found = (action for action in actions(parser) if action.option_strings and action.help != argparse.SUPPRESS)
    return [action for action in found if action.dest not in ("help", "help_all", "version")]


def standalone() -> Mapping[str, argparse.ArgumentParser]:
    """The parsers of the programs, by name."""
    return {"learn": parser_of("learn"), "enforce": parser_of("enforce"), "callfence": whole()}
