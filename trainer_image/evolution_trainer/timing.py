"""Where the wall time of a stage goes."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from evolution.plan.manifest import Artifact, Timings
from evolution.store.artifacts import Artifacts
from evolution.store.base import ObjectStore
from evolution.store.source_files import OnProgress
from evolution.store.sources import local_copy

Activity = Literal["load", "work", "checkpoint", "io", "idle"]
ACTIVITIES: tuple[Activity, ...] = get_args(Activity)


class Clock:
    """Runs from when it is made. Every moment belongs to what is done just then: to the innermost of the blocks that
    say otherwise, and outside of them to the work. For the main thread only.
    """

    def __init__(self) -> None:
        self.started_at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        self.seconds: dict[Activity, float] = dict.fromkeys(ACTIVITIES, 0.0)
        """So far; what is being done now is not yet counted in."""
        self._now: Activity = "work"
        self._since = time.monotonic()

    def loading(self) -> AbstractContextManager[None]:
        """Count the block as time spent reading the model and what it takes to use one."""
        return self._counted_as("load")

    def checkpointing(self) -> AbstractContextManager[None]:
        """Count the block as time spent saving or restoring what was done so far."""
        return self._counted_as("checkpoint")

    def waiting(self) -> AbstractContextManager[None]:
        """Count the block as time in which nothing was done."""
        return self._counted_as("idle")

    def moving(self) -> AbstractContextManager[None]:
        """Count the block as time spent moving artifacts and sources."""
        return self._counted_as("io")

    def timings(self) -> Timings:
        """So far."""
        self._turn_to(self._now)
        spent = {activity: round(seconds, 3) for activity, seconds in self.seconds.items()}
        return Timings(started_at=self.started_at, total=round(sum(spent.values()), 3), **spent, gpus=_gpus())

    @contextmanager
    def _counted_as(self, activity: Activity) -> Iterator[None]:
        before = self._now
        self._turn_to(activity)
        try:
            yield
        finally:
            self._turn_to(before)

    def _turn_to(self, activity: Activity) -> None:
        now = time.monotonic()
        self.seconds[self._now] += now - self._since
        self._now, self._since = activity, now


class TimedArtifacts(Artifacts):
    """Artifacts that tell a clock how long they were moved."""

    def __init__(self, store: ObjectStore, cache: Path, clock: Clock) -> None:
        super().__init__(store, cache)
        self._clock = clock

    def put_file(self, path: Path, count: int = 1) -> Artifact:
        with self._clock.moving():
            return super().put_file(path, count)

    def put_tree(self, folder: Path) -> Artifact:
        with self._clock.moving():
            return super().put_tree(folder)

    def fetch(self, digest: str) -> Path:
        with self._clock.moving():
            return super().fetch(digest)

    def fetch_tree(self, digest: str) -> Path:
        with self._clock.moving():
            return super().fetch_tree(digest)


def brought_here(uri: str, cache: Path, progress: OnProgress, clock: Clock) -> Path:
    """`local_copy`, which tells `clock` how long it downloads, and how long it waits for another worker that does."""
    with clock.moving():
        return local_copy(uri, cache, progress, clock.waiting)


def summed(parts: Sequence[Timings]) -> Timings:
    """Timings of a stage that several workers shared: seconds of all of them together, since the earliest start."""
    return Timings(
        started_at=min(part.started_at for part in parts),
        total=round(sum(part.total for part in parts), 3),
        load=round(sum(part.load for part in parts), 3),
        work=round(sum(part.work for part in parts), 3),
        checkpoint=round(sum(part.checkpoint for part in parts), 3),
        io=round(sum(part.io for part in parts), 3),
        idle=round(sum(part.idle for part in parts), 3),
        gpus=max(part.gpus for part in parts),
    )


def _gpus() -> int:
    torch = sys.modules.get("torch")
    return int(torch.cuda.device_count()) if torch is not None and torch.cuda.is_available() else 0
