"""What commands print as JSON for other programs: an object with a version (docs/outputs.schema.json)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from callfence.policygen.versions import OUTPUTS

if TYPE_CHECKING:
    from collections.abc import Mapping


def as_output(kind: str, fields: Mapping[str, object]) -> str:
    """Return the text of an output; `kind` is one of `versions.OUTPUTS`."""
    return json.dumps({"version": OUTPUTS[kind], **fields}, indent=2)
