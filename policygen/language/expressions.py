"""The grammar of expressions, loosest first:

    expression = all [ until ] { "||" all [ until ] }          `until` outside of parentheses only
    until      = "until" PHASE
    all        = unit { "&&" unit }
    unit       = "!" unit | "(" expression ")" | condition
    condition  = NAME ("==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "has") value
               | NAME "in" "{" value { "," value } "}"
               | NAME "&" value [ ("==" | "!=") value ]       also "(" NAME "&" value ")" ("==" | "!=") value
    value      = term { "|" term } | "(" value ")"
    term       = CONSTANT | INTEGER
"""

from __future__ import annotations

from collections.abc import Sequence

from callfence.policygen.errors import did_you_mean
from callfence.policygen.language.lexer import Cursor, Token
from callfence.policygen.language.operands import ORDERINGS, OperandError, Operands, parse_integer, pattern, trivial
from callfence.policygen.model import BITWISE, And, Condition, Expression, Not, Operator, Or, alternatives, conjuncts
from callfence.policygen.values import field, frozen
from callfence.tracer.named import NamedTuple

MAX_DEPTH = 64
"""The deepest nesting of `!` and parentheses: more than people can read, and far below Python's recursion limit."""

_COMPARISONS = {operator.value: operator for operator in (Operator.EQ, Operator.NE, Operator.HAS, *ORDERINGS)}


_EQUALITY = ("==", "!=")
_WHOLE = ~0
"""The field of a constant whose argument is an enumeration, not a set of bits: the constant is the whole argument."""


class _Term(NamedTuple):
    """One constant or number in a value."""

    token: Token
    bits: int
    field: int
    """The bits of the field of which the term is one value; 0 if the term's bits can be combined with others."""


class Span(NamedTuple):
    """The position of an alternative in the text, by which comments are attached to it."""

    start: int
    end: int
    expression: Expression


@frozen
class ExpressionParser:
    """Parses one expression over the arguments of one call, starting at the cursor."""

    cursor: Cursor
    operands: Operands
    spans: list[Span]
    """The places of the parts between `||`, in the order of the text; filled while parsing."""
    phases: Sequence[str] = ()
    """The phases of the policy, in order."""
    until: list[tuple[Expression, int]] = field(factory=list)
    """The alternatives, each with the index in `phases` of the phase that ends it, or the number of phases if none does; filled
    while parsing."""

    def expression(self, depth: int = 0) -> Expression:
        parts: list[Expression] = []
        while True:
            start = self.cursor.token.start
            part = self._all(depth)
            if depth == 0:
                self.end(part)
            elif self.cursor.token.text == "until":
                raise self.cursor.error("`until` ends a whole alternative", hint="write it after the parentheses")
            self.spans.append(Span(start, self.cursor.previous_end, part))
            parts.extend(alternatives(part))
            if not self.cursor.accept("||"):
                return Or.of(parts)

    def end(self, part: Expression) -> None:
        """Parse the `until NAME` of the alternative `part` if it has one, and add the alternative to `until`.  Raises
        PolicyError if there is no such phase."""
        cursor = self.cursor
        if not cursor.accept("until"):
            self.until.append((part, len(self.phases)))
            return
        token = cursor.token
        if token.kind != "word":
            raise cursor.expected("the name of a phase", "until NAME")
        if token.text not in self.phases:
            hint = did_you_mean(token.text, self.phases) or f"declare it above all entries: phase {token.text} after CALL"
            raise cursor.error(f"no phase is named {token.text}", token, hint, "name")
        cursor.take()
        self.until.append((part, self.phases.index(token.text)))

    def _all(self, depth: int) -> Expression:
        parts: list[Expression] = []
        while True:
            parts.extend(conjuncts(self._unit(depth)))
            if not self.cursor.accept("&&"):
                return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _unit(self, depth: int) -> Expression:
        cursor = self.cursor
        if depth > MAX_DEPTH:
            raise cursor.error(f"parentheses and `!` are nested deeper than {MAX_DEPTH}", kind="limit")
        if cursor.accept("!"):
            if cursor.token.text not in ("!", "("):
                raise cursor.expected("a parenthesis", "`!` takes parentheses: !(fd == 1)")
            return Not(self._unit(depth + 1) if cursor.token.text == "!" else self._group(depth))
        if cursor.token.text == "(":
            start = cursor.token
            inner = self._group(depth)
            is_compared = cursor.token.text in _EQUALITY and not cursor.has_read(_EQUALITY, start)
            if is_compared and isinstance(inner, Condition) and inner.operator is Operator.ANY:
                return self._masked(inner.index, inner.value, start)
            return inner
        return self._condition()

    def _group(self, depth: int) -> Expression:
        """Parse the parenthesised expression or masked comparison that begins here."""
        cursor = self.cursor
        opened = cursor.take()
        inner = self.expression(depth + 1)
        if cursor.accept(")"):
            return inner
        if cursor.at_line_end() or cursor.token.text == ":":
            raise cursor.error("this parenthesis is never closed", opened)
        raise cursor.expected("`)`, `&&` or `||`")

    def _condition(self) -> Expression:
        start = self.cursor.token
        index = self._argument()
        cursor = self.cursor
        operator = cursor.token
        if operator.text in _COMPARISONS:
            cursor.take()
            compared = _COMPARISONS[operator.text]
            return self._meaningful(Condition(index, compared, self._value(index, compared)), start)
        if cursor.accept("in"):
            if opened := cursor.accept("{"):
                return Condition(index, Operator.ONE_OF, values=self._set(index, opened))
            value = self._value(index, Operator.IN)
            if value == 0:  # no bit at all, which == says plainly
                return Condition(index, Operator.EQ, 0)
            return self._meaningful(Condition(index, Operator.IN, value), start)
        if cursor.accept("&"):
            mask = self._value(index, Operator.ANY)
            if cursor.token.text in _EQUALITY:
                return self._masked(index, mask, start)
            return self._meaningful(Condition(index, Operator.ANY, mask), start)
        raise cursor.expected("an operator", "one of == != < <= > >= in has &")

    def _argument(self) -> int:
        """Parse the name of an argument; return its index."""
        cursor, syscall = self.cursor, self.operands.syscall
        if cursor.token.kind != "word":
            hint = "the argument comes first: fd == 1" if cursor.token.kind == "number" else ""
            raise cursor.expected("an argument's name", hint or self._arguments())
        token = cursor.take()
        index = self.operands.index(token.text)
        if index is None:
            words = (*self.operands.constrainable(), "allow", "deny", "kill")
            hint = did_you_mean(token.text, words) or self._arguments()
            raise cursor.error(f"{syscall.name} has no argument {token.text}", token, hint, "name")
        if self.operands.is_pointer(index):
            raise cursor.error(
                f"{token.text} is a pointer and cannot be compared",
                token,
                "the kernel's filter sees the address, which differs in every run, and cannot read what is there",
                "value",
            )
        return index

    def _arguments(self) -> str:
        names, syscall = self.operands.constrainable(), self.operands.syscall.name
        if not names:
            return f"{syscall} has no argument that can be compared: write allow, deny or an action"
        return f"{syscall}'s arguments are {', '.join(names)}"

    def _masked(self, index: int, mask: int, start: Token) -> Expression:
        """Parse the rest of `x & mask == value`, from the `==` or `!=` on."""
        negated = self.cursor.take().text == "!="
        value = self._value(index, Operator.MASKED)
        if negated and value == 0:
            return self._meaningful(Condition(index, Operator.ANY, mask), start)
        condition = self._meaningful(Condition(index, Operator.MASKED, value, mask), start)
        return Not(condition) if negated else condition

    def _meaningful(self, condition: Condition, start: Token) -> Condition:
        """Return the condition.  Raises PolicyError if it holds for every value of the argument, or for none."""
        truth = trivial(self.operands.syscall.arguments[condition.index], condition)
        if truth is None:
            return condition
        message = f"this condition {'always' if truth else 'never'} holds"
        hint = "write `allow`, or leave it out" if truth else "write `deny`, or leave it out"
        raise self.cursor.source.error(message, start.start, self.cursor.previous_end, hint, "effect")

    def _set(self, index: int, opened: Token) -> tuple[int, ...]:
        cursor = self.cursor
        if cursor.token.text == "}":
            raise cursor.error("the set is empty, so this condition never holds", opened, "write `deny`", "effect")
        values = {self._value(index, Operator.ONE_OF)}
        while cursor.accept(","):
            values.add(self._value(index, Operator.ONE_OF))
        if not cursor.accept("}"):
            if cursor.at_line_end():
                raise cursor.error("this set is never closed", opened)
            raise cursor.expected("`,` or `}`")
        return tuple(sorted(values))

    def _value(self, index: int, operator: Operator) -> int:
        """Parse a value; return it as the C type reads it, or as an unsigned pattern for operators on bits."""
        cursor = self.cursor
        opened = cursor.accept("(")
        bits, fields = 0, dict[int, _Term]()
        while True:
            term = self._term(index, operator)
            if operator not in BITWISE:
                self._check_field(term, fields.setdefault(term.field, term))
            bits |= term.bits
            if not cursor.accept("|"):
                break
        if opened and not cursor.accept(")"):
            raise cursor.error("this parenthesis is never closed", opened)
        return bits if operator in BITWISE else self.operands.syscall.arguments[index].value(bits)

    def _check_field(self, term: _Term, first: _Term) -> None:
        """Raise PolicyError if the term and the first one are different values of one field."""
        if term.field and term.bits != first.bits:
            names = f"{first.token.text} and {term.token.text}"
            hint = f"write `in {{{first.token.text}, {term.token.text}}}` for either of them"
            message = f"{names} cannot be joined by `|`: they are two values, not bits"
            raise self.cursor.error(message, term.token, hint, "value")

    def _term(self, index: int, operator: Operator) -> _Term:
        cursor = self.cursor
        token = cursor.token
        argument = self.operands.syscall.arguments[index]
        if token.kind not in ("word", "number"):
            raise cursor.expected("a constant or a number")
        cursor.take()
        try:
            if token.kind == "number":
                number, decimal = parse_integer(token.text)
                return _Term(token, pattern(argument, number, operator, decimal=decimal), 0)
            value, field = self.operands.constant(index, token.text)
            bits = pattern(argument, value, operator, decimal=False)
        except OperandError as error:
            raise cursor.error(error.message, token, error.hint, error.kind) from None
        if operator in BITWISE and field == _WHOLE and bits:
            hint = f"write {argument.name} == {token.text}, or {argument.name} in {{{token.text}, ...}}"
            raise cursor.error(f"{token.text} is one value, not bits", token, hint, "value")
        return _Term(token, bits, field)
