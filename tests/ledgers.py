"""Ledgers of runs whose stages are done: an attempt for every stage, and such as came to nothing."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from evolution.attempt import Attempt, Result
from evolution.ledger import Ledger
from evolution.plan.graph import Graph
from evolution.plan.stage import Kind
from evolution.plan.tally import Spending, Tally, spent_on_committed

PULL = timedelta(seconds=2)
WAIT = timedelta(seconds=5)


def ledger_of(graph: Graph, gpus: int = 2, more: Sequence[Attempt] = ()) -> Ledger:
    """Every finished stage was done by a worker of its own, at the times of its manifest; then come `more`."""
    attempts = []
    for stage in graph.stages:
        if stage.manifest is None:
            continue
        timings = stage.manifest.timings
        started = datetime.fromisoformat(timings.started_at)
        attempts.append(
            _attempt(stage.id, stage.kind, stage.round, gpus, started, timings.total).model_copy(
                update={"tally": _tally(started, gpus, stage.kind, spent_on_committed(stage.manifest))}
            )
        )
    return Ledger().noting([*attempts, *more])


def in_vain(
    worker: str, kind: Kind, round_: int, at: datetime, seconds: float, result: Result = "preempted", gpus: int = 2
) -> Attempt:
    """An attempt that ran from `at` for so long, and committed nothing."""
    attempt = _attempt(worker, kind, round_, gpus, at, seconds)
    tally = _tally(at, gpus, kind, Spending(wasted=round(seconds * 1000)))
    return attempt.model_copy(update={"result": result, "tally": tally})


def under_way(worker: str, kind: Kind, round_: int, at: datetime, gpus: int = 2) -> Attempt:
    """An attempt of a pod that has told nothing yet."""
    update = {"job": f"demo-r{round_}-{kind.value.lower()}-1a2b3c4d", "ended_at": "", "result": None, "tally": None}
    return _attempt(worker, kind, round_, gpus, at, 0.0).model_copy(update=update)


def _attempt(worker: str, kind: Kind, round_: int, gpus: int, started: datetime, seconds: float) -> Attempt:
    return Attempt(
        worker=worker,
        kind=kind,
        round=round_,
        gpus=gpus,
        queued_at=(started - PULL - WAIT).isoformat(),
        allocated_at=(started - PULL).isoformat(),
        started_at=started.isoformat(),
        ended_at=(started + timedelta(seconds=seconds)).isoformat(),
        result="succeeded",
    )


def _tally(started: datetime, gpus: int, kind: Kind, spending: Spending) -> Tally:
    return Tally(started_at=started.isoformat(), gpus=gpus, spent={kind: spending})
