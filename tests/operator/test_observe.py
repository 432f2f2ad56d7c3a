"""What Jobs and pods mean for their run, where no cluster shows it for long enough to be looked at."""

from datetime import UTC, datetime
from typing import Any

from bodies import container, job_body, pod_body

from evolution.observation import Wait
from evolution_operator.observe import situation
from evolution_operator.parse import job_record, pod_record

NOW = datetime(2026, 11, 21, 12, 5, tzinfo=UTC)
JOB = job_body()["metadata"]["name"]


def wait(
    job: dict[str, Any] | None = None, *pods: dict[str, Any], queued: dict[str, Wait] | None = None
) -> Wait | None:
    """Why the one Job of a run waits."""
    records = [pod_record(pod) for pod in pods]
    found = situation("uid-ops", [job_record(job or job_body())], records, {}, (), (), queued or {}, NOW)
    return found.active[JOB].wait


def ending_pod(**status: Any) -> dict[str, Any]:
    pod = pod_body(phase="Running", **status)
    pod["metadata"]["deletionTimestamp"] = "2026-11-21T12:06:00Z"
    return pod


def test_a_suspended_job_waits_for_what_its_queue_tells_or_for_quota() -> None:
    told = Wait("Queued", "Preempted", "insufficient unused quota")
    suspended = job_body(suspend=True)
    assert wait(suspended, queued={f"uid-{JOB}": told}) == told
    unknown = wait(suspended)
    assert unknown is not None
    assert (unknown.kind, unknown.reason) == ("Queued", "QuotaPending")


def test_a_worker_that_saves_its_work_after_its_job_was_resumed_has_not_died() -> None:
    stopping = wait(None, ending_pod(containerStatuses=[container(running={"startedAt": "2026-11-21T12:00:00Z"})]))
    assert stopping is not None
    assert (stopping.kind, stopping.reason) == ("Retrying", "WorkerStopping")
    ended = wait(None, ending_pod(containerStatuses=[container(terminated={"exitCode": 137})]))
    assert ended is not None
    assert ended.reason == "WorkerDied"
