"""What every round has come to, on an MLflow tracking server: one MLflow run of the whole evolution, a step a round."""

import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

from evolution.plan.manifest import Manifest
from evolution.plan.order import Order
from evolution.plan.stage import Kind
from evolution_trainer.mlflow import Experiment, metrics

EVOLUTION = "evolution.run"
"""Tag with the id of the evolution that an MLflow run tells of."""
TOLD = frozenset({Kind.GENERATE, Kind.SCORE, Kind.TRAIN, Kind.EVALUATE})


class RoundFigures:
    """Told of stages once they are committed; what goes wrong is a line in the log, and the last that is tried."""

    def __init__(self, order: Order) -> None:
        wanted = "MLflow" in order.compute.reporters
        self._experiment = Experiment(order.compute.mlflow_uri, order.run) if wanted else None
        self._name = order.run
        self._run = ""

    def committed(self, manifest: Manifest) -> None:
        if self._experiment is None or manifest.kind not in TOLD:
            return
        try:
            self._run = self._run or self._adopted(self._experiment)
            self._experiment.log(self._run, metrics=metrics(manifest.round, figures(manifest)))
            self._experiment.finish(self._run)
        except Exception as error:  # whatever a server comes up with
            self._experiment = None
            print(  # noqa: T201
                f"training.reporters MLflow: {error}; no more figures are sent, the stages are not affected",
                file=sys.stderr,
            )

    def _adopted(self, experiment: Experiment) -> str:
        """Id of the MLflow run that tells of this evolution: of two that workers make at once, the older one."""
        if found := experiment.find(EVOLUTION, self._name, running=False):
            return found
        created = experiment.create(self._name, EVOLUTION, self._name)
        return experiment.find(EVOLUTION, self._name, running=False) or created


def figures(manifest: Manifest) -> dict[str, float]:
    """By name: what came out, and the GPU-seconds that it took, by class."""
    timings = manifest.timings
    classes = {
        "productive": timings.work,
        "cold_start_model": timings.load,
        "io": timings.io,
        "checkpoint": timings.checkpoint,
        "idle": timings.idle,
    }
    spent = {f"gpuSeconds.{manifest.kind}.{name}": seconds * timings.gpus for name, seconds in classes.items()}
    return {**_came_out(manifest), **spent}


def _came_out(manifest: Manifest) -> dict[str, float]:
    told: Mapping[str, Any] = manifest.metrics
    match manifest.kind:
        case Kind.GENERATE:
            rejects = Counter(told["rejects"]["question"]) + Counter(told["rejects"]["answer"])
            return {
                "pairs": told["pairs"],
                "coverage": told["coverage"]["covered"] / told["coverage"]["documents"],
                **{f"rejects.{reason}": count for reason, count in sorted(rejects.items())},
            }
        case Kind.SCORE:
            return {"ifd": told["ifd"]["0.5"]} if told["ifd"] else {}
        case Kind.TRAIN:
            return {"loss": told["loss"]}
        case _:
            return {f"score.{metric}": mean for metric, mean in manifest.scores.items()}
