"""Compile the policies of the helper itself: `make_helper_filter.py FOLDER` writes helper.filter, helper-log.filter and
follower.filter, beside its helper.policy, helper-log.policy and follower.policy."""

from __future__ import annotations

import sys
from pathlib import Path

from policygen.filter.compile import compile_policy
from policygen.language.document import parse_file
from policygen.merging.unite import unite


def main(folder: Path) -> None:
    plain = parse_file(folder / "helper.policy")
    (folder / "helper.filter").write_bytes(compile_policy(plain.policy))
    logging = unite(plain, parse_file(folder / "helper-log.policy"))
    (folder / "helper-log.filter").write_bytes(compile_policy(logging.policy))
    following = unite(logging, parse_file(folder / "follower.policy"))
    (folder / "follower.filter").write_bytes(compile_policy(following.policy))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
