"""What the trainer does with care for speed and memory, done in the plainest way: one pair and one rank at a time."""

from collections.abc import Sequence
from typing import Any

import torch


def mean_loss(model: Any, before: Sequence[int], scored: Sequence[int]) -> float:
    """Mean cross-entropy in nats of the tokens `scored` after the tokens `before`, from the logits of all of them."""
    ids = torch.tensor([[*before, *scored]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0]
    return float(torch.nn.functional.cross_entropy(logits[len(before) - 1 : -1].float(), ids[0, len(before) :]))


def selected(strategy: str, scores: Sequence[float | None], size: int, max_ifd: float | None = None) -> list[int]:
    """Positions that `Hard`, `Easy` and `Even` choose: the hardest is taken out again and again to rank them."""
    left = [i for i, score in enumerate(scores) if score is not None and (max_ifd is None or score <= max_ifd)]
    ranked: list[int] = []
    while left:
        hardest = left[0]
        for i in left[1:]:
            if _score(scores, i) > _score(scores, hardest):
                hardest = i
        left.remove(hardest)
        ranked.append(hardest)
    count = min(size, len(ranked))
    if strategy == "Hard":
        return ranked[:count]
    if strategy == "Easy":
        return ranked[len(ranked) - count :]
    # The middle of each of `count` equal parts of the ranks, in halves of a rank to stay with whole numbers.
    return [ranked[(2 * part + 1) * len(ranked) // (2 * count)] for part in range(count)]


def _score(scores: Sequence[float | None], position: int) -> float:
    score = scores[position]
    assert score is not None
    return score
