"""One run at a time: observe it, decide, and carry the decision out.

Level-triggered, and every step may have been done before: Job names follow from what the Job does, the status is
written under its resource version, and a stage is done when its manifest exists. Order of writes: what is to stop,
what is to start, the status, Events, history.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from evolution.api.errors import InvalidRun
from evolution.api.load import run_from_object, runtime_from_object
from evolution.api.run import EvolutionRun
from evolution.api.runtime import EvolutionRuntime, seconds
from evolution.api.status import EvolutionRunStatus
from evolution.decide import Plan, RunEvent, decide
from evolution.observation import Observation, Wait
from evolution.plan.dispatch import Batch, batches, make_order
from evolution.plan.graph import Graph
from evolution.plan.manifest import Manifest
from evolution.status import hindered_status
from evolution.store.base import StoreError, StoreRefused
from evolution_operator.cache import Cache
from evolution_operator.events import event_body
from evolution_operator.gateway import (
    EVENTS,
    JOBS,
    PODS,
    RUNS,
    AlreadyExists,
    Conflict,
    Forbidden,
    Gateway,
    GatewayError,
    Invalid,
    NotFound,
)
from evolution_operator.jobs import build_job, run_id
from evolution_operator.knowledge import Knowledge, Memory
from evolution_operator.merge_patch import merge_patch
from evolution_operator.observe import Situation, ended_well, hung_pods, situation
from evolution_operator.parse import job_record, run_record
from evolution_operator.records import RETRY_REQUESTED, JobRecord, RunKey, RunRecord
from evolution_operator.settings import Settings

AGAIN_SECONDS = 30.0
"""Pause before something is tried again that somebody else has to mend, or may have."""
STORE_SECONDS = 5.0
"""Pause while the store cannot be asked."""
SETTLE_SECONDS = 2.0
HISTORY_SECONDS = 30.0
"""Pause between two writings of a run's history while its state stays: what an operator that dies meanwhile did not
write, the next one reads stage by stage."""

log = logging.getLogger("evolution_operator.reconcile")


class ForeignJob(Exception):
    """A Job of somebody else has the name that one of ours needs."""


class Hindered(Exception):
    """Nothing can be done for a run, and why."""

    def __init__(self, wait: Wait, seconds: float) -> None:
        super().__init__(wait.message)
        self.wait = wait
        self.seconds = seconds
        """Pause before the next attempt."""


@dataclass(frozen=True)
class Subject:
    """A run as it was when its reconciliation began."""

    record: RunRecord
    body: dict[str, Any]
    run: EvolutionRun
    previous: EvolutionRunStatus
    memory: Memory

    @property
    def key(self) -> RunKey:
        return self.record.key

    @property
    def id(self) -> str:
        return run_id(self.record.key.name, self.record.uid)

    @property
    def retry_requested_at(self) -> str:
        return _retry_requested(self.body)


class Reconciler:
    def __init__(
        self,
        gateway: Gateway,
        cache: Cache,
        knowledge: Knowledge,
        settings: Settings,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._gateway = gateway
        self._cache = cache
        self._knowledge = knowledge
        self._settings = settings
        self._now = clock
        self._memories: dict[RunKey, Memory] = {}
        store = {"EVOLUTION_S3_ENDPOINT": settings.s3_endpoint, "AWS_REGION": settings.region}
        self._environment = {name: value for name, value in store.items() if value}

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
        previous = _status(body)
        if self._settled(record, body, previous):
            self._memories.pop(key, None)
            return None
        seen = Observation(
            manifests={},
            now=self._now(),
            previous=previous,
            generation=record.generation,
            retry_requested_at=_retry_requested(body),
        )
        try:
            run = run_from_object(body)
        except InvalidRun as error:
            wrong = Wait("Blocked", "InvalidSpec", "; ".join(f"{e.path}: {e.message}" for e in error.errors))
            await self._write_status(record, body, hindered_status(seen, wrong, accepted=False, refused=True))
            return None
        try:
            subject = Subject(record, body, run, previous, await self._memory(record))
            return await self._advance(subject, seen)
        except Conflict:
            return 0.0  # the run changed meanwhile; its newest version is in the cache
        except (StoreError, Hindered) as error:
            hindered = error if isinstance(error, Hindered) else _hindered_by_store(error)
            log.warning("%s/%s: %s", key.namespace, key.name, hindered)
            await self._write_status(record, body, hindered_status(seen, hindered.wait))
            return hindered.seconds

    def _settled(self, record: RunRecord, body: dict[str, Any], previous: EvolutionRunStatus) -> bool:
        """Complete or failed for good, with nothing changed since: not even the store needs to be asked."""
        return (
            previous.state in ("Complete", "Failed")
            and previous.observed_generation == record.generation
            and previous.last_handled_retry_at == _retry_requested(body)
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
        key, memory = subject.key, subject.memory
        runtime = self._runtime(subject.run)
        blocked = runtime if isinstance(runtime, Wait) else None
        seen = replace(
            seen,
            blocked=blocked,
            retry_limit=1,  # attempts are the Job's: one that has failed has used them up
            gpu_seconds_used=_gpu_seconds(memory, subject.id),
            history_uri=self._knowledge.history_uri(key.namespace, subject.id),
        )
        await self._poll(subject)
        plan, jobs = await self._decide(subject, seen)
        if await self._mend(subject, jobs):
            plan, jobs = await self._decide(subject, seen)
        changed = await self._stop(subject, plan)
        again: list[float] = []
        if isinstance(runtime, EvolutionRuntime):
            await self._replace_hung(subject, runtime)
            started, refused = await self._start(subject, runtime, plan)
            changed = changed or started
            if refused:
                seen = replace(seen, blocked=refused)
                again.append(AGAIN_SECONDS)
        if changed or again:
            plan, jobs = await self._decide(subject, seen)
        self._release(subject)
        await self._write_status(subject.record, subject.body, plan.status, plan.events)
        await self._write_history(subject, plan, jobs)
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
            return _runtime(record.body)
        except InvalidRun as error:
            return Wait("Blocked", "RuntimeInvalid", f"{ref.kind} {ref.name!r} cannot be used: {error}")

    async def _poll(self, subject: Subject) -> None:
        """Ask the store how far the workers are that have a pod running."""
        running = {pod.job for pod in self._cache.pods(subject.key) if pod.phase == "Running"}
        jobs = {job.name: job for job in self._cache.jobs(subject.key) if job.name in running}
        at_work = subject.memory.at_work
        stages = {name: (at_work.get(name) or job.fingerprint, job.shards) for name, job in jobs.items()}
        subject.memory.progress = await self._knowledge.progress(subject.key.namespace, subject.id, stages)

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
            plan = decide(
                subject.run,
                replace(seen, manifests=known, active=found.active, failures=found.failures, withheld=found.withheld),
            )
            if not plan.lookups:
                break
            looked_up = await self._knowledge.manifests(key.namespace, plan.lookups)
            known.update(looked_up)
            memory.manifests.update({name: m for name, m in looked_up.items() if m is not None})
        assert plan.graph is not None
        memory.at_work = {job.name: _first_undone(plan.graph, job) for job in jobs if job.recipe}
        return plan, found

    async def _mend(self, subject: Subject, jobs: Situation) -> bool:
        """Have damaged and vanished artifacts made again; whether anything changed."""
        memory, key = subject.memory, subject.key
        for name, digest in jobs.damaged.items():
            forgotten = await self._knowledge.discard_damaged(key.namespace, digest, memory.manifests.values())
            if not forgotten:
                memory.unmendable.add(name)
                continue
            for fingerprint in forgotten:
                memory.manifests.pop(fingerprint, None)
            await self._tell(
                subject.record,
                RunEvent(
                    "Warning", "ArtifactDamaged", f"{name}: blob {digest} is missing or damaged; it is made again"
                ),
            )
            await self._delete_job(key, name)
        for job in jobs.vanished:
            await self._tell(
                subject.record,
                RunEvent(
                    "Warning", "ArtifactVanished", f"{job.name} ended well, but its manifest is gone; it runs again"
                ),
            )
            await self._delete_job(key, job.name)
        return bool(jobs.damaged or jobs.vanished)

    async def _stop(self, subject: Subject, plan: Plan) -> bool:
        """Delete Jobs that are no longer wanted, and failed ones that are to be tried again."""
        names = list(plan.stop)
        names += [
            job.name
            for job in self._cache.jobs(subject.key)
            if job.state == "Failed" and job.fingerprint in plan.again and job.name not in names
        ]
        for name in names:
            await self._delete_job(subject.key, name)
        return bool(names)

    async def _delete_job(self, key: RunKey, name: str) -> None:
        job = self._cache.job(key.namespace, name)
        if job is None or job.deleting:
            return
        try:
            await self._gateway.delete(JOBS, key.namespace, name, job.uid)
        except (Forbidden, Invalid) as error:
            wait = Wait("Blocked", "JobNotDeleted", f"Job {name} cannot be deleted: {error}")
            raise Hindered(wait, AGAIN_SECONDS) from error
        self._cache.mark_deleting(key.namespace, name, job.uid)
        log.info("%s/%s: deleted Job %s", key.namespace, key.name, name)

    async def _replace_hung(self, subject: Subject, runtime: EvolutionRuntime) -> None:
        """Delete pods whose worker hangs; their Job makes another one, and counts an attempt."""
        idle = seconds(runtime.spec.deadlines.idle)
        jobs, pods = self._cache.jobs(subject.key), self._cache.pods(subject.key)
        for pod in hung_pods(jobs, pods, subject.memory.progress, self._now(), idle):
            message = f"pod {pod.name} reported no progress for {runtime.spec.deadlines.idle}; it is replaced"
            try:
                await self._gateway.delete(PODS, subject.key.namespace, pod.name, pod.uid)
            except (Forbidden, Invalid) as error:
                message = f"{message.removesuffix('it is replaced')}it cannot be replaced: {error}"
            await self._tell(subject.record, RunEvent("Warning", "WorkerHangs", message))

    async def _start(self, subject: Subject, runtime: EvolutionRuntime, plan: Plan) -> tuple[bool, Wait | None]:
        """Create the Jobs of the plan: whether there are new ones, and what kept others from being created."""
        assert plan.graph is not None
        created = False
        for batch in batches(plan.graph, plan.start, runtime.spec.execution, plan.taken):
            try:
                await self._create_job(subject, runtime, plan, batch)
                created = True
            except ForeignJob as error:
                return created, Wait("Blocked", "JobNameTaken", str(error))
            except (Forbidden, Invalid) as error:
                return created, Wait("Blocked", "JobRefused", f"{batch.first.id}: {error}")
        return created, None

    async def _create_job(self, subject: Subject, runtime: EvolutionRuntime, plan: Plan, batch: Batch) -> None:
        assert plan.graph is not None
        key = subject.key
        order = make_order(
            subject.run,
            subject.id,
            self._knowledge.location(key.namespace),
            plan.graph,
            batch,
            shards=runtime.spec.shards,
        )
        body = build_job(subject.run, subject.record.uid, runtime.spec, batch, order, self._environment)
        name = body["metadata"]["name"]
        try:
            made = await self._gateway.create(JOBS, key.namespace, body)
        except AlreadyExists:
            found = await self._gateway.get(JOBS, key.namespace, name)
            if found is None:
                return  # gone meanwhile: its DELETED event brings us back
            standing = job_record(found)
            if standing.owner_uid != subject.record.uid and not standing.deleting:
                raise ForeignJob(
                    f"Job {name} is not this run's; it is in the way until somebody deletes it: "
                    f"kubectl -n {key.namespace} delete job {name}"
                ) from None
            self._cache.upsert(standing)
            if standing.state in ("Complete", "Failed"):
                await self._delete_job(key, name)
            return
        self._cache.upsert(job_record(made))
        log.info("%s/%s: created Job %s", key.namespace, key.name, name)

    def _release(self, subject: Subject) -> None:
        """Pods of Jobs whose stages are done have nothing more to tell."""
        for job in self._cache.jobs(subject.key):
            if job.state == "Complete" and (job.recipe or job.fingerprint in subject.memory.manifests):
                self._cache.settle(subject.key.namespace, job.name)

    async def _write_status(
        self,
        record: RunRecord,
        body: dict[str, Any],
        status: EvolutionRunStatus,
        events: tuple[RunEvent, ...] = (),
    ) -> None:
        after = status.model_dump(by_alias=True, mode="json", exclude_none=True)
        patch = merge_patch(body.get("status") or {}, after)
        if not patch:
            return
        key = record.key
        try:
            written = await self._gateway.patch_status(
                RUNS, key.namespace, key.name, {"status": patch}, record.resource_version
            )
        except NotFound:
            return
        except Conflict:
            fresh = await self._gateway.get(RUNS, key.namespace, key.name)
            if fresh is not None:
                self._cache.upsert(run_record(fresh))
            raise
        self._cache.upsert(run_record(written))
        if (body.get("status") or {}).get("summary") != status.summary:
            log.info("%s/%s: %s", key.namespace, key.name, status.summary)
        for event in events:
            await self._tell(record, event)

    async def _tell(self, record: RunRecord, event: RunEvent) -> None:
        try:
            await self._gateway.create(EVENTS, record.key.namespace, event_body(record, event, self._now()))
        except AlreadyExists:
            pass
        except GatewayError as error:  # an Event is worth no retry
            log.warning("%s/%s: the Event %r is lost: %s", *record.key, event.message, error)

    async def _write_history(self, subject: Subject, plan: Plan, jobs: Situation) -> None:
        assert plan.graph is not None
        memory, state, now = subject.memory, plan.status.state, self._now()
        done = frozenset(s.fingerprint for s in plan.graph.stages if s.done and s.fingerprint)
        if state == memory.written_state:
            early = memory.written_at and (now - memory.written_at).total_seconds() < HISTORY_SECONDS
            if early or done == memory.written:
                return
        used = _gpu_seconds(memory, subject.id)
        await self._knowledge.write_history(subject.run, subject.id, plan.graph, plan.status, jobs.failures, used)
        memory.written, memory.written_state, memory.written_at = done, state, now


@lru_cache(maxsize=256)
def _runtime(body: bytes) -> EvolutionRuntime:
    """Runtimes are few, and asked for whenever a run is looked at."""
    return runtime_from_object(json.loads(body))


def _hindered_by_store(error: StoreError) -> Hindered:
    if isinstance(error, StoreRefused):
        return Hindered(Wait("Blocked", "StoreRefused", str(error)), AGAIN_SECONDS)
    return Hindered(Wait("Retrying", "StoreUnavailable", str(error)), STORE_SECONDS)


def _status(body: dict[str, Any]) -> EvolutionRunStatus:
    try:
        return EvolutionRunStatus.model_validate(body.get("status") or {})
    except ValidationError:
        return EvolutionRunStatus()  # written by somebody else; it is derived anew


def _retry_requested(body: dict[str, Any]) -> str:
    annotations = body["metadata"].get("annotations") or {}
    return str(annotations.get(RETRY_REQUESTED, ""))


def _first_undone(graph: Graph, job: JobRecord) -> str:
    """Fingerprint of the stage that an order of several stages is at; empty if that is not known."""
    undone = (s.fingerprint for s in graph.stages if s.id in job.stages and not s.done)
    return next(undone, None) or ""


def _gpu_seconds(memory: Memory, run: str) -> float:
    """GPU-seconds of the stages that this run's own workers did; adopted ones cost nothing."""
    own = (manifest.timings for manifest in memory.manifests.values() if manifest.run == run)
    return sum(timings.total * timings.gpus for timings in own)
