"""What `learn` has made of a run, as its summary tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracer.named import NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from policygen.language.document import Document
    from policygen.learning.generate import Generated
    from policygen.recording.model import Recording, Run


class Learned(NamedTuple):
    """A run that has been added to its recording and its policy."""

    policy: Path
    recording: Recording
    run: Run
    existing: Document | None
    generated: Generated
    exact_within: str = ""
    """The baseline that has no room for the implied set which the policy would have otherwise."""
