"""What the report shows is what was recorded."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from recorded import STEPS, Recorded, machines, recorded_run

from evolution.api.load import parse_run
from evolution.observation import Failure
from evolution.plan.stage import Kind, canonical_json
from evolution.report import gather as gathering
from evolution.report.figures import Figures
from evolution.report.gather import gather
from evolution.report.headline import headline

METRICS = {"evaluation": {"metrics": ["ROUGEL", "ExactMatch"], "primary": "ExactMatch"}}
ALL_ROUNDS = {"gate": {"patience": 0}}


def figures_of(recorded: Recorded) -> Figures:
    return gather(recorded.run, recorded.graph, recorded.artifacts, recorded.status)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return recorded_run(tmp_path_factory.mktemp("finished"), {**METRICS, **ALL_ROUNDS, "rounds": 4})


@pytest.fixture(scope="module")
def figures(finished: Recorded) -> Figures:
    return figures_of(finished)


def test_the_primary_metric_comes_first(figures: Figures) -> None:
    assert figures.metrics == ("ExactMatch", "ROUGEL")


def test_the_score_curve_is_that_of_the_evaluations(finished: Recorded, figures: Figures) -> None:
    assert [record.round for record in figures.rounds] == [0, 1, 2, 3, 4]
    for record in figures.rounds:
        stage = finished.graph.stage(f"r{record.round}-evaluate")
        assert stage is not None
        assert stage.manifest is not None
        for metric in METRICS["evaluation"]["metrics"]:
            score = record.scores[metric]
            shown = {"mean": score.mean, "low": score.low, "high": score.high, "n": score.n}
            assert {metric: shown}.items() <= dict(stage.manifest.metrics["scores"]).items()  # type: ignore[arg-type]


def test_pairs_come_with_document_difficulty_and_reason(finished: Recorded, figures: Figures) -> None:
    documents = {row["id"]: row["text"] for row in finished.rows["prepare-documents"]["documents"]}
    ifd = {row["id"]: row["ifd"] for row in finished.rows["r2-score"]["scores"]}
    written = finished.rows["r2-generate"]
    kept = [pair for pair in figures.pairs.rows if pair.round == 2 and not pair.reject]
    assert [(p.document, p.question, p.answer, p.ifd) for p in kept] == [
        (row["document"], row["question"], row["answer"], ifd[row["id"]]) for row in written["pairs"]
    ]
    assert kept[0].ifd is None
    assert kept[0].ifd_missing == "AnswerEmpty"
    assert {figures.pairs.documents[p.document].text for p in kept} <= set(documents.values())
    rejected = [pair for pair in figures.pairs.rows if pair.round == 2 and pair.reject]
    assert [(p.document, p.question, p.answer, p.reject) for p in rejected] == [
        (row["document"], row["question"], row["answer"], row["reason"]) for row in written["rejects"]
    ]
    assert rejected


def test_predictions_stand_side_by_side_with_their_primary_score(finished: Recorded, figures: Figures) -> None:
    assert figures.predictions.rounds == (0, 1, 2, 3, 4)
    for round_ in figures.predictions.rounds:
        rows = finished.rows[f"r{round_}-evaluate"]["predictions"]
        assert [item.predictions[round_] for item in figures.predictions.items] == [
            (row["prediction"], row["scores"]["ExactMatch"]) for row in rows
        ]


def test_loss_curves_are_the_training_logs(finished: Recorded, figures: Figures) -> None:
    assert [curve.round for curve in figures.losses] == [1, 2, 3, 4]
    for curve in figures.losses:
        log = finished.rows[f"r{curve.round}-train"]["log"]
        assert [(point.step, point.loss) for point in curve.points] == [(row["step"], row["loss"]) for row in log]


def test_a_long_training_log_is_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "LOSS_POINTS", 1)
    monkeypatch.setattr(gathering, "FEWEST_LOSS_POINTS", 4)
    recorded = recorded_run(tmp_path, {**ALL_ROUNDS, "rounds": 1})
    (curve,) = figures_of(recorded).losses
    log = [row["loss"] for row in recorded.rows["r1-train"]["log"]]
    assert curve.steps == STEPS
    assert [point.loss for point in curve.points] == [
        pytest.approx(sum(log[at : at + 3]) / 3) for at in range(0, STEPS, 3)
    ]


def test_the_time_of_a_round_is_that_of_its_stages(finished: Recorded, figures: Figures) -> None:
    for record in figures.rounds:
        total = sum(s.manifest.timings.total for s in finished.graph.stages if s.round == record.round and s.manifest)
        assert sum(record.seconds.values()) == pytest.approx(total)


def test_lineage_leads_from_every_input_to_the_output_that_it_is(figures: Figures) -> None:
    outputs = {(stage.id, left.name): left.digest for stage in figures.stages for left in stage.leaves}
    reads = [read for stage in figures.stages for read in stage.reads]
    assert all(outputs[read.stage, read.output] == read.digest for read in reads)
    train = next(stage for stage in figures.stages if stage.id == "r3-train")
    assert {"pairs.1", "pairs.2", "scores.1", "scores.2", "adapter"} <= {read.name for read in train.reads}


def test_the_settings_are_a_run_file_of_the_same_run(finished: Recorded, figures: Figures) -> None:
    assert parse_run(figures.settings) == finished.run
    assert yaml.safe_load(figures.settings)["spec"]["training"]["rank"] == 16


def test_versions_and_counts_of_documents_are_told(figures: Figures) -> None:
    assert figures.versions == {"python": ("3.11.4",), "torch": ("2.13.0",)}
    assert figures.documents["documents"] == 12
    assert figures.document_rejects == {"Empty": 1}


def test_the_gate_says_what_it_made_of_each_round(tmp_path: Path) -> None:
    scores = {0: 0.2, 1: 0.5, 2: 0.3, 3: 0.4}
    spec = {**METRICS, "rounds": 6, "gate": {"patience": 2, "onRegression": "Rollback"}}
    figures = figures_of(recorded_run(tmp_path, spec, accuracy=lambda round_: scores[round_]))
    assert [record.gate for record in figures.rounds] == [
        "baseline",
        "best so far",
        "no gain (1 of 2); back to round 1",
        "no gain (2 of 2); plateau, stop",
    ]
    assert figures.best == 1


def test_only_the_first_rows_of_each_round_are_shown_and_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "ROWS_PER_ROUND", 5)
    recorded = recorded_run(tmp_path, {**ALL_ROUNDS, "rounds": 2})
    figures = figures_of(recorded)
    assert figures.pairs.kept.shown == 10
    assert figures.pairs.kept.total == sum(len(recorded.rows[f"r{r}-generate"]["pairs"]) for r in (1, 2))
    assert len(figures.predictions.items) == 5
    assert figures.predictions.total == 20


def test_the_rows_of_a_long_run_share_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gathering, "ROWS", 30)
    figures = figures_of(recorded_run(tmp_path, {**ALL_ROUNDS, "rounds": 9}))
    assert figures.pairs.kept.shown == 27
    assert len(figures.predictions.items) == 3


def test_a_long_document_is_cut(tmp_path: Path) -> None:
    long = machines(1)[0] + " word" * 2000
    figures = figures_of(recorded_run(tmp_path, {"rounds": 1}, documents=[long, *machines(5)]))
    cut = [document for document in figures.pairs.documents.values() if document.cut]
    assert [document.text for document in cut] == [long[: gathering.DOCUMENT_CHARACTERS]]


@pytest.mark.parametrize("done", range(12))
def test_a_run_can_be_looked_at_after_any_stage(tmp_path: Path, done: int) -> None:
    figures = figures_of(recorded_run(tmp_path, {**METRICS, "rounds": 2}, stages=done))
    assert sum(stage.state == "Done" for stage in figures.stages) == min(done, 11)
    assert figures.headline
    assert figures.notices == {}


def test_a_failure_is_explained(tmp_path: Path) -> None:
    message, at = "none of the 12 questions became a pair", datetime(2026, 11, 21, tzinfo=UTC)
    failure = Failure(count=3, code=41, reason="NoPairs", message=message, at=at)
    figures = figures_of(recorded_run(tmp_path, {**METRICS, "rounds": 2}, stages=4, failure=failure))
    assert figures.state == "Failed"
    assert figures.headline == "Exact match is 0.00 before any training; the run failed in its first round"
    assert figures.explanation == (
        "Failed in r1-generate: none of the 12 questions became a pair. 4 of 11 stages are done."
    )


@pytest.mark.parametrize(
    ("stage", "output", "section"),
    [
        ("r1-generate", "pairs", "pairs"),
        ("r1-generate", "rejects", "pairs"),
        ("r1-score", "scores", "pairs"),
        ("prepare-documents", "documents", "pairs"),
        ("r2-train", "log", "losses"),
        ("r1-evaluate", "predictions", "predictions"),
    ],
)
@pytest.mark.parametrize("damage", ["removed", "truncated"])
def test_a_damaged_artifact_is_a_notice_in_its_section(
    tmp_path: Path, stage: str, output: str, section: str, damage: str
) -> None:
    recorded = recorded_run(tmp_path, {**ALL_ROUNDS, "rounds": 2})
    blob = recorded.blob(stage, output)
    if damage == "removed":
        blob.unlink()
    else:
        blob.write_bytes(blob.read_bytes()[:-4])
    figures = figures_of(recorded)
    assert list(figures.notices) == [section]
    (notice,) = figures.notices[section]
    assert notice.startswith(f"{output} of {stage}: ")
    assert blob.name in notice
    assert "evolve retry" in notice
    assert len(figures.rounds) == 3


def test_rows_that_are_no_json_are_a_notice(tmp_path: Path) -> None:
    recorded = recorded_run(tmp_path, {**ALL_ROUNDS, "rounds": 1})
    stage = recorded.graph.stage("r1-train")
    assert stage is not None
    assert stage.manifest is not None
    odd = tmp_path / "odd"
    odd.write_bytes(canonical_json({"step": 1, "loss": 1.0}) + b"\nnot json\n")
    stage.manifest.outputs["log"] = recorded.artifacts.put_file(odd, 2)
    assert "is not JSON Lines" in figures_of(recorded).notices["losses"][0]


RISING = {0: 0.0, 1: 0.3, 2: 0.5, 3: 0.7}


@pytest.mark.parametrize(
    ("means", "best", "state", "said"),
    [
        (RISING, 3, "Complete", "Exact match rose from 0.00 to 0.70 in 3 rounds; the best is round 3"),
        ({0: 0.1, 1: 0.2}, 1, "Complete", "Exact match rose from 0.10 to 0.20 in 1 round; the best is round 1"),
        (
            RISING,
            2,
            "Complete",
            "Exact match rose from 0.00 to 0.50 in round 2, the best of 3 rounds; round 3 has 0.70",
        ),
        (RISING, 3, "Running", "Exact match rose from 0.00 to 0.70 in 3 of 8 rounds so far; the best is round 3"),
        (
            RISING,
            3,
            "Failed",
            "Exact match rose from 0.00 to 0.70 in 3 rounds, then round 4 failed; the best is round 3",
        ),
        (
            {0: 0.4, 1: 0.3, 2: 0.35},
            0,
            "Complete",
            "Exact match did not rise above the 0.40 it began with in 2 rounds; the highest was 0.35",
        ),
        ({0: 0.4}, 0, "Running", "Exact match is 0.40 before any training"),
        ({}, None, "Pending", "Nothing is measured yet"),
        ({}, None, "Failed", "The run failed before anything was measured"),
    ],
)
def test_the_headline_says_what_happened(means: dict[int, float], best: int | None, state: str, said: str) -> None:
    assert headline("ExactMatch", means, best, 8, state) == said


def test_stage_kinds_of_a_round_are_timed_apart(figures: Figures) -> None:
    assert set(figures.rounds[1].seconds) == {Kind.GENERATE, Kind.SCORE, Kind.TRAIN, Kind.EVALUATE}
    assert set(figures.rounds[4].seconds) == {Kind.GENERATE, Kind.TRAIN, Kind.EVALUATE}
