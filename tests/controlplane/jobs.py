"""Jobs for tests of the kubelets, and what becomes of them."""

from dataclasses import dataclass
from typing import Any

from controlplane.client import Api, Json, object_path
from controlplane.waiting import eventually

GROUP = "batch/v1"
FAIL_AND_IGNORE: Json = {
    "rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": {"containerName": "worker", "operator": "In", "values": [43, 44]}},
        {"action": "FailJob", "onExitCodes": {"containerName": "worker", "operator": "In", "values": [40, 41, 42]}},
    ]
}
"""podFailurePolicy of the operator's Jobs."""


def worker(*command: str, **fields: Any) -> Json:
    """A container as the operator's; `fields` are further ones."""
    return {"name": "worker", "image": "trainer", "command": list(command), **fields}


def job(name: str, container: Json, *, spec: Json | None = None, pod: Json | None = None) -> Json:
    """`spec` and `pod` are further fields of the Job's spec and of its pod's."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "backoffLimit": 0,
            "podFailurePolicy": FAIL_AND_IGNORE,
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "containers": [container],
                    **(pod or {}),
                }
            },
            **(spec or {}),
        },
    }


@dataclass(frozen=True)
class Jobs:
    """The Jobs of a namespace."""

    api: Api
    namespace: str

    def create(self, body: Json) -> str:
        """Its name."""
        self.api.create(object_path("jobs", namespace=self.namespace, group=GROUP), body)
        name: str = body["metadata"]["name"]
        return name

    def delete(self, name: str) -> None:
        """The Job, and its pods."""
        path = object_path("jobs", name, self.namespace, GROUP)
        self.api.delete(path, propagationPolicy="Background")

    def conditions(self, name: str) -> list[tuple[str, str]]:
        """Types and reasons of those that are true, in the order in which they came."""
        found = self.api.get(object_path("jobs", name, self.namespace, GROUP))
        conditions = found["status"].get("conditions", [])
        return [(each["type"], each.get("reason", "")) for each in conditions if each["status"] == "True"]

    def ended(self, name: str) -> list[tuple[str, str]]:
        """`conditions`, once the Job is complete or failed."""

        def conditions() -> list[tuple[str, str]]:
            now = self.conditions(name)
            return now if {"Complete", "Failed"} & {kind for kind, _ in now} else []

        return eventually(conditions, f"the end of Job {name}")

    def pods(self, name: str) -> list[Json]:
        found = self.api.get(
            object_path("pods", namespace=self.namespace), labelSelector=f"batch.kubernetes.io/job-name={name}"
        )
        pods: list[Json] = found["items"]
        return pods

    def pod(self, name: str, phase: str) -> Json:
        """A pod of the Job, once there is one in that phase."""

        def pod() -> Json | None:
            return next((pod for pod in self.pods(name) if pod["status"]["phase"] == phase), None)

        found = eventually(pod, f"a pod of Job {name} in phase {phase}")
        assert found
        return found


def worker_state(pod: Json) -> Json:
    """The state of its container named worker: one of waiting, running, terminated."""
    for status in pod["status"].get("containerStatuses", []):
        if status["name"] == "worker":
            state: Json = status["state"]
            return state
    return {}
