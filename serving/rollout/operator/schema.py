"""JSON Schema as pydantic writes it -> the structural schema that a CustomResourceDefinition takes.

Structural means (Kubernetes, "Specifying a structural schema"): no `$ref`, no type inside `anyOf`, exclusive bounds as
booleans. Defaults are left out: the API server would write them into every object, and a preset could no longer tell
what was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KEPT = (
    "description", "enum", "format", "maxItems", "maxLength", "maximum", "minItems", "minLength", "minimum", "pattern",
)  # fmt: skip
_LONGEST_TEXT = 1024
_MOST_ITEMS = 64
_MOST_PROPERTIES = 64


def structural(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the structural schema of a pydantic JSON Schema.

    Raises:
        ValueError: It says something that a structural schema cannot.
    """
    return _convert(schema, schema.get("$defs", {}))


def _convert(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    schema = _resolved(schema, definitions)
    result: dict[str, Any] = {key: schema[key] for key in _KEPT if key in schema}
    for bound, flag in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if flag in schema:
            result |= {bound: schema[flag], flag: True}
    kind = schema.get("type")
    if _is_duration(schema):
        text = next(option for option in schema["anyOf"] if option["type"] == "string")
        return result | {"x-kubernetes-int-or-string": True, "pattern": text["pattern"], "maxLength": 32}
    match kind:
        case "object":
            result["type"] = "object"
            result |= _object(schema, definitions)
        case "array":
            result["type"] = "array"
            result.setdefault("maxItems", _MOST_ITEMS)
            result["items"] = _convert(schema["items"], definitions) if schema.get("items") else _anything()
        case "string":
            result["type"] = "string"
            if "enum" not in result:
                result.setdefault("maxLength", _LONGEST_TEXT)
        case "integer" | "number" | "boolean":
            result["type"] = kind
        case None if not set(schema) - {"title", "description", "default"}:
            result |= _anything()
        case _:
            raise ValueError(f"a structural schema cannot say {dict(schema)}")
    return result


def _object(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties")
    if properties is not None:
        result: dict[str, Any] = {
            "properties": {name: _convert(part, definitions) for name, part in properties.items()}
        }
        if schema.get("required"):
            result["required"] = list(schema["required"])
        return result
    values = schema.get("additionalProperties")
    if isinstance(values, Mapping) and values:
        return {"additionalProperties": _convert(values, definitions), "maxProperties": _MOST_PROPERTIES}
    return {"x-kubernetes-preserve-unknown-fields": True}


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the schema with its reference followed and `null` left out; what stands beside them stays."""
    beside = {key: value for key, value in schema.items() if key not in ("$ref", "anyOf")}
    if "$ref" in schema:
        target = definitions[str(schema["$ref"]).rsplit("/", 1)[1]]
        return _resolved({**target, **beside}, definitions)
    options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    if len(options) == 1:
        return _resolved({**options[0], **beside}, definitions)
    return schema if not options else {**beside, "anyOf": options}


def _is_duration(schema: Mapping[str, Any]) -> bool:
    kinds = sorted(str(option.get("type")) for option in schema.get("anyOf", ()))
    return kinds == ["number", "string"]


def _anything() -> dict[str, Any]:
    return {"x-kubernetes-preserve-unknown-fields": True}
