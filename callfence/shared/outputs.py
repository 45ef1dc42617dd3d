"""What commands print as JSON for other programs: an object with a version (docs/outputs.schema.json)."""

from __future__ import annotations

import json
from collections.abc import Mapping

from callfence.policygen.versions import OUTPUTS


def as_output(kind: str, fields: Mapping[str, object]) -> str:
    """Return the text of an output; `kind` is one of `versions.OUTPUTS`."""
    return json.dumps({"version": OUTPUTS[kind], **fields}, indent=2)
