"""Replies the slow way: one row after the other, nothing shared. Servers that stand in for others compute with it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LogitsProcessor, LogitsProcessorList

from evolution_trainer.sampling import pick


class Draws(LogitsProcessor):
    """Leaves the token that the row's stream of uniform numbers picks."""

    def __init__(self, seed: int, temperature: float, top_p: float) -> None:
        self._stream = np.random.Generator(np.random.Philox(key=seed))
        self._temperature, self._top_p = temperature, top_p

    def __call__(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        uniform = torch.tensor([self._stream.random()], dtype=torch.float64)
        chosen = pick(scores, uniform, self._temperature, self._top_p)
        return torch.full_like(scores, float("-inf")).scatter_(1, chosen[:, None], 0.0)


def read_model(folder: str | Path, adapter: str | Path | None = None) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if adapter is None:
        return model
    from peft import PeftModel

    return PeftModel.from_pretrained(model, adapter).eval()


def continuation(
    model: Any,
    prompt: Sequence[int],
    seed: int,
    *,
    temperature: float,
    top_p: float,
    max_tokens: int,
    stop_token_ids: Sequence[int],
) -> list[int]:
    """Tokens after `prompt`, the one that ends them included."""
    settings = GenerationConfig(
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=list(stop_token_ids),
        pad_token_id=stop_token_ids[0],
    )
    sampling = [Draws(seed, temperature, top_p)] if temperature else []
    ids = torch.tensor([list(prompt)])
    with torch.no_grad():
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=settings,
            logits_processor=LogitsProcessorList(sampling),
        )
    tokens: list[int] = written[0, len(prompt) :].tolist()
    return tokens
