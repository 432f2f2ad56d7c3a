"""From what the cluster shows of a run's Jobs and pods to what a decision rests on. Pure."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import ValidationError

from evolution.observation import Active, Failure, Wait
from evolution.plan.worker import ExitCode, Failed, Progress
from evolution_operator.records import JobRecord, PodRecord

NO_POD_AFTER = 30.0
"""Seconds after which a Job without a pod is worth a word."""
FORGET_SUCCESS_AFTER = 5.0
"""Seconds that a store gets to show the manifest of a Job that ended well."""


@dataclass(frozen=True)
class Situation:
    """The Jobs of one run, sorted by what they mean."""

    active: Mapping[str, Active] = field(default_factory=dict)
    """Under way, by name of the Job."""
    failures: Mapping[str, Failure] = field(default_factory=dict)
    """Jobs that failed for good, by fingerprint."""
    withheld: frozenset[str] = frozenset()
    """Fingerprints whose Job is still being removed."""
    damaged: Mapping[str, str] = field(default_factory=dict)
    """Jobs that failed because an artifact is missing or damaged: digest by name of the Job."""
    vanished: tuple[JobRecord, ...] = ()
    """Jobs that ended well and whose manifest is not in the store (any more)."""
    settling: bool = False
    """A Job ended well a moment ago, and its manifest is not to be seen yet."""


def ended_well(job: JobRecord, pods: Iterable[PodRecord]) -> bool:
    """Whether the work of a Job is done: its pod says so a second before its own condition does."""
    return job.state == "Complete" or any(pod.job == job.name and pod.phase == "Succeeded" for pod in pods)


def situation(
    uid: str,
    jobs: Iterable[JobRecord],
    pods: Collection[PodRecord],
    progress: Mapping[str, Progress],
    done: Collection[str],
    unmendable: Collection[str],
    queued: Mapping[str, Wait],
    now: datetime,
) -> Situation:
    """What the Jobs of the run with that `uid` mean.

    `done` are fingerprints whose manifests are known, `unmendable` Jobs whose damaged artifact nobody can make again,
    `queued` tells why suspended Jobs wait, by their uid.
    """
    active: dict[str, Active] = {}
    failures: dict[str, Failure] = {}
    withheld: set[str] = set()
    damaged: dict[str, str] = {}
    vanished: list[JobRecord] = []
    settling = False
    for job in jobs:
        own = [pod for pod in pods if pod.job == job.name]
        if job.deleting:
            withheld.add(job.fingerprint)
        elif job.owner_uid != uid:
            continue  # of an earlier run of that name: the garbage collector removes it
        elif job.state == "Failed":
            failed = _last_words(own)
            if failed and failed.artifact and job.name not in unmendable:
                damaged[job.name] = failed.artifact
                withheld.add(job.fingerprint)
            elif job.fingerprint not in done:
                failures[job.fingerprint] = _failure(job, own, failed, now)
        elif ended_well(job, own) and (job.recipe or job.fingerprint in done):
            continue
        elif job.state == "Complete":
            withheld.add(job.fingerprint)
            if _age(job.finished_at, now) > FORGET_SUCCESS_AFTER:
                vanished.append(job)
            else:
                settling = True
        else:
            active[job.name] = Active(
                fingerprint=job.fingerprint,
                stage=job.stages[0] if job.stages else "",
                job=job.name,
                stages=job.stages if job.recipe else (),
                recipe=job.recipe,
                progress=progress.get(job.name),
                wait=_wait(job, own, queued, now),
            )
    return Situation(active, failures, frozenset(withheld), damaged, tuple(vanished), settling)


def hung_pods(
    jobs: Iterable[JobRecord],
    pods: Iterable[PodRecord],
    progress: Mapping[str, Progress],
    now: datetime,
    idle_seconds: float,
) -> list[PodRecord]:
    """Running pods whose worker has not reported progress for `idle_seconds`."""
    waiting = {job.name for job in jobs if job.state == "Active" and not job.deleting}
    found = []
    for pod in pods:
        if pod.job not in waiting or pod.phase != "Running" or pod.deleting:
            continue
        reported = progress.get(pod.job)
        silent = min(
            _age(pod.started_at or pod.created_at, now), _age(reported.updated_at, now) if reported else float("inf")
        )
        if silent > idle_seconds:
            found.append(pod)
    return found


def _wait(job: JobRecord, pods: list[PodRecord], queued: Mapping[str, Wait], now: datetime) -> Wait | None:
    if job.state == "Suspended":
        unknown = Wait("Queued", "QuotaPending", f"{job.kind} {job.name} is suspended: it waits for quota")
        return queued.get(job.uid) or unknown
    if not pods:
        if _age(job.created_at, now) < NO_POD_AFTER:
            return None
        why = f"kubectl -n {job.run.namespace} describe {job.kind.lower()} {job.name}"
        return Wait(
            "Queued", "NoPod", f"{job.kind} {job.name} has no pod yet (a quota, an admission policy?); {why} tells why"
        )
    newest = max(pods, key=lambda pod: (pod.created_at, pod.name))
    if any(pod.phase == "Running" and not pod.deleting for pod in pods):
        # Nodes that train together wait for the last of them.
        stuck = [pod for pod in pods if pod.phase == "Pending" and pod.waiting_reason]
        if job.kind == "Job" or not stuck:
            return None
        newest = stuck[0]
    if newest.phase == "Pending" and newest.waiting_reason:
        kind = newest.waiting_reason
        return Wait("Queued" if kind == "Unschedulable" else "Blocked", kind, newest.waiting_message or kind)
    if newest.phase == "Failed" or newest.deleting:
        failed = _last_words([newest])
        if newest.disrupted:
            return Wait("Retrying", "Preempted", f"pod {newest.name} was evicted or preempted; another one follows")
        if newest.exit_code is None and newest.phase != "Failed":
            return Wait("Retrying", "WorkerStopping", f"pod {newest.name} is being ended; another one follows")
        reason, message = (failed.reason, failed.message) if failed else ("WorkerDied", _how_it_ended(newest))
        return Wait("Retrying", reason, f"{message}; tried again shortly")
    return None


def _failure(job: JobRecord, pods: list[PodRecord], failed: Failed | None, now: datetime) -> Failure:
    at = datetime.fromisoformat(job.finished_at) if job.finished_at else now
    if job.reason == "DeadlineExceeded":
        message = f"{job.kind} {job.name} took longer than the runtime's deadlines.stage allows"
        return Failure(count=1, code=ExitCode.LIMIT, reason="DeadlineExceeded", message=message, at=at)
    if failed is not None:
        return Failure(count=1, code=failed.code, reason=failed.reason, message=failed.message, at=at)
    ended = [pod for pod in pods if pod.exit_code]
    if not ended:
        return Failure(count=1, code=1, reason=job.reason or "JobFailed", message=f"{job.name}: {job.message}", at=at)
    last = max(ended, key=_blame)
    message = f"{_how_it_ended(last)}; its log: kubectl logs {last.name}"
    return Failure(count=1, code=last.exit_code or 1, reason="WorkerDied", message=message, at=at)


def _how_it_ended(pod: PodRecord) -> str:
    if pod.exit_code is None:
        return f"pod {pod.name} is gone"
    killed = pod.exit_code > 128
    how = f"was killed by signal {pod.exit_code - 128}" if killed else f"ended with exit code {pod.exit_code}"
    return f"the worker in pod {pod.name} {how}" + (f": {pod.message.strip()[-300:]}" if pod.message else "")


def _last_words(pods: Iterable[PodRecord]) -> Failed | None:
    """What the worker that failed last said before it ended."""
    for pod in sorted(pods, key=_blame, reverse=True):
        if pod.phase == "Failed" and pod.message:
            try:
                return Failed.model_validate_json(pod.message)
            except ValidationError:
                return None
    return None


def _blame(pod: PodRecord) -> tuple[bool, str]:
    """Orders pods of a Job that failed: those that only ended with another one do not tell why."""
    return pod.exit_code not in (ExitCode.STORE_UNAVAILABLE, ExitCode.PREEMPTED), pod.finished_at


def _age(at: str, now: datetime) -> float:
    return (now - datetime.fromisoformat(at)).total_seconds() if at else 0.0
