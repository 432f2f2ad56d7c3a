"""Objects, versions and the history of changes: what etcd and the API machinery are to a real server.

Used from one thread, that of the server's event loop. Objects that are stored are never changed in place.
"""

import asyncio
import copy
import json
import uuid
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Literal, NamedTuple

from fakeapi.errors import already_exists, expired, not_found
from fakeapi.kinds import NAMESPACES, RESOURCES, Body, Resource


class Key(NamedTuple):
    namespace: str
    name: str


class Revision:
    """One version of an object, encoded at most once."""

    def __init__(self, resource: Resource, body: Body) -> None:
        self.resource, self.body = resource, body

    @property
    def key(self) -> Key:
        return key_of(self.body)

    @property
    def version(self) -> int:
        return int(self.body["metadata"]["resourceVersion"])

    @cached_property
    def raw(self) -> bytes:
        return encode(self.body)

    @cached_property
    def raw_item(self) -> bytes:
        """As in a list: built-in kinds leave out what the list says already."""
        if self.resource.custom:
            return self.raw
        return encode({name: value for name, value in self.body.items() if name not in ("kind", "apiVersion")})


ChangeType = Literal["ADDED", "MODIFIED", "DELETED"]


@dataclass(frozen=True, slots=True)
class Change:
    version: int
    type: ChangeType
    revision: Revision
    before: Revision | None


@dataclass(slots=True)
class Table:
    """All objects of one resource, and what happened to them since the last compaction."""

    resource: Resource
    objects: dict[Key, Revision] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    compacted: int = 0
    """Changes up to this version are forgotten."""
    dropped: int = 0
    """How many changes are forgotten."""
    pulse: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and replaced, with every change."""

    def position_after(self, version: int) -> int:
        """Where the changes after `version` begin, counted from the first change ever.

        Raises:
            StatusError: 410, they are compacted.
        """
        if version < self.compacted:
            raise expired(f"too old resource version: {version} ({self.compacted})")
        return self.dropped + bisect_right(self.changes, version, key=lambda change: change.version)

    def changes_from(self, position: int) -> list[Change]:
        """Raises: StatusError: 410, they are compacted."""
        if position < self.dropped:
            raise expired(f"too old resource version: ({self.compacted})")
        return self.changes[position - self.dropped :]

    def compact(self, version: int) -> None:
        keep = bisect_right(self.changes, version, key=lambda change: change.version)
        self.dropped += keep
        del self.changes[:keep]
        self.compacted = version


Listener = Callable[[Change], None]


class Storage:
    """Every write goes through `add`, `replace` or `remove`; versions grow by one with each of them."""

    HISTORY = 20_000
    """Changes kept per resource before the older half is forgotten."""

    def __init__(self) -> None:
        self.version = 1
        self.tables = {resource: Table(resource) for resource in RESOURCES}
        self.listeners: list[Listener] = []
        for name in ("default", "kube-system"):
            self.add(NAMESPACES, {"metadata": {"name": name}, "status": {"phase": "Active"}})

    def find(self, resource: Resource, key: Key) -> Body | None:
        revision = self.tables[resource].objects.get(key)
        return revision.body if revision else None

    def get(self, resource: Resource, key: Key) -> Body:
        """Raises: StatusError: 404."""
        body = self.find(resource, key)
        if body is None:
            raise not_found(resource, key.name)
        return body

    def all(self, resource: Resource, namespace: str = "") -> Iterator[Body]:
        for key, revision in list(self.tables[resource].objects.items()):
            if not namespace or key.namespace == namespace:
                yield revision.body

    def add(self, resource: Resource, body: Body) -> Body:
        """Store a new object; the server's own metadata are filled in.

        Raises:
            StatusError: 409, it exists already.
        """
        metadata = dict(body["metadata"])
        if Key(metadata.get("namespace", ""), metadata["name"]) in self.tables[resource].objects:
            raise already_exists(resource, metadata["name"])
        metadata = {"uid": str(uuid.uuid4()), **metadata, "creationTimestamp": now()}
        if resource.has_generation:
            metadata["generation"] = 1
        new = {**body, "apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}
        return self._commit("ADDED", resource, new, None)

    def replace(self, resource: Resource, old: Body, new: Body) -> Body:
        """Store a new version of `old`. A version that changes nothing is not stored; the stored object is returned."""
        if _without_version(old) == _without_version(new):
            return old
        return self._commit("MODIFIED", resource, new, self.tables[resource].objects[key_of(old)])

    def remove(self, resource: Resource, old: Body) -> Body:
        return self._commit("DELETED", resource, old, self.tables[resource].objects[key_of(old)])

    def compact(self) -> None:
        """Forget the history: a watch from an earlier version is answered 410."""
        for table in self.tables.values():
            table.compact(self.version)

    def _commit(self, type_: ChangeType, resource: Resource, body: Body, before: Revision | None) -> Body:
        self.version += 1
        body = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        table, revision = self.tables[resource], Revision(resource, body)
        if type_ == "DELETED":
            del table.objects[revision.key]
        else:
            table.objects[revision.key] = revision
        change = Change(self.version, type_, revision, before)
        table.changes.append(change)
        if len(table.changes) > self.HISTORY:
            table.compact(table.changes[self.HISTORY // 2].version)
        pulse, table.pulse = table.pulse, asyncio.Event()
        pulse.set()
        for listener in self.listeners:
            listener(change)
        return body


def key_of(body: Body) -> Key:
    return Key(body["metadata"].get("namespace", ""), body["metadata"]["name"])


def encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def changed(body: Body) -> Body:
    """A copy that may be changed."""
    return copy.deepcopy(body)


def _without_version(body: Body) -> Body:
    metadata = {name: value for name, value in body["metadata"].items() if name != "resourceVersion"}
    return {**body, "metadata": metadata}
