"""What is known of the calls that led to a policy: its recording, or where there is none, its companion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from callfence.shared.files import companion_path, recording_path
from callfence.shared.inputs import tell
from callfence.shared.text import plural
from policygen import reading
from policygen.recording import recording_file
from policygen.recording.model import Recording
from policygen.review.companion import fitting, read
from tracer.abi import Arch, table
from tracer.named import NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from policygen.language.document import Document


class Seen(NamedTuple):
    file: str
    """The recording's or the companion's; "" if there is neither."""
    recording: Recording
    """Of a companion, one run without a name (`companion.is_companion`)."""


def seen(command: str, policy: Path, document: Document, recording: Path | None = None) -> Seen:
    """What is known, of `recording` alone if one is named.  What does not fit the policy is told, and left out.

    Raises RecordingError, UserError, OSError.
    """
    path = recording or recording_path(policy)
    if recording is not None or path.exists():
        return Seen(str(path), recording_file.load(path))
    path = companion_path(policy)
    if not path.exists():
        return Seen("", Recording())
    said = read(reading.read(str(path)).decode(errors="replace"), str(path))
    used = fitting(document, said.observations)
    if said.unread:
        first = f"the first is {said.unread[0]}"
        tell(f"callfence {command}: {path}: not used: {plural(len(said.unread), 'line')} that cannot be read, {first}")
    if others := [one for one in said.observations if one not in used]:
        names = sorted({table(Arch.from_audit(one.arch) or Arch.X86_64).by_number[one.number].name for one in others})
        what = f"evidence of {plural(len(others), 'call')} that {policy.name} does not allow: {', '.join(names[:8])}"
        tell(f"callfence {command}: {path}: not used: {what}{' ...' if len(names) > 8 else ''}")
    return Seen(str(path), said._replace(observations=used).recording)
