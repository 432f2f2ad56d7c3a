"""The crash harness clears an operator that finds its Jobs again, and convicts one that does not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fakeapi.crash import Laboratory, every_position
from fakeapi.fork_server import ForkServer
from fakeapi.server import FakeApi

MODULE = "fakeapi.stand_in"
WRITES = 6
"""Of a stand-in: a Job and a status, three times."""


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Path]:
    with FakeApi() as api:
        yield api.write_kubeconfig(tmp_path / "kubeconfig")


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    with ForkServer(MODULE) as server:
        yield server


def test_deterministic_names_survive_a_crash_at_every_write(api: Path, forks: ForkServer, tmp_path: Path) -> None:
    laboratory = Laboratory(api, tmp_path, forks, MODULE)
    undisturbed = laboratory.undisturbed()
    assert (undisturbed.complete, undisturbed.writes) == (True, WRITES)
    for position, outcome in laboratory.crashes(every_position(WRITES)):
        assert outcome.killed, position
        assert outcome.differences(undisturbed) == [], position


def test_random_names_are_convicted(api: Path, forks: ForkServer, tmp_path: Path) -> None:
    laboratory = Laboratory(api, tmp_path, forks, MODULE, {"STAND_IN_NAMES": "random"})
    undisturbed = laboratory.undisturbed()
    assert undisturbed.complete
    guilty = [
        position
        for position, outcome in laboratory.crashes(every_position(WRITES))
        if any("2 Jobs were created for fingerprint" in difference for difference in outcome.differences(undisturbed))
    ]
    # Wherever a Job was created and the status not yet written: three times two of twelve.
    assert {(position.write, position.when) for position in guilty} == {
        (write, when)
        for write, when in ((1, "Applied"), (2, "Before"), (3, "Applied"), (4, "Before"), (5, "Applied"), (6, "Before"))
    }
