"""A resident worker without a process or a model: commits what an order asks for, with invented predictions.

Stands in for `evolution.local.runner.Worker` where runs on this machine are tested, and not what stages compute.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from simulated_worker import invented_manifest

from evolution.plan.manifest import Artifact, Manifest, Timings
from evolution.plan.order import Compute, Order, OrderStage
from evolution.plan.stage import Kind
from evolution.plan.worker import Committed, Event, ExitCode, Failed, OrderDone
from evolution.store.artifacts import Artifacts
from evolution.store.open import open_store

QUESTIONS = 40


@dataclass(frozen=True)
class Trained:
    """What an evaluation is about: the strategy and the seed of its adapter, and the round."""

    strategy: str
    seed: int
    round: int


@dataclass
class Invention:
    """What invented workers share: what to score, what to fail at, and what they did."""

    right: Callable[[Trained], int] = lambda trained: trained.round
    """How many of the questions the model answers right: the first ones."""
    fails: Callable[[OrderStage], str] = lambda stage: ""  # noqa: ARG005
    """Message of the failure of a stage, empty for none."""
    warns: Callable[[OrderStage], list[str]] = lambda stage: []  # noqa: ARG005
    """Warnings in the manifest of a stage."""
    workers: int = 0
    done: list[str] = field(default_factory=list)
    """Fingerprints of the stages that were computed, in order."""
    computed: list[Compute] = field(default_factory=list)
    """How the orders were to be computed."""
    adapters: dict[str, Trained] = field(default_factory=dict)
    """By digest."""


class InventedWorker:
    invention: ClassVar[Invention]

    def __init__(self, log: Path) -> None:
        self.log = log
        self.name = "invented"
        self._code = 0
        self.invention.workers += 1

    def execute(self, order: Order) -> Iterator[Event]:
        artifacts = Artifacts(open_store(order.store), Path(tempfile.gettempdir()))
        self.invention.computed.append(order.compute)
        for stage in order.stages:
            if message := self.invention.fails(stage):
                self._code = ExitCode.BAD_INPUT
                yield Failed(stage=stage.id, code=self._code, reason="Invented", message=message)
                return
            inputs = {name: source.digest or "" for name, source in stage.inputs.items()}
            manifest, _ = artifacts.commit(self._manifest(stage, inputs, artifacts, order.run))
            self.invention.done.append(manifest.fingerprint)
            yield Committed(stage=stage.id, manifest=manifest, adopted=False)
        yield OrderDone()

    def exit_code(self) -> int:
        return self._code

    def stop(self) -> list[Event]:
        return []

    def _manifest(self, stage: OrderStage, inputs: dict[str, str], artifacts: Artifacts, run: str) -> Manifest:
        trained = self.invention.adapters.get(inputs.get("adapter", "")) if stage.kind is Kind.EVALUATE else None
        right = self.invention.right(trained) if trained else 0
        made = invented_manifest(stage, inputs, lambda _: right / QUESTIONS, run)
        outputs = dict(made.outputs)
        if stage.kind is Kind.TRAIN:
            self.invention.adapters[outputs["adapter"].digest] = _trained(stage)
        if stage.kind is Kind.EVALUATE:
            outputs["predictions"] = _predictions(artifacts, right, list(made.scores))
        on_a_laptop = {"timings": Timings(total=1.0, work=1.0), "warnings": self.invention.warns(stage)}
        return made.model_copy(update={"outputs": outputs, **on_a_laptop})


def _trained(stage: OrderStage) -> Trained:
    selection = stage.parameters.get("selection")
    strategy = str(selection["strategy"]) if isinstance(selection, dict) else "None"
    return Trained(strategy, int(str(stage.parameters["seed"])), stage.round)


def _predictions(artifacts: Artifacts, right: int, metrics: list[str]) -> Artifact:
    rows = [
        {"id": f"i{n:03}", "prediction": "", "scores": dict.fromkeys(metrics, float(n < right))}
        for n in range(QUESTIONS)
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.flush()
        return artifacts.put_file(Path(file.name), len(rows))
