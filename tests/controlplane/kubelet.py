"""What every kubelet does, whatever runs its pods: keep its nodes healthy, learn of their pods, report."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from controlplane.client import (
    MERGE,
    RETRY_DELAY,
    STRATEGIC,
    UNAVAILABLE,
    Api,
    ApiError,
    Changed,
    Json,
    Listed,
    object_path,
)

LEASE_SECONDS = 40
RENEW_SECONDS = 10.0
LEASES = object_path("leases", namespace="kube-node-lease", group="coordination.k8s.io/v1")
CONDITIONS = {
    "Ready": ("True", "KubeletReady"),
    "MemoryPressure": ("False", "KubeletHasSufficientMemory"),
    "DiskPressure": ("False", "KubeletHasNoDiskPressure"),
    "PIDPressure": ("False", "KubeletHasSufficientPID"),
}


@dataclass(frozen=True)
class Node:
    """A node that offers resources; nothing holds the pods on it to them."""

    name: str
    gpus: int = 1
    cpu: str = "64"
    memory: str = "512Gi"
    pods: int = 250
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def allocatable(self) -> dict[str, str]:
        gpus = {"nvidia.com/gpu": str(self.gpus)} if self.gpus else {}
        return {"cpu": self.cpu, "memory": self.memory, "pods": str(self.pods), "ephemeral-storage": "100Gi", **gpus}


class Runtime(Protocol):
    """Runs pods. It is called from one thread, which it must not hold up, and reports through `Pods`."""

    def run(self, pod: Json) -> None:
        """The pod is bound to one of the nodes; called once for each."""

    def stop(self, pod: Json) -> None:
        """The pod is to end within its `metadata.deletionGracePeriodSeconds`; called once, after `run`."""

    def forget(self, uid: str) -> None:
        """The pod has ended, or it is gone without having been asked to end."""

    def close(self) -> None:
        """The node breaks down: everything ends at once, and is not reported."""


class Pods:
    """Reports about pods, tried until the API server takes them."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self._closed = threading.Event()

    def report(self, pod: Json, status: Json) -> None:
        body = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": status}
        self._insist(lambda: self.api.patch(f"{pod_path(pod)}/status", body, STRATEGIC))

    def remove(self, pod: Json) -> None:
        """The last step of a graceful deletion."""
        uid = pod["metadata"]["uid"]
        self._insist(
            lambda: self.api.delete(pod_path(pod), gracePeriodSeconds=0, preconditions={"uid": uid}),
        )

    def close(self) -> None:
        self._closed.set()

    def _insist(self, request: Callable[[], None]) -> None:
        while not self._closed.is_set():
            try:
                request()
            except ApiError as error:
                if error.code in {404, 409}:  # The pod is gone, or another one has its name.
                    return
                if not error.passes:
                    raise
            except UNAVAILABLE:
                pass
            else:
                return
            self._closed.wait(RETRY_DELAY)


class Kubelet:
    """Nodes whose pods a runtime runs; one watch, one thread for it and one for the leases, however many nodes."""

    def __init__(self, pods: Pods, runtime: Runtime, nodes: Sequence[Node], port: int = 0) -> None:
        """`port` is where the API server asks for logs; 0 if nobody listens."""
        self._api = pods.api
        self._pods = pods
        self._runtime = runtime
        self._nodes = {node.name: node for node in nodes}
        self._port = port
        self._running: set[str] = set()
        self._stopping: set[str] = set()
        self._closed = threading.Event()
        # Without the pods that have ended: to leave the watch and to be deleted is the same to a kubelet.
        self._watch = self._api.watch(
            object_path("pods"), fieldSelector="spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
        )
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._follow, self._renew_leases)]

    def start(self) -> None:
        """Register the nodes; they take pods when this returns."""
        for node in self._nodes.values():
            self._register(node)
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """As when the nodes lose power: their pods end, and nobody says so."""
        self._closed.set()
        self._pods.close()
        self._watch.close()
        self._runtime.close()
        for thread in self._threads:
            thread.join()

    def unregister(self) -> None:
        """Remove the nodes from the cluster; its garbage collector removes the pods that are left on them."""
        for name in self._nodes:
            self._api.delete(object_path("nodes", name))

    def _register(self, node: Node) -> None:
        path = object_path("nodes", node.name)
        labels = {"kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        body = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": node.name, "labels": {**labels, **node.labels}},
        }
        try:
            self._api.create(object_path("nodes"), body)
        except ApiError as error:
            if error.code != 409:
                raise
        self._api.patch(f"{path}/status", {"status": self._node_status(node)}, STRATEGIC)
        # Admission taints a new node as not ready. The node controller would remove that, in a moment.
        self._api.patch(path, {"spec": {"taints": None}})
        self._renew(node.name)

    def _node_status(self, node: Node) -> Json:
        version = "v1.34.4-process"
        unknown = ("machineID", "systemUUID", "bootID", "kubeProxyVersion")
        return {
            "capacity": node.allocatable,
            "allocatable": node.allocatable,
            "conditions": [
                {
                    "type": kind,
                    "status": status,
                    "reason": reason,
                    "message": "",
                    "lastHeartbeatTime": now(),
                    "lastTransitionTime": now(),
                }
                for kind, (status, reason) in CONDITIONS.items()
            ],
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": node.name}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._port}},
            "nodeInfo": {
                "architecture": "amd64",
                "operatingSystem": "linux",
                "kernelVersion": os.uname().release,
                "osImage": "loopback",
                "containerRuntimeVersion": "process://1",
                "kubeletVersion": version,
                **dict.fromkeys(unknown, ""),
            },
        }

    def _renew(self, name: str) -> None:
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": moment}
        try:
            self._api.patch(f"{LEASES}/{name}", {"spec": spec}, MERGE)
        except ApiError as error:
            if error.code != 404:
                raise
            lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec}
            self._api.create(LEASES, lease)

    def _renew_leases(self) -> None:
        while not self._closed.wait(RENEW_SECONDS):
            for name in self._nodes:
                try:
                    self._renew(name)
                except (ApiError, *UNAVAILABLE) as error:
                    # The lease lasts for three more attempts.
                    sys.stderr.write(f"{name}: the lease was not renewed: {error}\n")

    def _follow(self) -> None:
        for event in self._watch:
            if isinstance(event, Listed):
                mine = [pod for pod in event.objects if pod["spec"].get("nodeName") in self._nodes]
                for uid in self._running - {pod["metadata"]["uid"] for pod in mine}:
                    self._gone(uid)
                for pod in mine:
                    self._seen(pod)
            elif event.object["spec"].get("nodeName") in self._nodes:
                if isinstance(event, Changed):
                    self._seen(event.object)
                else:
                    self._gone(event.object["metadata"]["uid"])

    def _seen(self, pod: Json) -> None:
        meta = pod["metadata"]
        if meta["uid"] not in self._running:
            self._running.add(meta["uid"])
            self._runtime.run(pod)
        if "deletionTimestamp" in meta and meta["uid"] not in self._stopping:
            self._stopping.add(meta["uid"])
            self._runtime.stop(pod)

    def _gone(self, uid: str) -> None:
        self._running.discard(uid)
        self._stopping.discard(uid)
        self._runtime.forget(uid)


def until_interrupted() -> None:
    """Wait for Ctrl-C or SIGTERM."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()


def pod_path(pod: Json) -> str:
    return object_path("pods", pod["metadata"]["name"], pod["metadata"]["namespace"])


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
