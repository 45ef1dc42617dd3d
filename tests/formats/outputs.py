"""docs/outputs.schema.json, by which tests check what commands print as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

OUTPUTS = json.loads((Path(__file__).parent.parent.parent / "docs" / "outputs.schema.json").read_text())


def strict(schema: Any) -> Any:
    """The schema for which a field that it does not have is an error."""
    if isinstance(schema, list):
        return [*map(strict, schema)]
    if not isinstance(schema, dict):
        return schema
    closed = {"additionalProperties": False} if "properties" in schema and "required" in schema else {}
    return {name: strict(part) for name, part in schema.items()} | closed


def check_output(kind: str, text: str) -> Any:
    """Return what an output says, which fits the definition of its kind and has no field that this lacks."""
    definitions, output = strict(OUTPUTS["$defs"]), json.loads(text)
    jsonschema.Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": definitions}).validate(output)
    return output
