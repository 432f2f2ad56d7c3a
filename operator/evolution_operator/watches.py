"""kopf as watch engine: streams that end, break or expire begin again by themselves, and every event is taken in.

Nothing else of kopf is used: it keeps no state on objects, posts no events and writes nothing.
"""

from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator
from time import monotonic
from typing import Any

import kopf
from kubernetes.aio.client import Configuration

from evolution_operator.gateway import CHUNK, CLUSTER_RUNTIMES, NoAccess, Resource, cluster_access
from evolution_operator.intake import Intake
from evolution_operator.queue import KeyedQueue
from evolution_operator.records import MANAGED_BY, OPERATOR, RunKey, ScheduleKey
from evolution_operator.resync import WATCHED, Resync, Watched
from evolution_operator.watch_news import WatchNews

STUCK_SECONDS = 300.0
"""A run that waits so long for a worker means that all workers hang: every request has a shorter deadline."""


class _EndlessBackoff(Iterable[float]):
    """kopf gives up, and ends the operator, when the waiting times are used up; an API server may be away for long."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.2, 1.0, 2.0, 5.0)
        while True:
            yield 10.0


class _NoDiffs(kopf.DiffBaseStorage):
    """kopf copies every object of every event in depth, to find changes that no handler here asks for.

    For a Job of 3 KB an event costs 0.43 ms with the copy, 0.14 ms without (kopf 1.45.2).
    """

    def build(self, *, body: kopf.Body, extra_fields: object = None) -> kopf.BodyEssence:  # noqa: ARG002
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:  # noqa: ARG002
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Nothing is kept."""


def watched_kinds(namespaces: tuple[str, ...], absent: Collection[Resource] = ()) -> tuple[Watched, ...]:
    """All kinds but those that are `absent`, or those that the rights of single namespaces reach."""
    return tuple(
        kind
        for kind in WATCHED
        if kind.resource not in absent and (kind.resource is not CLUSTER_RUNTIMES or not namespaces)
    )


def watch_settings(watched: Iterable[Watched]) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True  # no rights on CustomResourceDefinitions and namespaces are needed
    settings.posting.enabled = False
    settings.posting.loggers = False
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.networking.request_timeout = 30.0
    settings.networking.connect_timeout = 5.0
    settings.networking.error_backoffs = _EndlessBackoff()
    settings.watching.server_timeout = 600  # a whole number: the API server refuses 600.0
    settings.watching.reconnect_backoff = 0.1
    settings.watching.chunk_size = CHUNK  # by default all objects come at once
    # A task per object lives on for so long, with the object's last event: with 5,000 runs and 10,000 Jobs, 1 s and
    # lists in one piece peaked at 296 MiB, this at 124. Events of one object are seldom closer.
    settings.queueing.idle_timeout = 0.1
    settings.queueing.exit_timeout = 2.0
    settings.queueing.error_delays = (1.0, 2.0, 5.0, 10.0, 30.0)  # by default up to 610 s, during which events are lost
    settings.process.ultimate_exiting_timeout = 30.0
    for kind in watched:
        if kind.selector:
            group, version, plural = _address(kind)
            settings.watching.label_selectors[group, version, plural] = kind.selector
    return settings


def watch_registry(intake: Intake, watched: Iterable[Watched], watch_news: WatchNews) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()
    for kind in watched:
        group, version, plural = _address(kind)
        labels = {MANAGED_BY: OPERATOR} if kind.selector else None
        kopf.on.event(group, version, plural, id=plural, labels=labels, registry=registry)(
            _handler(intake, kind, watch_news)
        )

    @kopf.on.login(registry=registry)
    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        try:
            return _connection(await cluster_access())
        except NoAccess as error:
            raise kopf.LoginError(str(error)) from error

    return registry


def add_liveness(
    registry: kopf.OperatorRegistry, queue: KeyedQueue[RunKey | ScheduleKey], intake: Intake, resync: Resync
) -> None:
    """Answer the liveness endpoint: 200 with figures, or 500 once a restart is the way out."""

    @kopf.on.probe(id="queue", registry=registry, errors=kopf.ErrorsMode.PERMANENT)
    async def queue_moves(**_: Any) -> dict[str, float]:
        if queue.oldest_age > STUCK_SECONDS:
            raise kopf.PermanentError(f"a run has waited {queue.oldest_age:.0f} s for a worker: all of them hang")
        return {"depth": queue.depth, "oldestSeconds": round(queue.oldest_age, 3)}

    @kopf.on.probe(id="watches", registry=registry, errors=kopf.ErrorsMode.PERMANENT)
    async def watches_tell(**_: Any) -> dict[str, float]:
        if resync.watches_are_dead:
            raise kopf.PermanentError("lists of the cluster bring changes again and again, and no watch tells any")
        now = monotonic()
        return {
            "secondsSinceEvent": round(now - intake.watched_at, 3),
            "secondsSinceList": round(now - resync.finished_at, 3),
        }


def _handler(intake: Intake, kind: Watched, watch_news: WatchNews) -> Callable[..., Coroutine[Any, Any, None]]:
    async def take_in(event: kopf.RawEvent, **_: Any) -> None:
        intake.watched_at = monotonic()
        watch_news.told(kind.resource.plural)
        record = kind.parse(event["object"])
        if event["type"] == "DELETED":
            intake.gone(record)
        else:
            intake.seen(record)

    return take_in


def _address(kind: Watched) -> tuple[str, str, str]:
    *group, version = kind.resource.root.split("/")[1:]
    return "/".join(group), version, kind.resource.plural


def _connection(access: Configuration) -> kopf.ConnectionInfo:
    scheme, _, token = access.api_key.get("BearerToken", "").strip().rpartition(" ")
    return kopf.ConnectionInfo(
        server=access.host,
        ca_path=access.ssl_ca_cert,
        insecure=not access.verify_ssl,
        scheme=(scheme or "Bearer") if token else None,
        token=token or None,
        certificate_path=access.cert_file,
        private_key_path=access.key_file,
        proxy_url=access.proxy,
    )
