"""A cluster that the operator looks after, with nodes whose workers take no time."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster import GROUP, RUNTIME, Cluster, Fates
from controlplane.client import ApiError, object_path
from controlplane.kubelet import Node
from controlplane.plane import ControlPlane
from controlplane.simulated_kubelet import simulated_kubelet
from operator_process import OperatorProcess, running_operator

from evolution.store.artifacts import Artifacts
from evolution.store.open import open_store


@dataclass(frozen=True)
class Installation:
    """The operator of a whole cluster, its store, and the nodes."""

    plane: ControlPlane
    operator: OperatorProcess
    store: str
    fates: Fates
    cache: Path


@pytest.fixture(scope="module")
def installation(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("installation")
    control_plane.install_crds()
    runtimes = object_path("clusterevolutionruntimes", group=GROUP)
    runtime = {
        "apiVersion": GROUP,
        "kind": "ClusterEvolutionRuntime",
        "metadata": {"name": "default"},
        "spec": {**RUNTIME, "deadlines": {"idle": "2s"}},
    }
    try:
        control_plane.api.create(runtimes, runtime)
    except ApiError as error:
        if error.code != 409:
            raise
    fates = Fates()
    node = Node(f"simulated-{uuid.uuid4().hex[:8]}", gpus=64, cpu="1000", memory="4Ti", pods=1000)
    store = (folder / "store").as_uri()
    with (
        simulated_kubelet(control_plane.kubeconfig, folder / "nodes", [node], outcome=fates.decide) as kubelet,
        running_operator(control_plane.kubeconfig, store, folder, "--progress-seconds", "1") as operator,
    ):
        yield Installation(control_plane, operator, store, fates, folder / "cache")
        assert "Traceback" not in operator.said
    kubelet.unregister()
    control_plane.api.delete(f"{runtimes}/default")


@pytest.fixture
def cluster(installation: Installation, namespace: str) -> Cluster:
    """A new namespace in it."""
    artifacts = Artifacts(open_store(f"{installation.store}/{namespace}"), installation.cache)
    return Cluster(installation.plane, namespace, installation.fates, artifacts)
