"""A real training that two workers share: it completes, and to the same bytes when one of them is lost amid it."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from cluster import Cluster
from controlplane.client import Json, object_path
from controlplane.fixtures import new_namespace
from controlplane.peer_names import names_refused
from controlplane.plane import ControlPlane
from minio_server import MinioBucket, MinioServer
from process_cluster import LITTLE, process_cluster, uploaded_run
from small_run import small_workplace

from evolution.store import keys
from evolution.store.history import History, read_history
from evolution_operator.jobs import run_id

pytestmark = [pytest.mark.ship, pytest.mark.controlplane, pytest.mark.minio]

STEPS = 150
EARLY = 20
"""Steps that are not worth killing a worker."""
SPEC: dict[str, Any] = {
    "rounds": 1,
    "gate": {"patience": 0},
    "selection": {"strategy": "None"},
    "training": {"maxSteps": STEPS, "batchSize": 16},
}
SECONDS = 240
"""Until a run has come to its end, on a machine that is busy."""


@pytest.fixture(scope="module")
def minio_here(minio_server: MinioServer) -> Iterator[MinioBucket]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in minio_server.environment.items():
            patch.setenv(name, value)
        yield MinioBucket(minio_server, minio_server.new_bucket())


@pytest.fixture(scope="module")
def cluster(
    several_nodes: ControlPlane, minio_here: MinioBucket, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Two nodes with one GPU each, and a runtime whose trainings want both."""
    if why := names_refused():
        pytest.skip(why)
    settings = {"resources": LITTLE, "stages": {"train": {**LITTLE, "gpus": 1, "nodes": 2}}}
    home, folder = new_namespace(several_nodes), tmp_path_factory.mktemp("cluster")
    with process_cluster(several_nodes, home, minio_here, folder, ["first", "second"], **settings) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def run(minio_here: MinioBucket, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """What a run author applies."""
    return uploaded_run(small_workplace(tmp_path_factory.mktemp("laptop") / "small", SPEC), minio_here)


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, run: Json) -> History:
    """What a run leaves that nothing happened to."""
    apply(cluster, run, "undisturbed")
    cluster.until("Complete: *", "undisturbed", seconds=SECONDS)
    return history(cluster, "undisturbed")


@pytest.mark.usefixtures("undisturbed")
def test_a_training_that_two_workers_share_completes(cluster: Cluster) -> None:
    until_known(cluster, "undisturbed", ["succeeded", "succeeded"])
    workers = workers_of(cluster, "undisturbed", "Succeeded")
    assert len({worker["spec"]["nodeName"] for worker in workers}) == 2


@pytest.mark.parametrize(
    ("name", "node", "killed", "results"),
    [
        ("leader-killed", 0, True, ["preempted", "retryable", "succeeded", "succeeded"]),
        ("follower-killed", 1, True, ["preempted", "retryable", "succeeded", "succeeded"]),
        ("follower-evicted", 1, False, ["preempted", "preempted", "succeeded", "succeeded"]),
    ],
    ids=["leader killed", "follower killed", "follower evicted"],
)
def test_a_training_that_loses_a_worker_goes_on_from_its_checkpoint_to_the_same_bytes(
    cluster: Cluster, run: Json, undisturbed: History, name: str, node: int, killed: bool, results: list[str]
) -> None:
    fingerprint = training(undisturbed).fingerprint
    cluster.artifacts.store.delete(keys.manifest(fingerprint))
    apply(cluster, run, name)

    states = keys.checkpoints(run_of(cluster, name), fingerprint)
    cluster.wait(lambda: saved_steps(cluster, states) > EARLY, "a checkpoint", seconds=SECONDS)
    (worker,) = (pod for pod in workers_of(cluster, name, "Running") if pod["spec"]["hostname"].endswith(f"-{node}"))
    if killed:
        kill(worker)
    else:
        evict(cluster, worker)
    cluster.until("Complete: *", name, seconds=SECONDS)

    found = history(cluster, name)
    assert training(found).usage.tokens_in < training(undisturbed).usage.tokens_in, "saved steps are not done again"
    assert digests(found) == digests(undisturbed)
    until_known(cluster, name, results)


def apply(cluster: Cluster, run: Json, name: str) -> None:
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump({**run, "metadata": {"name": name}}))


def kill(worker: Json) -> None:
    """As a machine does that loses power."""
    name = worker["metadata"]["name"]
    (process,) = (each for each in psutil.Process().children() if each.environ().get("EVOLUTION_WORKER") == name)
    process.send_signal(signal.SIGKILL)


def evict(cluster: Cluster, worker: Json) -> None:
    """As one that is to be drained."""
    name = worker["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    cluster.api.create(f"{object_path('pods', name, cluster.namespace)}/eviction", eviction)


def workers_of(cluster: Cluster, run: str, phase: str) -> list[Json]:
    """Pods of its training."""
    of_it = [pod for pod in cluster.pods() if pod["metadata"]["name"].startswith(f"{run}-r1-train-")]
    return [pod for pod in of_it if pod["status"]["phase"] == phase]


def saved_steps(cluster: Cluster, prefix: str) -> int:
    """After how many steps the newest state of a training was saved; it is whole once it is listed."""
    names = [Path(found.key).name for found in cluster.artifacts.store.list(prefix)]
    return max((int(name.partition("-")[0]) for name in names if name.endswith(".json")), default=0)


def run_of(cluster: Cluster, name: str) -> str:
    return run_id(name, cluster.run(name)["metadata"]["uid"])


def history(cluster: Cluster, name: str) -> History:
    found = read_history(cluster.artifacts.store, run_of(cluster, name))
    assert found is not None
    return found


def training(of: History) -> Any:
    (manifest,) = (manifest for manifest in of.manifests.values() if manifest.kind == "Train")
    return manifest


def digests(of: History) -> dict[str, str]:
    return {name: artifact.digest for name, artifact in training(of).outputs.items()}


def until_known(cluster: Cluster, name: str, expected: list[str]) -> None:
    """What became of every worker that trained, each on a GPU; the last one may end after its run."""

    def known() -> bool:
        ended = [each for each in history(cluster, name).ledger.settled if each.kind == "Train"]
        return sorted(each.result for each in ended if each.gpus == 1) == expected

    cluster.wait(known, f"the ledger of {name} with {expected}")
