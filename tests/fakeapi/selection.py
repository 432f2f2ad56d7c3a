"""Label selectors and field selectors."""

import re
from collections.abc import Callable

from fakeapi.errors import bad_request
from fakeapi.kinds import Body, Resource

Match = Callable[[Body], bool]

_SET = re.compile(r"^(\S+)\s+(in|notin)\s+\(([^)]*)\)$")
_FIELDS = {
    "pods": ("spec.nodeName", "status.phase"),
    "jobs": ("status.successful",),
    "events": ("involvedObject.kind", "involvedObject.name", "involvedObject.uid", "reason", "type"),
}


def selection(resource: Resource, labels: str, fields: str) -> Match | None:
    """Whether an object is selected; None selects everything.

    Raises:
        StatusError: a requirement cannot be read, or the field is not one that can be selected by.
    """
    tests = [_label(part) for part in _split(labels)] + [_field(resource, part) for part in _split(fields)]
    return (lambda body: all(test(body) for test in tests)) if tests else None


def _split(selector: str) -> list[str]:
    return [part.strip() for part in re.split(r",(?![^(]*\))", selector) if part.strip()]


def _label(part: str) -> Match:
    if found := _SET.match(part):
        key, operator, listed = found.groups()
        values = {value.strip() for value in listed.split(",")}
        if operator == "in":
            return lambda body: _labels(body).get(key) in values
        return lambda body: _labels(body).get(key) not in values
    if "!=" in part:
        key, _, value = (piece.strip() for piece in part.partition("!="))
        return lambda body: _labels(body).get(key) != value
    if "=" in part:
        key, value = (piece.strip() for piece in part.replace("==", "=").split("=", 1))
        return lambda body: _labels(body).get(key) == value
    if part.startswith("!"):
        return lambda body: part[1:].strip() not in _labels(body)
    if " " in part:
        raise bad_request(f"unable to parse requirement: {part!r}")
    return lambda body: part in _labels(body)


def _labels(body: Body) -> dict[str, str]:
    return body["metadata"].get("labels") or {}


def _field(resource: Resource, part: str) -> Match:
    differs = "!=" in part
    path, _, value = part.partition("!=") if differs else part.replace("==", "=").partition("=")
    allowed = ("metadata.name", "metadata.namespace", *_FIELDS.get(resource.plural, ()))
    if path not in allowed:
        raise bad_request(f'"{path}" is not a known field selector: only {", ".join(allowed)}')

    def matches(body: Body) -> bool:
        found: object = body
        for step in path.split("."):
            found = found.get(step, "") if isinstance(found, dict) else ""
        return (str(found) != value) is differs

    return matches
