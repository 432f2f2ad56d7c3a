"""Runs get over what happens to a cluster: operators that die or come twice, servers that restart, nodes that go."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import GROUP, HANG, RUNTIME, Cluster, Fates, kstatus
from controlplane.client import object_path
from controlplane.kubelet import Kubelet, Node
from controlplane.plane import ControlPlane
from controlplane.plane import control_plane as another_control_plane
from controlplane.simulated_kubelet import simulated_kubelet
from controlplane.waiting import eventually
from minio_server import MinioServer
from minio_server import minio_server as running_minio
from operator_process import running_operator
from tools.build import binary

from evolution.store.artifacts import Artifacts
from evolution.store.open import open_store

pytestmark = pytest.mark.controlplane
ROUNDS = 3


@pytest.fixture
def store(tmp_path: Path) -> str:
    return (tmp_path / "store").as_uri()


@pytest.fixture
def cluster(control_plane: ControlPlane, namespace: str, store: str, tmp_path: Path) -> Cluster:
    """A namespace with a runtime; nodes and operator are up to the test."""
    return furnished(control_plane, namespace, store, tmp_path)


def furnished(plane: ControlPlane, namespace: str, store: str, folder: Path) -> Cluster:
    plane.install_crds()
    runtime = {
        "apiVersion": GROUP,
        "kind": "EvolutionRuntime",
        "metadata": {"name": "default", "namespace": namespace},
        "spec": RUNTIME,
    }
    plane.api.create(object_path("evolutionruntimes", namespace=namespace, group=GROUP), runtime)
    artifacts = Artifacts(open_store(f"{store}/{namespace}"), folder / "cache")
    return Cluster(plane, namespace, Fates(), artifacts)


@pytest.fixture
def nodes(cluster: Cluster, tmp_path: Path) -> Iterator[Kubelet]:
    node = Node(f"simulated-{uuid.uuid4().hex[:8]}", gpus=64, cpu="1000", memory="4Ti", pods=1000)
    with simulated_kubelet(
        cluster.plane.kubeconfig, tmp_path / "nodes", [node], seconds=0.2, outcome=cluster.fates.decide
    ) as kubelet:
        yield kubelet
    kubelet.unregister()


def apply(cluster: Cluster, name: str = "demo") -> None:
    cluster.apply(name, {"rounds": ROUNDS, "runtimeRef": {"kind": "EvolutionRuntime"}, "gate": {"patience": 0}})


def started(cluster: Cluster, stage: str) -> None:
    eventually(lambda: cluster.job(stage), f"the Job of {stage}")


def each_stage_ran_once(cluster: Cluster) -> bool:
    ran = [stage for _, stage in cluster.fates.seen]
    return len(ran) == len(set(ran)) == 4 + 4 * ROUNDS - 1


@pytest.mark.usefixtures("nodes")
def test_an_operator_that_was_killed_goes_on_where_it_was(cluster: Cluster, store: str, tmp_path: Path) -> None:
    only = ("--namespace", cluster.namespace)
    with running_operator(cluster.plane.kubeconfig, store, tmp_path, *only) as first:
        apply(cluster)
        started(cluster, "r2-generate")
        first.kill()
    with running_operator(cluster.plane.kubeconfig, store, tmp_path, *only):
        cluster.until("Complete: *")
    assert each_stage_ran_once(cluster)


@pytest.mark.usefixtures("nodes")
def test_two_operators_at_once_do_nothing_twice(cluster: Cluster, store: str, tmp_path: Path) -> None:
    only = ("--namespace", cluster.namespace)
    plane = cluster.plane
    with (
        running_operator(plane.kubeconfig, store, tmp_path / "one", *only) as one,
        running_operator(plane.kubeconfig, store, tmp_path / "two", *only) as two,
    ):
        eventually(lambda: "working with" in one.said and "working with" in two.said)
        apply(cluster)
        run = cluster.until("Complete: *")
        assert "Traceback" not in one.said + two.said
    assert each_stage_ran_once(cluster)
    assert kstatus(run) == "Current"


def test_runs_outlast_a_restart_of_etcd_and_of_the_api_server(store: str, tmp_path: Path) -> None:
    with another_control_plane(tmp_path / "plane") as plane:
        cluster = furnished(plane, "default", store, tmp_path)
        node = Node("simulated", gpus=64, cpu="1000", memory="4Ti", pods=1000)
        with (
            simulated_kubelet(plane.kubeconfig, tmp_path, [node], seconds=0.2, outcome=cluster.fates.decide),
            running_operator(plane.kubeconfig, store, tmp_path) as operator,
        ):
            apply(cluster)
            started(cluster, "r1-train")
            plane.restart("etcd")
            plane.restart("kube-apiserver")
            cluster.until("Complete: *", seconds=90)
            assert operator.process.poll() is None
            assert "Traceback" not in operator.said
    assert each_stage_ran_once(cluster)


def test_without_nodes_a_run_is_queued_and_says_what_is_missing(cluster: Cluster, store: str, tmp_path: Path) -> None:
    with running_operator(cluster.plane.kubeconfig, store, tmp_path, "--namespace", cluster.namespace):
        apply(cluster)
        run = cluster.until("Queued: Unschedulable")
        assert "nodes available" in cluster.condition("Progressing")["message"]
        assert "nodes available" in run["status"]["current"][0]["waitingFor"]
        assert kstatus(run) == "InProgress"
        node = Node(f"late-{uuid.uuid4().hex[:8]}", gpus=64, cpu="1000", memory="4Ti", pods=1000)
        with simulated_kubelet(cluster.plane.kubeconfig, tmp_path / "nodes", [node]) as kubelet:
            try:
                cluster.until("Complete: *")
            finally:
                kubelet.unregister()


@pytest.mark.usefixtures("nodes")
def test_a_new_cluster_with_the_old_store_does_no_stage_again(cluster: Cluster, store: str, tmp_path: Path) -> None:
    with running_operator(cluster.plane.kubeconfig, store, tmp_path, "--namespace", cluster.namespace):
        apply(cluster)
        cluster.until("Complete: *")
    with another_control_plane(tmp_path / "plane") as plane:
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": cluster.namespace}}
        plane.api.create(object_path("namespaces"), space)
        other = furnished(plane, cluster.namespace, store, tmp_path)
        with running_operator(plane.kubeconfig, store, tmp_path / "other", "--namespace", cluster.namespace):
            apply(other)
            other.until("Complete: *", seconds=10)
        assert other.jobs() == {}


@pytest.mark.minio
def test_a_store_that_is_away_is_named_and_waited_for(
    control_plane: ControlPlane,
    namespace: str,
    minio_server: MinioServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del minio_server  # tells that there is the program; this one is for stopping
    with running_minio(binary("minio"), tmp_path) as minio:
        for name, value in minio.environment.items():
            monkeypatch.setenv(name, value)
        store = f"s3://{minio.new_bucket()}"
        cluster = furnished(control_plane, namespace, store, tmp_path)
        node = Node(f"simulated-{namespace}", gpus=64, cpu="1000", memory="4Ti", pods=1000)
        with (
            simulated_kubelet(
                control_plane.kubeconfig, tmp_path / "nodes", [node], outcome=cluster.fates.decide
            ) as kubelet,
            running_operator(control_plane.kubeconfig, store, tmp_path, "--namespace", namespace) as operator,
        ):
            cluster.fates.next(namespace, "r1-train", HANG)
            apply(cluster)
            job = cluster.until_running("r1-train")
            minio.stop()
            cluster.kubectl("delete", "job", job["metadata"]["name"], "--wait=false")
            cluster.until("*: StoreUnavailable", seconds=60)
            assert minio.endpoint.removeprefix("http://") in cluster.condition("Progressing")["message"]
            minio.start()
            cluster.until("Complete: *", seconds=60)
            assert "Traceback" not in operator.said
        kubelet.unregister()


@pytest.mark.usefixtures("nodes")
def test_an_idle_operator_writes_nothing(cluster: Cluster, store: str, tmp_path: Path) -> None:
    only = ("--namespace", cluster.namespace, "--resync-seconds", "1", "--progress-seconds", "1")
    with running_operator(cluster.plane.kubeconfig, store, tmp_path, *only):
        apply(cluster)
        done = cluster.until("Complete: *")["metadata"]["resourceVersion"]
        cluster.fates.next(cluster.namespace, "r1-train", HANG)
        only_training = {"selection": {"strategy": "None"}, "seed": 5}  # nothing beside the worker that hangs
        cluster.runtime("paid", resources={"gpus": 1})  # what it holds grows every second
        cluster.apply("hanging", {"runtimeRef": {"kind": "EvolutionRuntime", "name": "paid"}, **only_training})
        cluster.until_running("r1-train", "hanging")
        cluster.wait(lambda: [c["stage"] for c in cluster.run("hanging")["status"]["current"]] == ["Train"])
        lists, writes = requests(cluster, "LIST"), requests(cluster, "PATCH") + requests(cluster, "POST")
        versions = done, cluster.run("hanging")["metadata"]["resourceVersion"]
        eventually(lambda: requests(cluster, "LIST") > lists + 2, "more looks at the cluster")
        assert requests(cluster, "PATCH") + requests(cluster, "POST") == writes
        assert versions == tuple(cluster.run(name)["metadata"]["resourceVersion"] for name in ("demo", "hanging"))


def requests(cluster: Cluster, verb: str) -> int:
    """How often runs were read or written so since the API server started."""
    metrics = cluster.plane.kubectl("get", "--raw", "/metrics").splitlines()
    lines = (line for line in metrics if line.startswith("apiserver_request_total{"))
    own = (line for line in lines if 'resource="evolutionruns"' in line and f'verb="{verb}"' in line)
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in own)
