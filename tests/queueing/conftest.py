"""A cluster with Kueue, in which every test has a namespace and a queue of its own."""

import os
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster import Cluster, Fates
from controllers import kueue
from controlplane.client import Json, object_path
from controlplane.kubelet import Node
from controlplane.plane import COMPONENTS, ControlPlane
from controlplane.plane import control_plane as running_control_plane
from controlplane.simulated_kubelet import simulated_kubelet
from controlplane.waiting import eventually
from operator_process import running_operator
from tools.build import Unavailable, binary

from evolution.store.artifacts import Artifacts
from evolution.store.open import open_store

KUEUE = "kueue.x-k8s.io/v1beta2"
SIMULATED = {"workers": "simulated"}
"""Labels of the node whose workers take no time."""
MOST = "1000"
"""Quota of what is not scarce in these tests."""


@dataclass(frozen=True)
class Queue:
    """A ClusterQueue with a LocalQueue in one namespace, both of the same name."""

    plane: ControlPlane
    name: str
    namespace: str

    def create(self, gpus: int) -> None:
        self.plane.api.create(object_path("clusterqueues", group=KUEUE), self._cluster_queue(gpus))
        local = {
            "apiVersion": KUEUE,
            "kind": "LocalQueue",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {"clusterQueue": self.name},
        }
        self.plane.api.create(object_path("localqueues", namespace=self.namespace, group=KUEUE), local)

    def has(self, gpus: int) -> None:
        """From now on its quota is so large."""
        groups = self._cluster_queue(gpus)["spec"]["resourceGroups"]
        self.plane.api.patch(object_path("clusterqueues", self.name, group=KUEUE), {"spec": {"resourceGroups": groups}})

    def urgent_job(self, name: str, gpus: int) -> None:
        """Somebody's Job that comes before all others in this queue; it needs a node that does not exist."""
        amounts = {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": str(gpus)}
        container = {"name": "any", "image": "any", "resources": {"requests": amounts, "limits": amounts}}
        template = {
            "restartPolicy": "Never",
            "priorityClassName": "urgent",
            "nodeSelector": {"workers": "none"},
            "containers": [container],
        }
        body = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "labels": {"kueue.x-k8s.io/queue-name": self.name}},
            "spec": {"suspend": True, "template": {"spec": template}},
        }
        self.plane.api.create(object_path("jobs", namespace=self.namespace, group="batch/v1"), body)

    def _cluster_queue(self, gpus: int) -> Json:
        quotas = {"cpu": MOST, "memory": f"{MOST}Gi", "nvidia.com/gpu": str(gpus)}
        flavor = {
            "name": "any",
            "resources": [{"name": name, "nominalQuota": quota} for name, quota in quotas.items()],
        }
        return {
            "apiVersion": KUEUE,
            "kind": "ClusterQueue",
            "metadata": {"name": self.name},
            "spec": {
                "namespaceSelector": {},
                "preemption": {"withinClusterQueue": "LowerPriority"},
                "resourceGroups": [{"coveredResources": list(quotas), "flavors": [flavor]}],
            },
        }


@pytest.fixture(scope="session")
def queueing_plane() -> Iterator[ControlPlane]:
    try:
        for program in (*COMPONENTS, "kubectl", "kueue"):
            binary(program)
    except Unavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory(prefix="queueing-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with running_control_plane(folder / "plane") as plane:
            plane.install_crds()
            with kueue(plane, folder / "kueue"):
                flavor = {"apiVersion": KUEUE, "kind": "ResourceFlavor", "metadata": {"name": "any"}}
                plane.api.create(object_path("resourceflavors", group=KUEUE), flavor)
                urgent = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 1000}
                path = object_path("priorityclasses", group="scheduling.k8s.io/v1")
                plane.api.create(path, {**urgent, "metadata": {"name": "urgent"}})
                yield plane


@pytest.fixture
def home(queueing_plane: ControlPlane) -> str:
    """A new namespace."""
    api, name = queueing_plane.api, f"test-{uuid.uuid4().hex[:8]}"
    api.create(object_path("namespaces"), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    eventually(lambda: api.get(object_path("serviceaccounts", "default", name)))
    return name


@pytest.fixture
def queue(queueing_plane: ControlPlane, home: str) -> Queue:
    return Queue(queueing_plane, home, home)


@pytest.fixture
def cluster(queueing_plane: ControlPlane, home: str, tmp_path: Path) -> Iterator[Cluster]:
    """The namespace with an operator, a node whose workers take no time, and a runtime `queued` with one GPU."""
    fates, store = Fates(), (tmp_path / "store").as_uri()
    node = Node(f"simulated-{home}", gpus=64, cpu="1000", memory="4Ti", pods=1000, labels={**SIMULATED, "of": home})
    artifacts = Artifacts(open_store(f"{store}/{home}"), tmp_path / "cache")
    cluster = Cluster(queueing_plane, home, fates, artifacts)
    nothing = {"cpu": "1", "memory": "1Gi"}
    cluster.runtime(
        "queued",
        queueName=home,
        nodeSelector={"of": home},
        resources={**nothing, "gpus": 1},
        stages={"prepare": nothing, "publish": nothing},
        retries={"limit": 0},
    )
    only = ("--namespace", home, "--progress-seconds", "1")
    with simulated_kubelet(queueing_plane.kubeconfig, tmp_path / "nodes", [node], outcome=fates.decide) as kubelet:
        with running_operator(queueing_plane.kubeconfig, store, tmp_path, *only) as operator:
            yield cluster
            assert "Traceback" not in operator.said
        kubelet.unregister()
