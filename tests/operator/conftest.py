"""A cluster that the operator looks after, with nodes whose workers take no time."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster import GROUP, RUNTIME, Cluster, Fates
from controlplane.client import object_path
from controlplane.kubelet import Node
from controlplane.plane import ControlPlane
from controlplane.plane import control_plane as another_control_plane
from controlplane.simulated_kubelet import simulated_kubelet
from controlplane.waiting import eventually
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
    """On a control plane of its own: an operator of the whole cluster would look after the runs of other tests, too."""
    del control_plane  # tells whether there are the programs
    folder = tmp_path_factory.mktemp("installation")
    fates = Fates()
    node = Node("simulated", gpus=64, cpu="1000", memory="4Ti", pods=1000)
    store = (folder / "store").as_uri()
    with another_control_plane(folder / "plane") as plane:
        plane.install_crds()
        runtime = {
            "apiVersion": GROUP,
            "kind": "ClusterEvolutionRuntime",
            "metadata": {"name": "default"},
            "spec": {**RUNTIME, "deadlines": {"idle": "2s"}},
        }
        plane.api.create(object_path("clusterevolutionruntimes", group=GROUP), runtime)
        with (
            simulated_kubelet(plane.kubeconfig, folder / "nodes", [node], outcome=fates.decide),
            running_operator(plane.kubeconfig, store, folder, "--progress-seconds", "1") as operator,
        ):
            yield Installation(plane, operator, store, fates, folder / "cache")
            assert "Traceback" not in operator.said


@pytest.fixture
def cluster(installation: Installation) -> Cluster:
    """A new namespace in it."""
    api, name = installation.plane.api, f"test-{uuid.uuid4().hex[:8]}"
    api.create(object_path("namespaces"), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    eventually(lambda: api.get(object_path("serviceaccounts", "default", name)))
    artifacts = Artifacts(open_store(f"{installation.store}/{name}"), installation.cache)
    return Cluster(installation.plane, name, installation.fates, artifacts)
