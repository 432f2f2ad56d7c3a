"""Text generation with `transformers`: left-padded batches of similar length under a token budget."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from evolution_trainer.engine import Reply, read_reply
from evolution_trainer.model import ModelSession
from evolution_trainer.sampling import SeededSampling

TOKEN_BUDGET = {"cpu": 16_384, "cuda": 65_536}
"""Tokens of a batch, padding and room for the reply included: what its key-value cache may grow to."""


@dataclass(frozen=True)
class TransformersEngine:
    """`model` (of `session`, with or without adapter) as a writer of replies."""

    session: ModelSession
    model: Any

    def fits(self, prompt: Sequence[int]) -> bool:
        """Whether the model's window has room for a reply of at least one token."""
        return len(prompt) < self.session.window

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        temperature: float,
        top_p: float,
        max_tokens: int,
        on_done: Callable[[int], None] = lambda _: None,
    ) -> list[Reply]:
        """Replies in the order of `prompts` (token ids, all of which fit). Temperature 0 is greedy and uses no seed.

        A reply depends on its prompt and seed alone, not on the batch. `on_done` hears how many more are there.
        """
        rooms = [min(max_tokens, self.session.window - len(prompt)) for prompt in prompts]
        replies: dict[int, Reply] = {}
        queue = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        while queue:
            rows = self._next_batch(queue, prompts, rooms)
            sampling = SeededSampling([seeds[i] for i in rows], temperature, top_p) if temperature else None
            try:
                batch = self._batch([prompts[i] for i in rows], sampling, rooms[rows[0]])
            except torch.OutOfMemoryError:
                if len(rows) == 1:
                    raise
                self.session.halve_budget()
                continue
            replies.update(zip(rows, batch, strict=True))
            queue = queue[len(rows) :]
            on_done(len(rows))
        return [replies[i] for i in range(len(prompts))]

    def _next_batch(self, queue: Sequence[int], prompts: Sequence[Sequence[int]], rooms: Sequence[int]) -> list[int]:
        """The first rows of `queue` (sorted by length) with the same room that stay under the budget; at least one."""
        room = rooms[queue[0]]
        budget = self.session.budget(TOKEN_BUDGET)
        batch = [queue[0]]
        for row in queue[1:]:
            if rooms[row] != room or (len(batch) + 1) * (len(prompts[row]) + room) > budget:
                break
            batch.append(row)
        return batch

    def _batch(self, prompts: Sequence[Sequence[int]], sampling: SeededSampling | None, max_tokens: int) -> list[Reply]:
        pad, device = self.session.pad_token, self.session.device
        longest = max(map(len, prompts))
        ids = torch.full((len(prompts), longest), pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        settings = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=max_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=self.session.end_tokens,
            pad_token_id=pad,
        )
        with torch.no_grad():
            written = self.model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                generation_config=settings,
                logits_processor=LogitsProcessorList([sampling] if sampling else []),
            )
        return [read_reply(self.session, row) for row in written[:, longest:].tolist()]
