"""One run at a time: observe it, decide, and carry the decision out.

Level-triggered, and every step may have been done before: Job names follow from what the Job does, the status is
written under its resource version, and a stage is done when its manifest exists. Order of writes: what is to stop,
what is to start, history, the status, Events. A run whose status says that it has ended has all of it in its history.
"""

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from evolution.api.errors import InvalidRun
from evolution.api.load import run_from_object, runtime_from_object
from evolution.api.run import EvolutionRun
from evolution.api.runtime import EvolutionRuntime
from evolution.api.status import EvolutionRunStatus
from evolution.decide import Plan, decide
from evolution.observation import Observation, Wait
from evolution.plan.graph import Graph, unfold
from evolution.plan.manifest import Manifest
from evolution.plan.nodes import unshared
from evolution.plan.serving import unservable
from evolution.status import hindered_status
from evolution.store.base import StoreError, StoreRefused
from evolution_operator.accounting import progressed_at
from evolution_operator.bookkeeping import Bookkeeper
from evolution_operator.cache import Cache
from evolution_operator.execute import AGAIN_SECONDS, Executor
from evolution_operator.gateway import Conflict, Gateway
from evolution_operator.jobs import run_id
from evolution_operator.knowledge import Knowledge, Memory
from evolution_operator.kueue import Kueue
from evolution_operator.observe import Situation, ended_well, situation
from evolution_operator.records import JobRecord, RunKey, RunRecord
from evolution_operator.report import Reporter
from evolution_operator.settings import Settings
from evolution_operator.showing import Nobody, Shown, Witness
from evolution_operator.subject import Hindered, Subject, retry_requested, status_of

STORE_SECONDS = 5.0
"""Pause while the store cannot be asked."""
SETTLE_SECONDS = 2.0
POLL_SECONDS = 5.0
RECALL_SECONDS = 2.0
"""After the start of the operator, runs that have ended are recalled when the others have been looked at, …"""
RECALL_PAUSE = 0.25
"""… one after the other."""

CLOCK_TOLERANCE = timedelta(seconds=2)
"""Kubernetes tells whole seconds, and nodes have clocks of their own."""

log = logging.getLogger(__name__)


class Reconciler:
    def __init__(
        self,
        gateway: Gateway,
        cache: Cache,
        knowledge: Knowledge,
        settings: Settings,
        witness: Witness = Nobody(),  # noqa: B008 (it has no state)
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cache = cache
        self._knowledge = knowledge
        self._settings = settings
        self._now = clock
        self._witness = witness
        self._memories: dict[RunKey, Memory] = {}
        self._concluded: dict[RunKey, str] = {}
        """Uids of runs that have ended and tell nothing new."""
        self._recalls: dict[RunKey, datetime] = {}
        """When runs that ended before this process began are to be recalled."""
        store = {"EVOLUTION_S3_ENDPOINT": settings.s3_endpoint, "AWS_REGION": settings.region}
        environment = {name: value for name, value in store.items() if value}
        self._reporter = Reporter(gateway, cache, knowledge, clock)
        self._executor = Executor(gateway, cache, knowledge, self._reporter, witness, environment, clock)
        self._kueue = Kueue(gateway, clock)
        self._books = Bookkeeper(cache, knowledge, witness, clock)

    async def reconcile(self, key: RunKey) -> float | None:
        """Bring one run a step further; seconds until it wants to be looked at again though nothing happens.

        Raises:
            GatewayError: the API server did not do what it should; worth another try.
        """
        record = self._cache.run(key)
        if record is None or record.deleting:
            self._forget(key)
            self._cache.dismiss(key, self._cache.departed(key))
            self._witness.gone(key)
            return None
        body = json.loads(record.body)
        previous = status_of(body)
        seen = Observation(
            manifests={},
            now=self._now(),
            previous=previous,
            generation=record.generation,
            retry_requested_at=retry_requested(body),
        )
        ended = self._settled(record, body, previous)
        if ended and (pause := self._pause_before_recall(record, previous)) is not None:
            return pause or None
        try:
            run = run_from_object(body)
        except InvalidRun as error:
            if not ended:
                wrong = Wait("Blocked", "InvalidSpec", "; ".join(f"{e.path}: {e.message}" for e in error.errors))
                refused = hindered_status(seen, wrong, accepted=False, refused=True)
                await self._reporter.write_status(record, body, refused)
            return None
        try:
            subject = Subject(record, body, run, await self._memory(record, run))
            return await (self._conclude if ended else self._advance)(subject, seen)
        except Conflict:
            return 0.0  # the run changed meanwhile; its newest version is in the cache
        except (StoreError, Hindered) as error:
            hindered = error if isinstance(error, Hindered) else _hindered_by_store(error)
            log.warning("%s/%s: %s", key.namespace, key.name, hindered)
            if not ended:
                await self._reporter.write_status(record, body, hindered_status(seen, hindered.wait))
            return hindered.seconds

    def _forget(self, key: RunKey) -> None:
        self._memories.pop(key, None)
        self._concluded.pop(key, None)
        self._recalls.pop(key, None)

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

    def _pause_before_recall(self, record: RunRecord, previous: EvolutionRunStatus) -> float | None:
        """Seconds until an ended run should be looked at again, 0 for never; None if it is to be looked at now."""
        key = record.key
        known = self._memories.get(key)
        if known is not None and known.uid == record.uid:
            return None
        if self._concluded.get(key) != record.uid:
            # Without anybody to show it to, a run is recalled only if the last of its workers had not ended.
            ended_at = datetime.fromisoformat(record.ended_at) if record.ended_at else None
            unsettled = previous.state == "Complete" and previous.gpu_seconds.unsettled > 0
            unsettled = unsettled or self._outlasted(record, ended_at)
            if unsettled or (ended_at and self._witness.wants(key, ended_at)):
                turn = self._now() + timedelta(seconds=RECALL_SECONDS + RECALL_PAUSE * len(self._recalls))
                left = (self._recalls.setdefault(key, turn) - self._now()).total_seconds()
                return left if left > 0 else None
        self._let_go(record)
        return 0.0

    def _outlasted(self, record: RunRecord, ended_at: datetime | None) -> bool:
        """Whether a worker of the run ended after the run did, so that the history may not have its end."""
        return ended_at is not None and any(
            not pod.finished_at or datetime.fromisoformat(pod.finished_at) >= ended_at - CLOCK_TOLERANCE
            for pod in self._cache.pods(record.key)
        )

    def _let_go(self, record: RunRecord) -> None:
        """Of a run that has ended nothing is kept in mind."""
        key = record.key
        self._forget(key)
        self._concluded[key] = record.uid
        self._cache.dismiss(key, self._cache.departed(key))
        for job in self._cache.jobs(key):
            if job.state == "Complete":
                self._cache.settle(key.namespace, job.name)

    async def _memory(self, record: RunRecord, run: EvolutionRun) -> Memory:
        memory = self._memories.get(record.key)
        if memory is None or memory.uid != record.uid:
            identity = run_id(record.key.name, record.uid)
            memory = await self._knowledge.recall(record.key.namespace, identity, record.uid)
            memory.at_work = _at_work(unfold(run.spec, dict(memory.manifests)), self._cache.jobs(record.key))
            self._memories[record.key] = memory
            self._concluded.pop(record.key, None)
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
        again: list[float] = []
        await self._poll(subject)
        waited = await self._kueue.look(key.namespace, self._cache.jobs(key), subject.memory.waiting)
        if waited is not None:
            again.append(waited)
        if missing := await self._books.note(subject, _shards(runtime)):
            again.append(missing)
        plan, jobs = await self._decide(subject, seen)
        if plan.stop or plan.again or jobs.damaged or jobs.vanished:
            await self._reporter.secure_ledger(subject, plan, jobs)
        if await self._executor.mend(subject, jobs):
            plan, jobs = await self._decide(subject, seen)
        changed = await self._executor.stop(subject, plan)
        refused: Wait | None = None
        if isinstance(runtime, EvolutionRuntime):
            await self._executor.replace_hung(subject, runtime)
            changed = await self._executor.renew(subject, runtime, jobs) or changed
            started, refused = await self._executor.start(subject, runtime, plan)
            changed = changed or started
            if refused:
                seen = replace(seen, blocked=refused)
                again.append(AGAIN_SECONDS)
        if changed or refused:
            plan, jobs = await self._decide(subject, seen)
        self._books.release(subject)
        again += await self._report(subject, plan, jobs, runtime)
        if plan.requeue_after is not None:
            again.append(plan.requeue_after)
        if jobs.settling or jobs.vanished:
            again.append(SETTLE_SECONDS)
        if jobs.active:
            again.append(self._settings.progress_seconds)
        return min(again, default=None)

    async def _conclude(self, subject: Subject, seen: Observation) -> float | None:
        """Of a run that has ended: take in how its last workers ended, and show its figures."""
        if subject.memory.written_ledger is None:
            self._let_go(subject.record)  # its history is gone from the store
            return None
        runtime = self._runtime(subject.run)
        again = await self._books.note(subject, _shards(runtime))
        plan, jobs = await self._decide(subject, seen)
        figures = {name: getattr(plan.status, name) for name in ("gpu_seconds", "gpu_hours", "rounds")}
        plan = replace(plan, status=seen.previous.model_copy(update=figures), events=())
        pauses = await self._report(subject, plan, jobs, runtime)
        if subject.memory.ledger.open:
            pauses.append(self._settings.progress_seconds)
        if again is not None:
            pauses.append(again)
        if self._books.release(subject) and not pauses:
            self._let_go(subject.record)
        return min(pauses, default=None)

    async def _report(
        self, subject: Subject, plan: Plan, jobs: Situation, runtime: EvolutionRuntime | Wait
    ) -> list[float]:
        """Write down and show how things stand; seconds until what was put off is to be written."""
        assert plan.graph is not None
        memory = subject.memory
        pause = await self._reporter.write_history(subject, plan, jobs)
        await self._reporter.write_status(
            subject.record, subject.body, plan.status, plan.events, figures_last=not memory.ledger.open
        )
        if memory.written_ledger is not None:
            shown = Shown(
                run=subject.run,
                graph=plan.graph,
                ledger=memory.written_ledger,
                status=plan.status,
                runtime=runtime.spec if isinstance(runtime, EvolutionRuntime) else None,
                progressed_at=progressed_at(memory.ledger, (*memory.progress.values(), *memory.told.values())),
            )
            self._witness.shown(subject.key, shown)
        return [] if pause is None else [pause]

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
        if problem := unshared(run.spec.training.batch_size, runtime.spec.nodes):
            return Wait("Blocked", "NodesCannotShare", f"spec.{problem}")
        return runtime

    async def _poll(self, subject: Subject) -> None:
        """Ask the store how far the workers are that have a pod running; they tell it every five seconds."""
        memory = subject.memory
        if memory.polled_at and (self._now() - memory.polled_at).total_seconds() < POLL_SECONDS:
            return
        running = {pod.job for pod in self._cache.pods(subject.key) if pod.phase == "Running"}
        jobs = {job.name: job for job in self._cache.jobs(subject.key) if job.name in running}
        stages = {name: (memory.at_work.get(name) or job.fingerprint, job.shards) for name, job in jobs.items()}
        if stages:
            told = await self._knowledge.progress(subject.key.namespace, subject.id, stages)
            memory.progress = {name: reports.together for name, reports in told.items()}
            for reports in told.values():
                memory.told.update(reports.by_worker)
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
            found = situation(
                subject.record.uid,
                jobs,
                pods,
                memory.progress,
                done,
                memory.unmendable,
                memory.waiting.reasons,
                seen.now,
            )
            seen = replace(
                seen,
                manifests=known,
                active=found.active,
                failures=found.failures,
                withheld=found.withheld,
                ledger=memory.ledger,
            )
            plan = decide(subject.run, seen)
            assert plan.graph is not None
            if not plan.lookups:
                judged = memory.ledger.judging(subject.run.spec, plan.graph)
                if judged == memory.ledger:
                    break
                memory.ledger = judged
                continue
            looked_up = await self._knowledge.manifests(key.namespace, plan.lookups)
            known.update(looked_up)
            memory.manifests.update({name: m for name, m in looked_up.items() if m is not None})
        memory.at_work = _at_work(plan.graph, jobs)
        return plan, found


@lru_cache(maxsize=256)
def _runtime(body: bytes) -> EvolutionRuntime:
    """Runtimes are few, and asked for whenever a run is looked at."""
    return runtime_from_object(json.loads(body))


def _hindered_by_store(error: StoreError) -> Hindered:
    if isinstance(error, StoreRefused):
        return Hindered(Wait("Blocked", "StoreRefused", str(error)), AGAIN_SECONDS)
    return Hindered(Wait("Retrying", "StoreUnavailable", str(error)), STORE_SECONDS)


def _shards(runtime: EvolutionRuntime | Wait) -> int:
    return runtime.spec.shards if isinstance(runtime, EvolutionRuntime) else 1


def _at_work(graph: Graph, jobs: Iterable[JobRecord]) -> dict[str, str]:
    """Fingerprint of the stage that each order of several stages is at, by name of the Job."""
    return {job.name: _first_undone(graph, job) for job in jobs if job.recipe}


def _first_undone(graph: Graph, job: JobRecord) -> str:
    """Fingerprint of the stage that an order of several stages is at; empty if that is not known."""
    undone = (s.fingerprint for s in graph.stages if s.id in job.stages and not s.done)
    return next(undone, None) or ""
