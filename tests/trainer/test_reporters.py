"""Loss and learning rate also go to TensorBoard and MLflow, and neither can fail a training."""

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stages import TRAIN, Bench, Done, pair
from tensorboardX.proto.event_pb2 import Event
from trainer.tracking_server import TrackingServer

from evolution.plan.order import Compute
from evolution_trainer import train

PAIRS = [pair(i) for i in range(8)]


def trained(bench: Bench, compute: Compute, **changes: Any) -> Done:
    stage = replace(bench.stage({**TRAIN, **changes}, pairs=bench.put(PAIRS)), compute=compute, run="telecom-1a2b3c4d")
    return Done(train.run(stage), bench.artifacts)


def events(folder: Path) -> list[Event]:
    """What all event files in the folder tell, in the order of writing."""
    found = []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def scalars(found: list[Event], tag: str) -> list[tuple[int, float]]:
    return [(event.step, value.simple_value) for event in found for value in event.summary.value if value.tag == tag]


def test_event_files_in_the_store_tell_every_step_and_the_metrics_of_the_round(bench: Bench) -> None:
    done = trained(bench, Compute(reporters=("TensorBoard",)))
    told = events(bench.folder / "store" / "runs" / "telecom-1a2b3c4d" / "tensorboard" / "r1")
    log = done.rows("log")
    assert [step for step, _ in scalars(told, "train/loss")] == [1, 2, 3]
    assert [loss for _, loss in scalars(told, "train/loss")] == pytest.approx([row["loss"] for row in log])
    assert [rate for _, rate in scalars(told, "train/learningRate")] == pytest.approx(
        [row["learningRate"] for row in log]
    )
    assert scalars(told, "round/rows") == [(3, 8)]
    assert done.result.warnings == []


def test_reporters_change_nothing_in_what_is_trained(bench: Bench) -> None:
    plain, reported = trained(bench, Compute()), trained(bench, Compute(reporters=("TensorBoard",)))
    assert [plain.digest(name) for name in plain.result.outputs] == [
        reported.digest(name) for name in reported.result.outputs
    ]


def test_mlflow_gets_parameters_every_step_and_the_metrics_of_the_round(
    bench: Bench, tracking_server: TrackingServer
) -> None:
    done = trained(bench, Compute(reporters=("MLflow",), mlflow_uri=f"{tracking_server.url}/"))
    assert tracking_server.experiments == ["telecom-1a2b3c4d"]
    [run] = tracking_server.runs
    assert (run["name"], run["status"]) == ("r1", "FINISHED")
    assert run["params"]["learningRate"] == "0.001"
    losses = [(step, loss) for name, step, loss in run["metrics"] if name == "loss"]
    assert losses == [(row["step"], row["loss"]) for row in done.rows("log")]
    assert ("round.rows", 3, 8.0) in run["metrics"]
    assert done.result.warnings == []


def test_a_training_that_was_interrupted_goes_on_with_its_mlflow_run(
    bench: Bench, tracking_server: TrackingServer
) -> None:
    compute = Compute(reporters=("MLflow",), mlflow_uri=tracking_server.url)
    trained(bench, compute)
    tracking_server.runs[0]["status"] = "RUNNING"
    trained(bench, compute)
    trained(bench, compute, seed=8)
    assert [run["status"] for run in tracking_server.runs] == ["FINISHED", "FINISHED"]
    assert len({run["tags"]["evolution.stage"] for run in tracking_server.runs}) == 2


class Killed(BaseException):
    """What ends a process leaves no time for anything."""


def test_no_step_is_missing_where_a_worker_was_killed_and_the_next_went_on(
    bench: Bench, tracking_server: TrackingServer
) -> None:
    compute = Compute(reporters=("MLflow", "TensorBoard"), mlflow_uri=tracking_server.url)
    stage = replace(bench.stage(TRAIN, pairs=bench.put(PAIRS)), compute=compute, run="telecom-1a2b3c4d")
    every_step = replace(stage, checkpoints=replace(stage.checkpoints, interval=0.0))

    def killed(phase: str, done: int, total: int, note: str = "") -> None:  # noqa: ARG001
        if done == 3:
            raise Killed

    with pytest.raises(Killed):
        train.run(replace(every_step, progress=killed))
    train.run(replace(every_step, scratch=bench.stage(TRAIN).scratch))
    told = events(bench.folder / "store" / "runs" / "telecom-1a2b3c4d" / "tensorboard" / "r1")
    assert [step for step, _ in scalars(told, "train/loss")] == [1, 2, 3]
    [run] = tracking_server.runs
    assert [step for name, step, _ in run["metrics"] if name == "loss"] == [1, 2, 3]


@pytest.mark.parametrize("path", ["experiments/search", "runs/create", "runs/log-batch", "runs/update"])
def test_a_server_that_refuses_is_a_warning_with_what_it_says(
    bench: Bench, tracking_server: TrackingServer, path: str
) -> None:
    tracking_server.refuses = path
    done = trained(bench, Compute(reporters=("MLflow", "TensorBoard"), mlflow_uri=tracking_server.url))
    assert done.metrics["steps"] == 3
    [warning] = done.result.warnings
    assert f"MLflow: {tracking_server.url} answers {path} with 507" in warning
    assert "no room" in warning
    assert (bench.folder / "store" / "runs" / "telecom-1a2b3c4d" / "tensorboard").exists()


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("http://127.0.0.1:9", "http://127.0.0.1:9 cannot be reached"),
        ("", "give one in mlflowURI of the runtime"),
        ("file:///tmp/mlruns", "'file:///tmp/mlruns' is no http(s):// address"),
        ("http://me:secret@host", "holds a user or password; give them as MLFLOW_TRACKING_USERNAME"),
    ],
)
def test_a_server_that_is_not_there_is_a_warning(bench: Bench, uri: str, why: str) -> None:
    done = trained(bench, Compute(reporters=("MLflow",), mlflow_uri=uri))
    [warning] = done.result.warnings
    assert why in warning
    assert "the training is not affected" in warning
