"""An HTTP proxy in front of a real S3 server that passes everything on, except where a test asks for a fault."""

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate</Message></Error>"


class FaultyProxy:
    def __init__(self, backend: str) -> None:
        self.overloaded = 0
        """So many requests are answered with 503 SlowDown."""
        self.lost_answers = 0
        """So many PUTs arrive, and their answer does not."""
        self.cut_downloads = 0
        """So many downloads break off after `cut_after` bytes."""
        self.cut_after = 0
        self.before_cut: Callable[[], object] = lambda: None
        """Called in between."""
        self.ignores_conditions = False
        """If-None-Match is not passed on, as by a server that does not know it."""
        self.requests: list[tuple[str, str]] = []
        """Method and Range of every request."""
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, urlsplit(backend).netloc))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def use_up(self, fault: str) -> bool:
        with self._lock:
            left: int = getattr(self, fault)
            setattr(self, fault, max(0, left - 1))
            return left > 0


def _handler(proxy: FaultyProxy, backend: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            proxy.requests.append((self.command, self.headers.get("Range", "")))
            if proxy.use_up("overloaded"):
                self.answer(503, [("Content-Type", "application/xml")], SLOW_DOWN)
                return
            headers = {name: value for name, value in self.headers.items() if not self.ignored(name)}
            connection = http.client.HTTPConnection(backend)
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            data = response.read()
            if self.command == "PUT" and proxy.use_up("lost_answers"):
                self.close_connection = True
                return
            self.answer(response.status, response.getheaders(), data)
            connection.close()

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = pass_on  # noqa: N815

        def ignored(self, header: str) -> bool:
            return proxy.ignores_conditions and header.lower() == "if-none-match"

        def answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in {"content-length", "transfer-encoding"}:
                    self.send_header(name, value)
            length = {n.lower(): v for n, v in headers}.get("content-length", str(len(data)))
            self.send_header("Content-Length", length if self.command == "HEAD" else str(len(data)))
            self.end_headers()
            if self.command == "GET" and len(data) > proxy.cut_after > 0 and proxy.use_up("cut_downloads"):
                self.wfile.write(data[: proxy.cut_after])
                self.close_connection = True
                proxy.before_cut()
            else:
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Handler
