"""The set algebra, against all points of small spaces and against the reference semantics."""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import strategies
from calls import at, point_of
from hypothesis import HealthCheck, given, settings, strategies as st

from callfence.policygen.evaluate import evaluate
from callfence.policygen.filter import bpf
from callfence.policygen.filter.symbolic import decisions
from callfence.policygen.holds import holds
from callfence.policygen.implied.resolve import resolved
from callfence.policygen.model import KILL, Condition, Operator
from callfence.policygen.sets import region
from callfence.policygen.sets.algebra import FALSE, TRUE, Space, TooComplexError, constant
from callfence.tracer.abi import Arch, table

BITS = 6
POINTS = range(1 << BITS)

slow = settings(
    max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def members(space: Space, region: int) -> set[int]:
    return {point for point in range(1 << space.bits) if at(space, region, point) == TRUE}


def from_members(space: Space, points: set[int]) -> int:
    word = tuple(space.variable(number) for number in range(space.bits))
    result = FALSE
    for point in sorted(points):
        result = space.or_(space.equal(word, constant(point, space.bits)), result)
    return result


some = st.sampled_from(POINTS)
sets = st.sets(some)


@given(sets, sets, sets)
def test_operations_are_those_of_sets(a: set[int], b: set[int], c: set[int]) -> None:
    space = Space(BITS)
    x, y, z = (from_members(space, points) for points in (a, b, c))
    assert members(space, x) == a
    assert members(space, space.and_(x, y)) == a & b
    assert members(space, space.or_(x, y)) == a | b
    assert members(space, space.xor(x, y)) == a ^ b
    assert members(space, space.invert(x)) == set(POINTS) - a
    assert members(space, space.ite(x, y, z)) == a & b | c - a
    assert (x == y) == (a == b)
    assert space.share(x) == len(a) / len(POINTS)


@given(sets, sets, sets)
def test_variables_are_replaced_at_once(points: set[int], a: set[int], b: set[int]) -> None:
    space = Space(BITS)
    replaced = space.substituted(from_members(space, points), {0: from_members(space, a), 4: from_members(space, b)})
    moved = {point: point & ~0b100010 | (point in a) << 5 | (point in b) << 1 for point in POINTS}
    assert members(space, replaced) == {point for point in POINTS if moved[point] in points}


@given(sets, sets)
def test_a_difference_is_found_if_there_is_one(a: set[int], b: set[int]) -> None:
    space = Space(BITS)
    point = space.difference(from_members(space, a), from_members(space, b))
    assert (point is None) == (a == b)
    assert point is None or point in a ^ b


def test_leaves_are_values() -> None:
    space = Space(BITS)
    function = space.ite(space.variable(0), space.terminal("high"), space.terminal("low"))
    assert space.value(at(space, function, 0b100000)) == "high"
    assert space.value(at(space, function, 0b011111)) == "low"
    assert space.terminal("low") == space.terminal("low") != space.terminal("high")
    # a leaf is never taken for a set
    assert len({space.terminal(0), space.terminal(1), FALSE, TRUE}) == 4


@pytest.mark.parametrize(
    ("compare", "expected"), [(Space.equal, operator.eq), (Space.greater, operator.gt)], ids=["equal", "greater"]
)
def test_comparisons_of_words(
    compare: Callable[[Space, tuple[int, ...], tuple[int, ...]], int], expected: Callable[[int, int], bool]
) -> None:
    space = Space(BITS)
    half = BITS // 2
    a = tuple(space.variable(number) for number in range(half))
    b = tuple(space.variable(number) for number in range(half, BITS))
    both = {(high << half) + low for high in range(8) for low in range(8) if expected(high, low)}
    assert members(space, compare(space, a, b)) == both
    for value in range(8):
        assert members(space, compare(space, a, constant(value, half))) == {
            point for point in POINTS if expected(point >> half, value)
        }
        assert members(space, compare(space, constant(value, half), a)) == {
            point for point in POINTS if expected(value, point >> half)
        }


@given(sets)
def test_cubes_are_the_set_and_none_is_superfluous(points: set[int]) -> None:
    space = Space(BITS)
    cubes = space.cubes(from_members(space, points))
    assert cubes is not None
    covered = [{point for point in POINTS if point & care == value} for care, value in cubes]
    assert set().union(*covered) == points
    for place in range(len(covered)):
        assert set().union(*covered[:place], *covered[place + 1 :]) != points


@pytest.mark.parametrize(
    ("value", "count"),
    [(0, 0), (1, 1), (0x1000, 1), (0x1001, 2), (10_000, 5), (0xFFFFFFFF, 32), (1 << 63, 1)],
)
def test_an_ordering_is_a_few_masked_comparisons(value: int, count: int) -> None:
    """`argument < value` over 64 bits takes one for each bit that is set in the value."""
    space = region.space()
    below = space.greater(constant(value, 64), region.argument_word(space, 2))
    alternatives = region.alternatives(space, below, 64)
    assert alternatives is not None
    assert len(alternatives) == count
    assert all([index for index, _, _ in alternative] == [2] for alternative in alternatives)


def test_too_many_cubes_are_refused() -> None:
    space = region.space()
    zero = [space.equal(region.argument_word(space, index), constant(0, 64)) for index in range(3)]
    some_zero = space.or_(zero[0], space.or_(zero[1], zero[2]))
    assert space.cubes(space.invert(some_zero)) is None  # 64 * 64 * 64
    assert len(space.cubes(some_zero, 3) or ()) == 3
    assert space.cubes(some_zero, 2) is None


def test_too_many_steps_are_refused() -> None:
    space = Space(region.BITS, effort=100)
    with pytest.raises(TooComplexError, match="more than 100 steps"):
        space.greater(space.word(0, 64), space.word(64, 64))
    assert 100 <= len(space._ites) < 110


@pytest.mark.parametrize(
    ("operator", "number", "fits"),
    [
        (Operator.EQ, -(1 << 31), True),
        (Operator.EQ, -(1 << 31) - 1, False),
        (Operator.LE, (1 << 32) - 1, True),
        (Operator.GT, 1 << 32, False),
    ],
)
def test_a_number_that_an_argument_cannot_have_is_refused(operator: Operator, number: int, fits: bool) -> None:
    arguments = table(Arch.X86_64).by_name["dup"].arguments
    listed = Condition(0, Operator.ONE_OF, values=tuple(sorted((0, number))))
    for condition in (Condition(0, operator, number), listed):
        with nullcontext() if fits else pytest.raises(ValueError, match=f"{number} does not fit the 32 bits of fildes"):
            region.to_bdd(region.space(), condition, arguments)


def test_an_empty_set_has_no_example() -> None:
    with pytest.raises(ValueError, match="empty"):
        region.example(region.space(), FALSE, Arch.X86_64, 0)


def test_too_many_nodes_are_refused() -> None:
    small = Space(BITS, limit=2 + 3)  # TRUE, FALSE and three variables
    assert [small.variable(number) for number in (0, 1, 2, 0)] == [2, 3, 4, 2]
    with pytest.raises(TooComplexError, match="more than 5 decision nodes"):
        small.variable(3)
    space = Space(region.BITS, limit=10_000)
    words = [region.argument_word(space, index)[32:] for index in range(2)]
    with pytest.raises(TooComplexError):
        # each bit decides about one of the other word, far away in the order of the variables
        result = FALSE
        for a, b in zip(*words, strict=True):
            result = space.or_(space.and_(a, b), result)


@slow
@given(st.data())
def test_an_expression_is_the_set_where_it_holds(data: st.DataObject) -> None:
    policy = data.draw(strategies.policies(max_entries=1).filter(lambda policy: any(policy.entries.values())))
    space = region.space()
    event = data.draw(strategies.events(policy))
    for arch, entries in policy.entries.items():
        for number, entry in entries.items():
            arguments = table(arch).by_number[number].arguments
            expected = holds(entry.expression, arguments, event.arguments)
            assert at(space, region.to_bdd(space, entry.expression, arguments), point_of(event)) == expected


@pytest.mark.long
@slow
@given(st.data())
def test_a_policy_is_the_function_that_evaluates_it(data: st.DataObject) -> None:
    policy = data.draw(strategies.policies())
    space = region.space()
    function = decisions(space, resolved(policy), KILL)
    for _ in range(5):
        event = data.draw(strategies.events(policy))
        ret = space.value(at(space, function, point_of(event)))
        assert ret == bpf.ret(evaluate(policy, event)), event


def test_the_words_of_the_data_are_where_they_belong() -> None:
    """Each word of struct seccomp_data, as `bpf.words` reads it from an event and as the space holds it."""
    space = region.space()
    for place, word in enumerate(region.data_words(space)):
        point = space.difference(space.equal(word, constant(0xDEADBEEF, 32)), FALSE)
        assert point is not None
        expected = [0] * 16
        expected[place] = 0xDEADBEEF
        assert list(bpf.words(region.event(point))) == expected


def test_a_call_has_six_argument_words() -> None:
    assert region.event((1 << 512) - 1) == region.Event(0xFFFFFFFF, 0xFFFFFFFF, ((1 << 64) - 1,) * 6, (1 << 64) - 1)
    assert Arch.from_audit(region.event(Arch.I386.audit << 480).arch) is Arch.I386


@given(st.lists(st.sampled_from("abc"), min_size=1 << BITS, max_size=1 << BITS), some, some)
def test_fixed_variables_and_leaves_of_functions(letters: list[str], cared: int, values: int) -> None:
    space = Space(BITS)
    leaves = {letter: space.terminal(letter) for letter in "abc"}
    function = leaves["a"]
    for letter in "bc":
        where = from_members(space, {point for point in POINTS if letters[point] == letter})
        function = space.ite(where, leaves[letter], function)
    assert space.values(function) == set(letters)
    for letter, leaf in leaves.items():
        assert members(space, space.where(function, leaf)) == {point for point in POINTS if letters[point] == letter}
    matters = {bit for bit in range(BITS) if any(letters[point] != letters[point ^ 1 << bit] for point in POINTS)}
    assert space.support(function) == sum(1 << bit for bit in matters)
    fixed = space.fixed(function, (cared, values))
    assert [space.value(at(space, fixed, point)) for point in POINTS] == [
        letters[point & ~cared | values & cared] for point in POINTS
    ]


@given(sets, st.integers(0, BITS))
def test_a_function_is_split_by_its_first_variables(points: set[int], variable: int) -> None:
    space = Space(BITS)
    split = space.split(from_members(space, points), variable)
    low = (1 << BITS - variable) - 1
    expected: dict[frozenset[int], set[int]] = {}
    for point in POINTS:
        rest = frozenset(member & low for member in points if (member ^ point) & ~low == 0)
        expected.setdefault(rest, set()).add(point)
    found = {frozenset(member & low for member in members(space, rest)): members(space, where) for rest, where in split.items()}
    assert found == expected
    assert len(split) == len(expected)


@given(sets, some)
def test_always_holds_for_all_values_of_the_variables(points: set[int], variables: int) -> None:
    space = Space(BITS)
    always = space.always(from_members(space, points), variables)
    others = [submask for submask in POINTS if submask & ~variables == 0]
    expected = {point for point in POINTS if all(point & ~variables | submask in points for submask in others)}
    assert members(space, always) == expected


def test_a_budget_goes_on_in_a_space_with_what_is_left() -> None:
    budget = region.Budget(total=5_000, each=1_500)
    first = budget.space()
    first.greater(first.word(0, 7), first.word(7, 7))
    before = first.work
    second = budget.space()
    assert second.limit == 1_500
    second.word(0, 32)
    budget.resume(first)
    assert budget.work == before + second.work and 1_500 <= first.limit <= before + 1_500
    first.greater(first.word(20, 7), first.word(27, 7))
    budget.resume(first)
    assert budget.work == first.work + second.work > before + second.work
    with pytest.raises(TooComplexError):
        for place in range(40, 500, 14):
            budget.resume(first)
            first.greater(first.word(place, 7), first.word(place + 7, 7))
    assert budget.work <= 5_000 + 2 * 1_500


def test_a_budget_has_what_is_left_for_a_space() -> None:
    budget = region.Budget(total=1_000, each=800)
    first = budget.space()
    first.word(0, 400)
    assert budget.work == first.work == 402 and budget.space().limit == 1_000 - 402
