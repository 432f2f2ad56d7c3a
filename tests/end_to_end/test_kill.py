"""Whatever is killed, whenever: the same command again ends with the same bytes, and does nothing twice."""

import contextlib
import json
import random
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_run import Workplace, small_workplace

MOMENTS = 20
"""Of each of two tests, so that two processes can share them."""

Manifests = dict[str, dict[str, Any]]


def outcome(manifests: Manifests) -> dict[str, Any]:
    """What must be equal: fingerprints, and the digests of all outputs that are a function of the inputs."""
    return {name: {o: a["digest"] for o, a in m["outputs"].items()} for name, m in manifests.items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifests, float]:
    """Folder, manifests and seconds of a run that nobody kills."""
    place = small_workplace(tmp_path_factory.mktemp("undisturbed"))
    started = time.monotonic()
    done = place.evolve("run")
    assert done.returncode == 0, done.stderr
    return place.folder, place.manifests(), time.monotonic() - started


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.ship)])
def test_killed_at_twenty_random_moments_a_run_ends_as_if_undisturbed(
    undisturbed: tuple[Path, Manifests, float], tmp_path: Path, seed: int
) -> None:
    source, expected, seconds = undisturbed
    dice = random.Random(seed)
    kills = {"run": 0, "worker": 0}
    store = 0
    while sum(kills.values()) < MOMENTS:
        store += 1
        place = Workplace(source, store=f"{tmp_path}/store-{store}")
        folder = tmp_path / f"store-{store}" / "default" / "stages"
        before: dict[str, bytes] = {}
        run, deaths = place.start("run"), 0
        while run.poll() is None and sum(kills.values()) < MOMENTS:
            # A run gives a stage up whose worker died three times.
            victim = dice.choice(["run", "worker"]) if deaths < 2 else "run"
            killed = _kill(run, victim, after=dice.uniform(0.2, seconds))
            if killed is None:
                break
            kills[killed] += 1
            after = {path.name: path.read_bytes() for path in folder.glob("*.json")} if folder.exists() else {}
            assert before.items() <= after.items(), "a finished stage was committed again"
            before = after
            deaths += 1
            if killed == "run":
                run, deaths = place.start("run"), 0
        assert run.wait(240) == 0, "the run did not get over the death of its worker"
        assert outcome_of(folder) == outcome(expected)
    assert min(kills.values()) > 3


def _kill(run: Any, victim: str, after: float) -> str | None:
    """SIGKILL the run or its worker once that many seconds have gone, or the run if there is no worker just then: what
    was killed; None if the run had ended.
    """
    process = psutil.Process(run.pid)
    try:
        process.wait(after)
    except psutil.TimeoutExpired:
        pass
    else:
        return None
    workers = process.children() if victim == "worker" else []
    if workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            workers[0].kill()
            return "worker"
    run.kill()
    run.wait()
    return "run"


def outcome_of(folder: Path) -> dict[str, Any]:
    return (
        outcome({path.stem: json.loads(path.read_bytes()) for path in folder.glob("*.json")}) if folder.exists() else {}
    )


@pytest.mark.slow
def test_a_worker_leaves_when_its_run_is_killed(tmp_path: Path) -> None:
    place = small_workplace(tmp_path, {"training": {"maxSteps": 100_000}})
    run = place.start("run")
    worker = _wait_for_worker(psutil.Process(run.pid))
    run.kill()
    run.wait()
    worker.wait(20)
    assert not worker.is_running()


def _wait_for_worker(process: psutil.Process) -> psutil.Process:
    while not process.children():
        with pytest.raises(psutil.TimeoutExpired):
            process.wait(0.05)
    return process.children()[0]
