"""How many instructions a filter has at most, compared with those that it has."""

from __future__ import annotations

from pathlib import Path

import pytest
import strategies
from calls import parse
from hypothesis import given, reject, settings
from strategies import EXAMPLES

from callfence.policygen.filter.bpf import MAX_INSTRUCTIONS
from callfence.policygen.filter.compile import CompileError, compile_policy
from callfence.policygen.filter.room import IMPLIED, most_instructions, surely_fits
from callfence.policygen.implied.tables import rows
from callfence.policygen.language.document import parse_file
from callfence.policygen.model import IMPLIED as SETS, Entry, Or, Policy
from callfence.policygen.values import replace
from callfence.tracer.abi import Arch

SAMPLES = sorted((Path(__file__).parents[3] / "samples").glob("*.policy"))


@pytest.mark.long
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_learned_policies_surely_have_filters(sample: Path) -> None:
    policy = parse_file(sample).policy
    assert len(compile_policy(policy)) // 8 <= most_instructions(policy)
    assert surely_fits(policy)


@pytest.mark.long
@pytest.mark.parametrize("arch", Arch)
def test_the_implied_set_fits_its_bound(arch: Arch) -> None:
    """All of its rows, as if every capability were granted."""
    added: dict[int, Entry] = {}
    for row in rows(max(SETS), arch):
        old = added.get(row.number)
        added[row.number] = Entry(Or((old.expression, row.entry.expression))) if old else row.entry
    policy = replace(parse("read: allow\n").policy, entries={arch: added})
    length = len(compile_policy(policy)) // 8
    assert 0.75 * IMPLIED < length <= IMPLIED


@pytest.mark.long
@settings(max_examples=EXAMPLES)
@given(strategies.policies())
def test_no_filter_is_longer(policy: Policy) -> None:
    if most_instructions(policy) > MAX_INSTRUCTIONS:
        reject()
    try:
        assert len(compile_policy(policy)) // 8 <= most_instructions(policy)
    except CompileError:
        assert not surely_fits(policy)


@pytest.mark.long
def test_a_policy_without_a_filter_does_not_surely_fit() -> None:
    values = ", ".join(str(place * place) for place in range(6000))
    policy = parse(f"lseek: offset in {{{values}}}\n").policy
    assert not surely_fits(policy)
    with pytest.raises(CompileError):
        compile_policy(policy)


@pytest.mark.parametrize(
    ("line", "bound"),
    [
        ("read: fd == 3", 29),
        ("lseek: offset == 7", 32),
        ("dup: fildes in {1, 3, 70, 900}", 41),
        ("openat: flags in O_CLOEXEC", 29),
        ("openat: !(flags in O_CLOEXEC|O_NONBLOCK)", 145),
        ("openat: !(flags in O_CLOEXEC) && mode == 0", 242),
        ("openat: flags & O_ACCMODE == O_RDONLY && mode has 0111", 32),
        ("openat: !(mode has 07)", 37),
        ("read: fd <= 2", 153),
    ],
)
def test_a_bound_is_no_higher_than_it_has_to_be(line: str, bound: int) -> None:
    policy = parse(f"arch x86_64\n{line}\n").policy
    assert len(compile_policy(policy)) // 8 <= most_instructions(policy) <= bound


def test_what_is_a_quarter_below_the_limit_surely_fits() -> None:
    policies = [parse(f"dup: fildes in {{{', '.join(map(str, range(count)))}}}\n").policy for count in (700, 760, 800)]
    assert [surely_fits(policy) for policy in policies] == [True, True, False]
