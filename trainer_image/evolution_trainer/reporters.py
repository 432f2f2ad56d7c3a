"""Where loss and learning rate of a training are also sent, step by step. None of it can fail a training: what cannot
be reached is a warning.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import JsonValue
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from evolution.plan.stage import Kind, fingerprint
from evolution.store import keys
from evolution_trainer.event_files import EventFiles
from evolution_trainer.mlflow import Experiment, MLflowRun
from evolution_trainer.stage import StageRun


class Sink(Protocol):
    """One place. Whatever it raises makes it the last time that it is told something."""

    def begin(self, step: int) -> None:
        """A training goes on after `step` steps: what was told of later ones does not count."""
        ...

    def step(self, step: int, values: Mapping[str, float]) -> None: ...

    def saved(self) -> None:
        """The steps so far are in a checkpoint: who goes on from there tells nothing of them."""
        ...

    def end(self, metrics: Mapping[str, float]) -> None: ...


@dataclass
class Reporting(TrainerCallback):
    """Tells all sinks, and keeps what went wrong with them."""

    sinks: dict[str, Sink]
    """By the name that people know."""
    warnings: list[str] = field(default_factory=list)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        self._tell(lambda sink: sink.begin(state.global_step))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **event: Any) -> None:  # noqa: ARG002
        logs: Mapping[str, float] = event["logs"]
        if "loss" in logs:
            values = {"loss": float(logs["loss"]), "learningRate": float(logs["learning_rate"])}
            self._tell(lambda sink: sink.step(state.global_step, values))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        self._tell(lambda sink: sink.saved())

    def finished(self, metrics: Mapping[str, JsonValue]) -> list[str]:
        """The training is done, with these metrics in its manifest; what people should know of the reporters."""
        numbers = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
        self._tell(lambda sink: sink.end(numbers))
        return self.warnings

    def _tell(self, what: Callable[[Sink], None]) -> None:
        for name, sink in list(self.sinks.items()):
            try:
                what(sink)
            except Exception as error:  # whatever a library or a server comes up with
                del self.sinks[name]
                self.warnings.append(
                    f"training.reporters {name}: {error}; nothing more was sent, the training is not affected"
                )


def reporting(stage: StageRun) -> Reporting:
    """What `spec.training.reporters` asks for; opened when the training begins."""
    sinks: dict[str, Sink] = {}
    for name in stage.compute.reporters:
        if name == "TensorBoard":
            prefix = keys.tensorboard(stage.run, stage.round)
            clock = stage.checkpoints.clock
            sinks[name] = EventFiles(stage.scratch / "tensorboard", stage.artifacts.store, prefix, clock)
        else:
            sinks[name] = MLflowRun(
                Experiment(stage.compute.mlflow_uri, stage.run),
                name=f"r{stage.round}",
                identity=fingerprint(Kind.TRAIN, stage.parameters, stage.inputs),
                parameters=stage.parameters,
            )
    return Reporting(sinks)
