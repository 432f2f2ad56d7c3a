"""What the report says of the time that a run held its GPUs for, and of its data, is what ledger and manifests say."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ledgers import in_vain, ledger_of, under_way
from recorded import STARTED, Recorded, recorded_run
from test_page import Page

from evolution.ledger import Ledger
from evolution.plan.stage import Kind
from evolution.report.html import write_report
from evolution.report.partition import partition

NOW = STARTED + timedelta(hours=2)
FOUR_ROUNDS = {
    "rounds": 4,
    "gate": {"patience": 0},
    "selection": {"strategy": "Hard"},
    "evaluation": {"metrics": ["ExactMatch"]},
}
PREEMPTED = in_vain("taken", Kind.TRAIN, 2, NOW - timedelta(hours=1), 30.5)
LOST = in_vain("gone", Kind.GENERATE, 3, NOW - timedelta(minutes=50), 12.25, "lost")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return recorded_run(tmp_path_factory.mktemp("recorded"), FOUR_ROUNDS)


def page_of(recorded: Recorded, folder: Path, ledger: Ledger, price: float | None = None) -> Page:
    path = folder / "page.html"
    time = partition(ledger, NOW)
    write_report(recorded.run, recorded.graph, recorded.artifacts, path, recorded.status, time, price)
    return Page(path.read_text(encoding="utf-8"))


def drawn(page: Page, stage: str) -> dict[str, int]:
    """Milliseconds of every class, as the bar of a kind of stage has them."""
    bars = [bar for bar in page.with_class("bar") if bar.get("data-stage") == stage]
    return {str(bar["class"]).removeprefix("bar k-"): int(bar["data-milliseconds"] or "") for bar in bars}


def rows_of(page: Page, caption: str) -> dict[str, list[str]]:
    """Cells by the first one, of the table with that caption."""
    return page.tables[next(told for told in page.tables if told.startswith(caption))]


def nonzero(classes: Mapping[Any, int]) -> dict[str, int]:
    return {class_: value for class_, value in classes.items() if value}


def test_the_bars_are_the_classes_of_the_ledger(recorded: Recorded, tmp_path: Path) -> None:
    ledger = ledger_of(recorded.graph, more=[PREEMPTED, LOST])
    page = page_of(recorded, tmp_path, ledger)
    assert drawn(page, "All") == nonzero(ledger.by_class())
    for kind, classes in ledger.gpu_milliseconds().items():
        assert drawn(page, kind.value) == nonzero(classes)
    assert sum(drawn(page, "All").values()) == ledger.allocated(NOW)


def test_what_is_under_way_is_drawn_as_unsettled(recorded: Recorded, tmp_path: Path) -> None:
    ledger = ledger_of(recorded.graph, more=[under_way("busy", Kind.TRAIN, 4, NOW - timedelta(seconds=60), gpus=4)])
    page = page_of(recorded, tmp_path, ledger)
    assert drawn(page, "All") == nonzero(ledger.by_class()) | {"unsettled": 4 * 62_000}
    assert "Unsettled, and in no class yet: 4m 08s" in page.text


def test_without_a_gpu_the_same_classes_are_in_seconds_of_workers(recorded: Recorded, tmp_path: Path) -> None:
    page = page_of(recorded, tmp_path, ledger_of(recorded.graph, gpus=0))
    assert drawn(page, "All") == nonzero(ledger_of(recorded.graph, gpus=1).by_class())
    assert "worker-seconds" in page.text


def test_attempts_that_came_to_nothing_are_listed_with_their_reason(recorded: Recorded, tmp_path: Path) -> None:
    page = page_of(recorded, tmp_path, ledger_of(recorded.graph, more=[PREEMPTED, LOST]))
    attempts = len(recorded.graph.stages) + 2
    assert f"Attempts that did not succeed: 2 of {attempts}" in page.text
    assert "preempted was evicted, preempted or interrupted" in page.text
    assert "lost was gone without a word" in page.text
    told = page.text[page.text.index("did not succeed") :]
    assert "1m 05s" in told, "2 GPUs for 2 s of image and 30.5 s of work"


def test_a_run_that_never_failed_lists_no_attempts(recorded: Recorded, tmp_path: Path) -> None:
    assert "did not succeed" not in page_of(recorded, tmp_path, ledger_of(recorded.graph)).text


def test_a_price_tells_what_the_run_and_every_round_cost(recorded: Recorded, tmp_path: Path) -> None:
    hour = in_vain("hour", Kind.TRAIN, 2, NOW - timedelta(minutes=60, seconds=-2), 3598.0, gpus=3)
    page = page_of(recorded, tmp_path, Ledger().noting([hour]), price=2.5)
    assert "7.50 at 2.5 per GPU-hour" in page.text
    assert rows_of(page, "What each round took")["2"][:2] == ["3h 00m", "7.50"]


def test_nothing_costs_anything_without_a_gpu(recorded: Recorded, tmp_path: Path) -> None:
    page = page_of(recorded, tmp_path, ledger_of(recorded.graph, gpus=0), price=2.5)
    assert "per GPU-hour" not in page.text
    assert "cost nothing" in page.text


def test_the_gain_of_a_round_is_told_for_each_hour_that_it_held(recorded: Recorded, tmp_path: Path) -> None:
    half = in_vain("half", Kind.TRAIN, 1, NOW - timedelta(minutes=30, seconds=-2), 1798.0, gpus=1)
    page = page_of(recorded, tmp_path, Ledger().noting([half]))
    stages = [recorded.graph.stage(f"r{round_}-evaluate") for round_ in (0, 1, 2)]
    base, first, second = (stage.manifest.scores["ExactMatch"] for stage in stages if stage and stage.manifest)
    gain = first - base
    assert rows_of(page, "What each round took")["1"] == ["30m 00s", f"{gain:+.3f}", f"{2 * gain:+.2f}"]
    assert rows_of(page, "What each round took")["2"] == ["reused", f"{second - first:+.3f}", ""]


def test_a_run_of_a_version_without_a_ledger_is_a_whole_page(recorded: Recorded, tmp_path: Path) -> None:
    page = page_of(recorded, tmp_path, Ledger())
    assert "There is no record of this run’s attempts" in page.text
    assert "How long the finished stages took" in page.text
    assert drawn(page, "All") == {}


def test_the_data_of_each_round_are_those_of_its_manifests(recorded: Recorded, tmp_path: Path) -> None:
    page = page_of(recorded, tmp_path, ledger_of(recorded.graph))
    rows = rows_of(page, "What each round wrote")
    assert list(rows) == ["1", "2", "3", "4"]
    for round_, cells in rows.items():
        generate = recorded.graph.stage(f"r{round_}-generate")
        assert generate
        assert generate.manifest
        told = generate.manifest.metrics
        rejects = [count for counts in dict(told["rejects"]).values() for count in counts.values()]  # type: ignore[arg-type]
        length: dict[str, float] = dict(told["answerTokens"])  # type: ignore[arg-type]
        assert cells[:2] == [str(told["pairs"]), str(sum(rejects))]
        assert cells[5].split()[0] == f"{length['0.5']:.0f}"
        assert cells[5].split()[1] == f"{length['0.1']:.0f}–{length['0.9']:.0f}"


def test_rejects_are_told_by_round_and_reason(recorded: Recorded, tmp_path: Path) -> None:
    rows = rows_of(page_of(recorded, tmp_path, Ledger()), "Questions and answers that were not kept")
    total = sum(int(cell) for cells in rows.values() for cell in cells)
    assert total == sum(len(rows["rejects"]) for id_, rows in recorded.rows.items() if id_.endswith("generate"))


def test_a_drawing_shows_the_median_in_its_band(recorded: Recorded, tmp_path: Path) -> None:
    page = page_of(recorded, tmp_path, Ledger())
    titles = [attrs.get("aria-label") for tag, attrs in page.elements if tag == "svg"]
    for title in ("Length of the questions", "Length of the answers", "Difficulty", "Coverage", "Rejected questions"):
        assert [label for label in titles if label and label.startswith(title)], title


def test_the_figures_of_workers_without_gpus_contain_attempts_that_are_no_longer_kept() -> None:
    ledger = Ledger()
    for n in range(110):
        ledger = ledger.noting([in_vain(f"w{n}", Kind.SCORE, 1, NOW + timedelta(seconds=n), 1.0, gpus=0)])
    time = partition(ledger, NOW + timedelta(hours=1))
    assert time
    assert len(ledger.settled) < 110
    assert (time.unit, time.held, time.queued) == ("worker", 110 * 3000, 110 * 5000)
    assert time.by_round == {1: 110 * 3000}
    assert time.by_class["wasted"] == time.held
    assert ledger.allocated(NOW) == 0, "not a GPU-second"
