"""Exact algebra over functions of many bits, by shared decision diagrams.

A *function* maps the values of up to `Space.bits` one-bit variables to a terminal; a *set* is a function whose terminals are
`TRUE` and `FALSE`.  Functions are kept reduced and shared (Bryant, "Graph-Based Algorithms for Boolean Function
Manipulation", 1986), so two functions are equal exactly if they are the same integer.  A word is a sequence of sets,
one for each of its bits, most significant first; a constant word is made of `TRUE` and `FALSE`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import reduce

from callfence.tracer.errors import UserError

FALSE, TRUE = 0, 1

MAX_CUBES = 4096
"""The most cubes of a set: a filter has no room for more (linux/bpf_common.h BPF_MAXINSNS)."""

Cube = tuple[int, int]
"""(care, value): the assignments that agree with `value` on the bits set in `care`.  Variable 0 is the highest bit."""


class TooComplexError(UserError):
    """Computing a function would take more than `Space.limit` nodes or `Space.effort` steps, or writing a set takes more cubes
    than permitted."""


class Space:
    """The functions of `bits` variables, as nodes that the space holds and shares.  Methods have no visible side effects."""

    def __init__(self, bits: int, limit: int = 1_000_000, effort: int = 8_000_000) -> None:
        self.bits = bits
        self.limit = limit
        self.effort = effort
        self._variable = [bits, bits]  # terminals come after every variable
        self._low = [FALSE, TRUE]
        self._high = [FALSE, TRUE]
        self._values: dict[int, Hashable] = {}
        self._terminals: dict[Hashable, int] = {}
        self._nodes: dict[tuple[int, int, int], int] = {}
        self._ites: dict[tuple[int, int, int], int] = {}
        self._words: dict[tuple[int, int], tuple[int, ...]] = {}

    @property
    def work(self) -> int:
        """The work so far: the number of nodes plus the number of steps, each of about a microsecond."""
        return len(self._low) + len(self._ites)

    def allow(self, more: int) -> None:
        """Set `limit` and `effort` so that another `more` nodes and another `more` steps are possible."""
        self.limit, self.effort = len(self._low) + more, len(self._ites) + more

    def terminal(self, value: Hashable) -> int:
        """Return the constant function whose value is `value` for every assignment."""
        terminal = self._terminals.get(value)
        if terminal is None:
            terminal = self._terminals[value] = self._add(self.bits, len(self._low), len(self._low))
            self._values[terminal] = value
        return terminal

    def value(self, terminal: int) -> Hashable:
        """Return the value of a terminal made by `terminal`.  Raises KeyError for other functions, also TRUE and FALSE."""
        return self._values[terminal]

    def variable(self, number: int) -> int:
        """Return the set of the assignments in which the variable `number` is 1."""
        return self._node(number, FALSE, TRUE)

    def word(self, first: int, count: int) -> tuple[int, ...]:
        """Return the word that consists of `count` variables, from the variable `first` on."""
        word = self._words.get((first, count))
        if word is None:
            word = self._words[first, count] = tuple(map(self.variable, range(first, first + count)))
        return word

    def ite(self, condition: int, then: int, otherwise: int) -> int:
        """Return the function that is `then` inside the set `condition` and `otherwise` outside."""
        if condition == TRUE or then == otherwise:
            return then
        if condition == FALSE:
            return otherwise
        if then == TRUE and otherwise == FALSE:
            return condition
        key = (condition, then, otherwise)
        result = self._ites.get(key)
        if result is not None:
            return result
        if len(self._ites) >= self.effort:
            raise TooComplexError(f"more than {self.effort} steps")
        variable, low, high = self._variable, self._low, self._high
        a, b, c = variable[condition], variable[then], variable[otherwise]
        top = a if a < b else b
        if c < top:
            top = c
        condition0, condition1 = (low[condition], high[condition]) if a == top else (condition, condition)
        then0, then1 = (low[then], high[then]) if b == top else (then, then)
        otherwise0, otherwise1 = (low[otherwise], high[otherwise]) if c == top else (otherwise, otherwise)
        result = self._ites[key] = self._node(
            top, self.ite(condition0, then0, otherwise0), self.ite(condition1, then1, otherwise1)
        )
        return result

    def invert(self, a: int) -> int:
        return self.ite(a, FALSE, TRUE)

    def and_(self, a: int, b: int) -> int:
        return self.ite(a, b, FALSE)

    def or_(self, a: int, b: int) -> int:
        return self.ite(a, TRUE, b)

    def union(self, regions: Iterable[int]) -> int:
        return reduce(self.or_, regions, FALSE)

    def xor(self, a: int, b: int) -> int:
        return self.ite(a, self.invert(b), b)

    def equal(self, a: Sequence[int], b: Sequence[int]) -> int:
        """Return the set in which two words of the same length are equal."""
        variable, low, high = self._variable, self._low, self._high
        result = TRUE
        for x, y in zip(reversed(a), reversed(b), strict=True):
            if x == y:
                continue
            if y in (FALSE, TRUE) and low[x] == FALSE and high[x] == TRUE and variable[x] < variable[result]:
                # a variable above all of the result, compared with a constant bit: its node is known
                result = self._node(variable[x], *((FALSE, result) if y == TRUE else (result, FALSE)))
                continue
            same = x if y == TRUE else self.invert(x if y == FALSE else self.xor(x, y))
            result = self.ite(same, result, FALSE)
        return result

    def pattern(self, first: int, mask: int, value: int, width: int) -> int:
        """Return the set in which the word of `width` variables from `first` on equals `value` in the bits of `mask`."""
        result = TRUE
        for place in range(width):  # the lowest bit is the last variable
            if mask >> place & 1:
                low, high = (FALSE, result) if value >> place & 1 else (result, FALSE)
                result = self._node(first + width - 1 - place, low, high)
        return result

    def greater(self, a: Sequence[int], b: Sequence[int]) -> int:
        """Return the set in which the word `a` is greater than `b`; both are unsigned and have the same length."""
        result = FALSE
        for x, y in zip(reversed(a), reversed(b), strict=True):
            result = self.ite(self.xor(x, y), x, result)
        return result

    def difference(self, a: int, b: int) -> int | None:
        """Return an assignment for which the two functions differ; None if they are equal.  An assignment is an integer of
        `bits` bits, the first variable being the highest bit.  The result has few 1 bits (not always the fewest)."""
        assignment = 0
        while a != b:
            variable = min(self._variable[a], self._variable[b])
            if variable == self.bits:
                return assignment
            low_a, high_a = self.branches(a, variable)
            low_b, high_b = self.branches(b, variable)
            if low_a != low_b:
                a, b = low_a, low_b
            else:
                a, b = high_a, high_b
                assignment |= 1 << (self.bits - 1 - variable)
        return None

    def values(self, function: int) -> set[Hashable]:
        """Return all values that a function takes whose terminals were made by `terminal`, so that it is no set."""
        return {self._values[node] for node in self._below(function) if self._variable[node] == self.bits}

    def support(self, function: int) -> int:
        """Return the variables that the function depends on, as the 1 bits of an integer, the first one highest."""
        variables = {self._variable[node] for node in self._below(function)} - {self.bits}
        return sum(1 << (self.bits - 1 - variable) for variable in variables)

    def share(self, region: int) -> float:
        """Return which share of all assignments a set has, from 0 to 1."""
        shares = {FALSE: 0.0, TRUE: 1.0}
        for node in sorted(self._below(region) - shares.keys(), key=self._variable.__getitem__, reverse=True):
            shares[node] = (shares[self._low[node]] + shares[self._high[node]]) / 2
        return shares[region]

    def where(self, function: int, terminal: int) -> int:
        """Return the set in which the function has the terminal `terminal`."""
        return self._rebuilt(function, self._node, lambda node: TRUE if node == terminal else FALSE)

    def split(self, function: int, variable: int) -> dict[int, int]:
        """Return the functions that `function` becomes when all variables before `variable` have values; and for each of them
        the set of those values."""

        def where(rest: int) -> int:
            return self._rebuilt(function, self._node, lambda node: TRUE if node == rest else FALSE, variable)

        return {rest: where(rest) for rest in sorted(self._below(function, variable)) if self._variable[rest] >= variable}

    def fixed(self, function: int, cube: Cube) -> int:
        """Return the function with the variables of a cube replaced by the cube's values."""
        care, value = cube
        results: dict[int, int] = {}

        def walk(node: int) -> int:
            variable = self._variable[node]
            if variable == self.bits:
                return node
            if node not in results:
                bit = 1 << (self.bits - 1 - variable)
                if care & bit:
                    results[node] = walk(self._high[node] if value & bit else self._low[node])
                else:
                    results[node] = self._node(variable, walk(self._low[node]), walk(self._high[node]))
            return results[node]

        return walk(function)

    def substituted(self, function: int, sets: Mapping[int, int]) -> int:
        """Return the function with variables, given by number, replaced by sets; all replacements are made at once."""

        def join(variable: int, low: int, high: int) -> int:
            return self.ite(sets[variable] if variable in sets else self.variable(variable), high, low)

        return self._rebuilt(function, join)

    def always(self, region: int, variables: int) -> int:
        """Return the assignments that stay in `region` whatever the values of `variables`, 1 bits as in `support`."""

        def join(variable: int, low: int, high: int) -> int:
            free = variables >> (self.bits - 1 - variable) & 1
            return self.and_(low, high) if free else self._node(variable, low, high)

        return self._rebuilt(region, join)

    def _rebuilt(
        self,
        function: int,
        join: Callable[[int, int, int], int],
        leaf: Callable[[int], int] = lambda node: node,
        end: int | None = None,
    ) -> int:
        """Return what `join` makes of the function from below: of the variable of each node, and of the results for its two
        branches; `leaf` gives the result for a terminal, or for a node of a variable from `end` on."""
        results: dict[int, int] = {}
        last = self.bits if end is None else end

        def walk(node: int) -> int:
            variable = self._variable[node]
            if variable >= last:
                return leaf(node)
            if node not in results:
                results[node] = join(variable, walk(self._low[node]), walk(self._high[node]))
            return results[node]

        return walk(function)

    def _below(self, function: int, end: int | None = None) -> set[int]:
        """Return all nodes of the function, but for those below a node of a variable from `end` on."""
        reachable, ahead = set(), [function]
        last = self.bits if end is None else end
        while ahead:
            node = ahead.pop()
            if node not in reachable:
                reachable.add(node)
                if self._variable[node] < last:
                    ahead += [self._low[node], self._high[node]]
        return reachable

    def cubes(self, region: int, limit: int = MAX_CUBES) -> tuple[Cube, ...] | None:
        """Return few cubes whose union is the set `region`, none of them redundant (Minato, "Fast Generation of Irredundant
        Sum-of-Products Forms from Binary Decision Diagrams", 1992).  None if there would be more than `limit`, or if finding
        them takes too much work."""
        effort = len(self._ites) + 512 * limit
        covers: dict[tuple[int, int], tuple[tuple[Cube, ...], int]] = {}

        def cover(least: int, most: int) -> tuple[tuple[Cube, ...], int]:
            """Return cubes whose union lies between the two sets, and that union."""
            if least == FALSE:
                return (), FALSE
            if most == TRUE:
                return ((0, 0),), TRUE
            result = covers.get((least, most))
            if result is not None:
                return result
            variable = min(self._variable[least], self._variable[most])
            least0, least1 = self.branches(least, variable)
            most0, most1 = self.branches(most, variable)
            cubes0, union0 = cover(self.ite(most1, FALSE, least0), most0)
            cubes1, union1 = cover(self.ite(most0, FALSE, least1), most1)
            rest = self.or_(self.ite(union0, FALSE, least0), self.ite(union1, FALSE, least1))
            cubes, union = cover(rest, self.and_(most0, most1))
            bit = 1 << (self.bits - 1 - variable)
            cubes = (
                *cubes,
                *((care | bit, value) for care, value in cubes0),
                *((care | bit, value | bit) for care, value in cubes1),
            )
            if len(cubes) > limit or len(self._ites) > effort:
                raise TooComplexError(f"more than {limit} cubes")
            result = covers[least, most] = cubes, self.or_(self._node(variable, union0, union1), union)
            return result

        try:
            return cover(region, region)[0]
        except TooComplexError:
            return None

    def branches(self, function: int, variable: int) -> tuple[int, int]:
        """Return `function` where the variable is 0, and where it is 1; it must not depend on variables before this one."""
        if self._variable[function] == variable:
            return self._low[function], self._high[function]
        return function, function

    def _node(self, variable: int, low: int, high: int) -> int:
        if low == high:
            return low
        key = (variable, low, high)
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = self._add(variable, low, high)
        return node

    def _add(self, variable: int, low: int, high: int) -> int:
        if len(self._low) >= self.limit:
            raise TooComplexError(f"more than {self.limit} decision nodes")
        self._variable.append(variable)
        self._low.append(low)
        self._high.append(high)
        return len(self._low) - 1


def constant(value: int, bits: int) -> tuple[int, ...]:
    """Return the constant word of `bits` bits with the number `value`."""
    return tuple(value >> bit & 1 for bit in range(bits - 1, -1, -1))
