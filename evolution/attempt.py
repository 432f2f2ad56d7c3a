"""One worker's hold of its GPUs, and the classes in which every millisecond of it counts. Pure.

The classes follow Google's goodput badput types (ml-goodput-measurement), with one class for each remedy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, Self, get_args

from evolution.plan.manifest import Record
from evolution.plan.stage import Kind
from evolution.plan.tally import Spending, Tally

Class = Literal["productive", "cold_start_image", "cold_start_model", "io", "checkpoint", "wasted", "idle"]
CLASSES: tuple[Class, ...] = get_args(Class)
Result = Literal["succeeded", "retryable", "permanent", "preempted", "lost", "stopped"]
RESULTS: tuple[Result, ...] = get_args(Result)
"""How an attempt ended: all committed; failed and worth another try; failed for good; evicted, preempted or
interrupted; gone without a word; ended by us, because the run was suspended, edited or deleted.
"""

CLOCK_MILLISECONDS = 1000
"""Kubernetes tells whole seconds: a container may have run for so much longer than its times say."""

Milliseconds = dict[Class, int]
NEVER = datetime.max.replace(tzinfo=UTC)
"""Of attempts that have ended, now makes no difference."""


class Attempt(Record):
    """One worker's hold of its GPUs. Times are RFC 3339, empty where there is none (yet)."""

    worker: str
    """Name of the pod; on a laptop an invented name."""
    job: str = ""
    kind: Kind
    """Of the first stage of its order."""
    round: int
    gpus: int
    queued_at: str
    """Since when the worker was wanted."""
    allocated_at: str = ""
    """When it was given a node, and with it the GPUs."""
    started_at: str = ""
    """When its process started: the image was there."""
    ended_at: str = ""
    result: Result | None = None
    """None while it is under way."""
    tally: Tally | None = None
    """Its own words; the last ones once it has ended."""
    fate: Literal["", "Kept", "Abandoned"] = ""
    """What became of the work that it saved."""

    def noting(self, news: Self) -> Self:
        """With what is new in `news`; what is known stays known, in whatever order news comes in."""
        if self.ended_at:
            return self
        tallies = [tally for tally in (self.tally, news.tally) if tally]
        update = {
            "gpus": max(self.gpus, news.gpus),
            "allocated_at": self.allocated_at or news.allocated_at,
            "started_at": self.started_at or news.started_at,
            "ended_at": news.ended_at,
            "result": news.result,
            "tally": max(tallies, key=lambda tally: tally.milliseconds, default=None),
        }
        return self.model_copy(update=update)

    def held(self, now: datetime) -> int:
        """Milliseconds for which it has held its GPUs, `now` being used while it is under way."""
        if not self.allocated_at:
            return 0
        if not self.ended_at:
            return max(_between(self.allocated_at, now), self._committed())
        return self._image() + self._ran()

    def waited(self, now: datetime) -> int:
        """Milliseconds for which it waited for a node."""
        until = self.allocated_at or self.ended_at
        return max(0, _between(self.queued_at, datetime.fromisoformat(until) if until else now))

    def classes(self) -> dict[Kind, Milliseconds]:
        """Milliseconds by kind of stage and class, as far as that is settled."""
        found: dict[Kind, Milliseconds] = {}
        if not self.allocated_at:
            return found
        spent = self._spent()
        for kind, spending in spent.items():
            add(found, kind, "productive", spending.productive)
            add(found, kind, "cold_start_model", spending.load)
            add(found, kind, "io", spending.io)
            add(found, kind, "checkpoint", spending.checkpoint)
            add(found, kind, "idle", spending.idle)
            if self.ended_at:
                add(found, kind, "wasted", spending.wasted)
                if self.fate:
                    add(found, kind, "productive" if self.fate == "Kept" else "wasted", spending.saved)
        if self.ended_at:
            useful = any(spending.productive or spending.saved for spending in spent.values())
            rest = self._ran() - sum(spending.milliseconds for spending in spent.values())
            startup = min(rest, self._startup())
            add(found, self.kind, "cold_start_image" if useful else "wasted", self._image())
            add(found, self.kind, "cold_start_model" if useful else "wasted", startup)
            add(found, self.kind, "idle" if self.result == "succeeded" and useful else "wasted", rest - startup)
        return found

    def ended(self) -> "EndedAttempt":
        """What is remembered of it once it has ended."""
        assert self.result is not None
        return EndedAttempt(
            worker=self.worker,
            job=self.job,
            kind=self.kind,
            round=self.round,
            gpus=self.gpus,
            queued_at=self.queued_at,
            ended_at=self.ended_at,
            result=self.result,
            held=self.held(NEVER),
            wasted=sum(classes.get("wasted", 0) for classes in self.classes().values()),
        )

    @property
    def saved(self) -> int:
        """Milliseconds of work that is neither productive nor wasted yet."""
        if not self.ended_at or not self.allocated_at or self.fate:
            return 0
        return sum(spending.saved for spending in self._spent().values())

    def _start(self) -> str:
        """Its pod's word, or its own if the pod was gone before anybody looked."""
        return self.started_at or (self.tally.started_at if self.tally else "")

    def _image(self) -> int:
        return max(0, _between(self.allocated_at, datetime.fromisoformat(self._start() or self.ended_at)))

    def _ran(self) -> int:
        """Milliseconds from the start of its process to its end, by the times of the pod, or a little more if its own
        clock, which is finer, says so. What it told of committed stages was counted already, and is always believed.
        """
        start, told = self._start(), self._told()
        ran = max(0, _between(start, datetime.fromisoformat(self.ended_at))) if start else 0
        return max(ran, min(told, ran + CLOCK_MILLISECONDS), self._committed())

    def _startup(self) -> int:
        if not (self.tally and self.tally.started_at and self.started_at):
            return 0
        return max(0, _between(self.started_at, datetime.fromisoformat(self.tally.started_at)))

    def _told(self) -> int:
        return self.tally.milliseconds if self.tally else 0

    def _committed(self) -> int:
        spent = self.tally.spent.values() if self.tally else ()
        return sum(spending.milliseconds - spending.saved - spending.wasted for spending in spent)

    def _spent(self) -> Mapping[Kind, Spending]:
        """What it told, cut down where it told of more than there was."""
        spent = self.tally.spent if self.tally else {}
        return _cut(spent, self._told() - self._ran()) if self.ended_at else spent


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """What is remembered of an attempt: an operator has many of them in memory. See `Attempt`."""

    worker: str
    job: str
    kind: Kind
    round: int
    gpus: int
    queued_at: str
    ended_at: str
    result: Result
    held: int
    """Milliseconds, not multiplied by its GPUs."""
    wasted: int
    """Milliseconds of those."""


def add(sums: dict[Kind, Milliseconds], kind: Kind, class_: Class, value: int) -> None:
    if value:
        classes = sums.setdefault(kind, {})
        classes[class_] = classes.get(class_, 0) + value


def _between(start: str, end: datetime) -> int:
    since = datetime.fromisoformat(start)
    return round((end - since).total_seconds() * 1000)


def _cut(spent: Mapping[Kind, Spending], excess: int) -> Mapping[Kind, Spending]:
    """Without `excess` milliseconds of what was wasted or saved, as far as that goes."""
    for name in ("wasted", "saved"):
        for kind, spending in spent.items():
            cut = min(excess, getattr(spending, name))
            if cut > 0:
                spent = {**spent, kind: replace(spending, **{name: getattr(spending, name) - cut})}
                excess -= cut
    return spent
