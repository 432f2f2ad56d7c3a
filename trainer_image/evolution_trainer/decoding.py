"""Replies token by token, in a batch that rows join and leave while it runs.

All rows end in the same column; what is shorter is padded on its left, in the key-value cache too. So between any two
tokens a row can leave (its line is taken out) and another can join (a line is put in).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from evolution_trainer.sampling import drawn
from evolution_trainer.stems import families, stems

PIECE = {"cpu": 2048, "cuda": 16_384}
"""Tokens of prompts that are read at once; what more take does not fit into a processor's caches."""


@dataclass(frozen=True)
class Row:
    """One reply in the making."""

    index: int
    """Of the prompt in its call."""
    prompt: Sequence[int]
    room: int
    """Tokens that the reply may have."""
    stream: np.random.Generator
    """What its tokens are drawn with."""
    written: list[int] = field(default_factory=list)

    @property
    def need(self) -> int:
        """Columns of the cache that it may fill."""
        return len(self.prompt) + self.room


def can_join(model: Any) -> bool:
    """Whether rows may come and go: every layer keeps the keys and values of all tokens (no sliding window, no
    recurrent state), and attention is of the kind that any mask can be given to.
    """
    layers = DynamicCache(config=model.config).layers
    return all(type(layer) is DynamicLayer for layer in layers) and bool(model._supports_attention_backend)


def longest_together(model: Any) -> float:
    """Columns up to which a row may be beside others: LongRoPE turns all rows of a batch by the angles that the longest
    needs, and what was read before it became that long has to be read again.
    """
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    return float(rope["original_max_position_embeddings"]) if rope.get("rope_type") == "longrope" else math.inf


@dataclass
class Batch:
    """Rows under way: what the model has seen of them, and what it says about their next token."""

    model: Any
    rows: list[Row]
    cache: DynamicCache
    mask: torch.Tensor
    """[rows, columns], int64: 1 where a column of the cache holds a token of the row."""
    logits: torch.Tensor
    """[rows, vocabulary] of the next token."""

    def write(self, end_tokens: Sequence[int], temperature: float, top_p: float) -> list[Row]:
        """One token more for every row. Those that are done with it leave, and are returned."""
        tokens = drawn(self.logits, [row.stream for row in self.rows], temperature, top_p)
        done: list[Row] = []
        staying: list[int] = []
        for line, (row, token) in enumerate(zip(self.rows, tokens.tolist(), strict=True)):
            row.written.append(token)
            if token in end_tokens or len(row.written) == row.room:
                done.append(row)
            else:
                staying.append(line)
        if done:
            self._take(staying)
            tokens = tokens[staying]
        if staying:
            self._read(tokens[:, None], torch.ones_like(tokens)[:, None])
        return done

    def _take(self, lines: Sequence[int]) -> None:
        """Keep these lines (one may be there twice), and the columns that they need."""
        index = torch.tensor(lines, dtype=torch.int64, device=self.mask.device)
        self.rows = [self.rows[line] for line in lines]
        mask = self.mask[index]
        unused = int(mask.any(0).int().argmax()) if lines else 0
        self.mask = mask[:, unused:]
        for layer in self.cache.layers:
            layer.keys = layer.keys[:, :, unused:].index_select(0, index)
            layer.values = layer.values[:, :, unused:].index_select(0, index)

    def _read(self, tokens: torch.Tensor, mask: torch.Tensor) -> None:
        """The model sees the next tokens, [rows, n]; `mask` tells which are no padding."""
        self.mask = torch.cat([self.mask, mask], dim=1)
        self.logits = self.model(
            input_ids=tokens,
            attention_mask=self.mask,
            position_ids=(self.mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    @classmethod
    def begun(cls, model: Any, rows: Sequence[Row]) -> "Batch":
        """The rows with their prompts read. Neighbours that begin alike share what is read of their beginning."""
        prompts = [row.prompt for row in rows]
        groups = families(prompts)
        cuts = stems(prompts, groups)
        pieces: list[list[Row]] = []
        tokens = 0
        for group in groups:
            to_read = cuts[group[0]] + sum(len(prompts[i]) - cuts[i] for i in group)
            if not pieces or tokens + to_read > PIECE[model.device.type]:
                pieces.append([])
                tokens = 0
            tokens += to_read
            pieces[-1] += [rows[i] for i in group]
        return joined([cls._begun(model, piece) for piece in pieces])

    @classmethod
    def _begun(cls, model: Any, rows: list[Row]) -> "Batch":
        prompts = [row.prompt for row in rows]
        groups = families(prompts)
        cuts = stems(prompts, groups)
        firsts = [group[0] for group in groups]
        batch = cls(
            model,
            rows,
            DynamicCache(config=model.config),
            torch.zeros(len(firsts) if any(cuts) else len(rows), 0, dtype=torch.int64, device=model.device),
            torch.empty(0),
        )
        if any(cuts):
            batch.rows = [rows[first] for first in firsts]
            batch._read(*padded([prompts[first][: cuts[first]] for first in firsts], model.device))
            batch._take([number for number, group in enumerate(groups) for _ in group])
            batch.rows = rows
        batch._read(*padded([prompt[cut:] for prompt, cut in zip(prompts, cuts, strict=True)], model.device))
        if any(cuts):
            batch._close_gaps()
        return batch

    def _close_gaps(self) -> None:
        """Move padding that is in the midst of a row to its left."""
        self.mask, order = self.mask.sort(dim=1, stable=True)
        unused = int(self.mask.any(0).int().argmax())
        self.mask, order = self.mask[:, unused:], order[:, None, unused:, None]
        for layer in self.cache.layers:
            heads = layer.keys.shape[1]
            layer.keys = layer.keys.gather(2, order.expand(-1, heads, -1, layer.keys.shape[-1]))
            layer.values = layer.values.gather(2, order.expand(-1, heads, -1, layer.values.shape[-1]))


def joined(batches: Sequence[Batch]) -> Batch:
    """One batch of all rows."""
    first, *others = batches
    if not others:
        return first
    columns = max(batch.mask.shape[1] for batch in batches)
    gaps = [columns - batch.mask.shape[1] for batch in batches]
    for layer, *more in zip(*(batch.cache.layers for batch in batches), strict=True):
        layers = list(zip([layer, *more], gaps, strict=True))
        layer.keys = torch.cat([pad(one.keys, (0, 0, gap, 0)) for one, gap in layers])
        layer.values = torch.cat([pad(one.values, (0, 0, gap, 0)) for one, gap in layers])
    return Batch(
        first.model,
        [row for batch in batches for row in batch.rows],
        first.cache,
        torch.cat([pad(batch.mask, (gap, 0)) for batch, gap in zip(batches, gaps, strict=True)]),
        torch.cat([batch.logits for batch in batches]),
    )


def padded(parts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and their mask, [parts, longest], padded on the left."""
    longest = max(map(len, parts))
    tokens = torch.zeros(len(parts), longest, dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for line, part in enumerate(parts):
        tokens[line, longest - len(part) :] = torch.tensor(part, dtype=torch.int64)
        mask[line, longest - len(part) :] = 1
    return tokens.to(device), mask.to(device)
