"""The filter of a policy file, from the cache if nothing has changed since it was compiled.

On the way to every start of `enforce`: what compiles is imported only where something has to be compiled.
"""

from __future__ import annotations

from callfence.enforcing import cache
from enforcer.errors import EnforceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from policygen.language.document import Document

    Variant = Literal["report", "silent", "warm"]


def compiled(path: str, variant: Variant) -> cache.Compiled:
    """`report`: a supervisor is asked about what falls to the default.  `silent`: the kernel alone answers.  `warm`: for
    recording, what the policy allows runs and everything else stops (`policygen.learning.warm`).

    Raises EnforceError, with the position for a mistake in the policy.
    """
    if known := cache.load(path, variant, _read):
        return known
    try:
        source = [(path, _read(path))]
    except OSError as error:
        hint = "; `learn` writes one, -p names another" if isinstance(error, FileNotFoundError) else ""
        raise EnforceError(f"the policy {path} cannot be read: {error.strerror}{hint}") from error
    from policygen.errors import PolicyError
    from policygen.filter.compile import compile_policy
    from policygen.filter.listener import expects_listener
    from tracer.errors import CallfenceError

    def read(name: str) -> bytes:
        source.append((name, _read(name)))
        return source[-1][1]

    is_settled = False
    try:
        document = parsed(path, source[0][1], read)
        policy = document.policy
        if variant == "warm":
            from policygen.learning.generate import generate
            from policygen.learning.warm import recording_filter
            from tracer.kernel import RET_RECORD

            filter_ = recording_filter(policy, RET_RECORD)
            is_settled = generate((), document, name="").document is document
        else:
            filter_ = compile_policy(policy, report=variant == "report")
    except PolicyError:
        raise
    except CallfenceError as error:
        raise EnforceError(f"{path}: {error}") from error
    made = cache.Compiled(filter_, str(policy.arm), source, expects_listener=expects_listener(policy), is_settled=is_settled)
    cache.store(made, variant)
    return made


def parsed(path: str, content: bytes, read: Callable[[str], bytes]) -> Document:
    """The document in a file's content; `read` gives that of the files it includes.  Raises PolicyError."""
    from policygen.language.document import parse
    from policygen.language.lexer import decode

    return parse(decode(content, path), path, read=lambda name: decode(read(name), name))


def document(made: cache.Compiled) -> Document:
    """The policy again, from the texts that its filter was compiled from."""
    path, content = made.sources[0]
    return parsed(path, content, dict(made.sources).__getitem__)


def is_current(made: cache.Compiled) -> bool:
    """Whether those texts are still what the files hold."""
    try:
        return all(_read(name) == text for name, text in made.sources)
    except OSError:
        return False


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
