"""The operator as a process."""

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import yaml
from controlplane.client import object_path
from controlplane.plane import ControlPlane
from controlplane.processes import Port
from controlplane.waiting import eventually
from fakeapi import kinds
from fakeapi.server import FakeApi, write_kubeconfig
from operator_process import running_operator
from relay import Relay
from simulated import MINIMAL
from test_gateway import failing, server, status_body

GROUP = "selfevolution.io/v1alpha1"
PERMISSIONS = Path(__file__).parents[2] / "deploy" / "namespaced" / "permissions.yaml"


@pytest.fixture
def cluster() -> Iterator[FakeApi]:
    with FakeApi() as fake:
        yield fake


@pytest.fixture
def kubeconfig(cluster: FakeApi, tmp_path: Path) -> Path:
    return cluster.write_kubeconfig(tmp_path / "kubeconfig")


@pytest.fixture
def store(tmp_path: Path) -> str:
    return (tmp_path / "store").as_uri()


def outcome(*arguments: str, **environment: str) -> tuple[int, list[str]]:
    """Exit code and lines of an operator that ends by itself."""
    command = [sys.executable, "-m", "evolution_operator", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr.splitlines()


def test_it_reconciles_what_it_finds_and_what_comes_and_stops_within_ten_seconds(
    cluster: FakeApi, kubeconfig: Path, store: str, tmp_path: Path
) -> None:
    cluster.client.create(kinds.RUNS, {"metadata": {"name": "found"}, "spec": MINIMAL})
    with running_operator(kubeconfig, store, tmp_path / "operator") as operator:
        cluster.client.until(kinds.RUNS, "found", lambda run: bool(run.get("status")))
        cluster.client.create(kinds.RUNS, {"metadata": {"name": "come"}, "spec": MINIMAL})
        cluster.client.until(kinds.RUNS, "come", lambda run: bool(run.get("status")))
        started = time.monotonic()
        assert operator.stop() == 0
        assert time.monotonic() - started < 10
    assert "Traceback" not in operator.said


def test_it_writes_nothing_to_jobs_pods_and_the_metadata_of_runs(
    cluster: FakeApi, kubeconfig: Path, store: str, tmp_path: Path
) -> None:
    made = cluster.client.create(kinds.RUNS, {"metadata": {"name": "ops"}, "spec": MINIMAL})
    with running_operator(kubeconfig, store, tmp_path / "operator"):
        run = cluster.client.until(kinds.RUNS, "ops", lambda run: bool(run.get("status")))
    for field in ("annotations", "finalizers", "labels", "generation"):
        assert run["metadata"].get(field) == made["metadata"].get(field)


def test_the_liveness_endpoint_tells_how_far_behind_it_is(
    cluster: FakeApi,  # noqa: ARG001
    kubeconfig: Path,
    store: str,
    tmp_path: Path,
) -> None:
    port = Port()
    port.release()
    arguments = ("--liveness-port", str(port.number))
    with running_operator(kubeconfig, store, tmp_path / "operator", *arguments):

        def health() -> dict[str, dict[str, float]]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port.number}/healthz", timeout=5) as answer:
                told: dict[str, dict[str, float]] = json.load(answer)
                return told

        told = eventually(health, "the liveness endpoint")
    assert told["queue"]["depth"] == 0
    assert set(told["watches"]) == {"secondsSinceEvent", "secondsSinceList"}


@pytest.mark.slow
def test_log_lines_are_json_with_what_they_are_about(
    cluster: FakeApi,  # noqa: ARG001
    kubeconfig: Path,
    store: str,
    tmp_path: Path,
) -> None:
    with running_operator(kubeconfig, store, tmp_path / "operator", "--log-format", "json") as operator:
        first = json.loads(eventually(lambda: operator.said.splitlines()[:1], "a log line")[0])
    assert (first["level"], first["logger"]) == ("info", "evolution_operator.app")
    assert "all namespaces" in first["message"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no store: set --store"),
        (("--store", "gs://bucket"), "'gs://bucket'"),
        (("--store", "file://folder"), "three slashes"),
        (("--store", "s3://bucket/prefix"), "AWS_ACCESS_KEY_ID"),
        (("--store", "file:///s", "--namespace", "Team_A"), "'Team_A'"),
        (("--store", "file:///s", "--resync-seconds", "soon"), "'soon'"),
        (("--store", "file:///s", "--liveness-port", "99999"), "'99999'"),
        (("--store", "file:///s", "--log-format", "xml"), "xml"),
        (("--stor",), "--stor"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line_with_exit_code_2(arguments: tuple[str, ...], said: str) -> None:
    code, lines = outcome(*arguments)
    assert code == 2
    assert len(lines) == 1
    assert said in lines[0]


def test_without_a_cluster_it_says_so_in_one_line(store: str, tmp_path: Path) -> None:
    code, lines = outcome("--store", store, "--log-format", "plain", KUBECONFIG=str(tmp_path / "none"))
    assert code == 1
    assert len(lines) == 1
    assert "none" in lines[0]


def test_without_the_custom_resource_definitions_it_says_so_in_one_line(store: str, tmp_path: Path) -> None:
    def no_runs(request: BaseHTTPRequestHandler) -> None:
        known = json.dumps({"items": [], "metadata": {"resourceVersion": "1"}}).encode()
        missing = GROUP in request.path
        body = status_body("the server could not find the requested resource") if missing else known
        failing(404 if missing else 200, body)(request)

    with server(no_runs) as url:
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", url)
        code, lines = outcome("--store", store, "--log-format", "plain", KUBECONFIG=str(kubeconfig))
    assert code == 1
    assert len(lines) == 1
    assert "CustomResourceDefinitions" in lines[0]


def test_without_rights_it_says_which_in_one_line(store: str, tmp_path: Path) -> None:
    with server(failing(403, status_body('jobs.batch is forbidden: User "x" cannot list resource "jobs"'))) as url:
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", url)
        code, lines = outcome("--store", store, "--log-format", "plain", KUBECONFIG=str(kubeconfig))
    assert code == 1
    assert len(lines) == 1
    assert 'cannot list resource "jobs"' in lines[0]


def test_it_waits_for_an_api_server_that_is_not_there_yet_and_can_be_stopped_meanwhile(
    store: str, tmp_path: Path
) -> None:
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:1")
    with running_operator(kubeconfig, store, tmp_path / "operator") as operator:
        eventually(lambda: "cannot be reached" in operator.said, "a warning")
        operator.process.send_signal(signal.SIGTERM)
        assert operator.process.wait(10) == 0


def test_it_goes_on_when_an_api_server_that_was_away_returns(cluster: FakeApi, store: str, tmp_path: Path) -> None:
    def appears(name: str) -> None:
        cluster.client.create(kinds.RUNS, {"metadata": {"name": name}, "spec": MINIMAL})
        cluster.client.until(kinds.RUNS, name, lambda run: bool(run.get("status")))

    with Relay(cluster.port) as relay:
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{relay.port}")
        with running_operator(kubeconfig, store, tmp_path / "operator") as operator:
            appears("before")
            relay.cut()
            eventually(lambda: "will retry" in operator.said, "an attempt to watch")
            cluster.client.create(kinds.RUNS, {"metadata": {"name": "meanwhile"}, "spec": MINIMAL})
            relay.mend()
            cluster.client.until(kinds.RUNS, "meanwhile", lambda run: bool(run.get("status")))
            appears("after")
            assert operator.stop() == 0


@pytest.mark.controlplane
def test_roles_in_one_namespace_suffice_for_an_operator_of_that_namespace(
    control_plane: ControlPlane, namespace: str, store: str, tmp_path: Path
) -> None:
    control_plane.install_crds()
    api = control_plane.api
    rbac = "rbac.authorization.k8s.io/v1"
    permissions = yaml.safe_load_all(PERMISSIONS.read_text())
    (rules,) = (body["rules"] for body in permissions if body["kind"] == "Role")
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "operator"}}
    role = {"apiVersion": rbac, "kind": "Role", "metadata": {"name": "operator"}, "rules": rules}
    binding = {
        "apiVersion": rbac,
        "kind": "RoleBinding",
        "metadata": {"name": "operator"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "operator"},
        "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": namespace}],
    }
    api.create(object_path("serviceaccounts", namespace=namespace), account)
    api.create(object_path("roles", namespace=namespace, group=rbac), role)
    api.create(object_path("rolebindings", namespace=namespace, group=rbac), binding)
    kubeconfig = control_plane.service_account_kubeconfig(namespace, "operator")
    arguments = ("--namespace", namespace, "--resync-seconds", "0.2")
    with running_operator(kubeconfig, store, tmp_path / "operator", *arguments) as operator:
        eventually(lambda: "working with" in operator.said, "the start")
        run = {"apiVersion": GROUP, "kind": "EvolutionRun", "metadata": {"name": "ops"}, "spec": MINIMAL}
        api.create(object_path("evolutionruns", namespace=namespace, group=GROUP), run)
        path = object_path("evolutionruns", "ops", namespace, GROUP)
        eventually(lambda: api.get(path).get("status"), "a status")
        time_of_lists = time.monotonic() + 1
        eventually(lambda: time.monotonic() > time_of_lists, "a few lists")
        assert operator.stop() == 0
    refusals = [line for line in operator.said.splitlines() if "forbidden" in line]
    assert len(refusals) == 1
    assert "EvolutionRuntimes only" in refusals[0]
