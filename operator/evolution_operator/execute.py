"""Carrying a decision out on the Jobs of a run. Every step may have been done before."""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime

from evolution.api.runtime import EvolutionRuntime, seconds
from evolution.decide import Plan, RunEvent
from evolution.observation import Wait
from evolution.plan.dispatch import Batch, batches, make_order
from evolution.plan.order import compute_for
from evolution_operator.cache import Cache
from evolution_operator.gateway import (
    JOBS,
    JOBSETS,
    PODS,
    AlreadyExists,
    Forbidden,
    Gateway,
    Invalid,
    NotFound,
    Resource,
)
from evolution_operator.jobs import build_job, runtime_digest
from evolution_operator.jobsets import build_jobset
from evolution_operator.knowledge import Knowledge
from evolution_operator.observe import Situation, hung_pods
from evolution_operator.parse import Body, job_record, jobset_record
from evolution_operator.records import JobKind, JobRecord
from evolution_operator.report import Reporter
from evolution_operator.showing import Witness
from evolution_operator.subject import Hindered, Subject

POD_SECURITY = "would violate PodSecurity"
"""So a warning of the API server begins, of a Job whose pods a namespace does not admit."""
AGAIN_SECONDS = 30.0
"""Pause before something is tried again that somebody else has to mend, or may have."""

KINDS: Mapping[JobKind, tuple[Resource, Callable[[Body], JobRecord]]] = {
    "Job": (JOBS, job_record),
    "JobSet": (JOBSETS, jobset_record),
}

log = logging.getLogger(__name__)


class ForeignJob(Exception):
    """A Job of somebody else has the name that one of ours needs."""


class NoJobSets(Exception):
    """The cluster has no JobSets."""


class Executor:
    def __init__(
        self,
        gateway: Gateway,
        cache: Cache,
        knowledge: Knowledge,
        reporter: Reporter,
        witness: Witness,
        environment: Mapping[str, str],
        clock: Callable[[], datetime],
    ) -> None:
        """`environment` is what every worker of this installation is told about the store."""
        self._gateway = gateway
        self._cache = cache
        self._knowledge = knowledge
        self._reporter = reporter
        self._witness = witness
        self._environment = environment
        self._now = clock

    async def mend(self, subject: Subject, jobs: Situation) -> bool:
        """Have damaged and vanished artifacts made again; whether anything changed."""
        memory, key = subject.memory, subject.key
        for name, digest in jobs.damaged.items():
            forgotten = await self._knowledge.discard_damaged(key.namespace, digest, memory.manifests.values())
            if not forgotten:
                memory.unmendable.add(name)
                continue
            self._witness.verify_failed(key.namespace, "damaged")
            for fingerprint in forgotten:
                memory.manifests.pop(fingerprint, None)
            await self._reporter.tell(
                subject.record,
                RunEvent(
                    "Warning", "ArtifactDamaged", f"{name}: blob {digest} is missing or damaged; it is made again"
                ),
            )
            await self._delete_job(subject, name)
        for job in jobs.vanished:
            self._witness.verify_failed(key.namespace, "vanished")
            await self._reporter.tell(
                subject.record,
                RunEvent(
                    "Warning", "ArtifactVanished", f"{job.name} ended well, but its manifest is gone; it runs again"
                ),
            )
            await self._delete_job(subject, job.name)
        return bool(jobs.damaged or jobs.vanished)

    async def stop(self, subject: Subject, plan: Plan) -> bool:
        """Delete Jobs that are no longer wanted, and failed ones that are to be tried again."""
        names = list(plan.stop)
        names += [
            job.name
            for job in self._cache.jobs(subject.key)
            if job.state == "Failed" and job.fingerprint in plan.again and job.name not in names
        ]
        for name in names:
            await self._delete_job(subject, name)
        return bool(names)

    async def renew(self, subject: Subject, runtime: EvolutionRuntime, jobs: Situation) -> bool:
        """Delete Jobs whose workers cannot start, if the runtime has been mended since; whether there were any."""
        waiting = [name for name, order in jobs.active.items() if order.wait and order.wait.kind != "Retrying"]
        now = runtime_digest(runtime.spec)
        found = [self._cache.job(subject.key.namespace, name) for name in waiting]
        outdated = [job.name for job in found if job and job.runtime_digest != now and not job.deleting]
        for name in outdated:
            await self._delete_job(subject, name)
        return bool(outdated)

    async def _delete_job(self, subject: Subject, name: str) -> None:
        key = subject.key
        job = self._cache.job(key.namespace, name)
        if job is None or job.deleting:
            return
        subject.memory.stopped |= {pod.name for pod in self._cache.pods(key) if pod.job == name}
        resource, _ = KINDS[job.kind]
        try:
            await self._gateway.delete(resource, key.namespace, name, job.uid)
        except (Forbidden, Invalid) as error:
            wait = Wait("Blocked", "JobNotDeleted", f"{job.kind} {name} cannot be deleted: {error}")
            raise Hindered(wait, AGAIN_SECONDS) from error
        self._cache.mark_deleting(key.namespace, name, job.uid)
        log.info("%s/%s: deleted %s %s", key.namespace, key.name, job.kind, name)

    async def replace_hung(self, subject: Subject, runtime: EvolutionRuntime) -> None:
        """Delete pods whose worker hangs; their Job makes another one, and counts an attempt."""
        idle = seconds(runtime.spec.deadlines.idle)
        jobs, pods = self._cache.jobs(subject.key), self._cache.pods(subject.key)
        for pod in hung_pods(jobs, pods, subject.memory.progress, self._now(), idle):
            subject.memory.stopped.add(pod.name)
            message = f"pod {pod.name} reported no progress for {runtime.spec.deadlines.idle}; it is replaced"
            try:
                await self._gateway.delete(PODS, subject.key.namespace, pod.name, pod.uid)
            except (Forbidden, Invalid) as error:
                message = f"{message.removesuffix('it is replaced')}it cannot be replaced: {error}"
            await self._reporter.tell(subject.record, RunEvent("Warning", "WorkerHangs", message))

    async def start(self, subject: Subject, runtime: EvolutionRuntime, plan: Plan) -> tuple[bool, Wait | None]:
        """Create the Jobs of the plan: whether there are new ones, and what kept others from being created."""
        assert plan.graph is not None
        created, refused = False, None
        for batch in batches(plan.graph, plan.start, runtime.spec.execution, plan.taken):
            try:
                await self._create_job(subject, runtime, plan, batch)
                created = True
            except ForeignJob as error:
                refused = Wait("Blocked", "JobNameTaken", str(error))
            except NoJobSets as error:
                refused = Wait("Blocked", "JobSetNotInstalled", str(error))
            except (Forbidden, Invalid) as error:
                refused = Wait("Blocked", "JobRefused", f"{batch.first.id}: {error}")
        return created, refused

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
            compute=compute_for(subject.run, runtime.spec, batch.first.kind),
        )
        kind: JobKind = "JobSet" if order.compute.nodes > 1 else "Job"
        resource, record = KINDS[kind]
        build = build_jobset if kind == "JobSet" else build_job
        body = build(subject.run, subject.record.uid, runtime.spec, batch, order, self._environment)
        name = body["metadata"]["name"]
        warnings: list[str] = []
        try:
            made = await self._gateway.create(resource, key.namespace, body, warnings.append)
        except AlreadyExists:
            found = await self._gateway.get(resource, key.namespace, name)
            if found is None:
                return  # gone meanwhile: its DELETED event brings us back
            standing = record(found)
            if standing.owner_uid != subject.record.uid and (standing.run != key or not standing.owner_uid):
                raise ForeignJob(
                    f"{kind} {name} is not this run's; it is in the way until somebody deletes it: "
                    f"kubectl -n {key.namespace} delete {kind.lower()} {name}"
                ) from None
            # Of an earlier run of that name: the garbage collector removes it, and its DELETED event brings us back.
            self._cache.upsert(standing)
            if standing.owner_uid == subject.record.uid and standing.state in ("Complete", "Failed"):
                await self._delete_job(subject, name)
            return
        except NotFound as error:
            if kind == "Job":
                raise
            raise NoJobSets(
                f"stages.train.nodes of the runtime is {order.compute.nodes}, and several nodes need JobSet "
                "(jobset.x-k8s.io/v1alpha2), which this cluster does not have; have it installed, or give 1"
            ) from error
        self._cache.upsert(record(made))
        log.info("%s/%s: created %s %s", key.namespace, key.name, kind, name)
        for warning in warnings:
            if POD_SECURITY in warning:
                message = f"{kind} {name} may get no pod, as namespace {key.namespace} admits none like it: {warning}"
                if runtime.spec.cache.host_path:
                    message += "; a runtime for it has a claim in cache.claimName, and no cache.hostPath"
                await self._reporter.tell(subject.record, RunEvent("Warning", "PodsNotAdmitted", message))
