#!/usr/bin/env python3
"""Writes tracer/abi/constants.tsv: the kernel's constants by family, from its uapi headers (Debian's linux-libc-dev).

    tools/generate_constants.py [--check]

tools/constants_spec.tsv says which names make up which family and from which headers.  Every name is evaluated by the
C compiler, once per architecture, with only the kernel's headers in sight: none of them needs a C library, and gcc's
-m64 lays structures out as aarch64 does (the sizes in ioctl numbers), so no cross compiler is needed.

--check writes nothing: exit status 1 and a diff if the file is not what would be written.
"""

from __future__ import annotations

import argparse
import difflib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SPEC = ROOT / "tools/constants_spec.tsv"
OUTPUT = ROOT / "tracer/abi/constants.tsv"
INCLUDE = Path("/usr/include")
PACKAGE = ("asm-generic", "drm", "linux", "misc", "mtd", "rdma", "scsi", "sound", "video", "xen")
"""The directories of linux-libc-dev beside each architecture's asm/."""
LIBRARY = {
    "endian.h": "#include <asm/byteorder.h>",
    "stdlib.h": "#include <stddef.h>",
    "string.h": "",
    "sys/ioctl.h": "#include <linux/ioctl.h>",
    "sys/socket.h": """\
#pragma once
#include <linux/socket.h>
#include <linux/types.h>
typedef __kernel_old_time_t time_t;
typedef __kernel_sa_family_t sa_family_t;
struct sockaddr { sa_family_t sa_family; char sa_data[14]; };
""",
    "sys/time.h": "#include <linux/time.h>",
    "sys/types.h": "#include <linux/types.h>",
    "time.h": "#include <linux/time.h>",
    "unistd.h": "",
}
"""What a few of them want of the C library, as far as the numbers depend on it."""


@dataclass(frozen=True, slots=True)
class Target:
    """One architecture: where its asm/ is, and how gcc for x86 is made to see it as the kernel's headers would."""

    name: str
    triplet: str
    options: tuple[str, ...]


TARGETS = (
    Target("x86_64", "x86_64-linux-gnu", ("-m64",)),
    Target("i386", "i386-linux-gnu", ("-m32",)),
    Target("aarch64", "aarch64-linux-gnu", ("-m64", "-U__x86_64__", "-U__i386__", "-D__aarch64__")),
)


class GenerateError(Exception):
    """The specification or the headers are not as they must be."""


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
class Found:
    """One macro or enumerator, where it was defined."""

    name: str
    header: str
    definition: str


def scan(target: Target, root: Path, headers: Iterable[str]) -> list[Found]:
    """All macros without parameters and all enumerators that the headers define, in their order."""
    source = "".join(f"#include <{header}>\n" for header in headers)
    command = ["gcc", "-E", "-dD", *_options(target, root), "-x", "c", "-"]
    result = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    if result.returncode:
        raise GenerateError(f"{target.name}: {' '.join(headers)}: {result.stderr}")
    return list(_found(result.stdout, root))


_MACRO = re.compile(r"#define (\w+)(?: (.*))?$")
_MARKER = re.compile(r'# \d+ "([^"]*)"')
_ENUMERATOR = re.compile(r"\s*(\w+)\s*(?:=|$)")


def _found(text: str, root: Path) -> Iterator[Found]:
    header, seen, enum = "", set(), ""
    for line in text.splitlines():
        if marker := _MARKER.match(line):
            path = Path(marker[1])
            header = str(path.relative_to(root)) if path.is_relative_to(root) else ""
        elif line.startswith("#"):
            macro = _MACRO.match(line)
            if macro and header and macro[1] not in seen:
                seen.add(macro[1])
                yield Found(macro[1], header, macro[2] or "")
        elif enum or re.search(r"\benum\b[^;()]*(\{|$)", line):
            enum += line + " "
            if "}" not in enum:
                if "{" not in enum and ";" in enum:
                    enum = ""
                continue
            for part in _split(enum[enum.index("{") + 1 : enum.index("}")]):
                name = _ENUMERATOR.match(part)
                if name and header and name[1] not in seen:
                    seen.add(name[1])
                    yield Found(name[1], header, "")
            enum = ""


def _split(body: str) -> Iterator[str]:
    """The parts of an enum's body: separated by those commas that no parenthesis encloses."""
    depth = start = 0
    for index, character in enumerate(body):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and not depth:
            yield body[start:index]
            start = index + 1
    yield body[start:]


def evaluate(target: Target, root: Path, headers: Iterable[str], names: Iterable[str]) -> dict[str, int]:
    """The value of each name that is an integer constant expression; the others are left out."""
    prefix = [f"#include <{header}>" for header in headers]
    names = list(names)
    while names:
        lines = (f"const long long callfence_{name}[2] = {{ (long long)({name}), ({name}) < 0 }};" for name in names)
        source = "\n".join([*prefix, '#line 1 "names"', *lines, ""])
        command = ["gcc", "-S", "-o", "-", "-w", *_options(target, root), "-x", "c", "-"]
        result = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
        if not result.returncode:
            return _values(result.stdout)
        refused = {int(number) for number in re.findall(r"^names:(\d+):\d+: error:", result.stderr, re.MULTILINE)}
        if not refused:
            raise GenerateError(f"{target.name}: {' '.join(headers)}: {result.stderr}")
        names = [name for number, name in enumerate(names, 1) if number not in refused]
    return {}


_DATA = {"quad": 8, "long": 4}


def _values(assembly: str) -> dict[str, int]:
    """What gcc's assembly initialises each pair with: 16 bytes, the value's low 64 bits and whether it is negative."""
    values = {}
    for name, data in re.findall(r"^callfence_(\w+):\n((?:\t\.(?:quad|long|zero)\t.*\n)+)", assembly, re.MULTILINE):
        words = re.findall(r"\.(quad|long|zero)\t(\S+)", data)
        if not all(re.fullmatch(r"-?\d+", word) for _, word in words):
            continue  # an address: the macro is a string
        image = b"".join(
            bytes(int(word)) if kind == "zero" else (int(word) % 2 ** (8 * _DATA[kind])).to_bytes(_DATA[kind], "little")
            for kind, word in words
        )
        values[name] = int.from_bytes(image[:8], "little", signed=image[8] == 1)
    return values


def _options(target: Target, root: Path) -> list[str]:
    isolated = ["-ffreestanding", "-nostdinc", "-fno-canonical-system-headers", "-isystem", str(root)]
    return [*target.options, *isolated, "-isystem", _compiler_headers()]


@cache
def _compiler_headers() -> str:
    """The directory of the compiler's own headers: stddef.h, stdint.h, limits.h."""
    command = ["gcc", "-print-file-name=include"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@cache
def include_root(target: Target, parent: Path) -> Path:
    """A directory that has the kernel's headers for the architecture, and nothing of the C library's."""
    root = parent / target.name
    root.mkdir()
    (root / "asm").symlink_to(INCLUDE / target.triplet / "asm")
    for name in PACKAGE:
        (root / name).symlink_to(INCLUDE / name)
    (root / "sys").mkdir()
    for header, text in LIBRARY.items():
        (root / header).write_text(text)
    return root


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
    return str(value) if value < 1024 and (mask == "~0" or value < 10) else f"{value:#x}"


def generate(rows: list[Row], parent: Path) -> list[Constant]:
    """The constants of all rows, in the order of the specification and, within a row, of the headers."""
    groups = {row.headers: [other for other in rows if other.headers == row.headers] for row in rows}
    selecting = [headers for headers, group in groups.items() if group[0].literals is None]
    roots = {target: include_root(target, parent) for target in TARGETS}

    def measure(job: tuple[tuple[str, ...], Target]) -> tuple[list[Found], dict[str, int]]:
        headers, target = job
        present = [header for header in headers if (roots[target] / header).exists()]
        found = scan(target, roots[target], present)
        wanted = [item.name for item in found if any(row.selects(item.name, item.definition) for row in groups[headers])]
        return found, evaluate(target, roots[target], present, wanted)

    jobs = [(headers, target) for headers in selecting for target in TARGETS]
    with ThreadPoolExecutor(4) as pool:
        measured = dict(zip(jobs, pool.map(measure, jobs), strict=True))
    constants: dict[tuple[str, str], Constant] = {}
    for row in rows:
        for constant in _of_row(row, measured):
            constants.setdefault((constant.family, constant.name), constant)
    return list(constants.values())


def _of_row(
    row: Row, measured: dict[tuple[tuple[str, ...], Target], tuple[list[Found], dict[str, int]]]
) -> Iterator[Constant]:
    if (literals := row.literals) is not None:
        for name, value in literals.items():
            yield Constant(row.family, name, row.mask, " ".join(row.headers), (value,) * len(TARGETS))
        return
    results = [measured[row.headers, target] for target in TARGETS]
    found = {item.name: item for items, _ in reversed(results) for item in items}
    order = dict.fromkeys(item.name for items, _ in results for item in items)
    empty = True
    for name in order:
        values = tuple(
            known.get(name) if any(item.name == name and row.selects(name, item.definition) for item in items) else None
            for items, known in results
        )
        if any(value is not None for value in values):
            empty = False
            values = tuple(value if value is None else row.encode(value) for value in values)
            yield Constant(row.family, name, row.mask, found[name].header, values)
    if empty:
        raise GenerateError(f"{SPEC.name}:{row.line}: no name matches {row.names}")


def document(constants: Iterable[Constant], version: str) -> str:
    """The text of constants.tsv."""
    return f"""\
# The kernel's constants, by the family that an argument takes its values from.  Written by tools/generate_constants.py
# from tools/constants_spec.tsv and the uapi headers of Linux {version} (Debian's linux-libc-dev).
# mask: the bits of the field whose value the constant is (~0: the whole argument); empty: bits that can be combined.
# value: on {TARGETS[0].name}; others: where another architecture differs.  - where there is no such constant.
family\tname\tvalue\tmask\theader\tothers
""" + "".join(constant.row() + "\n" for constant in constants)


def version() -> str:
    """The kernel that the installed headers are of: `6.12`."""
    text = (INCLUDE / "linux/version.h").read_text()
    found = dict(re.findall(r"#define LINUX_VERSION_(MAJOR|PATCHLEVEL) (\d+)", text))
    return f"{found['MAJOR']}.{found['PATCHLEVEL']}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file would change")
    check = parser.parse_args().check
    try:
        with tempfile.TemporaryDirectory() as parent:
            text = document(generate(read_spec(SPEC.read_text()), Path(parent)), version())
    except GenerateError as error:
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
