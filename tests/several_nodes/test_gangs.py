"""A training that several nodes share is one JobSet: what the real controllers make of it, and what its run says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import COLLECTED_SECONDS, HANG, Cluster, failed
from controlplane.client import Json, object_path
from controlplane.plane import ControlPlane
from kueue_queue import Queue
from simulated_cluster import simulated_cluster

from evolution.plan.worker import ExitCode
from evolution.store.history import read_history
from evolution_operator.jobs import run_id

pytestmark = [pytest.mark.ship, pytest.mark.controlplane]

LITTLE = {"cpu": "1", "memory": "1Gi"}
ON_TWO = {**LITTLE, "gpus": 1, "nodes": 2}
SHARED: dict[str, Any] = {
    "rounds": 1,
    "runtimeRef": {"kind": "EvolutionRuntime", "name": "simulated"},
    "training": {"batchSize": 16},
    "gate": {"patience": 0},
}


@pytest.fixture
def cluster(several_nodes: ControlPlane, home: str, tmp_path: Path) -> Iterator[Cluster]:
    """With a runtime whose trainings have two nodes with a GPU each."""
    with simulated_cluster(several_nodes, home, tmp_path, resources=LITTLE, stages={"train": ON_TWO}) as cluster:
        yield cluster


@pytest.fixture
def queueing(several_nodes: ControlPlane, home: str, tmp_path: Path) -> Iterator[Cluster]:
    """The same, and what its runs need waits for it in the namespace's queue."""
    settings = {"resources": LITTLE, "stages": {"train": ON_TWO}, "queueName": home}
    with simulated_cluster(several_nodes, home, tmp_path, **settings) as cluster:
        yield cluster


def test_a_training_has_a_pod_on_every_node_and_a_run_of_such_trainings_completes(cluster: Cluster) -> None:
    cluster.apply(spec={**SHARED, "rounds": 2})
    cluster.until("Complete: *")
    gangs = jobsets(cluster)
    assert len(gangs) == 2
    completed = [{"Completed"}] * 2
    cluster.wait(lambda: [conditions(gang) for gang in jobsets(cluster)] == completed, "both JobSets being done")
    for gang in gangs:
        first, second = sorted(pods(cluster, gang), key=lambda pod: pod["spec"]["hostname"])
        name = gang["metadata"]["name"]
        assert (first["spec"]["hostname"], second["spec"]["hostname"]) == (f"{name}-node-0-0", f"{name}-node-0-1")
        assert environment(second)["EVOLUTION_LEADER"] == f"{name}-node-0-0.{name}:29500"
        until_known(cluster, gang, "succeeded", "succeeded")


def test_a_batch_that_the_nodes_cannot_share_is_refused_before_anything_is_computed(cluster: Cluster) -> None:
    cluster.apply(spec={**SHARED, "training": {"batchSize": 15}})
    cluster.until("Pending: NodesCannotShare")
    message = cluster.condition("Stalled")["message"]
    assert "training.batchSize is 15, which 2 nodes cannot share equally" in message
    assert not cluster.pods()
    cluster.edit({"training": {"batchSize": 16}})
    cluster.until("Complete: *")


@pytest.mark.parametrize(
    ("code", "reason", "result"),
    [(ExitCode.BAD_SPEC, "TokenizerMissing", "permanent"), (137, "OutOfMemory", "retryable")],
    ids=["for good", "once too often"],
)
def test_a_worker_that_fails_ends_its_gang_and_the_run_says_why(
    cluster: Cluster, code: int, reason: str, result: str
) -> None:
    cluster.fates.next(cluster.namespace, "r1-train", HANG, failed(code, reason, "what it says"))
    cluster.apply(spec=SHARED)
    cluster.until(f"Failed: {reason}")
    assert "what it says" in cluster.condition("Stalled")["message"]
    (gang,) = jobsets(cluster)
    cluster.wait(lambda: not running(cluster, gang), "the end of the other worker")
    cluster.ask_again("2026-11-01T12:00:00Z")
    cluster.until("Complete: *")
    cluster.wait(lambda: len(results(cluster, gang)) == 4, "both workers and their successors in the ledger")
    assert result in results(cluster, gang)


def test_a_deleted_run_takes_its_gang_along(cluster: Cluster) -> None:
    cluster.fates.next(cluster.namespace, "r1-train", HANG, HANG)
    cluster.apply(spec=SHARED)
    cluster.wait(lambda: [p for g in jobsets(cluster) for p in running(cluster, g)][1:], "two running pods")
    cluster.delete()
    for listed in (jobsets, services, Cluster.pods):
        cluster.wait(lambda listed=listed: not listed(cluster), "nothing being left", seconds=COLLECTED_SECONDS)


def test_a_suspended_run_ends_its_gang_and_goes_on_with_a_new_one(cluster: Cluster) -> None:
    cluster.fates.next(cluster.namespace, "r1-train", HANG, HANG)
    cluster.apply(spec=SHARED)
    cluster.wait(lambda: [p for g in jobsets(cluster) for p in running(cluster, g)][1:], "two running pods")
    (gang,) = jobsets(cluster)
    cluster.edit({"suspend": True})
    cluster.until("Suspended*")
    cluster.wait(lambda: not pods(cluster, gang), "the end of its pods")
    cluster.edit({"suspend": False})
    cluster.until("Complete: *")
    until_known(cluster, gang, "stopped", "stopped", "succeeded", "succeeded")


def test_a_gang_waits_until_there_is_quota_for_all_of_it_and_says_so(queueing: Cluster, home: str) -> None:
    queue = Queue(queueing.plane, home, home)
    queue.create(gpus=1)
    queueing.apply(spec=SHARED)
    queueing.until("Queued: QuotaPending", seconds=60)
    lacking = "insufficient quota for nvidia.com/gpu in flavor any"
    queueing.wait(lambda: lacking in queueing.condition("Progressing")["message"], "Kueue's own words")
    (gang,) = jobsets(queueing)
    assert not pods(queueing, gang)
    queue.has(gpus=2)
    queueing.until("Complete: *", seconds=60)
    until_known(queueing, gang, "succeeded", "succeeded")


def test_a_preempted_gang_gives_up_all_its_quota_and_goes_on_when_there_is_enough_for_all_of_it(
    queueing: Cluster, home: str
) -> None:
    queue = Queue(queueing.plane, home, home)
    queue.create(gpus=2)
    queueing.fates.next(home, "r1-train", HANG, HANG)
    queueing.apply(spec=SHARED)
    queueing.wait(lambda: [p for g in jobsets(queueing) for p in running(queueing, g)][1:], "two running pods")
    (gang,) = jobsets(queueing)
    queue.urgent_job("urgent", gpus=1)
    queueing.until("Queued: *")
    queueing.wait(lambda: not pods(queueing, gang), "the end of both workers")
    queueing.api.delete(object_path("jobs", "urgent", home, "batch/v1"), propagationPolicy="Background")
    queueing.until("Complete: *", seconds=60)
    until_known(queueing, gang, "preempted", "preempted", "succeeded", "succeeded")


def jobsets(cluster: Cluster) -> list[Json]:
    listed = cluster.api.get(object_path("jobsets", namespace=cluster.namespace, group="jobset.x-k8s.io/v1alpha2"))
    found: list[Json] = listed["items"]
    return found


def services(cluster: Cluster) -> list[Json]:
    found: list[Json] = cluster.api.get(object_path("services", namespace=cluster.namespace))["items"]
    return found


def pods(cluster: Cluster, gang: Json) -> list[Json]:
    label = "jobset.sigs.k8s.io/jobset-name"
    return [pod for pod in cluster.pods() if pod["metadata"]["labels"].get(label) == gang["metadata"]["name"]]


def running(cluster: Cluster, gang: Json) -> list[Json]:
    return [pod for pod in pods(cluster, gang) if pod["status"]["phase"] == "Running"]


def conditions(gang: Json) -> set[str]:
    return {each["type"] for each in gang.get("status", {}).get("conditions", ()) if each["status"] == "True"}


def environment(pod: Json) -> dict[str, str]:
    return {variable["name"]: variable.get("value", "") for variable in pod["spec"]["containers"][0]["env"]}


def until_known(cluster: Cluster, gang: Json, *expected: str) -> None:
    """What became of its workers; the last one may end after the run."""
    cluster.wait(lambda: results(cluster, gang) == [*expected], f"the ledger with {expected}")


def results(cluster: Cluster, gang: Json) -> list[str]:
    """What became of every worker of the gang that held a GPU."""
    history = read_history(cluster.artifacts.store, run_id("demo", cluster.run()["metadata"]["uid"]))
    assert history is not None
    ended = [attempt for attempt in history.ledger.settled if attempt.job == gang["metadata"]["name"]]
    return sorted(attempt.result for attempt in ended if attempt.gpus == 1)
