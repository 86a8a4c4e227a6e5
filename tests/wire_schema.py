"""Whether a value fits `properties/targets/process/schema.json`, by the few keywords that it uses and no others."""

from __future__ import annotations

import json
import math
from typing import Any

from properties.targets.process import protocol

SCHEMA: dict[str, Any] = json.loads(protocol.SCHEMA.read_text())
_KINDS = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}
_KEYWORDS = {
    *("$ref", "anyOf", "const", "enum", "type", "properties", "required", "additionalProperties", "items", "contains"),
    *("minimum", "maximum", "minItems", "maxItems", "maxLength", "description", "contentEncoding"),
}


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Raises `KeyError` on a keyword that it does not know: nothing fits because nobody looked."""
    if unknown := schema.keys() - _KEYWORDS:
        raise KeyError(*unknown)
    if "$ref" in schema:
        return fits(value, SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema and not any(fits(value, one) for one in schema["anyOf"]):
        return False
    if "const" in schema and not _same(value, schema["const"]):
        return False
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        return False
    if "type" in schema and not _is(value, schema["type"]):
        return False
    if _is(value, "number") and not schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf):
        return False
    if isinstance(value, str):
        return len(value) <= schema.get("maxLength", math.inf)
    if isinstance(value, dict):
        known = schema.get("properties", {})
        return (
            set(schema.get("required", [])) <= value.keys()
            and (schema.get("additionalProperties", True) or value.keys() <= known.keys())
            and all(fits(value[name], known[name]) for name in value.keys() & known.keys())
        )
    if isinstance(value, list):
        return (
            schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf)
            and ("contains" not in schema or any(fits(one, schema["contains"]) for one in value))
            and all(fits(one, schema.get("items", {})) for one in value)
        )
    return True


def _is(value: Any, kind: str) -> bool:
    if kind == "number":
        return type(value) is int or (type(value) is float and math.isfinite(value))
    return type(value) is _KINDS[kind]


def _same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and value == other
