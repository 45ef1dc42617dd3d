"""The file format of a compiled filter: the filter, the texts that it was compiled from, and a checksum or signature.

Every start of `enforce` imports this module, so it imports nothing that takes a millisecond.
"""

from __future__ import annotations

import os

try:
    from _blake2 import blake2b  # what hashlib has, without OpenSSL, which takes 3 ms
except ImportError:
    from hashlib import blake2b

from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from callfence.enforcer.arming.phase_plan import Stage
    from callfence.policygen.language.document import Document

_MAGIC = b"callfence filter 17\n"
_BUNDLE = b"callfence filters 1\n"
_SIGNATURE = 32
_FACTS = (
    "changes_files", "expects_listener", "is_settled", "kills_itself", "lacks_start", "makes_calls", "may_listen",
    "names_processes", "own_filters", "phases_optional",
)
"""The boolean fields of a filter, in the order in which the file has them."""
_YES = b"y"


class Compiled:
    """A compiled filter, facts about its policy, and the texts that it was compiled from."""

    __slots__ = (
        "arm", "changes_files", "document", "expects_listener", "files", "files_from_entry", "filter", "hosts",
        "is_settled", "kills_itself", "lacks_start", "makes_calls", "may_listen", "names_processes", "own_filters",
        "phases_optional", "refusals", "scope", "sources", "stages", "to_import", "variant",
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
        changes_files: bool = True,
        kills_itself: bool = False,
        lacks_start: bool = False,
        makes_calls: bool = False,
        may_listen: bool = False,
        names_processes: bool = False,
        own_filters: bool = False,
        phases_optional: bool = False,
        files: bytes = b"",
        files_from_entry: bytes = b"",
        refusals: bytes = b"",
        hosts: bytes = b"",
        stages: Sequence[Stage] = (),
        scope: str = "",
        to_import: bytes = b"",
    ) -> None:
        self.filter = filter_
        self.arm = arm
        self.variant = variant
        """The variant of the filter: "report", "audit", "silent" or "warm" (`filters.compiled`)."""
        self.changes_files = changes_files
        """Whether the policy's calls can change a file by its name (`policygen.files.ruleset`), or nobody has looked: that is
        of use only if `makes_calls`."""
        self.expects_listener = expects_listener
        """Whether the policy lets the program have a listener of its own (`policygen.filter.listener`)."""
        self.is_settled = is_settled
        """Whether learning a run that does nothing new leaves the policy unchanged (`policygen.learning.generate`)."""
        self.kills_itself = kills_itself
        """Whether the kernel itself kills for denied calls, so that they cannot be explained (`policygen.filter.verify`)."""
        self.lacks_start = lacks_start
        """Whether the policy says that it was learned without the program's start."""
        self.makes_calls = makes_calls
        """Whether the helper has to make calls for the program (`enforcer.hosts.rules.makes_calls`)."""
        self.may_listen = may_listen
        """Whether the policy names ioctl commands by which the program answers notifications of its own listener
        (`policygen.filter.listener`)."""
        self.names_processes = names_processes
        """Whether the policy lets the program change processes that it names by their ids (`policygen.filter.processes`)."""
        self.own_filters = own_filters
        """Whether the policy lets the program install filters."""
        self.phases_optional = phases_optional
        """Whether the policy lets a process that cannot enter a phase go on."""
        self.files = files
        """The files and ports that the policy grants, as far as its filter does not see to them (`filters.files_of`)."""
        self.files_from_entry = files_from_entry
        """The same for a program that runs a part of its code before its filter takes effect."""
        self.refusals = refusals
        """The instructions that fail allowed calls where Landlock confines these (`enforcer.files.past_landlock`)."""
        self.hosts = hosts
        """The hosts and unix sockets that the policy grants (`enforcer.hosts.rules.encode`); b"" if it has no such lines."""
        self.stages = tuple(stages)
        """The phases; those of a "warm" filter have only names."""
        self.scope = scope
        """The policy's `scope`; "" for variants that confine nothing."""
        self.to_import = to_import
        """The note of the files that the helper imports to describe a denied call (`enforcer.importer`); b"" for "warm"."""
        self.sources = tuple(sources)
        """Name and content of each file that was compiled: the policy's first, then those that it includes."""
        self.document: Document | None = None
        """The parsed policy, if `learn` has just compiled it; not stored in the file."""

    def files_at(self, arm: str) -> bytes:
        """Return the files and ports to be confined where the filter takes effect at `arm`: "now", "exec" or "entry"."""
        return self.files_from_entry if arm == "entry" else self.files


def seal(compiled: Compiled, made_by: bytes, secret: bytes, *, is_shipped: bool = False) -> bytes:
    """Return the content of the file for a compiled filter, signed with `secret`; b"" gives a checksum only.  `made_by`
    identifies the code that compiled.  `is_shipped`: another machine may use the file."""
    from callfence.enforcer.importer import without_digests

    to_import = without_digests(compiled.to_import) if is_shipped and compiled.to_import else compiled.to_import
    facts = [_YES if getattr(compiled, name) else b"" for name in _FACTS]
    fields = [made_by, compiled.variant.encode(), compiled.arm.encode(), *facts, compiled.filter]
    fields += [compiled.files, compiled.files_from_entry, compiled.refusals, compiled.hosts]
    fields.append(_joined([_joined(_stage_fields(stage)) for stage in compiled.stages]))
    fields += [compiled.scope.encode(), to_import]
    for name, text in compiled.sources:
        fields += [os.fsencode(name), text]
    body = _joined(fields)
    return _MAGIC + digest(body, key=secret) + body


def is_sealed(content: bytes) -> bool:
    """Return whether a file begins like those that `seal` writes."""
    return content.startswith(_MAGIC)


def unseal(content: bytes, secret: bytes) -> tuple[bytes, Compiled]:
    """Return `made_by` and the filter from what `seal` returned for this secret.  Raises ValueError for other content."""
    start = len(_MAGIC) + _SIGNATURE
    body = content[start:]
    if content[:start] != _MAGIC + digest(body, key=secret):
        raise ValueError("the file is damaged, or callfence has not written it for this user")
    fields = _split(body)
    made_by, variant, arm, *rest = fields
    facts = {name: field == _YES for name, field in zip(_FACTS, rest, strict=False)}
    filter_, files, files_from_entry, refusals, hosts, stages, scope, to_import, *texts = rest[len(_FACTS) :]
    sources = [(os.fsdecode(name), text) for name, text in zip(texts[::2], texts[1::2], strict=True)]
    if not sources:
        raise ValueError("the file contains no policy")
    compiled = Compiled(
        filter_,
        arm.decode(),
        sources,
        variant=variant.decode(),
        files=files,
        files_from_entry=files_from_entry,
        refusals=refusals,
        hosts=hosts,
        stages=[_stage(_split(field)) for field in _split(stages)],
        scope=scope.decode(),
        to_import=to_import,
        **facts,
    )
    return made_by, compiled


def _stage_fields(stage: Stage) -> list[bytes]:
    triggers = b"".join(arch.to_bytes(4, "little") + number.to_bytes(4, "little") for arch, number in sorted(stage.triggers))
    facts = (stage.is_entered, stage.is_notified)
    return [stage.name.encode(), triggers, stage.filter, *(_YES if fact else b"" for fact in facts)]


def _stage(fields: Sequence[bytes]) -> Stage:
    from callfence.enforcer.arming.phase_plan import Stage

    name, triggers, filter_, *facts = fields
    is_entered, is_notified = (fact == _YES for fact in facts)
    words = [int.from_bytes(triggers[at : at + 4], "little") for at in range(0, len(triggers), 4)]
    pairs = zip(words[::2], words[1::2], strict=True)
    return Stage(name.decode(), pairs, filter_, is_entered=is_entered, is_notified=is_notified)


def bundle(variants: Sequence[Compiled], made_by: bytes) -> bytes:
    """Return the content of a file for `enforce --compiled`, on any machine, with variants of one policy's filter."""
    return _BUNDLE + _joined([seal(variant, made_by, b"", is_shipped=True) for variant in variants])


def is_bundle(content: bytes) -> bool:
    """Return whether a file begins like those that `bundle` returns."""
    return content.startswith(_BUNDLE)


def unbundle(content: bytes) -> dict[str, Compiled]:
    """Return the filters that `bundle` wrote, by variant.  Raises ValueError for any other content."""
    if not is_bundle(content):
        raise ValueError("the file was not written by `callfence compile -o`")
    return {filter_.variant: filter_ for filter_ in (unseal(part, b"")[1] for part in _split(content[len(_BUNDLE) :]))}


def digest(content: bytes, *, size: int = _SIGNATURE, key: bytes = b"") -> bytes:
    """Return the BLAKE2b digest of the content, `size` bytes long; with a secret `key`, it is a signature."""
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
