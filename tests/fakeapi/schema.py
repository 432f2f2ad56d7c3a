"""Schemas of the CustomResourceDefinitions: unknown fields are pruned, defaults filled in, types checked. No CEL."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from fakeapi.errors import invalid
from fakeapi.kinds import Body, Resource

CRDS = Path(__file__).parents[2] / "crds"
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


def conform(resource: Resource, body: Body) -> Body:
    """The object as the API server stores it.

    Raises:
        StatusError: 422, a field is missing or not of its type.
    """
    schema = _schema(resource.plural)
    own = {name: value for name, value in body.items() if name not in ("apiVersion", "kind", "metadata")}
    pruned: Body = _filled({**schema, "required": []}, own)
    if faults := _faults({"properties": {}, **schema, "type": "object"}, pruned, ""):
        raise invalid(resource, body["metadata"]["name"], ", ".join(faults))
    return {name: body[name] for name in ("apiVersion", "kind", "metadata") if name in body} | pruned


@cache
def _schema(plural: str) -> dict[str, Any]:
    definition = yaml.safe_load((CRDS / f"{plural}.yaml").read_text())
    schema: dict[str, Any] = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def _filled(schema: dict[str, Any], value: Any) -> Any:
    """Without unknown fields, with defaults. Shares nothing that it changes."""
    if isinstance(value, list):
        return [_filled(schema.get("items", {}), item) for item in value]
    if not isinstance(value, dict):
        return value
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return value
    if "additionalProperties" in schema:
        inner = schema["additionalProperties"]
        return {name: _filled(inner if isinstance(inner, dict) else {}, item) for name, item in value.items()}
    result = {}
    for name, inner in schema.get("properties", {}).items():
        given = value.get(name)
        if given is None and "default" in inner and not inner.get("nullable"):
            given = inner["default"]
        if given is not None or name in value:
            result[name] = _filled(inner, given)
    return result


def _faults(schema: dict[str, Any], value: Any, path: str) -> list[str]:
    if value is None and schema.get("nullable"):
        return []
    if schema.get("x-kubernetes-int-or-string"):
        wanted: tuple[type, ...] = (int, str)
    else:
        wanted = TYPES.get(schema.get("type", ""), (object,))
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted and object not in wanted):
        called = schema.get("type", "integer or string")
        return [f'{path}: Invalid value: "{type(value).__name__}": {path} in body must be of type {called}']
    faults = [f"{path}: {why}" for why in _limits(schema, value)]
    if isinstance(value, dict):
        faults += [f"{path}.{name}: Required value" for name in schema.get("required", []) if name not in value]
        for name, item in value.items():
            inner = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            if isinstance(inner, dict):
                faults += _faults(inner, item, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            faults += _faults(schema.get("items", {}), item, f"{path}[{position}]")
    return faults


def _limits(schema: dict[str, Any], value: Any) -> list[str]:
    if "enum" in schema and value not in schema["enum"]:
        listed = ", ".join(f'"{item}"' for item in schema["enum"])
        return [f'Unsupported value: "{value}": supported values: {listed}']
    if isinstance(value, str):
        long = len(value) > schema.get("maxLength", len(value)) or len(value) < schema.get("minLength", 0)
        unlike = "pattern" in schema and not re.search(schema["pattern"], value)
        return [f'Invalid value: "{value}": should match its pattern and length'] if long or unlike else []
    if isinstance(value, (int, float)):
        low, high = schema.get("minimum", value), schema.get("maximum", value)
        return [] if low <= value <= high else [f"Invalid value: {value}: should be from {low} to {high}"]
    if isinstance(value, (list, dict)):
        most = schema.get("maxItems", schema.get("maxProperties", len(value)))
        least = schema.get("minItems", schema.get("minProperties", 0))
        return [] if least <= len(value) <= most else [f"Invalid value: must have {least} to {most} items"]
    return []
