"""What learn does once: it parses a policy, and again only if the file has changed since."""

from __future__ import annotations

from typing import TYPE_CHECKING

from callfence.enforcing import filters
from callfence.learning import options, store
from callfence.learning.prepare import Prepared
from callfence.policygen.grants import NOT_CONFINED
from callfence.policygen.language import document as language
from callfence.policygen.learning.generate import Generated
from callfence.policygen.recording.model import Recording

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from callfence.policygen.language.document import Document

TEXT = "arch x86_64\ninclude more.inc\nread: allow\n"


def as_it_is(_old: Recording, _whole: Recording, existing: Document | None) -> Generated:
    assert existing is not None
    return Generated(existing, (), {}, (), ())


def test_a_policy_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parse, parsed = language.parse, []
    monkeypatch.setattr(language, "parse", lambda *what, **how: parsed.append(what[0]) or parse(*what, **how))
    policy, more = tmp_path / "a.policy", tmp_path / "more.inc"
    policy.write_text(TEXT)
    more.write_text("write: allow\n")
    existing = filters.compiled(str(policy), "warm", cached=False)
    prepared = Prepared(options.parse(["true"]), policy, tmp_path / "a.rec", existing, True, None, None, False, NOT_CONFINED)
    added = store.add(policy, Recording(), as_it_is, prepared=prepared)
    assert added.existing is prepared.document and parsed == [TEXT]
    more.write_text("write: fd == 1\n")
    added = store.add(policy, Recording(), as_it_is, prepared=prepared)
    assert added.existing != prepared.document and parsed == [TEXT, TEXT]
