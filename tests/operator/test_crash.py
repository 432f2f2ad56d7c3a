"""The operator may be killed at any of its writes: the run ends as if nothing had happened, and no Job is created twice."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakeapi.crash import Laboratory, Outcome, Position, every_position
from fakeapi.fork_server import ForkServer
from fakeapi.server import FakeApi

SAMPLE = 32
"""Positions tried on a real control plane, where a run takes a hundred times as long."""


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    with ForkServer("evolution_operator") as server:
        yield server


def check(laboratory: Laboratory, undisturbed: Outcome, positions: list[Position], parallel: int = 4) -> None:
    wrong = []
    for position, outcome in laboratory.crashes(positions, parallel):
        differences = outcome.differences(undisturbed)
        if differences:
            wrong.append(f"{position}: {'; '.join(differences)}\n{outcome.log[-2000:]}")
    assert not wrong, f"{len(wrong)} of {len(positions)} positions:\n" + "\n".join(wrong[:5])


def test_a_crash_at_any_write_changes_nothing(forks: ForkServer, tmp_path: Path) -> None:
    with FakeApi() as api:
        laboratory = Laboratory(api.write_kubeconfig(tmp_path / "kubeconfig"), tmp_path, forks)
        laboratory.prepare()
        undisturbed = laboratory.undisturbed()
        assert undisturbed.complete, undisturbed.log
        assert set(undisturbed.created.values()) == {1}
        check(laboratory, undisturbed, every_position(undisturbed.writes))
