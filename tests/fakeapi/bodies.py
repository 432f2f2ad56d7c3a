"""Small runs and Jobs for tests of API servers."""

from typing import Any

from simulated import MINIMAL

from fakeapi.kinds import Body

POLICY = {
    "rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": {"containerName": "worker", "operator": "In", "values": [43, 44]}},
        {"action": "FailJob", "onExitCodes": {"containerName": "worker", "operator": "In", "values": [40, 41, 42]}},
    ]
}


def run(name: str = "run", **metadata: Any) -> Body:
    return {"metadata": {"name": name, **metadata}, "spec": dict(MINIMAL)}


def job(name: str = "job", owner: Body | None = None, labels: dict[str, str] | None = None, **spec: Any) -> Body:
    metadata: Body = {"name": name, "labels": labels or {}}
    if owner:
        reference = {"name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"], "controller": True}
        metadata["ownerReferences"] = [{"apiVersion": owner["apiVersion"], "kind": owner["kind"], **reference}]
    pod = {"restartPolicy": "Never", "containers": [{"name": "worker", "image": "worker"}]}
    return {"metadata": metadata, "spec": {"template": {"metadata": {"labels": labels or {}}, "spec": pod}, **spec}}
