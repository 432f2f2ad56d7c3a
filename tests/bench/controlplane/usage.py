"""What a process uses, as the operating system counts it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

INTERVAL = 0.1
"""Seconds between looks at the memory."""
MIB = 1024 * 1024


@dataclass
class Usage:
    cpu_seconds: float = 0.0
    """User and system, from the beginning of the measurement."""
    rss_mib: float = 0.0
    """Resident memory when last looked at."""
    peak_rss_mib: float = 0.0
    """Largest resident memory seen."""


@contextmanager
def measured(pid: int) -> Iterator[Usage]:
    """Usage of a process during the block; the figures stand after it."""
    process, usage, stop = psutil.Process(pid), Usage(), threading.Event()
    begin = cpu_seconds(pid)

    def look() -> None:
        # What has ended keeps its last figures.
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                usage.rss_mib = process.memory_info().rss / MIB
                usage.peak_rss_mib = max(usage.peak_rss_mib, usage.rss_mib)
                usage.cpu_seconds = cpu_seconds(pid) - begin

    def keep_looking() -> None:
        while not stop.wait(INTERVAL):
            look()

    thread = threading.Thread(target=keep_looking, daemon=True)
    thread.start()
    try:
        yield usage
    finally:
        stop.set()
        thread.join()
        look()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process since it began."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
