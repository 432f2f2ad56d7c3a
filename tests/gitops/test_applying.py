"""What Git says and what the cluster keeps do not fight: applied again, nothing changes, and no difference is shown."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from controlplane.client import object_path
from controlplane.plane import ControlPlane

from evolution.api.run import API_VERSION

pytestmark = pytest.mark.controlplane

EXAMPLES = Path(__file__).parents[2] / "examples"
GITOPS = EXAMPLES / "gitops"
ON_A_LAPTOP = EXAMPLES / "quickstart"
RENDERED = ("platform", "runs/staging", "runs/production")
NAMESPACES = ("manuals-staging", "manuals-production")
Body = dict[str, Any]


def files_of_ours() -> list[Path]:
    """Those of the examples for a cluster that hold nothing but our kinds."""
    files = [file for file in sorted(EXAMPLES.rglob("*.yaml")) if ON_A_LAPTOP not in file.parents]
    return [
        file for file in files if {*re.findall(r"^apiVersion: (.+)$", file.read_text(), re.MULTILINE)} == {API_VERSION}
    ]


def as_kubectl_reads(plane: ControlPlane, file: Path) -> list[Body]:
    text = plane.kubectl("create", "--dry-run=client", "-o", "yaml", "-f", str(file))
    return [*yaml.safe_load_all(text)]


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> ControlPlane:
    control_plane.install_crds()
    return control_plane


@pytest.fixture
def applied(plane: ControlPlane, namespace: str) -> Iterator[str]:
    """All examples as one file of that namespace, as Git may hold them."""
    bodies = {}
    for body in (body for file in files_of_ours() for body in as_kubectl_reads(plane, file)):
        body["metadata"] |= {} if body["kind"].startswith("Cluster") else {"namespace": namespace}
        bodies[body["kind"], body["metadata"]["name"]] = body
    assert len(bodies) >= 3
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": [*bodies.values()]})
    yield manifest
    plane.kubectl("delete", "--ignore-not-found", "-f", "-", input=manifest)


def versions(plane: ControlPlane, manifest: str) -> list[tuple[str, str, int]]:
    kept = json.loads(plane.kubectl("get", "-f", "-", "-o", "json", input=manifest))["items"]
    return [(b["metadata"]["name"], b["metadata"]["resourceVersion"], b["metadata"]["generation"]) for b in kept]


@pytest.mark.parametrize(
    "way",
    [("--server-side", "--field-manager=argocd-controller"), ("--server-side", "--field-manager=flux"), ()],
    ids=["server-side by Argo CD", "server-side by Flux", "client-side"],
)
def test_examples_that_are_applied_again_change_nothing(
    plane: ControlPlane, applied: str, way: tuple[str, ...]
) -> None:
    plane.kubectl("apply", *way, "-f", "-", input=applied)
    first = versions(plane, applied)
    plane.kubectl("apply", *way, "-f", "-", input=applied)
    assert versions(plane, applied) == first
    assert {generation for _, _, generation in first} == {1}
    assert plane.kubectl("diff", *way, "-f", "-", input=applied) == ""


def test_a_value_that_git_takes_back_is_the_default_again(plane: ControlPlane, namespace: str) -> None:
    (body,) = as_kubectl_reads(plane, EXAMPLES / "cluster" / "quickstart.yaml")
    body["metadata"]["namespace"] = namespace
    path = object_path("evolutionruns", "quickstart", namespace, API_VERSION)
    for suspend, kept in ((True, True), (None, False)):
        body["spec"].pop("suspend", None)
        body["spec"] |= {} if suspend is None else {"suspend": suspend}
        plane.kubectl("apply", "--server-side", "--field-manager=flux", "-f", "-", input=json.dumps(body))
        assert plane.api.get(path)["spec"]["suspend"] is kept


@pytest.fixture(scope="module")
def environments(plane: ControlPlane) -> Iterator[None]:
    for name in NAMESPACES:
        plane.api.create(object_path("namespaces"), {"metadata": {"name": name}})
    yield
    for name in NAMESPACES:
        plane.api.delete(object_path("namespaces", name))


@pytest.mark.usefixtures("environments")
@pytest.mark.parametrize("folder", RENDERED)
def test_the_example_repository_renders_to_what_the_api_server_takes(plane: ControlPlane, folder: str) -> None:
    rendered = plane.kubectl("kustomize", str(GITOPS / folder))
    said = plane.kubectl(
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        "-",
        input=rendered,
    )
    assert len(said.splitlines()) == len([*yaml.safe_load_all(rendered)])


def test_environments_differ_only_where_they_should(plane: ControlPlane) -> None:
    staging, production = (yaml.safe_load(plane.kubectl("kustomize", str(GITOPS / f))) for f in RENDERED[1:])
    different = {
        key
        for key in {*staging["spec"], *production["spec"]}
        if staging["spec"].get(key) != production["spec"].get(key)
    }
    assert different == {"rounds", "budget", "publish"}
    assert (staging["metadata"]["namespace"], production["metadata"]["namespace"]) == NAMESPACES


def test_argo_cd_and_flux_are_pointed_at_folders_that_there_are() -> None:
    applications = [*yaml.safe_load_all((GITOPS / "argocd" / "applications.yaml").read_text(encoding="utf-8"))]
    paths = {a["spec"]["source"]["path"] for a in applications}
    kustomizations = [*yaml.safe_load_all((GITOPS / "flux" / "runs.yaml").read_text(encoding="utf-8"))]
    paths |= {k["spec"]["path"].removeprefix("./") for k in kustomizations if k["kind"] == "Kustomization"}
    assert paths == {"runs/staging", "runs/production"}
    assert all((GITOPS / path / "kustomization.yaml").is_file() for path in paths)
    assert {a["spec"]["destination"]["namespace"] for a in applications} == {*NAMESPACES}
