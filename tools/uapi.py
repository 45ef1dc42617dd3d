"""What the kernel's uapi headers (Debian's linux-libc-dev) define, as the C compiler sees it, for each architecture.

Only the kernel's headers are in sight: no constant needs a C library, and the C library's own values may differ
(O_LARGEFILE).  gcc's -m64 lays structures out as aarch64 does, and its -m32 as arm does with -malign-double (64-bit
members stand at multiples of 8 bytes), which decides the numbers of ioctls, so no cross compiler is needed.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
_LENIENT = ("-w", "-Wno-error=implicit-function-declaration")
"""A header calls memset, which no header here declares: an error since GCC 14."""


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
    Target("arm", "arm-linux-gnueabihf", ("-m32", "-malign-double", "-U__i386__", "-D__arm__", "-D__ARM_EABI__")),
)


class HeaderError(Exception):
    """The headers do not compile."""


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
        raise HeaderError(f"{target.name}: {' '.join(headers)}: {result.stderr}")
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
    while True:
        lines = (f"const long long callfence_{name}[2] = {{ (long long)({name}), ({name}) < 0 }};" for name in names)
        source = "\n".join([*prefix, '#line 1 "names"', *lines, ""])
        command = ["gcc", "-S", "-o", "-", *_LENIENT, *_options(target, root), "-x", "c", "-"]
        result = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
        if not result.returncode:
            return _values(result.stdout)
        refused = {int(number) for number in re.findall(r"^names:(\d+):\d+: error:", result.stderr, re.MULTILINE)}
        if not refused:
            raise HeaderError(f"{target.name}: {' '.join(headers)}: {result.stderr}")
        names = [name for number, name in enumerate(names, 1) if number not in refused]


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


def version() -> str:
    """The kernel that the installed headers are of: `6.12`."""
    text = (INCLUDE / "linux/version.h").read_text()
    found = dict(re.findall(r"#define LINUX_VERSION_(MAJOR|PATCHLEVEL) (\d+)", text))
    return f"{found['MAJOR']}.{found['PATCHLEVEL']}"
