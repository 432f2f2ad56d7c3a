"""A cluster with JobSet, and with Kueue, in which every test has a namespace of its own."""

from collections.abc import Iterator

import pytest
from controllers import jobset, kueue
from controlplane.fixtures import new_namespace, plane_for_tests
from controlplane.plane import ControlPlane
from kueue_queue import prepare


@pytest.fixture(scope="session")
def several_nodes() -> Iterator[ControlPlane]:
    with plane_for_tests("jobset", "kueue") as plane:
        plane.install_crds()
        with jobset(plane, plane.folder / "jobset"), kueue(plane, plane.folder / "kueue"):
            prepare(plane)
            yield plane


@pytest.fixture
def home(several_nodes: ControlPlane) -> str:
    """A new namespace."""
    return new_namespace(several_nodes)
