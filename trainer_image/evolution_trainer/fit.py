"""Training itself: batches into an adapter, or into all weights, by one process or by several that share each step, on
one node or on several.

A training that was interrupted goes on from its newest checkpoint, with the same result to the last bit where the same
number of processes computes the same number of rows at once.
"""

import shutil
import uuid
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import JsonValue
from transformers import TrainerCallback

from evolution.plan.nodes import unshared
from evolution.plan.order import Compute
from evolution.plan.worker import ExitCode
from evolution_trainer.adapter import save_trained, trainable
from evolution_trainer.checkpoint import Checkpoints
from evolution_trainer.failure import StageFailed
from evolution_trainer.meeting import FileMeeting, Meeting
from evolution_trainer.memory import out_of_memory
from evolution_trainer.model import ModelSession
from evolution_trainer.nodes import Nodes, Terms
from evolution_trainer.optimizing import FitParameters, Plan, optimize
from evolution_trainer.preemption import Preempted, asked, deferred
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
    """How many processes of each node train together: as many as `wanted`, but each needs the same share of a batch.

    Raises:
        StageFailed: NodesCannotShare (bad spec).
    """
    if problem := unshared(batch_size, compute.nodes):
        raise StageFailed("NodesCannotShare", problem, ExitCode.BAD_SPEC)
    share = batch_size // compute.nodes
    return max(n for n in range(1, min(wanted(compute), share) + 1) if share % n == 0)


def wanted(compute: Compute) -> int:
    """As many processes of each node as asked for, or as there are GPUs."""
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
    nodes: Nodes | None = None,
) -> list[dict[str, JsonValue]]:
    """Train `adapter` (None: a fresh one) on `batches`, leave it in `scratch`/adapter, and return the log.

    Where memory runs out, half as much is computed at once from there on, and the training goes on from its newest
    checkpoint.

    Raises:
        StageFailed: LossNotFinite; ProcessLost; NodesCannotShare, NodesMissing or PeerLost.
        StageDone: another worker has committed the stage while this one waited for nodes.
        Preempted: a signal came; the steps so far are in a checkpoint.
    """
    compute = compute or Compute()
    here = processes(compute, parameters.batch_size)
    plan = Plan(
        parameters=parameters,
        batches=batches,
        adapter=adapter,
        scratch=scratch,
        node=nodes.place.node if nodes else 0,
        nodes=compute.nodes,
        processes=here * compute.nodes,
        gradient_checkpointing=compute.gradient_checkpointing,
    )
    saved = TrainingCheckpoints(checkpoints, {name: version(name) for name in LIBRARIES}) if checkpoints else None
    share, resumed = parameters.batch_size // plan.processes, scratch / "resumed"

    def offer() -> Terms:
        rows = rows_at_once(session.budget(TOKEN_BUDGET), share, batches.rows)
        return Terms(processes=here, rows_at_once=rows, checkpoint=saved.restore(resumed) if saved else "")

    while True:
        terms = nodes.agree(offer) if nodes else offer()
        rows = terms.rows_at_once
        plan = replace(plan, rows_at_once=rows, resumed=resumed if terms.checkpoint else None)
        try:
            with nodes.pulse() if nodes else nullcontext():
                if plan.node:
                    _take(terms, here, saved, resumed)
                meeting = nodes.meeting if nodes else FileMeeting(scratch / f"meeting-{uuid.uuid4().hex}", here)
                return _fit(session, plan, meeting, saved, progress, usage or Meter(), callbacks)
        except (RuntimeError, MemoryError) as error:
            if nodes:
                nodes.see_to(error)
            elif not out_of_memory(error):
                raise
            if rows == 1:
                raise MemoryError(str(error)) from error
        # A batch far below the budget would only be tried again as it was.
        while rows_at_once(session.budget(TOKEN_BUDGET), share, batches.rows) == rows:
            session.halve_budget()


def _take(terms: Terms, here: int, saved: TrainingCheckpoints | None, resumed: Path) -> None:
    """Begin where the node that leads does, with as many processes."""
    if terms.processes != here:
        raise StageFailed(
            "NodesDiffer",
            f"{here} processes of this node would train together, but {terms.processes} of node 0: give all nodes the "
            "same number of GPUs",
            1,
        )
    if terms.checkpoint and not (saved and saved.restore(resumed, terms.checkpoint)):
        message = f"node 0 goes on from checkpoint {terms.checkpoint}, which is not in the store any more"
        raise StageFailed("CheckpointLost", message, 1)


def _fit(
    session: ModelSession,
    plan: Plan,
    meeting: Meeting,
    saved: TrainingCheckpoints | None,
    progress: ReportProgress,
    usage: Meter,
    callbacks: Sequence[TrainerCallback],
) -> list[dict[str, JsonValue]]:
    parameters = plan.parameters
    with Ranks(session, plan, meeting) if plan.processes > 1 else nullcontext() as ranks:
        torch.manual_seed(seed(parameters.seed, parameters.round, "adapter"))
        with trainable(session, parameters, plan.adapter) as model:
            with deferred():
                done = optimize(model, session, plan, saved, progress, callbacks)
                if ranks:
                    ranks.ended()
            usage.tokens_in += done.tokens
            usage.flops += done.flops
            if not done.complete:
                if plan.nodes > 1 and not asked():
                    raise StageFailed(
                        "PeerLost", "the worker of another node was stopped by a signal", ExitCode.PREEMPTED
                    )
                raise Preempted
            if plan.node == 0:
                folder = plan.scratch / "adapter"
                shutil.rmtree(folder, ignore_errors=True)
                save_trained(model, folder, session)
            return done.log


def rows_at_once(budget: int, share: int, rows: Sequence[TrainingRow]) -> int:
    """Rows of one forward pass: the largest divisor of a process's share of a batch that stays under the budget."""
    longest = max(len(row.ids) for row in rows)
    most = max(1, budget // longest)
    return max(n for n in range(1, min(share, most) + 1) if share % n == 0)
