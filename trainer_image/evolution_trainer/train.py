"""The stage `Train`: this round's pairs and a selection of earlier ones become the next adapter.

Optimizer and learning-rate schedule start afresh every round; the adapter goes on from where it was.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from evolution.api.run import Preset, Strategy
from evolution.plan.manifest import Record
from evolution.plan.worker import ExitCode
from evolution_trainer.adapter import AdapterParameters, check_variant, save_trained, trainable
from evolution_trainer.card import model_card
from evolution_trainer.failure import StageFailed
from evolution_trainer.model import ModelSession
from evolution_trainer.rows import Row, read_rows
from evolution_trainer.seeds import seed
from evolution_trainer.selection import select, select_as_reference
from evolution_trainer.stage import Output, ReportProgress, Result, StageRun
from evolution_trainer.training_rows import Batches, TrainingRow, collate, tokenised

TOKEN_BUDGET = {"cpu": 8192, "cuda": 16_384}
"""Tokens of one forward and backward pass, padding included; a larger optimizer step is accumulated from several."""
LOWEST_RATE = {"Default": 0.1, "Reference": 0.0}
"""Where the cosine ends, as a share of the peak learning rate."""


class Choice(Record):
    """`spec.selection`."""

    strategy: Strategy
    size: int
    max_ifd: float | None = None


class Length(Record):
    """Optimizer steps, or passes over the rows."""

    steps: int | None = None
    epochs: float = 1.0


class TrainParameters(AdapterParameters):
    seed: int
    round: int
    rules: Preset
    learning_rate: float
    warmup_ratio: float
    batch_size: int
    max_tokens: int
    length: Length
    selection: Choice | None = None


def run(stage: StageRun) -> Result:
    """Inputs: pairs, [pairs.N, scores.N]..., model[, adapter]. Outputs: adapter, log, selection, card.

    Raises:
        StageFailed: NoRows, LossNotFinite, or what is wrong with the adapter's settings.
    """
    parameters = TrainParameters.model_validate(stage.parameters)
    warnings = check_variant(parameters, stage.compute)
    history = chosen_history(stage, parameters, warnings)
    with stage.rows_out("selection") as selection:
        for round_, row in history:
            selection({"id": row["id"], "round": round_})
    pairs = [*read_rows(stage.input("pairs")), *(row for _, row in history)]
    rows, dropped = tokenised(pairs, stage.session, parameters.max_tokens, parameters.rules)
    if dropped:
        warnings.append(
            f"{dropped} of {len(pairs)} training rows are longer than training.maxTokens ({parameters.max_tokens}) "
            "and left out"
        )
    if not rows:
        raise StageFailed("NoRows", f"none of {len(pairs)} pairs is left to train on; raise training.maxTokens")

    length, order = parameters.length, seed(parameters.seed, parameters.round, "order")
    batches = Batches.shuffled(rows, parameters.batch_size, length.steps, length.epochs, order)
    adapter = stage.artifacts.fetch_tree(stage.inputs["adapter"]) if "adapter" in stage.inputs else None
    with stage.rows_out("log") as log:
        steps = fit(stage.session, parameters, batches, adapter, stage.scratch, stage.progress)
        for step in steps:
            log(step)
    losses = [float(str(step["loss"])) for step in steps]
    last = losses[-10:]
    metrics: dict[str, JsonValue] = {
        "steps": len(steps),
        "loss": round(sum(last) / len(last), 6),
        "firstLoss": round(losses[0], 6),
        "rows": len(rows),
        "history": len(history),
        "tokens": sum(len(row.ids) for row in rows),
    }
    card = stage.scratch / "README.md"
    card.write_text(model_card(stage.round, stage.parameters, stage.inputs, metrics), encoding="utf-8")
    return Result(
        outputs={
            "adapter": Output(stage.scratch / "adapter"),
            "log": Output(stage.scratch / "log.jsonl", log.count),
            "selection": Output(stage.scratch / "selection.jsonl", selection.count),
            "card": Output(card),
        },
        metrics=metrics,
        warnings=warnings,
    )


def chosen_history(stage: StageRun, parameters: TrainParameters, warnings: list[str]) -> list[tuple[int, Row]]:
    """Pairs of earlier rounds to train again, each with its round."""
    choice = parameters.selection
    if choice is None:
        return []
    rounds = sorted(int(name.removeprefix("pairs.")) for name in stage.inputs if name.startswith("pairs."))
    pool = [(round_, row) for round_ in rounds for row in read_rows(stage.input(f"pairs.{round_}"))]
    scores = [score for round_ in rounds for score in _scores(stage, round_)] or [None] * len(pool)
    drawn = seed(parameters.seed, parameters.round, "selection")
    if parameters.rules == "Reference":
        chosen = select_as_reference(choice.strategy, scores, choice.size, seed=drawn)
    else:
        chosen = select(choice.strategy, scores, choice.size, seed=drawn, max_ifd=choice.max_ifd)
    if choice.strategy not in ("None", "All") and len(chosen) < choice.size:
        warnings.append(
            f"selection.size asks for {choice.size} pairs of earlier rounds, {len(chosen)} can be had "
            f"({len(pool)} in all); all of them are used"
        )
    return [pool[i] for i in chosen]


def _scores(stage: StageRun, round_: int) -> list[float | None]:
    name = f"scores.{round_}"
    return [row["ifd"] for row in read_rows(stage.input(name))] if name in stage.inputs else []


def fit(
    session: ModelSession,
    parameters: TrainParameters,
    batches: Batches,
    adapter: Path | None,
    scratch: Path,
    progress: ReportProgress,
) -> list[dict[str, JsonValue]]:
    """Train `adapter` (None: a fresh one) on `batches`, leave it in `scratch`/adapter, and return the log.

    A GPU that runs out of memory halves what is computed at once and the training starts again.
    """
    while True:
        try:
            torch.manual_seed(seed(parameters.seed, parameters.round, "adapter"))
            with trainable(session, parameters, adapter) as model:
                log = _train(model, session, parameters, batches, scratch, progress)
                save_trained(model, scratch / "adapter", session.digest)
                return log
        except torch.OutOfMemoryError:
            if _micro_batch(session, parameters.batch_size, batches.rows) == 1:
                raise
            session.halve_budget()


def _train(
    model: Any,
    session: ModelSession,
    parameters: TrainParameters,
    batches: Batches,
    scratch: Path,
    progress: ReportProgress,
) -> list[dict[str, JsonValue]]:
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable > 0, "the adapter is frozen"
    micro = _micro_batch(session, parameters.batch_size, batches.rows)
    watcher = StepWatcher(progress, batches.steps, parameters.learning_rate)
    arguments = TrainingArguments(
        output_dir=str(scratch / "trainer"),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=parameters.batch_size // micro,
        max_steps=batches.steps,
        train_sampling_strategy="sequential",
        optim="adamw_torch",
        learning_rate=parameters.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": LOWEST_RATE[parameters.rules]},
        warmup_steps=math.ceil(batches.steps * parameters.warmup_ratio),
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=seed(parameters.seed, parameters.round, "training") % 2**32,
        bf16=session.device.type == "cuda",
        use_cpu=session.device.type == "cpu",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=session.device.type == "cuda",
    )
    arguments._n_gpu = 1  # with more, Trainer would multiply the batch size by their number
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=batches,
        data_collator=lambda chosen: collate(chosen, session.pad_token),
        callbacks=[watcher],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    assert trainer.state.global_step == batches.steps, (trainer.state.global_step, batches.steps)
    return watcher.log


def _micro_batch(session: ModelSession, batch_size: int, rows: Sequence[TrainingRow]) -> int:
    """Rows of one forward pass: the largest divisor of the batch size that stays under the token budget."""
    longest = max(len(row.ids) for row in rows)
    most = max(1, session.budget(TOKEN_BUDGET) // longest)
    return max(n for n in range(1, min(batch_size, most) + 1) if batch_size % n == 0)


class StepWatcher(TrainerCallback):
    """Keeps loss and learning rate of every optimizer step, and ends a training whose loss is no number."""

    def __init__(self, progress: ReportProgress, steps: int, learning_rate: float) -> None:
        self.log: list[dict[str, JsonValue]] = []
        self._progress = progress
        self._steps = steps
        self._learning_rate = learning_rate

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any) -> None:  # noqa: ARG002
        logs: Mapping[str, float] = event["logs"]
        if "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise StageFailed(
                "LossNotFinite",
                f"the loss of training step {state.global_step} of {self._steps} is {loss}: "
                f"training.learningRate {self._learning_rate:g} is too high for this model",
                ExitCode.BAD_SPEC,
            )
        self.log.append({"step": state.global_step, "loss": loss, "learningRate": float(logs["learning_rate"])})
        self._progress("steps", state.global_step, self._steps, f"loss {loss:.3f}")
