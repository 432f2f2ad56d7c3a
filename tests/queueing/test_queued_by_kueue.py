"""Runs that wait for quota, with the real Kueue: what they say, what they hold, and what preemption costs them."""

import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import HANG, Cluster
from controlplane.client import object_path
from controlplane.plane import ControlPlane
from kueue_queue import Queue

from evolution.store.history import History, read_history
from evolution_operator.jobs import run_id

pytestmark = [pytest.mark.ship, pytest.mark.controlplane]

DOCS = Path(__file__).parents[2] / "docs" / "queueing.md"
GPUS = "quota for nvidia.com/gpu in flavor any"
"""What the scarce resource is called in Kueue's messages."""
QUEUED: dict[str, Any] = {
    "rounds": 1,
    "runtimeRef": {"kind": "EvolutionRuntime", "name": "simulated"},
    "selection": {"strategy": "None"},
    "gate": {"patience": 0},
}


def test_a_run_that_waits_mid_way_says_what_quota_is_missing_and_goes_on_once_there_is_more(
    cluster: Cluster, queue: Queue
) -> None:
    queue.create(gpus=0)
    cluster.apply(spec=QUEUED)
    cluster.until("Queued: QuotaPending")
    lacking = (
        "insufficient quota for nvidia.com/gpu in flavor any, previously considered podsets requests (0) + current"
    )
    cluster.wait(lambda: lacking in cluster.condition("Progressing")["message"], "Kueue's own words")
    cluster.wait(lambda: succeeded(cluster, "prepare-documents"), "what needs no GPU")
    queue.has(gpus=1)
    cluster.until("Complete: *")


def test_a_queue_that_does_not_exist_is_named(cluster: Cluster) -> None:
    cluster.apply(spec=QUEUED)
    cluster.until("Queued: Inadmissible")
    assert cluster.condition("Progressing")["message"] == f"LocalQueue {cluster.namespace} doesn't exist"


def test_runs_of_one_queue_take_turns_and_a_suspended_one_gives_its_quota_back(cluster: Cluster, queue: Queue) -> None:
    queue.create(gpus=1)
    cluster.fates.next(cluster.namespace, "r1-generate", HANG, HANG)
    for name in ("first", "second", "third"):
        cluster.apply(name, {**QUEUED, "model": {"uri": f"s3://models/{name}"}})
        cluster.wait(lambda name=name: cluster.job("r1-generate", name), f"the Job of {name} that wants a GPU")
        if name == "first":
            cluster.until_running("r1-generate", name)
        # Kueue knows which of two came first by the second.
        came = int(time.time())
        cluster.wait(lambda came=came: int(time.time()) > came)
    cluster.until("Queued: *", "second")
    cluster.edit({"suspend": True}, "first")
    cluster.until_running("r1-generate", "second")
    assert cluster.summary("third").startswith("Queued: ")
    cluster.edit({"suspend": True}, "second")
    cluster.until("Complete: *", "third")
    cluster.edit({"suspend": False}, "first")
    cluster.until("Complete: *", "first")


def test_a_preempted_run_waits_is_not_blamed_and_goes_on_when_the_quota_is_back(cluster: Cluster, queue: Queue) -> None:
    queue.create(gpus=1)
    cluster.fates.next(cluster.namespace, "r1-train", HANG)
    cluster.apply(spec=QUEUED)
    job = cluster.until_running("r1-train")["metadata"]["name"]
    queue.urgent_job("urgent", gpus=1)
    cluster.until("Queued: Preempted")
    cluster.wait(lambda: not pods_of(cluster, job), "the end of its worker")
    cluster.wait(lambda: GPUS in cluster.condition("Progressing")["message"], "what it lacks now")
    cluster.api.delete(object_path("jobs", "urgent", cluster.namespace, "batch/v1"), propagationPolicy="Background")
    cluster.until("Complete: *")
    trained = [attempt for attempt in history(cluster).ledger.settled if attempt.job == job]
    assert [attempt.result for attempt in trained] == ["preempted", "succeeded"]


def test_the_manifests_of_the_documentation_are_taken(queueing_plane: ControlPlane) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", DOCS.read_text(), re.DOTALL | re.MULTILINE)
    manifests = [body for block in blocks for body in yaml.safe_load_all(block) if "kind" in body]
    assert {body["kind"] for body in manifests} == {"ResourceFlavor", "ClusterQueue", "LocalQueue", "EvolutionRuntime"}
    queueing_plane.kubectl("create", "namespace", "team-a")
    queueing_plane.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(manifests))


def succeeded(cluster: Cluster, stage: str) -> bool:
    job = cluster.job(stage)
    return job is not None and job["status"].get("succeeded") == 1


def pods_of(cluster: Cluster, job: str) -> list[dict[str, Any]]:
    return [pod for pod in cluster.pods() if pod["metadata"]["labels"].get("job-name") == job]


def history(cluster: Cluster, name: str = "demo") -> History:
    found = read_history(cluster.artifacts.store, run_id(name, cluster.run(name)["metadata"]["uid"]))
    assert found is not None
    return found
