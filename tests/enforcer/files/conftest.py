"""What the tests of files and ports share: a program that uses them, and a folder with data."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def program(build):
    return build("files", "-static")


@pytest.fixture
def place(place):
    """The workplace, with files in it."""
    for folder in ("data/inner", "other"):
        (place.folder / folder).mkdir(parents=True)
    for name in ("data/a", "data/b", "other/a", "data/inner/c"):
        (place.folder / name).write_text("text")
    return place
