#!/usr/bin/env python3
"""Writes tracer/abi/constants.tsv: the kernel's constants by family, from its uapi headers (Debian's linux-libc-dev).

    tools/generate_constants.py [--check]

tools/constants_spec.tsv says which names make up which family, and from which headers; tools/uapi.py asks the compiler.

--check writes nothing: exit status 1 and a diff if the file is not what would be written.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from uapi import TARGETS, Found, HeaderError, Target, evaluate, include_root, scan, version

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ROOT = Path(__file__).resolve().parent.parent
SPEC = ROOT / "tools/constants_spec.tsv"
OUTPUT = ROOT / "tracer/abi/constants.tsv"


class GenerateError(Exception):
    """The specification is wrong."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the specification."""

    line: int
    family: str
    mask: str
    encoding: str
    headers: tuple[str, ...]
    names: str
    exclude: str

    @property
    def literals(self) -> dict[str, int] | None:
        """The values that the row gives itself, for names that no uapi header has; None if it selects by pattern."""
        if "=" not in self.names:
            return None
        pairs = (word.split("=") for word in self.names.split())
        return {name: int(value, 0) for name, value in pairs}

    def encode(self, value: int) -> int:
        """The constant's value as the argument holds it."""
        if self.encoding == "htons":
            return int.from_bytes(value.to_bytes(2), "little")  # all of TARGETS are little-endian
        return value << int(self.encoding.removeprefix("<<") or "0")

    def selects(self, name: str, definition: str) -> bool:
        """Whether the row wants the name; a pattern with a space in it is matched against the definition as well."""
        text = f"{name} {definition}" if " " in self.names else name
        return bool(re.fullmatch(self.names, text)) and not re.fullmatch(self.exclude, name)


def read_spec(text: str) -> list[Row]:
    """The rows of the specification; raises GenerateError with the line."""
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#") or line.startswith("family\t"):
            continue
        fields = line.split("\t")
        if len(fields) not in (4, 5):
            raise GenerateError(f"{SPEC.name}:{number}: 4 or 5 columns are needed, not {len(fields)}")
        family, masks, headers, names, exclude = (*fields, "")[:5]
        mask, _, encoding = masks.partition(" ")
        rows.append(Row(number, family, mask, encoding, tuple(headers.split()), names, exclude))
    return rows


@dataclass(frozen=True, slots=True)
class Constant:
    """One row of constants.tsv."""

    family: str
    name: str
    mask: str
    header: str
    values: tuple[int | None, ...]
    """By TARGETS; None where the architecture lacks it."""

    def row(self) -> str:
        first, *others = (_number(value, self.mask) for value in self.values)
        pairs = zip(TARGETS[1:], others, strict=True)
        overrides = " ".join(f"{target.name}={value}" for target, value in pairs if value != first)
        return "\t".join((self.family, self.name, first, self.mask, self.header, overrides)).rstrip("\t")


def _number(value: int | None, mask: str) -> str:
    if value is None:
        return "-"
    if value < 0 and mask != "~0":
        value &= 0xFFFFFFFF  # 1 << 31 is negative in C; the argument's bits are meant
    if mask.startswith("0o"):
        return f"{value:#o}"
    return str(value) if value < 1024 and (mask == "~0" or value < 10) else f"{value:#x}"


Job = tuple[tuple[str, ...], Target]
"""Headers that are included together, for one architecture."""
Measured = tuple[list[Found], dict[str, int]]
"""What they define, and the values of what is wanted of it."""


def generate(rows: list[Row], parent: Path) -> list[Constant]:
    """The constants of all rows, in the order of the specification and, within a row, of the headers."""
    groups = {row.headers: [other for other in rows if other.headers == row.headers] for row in rows}
    selecting = [headers for headers, group in groups.items() if group[0].literals is None]
    roots = {target: include_root(target, parent) for target in TARGETS}

    def measure(job: Job) -> Measured:
        headers, target = job
        present = [name for name in headers if _is_complete(roots[target], name)]
        found = scan(target, roots[target], present)
        group = groups[headers]
        wanted = [item.name for item in found if any(row.selects(item.name, item.definition) for row in group)]
        return found, evaluate(target, roots[target], present, wanted)

    jobs = [(headers, target) for headers in selecting for target in TARGETS]
    with ThreadPoolExecutor(4) as pool:
        measured = dict(zip(jobs, pool.map(measure, jobs), strict=True))
    constants: dict[tuple[str, str], Constant] = {}
    for row in rows:
        for constant in _of_row(row, measured):
            constants.setdefault((constant.family, constant.name), constant)
    families = {family: index for index, family in enumerate(dict.fromkeys(row.family for row in rows))}
    return sorted(constants.values(), key=lambda constant: families[constant.family])


def _is_complete(root: Path, header: str) -> bool:
    """Whether an architecture has the header, and each of asm/ that it includes: arm has no asm/kvm.h."""
    if header.startswith("asm/"):
        return (root / header).exists()
    text = (root / header).read_text(errors="replace") if (root / header).exists() else ""
    return all((root / name).exists() for name in re.findall(r"^#include <(asm/[^>]+)>", text, re.MULTILINE))


def _of_row(row: Row, measured: Mapping[Job, Measured]) -> Iterator[Constant]:
    if (literals := row.literals) is not None:
        for name, value in literals.items():
            yield Constant(row.family, name, row.mask, " ".join(row.headers), (value,) * len(TARGETS))
        return
    results = [measured[row.headers, target] for target in TARGETS]
    chosen = [{item.name: item for item in found if row.selects(item.name, item.definition)} for found, _ in results]
    empty = True
    for name in dict.fromkeys(name for items in chosen for name in items):
        values = [known.get(name) if name in items else None for items, (_, known) in zip(chosen, results, strict=True)]
        if any(value is not None for value in values):
            empty = False
            header = next(items[name].header for items in chosen if name in items)
            encoded = tuple(value if value is None else row.encode(value) for value in values)
            yield Constant(row.family, name, row.mask, header, encoded)
    if empty:
        raise GenerateError(f"{SPEC.name}:{row.line}: no name matches {row.names}")


def document(constants: Iterable[Constant]) -> str:
    """The text of constants.tsv."""
    return f"""\
# The kernel's constants, by the family that an argument takes its values from.  Written by tools/generate_constants.py
# from tools/constants_spec.tsv and the uapi headers of Linux {version()} (Debian's linux-libc-dev).
# mask: the bits of the field whose value the constant is (~0: the whole argument); empty: bits that can be combined.
# value: on {TARGETS[0].name}; others: where another architecture differs.  - where there is no such constant.
family\tname\tvalue\tmask\theader\tothers
""" + "".join(constant.row() + "\n" for constant in constants)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file would change")
    check = parser.parse_args().check
    try:
        with tempfile.TemporaryDirectory() as parent:
            text = document(generate(read_spec(SPEC.read_text()), Path(parent)))
    except (GenerateError, HeaderError) as error:
        print(f"generate_constants: {error}", file=sys.stderr)
        return 1
    if not check:
        OUTPUT.write_text(text)
        return 0
    old = OUTPUT.read_text().splitlines(keepends=True)
    sys.stdout.writelines(difflib.unified_diff(old, text.splitlines(keepends=True), str(OUTPUT), "generated"))
    return int(old != text.splitlines(keepends=True))


if __name__ == "__main__":
    sys.exit(main())
