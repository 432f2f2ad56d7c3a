"""Text generation with `transformers`: a batch under a token budget, which prompts join as others' replies end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from evolution_trainer.decoding import Batch, Row, can_join, joined, longest_together, padded
from evolution_trainer.engine import Reply, read_reply
from evolution_trainer.memory import out_of_memory
from evolution_trainer.model import ModelSession
from evolution_trainer.sampling import SeededSampling, stream
from evolution_trainer.stems import by_family

TOKEN_BUDGET = {"cpu": 16_384, "cuda": 65_536}
"""Tokens of a batch, padding and room for the replies included: what its key-value cache may grow to."""
WORTH_JOINING = 4
"""A batch waits until those who join make up one in so many rows: while their prompts are read, the others stand."""


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
        work = _Work(self.session, self.model, prompts, seeds, temperature, top_p, max_tokens)
        replies: dict[int, Reply] = {}
        with torch.inference_mode():
            while len(replies) < len(prompts):
                if done := work.advance():
                    replies.update((row.index, read_reply(self.session, row.written)) for row in done)
                    on_done(len(done))
        return [replies[i] for i in range(len(prompts))]


class _Work:
    """The replies of one call that are not there yet."""

    def __init__(
        self,
        session: ModelSession,
        model: Any,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        temperature: float,
        top_p: float,
        max_tokens: int,
    ) -> None:
        self._session, self._model = session, model
        self._prompts, self._seeds = prompts, seeds
        self._temperature, self._top_p, self._max_tokens = temperature, top_p, max_tokens
        self._queue = [self._row(i) for i in by_family(prompts)]
        self._longest_together = longest_together(model)
        self._joining = can_join(model) and all(row.need <= self._longest_together for row in self._queue)
        self._under_way: list[Row] = []
        self._batch: Batch | None = None

    def advance(self) -> list[Row]:
        """Write for a while. Returns the rows that are done."""
        new = self._queue[: self._may_join() if self._joining else self._next_block()]
        del self._queue[: len(new)]
        self._under_way = [*self._under_way, *new]
        try:
            done = self._write(new) if self._joining else self._write_block(new)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or len(self._under_way) == 1:
                raise
        else:
            self._under_way = self._batch.rows if self._batch else []
            return done
        self._batch = None
        self._queue[:0] = [self._row(row.index) for row in self._under_way]
        self._under_way = []
        self._session.halve_budget()
        return []

    def _row(self, i: int) -> Row:
        prompt = self._prompts[i]
        return Row(i, prompt, min(self._max_tokens, self._session.window - len(prompt)), stream(self._seeds[i]))

    def _may_join(self) -> int:
        """How many of the queue to take in now; the batch stays under the budget unless it is one row."""
        budget = self._session.budget(TOKEN_BUDGET)
        rows = len(self._under_way)
        need = max((row.need for row in self._under_way), default=0)
        count = 0
        for row in self._queue:
            need = max(need, row.need)
            if (rows + count + 1) * need > budget and rows + count:
                break
            count += 1
        worth_it = not rows or count == len(self._queue) or count * WORTH_JOINING >= rows + count
        return count if worth_it else 0

    def _write(self, new: list[Row]) -> list[Row]:
        """One token for every row."""
        if new:
            begun = Batch.begun(self._model, new)
            self._batch = joined([self._batch, begun]) if self._batch else begun
        assert self._batch is not None
        done = self._batch.write(self._session.end_tokens, self._temperature, self._top_p)
        if not self._batch.rows:
            self._batch = None
        return done

    def _next_block(self) -> int:
        """How many of the queue have the same room and together stay under the budget; at least one."""
        budget = self._session.budget(TOKEN_BUDGET)
        first = self._queue[0]
        count, need = 1, first.need
        for row in self._queue[1:]:
            need = max(need, row.need)
            if row.room != first.room or need > self._longest_together or (count + 1) * need > budget:
                break
            count += 1
        return count

    def _write_block(self, rows: list[Row]) -> list[Row]:
        """All tokens for rows that start and end together, where none may join."""
        tokens, mask = padded([row.prompt for row in rows], self._model.device)
        sampling = SeededSampling([row.stream for row in rows], self._temperature, self._top_p)
        settings = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=rows[0].room,
            do_sample=False,
            num_beams=1,
            eos_token_id=self._session.end_tokens,
            pad_token_id=self._session.pad_token,
        )
        written = self._model.generate(
            input_ids=tokens,
            attention_mask=mask,
            generation_config=settings,
            logits_processor=LogitsProcessorList([sampling]),
        )
        for row, reply in zip(rows, written[:, tokens.shape[1] :].tolist(), strict=True):
            row.written.extend(reply)
        return rows
