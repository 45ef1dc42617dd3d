"""Values are like those of dataclasses with `frozen=True, slots=True`."""

from __future__ import annotations

import pickle

import pytest

from callfence.policygen.values import as_dict, field, frozen, replace, uncompared


@frozen
class Point:
    """A point."""

    x: int
    y: int = 2
    names: list[str] = field(factory=list)
    notes: dict[str, int] = field(factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError(self.x)

    @property
    def sum(self) -> int:
        return self.x + self.y


@frozen
class Other:
    x: int
    y: int = 2


@frozen
class Nothing:
    pass


def test_what_a_value_is() -> None:
    one = Point(1)
    assert (one.x, one.y, one.names, one.notes, one.sum, Point.__doc__) == (1, 2, [], {}, 3, "A point.")
    assert one == Point(1, names=[]) and one != Point(1, 3) and Other(1) != Point(1) and Nothing() == Nothing()
    assert Point(1).names is not Point(1).names
    assert repr(one) == "Point(x=1, y=2, names=[])"
    assert hash(Other(1)) == hash(Other(1, 2)) != hash(Other(2))
    assert pickle.loads(pickle.dumps(Other(4, 5))) == Other(4, 5)
    assert as_dict(Other(4)) == {"x": 4, "y": 2}
    match one:
        case Point(x, y):
            assert (x, y) == (1, 2)


def test_notes_take_no_part() -> None:
    one = Point(1)
    one.notes["a"] = 1
    assert one == Point(1) and replace(one, x=3).notes == {}
    with pytest.raises(TypeError, match="notes"):
        Point(1, notes={})  # type: ignore[call-arg]


@frozen
class Found:
    x: int
    where: int = uncompared()
    y: int = 2


def test_an_uncompared_field_is_given_and_copied() -> None:
    one = Found(1, 7)
    assert one == Found(1, 8) != Found(2, 7) and hash(one) == hash(Found(1, 8)) and repr(one) == "Found(x=1, y=2)"
    assert replace(one, x=3).where == 7 and pickle.loads(pickle.dumps(one)).where == 7
    with pytest.raises(TypeError, match="where"):
        Found(1)  # type: ignore[call-arg]


def test_a_value_does_not_change() -> None:
    one = Point(1)
    for name in ("x", "z"):
        with pytest.raises(AttributeError, match=f"{name} cannot be set"):
            setattr(one, name, 5)
    with pytest.raises(AttributeError):
        del one.x  # type: ignore[misc]
    assert replace(one, x=5, names=["a"]) == Point(5, 2, ["a"])


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="-1"):
        replace(Point(1), x=-1)
    with pytest.raises(TypeError, match="'z'"):
        replace(Point(1), z=1)
    with pytest.raises(TypeError, match="'x'"):
        Point()  # type: ignore[call-arg]
