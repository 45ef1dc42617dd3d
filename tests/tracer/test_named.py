"""Named tuples are those of `typing`."""

from __future__ import annotations

import pytest

from callfence.tracer.named import NamedTuple


class Point(NamedTuple):
    """A place."""

    x: int
    y: int = 2

    @property
    def both(self) -> tuple[int, int]:
        return (self.x, self.y)


def test_it_is_a_tuple_of_its_annotated_fields() -> None:
    point = Point(1)
    assert point == (1, 2) == Point(y=2, x=1).both
    assert Point._fields == Point.__match_args__ == ("x", "y")
    assert point._replace(x=3) == (3, 2)
    assert repr(point) == "Point(x=1, y=2)"
    with pytest.raises(AttributeError):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        Point()  # type: ignore[call-arg]


def test_it_says_where_it_is_from() -> None:
    assert (Point.__module__, Point.__qualname__, Point.__doc__) == (__name__, "Point", "A place.")
