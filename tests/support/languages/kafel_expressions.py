"""Kafel's expressions, as sets of arguments (src/parser.y bool_expr, src/codegen.c generate_expr)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from policygen.filter import bpf
from policygen.formats import ImportFormatError
from policygen.sets.algebra import constant
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kafel_tokens import Tokens

    from policygen.sets.algebra import Space

MAX_DEPTH: Final = 200  # MAX_EXPRESSION_DEPTH (src/expression.h)


class Operand(NamedTuple):
    word: tuple[int, ...]
    """64 bits."""
    wide: bool
    """Whether a comparison uses all of them, or only the lower half."""


class Expressions:
    """Reads the expressions over one call's arguments."""

    def __init__(
        self, tokens: Tokens, space: Space, constants: Mapping[str, int], arguments: Mapping[str, Operand]
    ) -> None:
        self.tokens, self.space = tokens, space
        self.constants, self.arguments = constants, arguments
        self.depth = 0

    def alternatives(self) -> int:
        """Read expressions with commas between them, and return the set where any of them holds."""
        result = self._either()
        while self.tokens.take(","):
            result = self.space.or_(result, self._either())
        return result

    def _either(self) -> int:
        result = self._both()
        while self.tokens.take("||"):
            result = self.space.or_(result, self._both())
        return result

    def _both(self) -> int:
        result = self._condition()
        while self.tokens.take("&&"):
            result = self.space.and_(result, self._condition())
        return result

    def _condition(self) -> int:
        tokens = self.tokens
        self._deeper()
        before, depth = tokens.at, self.depth
        if tokens.take("!"):
            result = self.space.invert(self._condition())
        else:
            try:
                result = self._comparison()
            except ImportFormatError:  # the parenthesis that it begins with is around a condition
                if tokens.at == before or not self._at(before, "("):
                    raise
                self.depth = depth
                result = self.alternatives()
                tokens.need(")")
        self.depth = depth - 1
        return result

    def _at(self, place: int, text: str) -> bool:
        """Whether the token at that place has that text; if so, continue after it."""
        self.tokens.at = place
        return self.tokens.take(text)

    def _deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.tokens.fail(f"an expression is nested more than {MAX_DEPTH} deep")

    def _comparison(self) -> int:
        tokens = self.tokens
        left = self._bits()
        operator = tokens.step().text
        if operator not in ("==", "!=", "<", "<=", ">", ">="):
            tokens.fail("a comparison has one of == != < <= > >=", back=1)
        right = self._bits()
        a, b = (one.word if left.wide or right.wide else one.word[32:] for one in (left, right))
        space = self.space
        if operator in ("==", "!="):
            holds = space.equal(a, b)
        else:
            holds = space.greater(a, b) if operator in (">", "<=") else space.greater(b, a)
        return space.invert(holds) if operator in ("!=", "<=", ">=") else holds

    def _bits(self) -> Operand:
        result = self._masked()
        while self.tokens.take("|"):
            other = self._masked()
            word = tuple(self.space.or_(a, b) for a, b in zip(result.word, other.word, strict=True))
            result = Operand(word, result.wide or other.wide)
        return result

    def _masked(self) -> Operand:
        result = self._operand()
        while self.tokens.take("&"):
            other = self._operand()
            word = tuple(self.space.and_(a, b) for a, b in zip(result.word, other.word, strict=True))
            result = Operand(word, result.wide or other.wide)
        return result

    def _operand(self) -> Operand:
        tokens = self.tokens
        if tokens.take("("):
            self._deeper()
            result = self._bits()
            self.depth -= 1
            tokens.need(")")
            return result
        if tokens.next().kind == "number":
            return self._literal(tokens.number())
        name = tokens.identifier("an argument or a number")
        if name in self.constants:
            return self._literal(self.constants[name])
        if name not in self.arguments:
            known = f"it has {', '.join(self.arguments)}" if self.arguments else "it has none, unless they are declared"
            tokens.fail(f"the call has no argument {name}: {known}", back=1)
        return self.arguments[name]

    def _literal(self, number: int) -> Operand:
        return Operand(constant(number, 64), number > bpf.WORD)
