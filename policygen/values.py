"""Declare classes of immutable values, as `dataclasses` does with `frozen=True, slots=True`, in a sixth of the time.

Importing `dataclasses` and making the classes that a first `learn` needs took 12 of its 110 ms: it reads signatures with
`inspect` and compiles each method by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final, NoReturn, TypeVar, cast, dataclass_transform

from callfence.tracer.named import NamedTuple

T = TypeVar("T")
_REQUIRED: Final = object()
_UNCOMPARED: Final = object()


class _Field(NamedTuple):
    """A field's default, made anew for each value."""

    make: Callable[[], Any]
    init: bool
    """Whether the field is a parameter of `__init__`; if not, it is neither compared nor shown."""


def field(*, factory: Callable[[], T], init: bool = True) -> T:
    """Declare a field whose default is the result of `factory`.  Without `init`, the field is a cache: it is no parameter of
    `__init__`, and is ignored by comparison, `repr` and `replace`."""
    return cast("T", _Field(factory, init))


def uncompared() -> Any:
    """Declare a field without a default that `replace` copies, but that comparison and `repr` ignore."""
    return _UNCOMPARED


@dataclass_transform(frozen_default=True, field_specifiers=(field, uncompared))
def frozen(cls: type[T]) -> type[T]:
    """Class decorator: return a class of immutable values that has the annotated fields, `__init__`, `==`, `hash`, `repr` and
    matching by position.  `__post_init__`, if the class has it, is called at the end of `__init__` and may raise."""
    namespace = dict(vars(cls))
    names = tuple(namespace.get("__annotations__", ()))
    defaults = {name: namespace.pop(name, _REQUIRED) for name in names}
    compared = [name for name in names if defaults[name] is not _UNCOMPARED]
    defaults |= dict.fromkeys({*names} - {*compared}, _REQUIRED)
    given = [name for name in names if not (isinstance(default := defaults[name], _Field) and not default.init)]
    for name in ("__dict__", "__weakref__"):
        namespace.pop(name, None)
    scope = {f"_default_{name}": default for name, default in defaults.items() if default is not _REQUIRED}
    scope |= {"_set": object.__setattr__, "_REQUIRED": _REQUIRED}
    exec(_initialiser(names, given, defaults, has_check="__post_init__" in namespace), scope)
    for method in (scope["__init__"], *_by_fields([name for name in given if name in compared]), _reduce):
        namespace.setdefault(method.__name__, method)
    namespace |= {"__slots__": names, "__match_args__": tuple(given), "__setattr__": _refuse, "__delattr__": _refuse}
    new_class: type[T] = type(cls).__new__(type(cls), cls.__name__, cls.__bases__, namespace)
    return new_class


def replace(old: T, /, **changes: Any) -> T:
    """Return a copy of a value with some fields changed.  Raises TypeError if the value does not have one of these fields."""
    names = type(old).__match_args__  # type: ignore[attr-defined]
    return type(old)(**{name: getattr(old, name) for name in names} | changes)


def as_dict(value: object) -> dict[str, Any]:
    """Return the fields of a value: name -> field's value."""
    return {name: getattr(value, name) for name in type(value).__match_args__}  # type: ignore[attr-defined]


def _initialiser(names: tuple[str, ...], given: list[str], defaults: dict[str, Any], *, has_check: bool) -> str:
    parameters, lines = ["self"], []
    for name in names:
        default, source = defaults[name], name
        if isinstance(default, _Field):
            source = f"_default_{name}.make()" + (f" if {name} is _REQUIRED else {name}" if name in given else "")
        if name in given:
            rest = "" if default is _REQUIRED else "=_REQUIRED" if isinstance(default, _Field) else f"=_default_{name}"
            parameters.append(name + rest)
        lines.append(f"    _set(self, {name!r}, {source})")
    lines += ["    self.__post_init__()"] if has_check else ["    pass"]
    return "\n".join([f"def __init__({', '.join(parameters)}):", *lines])


def _by_fields(compared: list[str]) -> tuple[Callable[..., Any], ...]:
    """Return the methods `__eq__`, `__hash__` and `__repr__`, which use the fields that are compared and shown."""
    key: Callable[[object], object] = attrgetter(*compared) if compared else lambda _: ()

    def __eq__(self: object, other: object) -> bool:
        return key(self) == key(other) if other.__class__ is self.__class__ else NotImplemented

    def __hash__(self: object) -> int:
        return hash(key(self))

    def __repr__(self: object) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in compared)
        return f"{type(self).__qualname__}({fields})"

    return __eq__, __hash__, __repr__


def _reduce(self: object) -> tuple[Any, ...]:
    return type(self), tuple(as_dict(self).values())


_reduce.__name__ = "__reduce__"


def _refuse(self: object, name: str, *_: object) -> NoReturn:
    raise AttributeError(f"{type(self).__name__} is immutable: {name} cannot be set or deleted")
