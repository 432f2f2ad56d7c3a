"""Losses of spans of tokens, in batches of fixed shapes.

Rows are padded on the right and no mask is needed: a causal model never looks at what comes later. Only the hidden
states before scored tokens go through the head, in chunks, so that memory does not grow with vocabulary times length.

How a matrix product rounds depends on its shape. On a CPU a span is therefore always computed in the shape that its
own length gives, with empty rows where a batch is not full: its loss is then the same to the last bit whatever is
scored along with it, and may be kept for other stages. On a GPU, whose results are not held to the bit, no row is
empty.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from evolution_trainer.base_model import SMALL
from evolution_trainer.loss_cache import LossCache
from evolution_trainer.memory import out_of_memory
from evolution_trainer.model import ModelSession
from evolution_trainer.spans import Span

TOKEN_BUDGET = {"cpu": 1024, "cuda": 16_384}
"""Tokens of a batch, padding included; a CPU gains nothing from larger ones."""
LARGE_MODEL_BUDGET = {"cpu": 256, "cuda": 16_384}
"""The same for models that are not `SMALL`: their matrices keep a CPU busy by themselves, and empty rows cost more."""
HEAD_CHUNK = {"cpu": 64, "cuda": 2048}
"""Positions for which logits over the whole vocabulary are in memory at once."""
STEPS_PER_OCTAVE = 8
"""Different padded lengths from one power of two to the next: at most an eighth of a row is padding."""


class Shape(NamedTuple):
    """What a span is computed in."""

    rows: int
    length: int
    chunk: int


@dataclass
class Losses:
    """Sums of the losses of spans under `model` (of `session`), in nats. No span is computed twice."""

    session: ModelSession
    model: Any
    cache: LossCache
    on_computed: Callable[[Sequence[Span], dict[str, float]], None] = lambda _spans, _losses: None
    """Hears of every batch: what was computed, and the losses by key."""
    _at_once: int = field(default=0, init=False)

    def of(self, spans: Sequence[Span], on_done: Callable[[int], None] = lambda _: None) -> list[float]:
        """Sum of the losses of each span's scored tokens. `on_done` hears how many spans are done so far.

        Memory that runs out halves what is computed at once; the spans are then computed in smaller shapes, anew.

        Raises:
            torch.OutOfMemoryError, RuntimeError, MemoryError: there is not enough memory even for one row.
        """
        while True:
            keys = [self._key(span) for span in spans]
            known = self.cache.find(set(keys))
            wanted = {key: span for key, span in zip(keys, spans, strict=True) if key not in known}
            computed: dict[str, float] = {}
            try:
                for batch in self._batches(wanted):
                    computed |= batch
                    on_done(len(spans) - len(wanted) + len(computed))
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or self._at_once == 1:
                    raise
                self.session.halve_budget()
                continue
            finally:
                self.cache.keep(computed)
            known |= computed
            return [known[key] for key in keys]

    def _shape(self, tokens: int) -> Shape:
        step = max(1, 2 ** (tokens.bit_length() - 1) // STEPS_PER_OCTAVE)
        length = math.ceil(tokens / step) * step
        chunk = self.session.budget(HEAD_CHUNK)
        budget = self.session.budget(self._budget) if self._project else chunk
        return Shape(max(1, budget // length), length, chunk)

    def _key(self, span: Span) -> str:
        """Says all that the loss depends on, but for model and machine."""
        shape = np.array([span.start, *self._shape(len(span.ids))], dtype=np.int64)
        return hashlib.blake2b(shape.tobytes() + span.ids.tobytes(), digest_size=16).hexdigest()

    def _batches(self, wanted: dict[str, Span]) -> Iterator[dict[str, float]]:
        """The losses by key, batch by batch, the shortest first."""
        by_shape: dict[Shape, list[str]] = {}
        for key, span in wanted.items():
            by_shape.setdefault(self._shape(len(span.ids)), []).append(key)
        for shape, keys in sorted(by_shape.items(), key=lambda item: item[0].length):
            for start in range(0, len(keys), shape.rows):
                batch = keys[start : start + shape.rows]
                spans = [wanted[key] for key in batch]
                self._at_once = shape.rows
                losses = dict(zip(batch, self._batch(spans, shape), strict=True))
                self.on_computed(spans, losses)
                yield losses

    def _batch(self, spans: Sequence[Span], shape: Shape) -> list[float]:
        device, project = self.session.device, self._project
        same_shape = device.type == "cpu"
        ids = np.zeros((shape.rows if same_shape else len(spans), shape.length), dtype=np.int64)
        for row, span in enumerate(spans):
            ids[row, : len(span.ids)] = span.ids
        count = sum(span.scored for span in spans)
        room = math.ceil(count / shape.chunk) * shape.chunk if same_shape else count
        rows, positions = np.zeros(room, dtype=np.int64), np.ones(room, dtype=np.int64)
        rows[:count] = np.repeat(np.arange(len(spans)), [span.scored for span in spans])
        positions[:count] = np.concatenate([np.arange(span.start, len(span.ids)) for span in spans])
        expected = torch.from_numpy(ids[rows, positions]).to(device)
        at, before = torch.from_numpy(rows).to(device), torch.from_numpy(positions - 1).to(device)
        sums = torch.zeros(len(spans), dtype=torch.float64, device=device)
        with torch.no_grad():
            body = self.model.base_model if project else self.model
            # Hidden states, or for models with a head of their own kind the logits themselves.
            states = body(input_ids=torch.from_numpy(ids).to(device), use_cache=False)[0]
            for start in range(0, count, shape.chunk):
                chunk, real = slice(start, start + shape.chunk), min(shape.chunk, count - start)
                chosen = states[at[chunk], before[chunk]]
                logits = (project(chosen) if project else chosen).float()
                losses = torch.nn.functional.cross_entropy(logits, expected[chunk], reduction="none")
                sums.index_add_(0, at[chunk][:real], losses[:real].double())
        return [float(total) for total in sums.tolist()]

    @cached_property
    def _budget(self) -> Mapping[str, int]:
        return TOKEN_BUDGET if self.model.num_parameters() < SMALL else LARGE_MODEL_BUDGET

    @cached_property
    def _project(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """From hidden states to logits; None if the model does more to its logits than its head (soft-capping,
        scaling). Then the logits of a whole batch are in memory at once, and the batches are smaller.
        """
        ids = torch.arange(8, device=self.session.device)[None]
        head: Callable[[torch.Tensor], torch.Tensor] = self.model.get_output_embeddings()
        with torch.no_grad():
            logits = self.model(input_ids=ids, use_cache=False).logits
            states = self.model.base_model(input_ids=ids, use_cache=False)[0]
            same = torch.allclose(head(states).float(), logits.float(), atol=1e-3)
        return head if same else None
