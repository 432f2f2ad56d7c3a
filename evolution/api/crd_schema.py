"""Structural OpenAPI v3 schemas, as CustomResourceDefinitions need them, from pydantic models.

A structural schema has no references, no unions and no nulls of its own: models are inlined, `X | None` becomes
`nullable`, and exclusive bounds are booleans beside the bound.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

from pydantic import BaseModel

Schema = dict[str, Any]
Path = tuple[str, ...]
"""Names of properties from the root; `[]` for the items of a list, `{}` for the values of a map."""
Amend = Callable[[Path, Schema], None]
"""Called with the schema of every node, to change it in place."""

KEPT = (
    "type", "format", "enum", "minimum", "maximum", "minLength", "maxLength", "pattern", "minItems", "maxItems",
    "maxProperties", "x-kubernetes-int-or-string",
)  # fmt: skip
DROPPED = ("title", "default", "description", "properties", "required", "additionalProperties", "items", "const")
ENUM_LENGTH = 64
"""More than any value has, so that a wrong one is answered with the right ones and not with a length."""
SHOWN_VALUES = 4
"""Of an enum by `kubectl explain`, and none of a list's; all are named in the description then."""
ADAPTED = ("exclusiveMinimum", "exclusiveMaximum")


def structural(
    model: type[BaseModel], *, at: Path, defaults: bool, optional: Collection[Path] = (), amend: Amend | None = None
) -> Schema:
    """The schema of `model`, whose fields lie below `at`.

    Args:
        defaults: whether the API server fills in what is left out.
        optional: properties that may be left out although the model requires them, except objects with required
            properties of their own.

    Raises:
        ValueError: the model uses something that a structural schema cannot express.
    """
    generated = model.model_json_schema(by_alias=True, mode="validation")
    return _Conversion(generated.pop("$defs", {}), defaults, optional, amend).convert(generated, at)


class _Conversion:
    def __init__(
        self, definitions: Mapping[str, Schema], defaults: bool, optional: Collection[Path], amend: Amend | None
    ) -> None:
        self._definitions = definitions
        self._defaults = defaults
        self._optional = optional
        self._amend = amend

    def convert(self, node: Schema, at: Path) -> Schema:
        node, nullable = self._resolved(node, at)
        if unknown := set(node) - {*KEPT, *DROPPED, *ADAPTED}:
            raise ValueError(f"{'.'.join(at)}: a structural schema has no {', '.join(sorted(unknown))}")
        schema: Schema = {}
        if description := node.get("description"):
            schema["description"] = " ".join(description.split())
        schema |= {key: node[key] for key in KEPT if key in node}
        if "x-kubernetes-int-or-string" in schema:
            del schema["type"]
        if "const" in node:
            schema["enum"] = [node["const"]]
        if "enum" in schema:  # without a length, the cost of rules over it counts as unbounded
            schema["maxLength"] = ENUM_LENGTH
        elif nullable:  # a null for an enum is dropped by the API server; with `nullable` it would be no value of it
            schema["nullable"] = True
        self._bounds(node, schema)
        if self._defaults and node.get("default") is not None:
            schema["default"] = _without_nulls(node["default"])
        if node.get("type") == "array":
            schema |= _list_type(at) | {"items": self.convert(node["items"], (*at, "[]"))}
        elif node.get("type") == "object":
            self._properties(node, schema, at)
        values = schema.get("items", schema).get("enum", [])
        if "description" in schema and (len(values) > SHOWN_VALUES or (values and "items" in schema)):
            schema["description"] += f" Values: {', '.join(values)}."
        if self._amend:
            self._amend(at, schema)
        return schema

    def _resolved(self, node: Schema, at: Path) -> tuple[Schema, bool]:
        """`node` without reference and union, and whether it may be null."""
        nullable = False
        while "$ref" in node or "anyOf" in node:
            node = dict(node)
            if "$ref" in node:
                inner = self._definitions[node.pop("$ref").removeprefix("#/$defs/")]
            else:
                union = node.pop("anyOf")
                choices = [choice for choice in union if choice.get("type") != "null"]
                if len(choices) != 1:
                    raise ValueError(f"{'.'.join(at)}: a structural schema has no unions")
                nullable = nullable or len(union) > 1
                (inner,) = choices
            node = {**inner, **node}
        return node, nullable

    def _bounds(self, node: Schema, schema: Schema) -> None:
        for inclusive, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
            if exclusive in node:
                schema |= {inclusive: node[exclusive], exclusive: True}

    def _properties(self, node: Schema, schema: Schema, at: Path) -> None:
        if "properties" not in node:
            schema["additionalProperties"] = self.convert(node["additionalProperties"], (*at, "{}"))
            return
        required: list[str] = []
        properties: dict[str, Schema] = {}
        for name, inner in node["properties"].items():
            below = (*at, name)
            properties[name] = self.convert(inner, below)
            if name in node.get("required", ()) and ("required" in properties[name] or below not in self._optional):
                required.append(name)
        if required:
            schema["required"] = required
        schema["properties"] = properties


def _without_nulls(default: Any) -> Any:
    if isinstance(default, Mapping):
        return {name: _without_nulls(value) for name, value in default.items() if value is not None}
    return default


def _list_type(at: Path) -> Schema:
    """Conditions are merged by type, as everywhere in Kubernetes; other lists are replaced as a whole."""
    kind: Literal["map", "atomic"] = "map" if at[-1:] == ("conditions",) else "atomic"
    keys: Schema = {"x-kubernetes-list-map-keys": ["type"]} if kind == "map" else {}
    return {"x-kubernetes-list-type": kind} | keys
