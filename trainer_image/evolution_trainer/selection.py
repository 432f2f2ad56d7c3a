"""Which pairs of earlier rounds are trained again: pure decisions on positions and scores."""

import math
import random
from collections.abc import Sequence

from evolution.api.run import Strategy

Scores = Sequence[float | None]
"""IFD by row of the pooled history, oldest round first; None where undefined."""


def select(strategy: Strategy, scores: Scores, size: int, *, seed: int, max_ifd: float | None = None) -> list[int]:
    """Positions of the rows to train again: min(size, number of candidates) of them, `All` takes every row.

    Candidates of `Hard`, `Easy` and `Even` are the rows that have a finite score, not above `max_ifd`. Ties keep their
    order. `Even` takes equal steps through the ranks, from the hardest to the easiest.
    """
    if strategy == "None":
        return []
    if strategy == "All":
        return list(range(len(scores)))
    if strategy == "Random":
        return sorted(random.Random(seed).sample(range(len(scores)), min(size, len(scores))))
    limit = math.inf if max_ifd is None else max_ifd
    ranked = _hardest_first({i: s for i, s in enumerate(scores) if s is not None and math.isfinite(s) and s <= limit})
    count = min(size, len(ranked))
    match strategy:
        case "Hard":
            return ranked[:count]
        case "Easy":
            return ranked[len(ranked) - count :]
        case "Even":
            return [ranked[math.floor((k + 0.5) * len(ranked) / count)] for k in range(count)]


def select_as_reference(strategy: Strategy, scores: Scores, size: int, *, seed: int) -> list[int]:
    """As the published code does: a score that is missing or no number counts as 1, every strategy returns rows hardest
    first, and `Even` is every (n // size)-th row, hence up to 2 * size - 1 of them.
    """
    if strategy == "None" or size == 0:
        return []
    ranked = _hardest_first({i: 1.0 if s is None or math.isnan(s) else s for i, s in enumerate(scores)})
    match strategy:
        case "All":
            return ranked
        case "Random":
            return ranked if size > len(ranked) else random.Random(seed).sample(ranked, size)
        case "Hard":
            return ranked[:size]
        case "Easy":
            return ranked[-size:]
        case "Even":
            return ranked[:: max(1, len(ranked) // size)]


def _hardest_first(scores: dict[int, float]) -> list[int]:
    return sorted(scores, key=lambda i: -scores[i])
