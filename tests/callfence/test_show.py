"""`callfence show`: a policy printed, rewritten, with what is implied, and as instructions."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from callfence.commands import show
from callfence.policygen.comparing.compare import Verdict, compare
from callfence.policygen.filter import bpf
from callfence.policygen.filter.compile import compile_policy
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.language.document import parse

HEAD = "callfence 1\narch x86_64\ntable 6.18\narm exec\ndefault kill\nunknown errno ENOSYS\n"
ODD = "callfence 1\narch x86_64\nread:   fd == 0    # why\n"
CANONICAL = f"{HEAD}\nread: fd == 0                  # why\n"
IMPLIED = "callfence 1\narch x86_64\nimplied 1\nopenat: flags == O_RDONLY\nsocket: allow\n"
PHASES = "callfence 1\narch x86_64\nimplied 1\nphase serve after listen\nchroot: allow until serve\nlisten: allow\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    including = f"{HEAD}\ninclude it.policy\n\nwrite: allow\n"
    files = {"odd": ODD, "it": CANONICAL, "with": including, "implied": IMPLIED, "phases": PHASES}
    for name, text in files.items():
        Path(f"{name}.policy").write_text(text)
    return tmp_path


class Shown:
    """What `show` printed, and its status."""

    def __init__(self, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
        self.status = show.main([*words])
        self.out, self.err = capsys.readouterr()


def changed(name: str) -> tuple[int, int, int]:
    """The file of that name, and the moment of its last change in nanoseconds; reading it changes neither."""
    status = Path(name).stat()
    return (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)


def test_it_is_printed_in_canonical_form_with_its_includes(capsys: pytest.CaptureFixture[str]) -> None:
    assert Shown(("odd.policy",), capsys).out == Shown(("it.policy",), capsys).out == CANONICAL
    assert Shown(("with.policy",), capsys).out == f"{HEAD}\nread: fd == 0\nwrite: allow\n"
    assert Path("odd.policy").read_text() == ODD


def test_files_are_rewritten_and_includes_stay(capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: changed(name) for name in ("it.policy", "with.policy")}
    done = Shown(("--write", "odd.policy", "it.policy", "with.policy"), capsys)
    assert (done.status, done.out, done.err) == (0, "", "")
    assert Path("odd.policy").read_text() == CANONICAL
    assert {name: changed(name) for name in before} == before, "not written again"


def test_it_is_checked_what_would_be_rewritten(capsys: pytest.CaptureFixture[str]) -> None:
    done = Shown(("--check", "it.policy", "with.policy"), capsys)
    assert (done.status, done.out, done.err) == (0, "", "")
    done = Shown(("--check", "it.policy", "odd.policy", "with.policy"), capsys)
    said = "odd.policy is not in canonical form; `callfence show --write odd.policy` rewrites it\n"
    assert (done.status, done.out, done.err) == (1, "", said)
    assert Path("odd.policy").read_text() == ODD
    assert Shown(("--check", "odd.policy", "none.policy", "it.policy"), capsys).status == 2


@pytest.mark.parametrize(
    ("words", "text", "status", "printed"),
    [
        (("--write", "-"), ODD, 0, CANONICAL),
        (("--check", "-"), ODD, 1, ""),
        (("--check", "-"), CANONICAL, 0, ""),
        (("-",), ODD, 0, CANONICAL),
        (("--write", "-"), "opne: allow\n", 2, ""),
    ],
)
def test_standard_input(
    words: tuple[str, ...], text: str, status: int, printed: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    done = Shown(words, capsys)
    assert (done.status, done.out) == (status, printed)
    assert bool(done.err) == bool(status)


def test_what_is_implied_has_its_reasons_and_capabilities(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Shown(("--implied", "implied.policy"), capsys).out.splitlines()
    pairs = list(zip(shown[::2], shown[1::2], strict=True))
    assert all(why.startswith("# ") and not entry.startswith("#") for why, entry in pairs)
    assert ("# the heap", "brk: allow") in pairs
    assert [why for why, entry in pairs if entry.startswith("getpeername: ")] == [
        "# who is at the other end of its own connections [has sockets]"
    ]
    expected = sum(map(len, resolved(parse(IMPLIED).policy).added.values()))
    assert len(pairs) == expected
    none = "# it.policy: the policy has no `implied` line that adds entries\n"
    assert Shown(("--implied", "it.policy"), capsys).out == none


@pytest.mark.parametrize("name", ["implied", "phases"])
def test_a_policy_written_out_means_the_same(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = Shown(("--expanded", f"{name}.policy"), capsys).out
    assert "implied" not in text and "brk: allow\n" in text
    assert compare(parse(Path(f"{name}.policy").read_text()).policy, parse(text).policy).verdict is Verdict.EQUAL


def test_instructions_of_each_phase(capsys: pytest.CaptureFixture[str]) -> None:
    policy = parse(PHASES).policy
    expected = "".join(f"# {phase}\n{bpf.disassemble(compile_policy(policy, phase))}\n" for phase in ("start", "serve"))
    assert Shown(("--instructions", "phases.policy"), capsys).out == expected
    one = bpf.disassemble(compile_policy(parse(ODD).policy))
    assert Shown(("--instructions", "odd.policy"), capsys).out == f"{one}\n"


def test_a_filter_is_no_policy(capsys: pytest.CaptureFixture[str]) -> None:
    filter_ = compile_policy(parse(ODD).policy)
    Path("it.bpf").write_bytes(filter_)
    assert Shown(("--instructions", "it.bpf"), capsys).out == f"{bpf.disassemble(filter_)}\n"
    done = Shown(("it.bpf",), capsys)
    assert (done.status, done.out) == (2, "")
    assert "it.bpf is a filter, not a policy: `callfence import --from bpf it.bpf` prints it as a policy" in done.err
