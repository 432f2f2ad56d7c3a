"""A resident worker: one child process that executes orders one after the other and keeps the model loaded."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO
from uuid import uuid4

from pydantic import ValidationError

from evolution.plan.order import Order
from evolution.plan.worker import Event, Failed, OrderDone, parse_event

GRACE_SECONDS = 30.0
"""How long a worker may take to end after it was asked to: it saves what it has done so far."""

LAPTOP = "laptop-"
"""What names of workers on this machine begin with; on a cluster workers are named after their pods."""


class Worker:
    """The child process. It leaves by itself when this process dies, because its standard input then closes."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.name = f"{LAPTOP}{uuid4().hex[:12]}"
        """Told by the process in its tallies."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "evolution_trainer", "--resident"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, "EVOLUTION_GRACE_SECONDS": str(GRACE_SECONDS), "EVOLUTION_WORKER": self.name},
                start_new_session=True,  # Ctrl-C reaches this process only, which then ends the worker in order
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def execute(self, order: Order) -> Iterator[Event]:
        """Events of `order` as they happen; ends after `OrderDone` or `Failed`, or when the process dies."""
        try:
            self._stdin.write(order.to_json() + b"\n")
            self._stdin.flush()
        except BrokenPipeError:
            return
        for line in self._stdout:
            for event in _events([line]):
                yield event
                if isinstance(event, OrderDone | Failed):
                    return

    def exit_code(self) -> int:
        """Wait for the end: the worker's exit code, 128 + n after signal n."""
        try:
            code = self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return code if code >= 0 else 128 - code

    def stop(self) -> list[Event]:
        """End the process, which may save what it has done so far: what it still said. Harmless if it has ended."""
        if self._stdout.closed:
            return []
        self._process.terminate()
        self.exit_code()
        os.set_blocking(self._stdout.fileno(), False)  # a child of the worker may hold the other end
        said = list(_events((self._stdout.read() or b"").splitlines()))
        # Only now: a worker whose input closes amid an order believes this process dead, and saves nothing.
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        self._stdout.close()
        return said

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout


def _events(lines: Iterable[bytes]) -> Iterator[Event]:
    """Without a line that the death of the process cut off in the middle."""
    for line in lines:
        with contextlib.suppress(ValidationError):
            yield parse_event(line)
