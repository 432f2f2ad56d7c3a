"""Write the reference of every field from the CustomResourceDefinitions: `python docs/write_reference.py FILE`.

It reads crds/ and not the types, so that it says what the API server enforces.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import yaml

CRDS = Path(__file__).parents[1] / "crds"
HEADER = """\
# Reference

<!-- Written by `make reference` from crds/: change the types in evolution/api, not this file. -->

Every field of every kind of `selfevolution.io`, as the API server enforces it. A field without a default stays left
out, and where a preset gives the value, the description says which; `kubectl explain evolutionrun.spec` says the
same in a terminal. What fields mean together: [the run file](run-file.md),
[the runtime](cluster.md#the-runtime-what-the-platform-team-provides).
"""
Schema = dict[str, Any]


def reference() -> str:
    parts = [HEADER]
    known: dict[str, str] = {}
    """Kinds by the fields of their specs and statuses: others may have the same."""
    for file in sorted(CRDS.glob("*.yaml"), key=lambda file: (file.stem != "evolutionruns", file.stem)):
        definition = yaml.safe_load(file.read_text(encoding="utf-8"))["spec"]
        parts.append("\n".join(_kind(definition, known)))
    return "\n".join(parts) + "\n"


def _kind(definition: Schema, known: dict[str, str]) -> Iterator[str]:
    names, (version,) = definition["names"], definition["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    scope = "in a namespace" if definition["scope"] == "Namespaced" else "of the cluster"
    yield f"## {names['kind']}\n"
    yield f"{schema['description']}\n"
    short = f", short name `{names['shortNames'][0]}`" if names.get("shortNames") else ""
    yield f"`{definition['group']}/{version['name']}`, {scope}{short}.\n"
    for part in ("spec", "status"):
        if part not in schema["properties"]:
            continue
        below = schema["properties"][part]
        same = known.setdefault(repr(below["properties"]), names["kind"])
        if same != names["kind"]:
            yield f"The fields of its `{part}` are those of [{same}](#{same.lower()}).\n"
            continue
        yield f"### {part} of {names['kind']}\n"
        yield "| field | type | default | must be | what it says |\n|---|---|---|---|---|"
        for path, field, required in _fields(below, part, known):
            cells = (f"`{path}`", _type(field), _default(field), _bounds(field, required), field.get("description", ""))
            yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
        yield ""
    refusals = _by_message(_refusals(schema, "", known))
    if known[repr(schema["properties"]["spec"]["properties"])] == names["kind"] and refusals:
        yield f"### What is refused of {names['kind']}\n"
        yield "Beyond types and bounds; the API server answers so, with the value in place of `…`.\n"
        for messages, paths in refusals.items():
            of = ", ".join(f"`{path}`" for path in paths)
            if len(messages) == 1:
                yield f"- {of}: {messages[0]}"
            else:
                yield f"- {of}"
                yield from (f"    - {message}" for message in messages)
        yield ""


def _fields(schema: Schema, at: str, known: Mapping[str, str]) -> Iterator[tuple[str, Schema, bool]]:
    """Those below `schema`; of an object that is the spec of another kind, only that it is."""
    for name, field in schema.get("properties", {}).items():
        path, required = f"{at}.{name}", name in schema.get("required", [])
        if (same := known.get(repr(field.get("properties")))) is not None:
            told = f"{field['description']} Its fields are those of [{same}](#{same.lower()})."
            yield path, field | {"description": told}, required
            continue
        yield path, field, required
        yield from _fields(field, path, known)
        yield from _fields(field.get("items", {}), f"{path}[]", known)


def _type(field: Schema) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if field["type"] == "array":
        return f"list of {field['items']['type']}s"
    if "additionalProperties" in field:
        return f"map of {field['additionalProperties']['type']}s"
    return str(field["type"])


def _default(field: Schema) -> str:
    if "default" not in field or field.get("type") == "object":
        return ""
    value = field["default"]
    if value in ("", [], {}):
        return "empty"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _bounds(field: Schema, required: bool) -> str:
    told = ["given"] if required else []
    of = field.get("items", {}) | field
    if "enum" in of:
        told.append(" or ".join(f"`{value}`" for value in of["enum"]))
    low, high = field.get("minimum"), field.get("maximum")
    if low is not None:
        told.append(f"{'>' if field.get('exclusiveMinimum') else '≥'} {low}")
    if high is not None:
        told.append(f"{'<' if field.get('exclusiveMaximum') else '≤'} {high}")
    for bound, unit in (("Length", "characters"), ("Items", "entries"), ("Properties", "entries")):
        least, most = field.get(f"min{bound}"), field.get(f"max{bound}")
        if "enum" not in of and least:
            told.append(f"≥ {least} {unit}")
        if "enum" not in field and most:
            told.append(f"≤ {most} {unit}")
    if field.get("format"):
        told.append(field["format"])
    return ", ".join(told)


def _refusals(schema: Schema, at: str, known: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Paths, and what is said when their values are wrong."""
    for rule in schema.get("x-kubernetes-validations", []):
        path = (at + rule.get("fieldPath", "")).removeprefix(".") or "metadata.name"
        told = [rule["message"]] if "message" in rule else alternatives(rule["messageExpression"])
        yield path, tuple(dict.fromkeys(_shown(message) for message in told))
    for name, field in schema.get("properties", {}).items():
        path = f"{at}.{name}"
        if at and repr(field.get("properties")) in known:
            continue
        yield from _refusals(field, path, known)
        yield from _refusals(field.get("items", {}), f"{path}[]", known)
        yield from _refusals(field.get("additionalProperties", {}), f"{path}.*", known)


def _by_message(refusals: Iterable[tuple[str, tuple[str, ...]]]) -> dict[tuple[str, ...], list[str]]:
    grouped: dict[tuple[str, ...], list[str]] = {}
    for path, messages in refusals:
        grouped.setdefault(messages, []).append(path)
    return grouped


def _shown(message: str) -> str:
    return re.sub(r"([<*_])", r"\\\1", message.removeprefix("metadata.name: ").strip())


def alternatives(expression: str) -> list[str]:
    """The texts that a CEL expression of literals, `+` and `?:` can give, with `…` for what it fills in."""
    expression = expression.strip()
    if (cut := _outside(expression, "?")) is not None:
        rest = expression[cut + 1 :]
        colon = _outside(rest, ":")
        assert colon is not None, expression
        return alternatives(rest[:colon]) + alternatives(rest[colon + 1 :])
    if (cut := _outside(expression, "+")) is not None:
        before, after = alternatives(expression[:cut]), alternatives(expression[cut + 1 :])
        before, after = (["… "] if "" in texts else texts for texts in (before, after))
        return [re.sub("(… )+", "… ", left + right) for left, right in product(before, after)]
    if expression.startswith("(") and expression.endswith(")"):
        return alternatives(expression[1:-1])
    if expression[:1] in "'\"":
        return [re.sub(r"\\(.)", r"\1", expression[1:-1])]
    return ["…"]


def _outside(expression: str, wanted: str) -> int | None:
    """Where a sign stands outside of literals and parentheses; a colon, the one of the first question mark."""
    depth, open_questions = 0, 0
    for found in re.finditer(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|[][(){}?:+]", expression):
        sign = found.group()
        if sign in "([{":
            depth += 1
        elif sign in ")]}":
            depth -= 1
        elif depth == 0 and sign == wanted and not (wanted == ":" and open_questions):
            return found.start()
        elif depth == 0 and sign in "?:":
            open_questions += 1 if sign == "?" else -1
    return None


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
