"""The limits of deploy/policies, on an API server that enforces them."""

import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from controlplane.client import MERGE, ApiError, Json, object_path
from controlplane.plane import ControlPlane
from controlplane.waiting import eventually
from simulated import MINIMAL, merged

pytestmark = pytest.mark.controlplane

REPOSITORY = Path(__file__).parents[2]
POLICIES = REPOSITORY / "deploy" / "policies"
TROUBLES = REPOSITORY / "docs" / "when-things-go-wrong.md"
SYSTEM = "evolution-system"
GROUP = "selfevolution.io/v1alpha1"
LIMITS = object_path("configmaps", "evolution-limits", SYSTEM)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def policies(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """Enforced, with the limits as they are shipped; taken away afterwards, as other tests share the control plane."""
    control_plane.install_crds()
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}
    existed = SYSTEM in {n["metadata"]["name"] for n in control_plane.api.get(object_path("namespaces"))["items"]}
    if not existed:
        control_plane.api.create(object_path("namespaces"), namespace)
    control_plane.kubectl("apply", "--filename", str(POLICIES))
    eventually(lambda: refusal(control_plane, "default", {"rounds": 101}), "policies that are enforced")
    eventually(lambda: runtime_refusal(control_plane, "default", {}), "policies that are enforced")
    yield control_plane
    control_plane.kubectl("delete", "--filename", str(POLICIES))
    eventually(lambda: not refusal(control_plane, "default", {"rounds": 101}), "policies that are gone")
    if not existed:
        control_plane.api.delete(object_path("namespaces", SYSTEM))


@pytest.fixture
def limits(policies: ControlPlane) -> Iterator["Limits"]:
    """As they are shipped; what a test changes is undone."""
    limits = Limits(policies)
    yield limits
    limits.set(shipped())


class Limits:
    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def set(self, data: Mapping[str, str]) -> None:
        """Exactly these."""
        # A namespace that no test uses tells which state of the limits the API server goes by.
        number = str(random.randrange(200, 1000))
        data = {**data, "kube-system.rounds": number}
        if self._exists():
            self._plane.api.patch(LIMITS, {"data": {**dict.fromkeys(self._data()), **data}})
        else:
            (body,) = yaml.safe_load_all((POLICIES / "limits.yaml").read_text())
            self._plane.api.create(object_path("configmaps", namespace=SYSTEM), {**body, "data": data})
        said = f"1000 is more than {number}"
        eventually(lambda: said in refusal(self._plane, "kube-system", {"rounds": 1000}), "limits that are in force")

    def remove(self) -> None:
        self._plane.api.delete(LIMITS)
        eventually(lambda: "no params found" in refusal(self._plane, "default", {}), "limits that are gone")

    def _exists(self) -> bool:
        try:
            self._plane.api.get(LIMITS)
        except ApiError:
            return False
        return True

    def _data(self) -> dict[str, str]:
        found: dict[str, str] = self._plane.api.get(LIMITS).get("data", {})
        return found


REFUSED: list[tuple[Json, str]] = [
    ({"rounds": 101}, "spec.rounds: 101 is more than 100, the most in namespace"),
    (
        {"generation": {"questionsPerDocument": 8, "candidates": 9}},
        "spec.generation: questionsPerDocument x candidates is 72, more than 64",
    ),
    ({"generation": {"candidates": 65}}, "questionsPerDocument x candidates is 65, more than 64"),
    ({"documents": {"uri": "pvc://payroll/2026"}}, 'spec.documents.uri: "pvc://payroll/2026" is not among what'),
    ({"model": {"uri": "pvc://weights"}}, 'spec.model.uri: "pvc://weights" is not among what namespace'),
    ({"model": {"adapterURI": "pvc://weights"}}, 'spec.model.adapterURI: "pvc://weights" is not among what'),
    ({"evaluation": {"uri": "pvc://held/out.jsonl"}}, 'spec.evaluation.uri: "pvc://held/out.jsonl" is not among'),
    ({"documents": {"uri": "s3://corpora/team-a/../team-b"}}, '"s3://corpora/team-a/../team-b" is not among'),
]
"""With the limits as they are shipped, or with none of the keys."""
ALLOWED: list[Json] = [
    {},
    {"rounds": 100, "budget": {"gpuHours": 100_000}},
    {"generation": {"questionsPerDocument": 8, "candidates": 8}},
    {"publish": {"uri": "s3://anywhere/at/all"}},
    {"model": {"uri": f"hf://org/model@{COMMIT}", "adapterURI": "s3://adapters/one"}},
    {"documents": {"uri": f"hf://datasets/org/manuals@{COMMIT}/part"}},
    {"runtimeRef": {"kind": "EvolutionRuntime", "name": "own"}},
]


@pytest.mark.parametrize("keys", ["as shipped", "none of them"])
def test_what_a_run_may_ask_for_by_itself(limits: Limits, policies: ControlPlane, namespace: str, keys: str) -> None:
    if keys == "none of them":
        limits.set({})
    for changes, said in REFUSED:
        message = refusal(policies, namespace, changes)
        assert said in message, changes
        assert f"namespace {namespace}" in message
        assert "for more ask the platform team (ConfigMap evolution-limits in evolution-system)" in message
    assert [refusal(policies, namespace, changes) for changes in ALLOWED] == [""] * len(ALLOWED)


def test_a_namespace_has_limits_of_its_own(limits: Limits, policies: ControlPlane, namespace: str) -> None:
    limits.set(
        {
            "contact": "ml-platform@example.com",
            "rounds": "5",
            f"{namespace}.rounds": "8",
            f"{namespace}.gpuHours": "40",
            f"{namespace}.questionsPerDocument": "2",
            f"{namespace}.model": "hf://org/model s3://models/base pvc://weights",
            f"{namespace}.documents": "s3://corpora/{namespace}/\ns3://corpora/shared/\n",
            f"{namespace}.evaluation": "s3://corpora/{namespace}/",
            f"{namespace}.publish": "s3://adapters/{namespace}/",
            f"{namespace}.runtimes": "ClusterEvolutionRuntime/default",
        }
    )
    within: Json = {
        "rounds": 8,
        "budget": {"gpuHours": 40},
        "model": {"uri": "s3://models/base/7b"},
        "documents": {"uri": f"s3://corpora/{namespace}/manuals"},
        "evaluation": {"uri": f"s3://corpora/{namespace}/held-out.jsonl"},
        "publish": {"uri": f"s3://adapters/{namespace}/ours"},
    }
    for changes in (
        {},
        {"model": {"uri": f"hf://org/model@{COMMIT}"}},
        {"model": {"adapterURI": "pvc://weights/adapter"}},
        {"documents": {"uri": "s3://corpora/shared/all"}},
        {"budget": {"gpuHours": 0.5}},
    ):
        assert refusal(policies, namespace, merged(within, changes)) == "", changes
    ask = "; for more ask ml-platform@example.com (ConfigMap evolution-limits in evolution-system)"
    for changes, said in (
        ({"rounds": 9}, f"spec.rounds: 9 is more than 8, the most in namespace {namespace}{ask}"),
        ({"budget": None}, f"spec.budget: is missing, and runs in namespace {namespace} need one; give gpuHours of at"),
        ({"budget": {"gpuHours": 40.5}}, "spec.budget.gpuHours: 40.5 is more than 40, the most in namespace"),
        ({"generation": {"questionsPerDocument": 3}}, "questionsPerDocument x candidates is 3, more than 2"),
        ({"model": {"uri": f"hf://org/model-2@{COMMIT}"}}, "(hf://org/model s3://models/base pvc://weights)"),
        ({"model": {"uri": "s3://models/base-2"}}, '"s3://models/base-2" is not among'),
        ({"model": {"adapterURI": "pvc://weights2"}}, '"pvc://weights2" is not among'),
        (
            {"documents": {"uri": "s3://corpora/team-b/manuals"}},
            (
                f'"s3://corpora/team-b/manuals" is not among what namespace {namespace} may name there '
                f"(s3://corpora/{namespace}/ s3://corpora/shared/){ask}"
            ),
        ),
        ({"documents": {"uri": f"s3://corpora/{namespace}-2/manuals"}}, "is not among"),
        ({"documents": {"uri": f"s3://corpora/{namespace}/../team-b"}}, "is not among"),
        ({"evaluation": {"uri": "s3://corpora/shared/all.jsonl"}}, "spec.evaluation.uri: "),
        ({"publish": {"uri": "s3://adapters/team-b"}}, "spec.publish.uri: "),
        ({"runtimeRef": {"name": "eight-gpus"}}, '"ClusterEvolutionRuntime/eight-gpus" is not among'),
        ({"runtimeRef": {"kind": "EvolutionRuntime"}}, '"EvolutionRuntime/default" is not among'),
    ):
        assert said in refusal(policies, namespace, merged(within, changes)), changes
    assert "spec.rounds: 6 is more than 5, the most in namespace default" in refusal(policies, "default", {"rounds": 6})


def test_a_run_that_is_older_than_a_limit_can_still_be_worked_with(
    limits: Limits, policies: ControlPlane, namespace: str
) -> None:
    api, path = policies.api, object_path("evolutionruns", "old", namespace, GROUP)
    api.create(object_path("evolutionruns", namespace=namespace, group=GROUP), body("old", {"rounds": 60}))
    limits.set({"rounds": "5", "gpuHours": "1", "documents": "s3://elsewhere/", "runtimes": "EvolutionRuntime/"})

    api.patch(path, {"metadata": {"annotations": {"selfevolution.io/retry-requested-at": "now"}}})
    api.patch(path, {"spec": {"suspend": True, "training": {"learningRate": 0.001}}})
    api.patch(f"{path}/status", {"status": {"summary": "Suspended"}})
    with pytest.raises(ApiError, match=r"spec.rounds: 60 is more than 5"):
        api.patch(path, {"spec": {"suspend": False}}, MERGE)
    with pytest.raises(ApiError, match=r"spec.rounds: 61 is more than 5"):
        api.patch(path, {"spec": {"rounds": 61}})
    with pytest.raises(ApiError, match=r'spec.documents.uri: "s3://corpora/other" is not among'):
        api.patch(path, {"spec": {"documents": {"uri": "s3://corpora/other"}}})
    with pytest.raises(ApiError, match=r"spec.budget.gpuHours: 2 is more than 1"):
        api.patch(path, {"spec": {"budget": {"gpuHours": 2}}})
    api.patch(path, {"spec": {"rounds": 4, "budget": {"gpuHours": 1}}})
    api.delete(path)


def test_a_limit_that_is_no_number_is_said_to_be_the_trouble(
    limits: Limits, policies: ControlPlane, namespace: str
) -> None:
    limits.set({"rounds": "many"})
    message = refusal(policies, namespace, {})
    assert 'evolution-limits in evolution-system has a limit that is no number: rounds "many"' in message
    assert "whoever looks after it has to mend that first" in message


def test_without_limits_nothing_new_is_asked_for_and_runs_can_be_deleted(
    limits: Limits, policies: ControlPlane, namespace: str
) -> None:
    policies.api.create(object_path("evolutionruns", namespace=namespace, group=GROUP), body("kept", {}))
    limits.remove()
    message = refusal(policies, namespace, {})
    assert "'evolution-run-limits' with binding 'evolution-run-limits' denied request: " in message
    policies.api.delete(object_path("evolutionruns", "kept", namespace, GROUP))

    (row,) = (row for row in TROUBLES.read_text().splitlines() if "no params found" in row)
    said, _, remedy = row.strip("| ").split(" | ")
    for refused in (message, runtime_refusal(policies, namespace, {})):
        assert said.strip("`… ") in refused, "what people look for is what the API server says"
    (command,) = re.findall(r"kubectl apply -f (deploy/policies/\S+)`", remedy)
    policies.kubectl("apply", "--filename", str(REPOSITORY / command))
    eventually(lambda: not refusal(policies, namespace, {}), "runs that are taken again")


def test_a_runtime_of_a_tenant_holds_what_it_may(limits: Limits, policies: ControlPlane, namespace: str) -> None:
    spec: Json = {"image": "registry.example/trainer:1"}
    nothing = (
        f'spec.image: "registry.example/trainer:1" is not among what namespace {namespace} may name there (nothing)'
    )
    assert nothing in runtime_refusal(policies, namespace, spec)
    limits.set(
        {
            f"{namespace}.images": "registry.example/trainer registry.example/{namespace}/",
            "serviceAccounts": "worker",
            "priorityClasses": "batch",
            "hostPaths": "/var/cache/evolution",
        }
    )
    for allowed in (
        spec,
        {"image": f"registry.example/trainer@sha256:{'a' * 64}"},
        {"image": f"registry.example/{namespace}/own:2"},
        {**spec, "serviceAccountName": "worker", "priorityClassName": "batch"},
        {**spec, "cache": {"hostPath": "/var/cache/evolution/models"}},
        {**spec, "cache": {"claimName": "any"}},
    ):
        assert runtime_refusal(policies, namespace, allowed) == "", allowed
    for refused, said in (
        ({"image": "registry.example/trainer-2:1"}, 'spec.image: "registry.example/trainer-2:1" is not among'),
        ({"image": "docker.io/miner:latest"}, "(registry.example/trainer registry.example/" + namespace + "/)"),
        ({**spec, "serviceAccountName": "admin"}, 'spec.serviceAccountName: "admin" is not among'),
        ({**spec, "serviceAccountName": "worker:2"}, 'spec.serviceAccountName: "worker:2" is not among'),
        ({**spec, "priorityClassName": "system-node-critical"}, "spec.priorityClassName: "),
        ({**spec, "cache": {"hostPath": "/var/cache/evolution-2"}}, "spec.cache.hostPath: "),
        ({**spec, "cache": {"hostPath": "/etc"}}, 'spec.cache.hostPath: "/etc" is not among'),
    ):
        assert said in runtime_refusal(policies, namespace, refused), refused

    api, path = policies.api, object_path("evolutionruntimes", "own", namespace, GROUP)
    api.create(object_path("evolutionruntimes", namespace=namespace, group=GROUP), runtime_body(spec))
    limits.set({})
    api.patch(path, {"spec": {"shards": 2}})
    with pytest.raises(ApiError, match="may name there"):
        api.patch(path, {"spec": {"image": "registry.example/trainer:2"}})
    cluster_wide = {**runtime_body({"image": "anything"}), "kind": "ClusterEvolutionRuntime"}
    api.create(object_path("clusterevolutionruntimes", group=GROUP) + "?dryRun=All", cluster_wide)


def refusal(plane: ControlPlane, namespace: str, changes: Mapping[str, Any]) -> str:
    """What the API server says against a run; empty if it would take it."""
    path = object_path("evolutionruns", namespace=namespace, group=GROUP)
    return _refusal(plane, path, body("asked", changes))


def runtime_refusal(plane: ControlPlane, namespace: str, spec: Mapping[str, Any]) -> str:
    path = object_path("evolutionruntimes", namespace=namespace, group=GROUP)
    return _refusal(plane, path, runtime_body({"image": "some", **spec}))


def _refusal(plane: ControlPlane, path: str, asked: Json) -> str:
    try:
        plane.api.create(f"{path}?dryRun=All", asked)
    except ApiError as error:
        return str(error)
    return ""


def body(name: str, changes: Mapping[str, Any]) -> Json:
    spec = {field: value for field, value in merged(MINIMAL, changes).items() if value is not None}
    return {"apiVersion": GROUP, "kind": "EvolutionRun", "metadata": {"name": name}, "spec": spec}


def runtime_body(spec: Mapping[str, Any]) -> Json:
    return {"apiVersion": GROUP, "kind": "EvolutionRuntime", "metadata": {"name": "own"}, "spec": dict(spec)}


def shipped() -> dict[str, str]:
    (limits,) = yaml.safe_load_all((POLICIES / "limits.yaml").read_text())
    data: dict[str, str] = limits["data"]
    return data
