"""Every exception is exactly one of the three kinds of error."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import callfence.policygen
from callfence.tracer.errors import InternalError, KernelError, UserError


def exceptions() -> dict[str, type[Exception]]:
    """The public exceptions that files of policygen define, by their full names."""
    root = Path(callfence.policygen.__file__).parent
    found = {}
    for path in sorted(root.rglob("*.py")):
        module = import_module(".".join(path.relative_to(root.parent).with_suffix("").parts))
        for name, value in vars(module).items():
            if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == module.__name__:
                found[f"{module.__name__}.{name}"] = value
    return {name: value for name, value in found.items() if not name.rpartition(".")[2].startswith("_")}


def test_every_exception_is_of_one_kind() -> None:
    found = exceptions()
    assert len(found) > 10
    for name, exception in found.items():
        assert sum(issubclass(exception, kind) for kind in (UserError, KernelError, InternalError)) == 1, name
