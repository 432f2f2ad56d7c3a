"""The fake API server with its controllers: in a thread of the test, or as its own process (`python -m fakeapi`)."""

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from aiohttp import web

from fakeapi.client import Client
from fakeapi.garbage import GarbageCollector
from fakeapi.jobs import JobController
from fakeapi.kinds import JOBS
from fakeapi.kubelet import Fate, Kubelet, Worker, simulated_worker
from fakeapi.serving import Service
from fakeapi.storage import Key, Storage
from fakeapi.writing import Writer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the cluster is, in seconds. A real one is slower, in the same order."""

    pod_start: float = 0.002
    pod_run: float = 0.0
    job_sync: float = 0.02
    """From a pod's end to the Job's status; the real controller takes about 1."""
    backoff: float = 0.05
    """Before the first replacement of a failed pod, doubling; the real controller takes 10."""
    garbage: float = 0.005
    bookmark: float = 5.0


class FakeApi:
    """A cluster in a thread. `with FakeApi() as api: api.client.create(...)`."""

    def __init__(self, *, pace: Pace | None = None, worker: Worker = simulated_worker, port: int = 0) -> None:
        self.pace, self.worker = pace or Pace(), worker
        self.port = port
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="fake-api", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> Client:
        return Client(self.url)

    def write_kubeconfig(self, path: Path) -> Path:
        return write_kubeconfig(path, self.url)

    def fate(self, fate: Fate) -> None:
        """What shall happen to the next pods that it meets."""
        self.call(lambda: self.kubelet.fates.append(fate))

    def evict(self, namespace: str, pod: str) -> None:
        self.call(lambda: self.kubelet.evict(Key(namespace, pod), "EvictionByEvictionAPI"))

    def compact(self) -> None:
        """Forget the history: watches and lists that were begun are answered 410."""
        self.call(self.storage.compact)
        self.call(self.service.lister.forget_snapshots)

    def jobs_created(self, namespace: str) -> dict[str, int]:
        """How often a Job of each name was created, deleted ones included."""
        counts = self.call(lambda: dict(self.writer.created))
        return {
            key.name: count
            for (resource, key), count in counts.items()
            if resource is JOBS and key.namespace == namespace
        }

    def call(self, function: Callable[[], T]) -> T:
        """The result of `function`, called in the server's thread."""

        async def called() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(timeout=30)

    def start(self) -> Self:
        self._thread.start()
        self._ready.result(timeout=30)
        return self

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(timeout=10)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            asyncio.run(self.serve())
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def serve(self) -> None:
        """Serve until `stop` is called."""
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        pace = self.pace
        self.storage = Storage()
        self.writer = Writer(self.storage)
        self.kubelet = Kubelet(
            self.storage, self.writer, self.worker, start_seconds=pace.pod_start, seconds=pace.pod_run
        )
        JobController(self.storage, self.writer, sync_seconds=pace.job_sync, backoff_seconds=pace.backoff)
        GarbageCollector(self.storage, self.writer, seconds=pace.garbage)
        self.service = Service(self.storage, self.writer, self.kubelet, bookmark_seconds=pace.bookmark)
        application = web.Application(client_max_size=8 * 1024**2)
        application.router.add_route("*", "/{path:.*}", self.service.handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port, backlog=1024).start()
        self.port = runner.addresses[0][1]
        self._ready.set_result(None)
        await self._stopped.wait()
        self.kubelet.stop()
        await runner.cleanup()


def write_kubeconfig(path: Path, url: str) -> Path:
    """A kubeconfig without credentials, as JSON: every reader of YAML takes it."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "fake",
        "clusters": [{"name": "fake", "cluster": {"server": url}}],
        "users": [{"name": "fake", "user": {}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": "default"}}],
    }
    path.write_text(json.dumps(config))
    return path
