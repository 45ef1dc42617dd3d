"""Reading the tables that lie beside the modules that use them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec


def table_text(spec: ModuleSpec | None, name: str) -> str:
    """The text of a file beside the module with that `__spec__`, from where the module came: a file, or memory, in the
    helper of `enforce`.  Raises OSError."""
    assert spec is not None and spec.origin is not None and spec.loader is not None
    content: bytes = spec.loader.get_data(os.path.join(os.path.dirname(spec.origin), name))  # type: ignore[attr-defined]
    return content.decode()
