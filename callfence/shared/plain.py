"""Command lines that are read without argparse: those in which each option is written as it is declared."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Plain:
    """Options, declared as argparse has them, of a command whose own begin before its first other word."""

    def __init__(self) -> None:
        self._options: dict[str, dict[str, Any]] = {}
        """How each name was declared."""
        self._values: dict[str, Any] = {}

    def add(self, *names: str, dest: str = "", default: Any = None, **declared: Any) -> None:
        """Declare an option that has a value, one or several (`append`), or is a flag (`store_true`)."""
        dest = dest or names[-1].removeprefix("--").replace("-", "_")
        is_flag = declared.get("action") == "store_true"
        self._values[dest] = False if is_flag else [*default] if isinstance(default, list) else default
        self._options |= {name: {"dest": dest, **declared} for name in names}

    def read(self, words: Sequence[str], rest: str) -> SimpleNamespace | None:
        """What argparse makes of the words, with what follows the options as `rest`; None where only argparse knows."""
        values = {**self._values, rest: []}
        left = iter(words)
        for word in left:
            if not word.startswith("-") or word == "--":
                values[rest] = [*([] if word == "--" else [word]), *left]
                break
            option = self._options.get(word)
            if option is None or not _take(option, left, values):
                return None
        return None if "--" in values[rest] else SimpleNamespace(**values)


def _take(option: dict[str, Any], left: Iterator[str], values: dict[str, Any]) -> bool:
    """Whether the option's value is one that it may have."""
    dest, action = option["dest"], option.get("action")
    if action == "store_true":
        values[dest] = True
        return True
    text = next(left, "-")
    try:
        value = option.get("type", str)(text)
    except Exception:  # argparse says which values there are
        return False
    if text.startswith("-") or value not in option.get("choices", (value,)):
        return False
    values[dest] = [*values[dest], value] if action == "append" else value
    return True
