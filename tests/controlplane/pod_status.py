"""A pod's status as a kubelet reports it, from the states of its containers."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Literal

from controlplane.client import Json
from controlplane.kubelet import now

Phase = Literal["Pending", "Running", "Succeeded", "Failed"]
ENDED: Mapping[Phase, str] = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}
MESSAGE_BYTES = 4096
"""Longest termination message."""


def waiting(reason: str, message: str = "") -> Json:
    return {"waiting": {"reason": reason, **({"message": message} if message else {})}}


def running(started: str) -> Json:
    return {"running": {"startedAt": started}}


def terminated(exit_code: int, started: str, message: str = "", reason: str = "") -> Json:
    """Ended just now; the reason follows from the exit code if none is given."""
    state = {
        "exitCode": exit_code,
        "reason": reason or ("Error" if exit_code else "Completed"),
        "startedAt": started,
        "finishedAt": now(),
    }
    return {"terminated": {**state, "message": message} if message else state}


def pod_status(pod: Json, phase: Phase, states: Mapping[str, Json], *, started: str) -> Json:
    """The part of a status that a kubelet owns; conditions of others, such as DisruptionTarget, stay as they are.

    `states` are those of init containers and containers by name; those left out have not started. `started` is when
    the kubelet first saw the pod.
    """
    spec = pod["spec"]
    ready = "True" if phase == "Running" else "False"
    why = {"reason": ENDED[phase]} if phase in ENDED else {}
    condition = {"lastTransitionTime": now()}
    status: Json = {
        "phase": phase,
        "startTime": started,
        "hostIP": "127.0.0.1",
        "podIP": _address(pod),
        "podIPs": [{"ip": _address(pod)}],
        "conditions": [
            {"type": "Initialized", "status": "False" if phase == "Pending" else "True", **condition},
            {"type": "Ready", "status": ready, **why, **condition},
            {"type": "ContainersReady", "status": ready, **why, **condition},
        ],
        "containerStatuses": [_container(container, states) for container in spec["containers"]],
    }
    if spec.get("initContainers"):
        status["initContainerStatuses"] = [_container(container, states) for container in spec["initContainers"]]
    return status


def _address(pod: Json) -> str:
    """An invented one of its own: its processes are on loopback, where endpoints must not be."""
    one, two, three = sha256(pod["metadata"]["uid"].encode()).digest()[:3]
    return f"10.{128 | one}.{two}.{three}"


def _container(container: Json, states: Mapping[str, Json]) -> Json:
    state = states.get(container["name"], waiting("PodInitializing"))
    up = "running" in state
    return {
        "name": container["name"],
        "image": container.get("image", ""),
        "imageID": "",
        "restartCount": 0,
        "ready": up,
        "started": up,
        "state": state,
    }
