"""What kube-state-metrics and NVIDIA's DCGM exporter would have told in the scenario."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

from monitoring.scenario.cast import STORIES
from monitoring.scenario.story import Hold, Story, moment

KEPT = timedelta(minutes=15)
"""Pods stay so long after their end."""
PHASES = ("Pending", "Running", "Succeeded", "Failed", "Unknown")
Series = tuple[str, Mapping[str, str], float]


def told(now: datetime) -> Iterator[Series]:
    """Each sample: name, labels, value."""
    for story in STORIES:
        if story.exists(now):
            for number, hold in enumerate(story.holds):
                yield from _pod_of_run(story, number, hold, now)
    yield from _stranger()


def _pod_of_run(story: Story, number: int, hold: Hold, now: datetime) -> Iterator[Series]:
    ended = bool(hold.end) and moment(hold.end) <= now
    if moment(hold.queued) > now or (ended and moment(hold.end) + KEPT <= now):
        return
    placed = bool(hold.node) and moment(hold.node) <= now
    phase = "Pending" if not placed else "Running"
    if ended:
        phase = "Succeeded" if hold.result == "succeeded" else "Failed"
    pod = story.pod(number)
    yield from _pod(story.namespace, pod, f"{pod}-job", hold.gpus, "node-1" if placed else "", phase)
    yield "kube_job_owner", _owner(story.namespace, "job_name", f"{pod}-job", "EvolutionRun", story.name), 1
    if placed and not ended:
        for gpu in range(hold.gpus):
            labels = {"namespace": story.namespace, "pod": pod, "container": "worker", "gpu": str(gpu)}
            yield "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", labels, 0.25 if gpu % 2 else 0.35


def _stranger() -> Iterator[Series]:
    """A pod with 8 GPUs that belongs to a CronJob: nobody's run."""
    yield from _pod("team-legal", "nightly-1-x", "nightly-1", 8, "node-2", "Running")
    yield "kube_job_owner", _owner("team-legal", "job_name", "nightly-1", "CronJob", "nightly"), 1


def _pod(namespace: str, pod: str, job: str, gpus: int, node: str, phase: str) -> Iterator[Series]:
    where = {"namespace": namespace, "pod": pod}
    for wanted in PHASES:
        yield "kube_pod_status_phase", {**where, "phase": wanted}, float(wanted == phase)
    for condition in ("true", "false", "unknown"):
        yield "kube_pod_status_scheduled", {**where, "condition": condition}, float((condition == "true") == bool(node))
    yield "kube_pod_owner", _owner(namespace, "pod", pod, "Job", job), 1
    resources = {"cpu": 4.0, "nvidia_com_gpu": float(gpus)} if gpus else {"cpu": 4.0}
    for resource, amount in resources.items():
        labels = {**where, "container": "worker", "node": node, "resource": resource, "unit": "integer"}
        yield "kube_pod_container_resource_requests", labels, amount


def _owner(namespace: str, of: str, name: str, kind: str, owner: str) -> dict[str, str]:
    return {"namespace": namespace, of: name, "owner_kind": kind, "owner_name": owner, "owner_is_controller": "true"}
