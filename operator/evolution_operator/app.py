"""The operator as a process: everything is listed, then runs are reconciled as watches tell of them, until SIGTERM."""

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol

import kopf

from evolution.store.base import StoreError
from evolution.store.cache import cache_folder
from evolution_operator.cache import Cache
from evolution_operator.gateway import Gateway, GatewayError, NoAccess, NotFound, Unavailable
from evolution_operator.intake import Intake
from evolution_operator.knowledge import Knowledge
from evolution_operator.logs import set_up_logs
from evolution_operator.metrics import Metrics
from evolution_operator.metrics_server import metrics_served
from evolution_operator.queue import KeyedQueue
from evolution_operator.reconcile import Reconciler
from evolution_operator.records import RunKey, ScheduleKey
from evolution_operator.resync import Resync
from evolution_operator.schedules import Schedules
from evolution_operator.settings import Settings, WrongSettings
from evolution_operator.showing import Nobody, Witness
from evolution_operator.sources import Sources
from evolution_operator.watch_news import WatchNews
from evolution_operator.watches import add_liveness, watch_registry, watch_settings, watched_kinds

WORKERS = 32
"""Runs reconciled at the same time: what limits the rate of requests, most of which wait for the API server."""
LONGEST_PAUSE = 10.0
"""Seconds between two attempts to reach the API server at the start, once it has failed a few times."""

logger = logging.getLogger(__name__)


class Reconciles(Protocol):
    async def reconcile(self, key: RunKey) -> float | None:
        """Bring a run forward; the seconds until it should be called again even if nothing happens."""


MakeReconciler = Callable[[Gateway, Cache, Settings, Witness], Reconciles]


def run_operator(settings: Settings, make_reconciler: MakeReconciler | None = None) -> int:
    """Exit code: 0 after SIGTERM or SIGINT, 1 when the cluster cannot be worked with, 2 if metrics cannot be served."""
    set_up_logs(settings.log_format)
    return asyncio.run(_operate(settings, make_reconciler or _reconciler))


def _reconciler(gateway: Gateway, cache: Cache, settings: Settings, witness: Witness) -> Reconciles:
    knowledge = Knowledge(settings.store, cache_folder(), asked=witness.asked)
    return Reconciler(gateway, cache, knowledge, settings, witness=witness)


async def _operate(settings: Settings, make_reconciler: MakeReconciler) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        gateway = await Gateway.connect()
    except NoAccess as error:
        logger.critical("%s", error)
        return 1
    cache, watch_news = Cache(), WatchNews()
    metrics = Metrics(settings, cache, gateway.requests, watch_news)
    try:
        async with metrics_served(settings, metrics.page):
            return await _work(settings, gateway, cache, watch_news, metrics, make_reconciler, stop)
    except WrongSettings as error:
        logger.critical("%s", error)
        return 2
    except NotFound as error:
        logger.critical("the CustomResourceDefinitions of Evolution are not installed; install them first: %s", error)
    except GatewayError as error:
        logger.critical("the operator cannot work with this cluster: %s", error)
    finally:
        await gateway.close()
    return 1


async def _work(
    settings: Settings,
    gateway: Gateway,
    cache: Cache,
    watch_news: WatchNews,
    metrics: Metrics,
    make_reconciler: MakeReconciler,
    stop: asyncio.Event,
) -> int:
    queue: KeyedQueue[RunKey | ScheduleKey] = KeyedQueue((GatewayError, StoreError), metrics.handled("reconcile"))
    intake = Intake(cache, queue)
    resync = Resync(gateway, cache, intake, settings.namespaces, watch_news=watch_news, timed=metrics.handled("resync"))
    runs = make_reconciler(gateway, cache, settings, metrics if settings.metrics_port else Nobody())
    schedules = Schedules(gateway, cache, intake, Sources())

    async def reconcile(key: RunKey | ScheduleKey) -> float | None:
        if isinstance(key, ScheduleKey):
            return await schedules.reconcile(key)
        before = cache.run(key)
        again = await runs.reconcile(key)
        after = cache.run(key)
        # What the operator itself has written about a run is no news when a watch tells of it.
        if after and after.schedule and (before is None or before.phase != after.phase):
            queue.add(after.schedule)
        return again

    # Jobs and pods are known before the first run is looked at: nothing is created that exists.
    if not await _first_list(resync, stop):
        return 0
    spare_the_collector()
    metrics.begins(queue)
    logger.info("working with %s in %s: %s", gateway.server, _scope(settings), _counts(cache))

    watched = watched_kinds(settings.namespaces, resync.absent)
    registry = watch_registry(intake, watched, watch_news)
    add_liveness(registry, queue, intake, resync)
    # kopf takes over the signals, and on its way out waits 5 s for the task that waits for this flag.
    kopf.on.cleanup(registry=registry)(_set(stop))
    # These tasks are older than kopf's: when it stops, it leaves them alone.
    working = asyncio.create_task(queue.run(reconcile, WORKERS), name="queue")
    listing = asyncio.create_task(resync.run(settings.resync_seconds), name="resync")
    watching = asyncio.create_task(
        kopf.operator(
            registry=registry,
            settings=watch_settings(watched),
            standalone=True,
            clusterwide=not settings.namespaces,
            namespaces=settings.namespaces,
            liveness_endpoint=f"http://0.0.0.0:{settings.liveness_port}/healthz" if settings.liveness_port else None,
            stop_flag=stop,
        ),
        name="kopf",
    )
    try:
        done, _ = await asyncio.wait({working, listing, watching}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if (error := task.exception()) is not None:
                logger.critical("%s failed: %s", task.get_name(), error, exc_info=error)
                return 1
        return 0
    finally:
        # No new work first, then no more news, so that what is under way is finished with what is known.
        await _end(working)
        await _end(listing)
        stop.set()
        await _end(watching, cancel=False)


async def _first_list(resync: Resync, stop: asyncio.Event) -> bool:
    """False if the operator was told to stop meanwhile."""
    stopping = asyncio.create_task(stop.wait())
    pause = 0.5
    try:
        while not stop.is_set():
            listing = asyncio.create_task(resync.once())
            await asyncio.wait({listing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not listing.done():
                await _end(listing)
                break
            try:
                listing.result()
                return True
            except Unavailable as error:
                logger.warning("%s; trying again in %g s", error, pause)
            await asyncio.wait({stopping}, timeout=pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        return False
    finally:
        await _end(stopping)


def _set(event: asyncio.Event) -> Callable[..., Coroutine[Any, Any, None]]:
    async def set_event(**_: Any) -> None:
        event.set()

    return set_event


def spare_the_collector() -> None:
    """What was listed stays: the collector need not look at it again and again while runs wait."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _end(task: "asyncio.Task[object]", *, cancel: bool = True) -> None:
    if cancel:
        task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await task


def _scope(settings: Settings) -> str:
    return f"namespaces {', '.join(settings.namespaces)}" if settings.namespaces else "all namespaces"


def _counts(cache: Cache) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in cache.sizes().items())
