"""Controllers that can bring a run of four sequential steps to its end, each in its own terms."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from controlplane.client import Api, Json, object_path
from controlplane.kubelet import Kubelet, Node
from controlplane.plane import ControlPlane
from controlplane.processes import start_child
from controlplane.simulated_kubelet import simulated_kubelet
from operator_process import running_operator
from simulated import MINIMAL, World, make_run, merged
from tools.build import SOURCES, binary

from bench.controlplane.idle_pods import idle_kubelet
from bench.controlplane.outside import Watched
from evolution.plan.stage import Kind
from evolution.store.artifacts import Artifacts
from evolution.store.open import open_store

STEPS = 4
NAMESPACE = "bench"
EVOLUTION = "selfevolution.io/v1alpha1"
ARGO = "argoproj.io/v1alpha1"
NODES = tuple(Node(f"node-{number}", gpus=512, cpu="4000", memory="16Ti", pods=4000) for number in range(4))


class System(Protocol):
    """One way to run chains of pods."""

    @property
    def name(self) -> str: ...

    def install(self, plane: ControlPlane) -> None:
        """Whatever it needs in the cluster before it starts."""

    def controller(self, kubeconfig: Path, folder: Path) -> AbstractContextManager[int]:
        """Its process, by id, until the end of the block; its log lies in `folder`."""

    def nodes(self, kubeconfig: Path, folder: Path, seconds: float) -> AbstractContextManager[Kubelet]:
        """Nodes on which its pods take so long."""

    def create(self, api: Api, name: str, number: int) -> None:
        """A run of four steps; no two with the same number."""

    def watched(self, kubeconfig: Path) -> Watched: ...


@dataclass(frozen=True)
class Evolution:
    """The operator; a run is one round and the publishing of its adapter.

    The sources are prepared and the base model is evaluated beforehand, as for every run but the first on the same
    documents: the operator adopts those stages. What is left is a plain chain: generate, train, evaluate, publish.
    """

    store: str
    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: Sequence[str] = ()
    name: str = "Evolution"

    def install(self, plane: ControlPlane) -> None:
        plane.install_crds()
        runtime = {
            "apiVersion": EVOLUTION,
            "kind": "ClusterEvolutionRuntime",
            "metadata": {"name": "default"},
            "spec": {"image": "registry.example/trainer:1", "resources": {"gpus": 1}},
        }
        plane.api.create(object_path("clusterevolutionruntimes", group=EVOLUTION), runtime)
        self._prepare()

    def _prepare(self) -> None:
        world, artifacts = World(), Artifacts(open_store(f"{self.store}/{NAMESPACE}"), Path(os.devnull))
        for stage in world.run_to_the_end(make_run(chain_spec(0))):
            if stage.kind is Kind.PREPARE or stage.id == "r0-evaluate":
                artifacts.commit(world.manifests[stage.fingerprint or ""])

    @contextmanager
    def controller(self, kubeconfig: Path, folder: Path) -> Iterator[int]:
        with running_operator(
            kubeconfig, self.store, folder, *self.arguments, environment=self.environment
        ) as operator:
            yield operator.process.pid

    def nodes(self, kubeconfig: Path, folder: Path, seconds: float) -> AbstractContextManager[Kubelet]:
        return simulated_kubelet(kubeconfig, folder / "pods", NODES, seconds=seconds)

    def create(self, api: Api, name: str, number: int) -> None:
        create_run(api, name, chain_spec(number))

    def watched(self, kubeconfig: Path) -> Watched:
        return Watched(
            kubeconfig,
            pods=object_path("pods", namespace=NAMESPACE),
            run_label="selfevolution.io/run",
            runs=object_path("evolutionruns", namespace=NAMESPACE, group=EVOLUTION),
            phase=("status", "state"),
        )


def chain_spec(number: int) -> Json:
    """Runs of different numbers share the preparation and the baseline, and nothing else."""
    return {"rounds": 1, "seed": number, "selection": {"strategy": "None"}, "publish": {"uri": "s3://adapters/bench/"}}


def create_run(api: Api, name: str, spec: Json) -> Json:
    """An EvolutionRun: the minimal spec with `spec` over it."""
    body = {
        "apiVersion": EVOLUTION,
        "kind": "EvolutionRun",
        "metadata": {"name": name},
        "spec": merged(MINIMAL, spec),
    }
    return api.create(object_path("evolutionruns", namespace=NAMESPACE, group=EVOLUTION), body)


@dataclass(frozen=True)
class Argo:
    """The controller of Argo Workflows; a run is a Workflow of four sequential steps."""

    requeue_seconds: int | None = None
    """DEFAULT_REQUEUE_TIME; None leaves its default of 10 s."""

    @property
    def name(self) -> str:
        return f"Argo Workflows, {self.requeue_seconds or 10} s requeue"

    def install(self, plane: ControlPlane) -> None:
        crds = sorted((_module("argo") / "manifests/base/crds/minimal").glob("argoproj.io_*.yaml"))
        given = [f"--filename={file}" for file in crds]
        plane.kubectl("create", *given)
        plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", *given)
        plane.api.create(object_path("namespaces"), {"metadata": {"name": "argo"}})
        settings = {
            "metadata": {"name": "workflow-controller-configmap"},
            "data": {"metricsConfig": "enabled: false\n"},
        }
        plane.api.create(object_path("configmaps", namespace="argo"), settings)

    def controller(self, kubeconfig: Path, folder: Path) -> AbstractContextManager[int]:
        # With the client's own limit of 20 requests a second it would be slower still.
        command = [
            str(binary("workflow-controller")),
            f"--kubeconfig={kubeconfig}",
            "--namespace=argo",
            "--executor-image=argoexec:none",
            "--loglevel=warn",
            "--qps=500",
            "--burst=1000",
        ]
        requeue = {"DEFAULT_REQUEUE_TIME": f"{self.requeue_seconds}s"} if self.requeue_seconds else {}
        return _process(command, folder, {"LEADER_ELECTION_DISABLE": "true", **requeue})

    def nodes(self, kubeconfig: Path, folder: Path, seconds: float) -> AbstractContextManager[Kubelet]:  # noqa: ARG002
        return idle_kubelet(kubeconfig, NODES, seconds)

    def create(self, api: Api, name: str, number: int) -> None:  # noqa: ARG002
        container = {"image": "x", "command": ["true"], "resources": {"limits": {"cpu": "1"}}}
        steps = [[{"name": f"step-{step}", "template": "work"}] for step in range(STEPS)]
        body = {
            "apiVersion": ARGO,
            "kind": "Workflow",
            "metadata": {"name": name},
            "spec": {
                "entrypoint": "main",
                "serviceAccountName": "default",
                "templates": [{"name": "main", "steps": steps}, {"name": "work", "container": container}],
            },
        }
        api.create(object_path("workflows", namespace=NAMESPACE, group=ARGO), body)

    def watched(self, kubeconfig: Path) -> Watched:
        return Watched(
            kubeconfig,
            pods=object_path("pods", namespace=NAMESPACE),
            run_label="workflows.argoproj.io/workflow",
            runs=object_path("workflows", namespace=NAMESPACE, group=ARGO),
            phase=("status", "phase"),
        )


@dataclass(frozen=True)
class Floor:
    """The least that a controller can do: a loop over one watch that makes the next object when one is done.

    It keeps no state, writes no status per step and survives nothing. A run is a ConfigMap.
    """

    makes: str
    """Pods: bare ones, followed when they succeed. Jobs: followed when they are Complete."""

    @property
    def name(self) -> str:
        return f"floor: bare {self.makes}"

    def install(self, plane: ControlPlane) -> None:
        """Nothing."""

    def controller(self, kubeconfig: Path, folder: Path) -> AbstractContextManager[int]:
        command = [sys.executable, "-m", "bench.controlplane.floor", str(kubeconfig), self.makes]
        return _process(command, folder, {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))})

    def nodes(self, kubeconfig: Path, folder: Path, seconds: float) -> AbstractContextManager[Kubelet]:  # noqa: ARG002
        return idle_kubelet(kubeconfig, NODES, seconds)

    def create(self, api: Api, name: str, number: int) -> None:  # noqa: ARG002
        body = {"metadata": {"name": name, "labels": {"chain": "yes"}}, "data": {"steps": str(STEPS)}}
        api.create(object_path("configmaps", namespace=NAMESPACE), body)

    def watched(self, kubeconfig: Path) -> Watched:
        return Watched(
            kubeconfig,
            pods=object_path("pods", namespace=NAMESPACE),
            run_label="run",
            runs=object_path("configmaps", namespace=NAMESPACE),
            phase=("data", "phase"),
            runs_selector="chain",
        )


@contextmanager
def _process(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Iterator[int]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "controller.log").open("ab") as log:
        process = start_child(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
    try:
        yield process.pid
        if process.poll() is not None:
            said = (folder / "controller.log").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{command[0]} ended with {process.returncode}:\n{said}")
    finally:
        process.kill()
        process.wait()


def _module(tool: str) -> Path:
    """The folder of a tool's module in Go's cache, for files that come with it."""
    source = next(source for source in SOURCES.values() if source.module == tool)
    name = source.package.partition("/cmd/")[0]
    here = Path(__file__).parents[2] / "tools" / tool
    command = ["go", "list", "-m", "-f", "{{.Dir}}", name]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())
