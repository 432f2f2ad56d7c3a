"""What a worker has spent so far, told at any time as if it ended now."""

import os
from typing import NamedTuple

from evolution.api.times import rfc3339
from evolution.plan.stage import Kind
from evolution.plan.tally import Spending, Tally, spent_in_vain
from evolution_trainer.checkpoint import Checkpoints
from evolution_trainer.timing import Clock, visible_gpus

WORKER = "EVOLUTION_WORKER"
"""Name of this worker among all."""


class _UnderWay(NamedTuple):
    kind: Kind
    fingerprint: str
    clock: Clock
    checkpoints: Checkpoints


class _Books(NamedTuple):
    """Replaced as a whole, so that any thread may look."""

    closed: Tally
    """Of the stages before."""
    open: _UnderWay | None = None


class Account:
    """Of one worker on one order."""

    def __init__(self, clock: Clock) -> None:
        """`clock` runs since the order, or this process for its sake, began."""
        started_at = rfc3339(clock.began, "milliseconds")
        self._books = _Books(Tally(worker=os.environ.get(WORKER, ""), started_at=started_at))
        self._clock: Clock | None = clock

    @property
    def clock(self) -> Clock:
        """Of the stage that is being done, or comes next."""
        if self._clock is None:
            self._clock = Clock()
        return self._clock

    def begin(self, kind: Kind, fingerprint: str, checkpoints: Checkpoints) -> None:
        """A stage, or a share of one, is begun: all that its clock shows is in vain until it is committed."""
        self._books = _Books(self._books.closed, _UnderWay(kind, fingerprint, self.clock, checkpoints))

    def found_done(self) -> None:
        """There was nothing to do for it; the clock runs on for what comes next."""
        self._books = _Books(self._books.closed)

    def committed(self, spending: Spending) -> None:
        """This worker committed it."""
        self._close(spending)

    def in_vain(self) -> None:
        """Another worker committed it first."""
        if self._books.open:
            self._close(spent_in_vain(self._books.open.clock.timings()))

    def tally(self) -> Tally:
        """As if the worker ended now."""
        closed, under_way = self._books
        closed = closed.model_copy(update={"gpus": visible_gpus()})
        if under_way is None:
            return closed
        spending = spent_in_vain(under_way.clock.timings(), under_way.checkpoints.work_saved)
        return closed.adding(under_way.kind, spending, under_way.fingerprint if spending.saved else "")

    def _close(self, spending: Spending) -> None:
        closed, under_way = self._books
        assert under_way is not None, "no stage was begun"
        self._books = _Books(closed.adding(under_way.kind, spending))
        self._clock = None
