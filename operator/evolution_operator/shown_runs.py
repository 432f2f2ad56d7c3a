"""Which runs are shown one by one in metrics: the newest, active ones first, and ended ones for some hours."""

from bisect import bisect_right, insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from evolution.api.times import rfc3339
from evolution.metrics.exposition import RunMetrics, RunText, run_text
from evolution_operator.records import RunKey, RunRecord

NotShown = Literal["cap", "ended", "unread"]


class Rank(NamedTuple):
    """Of two runs, the greater one is shown rather than the other."""

    active: bool
    since: datetime
    """When it was created; of an ended run, when it ended."""


@dataclass(frozen=True)
class _Entry:
    rank: Rank
    text: RunText


class ShownRuns:
    """At most `limit` runs, as text. Runs that have ended more than `hours` ago are left out."""

    def __init__(self, limit: int, hours: float, clock: Callable[[], datetime]) -> None:
        self._limit = limit
        self._kept = timedelta(hours=hours)
        self._now = clock
        self._entries: dict[RunKey, _Entry] = {}
        self._refused: set[RunKey] = set()
        self._ended: dict[RunKey, datetime] = {}
        self._ends: list[datetime] = []
        """The same moments, oldest first."""

    def show(
        self, key: RunKey, created_at: datetime, ended_at: datetime | None, tell: Callable[[], RunMetrics]
    ) -> None:
        """Show the run with what `tell` gives, instead of a lesser one if there is no room."""
        if ended_at is None:
            self._has_not_ended(key)
        elif self._is_past(ended_at):
            self.hide(key)
            return
        else:
            self._has_ended(key, ended_at)
        rank = Rank(ended_at is None, ended_at or created_at)
        if key not in self._entries and len(self._entries) >= self._limit:
            least = min(self._entries, key=lambda other: self._entries[other].rank)
            if rank <= self._entries[least].rank:
                self._refused.add(key)
                return
            del self._entries[least]
            self._refused.add(least)
        self._refused.discard(key)
        self._entries[key] = _Entry(rank, run_text(tell()))

    def has_room(self, key: RunKey, ended_at: datetime) -> bool:
        """Whether a run that has ended would be shown among all those that were asked for so far."""
        if self._is_past(ended_at):
            return False
        self._has_ended(key, ended_at)
        active = sum(entry.rank.active for entry in self._entries.values())
        newer = len(self._ends) - bisect_right(self._ends, ended_at)
        if active + newer < self._limit:
            return True
        self._refused.add(key)
        return False

    def hide(self, key: RunKey) -> None:
        """The run is gone, or ended long ago."""
        self._entries.pop(key, None)
        self._refused.discard(key)
        self._has_not_ended(key)

    def texts(self) -> list[RunText]:
        """Of all runs that are shown now."""
        for key in [key for key, ended_at in self._ended.items() if self._is_past(ended_at)]:
            self.hide(key)
        return [entry.text for entry in self._entries.values()]

    def not_shown(self, runs: Iterable[RunRecord]) -> dict[NotShown, int]:
        """Number of the other ones among `runs`, by reason."""
        long_ago = rfc3339(self._now() - self._kept)
        found: dict[NotShown, int] = {"cap": 0, "ended": 0, "unread": 0}
        for run in runs:
            if run.key in self._entries:
                continue
            if run.ended_at and run.ended_at < long_ago:
                found["ended"] += 1
            else:
                found["cap" if run.key in self._refused else "unread"] += 1
        return found

    def _is_past(self, ended_at: datetime) -> bool:
        return ended_at < self._now() - self._kept

    def _has_ended(self, key: RunKey, ended_at: datetime) -> None:
        if self._ended.get(key) != ended_at:
            self._has_not_ended(key)
            self._ended[key] = ended_at
            insort(self._ends, ended_at)

    def _has_not_ended(self, key: RunKey) -> None:
        before = self._ended.pop(key, None)
        if before is not None:
            self._ends.remove(before)
