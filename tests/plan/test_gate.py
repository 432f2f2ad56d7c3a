from typing import Any

import pytest
from simulated import World, make_run

from evolution.plan.gate import Verdict, after_round


def verdict_after(scores: list[float], **gate: Any) -> Verdict:
    settings = make_run({"gate": {"minDelta": 0.01, "patience": 2, "onRegression": "Continue"} | gate}).spec.gate
    verdict = Verdict()
    for round_, score in enumerate(scores):
        verdict = after_round(settings, verdict, round_, score)
    return verdict


def test_the_best_round_is_the_one_that_gained_enough() -> None:
    assert verdict_after([0.1, 0.3, 0.305]).best == 1
    assert verdict_after([0.1, 0.3, 0.32]).best == 2


def test_an_equal_score_is_no_gain_even_without_a_threshold() -> None:
    assert verdict_after([0.1, 0.3, 0.3], minDelta=0).best == 1


def test_the_run_stops_on_a_plateau_after_patience_rounds() -> None:
    assert verdict_after([0.1, 0.3, 0.3]).stop is None
    assert verdict_after([0.1, 0.3, 0.3, 0.3]).stop == "Plateau"


def test_patience_zero_never_stops() -> None:
    assert verdict_after([0.5] + [0.1] * 50, patience=0).stop is None


@pytest.mark.parametrize(
    ("action", "parent", "stop"), [("Continue", 2, None), ("Rollback", 1, None), ("Stop", 2, "Regression")]
)
def test_a_regression_continues_rolls_back_or_stops(action: str, parent: int, stop: str | None) -> None:
    verdict = verdict_after([0.1, 0.4, 0.2], onRegression=action)
    assert (verdict.parent, verdict.stop, verdict.best) == (parent, stop, 1)


def test_a_rollback_continues_from_the_adapter_of_the_best_round() -> None:
    run = make_run({"rounds": 3, "gate": {"onRegression": "Rollback", "patience": 0}})
    world = World(score=lambda round_: [0.1, 0.5, 0.3, 0.6][round_])
    world.run_to_the_end(run)
    graph = world.graph(run)
    third = graph.stage("r3-train")
    assert third is not None
    assert third.inputs["adapter"].stage == "r1-train"
    assert graph.complete


def test_a_rollback_to_the_baseline_starts_from_the_bare_model() -> None:
    run = make_run({"rounds": 2, "gate": {"onRegression": "Rollback", "patience": 0}})
    world = World(score=lambda round_: [0.5, 0.3, 0.4][round_])
    world.run_to_the_end(run)
    second = world.graph(run).stage("r2-train")
    assert second is not None
    assert "adapter" not in second.inputs


def test_a_stopped_run_is_complete_and_runs_no_further_round_nor_a_score_that_nobody_reads() -> None:
    run = make_run({"rounds": 8, "gate": {"patience": 2}})
    world = World(score=lambda round_: 0.3 if round_ else 0.1)
    world.run_to_the_end(run)
    graph = world.graph(run)
    assert graph.outcome == "Plateau"
    assert graph.complete
    assert max(stage.round for stage in graph.stages) == 3
    assert graph.stage("r3-score") is None
