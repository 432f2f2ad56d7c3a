"""A real training that Kueue takes the quota from: it goes on from its checkpoint, to the same bytes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import Cluster
from controlplane.client import object_path
from controlplane.plane import ControlPlane
from kueue_queue import Queue
from minio_server import MinioBucket
from process_cluster import LITTLE, process_cluster, uploaded_run
from small_run import small_workplace

from evolution.store.history import read_history
from evolution_operator.jobs import run_id
from evolution_operator.records import FINGERPRINT

pytestmark = [pytest.mark.ship, pytest.mark.controlplane, pytest.mark.minio]

STEPS = 150
SPEC: dict[str, Any] = {"rounds": 1, "gate": {"patience": 0}, "training": {"maxSteps": STEPS, "batchSize": 16}}


@pytest.fixture
def cluster(queueing_plane: ControlPlane, home: str, minio: MinioBucket, tmp_path: Path) -> Iterator[Cluster]:
    """With a runtime whose stages want one GPU, and wait for it in the queue."""
    settings = {
        "queueName": home,
        "resources": {**LITTLE, "gpus": 1},
        "stages": {"prepare": LITTLE, "publish": LITTLE},
        "retries": {"limit": 0},
    }
    with process_cluster(queueing_plane, home, minio, tmp_path, ["node"], **settings) as cluster:
        yield cluster


def test_a_preempted_training_goes_on_from_its_checkpoint_and_ends_with_the_bytes_of_an_undisturbed_one(
    cluster: Cluster, queue: Queue, minio: MinioBucket, tmp_path: Path
) -> None:
    laptop = small_workplace(tmp_path / "laptop", SPEC)
    queue.create(gpus=1)
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(uploaded_run(laptop, minio)))

    cluster.wait(lambda: cluster.job("r1-train", "small"), "the training", seconds=240)
    job = cluster.until_running("r1-train", "small")["metadata"]
    saved = f"/checkpoints/{job['annotations'][FINGERPRINT]}"
    cluster.wait(lambda: any(saved in name for name in names(minio)), "a checkpoint of the training", seconds=120)
    queue.urgent_job("urgent", gpus=1)
    cluster.until("Queued: *", "small", seconds=60)
    cluster.wait(lambda: cluster.job("r1-train", "small")["status"].get("active", 0) == 0, "the end of the worker")
    cluster.api.delete(object_path("jobs", "urgent", cluster.namespace, "batch/v1"), propagationPolicy="Background")
    cluster.until("Complete: *", "small", seconds=240)

    history = read_history(cluster.artifacts.store, run_id("small", cluster.run("small")["metadata"]["uid"]))
    assert history is not None
    trained = {attempt.result: attempt for attempt in history.ledger.settled if attempt.job == job["name"]}
    assert trained.keys() == {"preempted", "succeeded"}
    assert trained["preempted"].wasted < trained["preempted"].held, "what was saved is of use"
    done = laptop.evolve("run")
    assert done.returncode == 0, done.stderr
    (expected,) = (m for m in laptop.manifests().values() if m["kind"] == "Train")
    (found,) = (m for m in history.manifests.values() if m.kind == "Train")
    assert {name: found.outputs[name].digest for name in ("adapter", "log", "selection")} == {
        name: expected["outputs"][name]["digest"] for name in ("adapter", "log", "selection")
    }


def names(minio: MinioBucket) -> list[str]:
    return [found.object_name for found in minio.server.client.list_objects(minio.bucket, recursive=True)]
