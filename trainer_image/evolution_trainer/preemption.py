"""The end that a signal asks for, in time even amid a computation of seconds."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

PATIENCE = 1.0
"""Seconds until the process is ended from outside the main thread, which may be in the middle of a matrix product."""


class Preempted(BaseException):
    """SIGTERM or SIGINT arrived."""


def raise_on_signals(give_up: Callable[[], None]) -> None:
    """From here on SIGTERM and SIGINT raise `Preempted` in the main thread. Python does so between two instructions; if
    none ends within PATIENCE, or what was raised got lost, `give_up` is called from another thread. It must end the
    process.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # Written to the moment the signal arrives, by the interpreter itself.
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, _raise)
    signal.signal(signal.SIGINT, _raise)
    threading.Thread(target=_watch, args=(reading, give_up), name="preemption", daemon=True).start()


def _raise(_signal: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise Preempted


def _watch(reading: int, give_up: Callable[[], None]) -> None:
    while True:
        arrived = os.read(reading, 1)
        if arrived and arrived[0] in (signal.SIGTERM, signal.SIGINT):
            break
    threading.Event().wait(PATIENCE)
    give_up()
