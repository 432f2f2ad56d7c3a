"""What every round has come to also goes to MLflow, in one run of the whole evolution."""

import pytest
from trainer.tracking_server import TrackingServer

from evolution.plan.manifest import Manifest, Timings
from evolution.plan.order import Compute, Order
from evolution.plan.stage import Kind
from evolution_trainer.round_figures import RoundFigures

GENERATED = {
    "pairs": 6,
    "rejects": {"question": {"Duplicate": 2}, "answer": {"Duplicate": 1, "TooLong": 3}},
    "coverage": {"documents": 8, "covered": 4},
}
SCORED = {"ifd": {"0.1": 0.2, "0.5": 0.7, "0.9": 0.95}}
EVALUATED = {"scores": {"ExactMatch": {"mean": 0.4}, "ROUGEL": {"mean": 0.5}}}


def committed(kind: Kind, round_: int, metrics: object) -> Manifest:
    return Manifest(
        fingerprint="f" * 64,
        kind=kind,
        semantics=1,
        round=round_,
        parameters={},
        inputs={},
        outputs={},
        metrics=metrics,
        timings=Timings(total=21, load=1, work=8, checkpoint=2, io=4, idle=6, gpus=2),
    )


def figures(url: str, *reporters: str) -> RoundFigures:
    """Of a worker of its own."""
    compute = Compute(reporters=reporters, mlflow_uri=url)
    return RoundFigures(Order(run="telecom-1a2b3c4d", store="file:///store", model="m", stages=(), compute=compute))


def test_a_round_is_a_step_of_one_run_whichever_workers_tell_of_it(tracking_server: TrackingServer) -> None:
    for round_ in (1, 2):
        first, second = (figures(tracking_server.url, "MLflow") for _ in range(2))
        first.committed(committed(Kind.GENERATE, round_, GENERATED))
        first.committed(committed(Kind.SCORE, round_, SCORED))
        second.committed(committed(Kind.TRAIN, round_, {"loss": 1.5}))
        second.committed(committed(Kind.EVALUATE, round_, EVALUATED))
        second.committed(committed(Kind.PREPARE, round_, {}))
    [run] = tracking_server.runs
    assert (run["name"], run["status"]) == ("telecom-1a2b3c4d", "FINISHED")
    for round_ in (1, 2):
        told = {name: value for name, step, value in run["metrics"] if step == round_}
        seconds = {name: told.pop(name) for name in list(told) if name.startswith("gpuSeconds.")}
        assert told == {
            "pairs": 6,
            "coverage": 0.5,
            "rejects.Duplicate": 3,
            "rejects.TooLong": 3,
            "ifd": 0.7,
            "loss": 1.5,
            "score.ExactMatch": 0.4,
            "score.ROUGEL": 0.5,
        }
        assert len(seconds) == 4 * 5
        assert seconds["gpuSeconds.Train.productive"] == 16
        assert sum(value for name, value in seconds.items() if ".Score." in name) == 2 * 21


def test_nothing_is_sent_where_the_run_does_not_ask_for_it(tracking_server: TrackingServer) -> None:
    figures(tracking_server.url, "TensorBoard").committed(committed(Kind.TRAIN, 1, {"loss": 1.5}))
    assert tracking_server.asked == []


def test_a_server_that_refuses_is_named_in_the_log_and_not_asked_again(
    tracking_server: TrackingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking_server.refuses = "runs/create"
    told = figures(tracking_server.url, "MLflow")
    told.committed(committed(Kind.TRAIN, 1, {"loss": 1.5}))
    asked = len(tracking_server.asked)
    assert "training.reporters MLflow" in (said := capsys.readouterr().err)
    assert "no room" in said
    told.committed(committed(Kind.EVALUATE, 1, EVALUATED))
    assert len(tracking_server.asked) == asked
