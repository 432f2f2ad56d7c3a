"""Loss and learning rate also go to TensorBoard and MLflow, and neither can fail a training."""

import json
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from stages import TRAIN, Bench, Done, pair
from tensorboardX.proto.event_pb2 import Event

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


@dataclass
class TrackingServer:
    """What MLflow's REST API keeps, for one experiment."""

    url: str = ""
    experiments: list[str] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    refuses: str = ""
    """Path that is answered with an error."""

    def answer(self, path: str, message: dict[str, Any]) -> dict[str, Any]:
        match path:
            case "experiments/search":
                wanted = message["filter"].removeprefix("name = ").strip("'")
                return {"experiments": [{"experiment_id": "7"}]} if wanted in self.experiments else {}
            case "experiments/create":
                self.experiments.append(message["name"])
                return {"experiment_id": "7"}
            case "runs/search":
                open_ = [
                    run for run in self.runs if run["status"] == "RUNNING" and run["identity"] in message["filter"]
                ]
                return {"runs": [{"info": {"run_id": run["id"]}} for run in open_]}
            case "runs/create":
                identity = message["tags"][0]["value"]
                run = {"id": f"run{len(self.runs)}", "name": message["run_name"], "identity": identity}
                self.runs.append({**run, "status": "RUNNING", "params": {}, "metrics": []})
                return {"run": {"info": {"run_id": run["id"]}}}
            case "runs/log-batch":
                run = self.run(message["run_id"])
                run["params"] |= {each["key"]: each["value"] for each in message.get("params", [])}
                run["metrics"] += [(each["key"], each["step"], each["value"]) for each in message.get("metrics", [])]
            case "runs/update":
                self.run(message["run_id"])["status"] = message["status"]
            case _:
                raise AssertionError(path)
        return {}

    def run(self, id_: str) -> dict[str, Any]:
        return next(run for run in self.runs if run["id"] == id_)


@pytest.fixture
def server() -> Iterator[TrackingServer]:
    kept = TrackingServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            path = self.path.removeprefix("/api/2.0/mlflow/")
            refused = path == kept.refuses
            body = b'{"message": "no room"}' if refused else json.dumps(kept.answer(path, message)).encode()
            self.send_response(507 if refused else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    kept.url = f"http://127.0.0.1:{http.server_port}"
    yield kept
    http.shutdown()
    thread.join()
    http.server_close()


def test_mlflow_gets_parameters_every_step_and_the_metrics_of_the_round(bench: Bench, server: TrackingServer) -> None:
    done = trained(bench, Compute(reporters=("MLflow",), mlflow_uri=f"{server.url}/"))
    assert server.experiments == ["telecom-1a2b3c4d"]
    [run] = server.runs
    assert (run["name"], run["status"]) == ("r1", "FINISHED")
    assert run["params"]["learningRate"] == "0.001"
    losses = [(step, loss) for name, step, loss in run["metrics"] if name == "loss"]
    assert losses == [(row["step"], row["loss"]) for row in done.rows("log")]
    assert ("round.rows", 3, 8.0) in run["metrics"]
    assert done.result.warnings == []


def test_a_training_that_was_interrupted_goes_on_with_its_mlflow_run(bench: Bench, server: TrackingServer) -> None:
    compute = Compute(reporters=("MLflow",), mlflow_uri=server.url)
    trained(bench, compute)
    server.runs[0]["status"] = "RUNNING"
    trained(bench, compute)
    trained(bench, compute, seed=8)
    assert [run["status"] for run in server.runs] == ["FINISHED", "FINISHED"]
    assert len({run["identity"] for run in server.runs}) == 2


class Killed(BaseException):
    """What ends a process leaves no time for anything."""


def test_no_step_is_missing_where_a_worker_was_killed_and_the_next_went_on(
    bench: Bench, server: TrackingServer
) -> None:
    compute = Compute(reporters=("MLflow", "TensorBoard"), mlflow_uri=server.url)
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
    [run] = server.runs
    assert [step for name, step, _ in run["metrics"] if name == "loss"] == [1, 2, 3]


@pytest.mark.parametrize("path", ["experiments/search", "runs/create", "runs/log-batch", "runs/update"])
def test_a_server_that_refuses_is_a_warning_with_what_it_says(bench: Bench, server: TrackingServer, path: str) -> None:
    server.refuses = path
    done = trained(bench, Compute(reporters=("MLflow", "TensorBoard"), mlflow_uri=server.url))
    assert done.metrics["steps"] == 3
    [warning] = done.result.warnings
    assert f"MLflow: {server.url} answers {path} with 507" in warning
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
