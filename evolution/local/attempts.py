"""Attempts of a run on this machine: each order of its worker is one. Its GPUs are those that the worker sees."""

from collections.abc import Iterable
from datetime import UTC, datetime

from pydantic import ValidationError

from evolution.api.times import rfc3339
from evolution.attempt import Attempt, Result
from evolution.decide import PERMANENT
from evolution.ledger import Ledger
from evolution.local.worker import LAPTOP
from evolution.plan.graph import Stage
from evolution.plan.tally import Tally
from evolution.plan.worker import Event, ExitCode, Failed, OrderDone, Progress
from evolution.store import keys
from evolution.store.base import ObjectStore


def begun(worker: str, number: int, stage: Stage, at: datetime) -> Attempt:
    """The order for `stage`; `number` is unique among the orders of the worker with this name."""
    now = rfc3339(at, "milliseconds")
    return Attempt(
        worker=f"{worker}-{number}",
        job=stage.fingerprint or "",
        kind=stage.kind,
        round=stage.round,
        gpus=0,
        queued_at=now,
        allocated_at=now,
        started_at=now,
    )


def ended(attempt: Attempt, result: Result, tally: Tally | None) -> Attempt:
    """Now."""
    return _ended(attempt, rfc3339(datetime.now(UTC), "milliseconds"), result, tally)


def result_of(failed: Failed) -> Result:
    """How an attempt ended that failed in this way."""
    if failed.code == ExitCode.PREEMPTED:
        return "preempted"
    if failed.code in PERMANENT:
        return "permanent"
    return "lost" if failed.code > 128 else "retryable"


def tally_in(event: Event) -> Tally | None:
    """What the worker says there that it has spent."""
    return event.tally if isinstance(event, Progress | OrderDone | Failed) else None


def lost(ledger: Ledger, run: str, store: ObjectStore, *, silent: float = 0.0) -> Ledger:
    """`ledger` with every attempt under way ended that nobody looks after any more: when its worker last told of
    itself, or at once if it never did. `silent`: seconds for which a worker may be silent, and yet be at work.

    Raises:
        StoreError: the store cannot be read.
    """
    return ledger.noting(_lost(ledger.open, run, store, silent))


def _lost(attempts: Iterable[Attempt], run: str, store: ObjectStore, silent: float) -> Iterable[Attempt]:
    for attempt in attempts:
        if not attempt.worker.startswith(LAPTOP):
            continue  # a pod: the operator knows of its end
        told = _last_progress(attempt, run, store)
        end = max(told.updated_at, attempt.started_at, key=datetime.fromisoformat) if told else attempt.started_at
        if (datetime.now(UTC) - datetime.fromisoformat(end)).total_seconds() >= silent:
            yield _ended(attempt, end, "lost", told.tally if told else None)


def _last_progress(attempt: Attempt, run: str, store: ObjectStore) -> Progress | None:
    """What the worker of this attempt, and no other of the same stage, last told in the store."""
    data = store.read(keys.progress(run, attempt.job))
    if data is None:
        return None
    try:
        progress = Progress.model_validate_json(data)
    except ValidationError:
        return None
    worker, _, _ = attempt.worker.rpartition("-")
    return progress if progress.tally and progress.tally.worker == worker else None


def _ended(attempt: Attempt, end: str, result: Result, tally: Tally | None) -> Attempt:
    gpus = tally.gpus if tally else 0
    return attempt.model_copy(update={"ended_at": end, "result": result, "tally": tally, "gpus": gpus})
