"""The end that a signal asks for: at once where nothing is lost by it, else as soon as what is under way is saved."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

PATIENCE = 1.0
"""Seconds until the process is ended from outside the main thread, which may be in the middle of a matrix product."""
GRACE_SECONDS = "EVOLUTION_GRACE_SECONDS"
"""How long after the signal the process is killed."""
USUAL_GRACE = 10.0
MARGIN = 5.0
"""Seconds of the grace that are left for the end itself; a fifth of a short one."""


class Preempted(BaseException):
    """SIGTERM or SIGINT arrived."""


class GiveUp(Protocol):
    """Ends the process from whichever thread: after a signal, or else with this exit code and for this reason."""

    def __call__(self, code: int = ..., reason: str = ..., message: str = ...) -> object: ...


@dataclass
class _Now:
    asked: bool = False
    """A signal has arrived."""
    raised: bool = False
    """The main thread has been told."""
    saving: int = 0
    """Depth of `deferred` blocks."""
    give_up: Callable[..., object] | None = None


_now = _Now()


def raise_on_signals(give_up: GiveUp) -> None:
    """From here on SIGTERM and SIGINT raise `Preempted` in the main thread, outside of `deferred` blocks.

    Python does so between two instructions; if none ends within PATIENCE, or what was raised got lost, or a `deferred`
    block lasts until the grace is nearly over, `give_up` is called from another thread.
    """
    _now.give_up = give_up
    grace = float(os.environ.get(GRACE_SECONDS) or USUAL_GRACE)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # Written to the moment the signal arrives, by the interpreter itself.
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, _arrived)
    signal.signal(signal.SIGINT, _arrived)
    threading.Thread(target=_watch, args=(reading, grace, give_up), name="preemption", daemon=True).start()


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """A block that a signal does not interrupt: `Preempted` is raised at its end. What is handed out tells whether a
    signal has come, so that a long block can end early.
    """
    _now.saving += 1
    try:
        yield asked
    finally:
        _now.saving -= 1
        if _now.asked and not _now.raised and not _now.saving:
            _now.raised = True
            raise Preempted


def asked() -> bool:
    """Whether a signal has come."""
    return _now.asked


def end_process(code: int, reason: str, message: str) -> None:
    """From a thread that knows that the main thread will not come back: end the process and say why."""
    if _now.give_up is not None:
        _now.give_up(code, reason, message)
    os._exit(code)


def _arrived(_signal: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _now.asked = True
    if not _now.saving:
        _now.raised = True
        raise Preempted


def _watch(reading: int, grace: float, give_up: Callable[[], object]) -> None:
    while True:
        arrived = os.read(reading, 1)
        if arrived and arrived[0] in (signal.SIGTERM, signal.SIGINT):
            break
    latest = time.monotonic() + max(PATIENCE, grace - min(MARGIN, grace / 5))
    patience = PATIENCE
    while patience > 0 and time.monotonic() < latest:
        threading.Event().wait(0.1)
        patience = PATIENCE if _now.saving else patience - 0.1
    give_up()
