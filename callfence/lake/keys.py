"""Text that sorts as the values that it is made of.

Engines compare text by its UTF-8 bytes, which is the order of code points, as in Python.  So one column of text can have the
order of a tuple, whatever the engine does with nulls, lists and numbers of more than 63 bits.
"""

from __future__ import annotations

import re

from callfence.policygen.recording import model
from callfence.policygen.recording.model import Key, Run

_END = "\x01"
"""Ends a part; `text` returns neither it nor anything less."""
_CONTROL, _BYTE = "\x02", "\ue000"
_ESCAPED = {
    **{code: _CONTROL + chr(0x10 + code) for code in range(3)},
    **{0xD800 + offset: _BYTE + chr(0x1000 + offset) for offset in range(0x800)},
    0xE000: _BYTE + chr(0x10FFFF),
}
"""Code point -> what stands for it.  Surrogates are bytes that are not UTF-8, and have no UTF-8 form; U+0000 to U+0002 make
room for `_END`."""
_UNESCAPED = {escaped: chr(code) for code, escaped in _ESCAPED.items()}
_BIAS = 1 << 63
"""Added to a value of an argument, which is at least -2**63."""


def text(value: str) -> str:
    """Return text as a column has it: valid UTF-8, in the same order as the values.  Unchanged unless it has a byte that is not
    UTF-8, U+0000 to U+0002, or U+E000."""
    return value if value.isprintable() else value.translate(_ESCAPED)


def plain(column: str) -> str:
    """Return the value whose `text` this is."""
    return re.sub(f"[{_CONTROL}{_BYTE}].", lambda escaped: _UNESCAPED[escaped[0]], column, flags=re.DOTALL)


def call_key(key: Key) -> str:
    """Return the key of an observation as text that sorts as `model.order`: `arch` and `number`, each as 8 hexadecimal digits;
    for each argument `-` if it was not recorded, or its value plus 2**63 as 17 hexadecimal digits; a space; the executable."""
    arch, number, arguments, executable = key
    values = "".join(["-" if value is None else f"{value + _BIAS:017x}" for value in arguments])
    return f"{arch:08x}{number:08x}{values} {text(executable)}"


def key(call: str) -> Key:
    """Return the key whose `call_key` this is."""
    numbers, _, executable = call.partition(" ")
    values = re.findall("-|[0-9a-f]{17}", numbers[16:])
    arguments = tuple(None if value == "-" else int(value, 16) - _BIAS for value in values)
    return int(numbers[:8], 16), int(numbers[8:16], 16), arguments, plain(executable)


def completeness(run: Run) -> str:
    """Return text that sorts as `model.completeness`."""
    return "".join(map(_ordered, model.completeness(run)))


def _ordered(part: object) -> str:
    match part:
        case bool():
            return str(int(part))
        case int():
            return f"{part + 64:020}"  # a status is at least -64
        case str():
            return text(part) + _END
        case tuple():
            return "".join("+" + _ordered(element) for element in part) + _END
    raise AssertionError(f"a run has no {part!r}")


def version_order(version: str) -> str:
    """Return text that sorts as the versions of a program do: numbers by their value, `~` before the end, as `sort -V`.  Empty
    for an unknown version."""
    numbered = re.sub("[0-9]+", lambda digits: digits[0].zfill(20), version.replace("~", " "))
    return f"{text(numbered)}!" if version else ""
