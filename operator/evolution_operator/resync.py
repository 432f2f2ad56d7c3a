"""Lists of everything, now and then: what a watch did not tell is noticed here. Never writes."""

import asyncio
import logging
import random
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

from evolution_operator import gateway as api
from evolution_operator import parse
from evolution_operator.cache import Cache
from evolution_operator.gateway import Forbidden, Gateway, GatewayError, NotFound, Resource
from evolution_operator.intake import Intake
from evolution_operator.queue import Timed
from evolution_operator.records import (
    SELECTOR,
    JobRecord,
    PodRecord,
    Record,
    RunRecord,
    RuntimeRecord,
    ScheduleRecord,
    is_newer,
)
from evolution_operator.watch_news import WatchNews

JITTER = 0.1
"""The pause between two lists varies by this share, so that installations do not list in step."""
DEAF_ROUNDS = 3
"""So many lists in a row with news, while watches said nothing at all, mean that the watches are dead."""

logger = logging.getLogger(__name__)


class Watched(NamedTuple):
    """A kind of object that the operator keeps records of."""

    resource: Resource
    record: type[Record]
    parse: Callable[[parse.Body], Record]
    selector: str = ""
    optional: bool = False
    """Of an add-on, which a cluster may do without."""


# When the first run is reconciled, its Jobs and pods are known; when the first schedule is, its runs are.
WATCHED = (
    Watched(api.JOBS, JobRecord, parse.job_record, SELECTOR),
    Watched(api.JOBSETS, JobRecord, parse.jobset_record, SELECTOR, optional=True),
    Watched(api.PODS, PodRecord, parse.pod_record, SELECTOR),
    Watched(api.RUNTIMES, RuntimeRecord, parse.runtime_record),
    Watched(api.CLUSTER_RUNTIMES, RuntimeRecord, parse.runtime_record),
    Watched(api.RUNS, RunRecord, parse.run_record),
    Watched(api.SCHEDULES, ScheduleRecord, parse.schedule_record),
)


class Resync:
    """Compares the cache with lists of the cluster, in some namespaces or in all."""

    def __init__(
        self,
        gateway: Gateway,
        cache: Cache,
        intake: Intake,
        namespaces: tuple[str, ...] = (),
        *,
        watch_news: WatchNews | None = None,
        timed: Timed = lambda _seconds, _ok: None,
    ) -> None:
        """`timed` is told how many seconds each list of everything took, and whether it could be read."""
        self._gateway = gateway
        self._cache = cache
        self._intake = intake
        self._namespaces = namespaces
        self._watch_news = watch_news or WatchNews()
        self._timed = timed
        self._no_cluster_runtimes = False
        self._deaf_rounds = 0
        self.absent: frozenset[Resource] = frozenset()
        """Kinds of add-ons that the cluster did not have when it was last listed."""
        self.finished_at = monotonic()
        """When everything was last listed, by the monotonic clock."""

    @property
    def watches_are_dead(self) -> bool:
        """Lists bring news again and again, and watches bring none."""
        return self._deaf_rounds >= DEAF_ROUNDS

    async def once(self) -> int:
        """List everything; the number of objects that were news.

        Raises:
            GatewayError: a list failed; what was listed before is taken in.
        """
        started = monotonic()
        listed = False
        try:
            news = await self._list_all()
            listed = True
        finally:
            self._timed(monotonic() - started, listed)
        deaf = news > 0 and self._intake.watched_at < min(self.finished_at, started)
        self._deaf_rounds = self._deaf_rounds + 1 if deaf else 0
        self.finished_at = monotonic()
        return news

    async def run(self, seconds: float) -> None:
        """List everything every so many seconds, until cancelled."""
        while True:
            await asyncio.sleep(seconds * random.uniform(1 - JITTER, 1 + JITTER))
            try:
                news = await self.once()
            except GatewayError as error:
                logger.warning("the cluster could not be listed: %s; trying again in about %g s", error, seconds)
            else:
                if news:
                    logger.info("a list of the cluster told of %d changes that no watch had told", news)

    async def _list_all(self) -> int:
        news = 0
        for watched in WATCHED:
            if watched.resource is api.CLUSTER_RUNTIMES:
                found = await self._cluster_runtimes(watched)
            else:
                try:
                    found = sum([await self._compare(watched, namespace) for namespace in self._namespaces or (None,)])
                except (NotFound, Forbidden) as error:
                    if not watched.optional:
                        raise
                    self.absent |= {watched.resource}
                    self._watch_news.gone(watched.resource.plural)
                    if isinstance(error, NotFound):
                        self._forget(watched)
                    continue
                self.absent -= {watched.resource}
            if not found and not (watched.resource is api.CLUSTER_RUNTIMES and self._namespaces):
                self._watch_news.told(watched.resource.plural)
            news += found
        return news

    def _forget(self, watched: Watched) -> None:
        """What there was of a kind is gone with the kind."""
        for record in self._cache.records(watched.record):
            if _is_of(watched, record):
                self._intake.gone(record)

    async def _cluster_runtimes(self, watched: Watched) -> int:
        if not self._namespaces:
            return await self._compare(watched, None)
        # Roles of namespaces, as such an installation has, may not allow to read what belongs to the whole cluster.
        try:
            return await self._compare(watched, None)
        except Forbidden as error:
            if not self._no_cluster_runtimes:
                logger.warning("runs can use EvolutionRuntimes only, no ClusterEvolutionRuntimes: %s", error)
            self._no_cluster_runtimes = True
            return 0

    async def _compare(self, watched: Watched, namespace: str | None) -> int:
        scope = "" if watched.resource is api.CLUSTER_RUNTIMES else namespace
        known = {r.uid: r.resource_version for r in self._cache.records(watched.record, scope) if _is_of(watched, r)}
        news = 0
        present: set[str] = set()
        version = ""
        async for page in self._gateway.pages(watched.resource, namespace, watched.selector):
            version = page.resource_version
            for item in page.items:
                meta = item.get("metadata") or {}
                present.add(meta.get("uid", ""))
                if known.get(meta.get("uid", "")) != meta.get("resourceVersion"):
                    news += self._intake.seen(watched.parse(item))
            await asyncio.sleep(0)
        for record in self._cache.records(watched.record, scope):
            if _is_of(watched, record) and record.uid not in present and not is_newer(record.resource_version, version):
                news += self._intake.gone(record, version)
        return news


def _is_of(watched: Watched, record: Record) -> bool:
    match record:
        case RuntimeRecord():
            return record.key.kind == watched.resource.kind
        case JobRecord():
            return record.kind == watched.resource.kind
        case _:
            return True
