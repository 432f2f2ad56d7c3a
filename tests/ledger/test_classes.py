"""What each moment of an attempt counts as, computed by hand."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from simulated import World, make_run

from evolution import ledger as module
from evolution.attempt import Attempt, Class, Result
from evolution.ledger import Ledger
from evolution.plan.stage import Kind
from evolution.plan.tally import Spending, Tally

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
STAGE = "a" * 64


def at(seconds: float) -> str:
    return (NOON + timedelta(seconds=seconds)).isoformat()


def pod(end: float | None = 100, result: Result = "succeeded", tally: Tally | None = None, **other: Any) -> Attempt:
    """Wanted at noon, given a node after 10 s, its image there after 30 s; it trains with 2 GPUs."""
    ended = {} if end is None else {"ended_at": at(end), "result": result}
    known = {"worker": "pod", "kind": Kind.TRAIN, "round": 1, "gpus": 2}
    times = {"queued_at": at(0), "allocated_at": at(10), "started_at": at(30)}
    return Attempt(**{**known, **times, **ended, "tally": tally, **other})


def tally(started: float = 35, unfinished: str = "", **seconds: int) -> Tally:
    """On a training; its process could begin to count 35 s after noon."""
    spending = Spending(**{name: 1000 * value for name, value in seconds.items()})
    return Tally(worker="pod", started_at=at(started), gpus=2, unfinished=unfinished, spent={Kind.TRAIN: spending})


def gpu_seconds(ledger: Ledger) -> dict[Class, int]:
    """By class, those without any left out."""
    return {class_: value // 1000 for class_, value in ledger.by_class().items() if value}


def test_a_worker_that_committed_all_leaves_only_its_cold_starts_and_waiting_beside_its_work() -> None:
    ledger = Ledger().noting([pod(100, tally=tally(productive=40, load=10, io=4, checkpoint=2, idle=1))])
    assert gpu_seconds(ledger) == {
        "productive": 2 * 40,
        "cold_start_image": 2 * (30 - 10),
        "cold_start_model": 2 * (10 + 5),  # it read the model for 10 s; Python and its libraries took 5 s
        "io": 2 * 4,
        "checkpoint": 2 * 2,
        "idle": 2 * (1 + 8),  # nobody can tell of the last 8 s
    }
    assert ledger.queued(NOON) == 2 * 10_000


def test_a_failed_worker_that_committed_nothing_wasted_all_that_it_held() -> None:
    ledger = Ledger().noting([pod(100, "retryable", tally(wasted=60))])
    assert gpu_seconds(ledger) == {"wasted": 2 * 90}


def test_what_a_failed_worker_had_committed_before_is_productive_all_the_same() -> None:
    ledger = Ledger().noting([pod(100, "retryable", tally(productive=30, load=10, wasted=20))])
    rest = 100 - 35 - 60
    assert gpu_seconds(ledger) == {
        "productive": 2 * 30,
        "cold_start_image": 2 * 20,
        "cold_start_model": 2 * (10 + 5),
        "wasted": 2 * (20 + rest),
    }


def test_a_pod_that_is_gone_without_a_word_wasted_all_that_it_held() -> None:
    assert gpu_seconds(Ledger().noting([pod(100, "lost")])) == {"wasted": 2 * 90}


def test_a_pod_whose_image_never_came_wasted_the_time_from_its_node_on() -> None:
    assert gpu_seconds(Ledger().noting([pod(100, "stopped", started_at="")])) == {"wasted": 2 * 90}


def test_a_pod_that_never_got_a_node_held_nothing_and_only_waited() -> None:
    ledger = Ledger().noting([pod(100, "stopped", allocated_at="", started_at="")])
    assert gpu_seconds(ledger) == {}
    assert ledger.allocated(NOON) == 0
    assert ledger.queued(NOON) == 2 * 100_000


def test_a_worker_that_found_everything_done_was_started_in_vain() -> None:
    assert gpu_seconds(Ledger().noting([pod(60, tally=tally())])) == {"wasted": 2 * 50}


def test_saved_work_is_unsettled_until_its_stage_is_committed_and_productive_then() -> None:
    ledger = Ledger().noting([pod(100, "preempted", tally(unfinished=STAGE, saved=50, wasted=10))])
    assert ledger.unsettled(NOON) == 2 * 50_000
    waiting = ledger.settling(done=[], wanted=[STAGE])
    assert waiting.unsettled(NOON) == 2 * 50_000
    kept = waiting.settling(done=[STAGE], wanted=[])
    assert kept.unsettled(NOON) == 0
    assert gpu_seconds(kept)["productive"] == 2 * 50
    assert gpu_seconds(kept)["wasted"] == 2 * (10 + 5)
    assert kept.settling(done=[], wanted=[]) == kept  # decided is decided


def test_saved_work_that_an_edit_made_useless_is_wasted() -> None:
    ledger = Ledger().noting([pod(100, "preempted", tally(unfinished=STAGE, saved=50))])
    assert gpu_seconds(ledger.settling(done=[], wanted=["b" * 64]))["wasted"] == 2 * (50 + 15)


def test_while_a_worker_is_under_way_its_committed_stages_count_and_the_rest_is_unsettled() -> None:
    ledger = Ledger().noting([pod(None, tally=tally(productive=40, wasted=7))])
    assert gpu_seconds(ledger) == {"productive": 2 * 40}
    now = NOON + timedelta(seconds=110)
    assert ledger.allocated(now) == 2 * 100_000
    assert ledger.unsettled(now) == 2 * 60_000


def test_a_worker_whose_clock_is_finer_than_its_pods_times_is_believed_for_a_second() -> None:
    ledger = Ledger().noting([pod(100, tally=tally(30, productive=70).adding(Kind.TRAIN, Spending(io=900)))])
    assert ledger.allocated(NOON) == 2 * 90_900
    assert ledger.by_class()["io"] == 2 * 900


def test_a_worker_whose_clock_ran_ahead_has_wasted_so_much_less() -> None:
    ledger = Ledger().noting([pod(100, "retryable", tally(30, productive=50, wasted=3600))])
    assert ledger.allocated(NOON) == 2 * 91_000
    assert gpu_seconds(ledger) == {"productive": 2 * 50, "cold_start_image": 2 * 20, "wasted": 2 * 21}


def test_stages_of_several_kinds_in_one_order_count_each_for_its_kind() -> None:
    came_out = Spending(prompt_tokens=7, generated_tokens=6, trained_tokens=5, kept=4, rejected=3, bytes=2)
    both = tally(productive=20).adding(Kind.EVALUATE, came_out + Spending(productive=30_000))
    ledger = Ledger().noting([pod(85, tally=both)])
    assert ledger.gpu_milliseconds() == {
        Kind.TRAIN: {"productive": 40_000, "cold_start_image": 40_000, "cold_start_model": 10_000},
        Kind.EVALUATE: {"productive": 60_000},
    }
    assert ledger.output()[Kind.EVALUATE] == came_out
    assert ledger.results() == {Kind.TRAIN: {"succeeded": 1}}


def test_what_an_attempt_held_counts_in_its_round() -> None:
    ledger = Ledger().noting([pod(100), pod(50, worker="other", round=2)])
    assert ledger.held_in_round(NOON) == {1: 2 * 90_000, 2: 2 * 40_000}


def test_time_of_workers_without_gpus_is_kept_apart() -> None:
    both = [pod(100, "lost"), pod(50, "lost", worker="without", gpus=0, round=2)]
    for ledger in (
        Ledger().noting(both),
        Ledger().noting([pod(None), pod(None, worker="without", gpus=0, round=2)]).noting(both),
    ):
        assert gpu_seconds(ledger) == {"wasted": 2 * 90}
        workers = ledger.of_workers()
        assert gpu_seconds(workers) == {"wasted": 40}
        assert workers.held_in_round(NOON) == {2: 40_000}
        assert workers.queued(NOON) == 10_000
        assert [attempt.worker for attempt in workers.ended] == ["without"]


def test_time_of_workers_under_way_without_gpus_is_told_apart() -> None:
    ledger = Ledger().noting([pod(None), pod(None, worker="without", gpus=0)])
    assert ledger.of_workers().unsettled(NOON + timedelta(seconds=60)) == 50_000


def test_an_end_stays_as_it_was_first_told() -> None:
    ledger = Ledger().noting([pod(100, "lost")])
    assert ledger.noting([pod(200, "succeeded", tally(productive=100))]) == ledger
    assert ledger.noting([pod(None)]) == ledger


def test_the_last_words_that_were_heard_count_when_a_pod_ends_without_any() -> None:
    ledger = Ledger().noting([pod(None, tally=tally(productive=40))]).noting([pod(100, "lost")])
    assert gpu_seconds(ledger)["productive"] == 2 * 40


def test_gpus_of_which_a_worker_tells_later_count_from_its_beginning() -> None:
    ledger = Ledger().noting([pod(None, gpus=0)]).noting([pod(None, gpus=2, tally=tally())]).noting([pod(100, gpus=0)])
    assert ledger.allocated(NOON) == 2 * 90_000


def test_an_attempt_that_is_no_longer_kept_still_counts_and_is_not_counted_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "REMEMBERED_ATTEMPTS", 1)
    first, second = pod(100), pod(100, worker="second")
    ledger = Ledger().noting([first]).noting([second])
    assert [attempt.worker for attempt in ledger.settled] == ["second"]
    assert ledger.noting([first]) == ledger
    assert ledger.allocated(NOON) == 2 * 2 * 90_000


def test_rounds_are_promoted_or_rejected_once_and_for_all() -> None:
    scores = {0: 0.5, 1: 0.7, 2: 0.6, 3: 0.8}
    run, world = make_run({"gate": {"patience": 0, "onRegression": "Continue"}}), World(lambda round_: scores[round_])
    assert Ledger().judging(run.spec, world.graph(run)).evaluated == {}
    world.run_to_the_end(run)
    graph = world.graph(run)
    ledger = Ledger().judging(run.spec, graph)
    assert list(ledger.evaluated.values()) == ["promoted", "rejected", "promoted"]
    strict = make_run({"gate": {"patience": 0, "onRegression": "Continue", "minDelta": 0.25}})
    assert ledger.judging(strict.spec, world.graph(strict)) == ledger


def test_the_graph_tells_what_becomes_of_saved_work() -> None:
    run, world = make_run(), World()
    model = world.graph(run).stage("prepare-model")
    assert model is not None
    attempts = [
        pod(100, "preempted", tally(unfinished=model.fingerprint or "", saved=50)),
        pod(100, "preempted", tally(unfinished=STAGE, saved=5), worker="of a stage that nobody wants"),
    ]
    ledger = Ledger().noting(attempts).judging(run.spec, world.graph(run))
    assert [attempt.worker for attempt in ledger.settled] == ["of a stage that nobody wants"]
    assert [attempt.wasted for attempt in ledger.settled] == [65_000]
    assert [attempt.saved for attempt in ledger.attempts] == [50_000]
    world.run_to_the_end(run)
    ledger = ledger.judging(run.spec, world.graph(run))
    assert sorted(attempt.wasted for attempt in ledger.settled) == [15_000, 65_000]
    assert ledger.gpu_milliseconds()[Kind.TRAIN]["productive"] == 2 * 50_000
