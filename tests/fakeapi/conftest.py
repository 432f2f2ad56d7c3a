"""The API server that a contract is checked with: the fake one, and a real one."""

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from controlplane.client import Api, object_path
from controlplane.kubelet import Kubelet, Node, Pods, now
from controlplane.plane import ControlPlane
from controlplane.pod_status import pod_status, running, terminated
from controlplane.waiting import eventually

from fakeapi.client import Client
from fakeapi.kinds import NAMESPACES, Body
from fakeapi.kubelet import Fate
from fakeapi.server import FakeApi, Pace

CONTRACT_PACE = Pace(bookmark=0.5)
"""Fast, but for bookmarks: not so fast that they come before what a test does next."""


@dataclass(frozen=True)
class ApiServer:
    """An API server with a namespace for the test, a Job controller, and pods that end as they are told."""

    client: Client
    namespace: str
    fate: Callable[[Fate], None]
    compact: Callable[[], None] | None = None
    """Forget the history, where a test can do that."""


class ObedientRuntime:
    """Pods of a real control plane that meet the fates of the fake one."""

    def __init__(self, pods: Pods) -> None:
        self._pods = pods
        self.fates: list[Fate] = []
        self._workers = ThreadPoolExecutor(4)
        self._ended: set[str] = set()

    def run(self, pod: Body) -> None:
        fate = next((fate for fate in self.fates if fate.meets(pod)), None)
        if fate is not None:
            fate.times -= 1
        self._workers.submit(self._run, pod, fate)

    def stop(self, pod: Body) -> None:
        self._workers.submit(self._stop, pod)

    def forget(self, uid: str) -> None:
        self._ended.discard(uid)

    def close(self) -> None:
        self._workers.shutdown(cancel_futures=True)

    def _run(self, pod: Body, fate: Fate | None) -> None:
        self._report(pod, "Running", running(now()))
        if fate is None:
            self._end(pod, 0, "")
        elif fate.evicted:
            path = object_path("pods", pod["metadata"]["name"], pod["metadata"]["namespace"])
            eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod["metadata"]["name"]}}
            self._pods.api.create(f"{path}/eviction", eviction)
        elif not fate.hang:
            self._end(pod, fate.exit_code, fate.message)

    def _stop(self, pod: Body) -> None:
        self._end(pod, 143, "")
        self._pods.remove(pod)

    def _end(self, pod: Body, code: int, message: str) -> None:
        uid = pod["metadata"]["uid"]
        if uid not in self._ended:
            self._ended.add(uid)
            self._report(pod, "Failed" if code else "Succeeded", terminated(code, now(), message))

    def _report(self, pod: Body, phase: Any, state: Body) -> None:
        states = {container["name"]: state for container in pod["spec"]["containers"]}
        self._pods.report(pod, pod_status(pod, phase, states, started=now()))


@pytest.fixture(scope="module")
def contract_plane(control_plane: ControlPlane) -> Iterator[tuple[ControlPlane, ObedientRuntime]]:
    """Its node goes with the module: it would run the pods of other tests, too, and not as they expect."""
    control_plane.install_crds()
    # A kind that is new is refused with 429 for a moment after it is established.
    eventually(lambda: control_plane.api.get(object_path("evolutionruns", group="selfevolution.io/v1alpha1")))
    pods = Pods(Api(control_plane.kubeconfig))
    runtime = ObedientRuntime(pods)
    kubelet = Kubelet(pods, runtime, [Node("contract")])
    kubelet.start()
    yield control_plane, runtime
    kubelet.unregister()
    kubelet.close()


@pytest.fixture(scope="session")
def fake_api() -> Iterator[FakeApi]:
    with FakeApi(pace=CONTRACT_PACE) as api:
        yield api


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.controlplane)])
def api(request: pytest.FixtureRequest) -> ApiServer:
    name = f"contract-{uuid.uuid4().hex[:8]}"
    if request.param == "fake":
        fake: FakeApi = request.getfixturevalue("fake_api")
        fake.client.create(NAMESPACES, {"metadata": {"name": name}}, "")
        return ApiServer(fake.client, name, fake.fate, fake.compact)
    plane, runtime = request.getfixturevalue("contract_plane")
    client = Client.from_kubeconfig(plane.kubeconfig)
    client.create(NAMESPACES, {"metadata": {"name": name}}, "")
    eventually(lambda: plane.api.get(object_path("serviceaccounts", "default", name)))
    return ApiServer(client, name, runtime.fates.append)
