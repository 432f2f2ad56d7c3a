"""The optimizer's steps: the Trainer of transformers, told what to compute, when to save and when to stop."""

import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import JsonValue
from safetensors.torch import load_file, save_file
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from evolution.api.run import Preset
from evolution.plan.worker import ExitCode
from evolution_trainer import preemption
from evolution_trainer.adapter import AdapterParameters
from evolution_trainer.exchange import anywhere, collect_random_states
from evolution_trainer.failure import StageFailed
from evolution_trainer.model import ModelSession
from evolution_trainer.seeds import seed
from evolution_trainer.stage import ReportProgress
from evolution_trainer.training_checkpoint import TrainingCheckpoints
from evolution_trainer.training_rows import IGNORED, Batches, TrainingRow, collate

LOWEST_RATE = {"Default": 0.1, "Reference": 0.0}
"""Where the cosine ends, as a share of the peak learning rate."""
TRAINED = "trained.safetensors"
"""File of a checkpoint with the weights that are trained, by their names in the model."""


class FitParameters(AdapterParameters):
    """What decides how rows become weights."""

    seed: int
    round: int
    rules: Preset
    learning_rate: float
    warmup_ratio: float
    batch_size: int


@dataclass(frozen=True)
class Plan:
    """A training, the same for every process that takes part."""

    parameters: FitParameters
    batches: Batches
    adapter: Path | None
    scratch: Path
    node: int = 0
    nodes: int = 1
    processes: int = 1
    """Of all nodes."""
    rows_at_once: int = 1
    """Of one process; divides its share of a batch."""
    gradient_checkpointing: bool = False
    resumed: Path | None = None
    """Folder with the checkpoint to go on from."""

    @property
    def processes_here(self) -> int:
        """Of each node."""
        return self.processes // self.nodes


@dataclass(frozen=True)
class Optimized:
    log: list[dict[str, JsonValue]]
    """Loss and learning rate of every step, also of those before an interruption."""
    complete: bool
    """False after a signal."""
    tokens: int
    """Fed to the model in these steps, padding not included, by all processes together."""
    flops: float


def optimize(
    model: Any,
    session: ModelSession,
    plan: Plan,
    saved: TrainingCheckpoints | None,
    progress: ReportProgress,
    callbacks: Sequence[TrainerCallback] = (),
) -> Optimized:
    """Train `model` until all batches were fed, or a signal came and the step was saved.

    Raises:
        StageFailed: LossNotFinite.
    """
    steps, trainer = plan.batches.steps, AnswerTrainer(model, session, plan, saved)
    trainer.add_callback(StepWatcher(progress, plan, saved))
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=str(plan.resumed) if plan.resumed else None)
    if plan.nodes > 1:
        dist.barrier()  # one that was lost in the last step is found missing here
    done = trainer.state.global_step
    assert done == steps or preemption.asked() or plan.processes > 1, (done, steps)
    size = plan.parameters.batch_size
    fed = plan.batches.order[trainer.first_step * size : done * size]
    tokens = sum(len(plan.batches.rows[row].ids) for row in fed)
    log: list[dict[str, JsonValue]] = [
        {"step": entry["step"], "loss": entry["loss"], "learningRate": entry["learning_rate"]}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    return Optimized(log, done == steps, tokens, tokens * flops_per_token(model))


def flops_per_token(model: Any) -> float:
    """Forward and backward: four per frozen weight, which needs no gradient of its own, and six per trained one.

    A table that is only looked into counts nothing.
    """
    table = model.get_input_embeddings().weight
    looked_into = 0 if table is model.get_output_embeddings().weight else table.numel()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return 6.0 * trained + 4.0 * (model.num_parameters() - trained - looked_into)


class AnswerTrainer(Trainer):
    """Computes logits where the loss counts, and nowhere else; a checkpoint holds what is trained, and nothing else."""

    def __init__(self, model: Any, session: ModelSession, plan: Plan, saved: TrainingCheckpoints | None) -> None:
        assert any(p.requires_grad for p in model.parameters()), "nothing is trainable"
        self.first_step = 0
        self._saved = saved
        self._counted = torch.empty(0, dtype=torch.long)
        pad = session.pad_token
        super().__init__(
            model=model,
            args=_arguments(session, plan),
            train_dataset=_filled(plan) if plan.processes > 1 else plan.batches,
            data_collator=lambda rows: collate(rows, pad),
        )
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = True  # counts the tokens of a whole step, for `compute_loss` to divide by
        self.loss_is_scaled_for_ga = True

    def train(self, *args: Any, **kwargs: Any) -> Any:
        hook = self.model.get_output_embeddings().register_forward_pre_hook(self._states_that_count)
        try:
            return super().train(*args, **kwargs)
        finally:
            hook.remove()

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,  # noqa: ARG002
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        ids, labels = inputs["input_ids"], inputs["labels"].roll(-1, dims=1)
        labels[:, -1] = IGNORED
        self._counted = (labels != IGNORED).flatten().nonzero().squeeze(1)
        logits = model(input_ids=ids, use_cache=False).logits
        wanted = labels.flatten()[self._counted]
        assert logits.shape[:2] == (1, len(wanted)), "the model's output does not come from its head"
        loss = torch.nn.functional.cross_entropy(logits[0].float(), wanted, reduction="sum") / num_items_in_batch
        # The gradients of several processes are averaged; the tokens were counted over all of them.
        return loss * self.accelerator.num_processes

    def _states_that_count(self, _head: torch.nn.Module, states: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        """Hidden states [rows, tokens, width] become [1, counted tokens, width]."""
        return (states[0].flatten(0, 1).index_select(0, self._counted).unsqueeze(0),)

    def floating_point_ops(self, inputs: dict[str, torch.Tensor | Any]) -> int:  # noqa: ARG002
        return 0  # the original asks every parameter for its size, every time

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step, device = self.state.global_step, self.args.device
        folder = Path(str(self.args.output_dir), f"checkpoint-{step}")
        with self._saved.checkpoints.clock.checkpointing() if self._saved else nullcontext():
            super()._save_checkpoint(model, trial)
            if dist.is_initialized():
                collect_random_states(folder, device)
            mine = self._saved if self.is_world_process_zero() else None
            [kept] = anywhere(mine is not None and mine.save(folder, step), device=device)
        if self._saved:
            self._saved.tried(kept)
        if self.is_local_process_zero() and not self.is_world_process_zero():
            shutil.rmtree(folder)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        assert output_dir is not None
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        weights = {name: p.detach().cpu().contiguous() for name, p in self._trained()}
        save_file(weights, Path(output_dir, TRAINED))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:  # noqa: ARG002
        weights = load_file(Path(resume_from_checkpoint, TRAINED))
        with torch.no_grad():
            for name, parameter in self._trained():
                parameter.copy_(weights[name])

    def _trained(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        done: tuple[int, int] = super()._init_training_state(*args, **kwargs)
        self.first_step = self.state.global_step
        return done


def _filled(plan: Plan) -> Batches:
    """The batches, the last one made full with rows in which nothing counts: every process gets the same share."""
    batches, blank = plan.batches, TrainingRow(torch.zeros(1, dtype=torch.int32), 1)
    missing = batches.steps * plan.parameters.batch_size - len(batches)
    return Batches([*batches.rows, blank], [*batches.order, *[len(batches.rows)] * missing], batches.steps)


def _arguments(session: ModelSession, plan: Plan) -> TrainingArguments:
    parameters, on_gpu = plan.parameters, session.device.type == "cuda"
    arguments = TrainingArguments(
        output_dir=str(plan.scratch / "trainer"),
        per_device_train_batch_size=plan.rows_at_once,
        gradient_accumulation_steps=parameters.batch_size // plan.rows_at_once // plan.processes,
        max_steps=plan.batches.steps,
        train_sampling_strategy="sequential",
        optim="adamw_torch",
        learning_rate=parameters.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": LOWEST_RATE[parameters.rules]},
        warmup_steps=math.ceil(plan.batches.steps * parameters.warmup_ratio),
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=seed(parameters.seed, parameters.round, "training") % 2**32,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        gradient_checkpointing=plan.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",  # `StepWatcher` asks for it
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=on_gpu,
    )
    if plan.processes == 1:
        arguments._n_gpu = 1  # with more, Trainer would multiply the batch size by their number
    return arguments


class StepWatcher(TrainerCallback):
    """Tells how far the training is, ends one that comes to no number, asks for checkpoints, and stops at a signal."""

    def __init__(self, progress: ReportProgress, plan: Plan, saved: TrainingCheckpoints | None) -> None:
        self._progress = progress
        self._plan = plan
        self._saved = saved

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        if state.global_step:
            self._progress("steps", state.global_step, self._plan.batches.steps, "going on from a checkpoint")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        stop = preemption.asked()
        save = self._saved is not None and (stop or (self._saved.due and state.global_step < state.max_steps))
        # All do the same after the same step; the processes that a signal does not reach have nothing to say.
        stop, save = anywhere(stop, save, device=args.device)
        control.should_save |= save
        control.should_training_stop |= stop

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any) -> None:  # noqa: ARG002
        logs: Mapping[str, float] = event["logs"]
        if "loss" not in logs:
            return
        loss, steps = float(logs["loss"]), self._plan.batches.steps
        for what, value in (("loss", loss), ("gradient", float(logs["grad_norm"]))):
            if not math.isfinite(value):
                raise StageFailed(
                    "LossNotFinite",
                    f"the {what} of training step {state.global_step} of {steps} is {value}: training.learningRate "
                    f"{self._plan.parameters.learning_rate:g} is too high for this model",
                    ExitCode.BAD_SPEC,
                )
        self._progress("steps", state.global_step, steps, f"loss {loss:.3f}")
