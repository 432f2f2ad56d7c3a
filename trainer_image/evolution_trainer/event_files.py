"""Event files for TensorBoard, in the run's own place in the store."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from evolution.store.base import ObjectStore
from evolution_trainer.timing import Clock

if TYPE_CHECKING:
    from tensorboardX.event_file_writer import EventsWriter

SECONDS = 30.0
"""Between two uploads."""


class EventFiles:
    """One file for every training that is begun or gone on with; TensorBoard reads them all as one."""

    def __init__(self, folder: Path, store: ObjectStore, prefix: str, clock: Clock) -> None:
        """Files in `folder` go to `prefix`, which ends with `/`."""
        self._folder = folder
        self._store = store
        self._prefix = prefix
        self._clock = clock
        self._writer: EventsWriter | None = None
        self._uploaded = time.monotonic()

    def begin(self, step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._close()
        self._folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(self._folder / "events"), f".{time.time_ns()}")
        # Whatever an earlier file tells from this step on is forgotten.
        start = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=step + 1, session_log=start))

    def step(self, step: int, values: Mapping[str, float]) -> None:
        self._write(step, {f"train/{name}": value for name, value in values.items()})
        if time.monotonic() - self._uploaded >= SECONDS:
            self._upload()

    def saved(self) -> None:
        self._upload()

    def end(self, metrics: Mapping[str, float]) -> None:
        self._write(int(metrics.get("steps", 0)), {f"round/{name}": value for name, value in metrics.items()})
        self._close()

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        if self._writer is None:
            self.begin(step)
        assert self._writer is not None
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))

    def _upload(self) -> None:
        assert self._writer is not None
        self._writer.flush()
        with self._clock.moving():
            for file in sorted(self._folder.iterdir()):
                self._store.upload(file, self._prefix + file.name)
        self._uploaded = time.monotonic()

    def _close(self) -> None:
        if self._writer is not None:
            self._upload()
            self._writer.close()
            self._writer = None
