"""Where the wall time of a stage goes."""

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from evolution.api.times import rfc3339
from evolution.plan.manifest import Artifact, Timings
from evolution.store.artifacts import Artifacts
from evolution.store.base import ObjectStore
from evolution.store.source_files import OnProgress
from evolution.store.sources import local_copy

Activity = Literal["load", "work", "checkpoint", "io", "idle"]
ACTIVITIES: tuple[Activity, ...] = get_args(Activity)


class _Spent(NamedTuple):
    """What a clock shows; replaced as a whole, so that any thread may look."""

    seconds: Mapping[Activity, float]
    now: Activity
    since: float

    def until(self, moment: float) -> dict[Activity, float]:
        return {**self.seconds, self.now: self.seconds[self.now] + moment - self.since}


class Clock:
    """Runs from when it is made. Every moment belongs to what is done just then: to the innermost of the blocks that
    say otherwise, and outside of them to the work. Turned by the main thread only; others may look.
    """

    def __init__(self, loading: float = 0.0) -> None:
        """`loading`: seconds before that count, too, as time spent reading what it takes to begin."""
        self.began = datetime.now(UTC) - timedelta(seconds=loading)
        self._spent = _Spent({**dict.fromkeys(ACTIVITIES, 0.0), "load": loading}, "work", time.monotonic())

    @property
    def seconds(self) -> dict[Activity, float]:
        """So far."""
        return self._spent.until(time.monotonic())

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

    def timings(self, nodes: int = 1) -> Timings:
        """So far, of a worker that computes together with those of so many nodes, itself among them."""
        spent = {activity: round(seconds, 3) for activity, seconds in self.seconds.items()}
        started_at = rfc3339(self.began)
        return Timings(started_at=started_at, total=round(sum(spent.values()), 3), **spent, gpus=visible_gpus() * nodes)

    @contextmanager
    def _counted_as(self, activity: Activity) -> Iterator[None]:
        before = self._spent.now
        self._turn_to(activity)
        try:
            yield
        finally:
            self._turn_to(before)

    def _turn_to(self, activity: Activity) -> None:
        now = time.monotonic()
        self._spent = _Spent(self._spent.until(now), activity, now)


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


def visible_gpus() -> int:
    """GPUs that this process sees, as far as it has loaded what would see them."""
    torch = sys.modules.get("torch")
    return int(torch.cuda.device_count()) if torch is not None and torch.cuda.is_available() else 0


def process_age() -> float:
    """Seconds since this process was started; 0 where the system does not tell."""
    try:
        # Behind the command, which may hold spaces and brackets: the state, and 19 fields on the start, in ticks.
        stat = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - int(stat[19]) / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError):  # not Linux
        return 0.0
