"""A small client of the Kubernetes API: JSON over connections that stay open, and watches that survive their server."""

import http.client
import json
import socket
import ssl
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

Json = dict[str, Any]

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
NAMES_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
TIMEOUT = 30.0
"""Seconds that a request may take."""
WATCH_SECONDS = 300
RETRY_DELAY = 0.2
"""Seconds between attempts while the API server does not answer."""
UNAVAILABLE = (OSError, http.client.HTTPException)
"""What a request raises while there is no API server."""


class ApiError(Exception):
    """An answer that is no success."""

    def __init__(self, code: int, status: Json) -> None:
        super().__init__(f"{code} {status.get('message', '')}")
        self.code = code
        self.status = status

    @property
    def passes(self) -> bool:
        """Whether the same request may succeed later."""
        return self.code == 429 or self.code >= 500


@dataclass(frozen=True)
class Listed:
    """All objects of the collection, at the start and whenever the watch had to begin anew."""

    objects: list[Json]


@dataclass(frozen=True)
class Changed:
    object: Json


@dataclass(frozen=True)
class Removed:
    """Deleted, or no longer selected."""

    object: Json


class Api:
    """As the user of a kubeconfig with file names or inline data; each thread has a connection of its own."""

    def __init__(self, kubeconfig: Path) -> None:
        configuration = json.loads(kubeconfig.read_text())
        cluster, user = configuration["clusters"][0]["cluster"], configuration["users"][0]["user"]
        self.url: str = cluster["server"]
        self._server = urlsplit(self.url)
        self._tls = ssl.create_default_context(cadata=b64decode(cluster["certificate-authority-data"]).decode())
        if "client-certificate" in user:
            self._tls.load_cert_chain(user["client-certificate"], user["client-key"])
        self._headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        self._mine = threading.local()

    def get(self, path: str, **parameters: str) -> Json:
        """Raises ApiError, and one of UNAVAILABLE, as all requests do."""
        return self._request("GET", path, parameters=parameters)

    def create(self, path: str, body: Json) -> Json:
        return self._request("POST", path, body)

    def patch(self, path: str, body: Json, kind: str = MERGE) -> None:
        self._request("PATCH", path, body, kind, accept=NAMES_ONLY)

    def delete(self, path: str, **options: Any) -> None:
        """`options` are fields of DeleteOptions."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", **options}
        self._request("DELETE", path, body, accept=NAMES_ONLY)

    def _request(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        content: str = "application/json",
        accept: str = "application/json",
        parameters: dict[str, str] | None = None,
    ) -> Json:
        target = f"{path}?{urlencode(parameters)}" if parameters else path
        headers = {**self._headers, "Accept": accept, "Content-Type": content}
        response, answer = self._send(method, target, None if body is None else json.dumps(body), headers)
        if response.status >= 300:
            raise ApiError(response.status, _status(answer))
        parsed: Json = json.loads(answer)
        return parsed

    def _send(
        self, method: str, target: str, body: str | None, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        kept: http.client.HTTPSConnection | None = getattr(self._mine, "connection", None)
        connection = kept or self.connect(TIMEOUT)
        self._mine.connection = connection
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            return response, response.read()
        except UNAVAILABLE as error:
            connection.close()
            self._mine.connection = None
            # The server may close a connection that was idle. A request that was answered in part is not sent again.
            if kept and isinstance(
                error, (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError, ssl.SSLEOFError)
            ):
                return self._send(method, target, body, headers)
            raise

    def connect(self, timeout: float) -> http.client.HTTPSConnection:
        assert self._server.hostname
        return http.client.HTTPSConnection(self._server.hostname, self._server.port, timeout=timeout, context=self._tls)

    def watch(self, path: str, **selectors: str) -> "Watch":
        return Watch(self, path, selectors)


class Watch:
    """What happens in a collection, until it is closed."""

    def __init__(self, api: Api, path: str, selectors: dict[str, str]) -> None:
        self._api = api
        self._path = path
        self._selectors = selectors
        self._closed = threading.Event()
        self._connection: http.client.HTTPSConnection | None = None

    def __iter__(self) -> Iterator[Listed | Changed | Removed]:
        while not self._closed.is_set():
            try:
                collection = self._api.get(self._path, **self._selectors)
                yield Listed(collection["items"])
                yield from self._changes(collection["metadata"]["resourceVersion"])
            except ApiError as error:
                if error.code != 410 and not error.passes:
                    raise
                self._closed.wait(RETRY_DELAY)
            except (*UNAVAILABLE, ValueError):
                self._closed.wait(RETRY_DELAY)

    def close(self) -> None:
        self._closed.set()
        if (connection := self._connection) and connection.sock:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _changes(self, version: str) -> Iterator[Changed | Removed]:
        while not self._closed.is_set():
            for event in self._events(version):
                object_ = event["object"]
                if event["type"] == "ERROR":
                    raise ApiError(object_.get("code", 500), object_)
                version = object_["metadata"]["resourceVersion"]
                if event["type"] == "DELETED":
                    yield Removed(object_)
                elif event["type"] != "BOOKMARK":
                    yield Changed(object_)

    def _events(self, version: str) -> Iterator[Json]:
        options = {"watch": "1", "allowWatchBookmarks": "1", "timeoutSeconds": str(WATCH_SECONDS)}
        query = urlencode({**self._selectors, **options, "resourceVersion": version})
        self._connection = connection = self._api.connect(WATCH_SECONDS + TIMEOUT)
        try:
            connection.request("GET", f"{self._path}?{query}", headers=self._api._headers)
            response = connection.getresponse()
            if response.status != 200:
                raise ApiError(response.status, _status(response.read()))
            for line in response:
                if self._closed.is_set():
                    return
                yield json.loads(line)
        finally:
            connection.close()


def object_path(plural: str, name: str = "", namespace: str = "", group: str = "") -> str:
    """/api/v1/namespaces/…; `group` with its version, empty for the core group."""
    root = f"/apis/{group}" if group else "/api/v1"
    scope = f"/namespaces/{quote(namespace)}" if namespace else ""
    return f"{root}{scope}/{plural}" + (f"/{quote(name)}" if name else "")


def _status(answer: bytes) -> Json:
    try:
        parsed = json.loads(answer)
    except ValueError:
        parsed = None
    return parsed if isinstance(parsed, dict) else {"message": answer.decode(errors="replace")}
