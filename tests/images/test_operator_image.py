"""The operator's image does its work in the pod of the manifests."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from buildah import REPOSITORY, Image
from controlplane.client import object_path
from controlplane.plane import ControlPlane
from controlplane.waiting import eventually
from pod_container import container
from simulated import MINIMAL

from evolution_operator.jobs import USER

pytestmark = [pytest.mark.ship, pytest.mark.timeout(1800)]
GROUP = "selfevolution.io/v1alpha1"


def pod(*arguments: str) -> dict[str, Any]:
    """As `deploy/cluster/operator.yaml` has it, with other arguments."""
    manifests = yaml.safe_load_all((REPOSITORY / "deploy/cluster/operator.yaml").read_text(encoding="utf-8"))
    (deployment,) = (body for body in manifests if body["kind"] == "Deployment")
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    spec["containers"][0]["args"] = [*arguments]
    return spec


def end_of(image: Image, folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Exit code of an operator, and what it said."""
    with container(image, pod(*arguments), folder / "operator", {}, environment) as running:
        return running.process.wait(120), running.said


def test_it_tells_its_options(operator_image: Image, tmp_path: Path) -> None:
    code, said = end_of(operator_image, tmp_path, "--help")
    assert code == 0
    assert said.startswith("usage: evolution-operator")


def test_without_a_cluster_it_says_so_and_ends(operator_image: Image, tmp_path: Path) -> None:
    code, said = end_of(operator_image, tmp_path, "--log-format=plain", EVOLUTION_STORE="file:///cache/store")
    assert code == 1
    assert "no cluster: not in a pod, and there is no kubeconfig /cache/.kube/config" in said
    assert "Traceback" not in said


def test_it_has_the_jobs_of_a_run_made(
    operator_image: Image, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    control_plane.install_crds()
    api = control_plane.api
    runtime = {"kind": "EvolutionRuntime", "metadata": {"name": "own"}, "spec": {"image": "trainer:1"}}
    run = {
        "kind": "EvolutionRun",
        "metadata": {"name": "demo"},
        "spec": {**MINIMAL, "runtimeRef": {"kind": "EvolutionRuntime", "name": "own"}},
    }
    for plural, body in (("evolutionruntimes", runtime), ("evolutionruns", run)):
        api.create(object_path(plural, namespace=namespace, group=GROUP), {"apiVersion": GROUP, **body})
    for file in ("operator.yaml", "permissions.yaml"):
        manifests = (REPOSITORY / "deploy/namespaced" / file).read_text(encoding="utf-8")
        control_plane.kubectl("apply", "-f", "-", input=manifests.replace("team-a", namespace))
    kubeconfig = control_plane.service_account_kubeconfig(namespace, "evolution-operator")
    (tmp_path / "kubeconfig").write_bytes(kubeconfig.read_bytes())
    (tmp_path / "kubeconfig").chmod(0o444)
    volumes = {"/kubeconfig": tmp_path / "kubeconfig"}
    environment = {
        "KUBECONFIG": "/kubeconfig",
        "EVOLUTION_STORE": "file:///cache/store",
        "EVOLUTION_LIVENESS_PORT": "",
        "EVOLUTION_METRICS_PORT": "",
    }

    def jobs() -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = api.get(object_path("jobs", namespace=namespace, group="batch/v1"))["items"]
        return found

    with container(
        operator_image, pod(f"--namespace={namespace}"), tmp_path / "operator", volumes, environment
    ) as running:
        made = eventually(jobs, "a Job of the run")
        assert running.process.poll() is None
    assert made[0]["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == USER
    assert "selfevolution.io/stages" in made[0]["metadata"]["annotations"], json.dumps(made[0])
