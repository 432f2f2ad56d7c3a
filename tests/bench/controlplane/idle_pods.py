"""Pods that do nothing for a while, whatever their containers ask for: for controllers other than Evolution's."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from controlplane.client import Api, Json
from controlplane.kubelet import Kubelet, Node, Pods, now
from controlplane.pod_status import pod_status, running, terminated
from controlplane.simulated_kubelet import THREADS, Agenda


class IdleRuntime:
    """Reports a pod Running, and after some seconds Succeeded; two reports each, as the simulated kubelet makes."""

    def __init__(self, pods: Pods, seconds: float) -> None:
        self._pods = pods
        self._seconds = seconds
        self._workers = ThreadPoolExecutor(THREADS, "idle-pods")
        self._agenda = Agenda()

    def run(self, pod: Json) -> None:
        self._workers.submit(self._begin, pod, now())

    def stop(self, pod: Json) -> None:
        self._workers.submit(self._pods.remove, pod)

    def forget(self, uid: str) -> None:
        """Nothing is kept of a pod."""

    def close(self) -> None:
        self._agenda.close()
        self._workers.shutdown(cancel_futures=True)

    def _begin(self, pod: Json, started: str) -> None:
        init = {container["name"]: terminated(0, started) for container in pod["spec"].get("initContainers", [])}
        up = {container["name"]: running(started) for container in pod["spec"]["containers"]}
        self._pods.report(pod, pod_status(pod, "Running", {**init, **up}, started=started))
        self._agenda.after(self._seconds, lambda: self._workers.submit(self._end, pod, started, init))

    def _end(self, pod: Json, started: str, init: dict[str, Json]) -> None:
        done = {container["name"]: terminated(0, started) for container in pod["spec"]["containers"]}
        self._pods.report(pod, pod_status(pod, "Succeeded", {**init, **done}, started=started))


@contextmanager
def idle_kubelet(kubeconfig: Path, nodes: Sequence[Node], seconds: float) -> Iterator[Kubelet]:
    """Nodes whose pods succeed after `seconds`, until the end of the block."""
    pods = Pods(Api(kubeconfig))
    kubelet = Kubelet(pods, IdleRuntime(pods, seconds), nodes)
    kubelet.start()
    try:
        yield kubelet
    finally:
        kubelet.close()
