"""A small synchronous client for tests: plain dicts, over HTTP or over TLS with the certificates of a kubeconfig."""

import http.client
import json
import ssl
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

import yaml

from fakeapi.kinds import Body, Resource
from fakeapi.writing import JSON_PATCH, MERGE


class ApiError(Exception):
    """The server refused: `code` and `reason` as in its Status."""

    def __init__(self, code: int, body: Body) -> None:
        self.code, self.body = code, body
        self.reason = str(body.get("reason", ""))
        super().__init__(f"{code} {self.reason}: {body.get('message', body)}")


class Client:
    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        self.url, self.tls = url, tls
        self._address = urlsplit(url)
        self._local = threading.local()

    @classmethod
    def from_kubeconfig(cls, path: Path) -> Self:
        return cls(*credentials(path))

    def request(self, method: str, path: str, body: Any = None, content_type: str = "", **query: str) -> Any:
        """The answer's JSON. Raises: ApiError: the code is not 2xx."""
        if query:
            path += "?" + urlencode(query)
        headers = {"Content-Type": content_type or "application/json"} if body is not None else {}
        data = json.dumps(body) if body is not None else None
        for fresh in (False, True):
            connection = None if fresh else getattr(self._local, "connection", None)
            if connection is None:
                connection = self._local.connection = self._connect(60)
                fresh = True
            try:
                connection.request(method, path, body=data, headers=headers)
                response = connection.getresponse()
                text = response.read()
                break
            except (http.client.HTTPException, OSError):
                connection.close()
                self._local.connection = None
                if fresh:
                    raise
        if response.status >= 300:
            raise ApiError(response.status, _parsed(text))
        return _parsed(text)

    def get(self, resource: Resource, name: str, namespace: str = "default") -> Body:
        return self._dict("GET", path_of(resource, namespace, name))

    def create(self, resource: Resource, body: Body, namespace: str = "default", **query: str) -> Body:
        full = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        return self._dict("POST", path_of(resource, namespace), full, **query)

    def update(self, resource: Resource, body: Body, subresource: str = "") -> Body:
        metadata = body["metadata"]
        path = path_of(resource, metadata.get("namespace", ""), metadata["name"], subresource)
        return self._dict("PUT", path, body)

    def patch(
        self,
        resource: Resource,
        name: str,
        patch: Any,
        namespace: str = "default",
        subresource: str = "",
        content_type: str = "",
        **query: str,
    ) -> Body:
        kind = content_type or (JSON_PATCH if isinstance(patch, list) else MERGE)
        return self._dict("PATCH", path_of(resource, namespace, name, subresource), patch, kind, **query)

    def delete(self, resource: Resource, name: str, namespace: str = "default", **options: Any) -> Body:
        return self._dict("DELETE", path_of(resource, namespace, name), options or None)

    def page(self, resource: Resource, namespace: str = "default", **query: str) -> Body:
        """The whole List object, for one chunk."""
        return self._dict("GET", path_of(resource, namespace), **query)

    def items(self, resource: Resource, namespace: str = "default", **query: str) -> list[Body]:
        found: list[Body] = self.page(resource, namespace, **query)["items"]
        return found

    def watch(self, resource: Resource, namespace: str = "default", **query: str) -> Iterator[tuple[str, Body]]:
        """Types and objects until the server ends the watch; `timeoutSeconds` is 30 unless given."""
        query = {"watch": "true", "timeoutSeconds": "30", **query}
        connection = self._connect(60)
        try:
            connection.request("GET", path_of(resource, namespace) + "?" + urlencode(query))
            response = connection.getresponse()
            if response.status >= 300:
                raise ApiError(response.status, _parsed(response.read()))
            for line in response:
                event = json.loads(line)
                yield event["type"], event["object"]
        finally:
            connection.close()

    def until(
        self,
        resource: Resource,
        name: str,
        holds: Callable[[Body], bool],
        namespace: str = "default",
        seconds: float = 30,
    ) -> Body:
        """The object once the condition holds. Raises: AssertionError: it did not in time."""
        ends, body = time.monotonic() + seconds, {}
        while time.monotonic() < ends:
            body = self.get(resource, name, namespace)
            if holds(body):
                return body
            time.sleep(0.02)
        raise AssertionError(f"{resource.kind} {name} in {namespace} is not as expected after {seconds} s: {body}")

    def until_gone(self, resource: Resource, name: str, namespace: str = "default", seconds: float = 30) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            try:
                self.get(resource, name, namespace)
            except ApiError as error:
                if error.code == 404:
                    return
                raise
            time.sleep(0.02)
        raise AssertionError(f"{resource.kind} {name} in {namespace} is still there after {seconds} s")

    def _dict(self, method: str, path: str, body: Any = None, content_type: str = "", **query: str) -> Body:
        answer = self.request(method, path, body, content_type, **query)
        assert isinstance(answer, dict)
        return answer

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        host, port = self._address.hostname or "", self._address.port
        if self.tls is not None:
            return http.client.HTTPSConnection(host, port, timeout=timeout, context=self.tls)
        return http.client.HTTPConnection(host, port, timeout=timeout)


def credentials(kubeconfig: Path) -> tuple[str, ssl.SSLContext | None]:
    """Address of the server, and for https how to speak with it as the kubeconfig's user."""
    config = yaml.safe_load(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    if not cluster["server"].startswith("https"):
        return cluster["server"], None
    authority = b64decode(cluster.get("certificate-authority-data", "")).decode()
    tls = ssl.create_default_context(cafile=cluster.get("certificate-authority"), cadata=authority or None)
    tls.load_cert_chain(user["client-certificate"], user["client-key"])
    return cluster["server"], tls


def path_of(resource: Resource, namespace: str = "", name: str = "", subresource: str = "") -> str:
    parts = ["/apis", resource.group] if resource.group else ["/api"]
    parts.append(resource.version)
    if resource.namespaced and namespace:
        parts += ["namespaces", namespace]
    parts.append(resource.plural)
    return "/".join(parts + [part for part in (name, subresource) if part])


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"message": text.decode(errors="replace")}
