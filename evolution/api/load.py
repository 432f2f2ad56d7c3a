"""Reading a run: YAML or an object of the cluster → preset merged under it → `EvolutionRun`, or errors that name line,
field and value."""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from evolution.api.errors import FieldError, InvalidRun
from evolution.api.presets import PRESETS, under
from evolution.api.run import EvolutionRun, Metadata, Preset
from evolution.api.runtime import PATTERN_MEANINGS, EvolutionRuntime
from evolution.api.schedule import EvolutionSchedule

Location = tuple[str | int, ...]
ResourceType = TypeVar("ResourceType", EvolutionRun, EvolutionRuntime, EvolutionSchedule)


class _Loader(yaml.SafeLoader):
    """YAML as the Kubernetes API reads it: `1e-4` is a number, and a key that occurs twice is a mistake."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def load_run(path: Path) -> EvolutionRun:
    """The run in `path`, with its preset applied and relative locations resolved against the file's folder.

    Raises:
        InvalidRun: the file is unreadable, is not one YAML document, or a field is wrong; all mistakes at once.
    """
    return parse_run(_text(path), source=str(path), folder=path.resolve().parent)


def load_document(path: Path) -> dict[str, Any]:
    """What the author wrote into `path`: without preset and checks, for a run that is made from it.

    Raises:
        InvalidRun: the file is unreadable, or is not one YAML document.
    """
    return _read_document(_text(path), str(path))[0]


def parse_run(text: str, *, source: str = "run", folder: Path | None = None) -> EvolutionRun:
    """The run in `text`; see `load_run`. Without `folder`, locations are left as they are."""
    document, lines = _read_document(text, source)
    run = _validated(EvolutionRun, _with_preset(document), source, lines)
    return with_absolute_locations(run, folder) if folder else run


def parse_value(text: str, source: str) -> Any:
    """The value of a field as a run file would have it.

    Raises:
        InvalidRun: it is not YAML.
    """
    return _read_yaml(text, source)[0]


def run_from_object(body: Mapping[str, Any]) -> EvolutionRun:
    """The run in an object that the API server holds, with its preset applied; its status is not looked at.

    Raises:
        InvalidRun: a field is wrong; all mistakes at once. `source` is namespace/name.
    """
    return _validated(EvolutionRun, _with_preset(_without_server_fields(body)), _object_name(body), {})


def runtime_from_object(body: Mapping[str, Any]) -> EvolutionRuntime:
    """The EvolutionRuntime or ClusterEvolutionRuntime in an object that the API server holds.

    Raises:
        InvalidRun: a field is wrong; all mistakes at once. `source` is namespace/name, or the name alone.
    """
    return _validated(EvolutionRuntime, _without_server_fields(body), _object_name(body), {})


def schedule_from_object(body: Mapping[str, Any]) -> EvolutionSchedule:
    """The EvolutionSchedule in an object that the API server holds, with the preset of its runs applied.

    Raises:
        InvalidRun: a field is wrong; all mistakes at once. `source` is namespace/name.
    """
    document = _without_server_fields(body)
    spec = document.get("spec")
    template = spec.get("runTemplate") if isinstance(spec, dict) else None
    if isinstance(spec, dict) and isinstance(template, dict):
        document["spec"] = spec | {"runTemplate": _with_preset(template)}
    return _validated(EvolutionSchedule, document, _object_name(body), {})


def with_absolute_locations(run: EvolutionRun, folder: Path) -> EvolutionRun:
    """`run` with every relative path of its spec turned into a file:// URI below `folder`."""
    spec = run.spec

    def absolute(uri: str) -> str:
        return uri if not uri or "://" in uri else (folder / uri).resolve().as_uri()

    changed: dict[str, BaseModel] = {
        "model": spec.model.model_copy(
            update={"uri": absolute(spec.model.uri), "adapter_uri": absolute(spec.model.adapter_uri)}
        ),
        "documents": spec.documents.model_copy(update={"uri": absolute(spec.documents.uri)}),
        "evaluation": spec.evaluation.model_copy(update={"uri": absolute(spec.evaluation.uri)}),
    }
    if spec.publish:
        changed["publish"] = spec.publish.model_copy(update={"uri": absolute(spec.publish.uri)})
    return run.model_copy(update={"spec": spec.model_copy(update=changed)})


def _validated(
    type_: type[ResourceType], document: Mapping[str, Any], source: str, lines: Mapping[Location, int]
) -> ResourceType:
    try:
        return type_.model_validate(document)
    except ValidationError as error:
        found = [_field_error(type_, details, lines) for details in error.errors()]
        raise InvalidRun(source, sorted(found, key=lambda e: (e.line or 10**9, e.path))) from error


def _without_server_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """What an author writes of an object: no status, and of its metadata only what `Metadata` has."""
    metadata = {name: value for name, value in body.get("metadata", {}).items() if name in Metadata.model_fields}
    return {name: value for name, value in body.items() if name != "status"} | {"metadata": metadata}


def _object_name(body: Mapping[str, Any]) -> str:
    metadata = body.get("metadata", {})
    return "/".join(part for part in (metadata.get("namespace"), metadata.get("name")) if part)


def _with_preset(document: dict[str, Any]) -> dict[str, Any]:
    spec = document.get("spec")
    if not isinstance(spec, dict):
        return document
    preset: Preset = "Reference" if spec.get("preset") == "Reference" else "Default"
    return document | {"spec": under(PRESETS[preset], spec)}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidRun(str(path), [FieldError("", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise InvalidRun(str(path), [FieldError("", f"is not UTF-8 text (byte {error.start})")]) from error


def _read_document(text: str, source: str) -> tuple[dict[str, Any], dict[Location, int]]:
    document, lines = _read_yaml(text, source)
    if not isinstance(document, dict):
        raise InvalidRun(
            source, [FieldError("", "is not an EvolutionRun: expected apiVersion, kind, metadata and spec", 1)]
        )
    return document, lines


def _read_yaml(text: str, source: str) -> tuple[Any, dict[Location, int]]:
    """The parsed document and the line of every field."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines: dict[Location, int] = {}
        duplicates: list[FieldError] = []
        _note_lines(node, (), lines, duplicates)
        if duplicates:
            raise InvalidRun(source, duplicates)
        return loader.construct_document(node), lines
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise InvalidRun(
            source, [FieldError("", f"is not valid YAML: {error.problem or error.context}", line)]
        ) from error
    except yaml.YAMLError as error:
        raise InvalidRun(source, [FieldError("", f"is not valid YAML: {error}")]) from error
    finally:
        loader.dispose()


def _note_lines(node: yaml.Node, at: Location, lines: dict[Location, int], duplicates: list[FieldError]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*at, str(key.value))
            if here in lines:
                duplicates.append(
                    FieldError(_path(here), f"is given twice (first in line {lines[here]})", key.start_mark.line + 1)
                )
            lines[here] = key.start_mark.line + 1
            _note_lines(value, here, lines, duplicates)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*at, index)] = value.start_mark.line + 1
            _note_lines(value, (*at, index), lines, duplicates)


def _path(location: Sequence[str | int]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _field_error(type_: type[BaseModel], details: ErrorDetails, lines: Mapping[Location, int]) -> FieldError:
    location = tuple(part for part in details["loc"] if isinstance(part, str | int))
    message = _explain(type_, details, location)
    if details["type"] == "value_error":  # our own validators name the field below `location` themselves
        inner, separator, rest = str(details.get("ctx", {}).get("error", details["msg"])).partition(": ")
        if separator and re.fullmatch(r"[\w.]+", inner):
            location, message = (*location, *inner.split(".")), rest
    line = next((lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in lines), 0)
    return FieldError(_path(location), message, line)


def _explain(type_: type[BaseModel], details: ErrorDetails, location: Location) -> str:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "missing":
        return "is missing; it has no default"
    if kind == "extra_forbidden":
        known = sorted(_known_fields(type_, location[:-1]))
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        return "unknown field" + (f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}")
    expectations: dict[str, Callable[[], str]] = {
        "greater_than_equal": lambda: f"give {context['ge']} or more",
        "greater_than": lambda: f"give more than {context['gt']}",
        "less_than_equal": lambda: f"give {context['le']} or less",
        "less_than": lambda: f"give less than {context['lt']}",
        "literal_error": lambda: f"give one of {context['expected'].replace(' or ', ', ')}",
        "string_type": lambda: "give a text in quotes",
        "int_type": lambda: "give a whole number",
        "int_from_float": lambda: "give a whole number",
        "float_type": lambda: "give a number",
        "bool_type": lambda: "give true or false",
        "model_type": lambda: "give a mapping of fields",
        "tuple_type": lambda: "give a list",
        "string_too_short": lambda: "it must not be empty",
        "string_too_long": lambda: f"give at most {context['max_length']} characters",
        "too_short": lambda: "give at least one entry",
        "too_long": lambda: f"give at most {context['max_length']} entries",
        "string_pattern_mismatch": lambda: (
            PATTERN_MEANINGS.get(context["pattern"])
            or (
                "use lower-case letters, digits and '-', starting and ending with a letter or digit"
                + (", at most 40 characters" if location[-1:] == ("name",) else "")
            )
        ),
    }
    expectation = expectations.get(kind)
    shown = "null" if value is None else repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "…"
    return f"is {shown}; {expectation()}" if expectation else f"is {shown}; {details['msg']}"


def _known_fields(type_: type[BaseModel], location: Location) -> Iterator[str]:
    """Wire names of the fields of the model at `location` below `type_`."""
    model: Any = type_
    for part in location:
        if isinstance(part, int):
            continue
        field = next(f for n, f in model.model_fields.items() if part in (f.alias, n))
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    yield from (field.alias or name for name, field in model.model_fields.items())
