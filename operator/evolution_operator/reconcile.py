"""One run at a time: observe it, decide, and carry the decision out.

Level-triggered, and every step may have been done before: Job names follow from what the Job does, the status is
written under its resource version, and a stage is done when its manifest exists. Order of writes: what is to stop,
what is to start, the status, Events, history.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from evolution.api.errors import InvalidRun
from evolution.api.load import run_from_object, runtime_from_object
from evolution.api.run import EvolutionRun
from evolution.api.runtime import EvolutionRuntime
from evolution.api.status import EvolutionRunStatus
from evolution.decide import Plan, decide
from evolution.observation import Observation, Wait
from evolution.plan.graph import Graph
from evolution.plan.manifest import Manifest
from evolution.plan.serving import unservable
from evolution.status import hindered_status
from evolution.store.base import StoreError, StoreRefused
from evolution_operator.cache import Cache
from evolution_operator.execute import AGAIN_SECONDS, Executor
from evolution_operator.gateway import (
    Conflict,
    Gateway,
)
from evolution_operator.jobs import run_id
from evolution_operator.knowledge import Knowledge, Memory
from evolution_operator.observe import Situation, ended_well, situation
from evolution_operator.records import JobRecord, RunKey, RunRecord
from evolution_operator.report import Reporter
from evolution_operator.settings import Settings
from evolution_operator.subject import Hindered, Subject, retry_requested, status_of

STORE_SECONDS = 5.0
"""Pause while the store cannot be asked."""
SETTLE_SECONDS = 2.0
POLL_SECONDS = 5.0

log = logging.getLogger(__name__)


class Reconciler:
    def __init__(
        self,
        gateway: Gateway,
        cache: Cache,
        knowledge: Knowledge,
        settings: Settings,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cache = cache
        self._knowledge = knowledge
        self._settings = settings
        self._now = clock
        self._memories: dict[RunKey, Memory] = {}
        store = {"EVOLUTION_S3_ENDPOINT": settings.s3_endpoint, "AWS_REGION": settings.region}
        environment = {name: value for name, value in store.items() if value}
        self._reporter = Reporter(gateway, cache, knowledge, clock)
        self._executor = Executor(gateway, cache, knowledge, self._reporter, environment, clock)

    async def reconcile(self, key: RunKey) -> float | None:
        """Bring one run a step further; seconds until it wants to be looked at again though nothing happens.

        Raises:
            GatewayError: the API server did not do what it should; worth another try.
        """
        record = self._cache.run(key)
        if record is None or record.deleting:
            self._memories.pop(key, None)
            return None
        body = json.loads(record.body)
        previous = status_of(body)
        if self._settled(record, body, previous):
            self._memories.pop(key, None)
            self._release(key)
            return None
        seen = Observation(
            manifests={},
            now=self._now(),
            previous=previous,
            generation=record.generation,
            retry_requested_at=retry_requested(body),
        )
        try:
            run = run_from_object(body)
        except InvalidRun as error:
            wrong = Wait("Blocked", "InvalidSpec", "; ".join(f"{e.path}: {e.message}" for e in error.errors))
            await self._reporter.write_status(record, body, hindered_status(seen, wrong, accepted=False, refused=True))
            return None
        try:
            subject = Subject(record, body, run, await self._memory(record))
            return await self._advance(subject, seen)
        except Conflict:
            return 0.0  # the run changed meanwhile; its newest version is in the cache
        except (StoreError, Hindered) as error:
            hindered = error if isinstance(error, Hindered) else _hindered_by_store(error)
            log.warning("%s/%s: %s", key.namespace, key.name, hindered)
            await self._reporter.write_status(record, body, hindered_status(seen, hindered.wait))
            return hindered.seconds

    def _settled(self, record: RunRecord, body: dict[str, Any], previous: EvolutionRunStatus) -> bool:
        """Complete or failed for good, with nothing changed since: not even the store needs to be asked."""
        return (
            previous.state in ("Complete", "Failed")
            and previous.observed_generation == record.generation
            and retry_requested(body) in ("", previous.last_handled_retry_at)
            and not any(
                job.state in ("Active", "Suspended") and not job.deleting and job.owner_uid == record.uid
                for job in self._cache.jobs(record.key)
            )
        )

    async def _memory(self, record: RunRecord) -> Memory:
        memory = self._memories.get(record.key)
        if memory is None or memory.uid != record.uid:
            identity = run_id(record.key.name, record.uid)
            memory = await self._knowledge.recall(record.key.namespace, identity, record.uid)
            self._memories[record.key] = memory
        return memory

    async def _advance(self, subject: Subject, seen: Observation) -> float | None:
        key = subject.key
        runtime = self._runtime(subject.run)
        blocked = runtime if isinstance(runtime, Wait) else None
        seen = replace(
            seen,
            blocked=blocked,
            retry_limit=1,  # attempts are the Job's: one that has failed has used them up
            history_uri=self._knowledge.history_uri(key.namespace, subject.id),
        )
        await self._poll(subject)
        plan, jobs = await self._decide(subject, seen)
        if await self._executor.mend(subject, jobs):
            plan, jobs = await self._decide(subject, seen)
        changed = await self._executor.stop(subject, plan)
        again: list[float] = []
        if isinstance(runtime, EvolutionRuntime):
            await self._executor.replace_hung(subject, runtime)
            changed = await self._executor.renew(subject, runtime, jobs) or changed
            started, refused = await self._executor.start(subject, runtime, plan)
            changed = changed or started
            if refused:
                seen = replace(seen, blocked=refused)
                again.append(AGAIN_SECONDS)
        if changed or again:
            plan, jobs = await self._decide(subject, seen)
        self._release(key)
        await self._reporter.write_status(subject.record, subject.body, plan.status, plan.events)
        await self._reporter.write_history(subject, plan, jobs)
        if plan.requeue_after is not None:
            again.append(plan.requeue_after)
        if jobs.settling or jobs.vanished:
            again.append(SETTLE_SECONDS)
        if jobs.active:
            again.append(self._settings.progress_seconds)
        return min(again, default=None)

    def _runtime(self, run: EvolutionRun) -> EvolutionRuntime | Wait:
        ref = run.spec.runtime_ref
        record = self._cache.runtime(ref.kind, run.metadata.namespace, ref.name)
        if record is None:
            message = f"spec.runtimeRef: there is no {ref.kind} named {ref.name!r}"
            if ref.kind == "EvolutionRuntime":
                message += f" in namespace {run.metadata.namespace}"
            elif self._settings.namespaces:
                message += ", or this operator, which looks after single namespaces, may not read it; "
                message += "an EvolutionRuntime in the run's namespace always serves"
            return Wait("Blocked", "RuntimeNotFound", message)
        try:
            runtime = _runtime(record.body)
        except InvalidRun as error:
            return Wait("Blocked", "RuntimeInvalid", f"{ref.kind} {ref.name!r} cannot be used: {error}")
        if problem := unservable(run.spec.training.variant, runtime.spec.engine.name):
            return Wait("Blocked", "EngineCannotServe", f"spec.{problem}")
        return runtime

    def _release(self, key: RunKey) -> None:
        """Pods of Jobs that ended well have told everything once their stage is known to be done."""
        memory = self._memories.get(key)
        for job in self._cache.jobs(key):
            if job.state == "Complete" and (memory is None or job.recipe or job.fingerprint in memory.manifests):
                self._cache.settle(key.namespace, job.name)

    async def _poll(self, subject: Subject) -> None:
        """Ask the store how far the workers are that have a pod running; they tell it every five seconds."""
        memory = subject.memory
        if memory.polled_at and (self._now() - memory.polled_at).total_seconds() < POLL_SECONDS:
            return
        running = {pod.job for pod in self._cache.pods(subject.key) if pod.phase == "Running"}
        jobs = {job.name: job for job in self._cache.jobs(subject.key) if job.name in running}
        stages = {name: (memory.at_work.get(name) or job.fingerprint, job.shards) for name, job in jobs.items()}
        if stages:
            memory.progress = await self._knowledge.progress(subject.key.namespace, subject.id, stages)
            memory.polled_at = self._now()

    async def _decide(self, subject: Subject, seen: Observation) -> tuple[Plan, Situation]:
        """A decision on the newest view of the cluster, with everything looked up in the store that it asks for."""
        memory, key = subject.memory, subject.key
        jobs, pods = self._cache.jobs(key), self._cache.pods(key)
        waiting = {j.fingerprint for j in jobs if j.state == "Active" and not j.recipe and not ended_well(j, pods)}
        known: dict[str, Manifest | None] = dict.fromkeys(waiting)
        known.update(memory.manifests)
        while True:
            done = {name for name, manifest in known.items() if manifest}
            found = situation(subject.record.uid, jobs, pods, memory.progress, done, memory.unmendable, seen.now)
            seen = replace(
                seen,
                manifests=known,
                active=found.active,
                failures=found.failures,
                withheld=found.withheld,
                ledger=memory.ledger,
            )
            plan = decide(subject.run, seen)
            if not plan.lookups:
                break
            looked_up = await self._knowledge.manifests(key.namespace, plan.lookups)
            known.update(looked_up)
            memory.manifests.update({name: m for name, m in looked_up.items() if m is not None})
        assert plan.graph is not None
        memory.at_work = {job.name: _first_undone(plan.graph, job) for job in jobs if job.recipe}
        return plan, found


@lru_cache(maxsize=256)
def _runtime(body: bytes) -> EvolutionRuntime:
    """Runtimes are few, and asked for whenever a run is looked at."""
    return runtime_from_object(json.loads(body))


def _hindered_by_store(error: StoreError) -> Hindered:
    if isinstance(error, StoreRefused):
        return Hindered(Wait("Blocked", "StoreRefused", str(error)), AGAIN_SECONDS)
    return Hindered(Wait("Retrying", "StoreUnavailable", str(error)), STORE_SECONDS)


def _first_undone(graph: Graph, job: JobRecord) -> str:
    """Fingerprint of the stage that an order of several stages is at; empty if that is not known."""
    undone = (s.fingerprint for s in graph.stages if s.id in job.stages and not s.done)
    return next(undone, None) or ""
