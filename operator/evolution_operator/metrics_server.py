"""The page of metrics over HTTP: GET /metrics, with TLS and a token if the operator was told to ask for them."""

import asyncio
import gzip
import hmac
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from evolution_operator.settings import Settings, WrongSettings

GZIP_LEVEL = 1
"""Higher levels take longer than they save on the way."""

STOP_SECONDS = 1.0
"""Answers under way get so long when the operator stops."""

Page = Callable[[str], tuple[bytes, str]]
"""From an Accept header to the text and its content type."""
Stamp = tuple[tuple[int, int, int], ...]

logger = logging.getLogger(__name__)


@asynccontextmanager
async def metrics_served(settings: Settings, page: Page) -> AsyncIterator[None]:
    """Serve `page` on the port that the settings name, if they name one, until the end of the block.

    Raises:
        WrongSettings: a file cannot be used, or the port is taken.
    """
    if settings.metrics_port is None:
        yield
        return
    token = _Token(settings.metrics_token_file) if settings.metrics_token_file else None
    paths = (settings.metrics_certificate, settings.metrics_key)
    certificate = _Certificate(*paths) if settings.metrics_certificate else None
    application = web.Application()
    application.router.add_get("/metrics", _Answers(page, token).answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=STOP_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, port=settings.metrics_port, ssl_context=certificate.context if certificate else None)
        try:
            await site.start()
        except OSError as error:
            raise WrongSettings(f"--metrics-port {settings.metrics_port}: cannot be listened on: {error}") from error
        yield
    finally:
        await runner.cleanup()


class _Answers:
    def __init__(self, page: Page, token: "_Token | None") -> None:
        self._page = page
        self._token = token

    async def answer(self, request: web.Request) -> web.Response:
        if self._token and not self._token.allows(request.headers.get("Authorization", "")):
            return web.Response(status=401, text="a bearer token is needed\n", headers={"WWW-Authenticate": "Bearer"})
        body, content_type = self._page(request.headers.get("Accept", ""))
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            loop = asyncio.get_running_loop()
            body = await loop.run_in_executor(None, lambda: gzip.compress(body, GZIP_LEVEL))
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=body, headers=headers)


class _Token:
    """What a file holds, read again when the file changes."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._stamp = _stamp(path)
            self._token = _token(path)
        except (OSError, ValueError) as error:
            raise WrongSettings(f"--metrics-token-file {path!r}: cannot be used: {error}") from error

    def allows(self, authorization: str) -> bool:
        self._read_again()
        scheme, _, given = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token)

    def _read_again(self) -> None:
        try:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._token, self._stamp = _token(self._path), stamp
        except (OSError, ValueError) as error:
            logger.warning("--metrics-token-file %r cannot be used, the token before holds: %s", self._path, error)


class _Certificate:
    """A certificate with its key, both read again when one of the files changes."""

    def __init__(self, certificate: str, key: str) -> None:
        self._paths = (certificate, key)
        try:
            self._stamp = _stamp(*self._paths)
            self.context = self._load()
        except (OSError, ValueError) as error:
            message = f"--metrics-certificate {certificate!r} with --metrics-key {key!r}: cannot be used: {error}"
            raise WrongSettings(message) from error
        self._current = self.context
        self.context.sni_callback = self._choose

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*self._paths)
        return context

    def _choose(self, connection: ssl.SSLObject, _server_name: str | None, _context: ssl.SSLContext) -> None:
        """Called at every handshake."""
        try:
            stamp = _stamp(*self._paths)
            if stamp != self._stamp:
                self._current, self._stamp = self._load(), stamp
        except (OSError, ValueError) as error:  # perhaps only one of the two files is new yet
            logger.warning("the new certificate cannot be used, the one before holds: %s", error)
        connection.context = self._current


def _stamp(*paths: str) -> Stamp:
    """Something that changes when a file is written or put in place of another."""
    found = [Path(path).stat() for path in paths]
    return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in found)


def _token(path: str) -> bytes:
    token = Path(path).read_text().strip()
    if not token:
        raise ValueError("it is empty")
    return token.encode()
