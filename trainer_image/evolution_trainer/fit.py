"""Training itself: batches into an adapter, or into all weights, by one process or by several that share each step.

A training that was interrupted goes on from its newest checkpoint, with the same result to the last bit where the same
number of processes computes the same number of rows at once.
"""

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import JsonValue
from transformers import TrainerCallback

from evolution.plan.order import Compute
from evolution_trainer.adapter import save_trained, trainable
from evolution_trainer.checkpoint import Checkpoints
from evolution_trainer.memory import out_of_memory
from evolution_trainer.model import ModelSession
from evolution_trainer.optimizing import FitParameters, Plan, optimize
from evolution_trainer.preemption import Preempted, deferred
from evolution_trainer.ranks import Ranks
from evolution_trainer.seeds import seed
from evolution_trainer.stage import ReportProgress
from evolution_trainer.training_checkpoint import TrainingCheckpoints
from evolution_trainer.training_rows import Batches, TrainingRow
from evolution_trainer.usage import Meter

TOKEN_BUDGET = {"cpu": 2048, "cuda": 16_384}
"""Tokens of one forward and backward pass, padding included; a larger optimizer step is accumulated from several. A CPU
gains nothing from more at once, and fewer rows, being neighbours in length, are padded less.
"""
LIBRARIES = ("torch", "transformers", "peft", "accelerate")
"""A checkpoint is read by the versions that wrote it."""


def processes(compute: Compute, batch_size: int) -> int:
    """How many processes train together: as many as `wanted`, but each needs the same share of a batch."""
    return max(n for n in range(1, min(wanted(compute), batch_size) + 1) if batch_size % n == 0)


def wanted(compute: Compute) -> int:
    """As many processes as asked for, or as there are GPUs."""
    return compute.processes or max(1, torch.cuda.device_count())


def fit(
    session: ModelSession,
    parameters: FitParameters,
    batches: Batches,
    adapter: Path | None,
    scratch: Path,
    progress: ReportProgress,
    callbacks: Sequence[TrainerCallback] = (),
    *,
    compute: Compute | None = None,
    checkpoints: Checkpoints | None = None,
    usage: Meter | None = None,
) -> list[dict[str, JsonValue]]:
    """Train `adapter` (None: a fresh one) on `batches`, leave it in `scratch`/adapter, and return the log.

    Where memory runs out, half as much is computed at once from there on, and the training goes on from its newest
    checkpoint.

    Raises:
        StageFailed: LossNotFinite; ProcessLost.
        Preempted: a signal came; the steps so far are in a checkpoint.
    """
    compute = compute or Compute()
    plan = Plan(
        parameters=parameters,
        batches=batches,
        adapter=adapter,
        scratch=scratch,
        processes=processes(compute, parameters.batch_size),
        gradient_checkpointing=compute.gradient_checkpointing,
    )
    saved = TrainingCheckpoints(checkpoints, {name: version(name) for name in LIBRARIES}) if checkpoints else None
    share = parameters.batch_size // plan.processes
    while True:
        rows = rows_at_once(session.budget(TOKEN_BUDGET), share, batches.rows)
        resumed = scratch / "resumed"
        plan = replace(plan, rows_at_once=rows, resumed=resumed if saved and saved.restore(resumed) else None)
        try:
            return _fit(session, plan, saved, progress, usage or Meter(), callbacks)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if rows == 1:
                raise MemoryError(str(error)) from error
        # A batch far below the budget would only be tried again as it was.
        while rows_at_once(session.budget(TOKEN_BUDGET), share, batches.rows) == rows:
            session.halve_budget()


def _fit(
    session: ModelSession,
    plan: Plan,
    saved: TrainingCheckpoints | None,
    progress: ReportProgress,
    usage: Meter,
    callbacks: Sequence[TrainerCallback],
) -> list[dict[str, JsonValue]]:
    parameters = plan.parameters
    with Ranks(session, plan) if plan.processes > 1 else nullcontext() as ranks:
        torch.manual_seed(seed(parameters.seed, parameters.round, "adapter"))
        with trainable(session, parameters, plan.adapter) as model:
            with deferred():
                done = optimize(model, session, plan, saved, progress, callbacks)
                if ranks:
                    ranks.ended()
            usage.tokens_in += done.tokens
            usage.flops += done.flops
            if not done.complete:
                raise Preempted
            folder = plan.scratch / "adapter"
            shutil.rmtree(folder, ignore_errors=True)
            save_trained(model, folder, session)
            return done.log


def rows_at_once(budget: int, share: int, rows: Sequence[TrainingRow]) -> int:
    """Rows of one forward pass: the largest divisor of a process's share of a batch that stays under the budget."""
    longest = max(len(row.ids) for row in rows)
    most = max(1, budget // longest)
    return max(n for n in range(1, min(share, most) + 1) if share % n == 0)
