"""A proxy before an API server that counts requests, kills its client at a chosen write, and disturbs.

Plain HTTP towards the client; towards the server whatever its kubeconfig says, TLS with a client certificate included.
"""

import asyncio
import fnmatch
import json
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import aiohttp
from aiohttp import web

from fakeapi.client import credentials
from fakeapi.errors import StatusError
from fakeapi.server import write_kubeconfig
from fakeapi.serving import parse_path

WRITES = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "content-length", "content-encoding"}
REASONS = {409: "Conflict", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}

When = Literal["Before", "Applied"]
"""The client dies before its write is forwarded, or when it is applied and not yet answered."""


@dataclass(slots=True)
class Fault:
    """What shall happen to the next requests that match."""

    effect: Literal["ResponseLost", "Refused"]
    """ResponseLost: the request is forwarded, and the connection breaks instead of an answer. Refused: not forwarded,
    answered with `code`."""
    verb: str = "*"
    """Glob: get, list, watch, create, update, patch, delete."""
    resource: str = "*"
    """Glob: jobs, evolutionruns/status."""
    code: Literal[409, 429, 500, 503] = 503
    times: int = 1

    def meets(self, verb: str, resource: str) -> bool:
        return self.times > 0 and fnmatch.fnmatch(verb, self.verb) and fnmatch.fnmatch(resource, self.resource)


@dataclass(frozen=True, slots=True)
class Write:
    """A write that was answered by the server, whether or not the client heard of it."""

    number: int
    verb: str
    resource: str
    name: str
    code: int
    body: dict[str, Any] = field(repr=False)
    """What the server answered."""


@dataclass(frozen=True, slots=True)
class Execution:
    """When whom to kill."""

    write: int
    when: When
    victim: "Future[int]"
    """Process id, as soon as it is known."""


class KillingProxy:
    """One client's way to the API server; runs in a thread of its own."""

    def __init__(self, upstream: Path) -> None:
        """`upstream` is a kubeconfig."""
        self._upstream, self._tls = credentials(upstream)
        self.port = 0
        self.requests: Counter[tuple[str, str]] = Counter()
        """By verb and resource, such as patch and evolutionruns/status."""
        self.writes: list[Write] = []
        self.faults: list[Fault] = []
        """The first that meets a request strikes it. Tests append."""
        self.frozen: set[str] = set()
        """Plurals whose watches fall silent; what happens meanwhile arrives when they are taken out again."""
        self.delays: dict[str, float] = {}
        """Seconds by which events of a plural come late."""
        self.killed = threading.Event()
        self._begun = 0
        self._execution: Execution | None = None
        self._last = time.monotonic()
        self._streams: dict[web.StreamResponse, tuple[str, web.Request]] = {}
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="proxy", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def idle_seconds(self) -> float:
        """Since the last request began or was answered."""
        return time.monotonic() - self._last

    def write_kubeconfig(self, path: Path) -> Path:
        return write_kubeconfig(path, self.url)

    def kill_at(self, write: int, when: When, victim: "Future[int]") -> None:
        """SIGKILL the victim at its `write`-th write, counted from 1; `killed` is set then. It happens once."""
        self._execution = Execution(write, when, victim)

    def cut_watches(self, plural: str = "*") -> None:
        """Break the connections of all watches of a kind."""
        self._loop.call_soon_threadsafe(self._cut, plural)

    def counters(self) -> dict[str, Any]:
        """Requests so far, for benchmarks."""
        named = {f"{verb} {resource}": count for (verb, resource), count in sorted(self.requests.items())}
        writes = sum(count for (verb, _), count in self.requests.items() if verb in WRITES.values())
        return {"writes": writes, "reads": self.requests.total() - writes, "requests": named}

    def start(self) -> Self:
        self._thread.start()
        self._ready.result(timeout=10)
        return self

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(timeout=10)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _serve(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        connector = aiohttp.TCPConnector(ssl=self._tls if self._tls is not None else True, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        application = web.Application(client_max_size=8 * 1024**2)
        application.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as self._session:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.port = runner.addresses[0][1]
            self._ready.set_result(None)
            await self._stopped.wait()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/proxy/counters":
            return web.json_response(self.counters())
        verb, resource = _classify(request)
        self.requests[verb, resource] += 1
        self._last = time.monotonic()
        try:
            if fault := next((fault for fault in self.faults if fault.meets(verb, resource)), None):
                fault.times -= 1
                return await self._strike(request, fault)
            if verb == "watch":
                return await self._stream(request, resource)
            if request.method not in WRITES:
                return _answer(*await self._forward(request))
            return await self._write(request, verb, resource)
        finally:
            self._last = time.monotonic()

    async def _write(self, request: web.Request, verb: str, resource: str) -> web.Response:
        self._begun += 1
        number, execution = self._begun, self._execution
        due = execution if execution and execution.write == number else None
        if due and due.when == "Before":
            return await self._kill(request, due)
        code, headers, body = await self._forward(request)
        answer = json.loads(body) if body.startswith(b"{") else {}
        name = answer.get("metadata", {}).get("name") or request.path.rsplit("/", 1)[-1]
        self.writes.append(Write(number, verb, resource, name, code, answer))
        if due:
            return await self._kill(request, due)
        return _answer(code, headers, body)

    async def _kill(self, request: web.Request, execution: Execution) -> web.Response:
        os.kill(await asyncio.wrap_future(execution.victim), signal.SIGKILL)
        self._execution = None
        self.killed.set()
        return _broken(request)

    async def _strike(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        if fault.effect == "ResponseLost":
            await self._forward(request)
            return _broken(request)
        error = StatusError(fault.code, REASONS[fault.code], f"the proxy refuses this request: {REASONS[fault.code]}")
        headers = {"Retry-After": "1"} if fault.code in (429, 503) else {}
        return web.json_response(error.body, status=fault.code, headers=headers)

    async def _forward(self, request: web.Request) -> tuple[int, dict[str, str], bytes]:
        async with self._session.request(
            request.method,
            self._upstream + request.path_qs,
            headers=_headers(request.headers),
            data=await request.read() or None,
        ) as response:
            return response.status, _headers(response.headers), await response.read()

    async def _stream(self, request: web.Request, resource: str) -> web.StreamResponse:
        async with self._session.get(self._upstream + request.path_qs, headers=_headers(request.headers)) as upstream:
            response = web.StreamResponse(status=upstream.status, headers=_headers(upstream.headers))
            self._streams[response] = (resource, request)
            try:
                with suppress(ConnectionError, aiohttp.ClientError):
                    await response.prepare(request)
                    async for chunk in upstream.content.iter_any():
                        while resource in self.frozen:
                            await asyncio.sleep(0.01)
                        if resource in self.delays:
                            await asyncio.sleep(self.delays[resource])
                        await response.write(chunk)
            finally:
                del self._streams[response]
            return response

    def _cut(self, plural: str) -> None:
        for resource, request in list(self._streams.values()):
            if fnmatch.fnmatch(resource, plural):
                _abort(request)


def _classify(request: web.Request) -> tuple[str, str]:
    target = parse_path(request.path)
    if target is None:
        plural, name = request.path, "-"
        parts = [part for part in request.path.split("/") if part]
        if len(parts) > 4 and "namespaces" in parts:
            plural, name = parts[parts.index("namespaces") + 2 :][0], ""
    else:
        plural = target.resource.plural + (f"/{target.subresource}" if target.subresource else "")
        name = target.name
    if request.method != "GET":
        return WRITES.get(request.method, request.method.lower()), plural
    if request.query.get("watch") in ("true", "1"):
        return "watch", plural
    return ("get" if name else "list"), plural


def _headers(headers: Any) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in (*HOP_BY_HOP, "accept-encoding")}


def _answer(code: int, headers: dict[str, str], body: bytes) -> web.Response:
    return web.Response(status=code, headers=headers, body=body)


def _broken(request: web.Request) -> web.Response:
    """No answer: the connection is gone before this one could be sent."""
    _abort(request)
    return web.Response()


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
