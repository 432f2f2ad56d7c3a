"""Prints the table of spec fields of the docs: what each means, and its value in each preset.

python tests/spec_fields.py
"""

import json
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from invalidation import inner_model
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from evolution.api.presets import PRESETS
from evolution.api.run import EvolutionRunSpec


def rows(model: type[BaseModel] = EvolutionRunSpec, below: str = "") -> Iterator[str]:
    for name, info in model.model_fields.items():
        path = f"{below}{info.alias or name}"
        inner = inner_model(info.annotation)
        if inner is not None:
            yield from rows(inner, f"{path}.")
            continue
        values = [_value(PRESETS[preset], path.split("."), info.default) for preset in ("Default", "Reference")]
        meaning = " ".join((info.description or "").split()) + _choices(info.annotation)
        yield f"| `{path}` | {meaning} | {' | '.join(values)} |"


def _choices(annotation: Any) -> str:
    if get_origin(annotation) is not Literal:
        return ""
    return f" One of {', '.join(map(str, get_args(annotation)))}."


def _value(preset: Any, path: list[str], default: Any) -> str:
    value: Any = preset
    for part in path:
        if not isinstance(value, dict) or part not in value:
            return "required" if default is PydanticUndefined else _shown(default)
        value = value[part]
    return _shown(value)


def _shown(value: Any) -> str:
    return "empty" if value in ("", None, [], ()) else f"`{json.dumps(value)}`".replace('"', "")


def table() -> str:
    return "\n".join(["| field of `spec` | meaning | Default | Reference |", "|---|---|---|---|", *rows()])


if __name__ == "__main__":
    print(table())  # noqa: T201
