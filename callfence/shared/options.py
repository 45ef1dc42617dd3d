"""The command line of a command: what argparse has, and a suggestion for a misspelt option."""

from __future__ import annotations

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Names the option that was meant."""

    def error(self, message: str) -> NoReturn:
        super().error(f"{message}{suggestion(self, message)}")


def suggestion(parser: argparse.ArgumentParser, message: str) -> str:
    """`; did you mean --check?` for an option that a parser does not know; ''."""
    _, found, word = message.partition("unrecognized arguments: ")
    if not found or not word.startswith("-"):
        return ""
    from policygen.errors import did_you_mean

    hint = did_you_mean(word.split()[0].partition("=")[0], parser._option_string_actions)
    return f"; {hint}" if hint else ""
