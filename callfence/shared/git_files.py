"""Policies in the history of a git repository."""

from __future__ import annotations

import os
import subprocess

from policygen.language.document import Document, PolicyError, parse
from policygen.language.lexer import decode
from tracer.errors import UserError


def document_at(revision: str, name: str) -> Document:
    """The policy in a file as of a revision, with the files that it includes as of then.  Raises UserError.

    A relative `name` is relative to the current folder.  A file that the revision does not have is an empty policy.
    """
    if revision.startswith("-"):
        raise UserError(f"{revision} is no revision")
    if not _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"):
        raise UserError(f"{revision} is no revision of a git repository here; a file to compare with may be named instead")
    listed = _git("ls-tree", "--name-only", revision, "--", f"./{os.path.relpath(name)}")
    if listed is None:
        raise UserError(f"{name} is not in the git repository of the current folder")

    def read(path: str) -> str:
        content = _git("show", f"{revision}:./{os.path.relpath(path)}")
        if content is None:
            raise FileNotFoundError(2, "it is not in that revision", path)
        return decode(content, path)

    try:
        return parse(read(name) if listed else "", name, read=read)
    except PolicyError as error:
        error.filename = f"{revision}:{error.filename}"
        raise


def _git(*arguments: str) -> bytes | None:
    """What git prints; None if it fails."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise UserError("--git needs git, which is not installed") from None
    return done.stdout if done.returncode == 0 else None
