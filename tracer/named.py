"""Named tuples with the syntax of `typing.NamedTuple`, which takes 25 us more for each class, since it compiles annotations.

`learn` loads 45 of them, so this saves 1.1 ms of its start.
"""

from __future__ import annotations

from collections import namedtuple

from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:

    class _Declared(type):
        def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, object]) -> type:
            if not bases:
                return super().__new__(cls, name, bases, namespace)
            fields = namespace.get("__annotations__", {})
            defaults = [namespace.pop(field) for field in fields if field in namespace]
            result = namedtuple(name, fields, defaults=defaults)
            for attribute, value in namespace.items():
                setattr(result, attribute, value)
            return result

    class NamedTuple(metaclass=_Declared):
        """Subclasses are named tuples of their annotated fields."""
