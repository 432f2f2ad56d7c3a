"""The worker's ends of its pipes: events on standard output, orders and the parent's death on standard input."""

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import BinaryIO

from evolution.api.times import rfc3339
from evolution.plan.manifest import Record
from evolution.plan.tally import Tally
from evolution.plan.worker import Progress
from evolution.store import keys
from evolution.store.base import ObjectStore, StoreError

PIPE_INTERVAL = 0.2
"""Seconds between two progress events."""
LOG_INTERVAL = 10.0
"""The same where people read them."""
STORE_INTERVAL = 5.0
"""Seconds between two progress objects in the store."""
PARENT_DIED = 129
"""Exit code when standard input closed in the middle of an order: as if killed by SIGHUP, which is retried."""


class EventPipe:
    """Standard output, for events alone: whatever a library prints goes to standard error from here on."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._file: BinaryIO = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        sys.stdout = sys.stderr

    def emit(self, event: Record) -> None:
        try:
            self._file.write(event.to_json() + b"\n")
        except BrokenPipeError:
            # Nobody listens any more; a worker that was started for its result in the store goes on.
            self._file = open(os.devnull, "wb", buffering=0)  # noqa: SIM115, PTH123 (kept for the life of the process)


class OrderPipe:
    """Lines of standard input. When it closes, the parent is gone: amid an order the process leaves at once."""

    def __init__(self, on_parent_death: Callable[[], None]) -> None:
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._unfinished = 0
        self._lock = threading.Lock()
        self._on_parent_death = on_parent_death
        threading.Thread(target=self._read, name="orders", daemon=True).start()

    def __iter__(self) -> Iterator[bytes]:
        while (line := self._lines.get()) is not None:
            yield line

    def finished(self) -> None:
        """The order of the line that came last is done: from here on, the end of the input is no accident."""
        self._count(-1)

    def _read(self) -> None:
        # Unbuffered: at exit the interpreter would wait for the lock of a buffer that this thread is reading.
        rest = b""
        while data := os.read(0, 65_536):
            *lines, rest = (rest + data).split(b"\n")
            for line in filter(bytes.strip, lines):
                self._count(1)
                self._lines.put(line)
        if self._count(0):
            self._on_parent_death()
            os._exit(PARENT_DIED)
        self._lines.put(None)

    def _count(self, change: int) -> int:
        with self._lock:
            self._unfinished += change
            return self._unfinished


class ProgressReporter:
    """Tells how far a stage is: on the pipe at most five times a second (`rarely`: every ten seconds, and at the end of
    what is counted), in the store at most every five seconds.
    """

    def __init__(
        self,
        pipe: EventPipe,
        store: ObjectStore,
        run: str,
        stage: str,
        fingerprint: str,
        tally: Callable[[], Tally],
        *,
        shard: int | None = None,
        rarely: bool = False,
    ) -> None:
        self._pipe, self._store = pipe, store
        self._key = keys.progress(run, fingerprint, shard)
        self._stage, self._fingerprint = stage, fingerprint
        self._rarely = rarely
        self._tally = tally
        self._interval = LOG_INTERVAL if rarely else PIPE_INTERVAL
        self._phase = ""
        self._started = 0.0
        self._first = 0
        self._piped = self._stored = float("-inf")

    def __call__(self, phase: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._started, self._first = phase, now, done
            if not self._rarely:
                self._piped = float("-inf")
        finished = bool(total) and done >= total
        if not finished and now - self._piped < self._interval and now - self._stored < STORE_INTERVAL:
            return
        elapsed = now - self._started
        rate = (done - self._first) / elapsed if elapsed > 0 else 0.0
        progress = Progress(
            stage=self._stage,
            fingerprint=self._fingerprint,
            phase=phase,
            done=done,
            total=total,
            rate=round(rate, 3),
            eta_seconds=round((total - done) / rate, 1) if rate > 0 and total else None,
            note=note,
            updated_at=rfc3339(datetime.now(UTC), "milliseconds"),
            tally=self._tally(),
        )
        if now - self._stored >= STORE_INTERVAL:
            self._stored = now
            try:
                self._store.write(self._key, progress.to_json())
            except StoreError as error:
                print(f"progress is not written to the store: {error}", file=sys.stderr)  # noqa: T201
        if finished or now - self._piped >= self._interval:
            self._piped = now
            self._pipe.emit(progress)
