"""Every pod of the product, in a namespace that enforces the restricted profile of Pod Security."""

import uuid
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from controlplane.client import ApiError, Json, object_path
from controlplane.kubelet import Node
from controlplane.plane import ControlPlane
from controlplane.simulated_kubelet import simulated_kubelet
from controlplane.waiting import eventually
from operator_process import running_operator
from simulated import MINIMAL, World, finish, make_run

from evolution.api.load import runtime_from_object
from evolution.api.run import EvolutionRun
from evolution.api.runtime import EvolutionRuntimeSpec
from evolution.plan.dispatch import batches, make_order
from evolution.plan.graph import Graph
from evolution.plan.order import compute_for
from evolution.plan.stage import Kind
from evolution_operator.jobs import build_job
from evolution_operator.jobsets import build_jobset

pytestmark = pytest.mark.controlplane

ROOT = Path(__file__).parents[2]
GROUP = "selfevolution.io/v1alpha1"
UID = "0ff0e7b6-e42e-4053-9949-5f0eef0e3916"
REGION = {"AWS_REGION": "eu-west-1"}
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
ENGINES: list[Json] = [
    {},
    {"name": "VLLM"},
    {"name": "OpenAI", "endpoint": "https://models.example/v1", "secretName": "of-the-server"},
]
CACHES: list[Json] = [{}, {"claimName": "models"}]
SPECIAL: list[Json] = [
    {"serviceAccountName": "workers", "imagePullSecrets": ["registry"], "storeSecretName": "evolution-store"},
    {"nodeSelector": {"pool": "gpu"}, "tolerations": [{"operator": "Exists"}], "env": {"HF_HUB_OFFLINE": "1"}},
    {"execution": "Round"},
    {"execution": "Run"},
]
RUNS: list[Json] = [
    {"publish": {"uri": "s3://adapters/x"}, "model": {"uri": "s3://models/base", "adapterURI": "s3://adapters/y"}},
    {
        "model": {"uri": "pvc://models/base"},
        "documents": {"uri": "pvc://corpora/manuals"},
        "evaluation": {"uri": "pvc://corpora/held-out.jsonl"},
    },
]


@pytest.fixture
def restricted(control_plane: ControlPlane) -> Iterator[str]:
    api, name = control_plane.api, f"restricted-{uuid.uuid4().hex[:8]}"
    api.create(object_path("namespaces"), {"metadata": {"name": name, "labels": RESTRICTED}})
    for account in ("default", "workers"):
        if account != "default":
            api.create(object_path("serviceaccounts", namespace=name), {"metadata": {"name": account}})
        eventually(lambda account=account: api.get(object_path("serviceaccounts", account, name)))
    yield name
    api.delete(object_path("namespaces", name))


def test_the_pods_of_all_stages_engines_caches_and_sources_are_admitted(
    control_plane: ControlPlane, restricted: str
) -> None:
    kinds: set[str] = set()
    settings = [
        *({"engine": engine, "cache": cache, "shards": 2} for engine, cache in product(ENGINES, CACHES)),
        *({**special, "resources": {"gpus": 2}} for special in SPECIAL),
        {"stages": {"train": {"nodes": 2, "gpus": 8}}},
    ]
    for spec, run in product(settings, RUNS):
        of_this: dict[str, Json] = {
            pod["metadata"]["labels"]["selfevolution.io/stage"]: pod for pod in pods(make_run(run), runtime(spec))
        }
        kinds |= set(of_this)
        for pod in of_this.values():
            admit(control_plane, restricted, pod)
    assert kinds == {kind.value for kind in Kind} | {"Round", "Run"}


def test_pods_that_are_not_restricted_are_refused_there(control_plane: ControlPlane, restricted: str) -> None:
    template = next(iter(pods(make_run(), runtime({}))))
    for loosened in ({"hostNetwork": True}, {"securityContext": {}}):
        with pytest.raises(ApiError, match='violates PodSecurity "restricted'):
            admit(control_plane, restricted, {**template, "spec": {**template["spec"], **loosened}})


@pytest.mark.parametrize("folder", ["cluster", "namespaced"])
def test_the_operator_itself_is_admitted(control_plane: ControlPlane, restricted: str, folder: str) -> None:
    documents = yaml.safe_load_all((ROOT / "deploy" / folder / "operator.yaml").read_text())
    (deployment,) = (document for document in documents if document["kind"] == "Deployment")
    template = deployment["spec"]["template"]
    template["spec"]["serviceAccountName"] = "default"
    admit(control_plane, restricted, template)


def test_a_folder_of_the_node_is_not_admitted_and_the_run_says_so(
    control_plane: ControlPlane, restricted: str, tmp_path: Path
) -> None:
    control_plane.install_crds()
    api, node = control_plane.api, Node(f"node-{uuid.uuid4().hex[:8]}")
    spec = {"image": "trainer", "cache": {"hostPath": "/var/cache/evolution"}}
    api.create(
        object_path("evolutionruntimes", namespace=restricted, group=GROUP),
        {"apiVersion": GROUP, "kind": "EvolutionRuntime", "metadata": {"name": "default"}, "spec": spec},
    )
    run = {**MINIMAL, "runtimeRef": {"kind": "EvolutionRuntime", "name": "default"}}
    with (
        simulated_kubelet(control_plane.kubeconfig, tmp_path / "pods", [node]) as kubelet,
        running_operator(control_plane.kubeconfig, (tmp_path / "s").as_uri(), tmp_path, "--namespace", restricted),
    ):
        api.create(
            object_path("evolutionruns", namespace=restricted, group=GROUP),
            {"apiVersion": GROUP, "kind": "EvolutionRun", "metadata": {"name": "demo"}, "spec": run},
        )

        def told() -> list[str]:
            events = api.get(object_path("events", namespace=restricted))["items"]
            return [event["message"] for event in events if event["reason"] == "PodsNotAdmitted"]

        message = eventually(told, "an Event about pods that are not admitted")[0]
        kubelet.unregister()
    assert f"may get no pod, as namespace {restricted} admits none like it: would violate PodSecurity" in message
    assert '(volume "cache" uses restricted volume type "hostPath")' in message
    assert message.endswith("; a runtime for it has a claim in cache.claimName, and no cache.hostPath")
    assert not api.get(object_path("pods", namespace=restricted))["items"]


def pods(run: EvolutionRun, settings: EvolutionRuntimeSpec) -> Iterator[Json]:
    """The pod of every stage, as the operator has them made one after the other."""
    world = World()
    while True:
        graph: Graph = world.graph(run)
        ready = [stage for stage in graph.stages if stage.ready]
        if not ready:
            return
        for batch in batches(graph, ready, settings.execution, ()):
            compute = compute_for(run, settings, batch.first.kind)
            order = make_order(
                run, "demo-0ff0e7b6", "s3://store/ours", graph, batch, shards=settings.shards, compute=compute
            )
            if compute.nodes > 1:
                made = build_jobset(run, UID, settings, batch, order, REGION)
                yield made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
            else:
                yield build_job(run, UID, settings, batch, order, REGION)["spec"]["template"]
        for stage in ready:
            world.manifests[stage.fingerprint or ""] = finish(stage)


def admit(plane: ControlPlane, namespace: str, template: Json) -> None:
    """Raises ApiError if such a pod is not admitted."""
    pod = {**template, "apiVersion": "v1", "kind": "Pod"}
    metadata = {**template["metadata"], "name": "asked"}
    plane.api.create(object_path("pods", namespace=namespace) + "?dryRun=All", {**pod, "metadata": metadata})


def runtime(spec: Json) -> EvolutionRuntimeSpec:
    body: dict[str, Any] = {
        "apiVersion": GROUP,
        "kind": "ClusterEvolutionRuntime",
        "metadata": {"name": "default"},
        "spec": {"image": "registry.example/trainer:1", **spec},
    }
    return runtime_from_object(body).spec
