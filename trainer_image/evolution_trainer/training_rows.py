"""Pairs as token ids for training, and the order in which they are fed."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from evolution.api.run import Preset
from evolution_trainer.model import ModelSession
from evolution_trainer.rows import Row

IGNORED = -100
"""Label of a token that the loss leaves out."""
SORTED_TOGETHER = 16
"""Batches whose rows are sorted by length among themselves, so that little is padded and much stays random."""


@dataclass(frozen=True)
class TrainingRow:
    """A question in the model's chat format and its answer; the loss counts the tokens from `start` on."""

    ids: torch.Tensor
    """[tokens], int32."""
    start: int


def tokenised(
    pairs: Iterable[Row], session: ModelSession, max_tokens: int, rules: Preset
) -> tuple[list[TrainingRow], int]:
    """Rows of at most `max_tokens`, and how many pairs were longer.

    Under the rules `Default` a longer pair is left out: cut, it would teach to stop in the middle. Under `Reference`
    question and answer are cut in proportion to their lengths.
    """
    chat = session.chat
    rows: list[TrainingRow] = []
    dropped = 0
    for pair in pairs:
        if rules == "Reference":
            # The published code fills its template in a way that turns this text of a question into the turn's number.
            question = pair["question"].replace("{{idx}}", "0")
            prompt, answer = chat.joint_prompt(question), [*chat.joint(pair["answer"]), *chat.end]
            room = max(1, max_tokens * len(answer) // (len(prompt) + len(answer)))
            prompt, answer = prompt[: max_tokens - room], answer[:room]
        else:
            prompt, answer = chat.prompt(pair["question"]), [*chat.plain(pair["answer"]), *chat.end]
        if len(prompt) + len(answer) > max_tokens:
            dropped += 1
            continue
        rows.append(TrainingRow(torch.tensor([*prompt, *answer], dtype=torch.int32), len(prompt)))
    return rows, dropped


@dataclass(frozen=True)
class Batches(Dataset[TrainingRow]):
    """`rows` in the order of training: batch after batch of `batch_size`."""

    rows: Sequence[TrainingRow]
    order: Sequence[int]
    steps: int

    @classmethod
    def shuffled(
        cls, rows: Sequence[TrainingRow], batch_size: int, steps: int | None, epochs: float, seed: int
    ) -> "Batches":
        """One random permutation of the rows after another, for so many optimizer `steps`, or else `epochs` passes."""
        total = steps * batch_size if steps else max(1, math.ceil(len(rows) * epochs))
        random = np.random.default_rng(seed)
        passes = [random.permutation(len(rows)) for _ in range(math.ceil(total / len(rows)))]
        order = np.concatenate(passes)[:total]
        lengths = np.array([len(row.ids) for row in rows])
        chunks = [order[i : i + SORTED_TOGETHER * batch_size] for i in range(0, total, SORTED_TOGETHER * batch_size)]
        grouped = np.concatenate([_grouped(chunk, lengths, batch_size, random) for chunk in chunks])
        return cls(rows, grouped.tolist(), math.ceil(total / batch_size))

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> TrainingRow:
        return self.rows[self.order[position]]


def _grouped(chunk: np.ndarray, lengths: np.ndarray, batch_size: int, random: np.random.Generator) -> np.ndarray:
    """`chunk` as batches of similar length in random order; a last batch that is not full stays last."""
    by_length = chunk[np.argsort(lengths[chunk], kind="stable")]
    full = len(chunk) // batch_size
    batches = by_length[: full * batch_size].reshape(full, batch_size)
    return np.concatenate([batches[random.permutation(full)].ravel(), by_length[full * batch_size :]])


def collate(rows: Sequence[TrainingRow], pad: int) -> dict[str, torch.Tensor]:
    """Rows padded on the right: `input_ids` and `labels`, [rows, longest]. Causal models need no mask for that."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    labels = torch.full((len(rows), longest), IGNORED)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = row.ids
        labels[i, row.start : len(row.ids)] = row.ids[row.start :]
    return {"input_ids": ids, "labels": labels}
