"""Simulated pods commit what their orders say, quickly, and fail or hang when a test wants it."""

from pathlib import Path

import pytest
from controlplane.client import Json
from controlplane.jobs import Jobs, job, worker, worker_state
from controlplane.kubelet import Node
from controlplane.plane import ControlPlane
from controlplane.simulated_kubelet import Failed, Hang, Outcome, Success, simulated_kubelet
from controlplane.waiting import eventually
from simulated import make_run

from evolution.plan.graph import unfold
from evolution.plan.order import Order, order_stage
from evolution.plan.stage import fingerprint
from evolution.store.artifacts import Artifacts
from evolution.store.open import open_store

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(120)]

BURST = 20


@pytest.fixture
def jobs(control_plane: ControlPlane, namespace: str) -> Jobs:
    return Jobs(control_plane.api, namespace)


@pytest.fixture
def store(tmp_path: Path) -> str:
    return (tmp_path / "store").as_uri()


def first_order(store: str, name: str) -> Order:
    """To read the model of a run of that name."""
    run = make_run({"model": {"uri": f"s3://models/{name}"}}, name=name)
    first = next(stage for stage in unfold(run.spec, {}).stages if stage.id == "prepare-model")
    return Order(run=f"{name}-01234567", store=store, model=f"s3://models/{name}", stages=(order_stage(first),))


def order_job(order: Order, **spec: object) -> Json:
    text = order.to_json().decode().replace("$", "$$")
    name = order.run.rpartition("-")[0]
    return job(name, worker("evolution-worker", env=[{"name": "EVOLUTION_ORDER", "value": text}]), spec=spec)


def committed(order: Order, tmp_path: Path) -> bool:
    """Whether the order's stage has a manifest."""
    (stage,) = order.stages
    inputs = {name: source.digest or "" for name, source in stage.inputs.items()}
    name = fingerprint(stage.kind, stage.parameters, inputs)
    return Artifacts(open_store(order.store), tmp_path / "cache").manifest(name) is not None


@pytest.mark.usefixtures("simulated_nodes")
def test_a_burst_of_jobs_is_done_and_its_stages_stand_in_the_store(jobs: Jobs, store: str, tmp_path: Path) -> None:
    orders = [first_order(store, f"burst-{number}") for number in range(BURST)]
    for order in orders:
        jobs.create(order_job(order))
    for number in range(BURST):
        assert [kind for kind, _ in jobs.ended(f"burst-{number}")] == ["SuccessCriteriaMet", "Complete"]
    assert all(committed(order, tmp_path) for order in orders)
    assert worker_state(jobs.pod("burst-0", "Succeeded"))["terminated"]["reason"] == "Completed"


def test_pods_take_the_time_that_is_asked_for_and_end_as_decided(
    jobs: Jobs, control_plane: ControlPlane, store: str, tmp_path: Path
) -> None:
    ends: dict[str, Outcome] = {"good": Success(), "bad": Failed(40, "no such metric"), "stuck": Hang()}

    def outcome(_pod: Json, order: Order) -> Outcome:
        return ends[order.run.rpartition("-")[0]]

    node = Node(f"slow-{jobs.namespace}", gpus=64)
    orders = {name: first_order(store, name) for name in ends}
    with simulated_kubelet(control_plane.kubeconfig, tmp_path / "c", [node], seconds=1.0, outcome=outcome) as kubelet:
        for order in orders.values():
            jobs.create(order_job(order))
        for name in ends:
            jobs.pod(name, "Running")
        assert jobs.ended("good")[-1][0] == "Complete"
        assert jobs.ended("bad")[-1] == ("Failed", "PodFailurePolicy")
        assert worker_state(jobs.pod("bad", "Failed"))["terminated"]["message"] == "no such metric"
        assert jobs.pod("stuck", "Running")
        jobs.delete("stuck")
        eventually(lambda: not jobs.pods("stuck"), "removal of the pod that hangs")
    kubelet.unregister()
    assert {name: committed(order, tmp_path) for name, order in orders.items()} == {
        "good": True,
        "bad": False,
        "stuck": False,
    }


@pytest.mark.usefixtures("simulated_nodes")
def test_an_order_that_cannot_be_read_fails_its_job(jobs: Jobs) -> None:
    jobs.create(job("nonsense", worker("evolution-worker", env=[{"name": "EVOLUTION_ORDER", "value": "{"}])))
    assert jobs.ended("nonsense")[-1] == ("Failed", "PodFailurePolicy")
    assert "Invalid JSON" in worker_state(jobs.pod("nonsense", "Failed"))["terminated"]["message"]
