"""Names of call sites in `callfence why`: right, or none and the reason."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from calls import parse

from callfence.judging import sites
from callfence.judging.sites import Site, Symbols
from callfence.policygen.recording.model import Observation, Recording, Run
from callfence.policygen.review.judgement import judge
from callfence.tracer.abi import Arch, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from conftest import Commands

SOURCE = Path(__file__).parent / "programs" / "callsite.c"
EXPORTED = SOURCE.with_name("exported.c")
CALLFENCE = [sys.executable, "-m", "callfence"]
NAMED = re.compile(r"first at callsite\+0x[0-9a-f]+ \(calls_getppid\+0x[0-9a-f]+\): 1 call")
BARE = re.compile(r"first at callsite\+0x[0-9a-f]+: 1 call")


def learn(program: Path, commands: Commands, folder: Path) -> Path:
    """The exact policy of a copy of the program: getppid and exit_group are implied."""
    copy = folder / "callsite"
    shutil.copy(program, copy)
    policy = folder / "callsite.policy"
    ran = commands.learn(policy, [copy], folder, "--exact")
    assert ran.returncode == 0, ran.stderr.decode()
    return policy


def why(policy: Path, *about: str) -> list[str]:
    done = subprocess.run(
        [*CALLFENCE, "why", policy, *about], cwd=policy.parent, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def recorded(policy: Path, name: str = "callsite") -> str:
    """The call site in a file of that name, as the recording has it."""
    rows = map(json.loads, (policy.parent / ".callfence" / "callsite.rec").read_text().splitlines())
    return next(row["site"] for row in rows if f"/{name}+" in row.get("site", ""))


@pytest.mark.parametrize("flags", [(), ("-static",), ("-no-pie",), ("-m32",), ("-Wl,--build-id=none",)], ids=" ".join)
def test_a_function_that_nothing_exports(
    flags: tuple[str, ...], compile_c: Callable[..., Path], commands: Commands, tmp_path: Path
) -> None:
    policy = learn(compile_c(SOURCE, *flags), commands, tmp_path)
    lines = why(policy, "getppid")
    assert NAMED.search("\n".join(lines))
    assert not any("no symbols" in line for line in lines)


def test_a_stripped_file_has_no_names_and_says_so_once(
    compile_c: Callable[..., Path], commands: Commands, tmp_path: Path
) -> None:
    policy = learn(compile_c(SOURCE, "-s", "-static"), commands, tmp_path)
    lines = why(policy)
    assert BARE.search("\n".join(lines))
    assert [line for line in lines if "no symbols" in line] == [f"no symbols of {tmp_path}/callsite: it is stripped"]


def test_what_a_library_exports_has_a_name_though_it_is_stripped(
    compile_c: Callable[..., Path], commands: Commands, tmp_path: Path
) -> None:
    """The library calls libc's syscall(), which is not named: the first caller outside of libc is."""
    library = compile_c(EXPORTED, "-shared", "-fPIC", "-s", "-DLIBRARY")
    policy = learn(compile_c(EXPORTED, str(library)), commands, tmp_path)
    named = r"first at exported\+0x[0-9a-f]+ \(exported_getppid\+0x[0-9a-f]+\): 1 call"
    assert re.search(named, "\n".join(why(policy, "getppid")))


def test_the_build_id_is_recorded(compile_c: Callable[..., Path], commands: Commands, tmp_path: Path) -> None:
    policy = learn(compile_c(SOURCE), commands, tmp_path)
    notes = subprocess.run(["readelf", "-n", tmp_path / "callsite"], capture_output=True, text=True, check=True).stdout
    place = Site.parse(recorded(policy))
    assert place is not None
    assert place.file == f"{tmp_path}/callsite"
    assert place.build and f"Build ID: {place.build}\n" in notes


def test_separate_debug_files(
    compile_c: Callable[..., Path], commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compile_c(SOURCE)
    policy = learn(compile_c(SOURCE, "-s"), commands, tmp_path)
    site = recorded(policy)
    place = Site.parse(site)
    assert place is not None
    assert Symbols().describe(site) == f"callsite+{place.offset:#x}"
    kept = tmp_path / "debug" / place.build[:2] / f"{place.build[2:]}.debug"
    kept.parent.mkdir(parents=True)
    subprocess.run(["objcopy", "--only-keep-debug", whole, kept], check=True)
    monkeypatch.setattr(sites, "DEBUG", tmp_path / "debug")
    assert re.search(r"\(calls_getppid\+0x[0-9a-f]+\)$", Symbols().describe(site))


@pytest.mark.parametrize("flags", [(), ("-Wl,--build-id=none",)], ids=["build id", "no build id"])
def test_another_file_is_there_now(
    flags: tuple[str, ...], compile_c: Callable[..., Path], commands: Commands, tmp_path: Path
) -> None:
    policy = learn(compile_c(SOURCE, *flags), commands, tmp_path)
    assert NAMED.search("\n".join(why(policy, "getppid")))
    shutil.copy(compile_c(SOURCE, *flags, "-O0"), tmp_path / "callsite")
    lines = why(policy, "getppid")
    assert BARE.search("\n".join(lines))
    assert lines[-1] == f"no symbols of {tmp_path}/callsite: the file has changed since the recording"
    (tmp_path / "callsite").unlink()
    assert why(policy, "getppid")[-1] == f"no symbols of {tmp_path}/callsite: No such file or directory"


@pytest.mark.parametrize("content", [b"\x7fELF\x02\x01\x01" + b"\xff" * 200, b"", b"#!/bin/sh\n"])
def test_a_file_that_is_no_elf_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(content)
    found = Symbols()
    assert found.describe(f"{tmp_path}/broken+0x10 (00)") == "broken+0x10"
    assert len(list(found.problems())) == 1


def test_what_a_recording_names_is_opened_only_if_it_is_a_file(tmp_path: Path) -> None:
    """A pipe would keep us waiting, and some devices act on being opened."""
    os.mkfifo(tmp_path / "pipe")
    found = Symbols()
    assert found.describe(f"{tmp_path}/pipe+0x10") == "pipe+0x10"
    assert list(found.problems()) == [f"no symbols of {tmp_path}/pipe: it is not a regular file"]


@pytest.mark.parametrize(
    ("site", "said"),
    [("libc.so.6+0x11b2c4", "libc.so.6+0x11b2c4"), ("?", "?"), ("[anonymous]+0x10", "[anonymous]+0x10"), ("", "")],
)
def test_sites_without_a_file(site: str, said: str) -> None:
    """Recordings of older versions have the file's name without its folder."""
    found = Symbols()
    assert found.describe(site) == said
    assert list(found.problems()) == []


def test_without_pyelftools(compile_c: Callable[..., Path], commands: Commands, tmp_path: Path) -> None:
    policy = learn(compile_c(SOURCE), commands, tmp_path)
    why = "from callfence.commands.why import main; sys.exit(main(sys.argv[1:]))"
    program = f"import sys; sys.modules['elftools'] = None; {why}"
    done = subprocess.run([sys.executable, "-c", program, policy], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert BARE.search(done.stdout)
    to_install = f"{sys.executable} -m pip install 'callfence[symbols]'"
    assert done.stdout.count(f"no symbols: pyelftools is not installed ({to_install})") == 1


def test_the_place_of_a_denied_call(compile_c: Callable[..., Path], commands: Commands, tmp_path: Path) -> None:
    policy = learn(compile_c(SOURCE), commands, tmp_path)
    policy.write_text(policy.read_text().replace("getppid: allow\n", ""))
    logged = commands.enforce(policy, [tmp_path / "callsite"], tmp_path)
    printed = commands.plain([Path(sys.executable).parent / "enforce", "-p", policy, tmp_path / "callsite"], tmp_path)
    for report in (json.dumps(logged.violations[0]), printed.stderr.decode()):
        said = why(policy, report)[-1]
        assert re.fullmatch(r"  called at callsite\+0x[0-9a-f]+ \(calls_getppid\+0x[0-9a-f]+\)", said)


def test_an_odd_note_hides_no_names(compile_c: Callable[..., Path], commands: Commands, tmp_path: Path) -> None:
    policy = learn(compile_c(SOURCE), commands, tmp_path)
    site = recorded(policy)
    content = bytearray((tmp_path / "callsite").read_bytes())
    note = content.index(struct.pack("<III", 4, 16, 1) + b"GNU\0")  # .note.ABI-tag
    content[note + 12 : note + 16] = b"\xff" * 4  # no name is as long as a program may say
    (tmp_path / "callsite").write_bytes(content)
    assert re.search(r"\(calls_getppid\+0x[0-9a-f]+\)$", Symbols().describe(site))


def test_symbols_without_end_are_not_read(
    compile_c: Callable[..., Path], commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program may make itself a sparse executable whose table of symbols is as large as a file may be."""
    policy = learn(compile_c(SOURCE), commands, tmp_path)
    site, file = recorded(policy), tmp_path / "callsite"
    content = bytearray(file.read_bytes())
    sections, size, count = struct.unpack_from("<Q", content, 40)[0], *struct.unpack_from("<HH", content, 58)
    heads = [sections + number * size for number in range(count)]
    table = next(head for head in heads if struct.unpack_from("<I", content, head + 4) == (2,))  # SHT_SYMTAB
    struct.pack_into("<QQ", content, table + 24, -len(content) // 24 * -24, 24 << 30)
    file.write_bytes(content)
    os.truncate(file, 25 << 30)
    monkeypatch.setattr(sites, "_MAX_BYTES", 1 << 20)
    found = Symbols()
    assert found.describe(site).startswith("callsite+")
    assert list(found.problems()) == [f"no symbols of {file}: its symbol table cannot be read"]


# Recordings of many calls


NAMES = [f"/{folder}/{name}" for folder in "abcd" for name in "efg"]


def opened(place: int, count: int = 1, names: Sequence[str] = (), call: str = "openat") -> Observation:
    facts = tuple(f'filename="{name}"' for name in names)
    number, registers = table(Arch.X86_64).by_name[call].number, (3, 0, 0, 0, 0, 0)
    return Observation(Arch.X86_64.audit, number, (None,) * 4, f"/bin/{place}", (count,), f"app+{place}", registers, facts)


def recording(observations: Iterable[Observation]) -> Recording:
    run = Run("1", 0, ("/bin/app",), 0, complete=True)
    return Recording((run,), tuple(sorted(observations, key=lambda observation: observation.order)))


LAST = '    openat(dfd=3, filename="/8", flags=O_RDONLY, mode=0)'


@pytest.mark.parametrize(("count", "last"), [(8, LAST), (9, "  ... and 1 call site more"), (10, "  ... and 2 call sites more")])
def test_eight_call_sites_are_shown_with_the_most_calls_first(count: int, last: str) -> None:
    made = [opened(place, 20 - place, [f"/{place}"]) for place in range(1, count + 1)]
    lines = [*sites.site_lines(made, recording(made), Symbols())]
    assert [line.partition(": ")[2] for line in lines if "first at" in line] == [
        f"{20 - place} calls, such as" for place in range(1, 9)
    ]
    assert lines[-1] == last


@pytest.mark.parametrize(("count", "last"), [(9, 'filename="/c/g"'), (10, "1 more"), (12, "3 more")])
def test_eight_more_facts_about_calls_are_shown(count: int, last: str) -> None:
    call, others = sites.such_as([opened(1, names=NAMES[:count])])
    assert call == 'openat(dfd=3, filename="/a/e", flags=O_RDONLY, mode=0)'
    assert others[:8] == [f'filename="{name}"' for name in NAMES[1:9]] and others[-1] == last


CALLS = ["bind", "chdir", "chmod", "chown", "link", "listen", "mkdir", "mount", "rename", "rmdir", "symlink", "sync", "unlink"]


def behind(calls: Sequence[str], *observations: Observation) -> list[str]:
    """The lines that a comment has about calls that a change allows."""
    old, new = parse("exit: allow\n"), parse("exit: allow\n" + "".join(f"{call}: allow\n" for call in calls))
    lines = [*sites.behind_lines(old.policy, new.policy, judge(old, new).relevant, recording(observations))]
    assert lines[:3] == ["", "Recorded calls that need it:", ""]
    return lines[3:]


@pytest.mark.parametrize("count", [12, 13])
def test_a_comment_names_twelve_calls(count: int) -> None:
    lines = behind(CALLS[:count], *(opened(1, call=call) for call in CALLS[:count]))
    assert len(lines) == count
    assert (lines[-1] == "- ... and 1 call more: `callfence why` prints all of it") == (count == 13)


@pytest.mark.parametrize(("count", "end"), [(3, "mode=0)`"), (4, "; and 1 more place"), (5, "; and 2 more places")])
def test_a_comment_names_three_places_of_a_call(count: int, end: str) -> None:
    (line,) = behind(["openat"], *(opened(place) for place in range(count)))
    assert line.count("` at `") == 3 and line.endswith(end)


@pytest.mark.parametrize(("count", "end"), [(5, ', `filename="/b/f"`'), (6, ', `filename="/b/f"`, `...`')])
def test_a_comment_names_four_more_facts(count: int, end: str) -> None:
    (line,) = behind(["openat"], opened(1, names=NAMES[:count]))
    assert line.count("`filename=") == 4 and line.endswith(end)
