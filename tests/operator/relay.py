"""A TCP relay that can be cut: what lies behind it is out of reach for a while, and loses nothing."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Self


class Relay:
    """From a port of its own to another one of this machine."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._ready: Future[int] = Future()
        self._streams: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = self._ready.result(timeout=30)
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(timeout=10)

    def cut(self) -> None:
        """End all connections and accept none."""
        self._call(self._cut())

    def mend(self) -> None:
        self._call(self._listen(self.port))

    def _call(self, coroutine: Coroutine[None, None, object]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=30)

    async def _serve(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set_result(await self._listen(0))
        await self._stopped.wait()

    async def _listen(self, port: int) -> int:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", port)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
        for stream in list(self._streams):
            stream.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, onward = await asyncio.open_connection("127.0.0.1", self._target)
        streams = {writer, onward}
        self._streams |= streams
        await asyncio.gather(_copy(reader, onward), _copy(there, writer))
        self._streams -= streams


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
    sink.close()
