"""A stand-in for the Hugging Face Hub on loopback, which speaks as much of its HTTP API as a download needs."""

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".bin", ".parquet")
"""Files of these kinds are stored by SHA-256, behind a redirect, as the hub does with large files."""


class HubServer:
    """One repository, at one commit."""

    def __init__(self, place: str, files: Mapping[str, bytes]) -> None:
        self.place = place
        """org/name, or datasets/org/name"""
        self.files = dict(files)
        self.refusal: tuple[int, str] | None = None
        """Status and error code of every answer."""
        self.tokens: set[str] = set()
        """Those that came with a listing."""
        self.silent = 0
        """So many listings get no answer, however long one waits."""
        self.left = threading.Event()
        self.cut_downloads = 0
        """So many downloads break off in the middle."""
        self.damaged: set[str] = set()
        """Files of which another content arrives than was announced."""
        self.requests: list[str] = []
        """Method, path and range of every request."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.left.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def downloads(self) -> list[str]:
        """Names and ranges of what was downloaded since the last time."""
        found = [re.fullmatch(rf"GET (?:/files/|/{self.place}/resolve/{COMMIT}/)(.*?) ?", r) for r in self.requests]
        self.requests.clear()
        return sorted(name[1] for name in found if name)

    def tree(self) -> list[dict[str, object]]:
        return [
            {"type": "file", "path": name, "size": len(data), "oid": git_digest(data)}
            | ({"lfs": {"oid": sha256(data), "size": len(data), "pointerSize": 134}} if name.endswith(LARGE) else {})
            for name, data in sorted(self.files.items())
        ]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_digest(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if hub.silent and "/tree/" in path:
                hub.silent -= 1
                hub.left.wait()
                self.close_connection = True
                return
            hub.requests.append(f"{self.command} {path} {self.headers.get('Range', '')}")
            api = f"/api/{hub.place if hub.place.startswith('datasets/') else f'models/{hub.place}'}/tree/"
            resolve = f"/{hub.place}/resolve/{COMMIT}/"
            if hub.refusal:
                self.answer(hub.refusal[0], {"X-Error-Code": hub.refusal[1]})
            elif path.startswith(("/api/", f"/{hub.place}/")) and COMMIT not in path:
                self.answer(404, {"X-Error-Code": "RevisionNotFound"})
            elif path == f"{api}{COMMIT}":
                hub.tokens.add(self.headers.get("Authorization", ""))
                self.answer(200, {"Content-Type": "application/json"}, json.dumps(hub.tree()).encode())
            elif path.startswith(resolve) and (name := path.removeprefix(resolve)) in hub.files:
                self.resolve(name)
            elif path.startswith("/files/") and (name := path.removeprefix("/files/")) in hub.files:
                self.content(name)
            else:
                self.answer(404, {"X-Error-Code": "RepoNotFound"})

        do_HEAD = do_GET  # noqa: N815

        def resolve(self, name: str) -> None:
            data = hub.files[name]
            if name.endswith(LARGE):
                headers = {"X-Linked-ETag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
                place = f"http://localhost:{self.server.server_address[1]}/files/{name}"  # another host
                self.answer(302, headers | {"X-Repo-Commit": COMMIT, "Location": place})
            else:
                self.answer(200, {"X-Repo-Commit": COMMIT, "ETag": f'"{git_digest(data)}"'}, data)

        def content(self, name: str) -> None:
            data = hub.files[name]
            if name in hub.damaged:
                data = bytes(len(data))
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
            headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
            cut = hub.cut_downloads > 0 and name.endswith(LARGE)
            hub.cut_downloads -= cut
            self.answer(206 if start else 200, headers, data[start:], sent=len(data) // 2 if cut else None)

        def answer(self, status: int, headers: Mapping[str, str], data: bytes = b"", sent: int | None = None) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data[:sent])
            self.close_connection = sent is not None

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Handler
