"""Server-side apply, for the fields that a manager owns by having applied them."""

import json
from typing import Any

from fakeapi.errors import StatusError, bad_request
from fakeapi.kinds import Body, Resource
from fakeapi.patching import MERGE_KEYS, strategic_merge
from fakeapi.storage import Key, Storage, now
from fakeapi.writing import MERGE, Writer

APPLY = "application/apply-patch+yaml"

Path = tuple[str, ...]


class Applier:
    """Remembers who applied which fields. Updates and patches by others take no ownership, unlike in the real one."""

    def __init__(self, storage: Storage, writer: Writer) -> None:
        self.storage, self.writer = storage, writer
        self._owned: dict[tuple[str, str], dict[Path, Any]] = {}

    def apply(
        self, resource: Resource, key: Key, config: Body, subresource: str, *, manager: str, force: bool
    ) -> tuple[Body, bool]:
        """The object, and whether it was created.

        Raises:
            StatusError: 409, another manager applied another value, and `force` is not set.
        """
        if not manager:
            raise bad_request("PatchOptions.meta.k8s.io is invalid: fieldManager: Required value")
        fields = {name: value for name, value in config.items() if name not in ("apiVersion", "kind")}
        leaves = dict(_leaves(fields, (), ""))
        old = self.storage.find(resource, key)
        if old is None:
            metadata = {**config.get("metadata", {}), "name": key.name}
            made = self.writer.create(resource, key.namespace, {**config, "metadata": metadata})
            self._owned[made["metadata"]["uid"], manager] = leaves
            return made, True
        uid = old["metadata"]["uid"]
        others = {name: owned for (of, name), owned in self._owned.items() if of == uid and name != manager}
        for other, owned in others.items():
            clashing = [path for path, value in leaves.items() if path in owned and owned[path] != value]
            if clashing and not force:
                fields_named = ", ".join("." + ".".join(path) for path in clashing)
                message = f'Apply failed with {len(clashing)} conflict: conflict with "{other}": {fields_named}'
                raise StatusError(409, "Conflict", message)
            for path in clashing:
                del owned[path]
        before = self._owned.get((uid, manager), {})
        new = strategic_merge(old, fields)
        for path in before.keys() - leaves.keys():
            if not any(path in owned for owned in others.values()):
                new = _without(new, path)
        self._owned[uid, manager] = leaves
        entry = {"manager": manager, "operation": "Apply", "apiVersion": old["apiVersion"], "fieldsType": "FieldsV1"}
        earlier = [
            e
            for e in old["metadata"].get("managedFields", [])
            if (e["manager"], e.get("subresource", "")) != (manager, subresource)
        ]
        if _same(old, new):
            return old, False
        entry |= {"time": now(), "fieldsV1": {}} | ({"subresource": subresource} if subresource else {})
        new = {**new, "metadata": {**new["metadata"], "managedFields": [*earlier, entry]}}
        return self.writer.patch(resource, key, _difference(old, new), MERGE, subresource), False


def _leaves(value: Any, path: Path, field: str) -> list[tuple[Path, Any]]:
    if isinstance(value, dict) and value:
        return [leaf for name, item in value.items() for leaf in _leaves(item, (*path, name), name)]
    if isinstance(value, list) and field in MERGE_KEYS:
        key = MERGE_KEYS[field]
        return [leaf for item in value for leaf in _leaves(item, (*path, f"{key}={item[key]}"), "")]
    return [(path, json.dumps(value, sort_keys=True))]


def _without(value: Any, path: Path) -> Any:
    step, rest = path[0], path[1:]
    if isinstance(value, list):
        key, _, wanted = step.partition("=")
        kept = [_without(item, rest) if rest and item.get(key) == wanted else item for item in value]
        return [item for item in kept if item and not (item.get(key) == wanted and set(item) == {key})]
    if not isinstance(value, dict) or step not in value:
        return value
    if not rest:
        return {name: item for name, item in value.items() if name != step}
    return {**value, step: _without(value[step], rest)}


def _same(old: Body, new: Body) -> bool:
    return json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True)


def _difference(old: Any, new: Any) -> Any:
    """The merge patch that makes `new` of `old`."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    patch = {name: None for name in old if name not in new}
    return patch | {name: _difference(old.get(name), value) for name, value in new.items() if old.get(name) != value}
