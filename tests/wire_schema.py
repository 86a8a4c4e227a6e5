"""Whether a value fits `properties/targets/process/schema.json`, as JSON reads it: numbers are finite."""

from __future__ import annotations

import json
import math
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.validators import extend

from properties.targets.process import protocol

SCHEMA: dict[str, Any] = json.loads(protocol.SCHEMA.read_text())
Draft202012Validator.check_schema(SCHEMA)

_Wire = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: type(value) is int,  # 1.0 is written as a number with a fraction
            "number": lambda _, value: type(value) is int or (type(value) is float and math.isfinite(value)),
        }
    ),
)


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """By the whole of JSON Schema; what is wrong in `schema` itself raises."""
    _Wire.check_schema(schema)
    return _Wire({"$defs": SCHEMA["$defs"], **schema}).is_valid(value)
