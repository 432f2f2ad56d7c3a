"""The gate: after each evaluation, go on, step back to the best round, or stop."""

from dataclasses import dataclass
from typing import Literal

from evolution.api.run import Gate

StopReason = Literal["Plateau", "Regression"]


@dataclass(frozen=True)
class Verdict:
    """Where the run stands after an evaluation; `best` and `parent` are rounds, 0 is the start."""

    best: int = 0
    best_score: float | None = None
    parent: int = 0
    """Round whose adapter the next round continues."""
    rounds_without_gain: int = 0
    stop: StopReason | None = None


def after_round(gate: Gate, before: Verdict, round_: int, score: float) -> Verdict:
    """The verdict once `round_` (0: the baseline) has scored `score` on the gate's metric.

    A round is better if it beats the best by `minDelta`, a regression if it lies below the best.
    """
    if before.best_score is None:
        return Verdict(best=round_, best_score=score, parent=round_)
    if score > before.best_score and score >= before.best_score + gate.min_delta:
        return Verdict(best=round_, best_score=score, parent=round_)
    idle = before.rounds_without_gain + 1
    stop: StopReason | None = None
    parent = round_
    if score < before.best_score:
        if gate.on_regression == "Stop":
            stop = "Regression"
        elif gate.on_regression == "Rollback":
            parent = before.best
    if stop is None and gate.patience and idle >= gate.patience:
        stop = "Plateau"
    return Verdict(before.best, before.best_score, parent, idle, stop)


def decides(gate: Gate) -> bool:
    """Whether a round's score can change what comes next, so that the next round has to wait for it."""
    return gate.patience > 0 or gate.on_regression != "Continue"
