"""Pods of a headless Service find each other by name while they are there."""

from pathlib import Path

import pytest
from controlplane.client import Json, object_path
from controlplane.jobs import Jobs, job, worker
from controlplane.kubelet import Node
from controlplane.peer_names import names_refused
from controlplane.plane import ControlPlane
from controlplane.waiting import eventually

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(120)]

ASKS = """
    getent hosts answers.team && exit 40
    touch /shared/asked
    until getent hosts answers.team; do sleep 0.05; done
    getent hosts answers.team.$HOME_NAMESPACE.svc.cluster.local || exit 41
    touch /shared/found
    while getent hosts answers.team; do sleep 0.05; done
"""
ANSWERS = "until [ -e /shared/found ]; do sleep 0.05; done"
INSIDE = """
    until getent hosts inside.team; do sleep 0.05; done
    touch /shared/known
    until [ -e /shared/asked ]; do sleep 0.05; done
    ! getent hosts outside.team
"""
OUTSIDE = """
    until [ -e /shared/known ]; do sleep 0.05; done
    ! getent hosts inside.team && touch /shared/asked
"""


@pytest.fixture
def jobs(control_plane: ControlPlane, namespace: str, process_node: Node) -> Jobs:
    if why := names_refused():
        pytest.skip(why)
    assert process_node
    return Jobs(control_plane.api, namespace)


def service(jobs: Jobs, name: str) -> None:
    """A headless Service of all pods with the label team."""
    spec = {"clusterIP": "None", "selector": {"team": name}}
    body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
    jobs.api.create(object_path("services", namespace=jobs.namespace), body)


def member(jobs: Jobs, name: str, script: str, folder: Path, **pod: object) -> Json:
    """A Job whose pod has the label team, and `folder` at /shared."""
    container = worker(
        "sh",
        "-c",
        script,
        env=[{"name": "HOME_NAMESPACE", "value": jobs.namespace}],
        volumeMounts=[{"name": "shared", "mountPath": "/shared"}],
    )
    body = job(name, container, pod={"volumes": [{"name": "shared", "hostPath": {"path": str(folder)}}], **pod})
    body["spec"]["template"]["metadata"] = {"labels": {"team": "team"}}
    return body


def test_a_peer_is_known_by_its_name_from_when_it_runs_until_it_has_ended(jobs: Jobs, tmp_path: Path) -> None:
    service(jobs, "team")
    jobs.create(member(jobs, "asks", ASKS, tmp_path, subdomain="team", hostname="asks"))
    eventually((tmp_path / "asked").exists, "the question")
    jobs.create(member(jobs, "answers", ANSWERS, tmp_path, subdomain="team", hostname="answers"))
    for name in ("asks", "answers"):
        assert jobs.ended(name)[-1][0] == "Complete"


def test_a_pod_without_subdomain_knows_nobody_and_is_known_to_nobody(jobs: Jobs, tmp_path: Path) -> None:
    service(jobs, "team")
    jobs.create(member(jobs, "inside", INSIDE, tmp_path, subdomain="team", hostname="inside"))
    jobs.create(member(jobs, "outside", OUTSIDE, tmp_path, hostname="outside"))
    for name in ("inside", "outside"):
        assert jobs.ended(name)[-1][0] == "Complete"
