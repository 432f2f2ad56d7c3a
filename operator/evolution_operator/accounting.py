"""From the pods of a run to attempts of its ledger: what held GPUs, since when, and how it ended. Pure."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

from pydantic import ValidationError

from evolution.api.times import rfc3339
from evolution.attempt import Attempt, EndedAttempt, Result
from evolution.ledger import Ledger
from evolution.plan.tally import Tally
from evolution.plan.worker import ExitCode, Failed, OrderDone, Progress, parse_event
from evolution_operator.records import JobRecord, PodRecord
from evolution_operator.showing import Words

SIGNALS = 128
"""Exit codes above tell of a signal."""
_PERMANENT = frozenset({ExitCode.BAD_SPEC, ExitCode.BAD_INPUT, ExitCode.LIMIT})


def own_words(pod: PodRecord) -> tuple[Tally | None, Words]:
    """What the worker of an ended pod said at last that it had spent, and whether it said so."""
    try:
        event = parse_event(pod.message)
    except ValidationError:
        # Text that is no event comes from Kubernetes, or is the end of a log.
        return None, "unreadable" if pod.message.startswith("{") and "\n" not in pod.message else "missing"
    tally = event.tally if isinstance(event, OrderDone | Failed | Progress) else None
    return tally, "applied" if tally else "missing"


def attempts(
    ledger: Ledger,
    jobs: Iterable[JobRecord],
    pods: Iterable[PodRecord],
    gone: Iterable[PodRecord],
    stopped: Collection[str],
    told: Mapping[str, Progress],
    now: datetime,
) -> list[Attempt]:
    """Of pods whose attempts have not ended in the ledger yet, as they stand.

    `gone` are pods that are no more, as they were seen last; `stopped` names those that we made end; `told` is what
    workers last told the store, by name of the pod.
    """
    by_name = {job.name: job for job in jobs}
    removed = {pod.name: pod for pod in gone}
    seen = {pod.name: pod for pod in pods} | removed
    closed = ledger.closed(seen)
    known: list[Attempt | EndedAttempt] = [*ledger.settled, *ledger.attempts]
    found: list[Attempt] = []
    for pod in sorted(seen.values(), key=lambda pod: (pod.created_at, pod.name)):
        if pod.name in closed or pod.kind is None:
            continue
        ended_at = _ended_at(pod, now, is_gone=pod.name in removed)
        job = by_name.get(pod.job)
        words = own_words(pod)[0] if ended_at else None
        report = told.get(pod.name)
        attempt = Attempt(
            worker=pod.name,
            job=pod.job,
            kind=pod.kind,
            round=pod.round,
            gpus=pod.gpus,
            queued_at=_queued_at(pod, job, known),
            allocated_at=pod.scheduled_at or pod.started_at,
            started_at=pod.started_at,
            ended_at=ended_at,
            result=_result(pod, job, is_stopped=pod.name in stopped) if ended_at else None,
            tally=words or (report.tally if report else None),
        )
        known.append(attempt)
        found.append(attempt)
    return found


def fell_silent(attempt: Attempt, pod: PodRecord) -> bool:
    """Whether a worker ran and ended without a word about what it had spent: the store may know."""
    return bool(attempt.ended_at and attempt.started_at) and own_words(pod)[0] is None


def lost(attempt: Attempt, told: Progress | None, now: datetime) -> Attempt:
    """An open attempt whose pod vanished while nobody looked: it ended with its last word, or has just been missed."""
    return attempt.model_copy(
        update={
            "ended_at": told.updated_at if told and told.updated_at else rfc3339(now, "milliseconds"),
            "result": "lost",
            "tally": told.tally if told and told.tally else attempt.tally,
        }
    )


def progressed_at(ledger: Ledger, told: Iterable[Progress]) -> datetime | None:
    """When a worker last told of progress, or an attempt last began or ended."""
    times = [report.updated_at for report in told]
    times += [attempt.ended_at for attempt in ledger.settled]
    for attempt in ledger.attempts:
        times += [attempt.allocated_at, attempt.started_at, attempt.ended_at]
    return max((_at(time) for time in times if time), default=None)


def _ended_at(pod: PodRecord, now: datetime, *, is_gone: bool) -> str:
    if pod.phase in ("Succeeded", "Failed"):
        return pod.finished_at or rfc3339(now, "milliseconds")
    return pod.finished_at or rfc3339(now, "milliseconds") if is_gone else ""


def _queued_at(pod: PodRecord, job: JobRecord | None, known: Iterable[Attempt | EndedAttempt]) -> str:
    """A Job's first pod was wanted when the Job was made; the others follow on one that ended."""
    if job is None or not job.created_at or _at(job.created_at) > _at(pod.created_at):
        return pod.created_at  # the Job is gone, or the next one has its name
    follows = any(
        earlier.job == pod.job
        and earlier.ended_at
        and _at(job.created_at) <= _at(earlier.queued_at)
        and _at(earlier.ended_at) <= _at(pod.created_at)
        for earlier in known
        if earlier.worker != pod.name
    )
    return pod.created_at if follows else job.created_at


def _result(pod: PodRecord, job: JobRecord | None, *, is_stopped: bool) -> Result:
    if pod.phase == "Succeeded":
        return "succeeded"
    if is_stopped:
        return "stopped"
    if pod.exit_code in _PERMANENT:
        return "permanent"
    # A queue takes a Job's workers away by suspending it.
    if pod.exit_code == ExitCode.PREEMPTED or pod.disrupted or (job is not None and job.state == "Suspended"):
        return "preempted"
    killed = pod.exit_code is None or pod.exit_code > SIGNALS
    return "lost" if pod.phase != "Failed" or (pod.deleting and killed) else "retryable"


def _at(time: str) -> datetime:
    return datetime.fromisoformat(time)
