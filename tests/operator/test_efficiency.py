"""What a run has held, and what came out of it: its history says what the API server tells of its pods."""

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, Fates
from controlplane.client import Api, Json, Listed, object_path
from controlplane.kubelet import Kubelet, Node
from controlplane.plane import ControlPlane
from controlplane.simulated_kubelet import Hang, simulated_kubelet
from controlplane.waiting import eventually
from operator_process import running_operator

from evolution.ledger import Ledger
from evolution.plan.stage import Kind
from evolution.plan.tally import Spending
from evolution.store.artifacts import Artifacts
from evolution.store.history import History, read_history
from evolution.store.open import open_store
from evolution_operator.jobs import run_id

pytestmark = pytest.mark.controlplane

SECONDS = 1.1
"""How long a worker holds its node: a whole second by the times of its pod, of which it tells."""
GPUS = 4


@dataclass
class Pods:
    """Every pod of a namespace as the API server told of it last, those that are gone included."""

    by_uid: dict[str, Json] = field(default_factory=dict)

    def of(self, stage: str) -> list[Json]:
        return [pod for pod in self.by_uid.values() if f"-{stage}-" in pod["metadata"]["name"]]

    @property
    def gpu_seconds(self) -> int:
        """From the node to the end of the container, times what the pod asked for."""
        return sum(held(pod) for pod in self.by_uid.values())


def held(pod: Json) -> int:
    ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    scheduled = next(c for c in pod["status"]["conditions"] if c["type"] == "PodScheduled")
    (container,) = pod["spec"]["containers"]
    gpus = int(container["resources"]["limits"].get("nvidia.com/gpu", 0))
    return int((at(ended["finishedAt"]) - at(scheduled["lastTransitionTime"])).total_seconds()) * gpus


def at(time: str) -> datetime:
    return datetime.fromisoformat(time)


@contextmanager
def pods_watched(api: Api, namespace: str) -> Iterator[Pods]:
    pods, watch = Pods(), api.watch(object_path("pods", namespace=namespace))

    def follow() -> None:
        for event in watch:
            for pod in event.objects if isinstance(event, Listed) else [event.object]:
                pods.by_uid[pod["metadata"]["uid"]] = pod

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield pods
    finally:
        watch.close()
        follower.join()


@pytest.fixture
def store(tmp_path: Path) -> str:
    return (tmp_path / "store").as_uri()


@pytest.fixture
def cluster(control_plane: ControlPlane, namespace: str, store: str, tmp_path: Path) -> Cluster:
    control_plane.install_crds()
    artifacts = Artifacts(open_store(f"{store}/{namespace}"), tmp_path / "cache")
    cluster = Cluster(control_plane, namespace, Fates(), artifacts)
    cluster.runtime("default", resources={"gpus": GPUS}, stages={"prepare": {"gpus": 0}}, gpuClass="h100")
    return cluster


@pytest.fixture
def nodes(cluster: Cluster, tmp_path: Path) -> Iterator[Kubelet]:
    node = Node(f"simulated-{uuid.uuid4().hex[:8]}", gpus=64, cpu="1000", memory="4Ti", pods=1000)
    with simulated_kubelet(
        cluster.plane.kubeconfig, tmp_path / "nodes", [node], seconds=SECONDS, outcome=cluster.fates.decide
    ) as kubelet:
        yield kubelet
    kubelet.unregister()


@pytest.fixture
def pods(cluster: Cluster) -> Iterator[Pods]:
    with pods_watched(cluster.api, cluster.namespace) as watched:
        yield watched


def apply(cluster: Cluster, rounds: int, **spec: Any) -> None:
    cluster.apply(spec={"rounds": rounds, "runtimeRef": {"kind": "EvolutionRuntime"}, **spec})


def history(cluster: Cluster) -> History:
    meta = cluster.run()["metadata"]
    found = read_history(cluster.artifacts.store, run_id(meta["name"], meta["uid"]))
    assert found is not None
    return found


def until_settled(cluster: Cluster) -> Ledger:
    """The ledger in the store, once it knows how all attempts ended."""

    def found() -> Ledger | None:
        ledger = history(cluster).ledger
        return None if ledger.open else ledger

    return eventually(found, "the ledger knowing how all attempts ended")


def operator(cluster: Cluster, store: str, folder: Path) -> Any:
    flags = ("--namespace", cluster.namespace, "--progress-seconds", "1")
    return running_operator(cluster.plane.kubeconfig, store, folder, *flags)


def pod_that_has_run(cluster: Cluster, stage: str, seconds: int = 2) -> Json:
    """A running pod of a stage, once its times tell of so many seconds."""
    name = cluster.until_running(stage)["metadata"]["name"]
    pod = next(p for p in cluster.pods() if p["metadata"]["labels"]["job-name"] == name and running(p))
    cluster.wait(lambda: (datetime.now(UTC) - at(running(pod)["startedAt"])).total_seconds() > seconds)
    return pod


def running(pod: Json) -> Json:
    (status,) = pod["status"].get("containerStatuses") or [{}]
    found: Json = status.get("state", {}).get("running", {})
    return found


@pytest.mark.usefixtures("nodes")
def test_score_per_gpu_hour_and_cost_per_round_are_those_of_the_pods(
    cluster: Cluster, pods: Pods, store: str, tmp_path: Path
) -> None:
    with operator(cluster, store, tmp_path):
        apply(cluster, rounds=2)
        cluster.until("Complete: *")
        ledger = until_settled(cluster)
    told = history(cluster)
    assert ledger.allocated(datetime.now(UTC)) == pods.gpu_seconds * 1000
    assert ledger.unsettled(datetime.now(UTC)) == 0

    manifests = {m.fingerprint: m for m in told.manifests.values()}
    evaluations = {m.round: m.scores["ROUGEL"] for m in manifests.values() if m.kind is Kind.EVALUATE}
    gain_per_gpu_hour = (max(evaluations.values()) - evaluations[0]) / (pods.gpu_seconds / 3600)
    status = told.status
    assert status.best is not None
    assert status.baseline is not None
    gained = float(status.best.score) - float(status.baseline.scores["ROUGEL"])
    assert gained / (ledger.allocated(datetime.now(UTC)) / 3_600_000) == pytest.approx(gain_per_gpu_hour, rel=1e-3)
    assert float(status.gpu_hours) == pytest.approx(pods.gpu_seconds / 3600, abs=0.005)

    by_round = {
        round_: sum(
            held(p) for p in pods.by_uid.values() if p["metadata"]["labels"]["selfevolution.io/round"] == str(round_)
        )
        for round_ in (1, 2)
    }
    assert all(by_round.values())
    assert {record.round: record.gpu_seconds for record in status.rounds} == by_round
    worked = sum(m.timings.work for m in manifests.values() if m.kind is not Kind.PREPARE)
    assert ledger.by_class()["productive"] == worked * GPUS * 1000


@pytest.mark.slow
@pytest.mark.usefixtures("nodes")
def test_nothing_that_a_run_held_is_missed_whatever_happens_to_it(
    cluster: Cluster, pods: Pods, store: str, tmp_path: Path
) -> None:
    namespace = cluster.namespace
    saved = Spending(saved=500, wasted=100)
    cluster.runtime("wide", resources={"gpus": GPUS}, shards=2)
    cluster.fates.next(namespace, "r1-train", Hang(saved, exit_code=44), Hang(saved), Hang(), Hang())
    with operator(cluster, store, tmp_path) as first:
        apply(
            cluster, rounds=1, runtimeRef={"kind": "EvolutionRuntime", "name": "wide"}, selection={"strategy": "None"}
        )
        evict(cluster, pod_that_has_run(cluster, "r1-train"))
        cluster.wait(lambda: len(pods.of("r1-train")) == 2, "another pod after the eviction")
        pod_that_has_run(cluster, "r1-train")
        cluster.edit({"suspend": True})
        cluster.until("Suspended: *")
        cluster.wait(lambda: cluster.job("r1-train") is None, "the Job being deleted")
        cluster.edit({"suspend": False})
        cluster.wait(lambda: len(pods.of("r1-train")) == 3, "a pod after the run was resumed")
        pod_that_has_run(cluster, "r1-train")
        first.kill()
    cluster.edit({"training": {"learningRate": 0.0005}})
    with operator(cluster, store, tmp_path) as second:
        cluster.wait(lambda: len(pods.of("r1-train")) == 4, "a pod that trains as the edit asks for")
        lost = pod_that_has_run(cluster, "r1-train")["metadata"]["name"]
        known = f"{lost} being known to the history"
        cluster.wait(lambda: lost in {a.worker for a in history(cluster).ledger.open}, known, seconds=60)
        second.kill()
    cluster.kubectl("delete", "pod", lost)
    with operator(cluster, store, tmp_path):
        cluster.until("Complete: *", seconds=60)
        ledger = until_settled(cluster)
    (gone,) = (attempt for attempt in ledger.ended if attempt.result == "lost")
    assert gone.worker == lost
    (unseen,) = (pod for pod in pods.by_uid.values() if pod["metadata"]["name"] == lost)
    seen = pods.gpu_seconds - held(unseen)
    now = datetime.now(UTC)
    assert ledger.allocated(now) - gone.held * GPUS == seen * 1000
    assert ledger.unsettled(now) == 0
    assert ledger.results()[Kind.GENERATE] == {"succeeded": 2}
    assert ledger.results()[Kind.TRAIN] == {"preempted": 1, "stopped": 2, "lost": 1, "succeeded": 1}
    in_vain = sum(held(pod) for pod in pods.of("r1-train")[:3])
    assert ledger.by_class()["wasted"] == in_vain * 1000 + gone.held * GPUS


def evict(cluster: Cluster, pod: Json) -> None:
    name = pod["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    cluster.api.create(object_path("pods", name, cluster.namespace) + "/eviction", eviction)
