"""The workers' image does the stages of a run in the pod that the operator makes."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from buildah import Image
from pod_container import container
from simulated import World
from small_run import QUICKSTART, small_workplace

from evolution.api.load import parse_run, runtime_from_object
from evolution.plan.dispatch import batches, make_order
from evolution.plan.stage import Kind
from evolution.plan.worker import OrderDone, parse_event
from evolution.store.artifacts import Artifacts
from evolution.store.folder import FolderStore
from evolution_operator.jobs import USER, build_job

pytestmark = [pytest.mark.ship, pytest.mark.timeout(1800)]
UID = "0ff0e7b6-e42e-4053-9949-5f0eef0e3916"
RUNTIME: Mapping[str, Any] = {
    "apiVersion": "selfevolution.io/v1alpha1",
    "kind": "ClusterEvolutionRuntime",
    "metadata": {"name": "default"},
    "spec": {"image": "trainer:1", "execution": "Run"},
}
STAGES = {Kind.PREPARE: 3, Kind.GENERATE: 1, Kind.TRAIN: 1, Kind.EVALUATE: 2}


PLACES = {"model": "model", "documents": "documents", "evaluation": "questions.jsonl"}


@pytest.fixture
def claim(tmp_path: Path) -> Path:
    """What a volume claim holds: a few documents of the quickstart, questions about them, the model, a run file."""
    sources = {name: {"uri": f"pvc://models/{place}"} for name, place in PLACES.items()}
    small_workplace(tmp_path / "claim", {"rounds": 1, **sources})
    shutil.copytree(QUICKSTART / "model", tmp_path / "claim" / "model")
    return tmp_path / "claim"


def pod(claim: Path) -> dict[str, Any]:
    """The pod of a worker that does all stages of one round."""
    run = parse_run((claim / "run.yaml").read_text(encoding="utf-8"))
    runtime = runtime_from_object(RUNTIME).spec
    graph = World().graph(run)
    (batch,) = batches(graph, [stage for stage in graph.stages if stage.ready], runtime.execution, ())
    order = make_order(run, "small-0ff0e7b6", "file:///store", graph, batch)
    found: dict[str, Any] = build_job(run, UID, runtime, batch, order, {})["spec"]["template"]["spec"]
    return found


def test_a_worker_prepares_generates_trains_and_evaluates(trainer_image: Image, claim: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    shutil.chown(store, USER, USER)
    volumes = {"source-0": claim, "/store": store}
    with container(trainer_image, pod(claim), tmp_path / "worker", volumes) as worker:
        assert worker.process.wait(600) == 0
        assert isinstance(parse_event(worker.last_word), OrderDone)
    artifacts = Artifacts(FolderStore(store), tmp_path / "cache")
    done = [artifacts.manifest(Path(found.key).stem) for found in artifacts.store.list("stages/")]
    kinds = [manifest.kind for manifest in done if manifest is not None]
    assert {kind: kinds.count(kind) for kind in kinds} == STAGES
    assert {path.stat().st_uid for path in store.rglob("*")} == {USER}


def test_a_worker_without_an_order_says_where_it_looked(trainer_image: Image, claim: Path, tmp_path: Path) -> None:
    spec = pod(claim)
    spec["containers"][0]["env"] = []
    with container(trainer_image, spec, tmp_path / "worker", {"source-0": claim}) as worker:
        assert worker.process.wait(120) == 40
        assert "no EVOLUTION_ORDER" in worker.said
        assert "Traceback" not in worker.said
