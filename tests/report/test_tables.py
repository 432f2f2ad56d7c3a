"""Tables for the terminal."""

from pathlib import Path

import pytest
from recorded import Recorded, recorded_run
from rich.console import Console
from rich.table import Table

from evolution.plan.manifest import Manifest
from evolution.report.table import format_interval, format_seconds, rounds_table, stages_table

SIX = ["ExactMatch", "BLEU", "ROUGEL", "CHRF", "ReferenceBLEU", "ReferenceROUGE"]


def lines(table: Table) -> list[str]:
    console = Console(width=100, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    console.print(table)
    return [line.strip() for line in console.export_text().splitlines() if line.strip()]


def rounds(recorded: Recorded) -> list[str]:
    return lines(rounds_table(recorded.status, recorded.graph))


def test_a_round_is_a_row_with_its_interval(tmp_path: Path) -> None:
    spec = {"rounds": 2, "evaluation": {"metrics": ["ExactMatch"]}}
    shown = rounds(recorded_run(tmp_path, spec))
    assert shown[0].split() == ["round", "pairs", "rejects", "loss", "ExactMatch", "seconds"]
    assert shown[2].split()[:4] == ["base", "0.000", "[0.00,", "0.00]"]
    assert shown[3].split()[:-1] == ["1", "11", "1", "1.0264", "0.200", "[0.02,", "0.38]"]
    assert len(shown) == 5


def test_a_round_that_is_under_way_shows_what_is_known(tmp_path: Path) -> None:
    shown = rounds(recorded_run(tmp_path, {"rounds": 2, "evaluation": {"metrics": ["ExactMatch"]}}, stages=5))
    assert shown[3].split()[:3] == ["1", "11", "1"]
    assert len(shown[3].split()) == 4


def test_a_run_without_any_stage_is_an_empty_table(tmp_path: Path) -> None:
    assert len(rounds(recorded_run(tmp_path, stages=0))) == 2


@pytest.mark.parametrize("metrics", [SIX[:2], SIX[:3], SIX])
def test_nothing_is_cut_at_a_hundred_columns(tmp_path: Path, metrics: list[str]) -> None:
    text = "\n".join(rounds(recorded_run(tmp_path, {"rounds": 2, "evaluation": {"metrics": metrics}})))
    assert "…" not in text
    assert "0.02–0.38" in text or "[0.02, 0.38]" in text


def test_a_long_run_shows_the_baseline_the_best_and_the_newest_rounds(tmp_path: Path) -> None:
    spec = {"rounds": 30, "gate": {"patience": 0}, "evaluation": {"metrics": ["ExactMatch"]}}
    shown = rounds(recorded_run(tmp_path, spec, accuracy=lambda round_: 0.8 if round_ == 3 else 0.1))
    assert [line.split()[0] for line in shown[2:-1]] == ["base", "3", *map(str, range(11, 31))]
    assert shown[-1] == "9 earlier rounds are left out"


def test_stages_say_what_is_done_and_what_they_wait_for(tmp_path: Path) -> None:
    recorded = recorded_run(tmp_path, {"rounds": 2, "gate": {"patience": 0}}, stages=4)
    states = {line.split()[0]: line for line in lines(stages_table(recorded.graph))}
    assert "done" in states["r0-evaluate"]
    assert "would run" in states["r1-generate"]
    assert "waits for r1-generate" in states["r1-train"]
    assert "waits for r2-generate, r1-generate and 2 more" in states["r2-train"]
    fingerprint = next(s.fingerprint for s in recorded.graph.stages if s.id == "r1-generate")
    assert fingerprint is not None
    assert fingerprint[:8] in states["r1-generate"]


def test_stages_behind_an_open_gate_are_undecided(tmp_path: Path) -> None:
    recorded = recorded_run(tmp_path, {"rounds": 2, "gate": {"patience": 1}}, stages=4)
    states = {line.split()[0]: line for line in lines(stages_table(recorded.graph))}
    assert "undecided (gate)" in states["r2-generate"]


def test_an_evaluation_without_a_metric_has_no_interval(tmp_path: Path) -> None:
    stage = recorded_run(tmp_path, {"rounds": 1, "evaluation": {"metrics": ["BLEU"]}}).graph.stage("r0-evaluate")
    assert stage is not None
    manifest: Manifest | None = stage.manifest
    assert format_interval(manifest, "BLEU").startswith("0.200 [")
    assert format_interval(manifest, "CHRF") == ""
    assert format_interval(None, "BLEU") == ""


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1m 00s"),
        (185, "3m 05s"),
        (3599.7, "1h 00m"),
        (8040, "2h 14m"),
        (86_399, "1d 0h"),
        (274_000, "3d 4h"),
    ],
)
def test_durations_are_short(seconds: float, said: str) -> None:
    assert format_seconds(seconds) == said
