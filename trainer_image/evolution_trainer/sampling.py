"""Sampling whose randomness belongs to the row: the same draws whatever else is in the batch."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import LogitsProcessor

LIKELY = 256
"""Tokens among which the nucleus is looked for first: sorting a whole vocabulary takes longer than the model."""


def stream(seed: int) -> np.random.Generator:
    """Uniform numbers of the row with that seed: one for each of its tokens."""
    return np.random.Generator(np.random.Philox(key=seed))


def drawn(
    logits: torch.Tensor, streams: Sequence[np.random.Generator], temperature: float, top_p: float
) -> torch.Tensor:
    """The next token of every row ([rows], int64); at temperature 0 the likeliest, and no stream is used."""
    if not temperature:
        return logits.argmax(-1)
    uniforms = torch.tensor([row.random() for row in streams], dtype=torch.float64, device=logits.device)
    return pick(logits, uniforms, temperature, top_p)


class SeededSampling(LogitsProcessor):
    """Draws one token per row and step and leaves only that one, so that greedy decoding takes it."""

    def __init__(self, streams: Sequence[np.random.Generator], temperature: float, top_p: float) -> None:
        self._streams = streams
        self._temperature = temperature
        self._top_p = top_p

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """`scores`: [rows, vocabulary] logits of the next token."""
        chosen = drawn(scores, self._streams, self._temperature, self._top_p)
        return torch.full_like(scores, float("-inf")).scatter_(1, chosen[:, None], 0.0)


def pick(logits: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Token per row ([rows], int64) by inverse CDF over the nucleus: the likeliest tokens that together reach `top_p`.

    The CDF adds up tokens in the order of their ids; of equally likely ones the nucleus takes the lower ids first.

    Args:
        logits: [rows, vocabulary].
        uniforms: [rows], float64 in [0, 1).
    """
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    if top_p == 1:
        return _inverse(probabilities, uniforms)
    tokens, likely = _likeliest(probabilities, top_p)
    before = likely.cumsum(-1) - likely
    tokens, order = tokens.masked_fill(before >= top_p, logits.shape[-1]).sort(dim=-1)
    kept = likely.masked_fill(before >= top_p, 0.0).gather(1, order)
    return tokens.gather(1, _inverse(kept, uniforms)[:, None]).squeeze(1)


def _inverse(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Per row the column at which the cumulated probability passes the uniform number's share of the whole."""
    cumulated = probabilities.cumsum(-1)
    wanted = uniforms[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, wanted, right=True).squeeze(1).clamp(max=probabilities.shape[-1] - 1)


def _likeliest(probabilities: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and probabilities, likeliest first, equals by id: enough of each row to reach `top_p`."""
    if probabilities.shape[-1] > LIKELY:
        tokens = probabilities.topk(LIKELY).indices.sort(dim=-1).values
        likely, order = probabilities.gather(1, tokens).sort(dim=-1, descending=True, stable=True)
        # Others may be as likely as the last one; those before it are certain.
        certain = likely.masked_fill(likely == likely[:, -1:], 0.0)
        if bool((certain.cumsum(-1)[:, -1] >= top_p).all()):
            return tokens.gather(1, order), likely
    likely, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
    return tokens, likely
