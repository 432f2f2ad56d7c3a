"""Fixtures for tests that need a control plane; `tests/conftest.py` hands them to all tests."""

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from controlplane.client import object_path
from controlplane.kubelet import Node
from controlplane.plane import COMPONENTS, ControlPlane
from controlplane.plane import control_plane as running_control_plane
from controlplane.process_kubelet import process_kubelet
from controlplane.simulated_kubelet import large_nodes, simulated_kubelet
from controlplane.waiting import eventually
from tools.build import Unavailable, binary


@contextmanager
def plane_for_tests(*programs: str) -> Iterator[ControlPlane]:
    """A control plane; where it, or a program that its tests need besides, cannot be had, they are skipped."""
    try:
        for program in (*COMPONENTS, "kubectl", *programs):
            binary(program)
    except Unavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
    # Not in pytest's own folder, which is kept: etcd reserves 64 MB at once.
    with (
        tempfile.TemporaryDirectory(prefix="control-plane-", ignore_cleanup_errors=True) as folder,
        running_control_plane(Path(folder)) as plane,
    ):
        yield plane


def new_namespace(plane: ControlPlane) -> str:
    """The name of one that has its default service account."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    plane.api.create(object_path("namespaces"), body)
    eventually(lambda: plane.api.get(object_path("serviceaccounts", "default", name)))
    return name


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """One for all tests of a process, started when the first one asks for it."""
    with plane_for_tests() as plane:
        yield plane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """The name of a new namespace; deleted afterwards."""
    name = new_namespace(control_plane)
    yield name
    control_plane.api.delete(object_path("namespaces", name))


@pytest.fixture
def process_node(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Node]:
    """A node with one GPU whose pods are processes of this machine."""
    node = Node(f"processes-{uuid.uuid4().hex[:8]}")
    with process_kubelet(control_plane.kubeconfig, tmp_path / node.name, [node]) as kubelet:
        yield node
    kubelet.unregister()


@pytest.fixture
def simulated_nodes(control_plane: ControlPlane, tmp_path: Path) -> Iterator[list[Node]]:
    """Four large nodes whose pods commit the stages of their orders at once."""
    nodes = large_nodes(*(f"simulated-{uuid.uuid4().hex[:8]}" for _ in range(4)))
    with simulated_kubelet(control_plane.kubeconfig, tmp_path / "simulated", nodes) as kubelet:
        yield nodes
    kubelet.unregister()
