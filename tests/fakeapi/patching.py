"""Patches: JSON merge patch, JSON patch, strategic merge for built-in kinds. None of them changes its arguments."""

import copy
from typing import Any

from fakeapi.errors import StatusError, bad_request

MERGE_KEYS = {
    "conditions": "type",
    "containers": "name",
    "env": "name",
    "volumes": "name",
    "ownerReferences": "uid",
    "containerStatuses": "name",
}
"""Lists that strategic merge and server-side apply treat as maps, and the field that tells their items apart."""


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def strategic_merge(target: Any, patch: Any, field: str = "") -> Any:
    if isinstance(patch, list):
        key = MERGE_KEYS.get(field)
        if field == "finalizers":
            return [*(target or []), *(item for item in patch if item not in (target or []))]
        return _merged_list(target or [], patch, key) if key else patch
    if not isinstance(patch, dict):
        return patch
    if patch.get("$patch") == "replace":
        return {name: value for name, value in patch.items() if name != "$patch"}
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if name.startswith("$deleteFromPrimitiveList/"):
            name = name.partition("/")[2]
            result[name] = [item for item in result.get(name, []) if item not in value]
        elif name.startswith("$"):
            continue
        elif value is None:
            result.pop(name, None)
        else:
            result[name] = strategic_merge(result.get(name), value, name)
    return result


def _merged_list(target: list[Any], patch: list[Any], key: str) -> list[Any]:
    result = {item[key]: item for item in target}
    for item in patch:
        if item.get("$patch") == "delete":
            result.pop(item[key], None)
        else:
            result[item[key]] = strategic_merge(result.get(item[key]), item)
    return list(result.values())


def json_patch(target: Any, operations: list[dict[str, Any]]) -> Any:
    """RFC 6902: add, remove, replace, move, copy, test.

    Raises:
        StatusError: 422 for a path that is not there or a test that fails, 400 for what is no patch.
    """
    if not isinstance(operations, list):
        raise bad_request("cannot unmarshal object into a JSON patch: it must be a list of operations")
    document = {"": copy.deepcopy(target)}
    for operation in operations:
        kind, path = operation.get("op"), _pointer(operation.get("path", ""))
        if kind == "test":
            if _get(document, path) != operation.get("value"):
                raise _cannot(f"testing path {operation['path']} failed")
        elif kind == "remove":
            _remove(document, path)
        elif kind == "replace":
            _get(document, path)
            _put(document, path, copy.deepcopy(operation["value"]), replace=True)
        elif kind == "add":
            _put(document, path, copy.deepcopy(operation["value"]))
        elif kind in ("move", "copy"):
            source = _pointer(operation["from"])
            value = copy.deepcopy(_get(document, source))
            if kind == "move":
                _remove(document, source)
            _put(document, path, value)
        else:
            raise bad_request(f"Unexpected kind: {kind}")
    return document[""]


def _cannot(why: str) -> StatusError:
    return StatusError(422, "Invalid", f"the server rejected our request due to an error in our request: {why}")


def _pointer(path: str) -> list[str]:
    return [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")]


def _get(document: Any, path: list[str]) -> Any:
    for step in path:
        try:
            document = document[int(step)] if isinstance(document, list) else document[step]
        except (KeyError, IndexError, ValueError, TypeError):
            raise _cannot(f"{'/'.join(path)} does not exist") from None
    return document


def _put(document: Any, path: list[str], value: Any, *, replace: bool = False) -> None:
    parent, last = _get(document, path[:-1]), path[-1]
    if isinstance(parent, list):
        if replace:
            parent[int(last)] = value
        else:
            parent.insert(len(parent) if last == "-" else int(last), value)
    elif isinstance(parent, dict):
        parent[last] = value
    else:
        raise _cannot(f"{'/'.join(path[:-1])} is no container")


def _remove(document: Any, path: list[str]) -> None:
    _get(document, path)
    parent, last = _get(document, path[:-1]), path[-1]
    del parent[int(last) if isinstance(parent, list) else last]
