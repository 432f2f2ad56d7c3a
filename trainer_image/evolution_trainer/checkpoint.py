"""What an interrupted stage goes on from: rows that it has written so far, and states of a training.

They lie in the store, below the run's own prefix, until the stage is committed. Nothing in them is trusted: what does
not match its own name is as good as absent.
"""

import io
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from evolution.plan.stage import canonical_json, sha256
from evolution.store.base import ObjectStore
from evolution_trainer.failure import StageFailed
from evolution_trainer.preemption import Preempted, deferred
from evolution_trainer.timing import Clock

_CHUNK = re.compile(r"(\d{12})-(\d{12})-([0-9a-f]{64})\.jsonl")


@dataclass
class Checkpoints:
    """Checkpoints of one worker's part of one stage."""

    store: ObjectStore
    prefix: str
    """Ends with `/`."""
    clock: Clock
    interval: float
    """Seconds between two checkpoints."""
    work_saved: float = 0.0
    """Seconds of this worker's work that need not be done again."""
    _work_written: float = 0.0
    """The same, once the journals are saved."""
    _saved: float = field(default_factory=time.monotonic)
    _journals: list["Journal"] = field(default_factory=list)
    """Those that are open, oldest first."""

    @property
    def due(self) -> bool:
        return time.monotonic() - self._saved >= self.interval

    def saved(self) -> None:
        """A checkpoint was written just now."""
        self._saved = time.monotonic()

    @contextmanager
    def journal(self, name: str, path: Path) -> Iterator["Journal"]:
        """A JSON Lines file at `path` that begins with the rows that an interrupted worker has left.

        A signal within the `with` block, or a failure that may be mended, saves what was written so far.
        """
        with path.open("w+b") as file:
            journal = Journal(self, f"{self.prefix}{name}/", path, file)
            with self.clock.checkpointing():
                journal.restore()
            self._journals.append(journal)
            try:
                yield journal
                file.flush()
            except (Preempted, StageFailed):
                self.save()
                raise
            finally:
                self._journals.remove(journal)

    def save(self) -> None:
        """Store the rows that are not stored yet: what a row may follow from, in an older journal, before it."""
        with deferred(), self.clock.checkpointing():
            for journal in self._journals:
                journal.save()
            self.work_saved = self._work_written
        self.saved()

    def written(self) -> None:
        """All work so far is in a journal."""
        self._work_written = self.clock.seconds["work"]

    def remove(self) -> None:
        """The stage is committed: nobody will go on from here."""
        for found in list(self.store.list(self.prefix)):
            self.store.delete(found.key)


@dataclass
class Journal:
    """Rows in the order in which they were made; saved in chunks, of which each is named by its first row, the row
    after its last, and its content.
    """

    checkpoints: Checkpoints
    prefix: str
    path: Path
    _file: io.BufferedRandom
    count: int = 0
    """Rows that are there, those of an interrupted worker included."""
    _saved_rows: int = 0
    _saved_bytes: int = 0

    def __call__(self, *rows: Mapping[str, JsonValue]) -> None:
        """Append rows that were made together, and that a checkpoint does not divide."""
        for row in rows:
            self._file.write(canonical_json(row) + b"\n")
            self.count += 1
        self.checkpoints.written()
        if self.checkpoints.due:
            self.checkpoints.save()

    def flush(self) -> None:
        """What was written can be read at `path`."""
        self._file.flush()

    def restore(self) -> None:
        chunks: dict[int, list[str]] = {}
        for found in self.checkpoints.store.list(self.prefix):
            if match := _CHUNK.fullmatch(found.key.removeprefix(self.prefix)):
                chunks.setdefault(int(match[1]), []).append(found.key)
        while (data := self._next_chunk(chunks.get(self.count, []))) is not None:
            self._file.write(data)
            self.count += data.count(b"\n")
            self._saved_bytes += len(data)
        self._saved_rows = self.count
        self._file.flush()

    def _next_chunk(self, keys: list[str]) -> bytes | None:
        for key in sorted(keys, reverse=True):  # the longest first
            match = _CHUNK.fullmatch(key.removeprefix(self.prefix))
            data = self.checkpoints.store.read(key)
            if match and data and sha256(data) == match[3] and data.count(b"\n") == int(match[2]) - int(match[1]) > 0:
                return data
        return None

    def save(self) -> None:
        """Store the rows that are not stored yet."""
        self._file.flush()
        with self.path.open("rb") as file:
            file.seek(self._saved_bytes)
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]  # a signal may have come in the middle of a row
        if data:
            end = self._saved_rows + data.count(b"\n")
            key = f"{self.prefix}{self._saved_rows:012d}-{end:012d}-{sha256(data)}.jsonl"
            self.checkpoints.store.write(key, data)
            self._saved_rows, self._saved_bytes = end, self._saved_bytes + len(data)
