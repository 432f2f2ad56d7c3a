"""A real training that Kueue takes the quota from: it goes on from its checkpoint, to the same bytes."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import Cluster, Fates
from conftest import Queue
from controlplane.client import object_path
from controlplane.kubelet import Node
from controlplane.plane import ControlPlane
from controlplane.process_kubelet import process_kubelet
from minio_server import MinioBucket
from operator_process import running_operator
from small_run import QUICKSTART, small_workplace

from evolution.store.artifacts import Artifacts
from evolution.store.history import read_history
from evolution.store.open import open_store
from evolution_operator.jobs import run_id
from evolution_operator.records import FINGERPRINT

pytestmark = [pytest.mark.ship, pytest.mark.controlplane, pytest.mark.minio]

STEPS = 150
SPEC: dict[str, Any] = {"rounds": 1, "gate": {"patience": 0}, "training": {"maxSteps": STEPS, "batchSize": 16}}


@pytest.fixture
def cluster(queueing_plane: ControlPlane, home: str, minio: MinioBucket, tmp_path: Path) -> Iterator[Cluster]:
    """The namespace with an operator, a node whose pods are processes, and a runtime `queued` with one GPU."""
    artifacts = Artifacts(open_store(f"{minio.uri}/{home}"), tmp_path / "cache")
    cluster = Cluster(queueing_plane, home, Fates(), artifacts)
    keys = {name: minio.server.environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "store"},
        "data": {name: base64.b64encode(value.encode()).decode() for name, value in keys.items()},
    }
    cluster.api.create(object_path("secrets", namespace=home), secret)
    nothing = {"cpu": "100m", "memory": "256Mi"}
    cluster.runtime(
        "queued",
        queueName=home,
        storeSecretName="store",
        nodeSelector={"of": home},
        resources={**nothing, "gpus": 1},
        stages={"prepare": nothing, "publish": nothing},
        checkpointInterval="1s",
        retries={"limit": 0},
    )
    node = Node(f"processes-{home}", labels={"of": home})
    pods = process_kubelet(queueing_plane.kubeconfig, tmp_path / "node", [node], {"OMP_NUM_THREADS": "2"})
    with pods as kubelet:
        with running_operator(
            queueing_plane.kubeconfig, minio.uri, tmp_path / "operator", "--namespace", home
        ) as operator:
            yield cluster
            assert "Traceback" not in operator.said
        kubelet.unregister()


def test_a_preempted_training_goes_on_from_its_checkpoint_and_ends_with_the_bytes_of_an_undisturbed_one(
    cluster: Cluster, queue: Queue, minio: MinioBucket, tmp_path: Path
) -> None:
    laptop = small_workplace(tmp_path / "laptop", SPEC)
    uploaded = {
        "model": (QUICKSTART / "model", "sources/model"),
        "documents": (laptop.folder / "documents", "sources/documents"),
        "evaluation": (laptop.folder / "questions.jsonl", "sources/questions.jsonl"),
    }
    body = yaml.safe_load(laptop.file.read_text())
    for field, (path, name) in uploaded.items():
        for file in [path] if path.is_file() else path.iterdir():
            minio.server.client.fput_object(minio.bucket, name if file == path else f"{name}/{file.name}", str(file))
        body["spec"][field]["uri"] = f"{minio.uri}/{name}"
    body["spec"]["runtimeRef"] = {"kind": "EvolutionRuntime", "name": "queued"}
    queue.create(gpus=1)
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(body))

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
