"""Where the API server asks a kubelet for the logs of its containers."""

import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from controlplane.certificates import Authority

FOLLOW_SECONDS = 0.05
"""Between looks at a log that grows."""


class Logs(Protocol):
    def log(self, namespace: str, pod: str, container: str) -> Path | None: ...

    def writes(self, log: Path) -> bool: ...


class KubeletPort:
    """Serves `kubectl logs`, with --follow and --tail, over HTTPS on loopback."""

    def __init__(self, folder: Path, logs: Logs) -> None:
        certificate = Authority.at(folder / "pki", "kubelet").own
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.logs = logs
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.file, certificate.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.number: int = self._server.server_address[1]

    def __enter__(self) -> "KubeletPort":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    logs: Logs


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        match [unquote(part) for part in url.path.split("/")[1:]]:
            case ["containerLogs", namespace, pod, container]:
                log = self.server.logs.log(namespace, pod, container)
            case _:
                log = None
        if log is None:
            self.send_error(404, "no such container has run here")
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self._write(log, int(query.get("tailLines", ["-1"])[0]), follow=query.get("follow") == ["true"])

    def _write(self, log: Path, tail: int, *, follow: bool) -> None:
        with log.open("rb") as file:
            lines = file.readlines()
            self.wfile.write(b"".join(lines[-tail:] if tail > 0 else lines if tail else []))
            while follow:
                follow = self.server.logs.writes(log)  # Asked first, so that the last lines are read after the end.
                if more := file.read():
                    self.wfile.write(more)
                elif follow:
                    time.sleep(FOLLOW_SECONDS)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        """Requests are not news."""
