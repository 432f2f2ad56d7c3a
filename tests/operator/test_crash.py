"""The operator may be killed at any write: the run ends as if nothing had happened, and no Job is created twice."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from controlplane.client import object_path
from controlplane.kubelet import Node
from controlplane.plane import ControlPlane
from controlplane.simulated_kubelet import simulated_kubelet
from controlplane.waiting import eventually
from fakeapi.crash import Laboratory, every_position, spread
from fakeapi.fork_server import ForkServer
from fakeapi.server import FakeApi

SAMPLE = 32
"""Positions tried on a real control plane, where a run takes a hundred times as long."""


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    with ForkServer("evolution_operator") as server:
        yield server


@pytest.fixture
def on_the_fake(forks: ForkServer, tmp_path: Path) -> Iterator[Laboratory]:
    with FakeApi() as api:
        laboratory = Laboratory(api.write_kubeconfig(tmp_path / "kubeconfig"), tmp_path, forks)
        laboratory.prepare()
        yield laboratory


def check(laboratory: Laboratory, sample: int | None = None, parallel: int = 4) -> None:
    undisturbed = laboratory.undisturbed()
    assert undisturbed.complete, undisturbed.log
    assert set(undisturbed.created.values()) == {1}
    assert undisturbed.attempts == {f"{job} succeeded": 1 for job in undisturbed.created}
    positions = spread(every_position(undisturbed.writes), sample) if sample else every_position(undisturbed.writes)
    wrong, killed = [], 0
    for position, outcome in laboratory.crashes(positions, parallel):
        killed += outcome.killed
        if differences := outcome.differences(undisturbed):
            wrong.append(f"{position}: {'; '.join(differences)}\n{outcome.log[-2000:]}")
    assert not wrong, f"{len(wrong)} of {len(positions)} positions:\n" + "\n".join(wrong[:5])
    # Statuses that follow each other quickly may become one write, so the last positions are not always reached.
    assert killed >= 0.9 * len(positions)


@pytest.mark.slow
def test_a_crash_at_some_writes_changes_nothing(on_the_fake: Laboratory) -> None:
    check(on_the_fake, sample=8)


@pytest.mark.slow
def test_a_crash_at_any_write_changes_nothing(on_the_fake: Laboratory) -> None:
    check(on_the_fake)


@pytest.mark.slow
@pytest.mark.controlplane
def test_a_crash_on_a_real_control_plane_changes_nothing(
    control_plane: ControlPlane, forks: ForkServer, tmp_path: Path
) -> None:
    control_plane.install_crds()
    runtimes = object_path("clusterevolutionruntimes", group="selfevolution.io/v1alpha1")
    eventually(lambda: control_plane.api.get(runtimes))

    def ready(namespace: str) -> None:
        eventually(lambda: control_plane.api.get(object_path("serviceaccounts", "default", namespace)))

    node = Node("crash", gpus=64)
    with simulated_kubelet(control_plane.kubeconfig, tmp_path / "cache", [node]) as kubelet:
        laboratory = Laboratory(control_plane.kubeconfig, tmp_path, forks, namespace_ready=ready, seconds=180)
        laboratory.prepare()
        try:
            check(laboratory, sample=SAMPLE, parallel=8)
        finally:
            kubelet.unregister()
