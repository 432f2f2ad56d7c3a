"""Queues of Kueue whose GPUs are scarce."""

from dataclasses import dataclass

from controlplane.client import Json, object_path
from controlplane.plane import ControlPlane

KUEUE = "kueue.x-k8s.io/v1beta2"
MOST = "1000"
"""Quota of what is not scarce."""


def prepare(plane: ControlPlane) -> None:
    """What all queues need: a flavor of nodes, and a class of Jobs that come before others."""
    flavor = {"apiVersion": KUEUE, "kind": "ResourceFlavor", "metadata": {"name": "any"}}
    plane.api.create(object_path("resourceflavors", group=KUEUE), flavor)
    urgent = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 1000}
    path = object_path("priorityclasses", group="scheduling.k8s.io/v1")
    plane.api.create(path, {**urgent, "metadata": {"name": "urgent"}})


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
