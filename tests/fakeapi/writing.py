"""Create, update, patch and delete, with the rules of the Kubernetes API."""

import random
from collections import Counter
from typing import Any

from fakeapi.defaults import check_update, with_defaults
from fakeapi.errors import StatusError, bad_request, conflict, invalid, not_found
from fakeapi.kinds import JOBS, NAMESPACES, PODS, Body, Resource
from fakeapi.patching import json_patch, merge_patch, strategic_merge
from fakeapi.schema import conform
from fakeapi.storage import Key, Storage, key_of, now

MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"

_SERVER_OWNED = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")
ORPHAN, FOREGROUND = "orphan", "foregroundDeletion"


class Writer:
    """The write half of the API."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.created: Counter[tuple[Resource, Key]] = Counter()
        """How often an object of that name came to be, deleted ones included."""

    def create(self, resource: Resource, namespace: str, body: Body, *, dry_run: bool = False) -> Body:
        metadata = dict(body.get("metadata") or {})
        if metadata.get("namespace", namespace) != namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        if not metadata.get("name"):
            if not metadata.get("generateName"):
                raise invalid(resource, "", "metadata.name: Required value: name or generateName is required")
            metadata["name"] = metadata["generateName"] + random_suffix()
        if metadata.get("resourceVersion"):
            raise bad_request("resourceVersion should not be set on objects to be created")
        if resource.namespaced:
            metadata["namespace"] = namespace
            self._check_namespace(namespace)
        for name in _SERVER_OWNED:
            metadata.pop(name, None)
        body = {**body, "metadata": metadata}
        if resource.status:
            body.pop("status", None)
        body = with_defaults(resource, body)
        if dry_run:
            return {**body, "apiVersion": resource.api_version, "kind": resource.kind}
        made = self.storage.add(resource, body)
        self.created[resource, key_of(made)] += 1
        return made

    def update(self, resource: Resource, key: Key, body: Body, subresource: str = "", *, dry_run: bool = False) -> Body:
        old = self.storage.get(resource, key)
        metadata = body.get("metadata") or {}
        if metadata.get("name", key.name) != key.name:
            raise bad_request(
                f"the name of the object ({metadata['name']}) does not match the name on the URL ({key.name})"
            )
        if resource.custom and not metadata.get("resourceVersion"):
            why = "metadata.resourceVersion: Invalid value: 0: must be specified for an update"
            raise invalid(resource, key.name, why)
        return self._write(resource, old, body, subresource, dry_run=dry_run)

    def patch(
        self,
        resource: Resource,
        key: Key,
        patch: Any,
        content_type: str,
        subresource: str = "",
        *,
        dry_run: bool = False,
    ) -> Body:
        old = self.storage.get(resource, key)
        if content_type == MERGE:
            new = merge_patch(old, patch)
        elif content_type == JSON_PATCH:
            new = json_patch(old, patch)
        elif content_type == STRATEGIC and not resource.custom:
            new = strategic_merge(old, patch)
        else:
            accepted = [JSON_PATCH, MERGE] if resource.custom else [JSON_PATCH, MERGE, STRATEGIC]
            message = (
                "the body of the request was in an unknown format - accepted media types include: "
                f"{', '.join(accepted)}"
            )
            raise StatusError(415, "UnsupportedMediaType", message)
        return self._write(resource, old, new, subresource, dry_run=dry_run)

    def delete(self, resource: Resource, key: Key, options: Body | None = None) -> tuple[Body, bool]:
        """The object as it is now, and whether it is gone already."""
        options = options or {}
        old = self.storage.get(resource, key)
        _check_preconditions(resource, old, options.get("preconditions") or {})
        metadata = dict(old["metadata"])
        finalizers = list(metadata.get("finalizers") or [])
        # Jobs alone keep their pods unless told otherwise, for compatibility with the first versions.
        policy = options.get("propagationPolicy") or ("Orphan" if resource is JOBS else "Background")
        extra = {"Orphan": ORPHAN, "Foreground": FOREGROUND}.get(policy)
        if extra and extra not in finalizers:
            finalizers.append(extra)
        grace = options.get("gracePeriodSeconds")
        graceful = resource is PODS and grace != 0 and bool(old.get("spec", {}).get("nodeName")) and not _ended(old)
        if finalizers or graceful or resource is NAMESPACES:
            if not metadata.get("deletionTimestamp"):
                metadata |= {"deletionTimestamp": now(), "deletionGracePeriodSeconds": 30 if graceful else 0}
                if "generation" in metadata:
                    metadata["generation"] += 1
            if finalizers:
                metadata["finalizers"] = finalizers
            new = {**old, "metadata": metadata}
            if resource is NAMESPACES:
                new["status"] = {**new.get("status", {}), "phase": "Terminating"}
            return self.storage.replace(resource, old, new), False
        return self.storage.remove(resource, old), True

    def drop_finalizer(self, resource: Resource, body: Body, finalizer: str) -> Body:
        """Take a finalizer off the stored object; the last one off a deleted object removes it."""
        old = self.storage.find(resource, key_of(body))
        if old is None or finalizer not in old["metadata"].get("finalizers", []):
            return body
        left = [item for item in old["metadata"]["finalizers"] if item != finalizer]
        return self._write(resource, old, {**old, "metadata": {**old["metadata"], "finalizers": left}}, "")

    def set_status(self, resource: Resource, body: Body, status: Body) -> Body:
        """As the resource's own controller does, who takes what is stored for granted."""
        old = self.storage.get(resource, key_of(body))
        return self.storage.replace(resource, old, {**old, "status": status})

    def _write(self, resource: Resource, old: Body, new: Body, subresource: str, *, dry_run: bool = False) -> Body:
        name = old["metadata"]["name"]
        metadata = dict(new.get("metadata") or {})
        if metadata.get("uid", old["metadata"]["uid"]) != old["metadata"]["uid"]:
            why = f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: "
            raise conflict(resource, name, why + old["metadata"]["uid"])
        version = old["metadata"]["resourceVersion"]
        if metadata.get("resourceVersion", version) != version:
            raise conflict(resource, name)
        if subresource == "status":
            result = {**old, "status": new.get("status", {})}
            if resource.custom:
                result = conform(resource, result)
        else:
            for field in ("name", "namespace", "resourceVersion", *_SERVER_OWNED):
                metadata.pop(field, None)
                if field in old["metadata"]:
                    metadata[field] = old["metadata"][field]
            for field in ("labels", "annotations", "finalizers", "ownerReferences"):
                if not metadata.get(field):
                    metadata.pop(field, None)
            if resource is JOBS and not metadata.get("labels"):
                metadata["labels"] = new["spec"]["template"]["metadata"]["labels"]
            result = {**new, "apiVersion": old["apiVersion"], "kind": old["kind"], "metadata": metadata}
            if resource.status:
                result.pop("status", None)
                if "status" in old:
                    result["status"] = old["status"]
            check_update(resource, old, result)
            if resource.custom:
                result = conform(resource, result)
                metadata = result["metadata"]
            if resource.has_generation and _wished(old) != _wished(result):
                metadata["generation"] = old["metadata"]["generation"] + 1
        if dry_run:
            return result
        stored = self.storage.replace(resource, old, result)
        if self._all_done(resource, stored):
            return self.storage.remove(resource, stored)
        return stored

    @staticmethod
    def _all_done(resource: Resource, body: Body) -> bool:
        metadata = body["metadata"]
        waits = resource is NAMESPACES or (resource is PODS and not _ended(body) and body["spec"].get("nodeName"))
        return bool(metadata.get("deletionTimestamp")) and not metadata.get("finalizers") and not waits

    def _check_namespace(self, namespace: str) -> None:
        found = self.storage.find(NAMESPACES, Key("", namespace))
        if found is None:
            raise not_found(NAMESPACES, namespace)
        if found["metadata"].get("deletionTimestamp"):
            message = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise StatusError(403, "Forbidden", message)


def _check_preconditions(resource: Resource, old: Body, preconditions: Body) -> None:
    for field, called in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
        wanted, found = preconditions.get(field), old["metadata"][field]
        if wanted and wanted != found:
            why = f"{called} in precondition: {wanted}, {called} in object meta: {found}"
            raise conflict(resource, old["metadata"]["name"], f"Precondition failed: {why}")


def _wished(body: Body) -> Body:
    return {name: value for name, value in body.items() if name not in ("metadata", "status")}


def _ended(pod: Body) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def random_suffix() -> str:
    return "".join(random.choices("bcdfghjklmnpqrstvwxz2456789", k=5))
