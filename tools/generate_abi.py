#!/usr/bin/env python3
"""Write tracer/abi/syscalls_*.tsv from the kernel's own descriptions, or check that they say the same (--check).

Needs root for tracefs, and Debian's package linux-libc-dev.  docs/adding-a-syscall.md explains which of the reviewed
inputs beside this script to change.  Exit status: 0 fine, 1 the tables differ, 2 a source is missing or unclear.
"""

from __future__ import annotations

import argparse
import difflib
import sys

import abi_sources
from abi_kinds import Rules, parameters
from abi_sources import DATA, HEADERS, TOOLS, SourceError, read_tsv

TABLES_KERNEL = "6.18"
"""The kernel whose tracefs the committed tables were made from."""


def entry_points() -> dict[tuple[str, str], str]:
    """The kernel's entry point by (architecture, call), where it is not named after the call; '-' for none."""
    return {(row["arch"], row["name"]): row["entry"] for row in read_tsv(TOOLS / "entries.tsv")}


def syscall_lines(arch: str, signatures: dict[str, str], rules: Rules) -> tuple[list[str], list[str]]:
    """Lines of an architecture's table, and the calls that no source describes."""
    entries, bits = entry_points(), abi_sources.BITS[arch]
    lines, undescribed = [], []
    for number, name in sorted(abi_sources.numbers(arch).items()):
        entry = entries.get((arch, name), name)
        if entry != "-" and entry not in signatures:
            undescribed.append(name)
            continue
        signature = signatures.get(entry, "")
        cells = [rules.argument(name, parameter, bits) for parameter in parameters(signature)]
        lines.append("\t".join((str(number), name, *cells)))
    return lines, undescribed


def generate() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Data lines by file name, and the calls of each file that this machine's sources do not describe."""
    signatures = {row["entry"]: row["parameters"] for row in read_tsv(TOOLS / "signatures.tsv")}
    signatures |= abi_sources.traced_parameters()
    rules = Rules()
    files, missing = {}, {}
    for arch in HEADERS:
        name = f"syscalls_{arch}.tsv"
        files[name], missing[name] = syscall_lines(arch, signatures, rules)
    if not any(missing.values()) and (unused := rules.unused()):
        raise SourceError(f"tools/kinds.tsv: no call has {', '.join(unused)}")
    return files, missing


def head() -> list[str]:
    """The comment that says where the data is from, and the names of its columns."""
    headers = f"linux-libc-dev {abi_sources.package_version('linux-libc-dev')}"
    return [
        "# Made by tools/generate_abi.py; change that or its inputs, not this file.",
        f"# sources: tracefs of Linux {abi_sources.kernel_version()}, {headers}, the .tsv files of tools/",
        "number\tname\targuments (name:ctype:width:kind:constants:exact)",
    ]


def write(files: dict[str, list[str]], missing: dict[str, list[str]]) -> int:
    """Replace the committed files; raises SourceError if any call lacks a source."""
    for name, calls in missing.items():
        if calls:
            raise SourceError(f"{name}: tracefs has not {', '.join(calls)}: describe them in tools/signatures.tsv")
    for name, lines in files.items():
        (DATA / name).write_text("\n".join((*head(), *lines)) + "\n")
    return 0


def check(files: dict[str, list[str]], missing: dict[str, list[str]]) -> int:
    """Compare with the committed files, but for calls that this machine's sources do not describe."""
    status = 0
    if (running := abi_sources.kernel_version()) != TABLES_KERNEL:
        print(f"note: the tables are from Linux {TABLES_KERNEL}, this is {running}: comparing what its tracefs has")
    for name, lines in files.items():
        skipped = set(missing[name])
        if skipped:
            print(f"note: {name}: not compared, no source here: {', '.join(sorted(skipped))}")
        committed = [line for line in (DATA / name).read_text().splitlines() if not line.startswith("#")][1:]
        committed = [line for line in committed if line.split("\t")[1] not in skipped]
        diff = list(difflib.unified_diff(committed, lines, f"tracer/abi/{name}", "regenerated", n=0, lineterm=""))
        if diff:
            status = 1
            print("\n".join(diff))
        else:
            print(f"{name}: {len(lines)} rows equal")
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed tables, write nothing")
    arguments = parser.parse_args()
    try:
        files, missing = generate()
        return check(files, missing) if arguments.check else write(files, missing)
    except SourceError as error:
        print(f"generate_abi: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
