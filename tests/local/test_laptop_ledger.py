"""Runs on this machine keep a ledger that adds up, whatever is killed; their worker is a stand-in with two GPUs."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from controlplane.waiting import eventually
from simulated import make_run
from small_run import Workplace, small_workplace

from evolution.attempt import Attempt, EndedAttempt
from evolution.ledger import Ledger
from evolution.local.observe import STALE_SECONDS, observe
from evolution.local.places import StoredRun
from evolution.plan.stage import Kind
from evolution.store.artifacts import Artifacts
from evolution.store.folder import FolderStore
from evolution.store.history import History, write_history

TESTS = Path(__file__).parents[1]
GPUS = 2
STAGE = "r1-train"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    """A run whose worker stands still at the first training, until it may go on."""
    made = small_workplace(
        tmp_path,
        {"rounds": 1},
        environment={
            "PYTHONPATH": f"{Path(__file__).parent / 'stand_in'}{os.pathsep}{TESTS}",
            "STAND_IN_STOPS_AT": STAGE,
            "STAND_IN_GOES_ON": str(tmp_path / "go on"),
        },
    )
    yield made
    go_on(made)


def go_on(place: Workplace) -> None:
    (place.folder / "go on").touch()


def history(place: Workplace) -> History:
    [file] = (place.folder / ".evolution" / "default" / "runs").glob("*/history.json")
    return History.model_validate_json(file.read_bytes())


def under_way(place: Workplace) -> tuple[Attempt, ...]:
    """None before the run has a history."""
    try:
        return history(place).ledger.open
    except ValueError:
        return ()


def standing_still(place: Workplace) -> "tuple[subprocess.Popen[bytes], psutil.Process]":
    """A run and its worker, which has told of its training."""
    dead = {attempt.worker for attempt in under_way(place)}
    run = place.start("run")
    eventually(
        lambda: [a for a in under_way(place) if a.kind is Kind.TRAIN and a.gpus and a.worker not in dead],
        "the worker tells of itself",
    )
    [worker] = psutil.Process(run.pid).children()
    return run, worker


def the_rest(place: Workplace) -> Ledger:
    """After the same command again, to the end."""
    go_on(place)
    done = place.evolve("run")
    assert done.returncode == 0, done.stderr
    return adding_up(place)


def adding_up(place: Workplace) -> Ledger:
    """The ledger of a run that has ended."""
    ledger = history(place).ledger
    now = datetime.now(UTC)
    assert ledger.open == ()
    assert ledger.unsettled(now) == 0
    assert sum(ledger.by_class().values()) == ledger.allocated(now) == sum(GPUS * spent(a) for a in ledger.settled)
    return ledger


def spent(attempt: EndedAttempt) -> int:
    """Milliseconds of an attempt whose worker told of itself; GPUs of one that did not are not known."""
    if not attempt.gpus:
        return 0
    end, start = datetime.fromisoformat(attempt.ended_at), datetime.fromisoformat(attempt.queued_at)
    return round((end - start).total_seconds() * 1000)


def trainings(ledger: Ledger) -> list[EndedAttempt]:
    """The oldest first."""
    found = [attempt for attempt in ledger.settled if attempt.kind is Kind.TRAIN]
    return sorted(found, key=lambda attempt: attempt.ended_at)


def test_every_order_of_a_run_is_an_attempt_and_what_they_held_is_in_one_class_each(place: Workplace) -> None:
    ledger = the_rest(place)
    assert sum(of["succeeded"] for of in ledger.results().values()) == len(ledger.settled) == len(place.manifests())
    assert ledger.by_class()["productive"] == GPUS * 10 * len(ledger.settled)
    status = json.loads(place.evolve("status", "--json").stdout)
    assert status["gpuHours"] == f"{ledger.allocated(datetime.now(UTC)) / 3_600_000:.2f}"
    assert list(ledger.evaluated.values()) == ["promoted"]


@pytest.mark.slow
def test_a_worker_that_is_killed_has_wasted_what_no_checkpoint_had_saved(place: Workplace) -> None:
    run, worker = standing_still(place)
    go_on(place)
    worker.kill()
    assert run.wait(60) == 0
    ledger = adding_up(place)
    lost, again = trainings(ledger)
    assert (lost.result, again.result) == ("lost", "succeeded")
    classes = ledger.gpu_milliseconds()[Kind.TRAIN]
    assert classes["productive"] == GPUS * (30 + 10)
    assert classes["wasted"] >= GPUS * 10


def test_a_run_that_is_killed_held_its_gpus_until_its_worker_last_told_of_itself(place: Workplace) -> None:
    run, worker = standing_still(place)
    run.kill()
    run.wait()
    worker.kill()
    [open_] = under_way(place)
    [file] = (place.folder / ".evolution" / "default" / "runs").glob("*/progress/*.json")
    told = json.loads(file.read_bytes())["updatedAt"]
    ledger = the_rest(place)
    lost, _ = trainings(ledger)
    assert (lost.worker, lost.result) == (open_.worker, "lost")
    assert lost.held - lost.wasted >= 30, "what its checkpoint had saved was kept"
    assert lost.ended_at == told
    assert ledger.results()[Kind.TRAIN] == {"lost": 1, "succeeded": 1}


@pytest.mark.slow
def test_what_was_held_before_a_kill_counts_for_the_budget(place: Workplace) -> None:
    run, worker = standing_still(place)
    run.kill()
    run.wait()
    worker.kill()
    place.edit({"budget": {"gpuHours": GPUS * 0.06 / 3600}})
    again = place.evolve("run")
    assert again.returncode == 42, again.stderr
    assert "GPU-hours is used up" in again.stderr
    assert under_way(place) == ()


@pytest.mark.slow
def test_ctrl_c_counts_what_the_worker_saves_while_it_ends(place: Workplace) -> None:
    run, _ = standing_still(place)
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 130
    [interrupted] = history(place).ledger.attempts
    assert (interrupted.kind, interrupted.result) == (Kind.TRAIN, "preempted")
    assert interrupted.saved == 50
    ledger = the_rest(place)
    assert ledger.gpu_milliseconds()[Kind.TRAIN]["productive"] == GPUS * (50 + 10)


@pytest.mark.slow
def test_no_counter_falls_while_a_run_is_killed_again_and_again(place: Workplace) -> None:
    before: dict[tuple[str, str], int] = {}
    for _ in range(3):
        run, worker = standing_still(place)
        run.kill()
        worker.kill()
        run.wait()
        ledger = history(place).ledger
        after = {(k, c): value for k, of in ledger.gpu_milliseconds().items() for c, value in of.items()}
        assert [name for name, value in before.items() if after[name] < value] == []
        before = after
    the_rest(place)


def test_a_run_that_was_killed_long_ago_is_not_shown_as_holding_gpus_ever_since(tmp_path: Path) -> None:
    stored = StoredRun(make_run(), Artifacts(FolderStore(tmp_path / "store"), tmp_path / "cache"), "demo-01234567")
    then = (datetime.now(UTC) - timedelta(seconds=STALE_SECONDS + 3600)).isoformat()
    began: dict[str, Any] = dict.fromkeys(("queued_at", "allocated_at", "started_at"), then)
    attempt = Attempt(worker="laptop-gone-1", job="a" * 64, kind=Kind.TRAIN, round=1, gpus=GPUS, **began)
    plan = observe(stored, lambda _: None)
    assert plan.graph is not None
    ledger = Ledger().noting([attempt])
    write_history(stored.artifacts.store, stored.id, stored.run, plan.graph, plan.status, failures={}, ledger=ledger)
    assert observe(stored, lambda _: None).status.gpu_seconds.unsettled == 0
