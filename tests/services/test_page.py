"""docs/services.md: its `console` blocks do and print what stands there, in a system of their own.

With CALLFENCE_UPDATE set, the page is written anew instead, to be read through."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import console
import pytest
from needed import needs, needs_root

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = Path(__file__).parents[2] / "docs" / "services.md"


@pytest.mark.long
@needs_root
@needs("systemd", "nginx", "curl")
def test_the_page_is_what_happens(system: Callable[..., str], tmp_path: Path) -> None:
    def capture(command: list[str], work: Path, environment: dict[str, str]) -> str:
        """The script of a session, with the callfence that is installed for services."""
        return system(f"set +eu\n{command[-1]}")

    happened = console.run(PAGE.read_text(), tmp_path, capture)
    if os.environ.get("CALLFENCE_UPDATE"):
        PAGE.write_text(happened)
        return
    assert happened == PAGE.read_text()
