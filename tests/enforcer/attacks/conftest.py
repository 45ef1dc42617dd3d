"""What the tests of attacks share: a workplace with an attacking program and its policy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def attacker(place, compile_c):
    """attacker("files/acc3", "-m32", ...) -> the program in the workplace, beside its policy if it has one."""

    def built(name, *flags):
        source = HERE / f"{name}.c"
        target = place.folder / source.stem
        shutil.copy(compile_c(source, *flags), target)
        if source.with_suffix(".policy").exists():
            place.policy(source.with_suffix(".policy").read_text(), f"{source.stem}.policy")
        return f"./{source.stem}"

    return built
