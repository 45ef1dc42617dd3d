"""What takes too much work to judge: the work ends, and what was not judged is a danger in every form.

Work is counted in steps (`Budget.work`), so that these tests depend on no clock.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from calls import parse

from callfence.policygen.comparing.compare import Verdict
from callfence.policygen.implied import resolve
from callfence.policygen.lint.findings import lint
from callfence.policygen.review.judgement import judge
from callfence.policygen.sets.region import Budget
from callfence.tracer.abi import Arch, table

ROOT = Path(__file__).resolve().parents[3]
CALLFENCE = [sys.executable, "-m", "callfence"]
TOTAL, EACH = 150_000, 50_000
"""A tenth of what a judgement may take by itself, for these tests to be short."""
BOUND = TOTAL + 2 * EACH
"""Of all spaces of a judgement; the last may exceed what is left by its nodes or its choices."""
SMALL = f"""import sys
from callfence.policygen.sets.region import Budget
Budget.__init__.__defaults__ = {TOTAL}, {EACH}
from callfence.cli import main
main(sys.argv[1:])
"""
"""`callfence` with that budget: what it says is the same, and comes ten times as fast."""
RANDOM = random.Random(7)


def bits(name: str, count: int) -> str:
    """Alternatives each of which looks at one bit of every argument: their sets have no short form."""
    arguments = [one for one in table(Arch.X86_64).by_name[name].arguments if not one.kind.is_pointer][-4:]
    def rule() -> str:
        return " && ".join(f"{one.name} & {1 << RANDOM.randrange(min(20, one.width - 1)):#x} == 0" for one in arguments)

    return " || ".join(rule() for _ in range(count))


CALLS = [call for call in table(Arch.X86_64).by_name.values() if call.name not in ("ptrace", "kexec_load")]
WIDE = [call.name for call in CALLS if sum(not one.kind.is_pointer for one in call.arguments) > 2]
HOSTILE = {
    "one call": f"prctl: {bits('prctl', 30)}\n",
    "many calls": "".join(f"{name}: {bits(name, 14)}\n" for name in WIDE),
    "an implied set": "implied 1\n" + "".join(f"{name}: ({bits(name, 12)}) && ({bits(name, 10)})\n" for name in WIDE),
    "phases": f"phase a after accept\nphase b after epoll_wait\naccept: allow\nepoll_wait: allow\nbind: allow until a\n"
    f"listen: allow until b\nprctl: {bits('prctl', 30)}\n",
    "many values": f"ioctl: cmd in {{{', '.join(str(RANDOM.getrandbits(32)) for _ in range(5_000))}}}\n",
}  # fmt: skip

FEW = f"mmap: {bits('mmap', 4)}\n"


@pytest.mark.long
@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_the_work_is_bounded_and_what_was_not_judged_is_a_danger(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("_TOTAL", "_OF_ENTRY", "_OF_PART"):  # of finding what an implied set goes by, which has a test of its own
        monkeypatch.setattr(resolve, limit, getattr(resolve, limit) // 10)
    budget = Budget(TOTAL, EACH)
    found = lint(parse(text, "a.policy"), budget)
    assert budget.work <= BOUND
    assert "danger" in [one.level for one in found if one.rule == "too-complex"]
    judgement = judge(parse("read: allow\n", "old.policy"), parse(text, "a.policy"), Budget(TOTAL, EACH))
    assert (judgement.headlines[0].rule, judgement.headlines[0].level) == ("too-complex", "danger")
    assert judgement.comparison.verdict is Verdict.INCOMPARABLE


@pytest.mark.long
def test_a_danger_after_what_uses_up_the_work_is_not_passed_over() -> None:
    """It is found, or said to be too complex: an attacker puts it last."""
    last = "ptrace: request == PTRACE_ATTACH || request == PTRACE_POKETEXT && pid == 7\n"
    text = f"{HOSTILE['many calls']}{last}kexec_load: allow\n"
    found = {(one.name, one.level) for one in lint(parse(text, "a.policy"), Budget(TOTAL, EACH))}
    assert {("ptrace", "danger"), ("kexec_load", "danger")} <= found
    judgement = judge(parse("read: allow\n", "a"), parse(text, "b"), Budget(TOTAL, EACH))
    assert ("ptrace", "danger") in {(one.name, one.level) for one in judgement.headlines}


def test_a_difference_that_was_not_judged_is_a_danger() -> None:
    """Wherever the work ends: while policies are compared, or while a difference is judged."""
    for total in range(0, 1001, 50):
        judgement = judge(parse("read: allow\n", "old"), parse(FEW, "a"), Budget(total, total))
        assert (judgement.headlines[0].rule, judgement.headlines[0].level) == ("too-complex", "danger")


@pytest.mark.parametrize("more", ["", "implied 1\n"])
def test_an_entry_that_was_not_judged_is_a_danger(more: str) -> None:
    """Whichever check the work ends in, and whatever follows."""
    document = parse(f"{more}{FEW}ptrace: allow\n", "a")
    whole = {(one.rule, one.name) for one in lint(document)}
    for total in range(0, 8001, 400):
        found = {(one.rule, one.name) for one in lint(document, Budget(total, total))}
        assert found >= whole or ("too-complex", "mmap") in found, total


def test_no_combination_is_passed_over_where_the_work_ends() -> None:
    """Where it ended while the old policy was looked at, that counted as having every ability."""
    text = f"{FEW}mprotect: prot in PROT_READ|PROT_EXEC\nopenat: flags in O_RDWR|O_CREAT\nmemfd_create: allow\n"
    old, new = parse("read: allow\n", "old"), parse(text, "a")
    rules = {one.rule for one in judge(old, new).headlines}
    assert rules >= {"shared-code", "write-then-map"}
    for total in range(0, 8001, 200):
        found = {one.rule for one in judge(old, new, Budget(total, total)).headlines}
        assert found >= rules or "too-complex" in found, total


def test_nothing_accepts_what_was_not_judged() -> None:
    document = parse(f"# why: too-complex: fine\n{HOSTILE['one call']}", "a")
    (one,) = [one for one in lint(document, Budget(TOTAL, EACH)) if one.rule == "too-complex"]
    assert (one.level, one.accepted) == ("danger", "")


def test_an_unchanged_call_is_equal_however_complex() -> None:
    texts = [f"{HOSTILE['one call']}{more}" for more in ("", "read: allow\n")]
    judgement = judge(*(parse(text, "a") for text in texts), Budget(TOTAL, EACH))
    assert judgement.comparison.verdict is Verdict.WIDER
    assert not [one for one in judgement.headlines if one.rule == "too-complex"]


@pytest.mark.parametrize("file", sorted((ROOT / "samples").glob("*.policy")), ids=lambda file: file.name)
def test_ordinary_policies_take_a_hundredth_of_it(file: Path) -> None:
    budget = Budget()
    assert not [one for one in lint(parse(file.read_text(), file.name), budget) if one.rule == "too-complex"]
    assert budget.work < TOTAL / 2


@pytest.mark.long
def test_what_an_implied_set_goes_by_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted(Budget):
        def __init__(self, *limits: int) -> None:
            super().__init__(*limits)
            budgets.append(self)

    budgets: list[Counted] = []
    monkeypatch.setattr(resolve, "Budget", Counted)
    text = "implied 1\n" + "".join(f"{name}: ({bits(name, 14)}) && ({bits(name, 11)})\n" for name in WIDE)
    resolve.granted(parse(text, "a.policy").policy)
    taken = [one.work for one in budgets]
    assert sum(taken) <= 1_000_000 + 2 * 500_000 and max(taken) <= 2 * 500_000


def run(folder: Path, *words: str, command: Sequence[str] = CALLFENCE) -> tuple[int, str]:
    done = subprocess.run([*command, *words], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout


@pytest.mark.long
def test_every_form_and_the_exit_status_say_so(tmp_path: Path) -> None:
    (tmp_path / "a.policy").write_text(HOSTILE["one call"])
    (tmp_path / "old.policy").write_text("read: allow\n")
    done = cache(lambda *words: run(tmp_path, *words, command=[sys.executable, "-c", SMALL]))
    said = "prctl: it has conditions that are too complex to be judged"
    assert said in run(tmp_path, "lint", "--level", "danger", "a.policy")[1]
    assert {done("lint", "--format", form, "a.policy")[0] for form in ("text", "json", "sarif")} == {1}
    (found,) = json.loads(done("lint", "--format", "json", "a.policy")[1])["findings"]
    assert (found["rule"], found["level"], found["line"]) == ("too-complex", "danger", 1)
    for command in (("lint", "--format", "sarif", "a.policy"), ("diff", "--format", "sarif", "old.policy", "a.policy")):
        results = json.loads(done(*command)[1])["runs"][0]["results"]
        assert ("too-complex", "error") in [(one["ruleId"], one["level"]) for one in results]
    difference = ("diff", "--not-wider", "old.policy", "a.policy")
    assert done(*difference)[0] == 1
    assert done(*difference)[1].startswith(f"incomparable: danger: {said} [too-complex]")
    assert f"**danger**: {said} [too-complex]" in done("diff", "--format", "md", *difference[2:])[1].splitlines()[0]
    first = json.loads(done("diff", "--format", "json", *difference[2:])[1])["first"][0]
    assert (first["id"], first["level"], first["name"]) == ("too-complex", "danger", "prctl")


@pytest.mark.long
def test_many_findings_of_one_file_are_placed(tmp_path: Path) -> None:
    """Each has its line, and the file is read once."""
    lines = [f'path "/etc/a {number}": write' for number in range(3000)]
    (tmp_path / "a.policy").write_text("\n".join(["openat: allow", *lines, ""]))
    found = json.loads(run(tmp_path, "lint", "--format", "json", "a.policy")[1])["findings"]
    placed = {one["name"]: one["line"] for one in found if one["name"].startswith("path")}
    assert placed == {line.partition(":")[0]: number for number, line in enumerate(lines, 2)}
