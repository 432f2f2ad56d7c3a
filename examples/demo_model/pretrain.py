"""Train the quickstart's language model from nothing.

    python examples/demo_model/pretrain.py --out my-model

Three phases, about 50 minutes on one CPU core: the model first learns to read and copy, then a small world by heart,
then to write questions. The model after each phase is kept in `my-model-phases/`, under a name that contains a digest
of the recipe so far; an interrupted run goes on after the last finished phase.
"""

# ruff: noqa: T201  (a program for the terminal)

import argparse
import hashlib
import math
import random
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import check
import torch
import torch.nn.functional as F  # noqa: N812
import world
from corpus import NO_LABEL, Batch, Corpus, Row, Task, document_row, to_batch
from tokenizer import LONGEST, train_tokenizer
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging as transformers_logging

REPORT_EVERY = 50
ANSWERS_PER_DOCUMENT = 6


@dataclass(frozen=True)
class Phase:
    name: str
    steps: int
    cosine_steps: int
    """Steps over which the learning rate would fall to its end; a phase may stop on the way."""
    learning_rate: float
    warmup_steps: int
    document_rows: int
    """Per step; so are the other rows."""
    questions_per_document: int
    question_weight: float
    """Weight of the loss of written questions; that of answers is 1."""
    known_rows: int
    known_per_row: int
    repeat_rows: int = 0
    short_documents_until: int = 0
    """Up to this step documents have 1 to 3 facts, and there are no known rows."""


PHASES = (
    # Copying comes first and suddenly (between steps 500 and 900); short documents and repeated words bring it on.
    Phase(
        "reading", steps=1000, cosine_steps=3500, learning_rate=3e-3, warmup_steps=150,
        document_rows=16, questions_per_document=1, question_weight=0.5,
        known_rows=4, known_per_row=7, repeat_rows=4, short_documents_until=600,
    ),
    # The known world needs many repetitions, far more than its share in the other phases.
    Phase(
        "recalling", steps=750, cosine_steps=2500, learning_rate=2e-3, warmup_steps=50,
        document_rows=8, questions_per_document=2, question_weight=1.0,
        known_rows=7, known_per_row=13,
    ),
    # All skills together, down to a learning rate of almost nothing.
    Phase(
        "asking", steps=1700, cosine_steps=1700, learning_rate=2e-3, warmup_steps=50,
        document_rows=14, questions_per_document=3, question_weight=1.0,
        known_rows=3, known_per_row=14,
    ),
)  # fmt: skip


def pretrain(out: Path, phases: Sequence[Phase], seed: int) -> None:
    """Write the model into the folder `out`, going on after the last phase that is finished."""
    tokenizer = train_tokenizer(seed)
    torch.manual_seed(seed)
    model = new_model(tokenizer)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer):,} tokens", flush=True)
    progress = Progress(phases, tokenizer, seed)
    for number, phase in enumerate(phases, start=1):
        finished = phase_folder(out, phases[:number], seed)
        if finished.is_dir():
            print(f"phase {number} ({phase.name}) is finished: {finished}", flush=True)
            model = Qwen2ForCausalLM.from_pretrained(finished, dtype=torch.float32)
        else:
            train(model, tokenizer, phase, seed, progress)
            save(model, tokenizer, finished)
        progress.phases_done = number
    save(model, tokenizer, out)


def phase_folder(out: Path, phases: Sequence[Phase], seed: int) -> Path:
    recipe = hashlib.sha256(repr((seed, tuple(phases))).encode()).hexdigest()
    return out.with_name(out.name + "-phases") / f"{len(phases)}-{phases[-1].name}-{recipe[:8]}"


def new_model(tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=LONGEST,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def train(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, phase: Phase, seed: int, progress: "Progress"
) -> None:
    """One phase: AdamW along warm-up and cosine, with an optimizer of its own."""
    corpus = Corpus(random.Random(f"{seed}-{phase.name}"), seed)
    weights = {Task.ANSWER: 1.0, Task.ASK: phase.question_weight, Task.RECALL: 1.0, Task.REPEAT: 0.3}
    optimizer = new_optimizer(model)
    unseen = unseen_documents(tokenizer)
    model.train()
    for step in range(1, phase.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(phase, step)
        batch = to_batch(tokenizer, draw_rows(corpus, phase, step), weights)
        loss = target_loss(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress.advance(batch.ids.numel())
        if step % REPORT_EVERY == 0 or step == phase.steps:
            progress.report(phase, step, loss.item(), share_exact(model, unseen))


def draw_rows(corpus: Corpus, phase: Phase, step: int) -> list[Row]:
    short = step <= phase.short_documents_until
    fewest, most = (1, 3) if short else (4, 6)
    questions = phase.questions_per_document
    rows = [corpus.document_row(fewest, most, ANSWERS_PER_DOCUMENT, questions) for _ in range(phase.document_rows)]
    if not short:
        rows += [corpus.known_row(phase.known_per_row) for _ in range(phase.known_rows)]
    rows += [corpus.repeat_row(6) for _ in range(phase.repeat_rows)]
    return rows


def learning_rate(phase: Phase, step: int) -> float:
    rise = min(1.0, step / phase.warmup_steps)
    fall = 0.5 * (1 + math.cos(math.pi * step / phase.cosine_steps))
    return phase.learning_rate * rise * (0.02 + 0.98 * fall)


def new_optimizer(model: Qwen2ForCausalLM) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def target_logits(model: Qwen2ForCausalLM, batch: Batch) -> torch.Tensor:
    """Logits where there is a label, (labels, vocabulary); the others are never needed."""
    hidden = model.model(
        input_ids=batch.ids, position_ids=batch.positions, attention_mask=batch.mask, use_cache=False
    ).last_hidden_state
    return model.lm_head(hidden[batch.labels != NO_LABEL])


def target_loss(model: Qwen2ForCausalLM, batch: Batch) -> torch.Tensor:
    """Weighted mean of the cross-entropy of all target tokens."""
    there = batch.labels != NO_LABEL
    losses = F.cross_entropy(target_logits(model, batch), batch.labels[there], reduction="none")
    weights = batch.weights[there]
    return (losses * weights).sum() / weights.sum()


@torch.no_grad()
def share_exact(model: Qwen2ForCausalLM, batch: Batch) -> float:
    """Share of the batch's questions whose whole answer the model would write greedily, 0 to 1."""
    there = batch.labels != NO_LABEL
    wrong = torch.zeros_like(there)
    wrong[there] = target_logits(model, batch).argmax(-1) != batch.labels[there]
    exact = [
        not wrong[row][batch.branch[row] == index].any()
        for row, tasks in enumerate(batch.tasks)
        for index, task in enumerate(tasks)
        if task is Task.ANSWER
    ]
    return sum(exact) / len(exact)


def unseen_documents(tokenizer: PreTrainedTokenizerBase) -> Batch:
    """Questions about documents of the held-out side, to watch copying come."""
    rng = random.Random("unseen")
    machines = world.draw_distinct_machines(rng, 48, fewest_facts=4, most_facts=6, held_out=True)
    return to_batch(tokenizer, [document_row(rng, m, ANSWERS_PER_DOCUMENT, 0) for m in machines], {Task.ANSWER: 1.0})


class Progress:
    """Prints where training stands. Work is counted in positions (tokens with padding), which cost about the same in
    all phases; steps do not."""

    def __init__(self, phases: Sequence[Phase], tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
        self._phases = phases
        self._per_step = [self._positions_of_a_step(phase, tokenizer, seed) for phase in phases]
        self.phases_done = 0
        self._positions = 0
        self._started = time.monotonic()

    @staticmethod
    def _positions_of_a_step(phase: Phase, tokenizer: PreTrainedTokenizerBase, seed: int) -> int:
        rows = draw_rows(Corpus(random.Random(0), seed), phase, phase.steps)
        return to_batch(tokenizer, rows, dict.fromkeys(Task, 1.0)).ids.numel()

    def advance(self, positions: int) -> None:
        self._positions += positions

    def report(self, phase: Phase, step: int, loss: float, open_book: float) -> None:
        here = self.phases_done
        left = (phase.steps - step) * self._per_step[here]
        left += sum(p.steps * n for p, n in zip(self._phases[here + 1 :], self._per_step[here + 1 :], strict=True))
        pace = self._positions / (time.monotonic() - self._started)
        print(
            f"phase {here + 1}/{len(self._phases)} {phase.name}  step {step}/{phase.steps}  loss {loss:.3f}  "
            f"open book {open_book:.3f}  {pace:,.0f} tokens/s  about {left / pace / 60:.0f} min left",
            flush=True,
        )


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """The whole model folder, or none of it."""
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the model; replaced if it exists")
    parser.add_argument("--seed", type=int, default=7, help="seed of the texts and of the first weights (default 7)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers_logging.disable_progress_bar()
    pretrain(arguments.out, PHASES, arguments.seed)
    if not check.report(arguments.out):
        sys.exit("The model does not pass; quickstart runs will score lower with it.")


if __name__ == "__main__":
    main()
