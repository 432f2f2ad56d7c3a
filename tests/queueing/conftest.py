"""A cluster with Kueue, in which every test has a namespace and a queue of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from controllers import kueue
from controlplane.fixtures import new_namespace, plane_for_tests
from controlplane.plane import ControlPlane
from kueue_queue import Queue, prepare
from simulated_cluster import simulated_cluster


@pytest.fixture(scope="session")
def queueing_plane() -> Iterator[ControlPlane]:
    with plane_for_tests("kueue") as plane:
        plane.install_crds()
        with kueue(plane, plane.folder / "kueue"):
            prepare(plane)
            yield plane


@pytest.fixture
def home(queueing_plane: ControlPlane) -> str:
    """A new namespace."""
    return new_namespace(queueing_plane)


@pytest.fixture
def queue(queueing_plane: ControlPlane, home: str) -> Queue:
    return Queue(queueing_plane, home, home)


@pytest.fixture
def cluster(queueing_plane: ControlPlane, home: str, tmp_path: Path) -> Iterator[Cluster]:
    """With a runtime whose stages want one GPU, and wait for it in the queue."""
    nothing = {"cpu": "1", "memory": "1Gi"}
    resources = {"resources": {**nothing, "gpus": 1}, "stages": {"prepare": nothing, "publish": nothing}}
    with simulated_cluster(queueing_plane, home, tmp_path, queueName=home, **resources) as cluster:
        yield cluster
