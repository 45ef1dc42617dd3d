"""A compiled filter in a file, together with everything that it was made from, under a checksum.

On the way to every start of `enforce`, so nothing is imported that takes a millisecond.
"""

from __future__ import annotations

import os

try:
    from _blake2 import blake2b  # what hashlib has, without OpenSSL, which takes 3 ms
except ImportError:
    from hashlib import blake2b

from tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from enforcer.arming.plan import Stage
    from policygen.language.document import Document

_MAGIC = b"callfence filter 11\n"
_BUNDLE = b"callfence filters 1\n"
_SIGNATURE = 32
_FACTS = (
    "expects_listener", "is_settled", "kills_itself", "lacks_start", "may_listen", "own_filters", "phases_optional"
)
"""What is yes or no of a filter, in the order of the file."""
_YES = b"y"


class Compiled:
    """A filter, when to arm it, and what it was compiled from."""

    __slots__ = (
        "arm", "document", "expects_listener", "files", "filter", "is_settled", "kills_itself", "lacks_start", "later",
        "may_listen", "own_filters", "phases_optional", "scope", "sources", "stages", "variant",
    )  # fmt: skip

    def __init__(
        self,
        filter_: bytes,
        arm: str,
        sources: Sequence[tuple[str, bytes]],
        *,
        variant: str,
        expects_listener: bool,
        is_settled: bool,
        kills_itself: bool = False,
        lacks_start: bool = False,
        may_listen: bool = False,
        own_filters: bool = False,
        phases_optional: bool = False,
        files: bytes = b"",
        stages: Sequence[Stage] = (),
        scope: str = "",
        later: bytes = b"",
    ) -> None:
        self.filter = filter_
        self.arm = arm
        self.variant = variant
        """See `filters.compiled`."""
        self.expects_listener = expects_listener
        """The policy lets the program have a listener of its own (`policygen.filter.listener`)."""
        self.is_settled = is_settled
        """Learning a run that does nothing new leaves the policy as it is (`policygen.learning.generate`)."""
        self.kills_itself = kills_itself
        """Calls that the policy kills for cannot be explained (`policygen.filter.verify`)."""
        self.lacks_start = lacks_start
        """The policy says that it was learned without the program's start."""
        self.may_listen = may_listen
        """The policy names commands by which a program answers calls of a filter of its own (`policygen.filter.listener`)."""
        self.own_filters = own_filters
        """The policy lets the program install filters."""
        self.phases_optional = phases_optional
        """By the policy, a process that cannot enter a phase goes on."""
        self.files = files
        """The files and ports that the policy grants (`policygen.files.landlock.encode`); b"" if it confines none."""
        self.stages = tuple(stages)
        """The phases; those of a filter to record with have only names."""
        self.scope = scope
        """That of the policy; "" if its variant confines nothing."""
        self.later = later
        """The files that the helper needs to describe a denied call (`enforcer.later`); b"" if it describes none."""
        self.sources = tuple(sources)
        """Name and content of each file: the policy's first, then those it includes, as they were read."""
        self.document: Document | None = None
        """What these say, where `learn` has parsed them; not in the file."""


def seal(compiled: Compiled, made_by: bytes, secret: bytes, *, is_shipped: bool = False) -> bytes:
    """Return the content of a file; `made_by` identifies the code that compiled, and `secret` may be b"".

    `is_shipped`: it may be used on another machine."""
    from enforcer.later import without_digests

    later = without_digests(compiled.later) if is_shipped and compiled.later else compiled.later
    facts = [_YES if getattr(compiled, name) else b"" for name in _FACTS]
    fields = [made_by, compiled.variant.encode(), compiled.arm.encode(), *facts, compiled.filter, compiled.files]
    fields.append(_joined([_joined(_stage_fields(stage)) for stage in compiled.stages]))
    fields += [compiled.scope.encode(), later]
    for name, text in compiled.sources:
        fields += [os.fsencode(name), text]
    body = _joined(fields)
    return _MAGIC + digest(body, key=secret) + body


def is_sealed(content: bytes) -> bool:
    """Return whether a file was written by `seal`, by its first bytes."""
    return content.startswith(_MAGIC)


def unseal(content: bytes, secret: bytes) -> tuple[bytes, Compiled]:
    """Return the `made_by` and the filter of what `seal` wrote with the same secret.  Raises ValueError for any other
    content."""
    start = len(_MAGIC) + _SIGNATURE
    body = content[start:]
    if content[:start] != _MAGIC + digest(body, key=secret):
        raise ValueError("it is damaged, or was not written by callfence")
    fields = _split(body)
    made_by, variant, arm, *rest = fields
    facts = {name: field == _YES for name, field in zip(_FACTS, rest, strict=False)}
    filter_, files, stages, scope, later, *texts = rest[len(_FACTS) :]
    sources = [(os.fsdecode(name), text) for name, text in zip(texts[::2], texts[1::2], strict=True)]
    if not sources:
        raise ValueError("it has no policy")
    compiled = Compiled(
        filter_,
        arm.decode(),
        sources,
        variant=variant.decode(),
        files=files,
        stages=[_stage(_split(field)) for field in _split(stages)],
        scope=scope.decode(),
        later=later,
        **facts,
    )
    return made_by, compiled


def _stage_fields(stage: Stage) -> list[bytes]:
    triggers = b"".join(arch.to_bytes(4, "little") + number.to_bytes(4, "little") for arch, number in sorted(stage.triggers))
    facts = (stage.is_entered, stage.is_notified)
    return [stage.name.encode(), triggers, stage.filter, *(_YES if fact else b"" for fact in facts)]


def _stage(fields: Sequence[bytes]) -> Stage:
    from enforcer.arming.plan import Stage

    name, triggers, filter_, *facts = fields
    is_entered, is_notified = (fact == _YES for fact in facts)
    words = [int.from_bytes(triggers[at : at + 4], "little") for at in range(0, len(triggers), 4)]
    pairs = zip(words[::2], words[1::2], strict=True)
    return Stage(name.decode(), pairs, filter_, is_entered=is_entered, is_notified=is_notified)


def bundle(variants: Sequence[Compiled], made_by: bytes) -> bytes:
    """Return a file with several variants of one policy, for `enforce --compiled`, here or on another machine."""
    return _BUNDLE + _joined([seal(variant, made_by, b"", is_shipped=True) for variant in variants])


def is_bundle(content: bytes) -> bool:
    """Return whether a file was written by `bundle`, by its first bytes."""
    return content.startswith(_BUNDLE)


def unbundle(content: bytes) -> dict[str, Compiled]:
    """Return the filters that `bundle` wrote, by variant.  Raises ValueError for any other content."""
    if not is_bundle(content):
        raise ValueError("it was not written by `callfence compile -o`")
    return {filter_.variant: filter_ for filter_ in (unseal(part, b"")[1] for part in _split(content[len(_BUNDLE) :]))}


def digest(content: bytes, *, size: int = _SIGNATURE, key: bytes = b"") -> bytes:
    """Return the BLAKE2b digest of some content, `size` bytes; with a secret `key`, only who knows that can make it."""
    return blake2b(content, digest_size=size, key=key).digest()


def _joined(fields: Sequence[bytes]) -> bytes:
    return b"".join(len(field).to_bytes(4, "little") + field for field in fields)


def _split(body: bytes) -> list[bytes]:
    fields, place = [], 0
    while place < len(body):
        length = int.from_bytes(body[place : place + 4], "little")
        fields.append(body[place + 4 : place + 4 + length])
        place += 4 + length
    return fields
