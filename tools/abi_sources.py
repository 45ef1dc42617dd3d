"""What the ABI tables are made from: tracefs, the kernel's user-space headers, the reviewed files beside this one."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

TOOLS = Path(__file__).parent
DATA = TOOLS.parent / "tracer" / "abi"
TRACEFS = "/sys/kernel/tracing"
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "i386": Path("/usr/include/x86_64-linux-gnu/asm/unistd_32.h"),
    "aarch64": Path("/usr/include/aarch64-linux-gnu/asm/unistd_64.h"),
    "arm": Path("/usr/include/arm-linux-gnueabihf/asm/unistd-eabi.h"),
}
"""Numbers by architecture.  Debian's linux-libc-dev carries all four on any machine."""
BITS = {"x86_64": 64, "i386": 32, "aarch64": 64, "arm": 32}
"""Width of a register by architecture."""


class SourceError(Exception):
    """A source is missing or says something that the generator does not understand.  The text says what to do."""


def read_tsv(path: Path) -> list[dict[str, str]]:
    """Rows of a table whose first line that is no comment names the columns; missing trailing cells are ''."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    columns = lines[0].split("\t")
    rows = []
    for line in lines[1:]:
        cells = line.split("\t")
        if len(cells) > len(columns):
            raise SourceError(f"{path.name}: more than {len(columns)} cells: {line!r}")
        rows.append(dict(zip(columns, cells + [""] * (len(columns) - len(cells)), strict=True)))
    return rows


def kernel_version() -> str:
    """The running kernel as MAJOR.MINOR: what its tracefs describes."""
    return ".".join(os.uname().release.split(".")[:2])


def package_version(package: str) -> str:
    """Version of an installed Debian package; raises SourceError if it is not installed."""
    command = ["dpkg-query", "-W", "-f", "${Version}", package]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise SourceError(f"package {package} is needed: apt-get install {package}") from error


def traced_parameters() -> dict[str, str]:
    """Parameters (`int dfd, const char * filename`) by entry point, from tracefs `events/syscalls`.

    Where tracefs is not mounted it is mounted in a private mount namespace, which ends with the reading.
    """
    read = f"cd {TRACEFS}/events/syscalls && grep -H field: sys_enter_*/format"
    mounted = os.access(f"{TRACEFS}/events/syscalls", os.R_OK)  # Path.is_dir raises where /sys/kernel/tracing is closed
    command = ["sh", "-c", read if mounted else f"mount -t tracefs tracefs {TRACEFS} && {read}"]
    done = subprocess.run(command if mounted else ["unshare", "--mount", *command], capture_output=True, text=True)
    if done.returncode:
        raise SourceError(
            f"cannot read tracefs: {done.stderr.strip()}: run as root, on a kernel with CONFIG_FTRACE_SYSCALLS, "
            f"where `mount -t tracefs tracefs {TRACEFS}` works"
        )
    parameters: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        match = re.fullmatch(r"sys_enter_(\w+)/format:\tfield:(.+);\toffset:(\d+);\tsize:8;\tsigned:\d;", line)
        entry = line.partition("/")[0].removeprefix("sys_enter_")
        found = parameters.setdefault(entry, [])
        if match and int(match[3]) >= 16:  # the fields before are common to all events, and the call's number
            found.append(match[2])
    return {entry: ", ".join(found) for entry, found in parameters.items()}


def numbers(arch: str) -> dict[int, str]:
    """Names by number: the headers', then the newer ones that newest.tsv and numbers.tsv know."""
    path = HEADERS[arch]
    if not path.exists():
        raise SourceError(f"{path} is missing: apt-get install linux-libc-dev")
    found = re.findall(r"^#define __NR_(\w+) (?:\(__NR_SYSCALL_BASE \+ )?(\d+)\)?$", path.read_text(), re.MULTILINE)
    rows = {int(number): name for name, number in found if name != "syscalls"}
    newer = [row for row in read_tsv(DATA / "newest.tsv") if row["number"] != "-" and arch in (row["only"] or arch).split(",")]
    newer += [row for row in read_tsv(TOOLS / "numbers.tsv") if row["arch"] == arch]
    for row in newer:
        if rows.setdefault(int(row["number"]), row["name"]) != row["name"]:
            raise SourceError(f"{arch} {row['number']} is {rows[int(row['number'])]}, not {row['name']}")
    return rows
