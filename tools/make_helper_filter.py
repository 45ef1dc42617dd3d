"""Compile the policy of the helper itself: `make_helper_filter.py FOLDER` writes helper.filter beside its helper.policy."""

from __future__ import annotations

import sys
from pathlib import Path

from policygen.filter.compile import compile_policy
from policygen.language.document import parse


def main(folder: Path) -> None:
    source = folder / "helper.policy"
    (folder / "helper.filter").write_bytes(compile_policy(parse(source.read_text(), str(source)).policy))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
