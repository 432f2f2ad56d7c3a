"""A cluster as its users see it: runs to apply and edit, workers that fail when a test wants them to, the operator."""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from controlplane.client import Api, ApiError, Json, object_path
from controlplane.plane import ControlPlane
from controlplane.simulated_kubelet import Failed, Hang, Outcome, Success
from controlplane.waiting import eventually
from simulated import MINIMAL, merged

from evolution.plan import worker
from evolution.plan.order import Order
from evolution.store.artifacts import Artifacts

GROUP = "selfevolution.io/v1alpha1"
RETRY = "selfevolution.io/retry-requested-at"
SECONDS = 30.0
COLLECTED_SECONDS = 75.0
"""The garbage collector looks for new kinds of owners twice a minute."""
RUNTIME: Mapping[str, Any] = {"image": "registry.example/trainer:1"}
"""Spec of a runtime."""


@dataclass
class Fates:
    """How the next pods of certain stages end; those that no fate waits for succeed."""

    _waiting: list[tuple[str, str, Outcome]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    seen: list[tuple[str, str]] = field(default_factory=list)
    """Namespace and first stage of every pod that ran."""

    def next(self, namespace: str, stage: str, *outcomes: Outcome) -> None:
        """The next pods whose first stage matches the glob `stage` end so, one after the other."""
        with self._lock:
            self._waiting += [(namespace, stage, outcome) for outcome in outcomes]

    def decide(self, pod: Json, order: Order) -> Outcome:
        namespace, stage = pod["metadata"]["namespace"], order.stages[0].id
        with self._lock:
            self.seen.append((namespace, stage))
            for entry in self._waiting:
                if entry[0] == namespace and fnmatchcase(stage, entry[1]):
                    self._waiting.remove(entry)
                    return entry[2]
        return Success()


def failed(code: int, reason: str, message: str, artifact: str = "") -> Failed:
    """A worker that gives up, with its last words where Kubernetes keeps them."""
    said = worker.Failed(code=code, reason=reason, message=message, artifact=artifact)
    return Failed(code, said.to_json().decode())


HANG = Hang()


@dataclass
class Cluster:
    """One namespace of a cluster that the operator looks after."""

    plane: ControlPlane
    namespace: str
    fates: Fates
    artifacts: Artifacts
    """What the store holds of this namespace."""

    @property
    def api(self) -> Api:
        return self.plane.api

    def apply(self, name: str = "demo", spec: Mapping[str, Any] | None = None, **metadata: Any) -> None:
        run = {
            "apiVersion": GROUP,
            "kind": "EvolutionRun",
            "metadata": {"name": name, **metadata},
            "spec": merged(MINIMAL, spec or {}),
        }
        self.kubectl("apply", "-f", "-", input=json.dumps(run))

    def kubectl(self, *arguments: str, input: str | None = None) -> str:  # noqa: A002 - as subprocess calls it
        return self.plane.kubectl("--namespace", self.namespace, *arguments, input=input)

    def edit(self, spec: Mapping[str, Any], name: str = "demo") -> None:
        self.api.patch(self._run(name), {"spec": spec})

    def ask_again(self, at: str, name: str = "demo") -> None:
        self.api.patch(self._run(name), {"metadata": {"annotations": {RETRY: at}}})

    def delete(self, name: str = "demo") -> None:
        self.api.delete(self._run(name))

    def run(self, name: str = "demo") -> Json:
        return self.api.get(self._run(name))

    def summary(self, name: str = "demo") -> str:
        return str(self.run(name).get("status", {}).get("summary", ""))

    def condition(self, type_: str, name: str = "demo") -> Json:
        conditions = self.run(name).get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == type_), {})

    def until(self, summary: str, name: str = "demo", *, seconds: float = SECONDS) -> Json:
        """The run, once its State column matches the glob."""

        def found() -> Json | None:
            run = self.run(name)
            return run if fnmatchcase(run.get("status", {}).get("summary", ""), summary) else None

        return eventually(found, f"{name} being {summary!r}", seconds=seconds)

    def jobs(self) -> dict[str, Json]:
        """The Jobs of this namespace by name."""
        listed = self.api.get(object_path("jobs", namespace=self.namespace, group="batch/v1"))
        return {job["metadata"]["name"]: job for job in listed["items"]}

    def job(self, stage: str, run: str = "demo") -> Json | None:
        """The Job of a stage, such as r1-train."""
        return next((job for name, job in self.jobs().items() if name.startswith(f"{run}-{stage}-")), None)

    def pods(self) -> list[Json]:
        listed: list[Json] = self.api.get(object_path("pods", namespace=self.namespace))["items"]
        return listed

    def until_running(self, stage: str, run: str = "demo") -> Json:
        """The Job of a stage, once a pod of it runs."""

        def found() -> Json | None:
            job = self.job(stage, run)
            name = job["metadata"]["name"] if job else ""
            running = [p for p in self.pods() if p["metadata"]["labels"].get("job-name") == name]
            return job if any(pod["status"]["phase"] == "Running" for pod in running) else None

        return eventually(found, f"a running pod of {stage}")

    def runtime(self, name: str, **spec: Any) -> None:
        """Create an EvolutionRuntime of that name."""
        body = {
            "apiVersion": GROUP,
            "kind": "EvolutionRuntime",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"image": "trainer", **spec},
        }
        self.api.create(object_path("evolutionruntimes", namespace=self.namespace, group=GROUP), body)

    def told(self, reason: str, name: str = "demo") -> str:
        """The message of the Event with that reason about a run, once it is there: Events come after the status."""

        def found() -> str | None:
            listed = self.api.get(object_path("events", namespace=self.namespace))["items"]
            messages = [e["message"] for e in listed if (e["involvedObject"]["name"], e["reason"]) == (name, reason)]
            return messages[0] if messages else None

        return eventually(found, f"an Event {reason} about {name}")

    def gone(self, path: str) -> bool:
        try:
            self.api.get(path)
        except ApiError as error:
            return error.code == 404
        return False

    def wait(self, holds: Callable[[], object], what: str = "", *, seconds: float = SECONDS) -> None:
        eventually(holds, what, seconds=seconds)

    def _run(self, name: str) -> str:
        return object_path("evolutionruns", name, self.namespace, GROUP)


def kstatus(run: Json) -> str:
    """What kstatus (sigs.k8s.io/cli-utils, generic rules) makes of an object: Current, InProgress or Failed."""
    status = run.get("status", {})
    if status.get("observedGeneration") not in (None, run["metadata"]["generation"]):
        return "InProgress"
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions", [])}
    if conditions.get("Reconciling") == "True":
        return "InProgress"
    if conditions.get("Stalled") == "True":
        return "Failed"
    if conditions.get("Ready") in ("False", "Unknown"):
        return "InProgress"
    return "Current"
