"""A cluster whose workers take no time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster import Cluster, Fates
from controlplane.kubelet import Node
from controlplane.plane import ControlPlane
from controlplane.simulated_kubelet import simulated_kubelet
from operator_process import running_operator

from evolution.store.artifacts import Artifacts
from evolution.store.open import open_store


@contextmanager
def simulated_cluster(plane: ControlPlane, namespace: str, folder: Path, **runtime: Any) -> Iterator[Cluster]:
    """The namespace with an operator, a node for pods of its own, and an EvolutionRuntime `simulated` with one try."""
    store = (folder / "store").as_uri()
    artifacts = Artifacts(open_store(f"{store}/{namespace}"), folder / "cache")
    cluster = Cluster(plane, namespace, Fates(), artifacts)
    cluster.runtime("simulated", nodeSelector={"of": namespace}, retries={"limit": 0}, **runtime)
    node = Node(f"simulated-{namespace}", gpus=64, cpu="1000", memory="4Ti", pods=1000, labels={"of": namespace})
    pods = simulated_kubelet(plane.kubeconfig, folder / "nodes", [node], outcome=cluster.fates.decide)
    only = ("--namespace", namespace, "--progress-seconds", "1")
    with pods as kubelet:
        with running_operator(plane.kubeconfig, store, folder, *only) as operator:
            yield cluster
            assert "Traceback" not in operator.said
        kubelet.unregister()
