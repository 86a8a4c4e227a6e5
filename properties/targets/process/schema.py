"""What `schema.json` says of a description, from the table of what is declared: a test holds the two equal.

`python -m properties.targets.process.schema` writes it there.
"""

from __future__ import annotations

import json
from typing import Any, get_args, get_type_hints

from mhc_ref import Dialect
from mhc_ref.dialect import FIELDS
from mhc_ref.registry import SLOTS
from properties.core.declaration import TABLE
from properties.core.fields import MOST_ITERATIONS
from properties.targets.process.client import Client
from properties.targets.process.description import served
from properties.targets.process.protocol import OLDEST, SCHEMA, SIGNATURES, VERSION


def description() -> dict[str, Any]:
    """What a server may answer to `describe`, as JSON Schema."""
    fields: dict[str, Any] = {
        "protocol": {
            "type": "integer",
            "minimum": OLDEST,
            "maximum": VERSION,
            "description": "the version that the server speaks: the one it was asked in, or an older one",
        }
    }
    for name, field in served().items():
        words = field.words
        if not field.required:
            words += f"; {json.dumps(TABLE[name].told(getattr(Client, name)))} if left out"
        fields[name] = {**field.schema(), "description": words}
    fields["methods"]["contains"] = {"enum": list(SIGNATURES)}
    return {
        "type": "object",
        "properties": fields,
        "required": ["protocol", *(name for name, field in served().items() if field.required)],
        "additionalProperties": False,
    }


def dialect() -> dict[str, Any]:
    """A dialect by its name or its fields. Which families and presets there are is no part of the protocol."""
    kinds = get_type_hints(Dialect)
    fields: dict[str, Any] = {"preset": {"type": "string", "description": "the name of a preset"}}
    for name in FIELDS:
        if name in SLOTS:
            fields[name] = {"type": "string", "description": f"the name of a family ({SLOTS[name]})"}
        elif choices := get_args(kinds[name]):
            fields[name] = {"enum": list(choices)}
        else:
            fields[name] = {bool: {"type": "boolean"}, int: _ITERATIONS, float: _EPS}[kinds[name]]
    return {
        "description": "The name of a preset, or fields; with preset, the fields that differ from it. A family from "
        "outside of this project may bring fields of its own, which are plain values.",
        "anyOf": [
            {"type": "string"},
            {
                "type": "object",
                "properties": fields,
                "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
                "additionalProperties": _OWN,
            },
        ],
    }


_ITERATIONS = {"type": "integer", "minimum": 0, "maximum": MOST_ITERATIONS}
_OWN = {"type": ["string", "number", "boolean", "null", "array"]}
_EPS = {"type": "number", "minimum": 0}


def main() -> None:
    """Write it into `schema.json`."""
    whole = json.loads(SCHEMA.read_text())
    whole["$defs"] |= {"dialect": dialect(), "description": description()}
    SCHEMA.write_text(json.dumps(whole, indent=2) + "\n")


if __name__ == "__main__":
    main()
