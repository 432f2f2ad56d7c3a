from collections.abc import Iterable
from dataclasses import replace

import pytest
from shown_run import START, edited, ended_attempt, shown_run

from evolution.api.status import EvolutionRunStatus
from evolution.attempt import CLASSES
from evolution.ledger import Ledger
from evolution.metrics import families as f
from evolution.metrics.exposition import OF_RUNS
from evolution.metrics.families import Family, label_values
from evolution.metrics.run_samples import RunFigures, run_samples
from evolution.plan.stage import Kind

Told = dict[tuple[str, tuple[str, ...]], float]


def told(figures: RunFigures) -> Told:
    samples = list(run_samples(figures))
    found = {(family.name, labels): value for family, labels, value in samples}
    assert len(found) == len(samples), "a series is told twice"
    return found


def of(family: Family, samples: Told) -> dict[tuple[str, ...], float]:
    return {labels: value for (name, labels), value in samples.items() if name == family.name}


def counters(samples: Told) -> Iterable[tuple[str, tuple[str, ...]]]:
    names = {family.name for family in OF_RUNS if family.type == "counter"}
    return [series for series in samples if series[0] in names]


def test_the_gpu_seconds_of_all_classes_and_what_is_unsettled_are_what_is_allocated() -> None:
    working = ended_attempt(40, Kind.TRAIN, 4).model_copy(update={"ended_at": "", "result": None})
    samples = told(shown_run(more=[working, ended_attempt(41, Kind.GENERATE, 4, "lost")]))
    settled = sum(of(f.STAGE_GPU_SECONDS, samples).values())
    unsettled, allocated = (of(family, samples)[()] for family in (f.RUN_UNSETTLED, f.RUN_ALLOCATED))
    assert unsettled > 0
    assert settled + unsettled == pytest.approx(allocated, abs=1e-6)


def test_a_run_that_has_just_begun_shows_all_its_counters_at_zero() -> None:
    begun = shown_run(rounds_done=-1)
    assert not begun.ledger.ended
    samples = told(begun)
    kinds = ["Prepare", "Generate", "Score", "Train", "Evaluate"]
    assert {samples[series] for series in counters(samples)} == {0}
    assert [*of(f.RUN_ATTEMPTS, samples)] == [(result,) for result in label_values(f.RUN_ATTEMPTS, "result")]
    assert [*of(f.STAGE_GPU_SECONDS, samples)] == [(kind, class_) for kind in kinds[1:] for class_ in CLASSES]
    assert [*of(f.RUN_ROUNDS, samples)] == [("promoted",), ("rejected",)]
    assert [*of(f.ARTIFACT_BYTES, samples)] == [(kind,) for kind in kinds]


def test_no_counter_appears_later_than_the_run() -> None:
    begun, done = told(shown_run(rounds_done=-1)), told(shown_run(rounds_done=3, spec={"publish": None}))
    assert set(counters(done)) <= set(counters(begun))


def test_preparing_shows_gpu_seconds_from_the_start_if_its_workers_get_gpus() -> None:
    begun = replace(shown_run(rounds_done=-1), without_gpus=frozenset())
    assert of(f.STAGE_GPU_SECONDS, told(begun))["Prepare", "wasted"] == 0


def test_a_stage_without_gpus_tells_of_those_that_it_held_before() -> None:
    held = edited(shown_run(rounds_done=-1), ended_attempt(0, Kind.PREPARE, 0))
    assert of(f.STAGE_GPU_SECONDS, told(held))["Prepare", "productive"] == 2 * 80.125


def test_a_stage_that_an_edit_has_removed_keeps_its_counters() -> None:
    before, after = shown_run(), shown_run(spec={"selection": {"strategy": "None"}})
    samples = told(replace(after, ledger=before.ledger))
    assert of(f.STAGE_SAMPLES, samples)["Score", "kept"] == of(f.STAGE_SAMPLES, told(before))["Score", "kept"] > 0


def test_attempts_are_told_by_how_they_ended_whatever_their_stage() -> None:
    lost = [ended_attempt(40, Kind.TRAIN, 4, "lost"), ended_attempt(41, Kind.GENERATE, 4, "lost")]
    before, after = shown_run(), shown_run(more=lost)
    told_before, told_after = (of(f.RUN_ATTEMPTS, told(one)) for one in (before, after))
    assert told_after == {**told_before, ("lost",): 2}
    assert told_before["succeeded",] == sum(sum(of.values()) for of in before.ledger.results().values()) > 0


def test_the_phase_is_one_of_all() -> None:
    samples = of(f.RUN_PHASE, told(shown_run(state="Suspended")))
    assert samples == {(phase,): float(phase == "Suspended") for phase in f.PHASES}


def test_scores_are_there_as_soon_as_they_are_known() -> None:
    assert of(f.RUN_SCORE, told(shown_run(rounds_done=-1))) == {}
    assert of(f.RUN_SCORE, told(shown_run(rounds_done=0))) == {("baseline",): 0.0, ("last",): 0.0, ("best",): 0.0}
    scores = of(f.RUN_SCORE, told(shown_run(rounds_done=2)))
    assert scores == pytest.approx({("baseline",): 0.0, ("last",): 0.2, ("best",): 0.2})


def test_the_newest_round_tells_what_its_data_are_like_and_the_one_before_it_the_rest() -> None:
    samples = told(shown_run(rounds_done=2))
    assert of(f.ROUND_COVERAGE, samples) == {(): pytest.approx(290 / 300)}
    assert of(f.ROUND_REJECTS, samples)["Duplicate",] == 60
    assert of(f.ROUND_IFD, samples) == {("0.1",): 0.41, ("0.5",): 0.66, ("0.9",): 0.93}
    assert of(f.ROUND_QUESTION_TOKENS, samples)["0.5",] == 14
    assert of(f.ROUND_TRAIN_LOSS, samples) == {(): 1.0625}
    assert of(f.ROUND_OVERLAP, samples) == {(): 2}
    assert of(f.TRAIN_MFU, samples) == {(): 0.37}
    last = shown_run(rounds_done=3, spec={"rounds": 3})  # whose last round is not scored
    assert of(f.ROUND_IFD, told(last))["0.5",] == 0.66


def test_what_is_not_known_is_not_told() -> None:
    nothing = replace(shown_run(rounds_done=-1, spec={"budget": None}), progressed_at=None, idle_seconds=None)
    names = {name for name, _ in told(nothing)}
    absent = {f.RUN_BUDGET, f.RUN_SCORE, f.RUN_LAST_PROGRESS, f.RUN_STALL_THRESHOLD, f.TRAIN_MFU, f.ROUND_COVERAGE}
    assert not names & {family.name for family in absent}


def test_figures_are_in_base_units() -> None:
    samples = told(shown_run())
    assert of(f.RUN_BUDGET, samples) == {(): 360_000}
    assert of(f.RUN_LAST_PROGRESS, samples) == {(): START.timestamp() + 9 * 3600 - 60}
    assert of(f.RUN_STALL_THRESHOLD, samples) == {(): 3600}
    assert of(f.STAGE_TOKENS, samples)["Train", "trained"] == 3 * 98_765
    assert of(f.STAGE_SAMPLES, samples)["Generate", "rejected"] == 3 * 300
    assert of(f.ARTIFACT_BYTES, samples)["Score",] == 3 * 1_234_567
    assert of(f.RUN_ROUND, samples) == {(): 4}


def test_every_sample_has_the_labels_of_its_metric_and_one_of_their_values() -> None:
    for family, labels, _ in run_samples(shown_run(state="Complete")):
        assert len(labels) == len(family.labels) - len(f.RUN), family.name
        for label, value in zip(family.labels[len(f.RUN) :], labels, strict=True):
            allowed = label_values(family, label)
            assert not allowed or value in allowed, (family.name, label, value)


def test_a_run_tells_every_metric_that_the_table_says_runs_tell() -> None:
    assert {family for family, _, _ in run_samples(shown_run())} == set(OF_RUNS)


def test_a_recreated_run_begins_at_zero() -> None:
    again = replace(shown_run(), ledger=Ledger(), status=EvolutionRunStatus())
    samples = told(again)
    assert {samples[series] for series in counters(samples)} == {0}
