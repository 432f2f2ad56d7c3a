"""The trainer's fast functions give what the plainest ones give, with or without vectors."""

import random
from pathlib import Path

import pytest

from evolution_trainer.loss_cache import opened_cache
from evolution_trainer.losses import Losses
from evolution_trainer.model import ModelSession
from evolution_trainer.score import scored
from evolution_trainer.selection import Scores, select
from evolution_trainer.spans import Measure, default_measure, reference_measure
from parity.naive import mean_loss, selected

WORDS = ("valve", "pump", "7", "阀门", "oil", "\n", "<|im_end|>", "pressure", "'", "12.5")


def pairs(count: int) -> list[dict[str, str]]:
    draw = random.Random(5)
    text = lambda words: " ".join(draw.choices(WORDS, k=words))  # noqa: E731
    return [{"id": str(n), "question": text(draw.randint(1, 20)), "answer": text(1 + n % 25)} for n in range(count)]


@pytest.mark.parametrize("rules", ["Default", "Reference"])
def test_every_score_is_that_of_a_scorer_that_takes_one_pair_at_a_time(
    demo: ModelSession, tmp_path: Path, rules: str
) -> None:
    given = pairs(30)
    measures: dict[str, Measure] = {
        "Default": default_measure(demo.chat, 512),
        "Reference": reference_measure(demo.chat, 512, frame=lambda q: f"Q: {q}\nA:", alone_frame="A:"),
    }
    with demo.adapted(None) as model, opened_cache(tmp_path / "losses", None) as cache:
        found = dict(scored(Losses(demo, model, cache), given, measures[rules]))
        for row, measured in zip(given, measures[rules](given), strict=True):
            if measured.reason:
                assert found[row["id"]].ifd is None
                continue
            whole, alone = (
                mean_loss(model, span.ids[: span.start].tolist(), span.ids[span.start :].tolist())
                for span in (measured.conditional, measured.alone)
            )
            assert found[row["id"]].ifd == pytest.approx(whole / alone, abs=1e-6)


@pytest.mark.parametrize("strategy", ["Hard", "Easy", "Even"])
def test_every_selection_is_that_of_a_selector_that_takes_out_one_after_the_other(strategy: str) -> None:
    draw = random.Random(3)
    for count in (0, 1, 2, 7, 40, 61):
        # Few different values: there are ties.
        scores: Scores = [draw.choice([None, *(i / 10 for i in range(5, 13))]) for _ in range(count)]
        for size in (0, 1, 3, 10, 39, 100):
            for max_ifd in (None, 1.0):
                found = select(strategy, scores, size, seed=1, max_ifd=max_ifd)  # type: ignore[arg-type]
                assert found == selected(strategy, scores, size, max_ifd)
