"""Figures of the status: what GPUs were used for, and what the data of each round are like."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from simulated import World, make_run

from evolution.api.run import EvolutionRun
from evolution.api.status import EvolutionRunStatus, RoundQuality
from evolution.attempt import Attempt
from evolution.decide import decide
from evolution.ledger import Ledger
from evolution.observation import Observation
from evolution.plan.manifest import Manifest
from evolution.plan.stage import Kind
from evolution.plan.tally import Spending, Tally
from evolution.quality import Quality, quality

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
METRICS: dict[Kind, dict[str, Any]] = {
    Kind.GENERATE: {
        "documents": 50,
        "questions": 200,
        "pairs": 150,
        "rejects": {"question": {"TooShort": 4, "Echo": 1, "Duplicate": 5}, "answer": {"Duplicate": 7, "Echo": 2}},
        "coverage": {"documents": 50, "covered": 49},
        "questionTokens": {"0.1": 9.0, "0.5": 18.0, "0.9": 30.0},
        "answerTokens": {"0.1": 11.0, "0.5": 44.5, "0.9": 90.0},
    },
    Kind.SCORE: {"ifd": {"0.1": 0.3, "0.5": 0.71239, "0.9": 0.95}},
    Kind.TRAIN: {"loss": 1.25},
    Kind.EVALUATE: {"overlap": 3},
}


@pytest.fixture
def finished() -> tuple[EvolutionRun, World]:
    run, world = make_run({"rounds": 1}), World()
    world.run_to_the_end(run)
    return run, world


def telling(world: World, metrics: dict[Kind, dict[str, Any]]) -> list[Manifest]:
    """The manifests of `world`, with these metrics besides those that they have."""
    for name, manifest in world.manifests.items():
        told = {**manifest.metrics, **metrics.get(manifest.kind, {})}
        world.manifests[name] = manifest.model_copy(update={"metrics": told})
    return list(world.manifests.values())


def status(run: EvolutionRun, world: World, ledger: Ledger | None = None) -> EvolutionRunStatus:
    return decide(run, Observation(manifests=world.known(run), now=NOON, ledger=ledger or Ledger())).status


def attempt(worker: str, *, round_: int, end: int | None, **spent: int) -> Attempt:
    """Of 4 GPUs: waited for 60 s, an image fetched for 10 s, then at work."""
    times = [(NOON + timedelta(seconds=at)).isoformat() for at in (-300, -240, -230, end or 0)]
    spending = Spending(**{name: seconds * 1000 for name, seconds in spent.items()})
    return Attempt(
        worker=worker,
        kind=Kind.TRAIN,
        round=round_,
        gpus=4,
        queued_at=times[0],
        allocated_at=times[1],
        started_at=times[2],
        ended_at="" if end is None else times[3],
        result=None if end is None else "succeeded",
        tally=Tally(worker=worker, started_at=times[2], gpus=4, spent={Kind.TRAIN: spending}),
    )


def test_the_status_tells_what_became_of_the_gpu_seconds(finished: tuple[EvolutionRun, World]) -> None:
    ledger = Ledger().noting(
        [
            attempt("done", round_=1, end=-130, productive=80, load=15, io=5),
            attempt("failed", round_=1, end=-130, wasted=100),
            attempt("under way", round_=2, end=None),
        ]
    )
    told = status(*finished, ledger)
    shown = told.gpu_seconds
    assert (shown.productive, shown.overhead, shown.wasted) == (4 * 80, 4 * (10 + 15 + 5), 4 * 110)
    assert (shown.unsettled, shown.queued) == (4 * 240, 3 * 4 * 60)
    assert told.gpu_hours == f"{4 * (110 + 110 + 240) / 3600:.2f}"
    assert told.rounds[0].gpu_seconds == 4 * 220


def test_a_round_whose_stages_stood_already_cost_nothing(finished: tuple[EvolutionRun, World]) -> None:
    assert status(*finished).rounds[0].gpu_seconds == 0


def test_the_status_tells_what_the_data_of_a_round_are_like(finished: tuple[EvolutionRun, World]) -> None:
    run, world = finished
    telling(world, METRICS)
    assert status(run, world).rounds[0].quality == RoundQuality(
        rejects={"Duplicate": 12, "TooShort": 4, "Echo": 3},
        duplicates="0.0571",
        coverage="0.98",
        question_tokens="18",
        answer_tokens="44.5",
        ifd=None,  # the last round is not scored: nothing will be chosen from it
        overlap=3,
    )


def test_the_status_has_eight_reasons_of_rejects_and_the_rest_as_others(finished: tuple[EvolutionRun, World]) -> None:
    run, world = finished
    telling(world, {Kind.GENERATE: {"rejects": {"answer": {f"Reason{n}": n for n in range(1, 13)}}}})
    told = status(run, world).rounds[0].quality
    assert told is not None
    assert told.rejects == {f"Reason{n}": n for n in range(12, 4, -1)} | {"Other": 1 + 2 + 3 + 4}


def test_quality_is_read_from_the_manifests_of_a_round() -> None:
    run, world = make_run({"rounds": 2, "selection": {"strategy": "Hard"}}), World()
    world.run_to_the_end(run)
    assert quality(1, [m for m in telling(world, METRICS) if m.round == 1]) == Quality(
        round=1,
        pairs=150,
        rejects={"TooShort": 4, "Echo": 3, "Duplicate": 12},
        duplicates=(5 + 7) / (200 + 10),
        coverage=49 / 50,
        question_tokens={"0.1": 9.0, "0.5": 18.0, "0.9": 30.0},
        answer_tokens={"0.1": 11.0, "0.5": 44.5, "0.9": 90.0},
        ifd={"0.1": 0.3, "0.5": 0.71239, "0.9": 0.95},
        overlap=3,
        loss=1.25,
    )


def test_what_the_manifests_of_an_older_version_do_not_tell_is_unknown(finished: tuple[EvolutionRun, World]) -> None:
    run, world = finished
    manifests = [m.model_copy(update={"metrics": {"rejects": 3, "coverage": None}}) for m in world.manifests.values()]
    assert quality(1, manifests) == Quality(round=1)
    assert status(run, world).rounds[0].quality is None
