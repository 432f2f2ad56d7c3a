"""What the vectors' files mean, in terms of the trainer's own functions."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from stages import TRAIN

from evolution_trainer.loss_cache import opened_cache
from evolution_trainer.losses import Losses
from evolution_trainer.model import ModelSession
from evolution_trainer.rows import Row
from evolution_trainer.score import Score, scored
from evolution_trainer.spans import reference_measure
from evolution_trainer.train import TrainParameters

BATCH = 16
"""Rows of one optimizer step: 4 of a forward pass, 4 times accumulated."""


def scores_of(
    session: ModelSession, scratch: Path, document: Mapping[str, Any], pairs: Iterable[Row]
) -> dict[str, Score]:
    """Scores by id, with frame and longest text as in `document` (ifd.json)."""
    frame = document["frame"]
    measure = reference_measure(
        session.chat,
        document["max_length"],
        frame=lambda question: frame["conditional"].replace("{question}", question),
        alone_frame=frame["alone"],
    )
    with session.adapted(None) as model, opened_cache(scratch / "losses", None) as cache:
        return dict(scored(Losses(session, model, cache), pairs, measure))


def ifd(score: Score) -> float:
    """As the published code has it, where a score that is not defined is 1."""
    return 1.0 if score.ifd is None else score.ifd


def training(learning_rate: float) -> TrainParameters:
    settings = {"rules": "Reference", "rank": 8, "alpha": 16, "warmupRatio": 0.0, "batchSize": BATCH}
    return TrainParameters.model_validate({**TRAIN, **settings, "learningRate": learning_rate})


def assert_weights(adapter: Path, sums_of_squares: Mapping[str, float]) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    assert weights.keys() == sums_of_squares.keys()
    for name, expected in sums_of_squares.items():
        squares = weights[name].double().square().sum().item()
        assert squares == pytest.approx(expected, rel=1e-5 if "lora_A" in name else 1e-4), name
