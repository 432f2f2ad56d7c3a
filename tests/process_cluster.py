"""A cluster whose workers are real ones, as processes of this machine, and runs whose sources lie in its store."""

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from cluster import Cluster, Fates
from controlplane.client import object_path
from controlplane.kubelet import Node
from controlplane.plane import ControlPlane
from controlplane.process_kubelet import process_kubelet
from minio_server import MinioBucket
from operator_process import running_operator
from small_run import QUICKSTART, Workplace

from evolution.store.artifacts import Artifacts
from evolution.store.open import open_store

LITTLE = {"cpu": "100m", "memory": "256Mi"}
"""What a worker asks for: nothing holds it to that."""


@contextmanager
def process_cluster(
    plane: ControlPlane, namespace: str, minio: MinioBucket, folder: Path, nodes: Sequence[str], **runtime: Any
) -> Iterator[Cluster]:
    """The namespace with an operator, such nodes, and an EvolutionRuntime `real` whose workers run on them."""
    cluster = Cluster(plane, namespace, Fates(), Artifacts(open_store(f"{minio.uri}/{namespace}"), folder / "cache"))
    keys = {name: minio.server.environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "store"},
        "data": {name: base64.b64encode(value.encode()).decode() for name, value in keys.items()},
    }
    cluster.api.create(object_path("secrets", namespace=namespace), secret)
    own = {"storeSecretName": "store", "nodeSelector": {"of": namespace}, "checkpointInterval": "1s"}
    cluster.runtime("real", **{**own, **runtime})
    offered = [Node(f"{name}-{namespace}", labels={"of": namespace}) for name in nodes]
    with process_kubelet(plane.kubeconfig, folder / "nodes", offered, {"OMP_NUM_THREADS": "2"}) as kubelet:
        with running_operator(plane.kubeconfig, minio.uri, folder / "operator", "--namespace", namespace) as operator:
            yield cluster
            assert "Traceback" not in operator.said
        kubelet.unregister()


def uploaded_run(laptop: Workplace, minio: MinioBucket) -> dict[str, Any]:
    """The laptop's run for the runtime `real`, with its sources in the bucket."""
    sources = {
        "model": (QUICKSTART / "model", "sources/model"),
        "documents": (laptop.folder / "documents", "sources/documents"),
        "evaluation": (laptop.folder / "questions.jsonl", "sources/questions.jsonl"),
    }
    run: dict[str, Any] = yaml.safe_load(laptop.file.read_text())
    for field, (path, name) in sources.items():
        for file in [path] if path.is_file() else path.iterdir():
            minio.server.client.fput_object(minio.bucket, name if file == path else f"{name}/{file.name}", str(file))
        run["spec"][field]["uri"] = f"{minio.uri}/{name}"
    run["spec"]["runtimeRef"] = {"kind": "EvolutionRuntime", "name": "real"}
    return run
