"""A real API server takes everything that the chart becomes, with every set of values."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from charts import VALUES, Helm, Json, objects, of_kind
from controlplane.client import object_path
from controlplane.plane import ControlPlane

pytestmark = [pytest.mark.helm, pytest.mark.controlplane]

MONITORING = Path(__file__).parent / "monitoring-definitions.yaml"
NAMESPACES = ("team-a", "team-b", "monitoring")
"""What sets of values name."""


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """With our definitions, stand-ins for those of the Prometheus Operator, and the namespaces of the values."""
    control_plane.install_crds()
    control_plane.kubectl("apply", "--server-side", f"--filename={MONITORING}")
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", f"--filename={MONITORING}")
    for name in NAMESPACES:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        control_plane.api.create(object_path("namespaces"), body)
    yield control_plane
    for name in NAMESPACES:
        control_plane.api.delete(object_path("namespaces", name))
    control_plane.kubectl("delete", f"--filename={MONITORING}")


@pytest.fixture
def restricted(cluster: ControlPlane, namespace: str) -> str:
    """A namespace for the release that admits no pod beyond the restricted profile."""
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    return namespace


@pytest.mark.parametrize("values", VALUES)
def test_every_object_is_taken_and_every_pod_is_a_restricted_one(
    cluster: ControlPlane, helm3: Helm, restricted: str, values: str
) -> None:
    made = helm3.objects(values, namespace=restricted)
    for account in accounts(made):
        cluster.api.create(object_path("serviceaccounts", namespace=restricted), account)
    pods = [pod_of(deployment, restricted) for deployment in of_kind(made, "Deployment")]
    assert pods
    taken = server_side(cluster, [*made, *pods])
    assert len(objects(taken)) == len(made) + len(pods)


def test_the_server_notices_a_field_that_it_does_not_know(cluster: ControlPlane, helm3: Helm, restricted: str) -> None:
    made = of_kind(helm3.objects("minimal", namespace=restricted), "Deployment")
    made[0]["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(RuntimeError, match="livenesProbe"):
        server_side(cluster, made)


def accounts(made: list[Json]) -> list[Json]:
    """Service accounts that pods name, also those that somebody else makes: a pod is not taken without."""
    own = of_kind(made, "ServiceAccount")
    named = {
        deployment["spec"]["template"]["spec"].get("serviceAccountName", "default")
        for deployment in of_kind(made, "Deployment")
    }
    others = named - {account["metadata"]["name"] for account in own} - {"default"}
    return [*own, *({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}} for name in others)]


def pod_of(deployment: Json, namespace: str) -> Json:
    """Without this only the Deployment would be looked at, to which the profile does not apply."""
    template = deployment["spec"]["template"]
    meta = {"name": f"{deployment['metadata']['name']}-pod", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]}


def server_side(cluster: ControlPlane, made: list[Json]) -> str:
    """What the server would make of them, as YAML documents."""
    options = ("--server-side", "--dry-run=server", "--force-conflicts", "--output=json")
    given = json.dumps({"apiVersion": "v1", "kind": "List", "items": made})
    answer = json.loads(cluster.kubectl("apply", *options, "--filename=-", input=given))
    return "\n---\n".join(json.dumps(item) for item in answer.get("items", [answer]))
