"""Sampling whose randomness belongs to the row: the same draws whatever else is in the batch."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import LogitsProcessor


class SeededSampling(LogitsProcessor):
    """Picks one token per row and step and leaves only that one, so that greedy decoding takes it.

    Row `i` draws its uniform numbers from a Philox stream keyed by `seeds[i]`, one per step, and takes the token at
    which the cumulated probability (in the order of token ids) passes it.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float) -> None:
        self._streams = [np.random.Generator(np.random.Philox(key=seed)) for seed in seeds]
        self._temperature = temperature
        self._top_p = top_p

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """`scores`: [rows, vocabulary] logits of the next token."""
        uniforms = torch.tensor(
            [stream.random() for stream in self._streams], dtype=torch.float64, device=scores.device
        )
        chosen = pick(scores, uniforms, self._temperature, self._top_p)
        return torch.full_like(scores, float("-inf")).scatter_(1, chosen[:, None], 0.0)


def pick(logits: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Token per row ([rows], int64) by inverse CDF over the nucleus: the likeliest tokens that together reach `top_p`.

    Args:
        logits: [rows, vocabulary].
        uniforms: [rows], float64 in [0, 1).
    """
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    if top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        outside = ordered.cumsum(-1) - ordered >= top_p
        probabilities = probabilities.masked_fill(torch.zeros_like(outside).scatter(1, order, outside), 0.0)
    cumulated = probabilities.cumsum(-1)
    wanted = uniforms[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, wanted, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)
