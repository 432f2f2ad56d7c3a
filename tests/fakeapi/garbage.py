"""Garbage collection through owner references, and the end of deleted namespaces."""

import asyncio

from fakeapi.kinds import NAMESPACES, RESOURCES, Body, Resource
from fakeapi.storage import Change, Key, Storage, key_of
from fakeapi.writing import FOREGROUND, ORPHAN, Writer


class GarbageCollector:
    def __init__(self, storage: Storage, writer: Writer, *, seconds: float) -> None:
        self.storage, self.writer, self.seconds = storage, writer, seconds
        self._dependents: dict[str, set[tuple[Resource, Key]]] = {}
        self._alive: set[str] = {body["metadata"]["uid"] for body in storage.all(NAMESPACES)}
        storage.listeners.append(self._seen)

    def _seen(self, change: Change) -> None:
        resource, body = change.revision.resource, change.revision.body
        uid, loop = body["metadata"]["uid"], asyncio.get_running_loop()
        place = (resource, key_of(body))
        for reference in body["metadata"].get("ownerReferences") or []:
            dependents = self._dependents.setdefault(reference["uid"], set())
            (dependents.discard if change.type == "DELETED" else dependents.add)(place)
        if change.type == "DELETED":
            self._alive.discard(uid)
            if self._dependents.get(uid):
                loop.call_later(self.seconds, self._collect, uid)
        else:
            self._alive.add(uid)
            if change.type == "ADDED":
                for reference in body["metadata"].get("ownerReferences") or []:
                    if reference["uid"] not in self._alive:
                        loop.call_later(self.seconds, self._collect, reference["uid"])
        if body["metadata"].get("deletionTimestamp"):
            loop.call_later(self.seconds, self._finish, resource, key_of(body), uid)
        self._finish_owners(body, loop if change.type == "DELETED" else None)

    def _finish_owners(self, body: Body, loop: asyncio.AbstractEventLoop | None) -> None:
        """An owner that waits in the foreground looks again when a dependent is gone."""
        if loop is None:
            return
        for resource, key in self._waiting(body):
            loop.call_later(self.seconds, self._finish, resource, key, "")

    def _waiting(self, gone: Body) -> list[tuple[Resource, Key]]:
        kinds = {resource.kind: resource for resource in RESOURCES}
        found = []
        for reference in gone["metadata"].get("ownerReferences") or []:
            resource = kinds.get(reference["kind"])
            if resource is not None:
                namespace = gone["metadata"].get("namespace", "") if resource.namespaced else ""
                found.append((resource, Key(namespace, reference["name"])))
        if namespace := gone["metadata"].get("namespace"):
            found.append((NAMESPACES, Key("", namespace)))
        return found

    def _collect(self, owner: str) -> None:
        """The owner is gone, or never was: what belongs to nobody else goes too."""
        if owner in self._alive:
            return
        for resource, key in list(self._dependents.get(owner, ())):
            body = self.storage.find(resource, key)
            if body is None or body["metadata"].get("deletionTimestamp"):
                continue
            references = body["metadata"].get("ownerReferences") or []
            if not any(reference["uid"] in self._alive for reference in references):
                self.writer.delete(resource, key, {"propagationPolicy": "Background"})

    def _finish(self, resource: Resource, key: Key, uid: str) -> None:
        """Do for a deleted object what its finalizer, or its being a namespace, asks for."""
        body = self.storage.find(resource, key)
        if body is None or not body["metadata"].get("deletionTimestamp") or (uid and body["metadata"]["uid"] != uid):
            return
        uid, finalizers = body["metadata"]["uid"], body["metadata"].get("finalizers") or []
        if resource is NAMESPACES:
            self._empty_namespace(body)
        elif ORPHAN in finalizers:
            for kind, place in list(self._dependents.get(uid, ())):
                self._disown(kind, place, uid)
            self.writer.drop_finalizer(resource, body, ORPHAN)
        elif FOREGROUND in finalizers:
            left = list(self._dependents.get(uid, ()))
            for kind, place in left:
                dependent = self.storage.find(kind, place)
                if dependent is not None and not dependent["metadata"].get("deletionTimestamp"):
                    self.writer.delete(kind, place, {"propagationPolicy": "Foreground"})
            if not self._dependents.get(uid):
                self.writer.drop_finalizer(resource, body, FOREGROUND)

    def _disown(self, resource: Resource, key: Key, owner: str) -> None:
        body = self.storage.find(resource, key)
        if body is not None:
            references = [r for r in body["metadata"]["ownerReferences"] if r["uid"] != owner]
            metadata = {**body["metadata"], "ownerReferences": references}
            self.storage.replace(resource, body, {**body, "metadata": metadata})
            self._dependents[owner].discard((resource, key))

    def _empty_namespace(self, namespace: Body) -> None:
        name = namespace["metadata"]["name"]
        left = 0
        for resource in RESOURCES:
            for body in self.storage.all(resource, name) if resource.namespaced else ():
                if not body["metadata"].get("deletionTimestamp"):
                    self.writer.delete(resource, key_of(body), {"propagationPolicy": "Background"})
                left += self.storage.find(resource, key_of(body)) is not None
        if not left:
            self.storage.remove(NAMESPACES, self.storage.get(NAMESPACES, Key("", name)))
