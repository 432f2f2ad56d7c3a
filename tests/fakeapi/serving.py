"""The HTTP surface: paths, verbs, discovery."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from fakeapi.applying import APPLY, Applier
from fakeapi.errors import StatusError, bad_request
from fakeapi.kinds import BY_PATH, JOBS, PODS, RESOURCES, Body, Resource
from fakeapi.kubelet import Fate, Kubelet
from fakeapi.listing import Lister, Watch
from fakeapi.storage import Key, Storage, encode
from fakeapi.writing import Writer

VERSION = {"major": "1", "minor": "34", "gitVersion": "v1.34.4", "platform": "linux/amd64"}
VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names."""

    resource: Resource
    namespace: str
    name: str
    subresource: str

    @property
    def key(self) -> Key:
        return Key(self.namespace, self.name)


def parse_path(path: str) -> Target | None:
    """None: the path names no resource that is served."""
    parts = [part for part in path.split("/") if part]
    if parts[:1] == ["api"] and len(parts) >= 3:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[:1] == ["apis"] and len(parts) >= 4:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = ""
    if rest[0] == "namespaces" and len(rest) >= 3 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    resource = BY_PATH.get((group, version, rest[0]))
    if resource is None or len(rest) > 3:
        return None
    name, subresource = (*rest[1:], "", "")[:2]
    return Target(resource, namespace, name, subresource)


class Service:
    """Answers requests from the storage."""

    def __init__(self, storage: Storage, writer: Writer, kubelet: Kubelet, *, bookmark_seconds: float) -> None:
        self.storage, self.writer, self.kubelet = storage, writer, kubelet
        self.lister, self.applier = Lister(storage), Applier(storage, writer)
        self.bookmark_seconds = bookmark_seconds

    async def handle(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._handle(request)
        except StatusError as error:
            return _json(error.body, error.code)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.path.startswith("/fake/"):
            return await self._control(request)
        if (found := discovery(request.path)) is not None:
            return _json(found)
        target = parse_path(request.path)
        if target is None:
            raise StatusError(404, "NotFound", "the server could not find the requested resource")
        query, dry_run = request.query, request.query.get("dryRun") == "All"
        if request.method == "GET":
            return await self._read(request, target, query)
        body = await _body(request)
        if request.method == "POST":
            if target.subresource == "eviction":
                self.kubelet.evict(target.key, "EvictionByEvictionAPI")
                return _json(_success(target), 201)
            made = self.writer.create(target.resource, target.namespace, body, dry_run=dry_run)
            return _json(made, 201)
        if request.method == "PUT":
            return _json(self.writer.update(target.resource, target.key, body, target.subresource, dry_run=dry_run))
        if request.method == "PATCH":
            if request.content_type == APPLY:
                applied, made_now = self.applier.apply(
                    target.resource,
                    target.key,
                    body,
                    target.subresource,
                    manager=query.get("fieldManager", ""),
                    force=query.get("force") == "true",
                )
                return _json(applied, 201 if made_now else 200)
            return _json(
                self.writer.patch(
                    target.resource, target.key, body, request.content_type, target.subresource, dry_run=dry_run
                )
            )
        if request.method == "DELETE":
            return self._delete(target, body or {}, query)
        raise StatusError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")

    async def _read(self, request: web.Request, target: Target, query: Mapping[str, str]) -> web.StreamResponse:
        if target.name:
            if target.resource is PODS and target.subresource == "log":
                self.storage.get(PODS, target.key)
                return web.Response(text="")
            self.storage.get(target.resource, target.key)
            raw = self.storage.tables[target.resource].objects[target.key].raw
            return web.Response(body=raw, content_type="application/json")
        if query.get("watch") in ("true", "1"):
            return await self._watch(request, target, query)
        page = self.lister.chunk(target.resource, target.namespace, query)
        return web.Response(body=page, content_type="application/json")

    async def _watch(self, request: web.Request, target: Target, query: Mapping[str, str]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        watch = Watch(self.storage, target.resource, target.namespace, query, self.bookmark_seconds)
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            async for lines in watch.lines():
                await response.write(lines)
        return response

    def _delete(self, target: Target, options: Body, query: Mapping[str, str]) -> web.Response:
        if "propagationPolicy" in query:
            options = {**options, "propagationPolicy": query["propagationPolicy"]}
        if "gracePeriodSeconds" in query:
            options = {**options, "gracePeriodSeconds": int(query["gracePeriodSeconds"])}
        if not target.name:
            page = json.loads(self.lister.chunk(target.resource, target.namespace, query))
            for item in page["items"]:
                key = Key(item["metadata"].get("namespace", ""), item["metadata"]["name"])
                self.writer.delete(target.resource, key, options)
            return _json(page)
        body, gone = self.writer.delete(target.resource, target.key, options)
        return _json(_success(target) if gone and target.resource is not PODS else body)

    async def _control(self, request: web.Request) -> web.Response:
        """What a test in another process steers the server with."""
        command = request.path.removeprefix("/fake/")
        if command == "compact":
            self.storage.compact()
            self.lister.forget_snapshots()
        elif command == "fates" and request.method == "POST":
            self.kubelet.fates.append(Fate(**await request.json()))
        elif command == "fates":
            return _json({"items": [dataclasses.asdict(fate) for fate in self.kubelet.fates]})
        elif command == "created":
            counts = [[*key, count] for (kind, key), count in self.writer.created.items() if kind is JOBS]
            return _json({"jobs": counts})
        else:
            raise bad_request(f"no such command: {command}; there are compact, fates, created")
        return _json({})


def discovery(path: str) -> Body | None:
    """Answers to what clients ask before they know what there is."""
    path = path.rstrip("/")
    if path in ("/healthz", "/readyz", "/livez"):
        return {"status": "ok"}
    if path == "/version":
        return dict(VERSION)
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = {resource.group: resource.version for resource in RESOURCES if resource.group}
        return {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [
                {"name": group, "versions": [version := _version(group, v)], "preferredVersion": version}
                for group, v in groups.items()
            ],
        }
    parts = path.split("/")[1:]
    if parts[0] == "api" and len(parts) == 2:
        wanted = parts[1]
    elif parts[0] == "apis" and len(parts) == 3:
        wanted = "/".join(parts[1:])
    else:
        return None
    served = [resource for resource in RESOURCES if resource.api_version == wanted]
    if not served:
        return None
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": wanted,
        "resources": [entry for resource in served for entry in _entries(resource)],
    }


def _version(group: str, version: str) -> Body:
    return {"groupVersion": f"{group}/{version}", "version": version}


def _entries(resource: Resource) -> list[Body]:
    entry: Body = {
        "name": resource.plural,
        "singularName": resource.kind.lower(),
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": VERBS,
        "shortNames": list(resource.short_names),
        "categories": list(resource.categories),
    }
    if not resource.status:
        return [entry]
    status = {
        "name": f"{resource.plural}/status",
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": ["get", "patch", "update"],
    }
    return [entry, status]


async def _body(request: web.Request) -> Any:
    text = await request.read()
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise bad_request(f"the object provided is no JSON: {error}") from None


def _success(target: Target) -> Body:
    details = {"name": target.name, "group": target.resource.group, "kind": target.resource.plural}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(body=encode(body), status=status, content_type="application/json")
