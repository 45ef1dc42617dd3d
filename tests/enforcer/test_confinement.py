"""The helper's own filter."""

from __future__ import annotations

import os
import re
from pathlib import Path

import make_helper_filter
import pytest
from calls import event
from elftools.elf.elffile import ELFFile
from needed import needs

from callfence.enforcer import confinement
from callfence.judging.differences import rule_texts
from callfence.policygen.comparing.compare import compare
from callfence.policygen.filter.bpf import run
from callfence.policygen.filter.verify import verify
from callfence.tracer.abi import NATIVE, Arch, table
from callfence.tracer.abi.constants import value
from callfence.tracer.linux import SECCOMP_RET_ALLOW

ROOT = Path(__file__).parents[2]
MUSL = Path(f"/lib/ld-musl-{NATIVE}.so.1")

FILTERS = Path(confinement.__file__).with_name("filters")


@pytest.mark.parametrize("machine", make_helper_filter.MACHINES)
def test_the_filters_that_are_installed_are_the_policies(machine: str) -> None:
    """Proved on every input; `make commands` compiles them again."""
    documents = make_helper_filter.documents(FILTERS, Arch(machine))
    assert {path.stem for path in (FILTERS / machine).iterdir()} == {*documents, "shield"}
    for name, document in documents.items():
        assert verify((FILTERS / machine / f"{name}.filter").read_bytes(), document.policy) is None


def test_an_entry_of_another_machine_is_left_out_whole(tmp_path: Path) -> None:
    """Else its second line would go on the entry above it."""
    path = tmp_path / "it.policy"
    path.write_text("callfence 1\nopenat: flags == O_RDONLY\nopen: flags == O_RDWR\n   || flags == O_WRONLY\nread: allow\n")
    text = make_helper_filter.policy_for(path, Arch("aarch64")).text()
    assert text.endswith("\nopenat: flags == O_RDONLY\nread: allow\n")


def test_each_reader_reads_one_of_them() -> None:
    read = [confinement.read(), confinement.read(renews_log=True), confinement.read(makes_calls=True)]
    read += [confinement.read_follower(), confinement.read_follower(makes_calls=True)]
    assert len({*read}) == 5


def test_only_a_log_lets_the_helper_write_to_files() -> None:
    """And that by appending, through no link."""
    documents = make_helper_filter.documents(FILTERS, NATIVE)
    log = "O_WRONLY|O_CREAT|O_NOCTTY|O_APPEND|O_NONBLOCK|O_NOFOLLOW|O_CLOEXEC"
    of_musl = log.replace("O_NOFOLLOW", "O_LARGEFILE|O_NOFOLLOW")
    added = compare(documents["helper"].policy, documents["helper-log"].policy).differences
    assert {text for one in added for text in rule_texts(one)} == {f"flags in {{{log}, {of_musl}}} && mode == 0666"}


@pytest.mark.parametrize("name", ["helper", "helper-log", "helper-hosts", "follower", "follower-hosts"])
def test_the_helper_may_read_files_by_whatever_call_the_c_library_makes(name: str) -> None:
    """musl opens by open(2) with O_LARGEFILE, glibc by openat(2)."""
    filter_ = (FILTERS / NATIVE / f"{name}.filter").read_bytes()
    large = value("O_LARGEFILE", NATIVE) or 0
    for flags in (os.O_CLOEXEC, os.O_NONBLOCK | os.O_CLOEXEC, os.O_DIRECTORY | os.O_CLOEXEC, os.O_PATH | os.O_CLOEXEC):
        for call, *arguments in (("openat", 0, 0, flags), ("openat", 0, 0, flags | large), ("open", 0, flags | large)):
            if call in table(NATIVE).by_name:
                assert run(filter_, event(call, *arguments, arch=NATIVE)) == SECCOMP_RET_ALLOW
    assert run(filter_, event("openat", 0, 0, os.O_WRONLY | os.O_CLOEXEC, arch=NATIVE)) != SECCOMP_RET_ALLOW


@needs("musl-tools")
def test_the_functions_that_are_called_are_in_musl() -> None:
    """By ctypes, from the C library that Python has loaded: on Alpine that is musl."""
    called = re.compile(r"\b(?:functions|_libc)\.([a-z_]\w*)|CDLL\(None[^)]*\)\.(\w+)")
    files = [file for folder in ("tracer", "enforcer", "callfence", "policygen") for file in (ROOT / folder).rglob("*.py")]
    found = [match for file in files for match in called.findall(file.read_text())]
    names = {function or other for function, other in found} - {"items", "append", "sort"}  # of dictionaries and lists
    with MUSL.open("rb") as file:
        exported = {symbol.name for symbol in ELFFile(file).get_section_by_name(".dynsym").iter_symbols()}
    assert len(names) > 10
    assert names <= exported
