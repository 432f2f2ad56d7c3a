"""What became of the time that a run held its GPUs for: its ledger, ready to be shown. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from evolution.attempt import CLASSES, RESULTS, Class, EndedAttempt, Result
from evolution.ledger import Ledger
from evolution.plan.stage import Kind

CLASS_NAMES: Mapping[Class, str] = {
    "productive": "productive",
    "cold_start_image": "cold start: image",
    "cold_start_model": "cold start: model",
    "io": "IO",
    "checkpoint": "checkpoint",
    "wasted": "wasted",
    "idle": "idle",
}
RESULT_MEANINGS: Mapping[Result, str] = {
    "succeeded": "committed all it was asked for",
    "retryable": "failed, and was worth another try",
    "permanent": "failed for good",
    "preempted": "was evicted, preempted or interrupted",
    "lost": "was gone without a word",
    "stopped": "was ended because the run was suspended, edited or deleted",
}
MILLISECONDS_PER_HOUR = 3_600_000


@dataclass(frozen=True)
class Unsuccessful:
    """An ended attempt that did not succeed; milliseconds in the unit of the partition."""

    ended_at: str
    round: int
    kind: Kind
    result: Result
    held: int
    wasted: int


@dataclass(frozen=True)
class Partition:
    """Milliseconds of GPUs; on a machine without any, milliseconds of workers."""

    unit: Literal["GPU", "worker"]
    by_kind: Mapping[Kind, Mapping[Class, int]]
    """What is settled. Kinds and classes without any time are left out."""
    unsettled: int
    queued: int
    by_round: Mapping[int, int]
    """What was held, settled or not; 0 is what comes before the first round."""
    results: Mapping[Kind, Mapping[Result, int]]
    """Number of ended attempts."""
    unsuccessful: tuple[Unsuccessful, ...]
    """Of those that the ledger still has one by one; the oldest first."""

    @property
    def by_class(self) -> dict[Class, int]:
        return {class_: sum(classes.get(class_, 0) for classes in self.by_kind.values()) for class_ in CLASSES}

    @property
    def settled(self) -> int:
        return sum(self.by_class.values())

    @property
    def held(self) -> int:
        return self.settled + self.unsettled

    @property
    def hours(self) -> float:
        """GPU-hours, or worker-hours, held."""
        return self.held / MILLISECONDS_PER_HOUR

    @property
    def goodput(self) -> float | None:
        """Share of what is settled that was productive; None while nothing is."""
        return self.by_class["productive"] / self.settled if self.settled else None

    def share(self, value: int) -> float:
        return value / self.settled if self.settled else 0.0

    @property
    def counts(self) -> dict[Result, int]:
        """Ended attempts by result, of all kinds of stage."""
        return {result: sum(of.get(result, 0) for of in self.results.values()) for result in RESULTS}


def partition(ledger: Ledger, now: datetime) -> Partition | None:
    """What `ledger` says at `now`; None if it knows of no attempt, as that of a run of an older version."""
    if not ledger.attempts and not ledger.settled:
        return None
    kept = [*(a.gpus for a in ledger.attempts), *(a.gpus for a in ledger.settled)]
    on_gpus = any(ledger.totals.gpus.classes.values()) or any(kept)
    shown = ledger if on_gpus else ledger.of_workers()
    found = shown.gpu_milliseconds()
    return Partition(
        unit="GPU" if on_gpus else "worker",
        by_kind={kind: found[kind] for kind in Kind if any(found.get(kind, {}).values())},
        unsettled=shown.unsettled(now),
        queued=shown.queued(now),
        by_round=shown.held_in_round(now),
        results=ledger.results(),
        unsuccessful=tuple(
            _unsuccessful(attempt)
            for attempt in sorted(shown.ended, key=lambda attempt: datetime.fromisoformat(attempt.ended_at))
            if attempt.result != "succeeded"
        ),
    )


def _unsuccessful(attempt: EndedAttempt) -> Unsuccessful:
    return Unsuccessful(
        ended_at=attempt.ended_at,
        round=attempt.round,
        kind=attempt.kind,
        result=attempt.result,
        held=attempt.held * attempt.gpus,
        wasted=attempt.wasted * attempt.gpus,
    )


def partition_json(shown: Partition) -> dict[str, Any]:
    """For scripts; `docs/efficiency.md` describes the fields."""
    return {
        "unit": shown.unit,
        "seconds": {class_: value / 1000 for class_, value in shown.by_class.items()},
        "stages": {
            kind.value: {class_: classes.get(class_, 0) / 1000 for class_ in CLASSES}
            for kind, classes in shown.by_kind.items()
        },
        "unsettled": shown.unsettled / 1000,
        "held": shown.held / 1000,
        "queued": shown.queued / 1000,
        "attempts": {kind.value: dict(counts) for kind, counts in shown.results.items()},
    }
