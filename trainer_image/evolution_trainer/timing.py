"""Where the wall time of a stage goes."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from evolution.plan.manifest import Artifact, Timings
from evolution.store.artifacts import Artifacts
from evolution.store.base import ObjectStore


@dataclass
class Clock:
    """Started with the stage; told what is loading and what is moving artifacts, the rest is work."""

    started: float = field(default_factory=time.monotonic)
    started_at: str = field(
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    )
    io: float = 0.0
    load: float = 0.0
    checkpoint: float = 0.0
    idle: float = 0.0
    _depth: int = 0

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Count the block as time spent reading the model and what it takes to use one."""
        start = time.monotonic()
        yield
        self.load += time.monotonic() - start

    @contextmanager
    def checkpointing(self) -> Iterator[None]:
        """Count the block as time spent saving or restoring what was done so far."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.checkpoint += time.monotonic() - start

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the block as time in which nothing was done."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.idle += time.monotonic() - start

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Count the block as time spent moving artifacts; blocks may be nested."""
        self._depth += 1
        start = time.monotonic()
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self.io += time.monotonic() - start

    def timings(self, model: float) -> Timings:
        """`model`: seconds that the stage itself spent reading the model."""
        load = self.load + model
        total = time.monotonic() - self.started
        return Timings(
            started_at=self.started_at,
            total=round(total, 3),
            load=round(load, 3),
            work=round(max(0.0, total - load - self.io - self.checkpoint - self.idle), 3),
            checkpoint=round(self.checkpoint, 3),
            io=round(self.io, 3),
            idle=round(self.idle, 3),
            gpus=_gpus(),
        )


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
