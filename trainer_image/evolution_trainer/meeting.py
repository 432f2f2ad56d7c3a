"""Where processes that train together find each other: a file on one node, the store that node 0 holds on several."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import torch.distributed as dist

SILENCE = timedelta(minutes=30)
"""That processes wait for each other, at the start and in every step."""
OUT_OF_MEMORY = "out-of-memory"
"""Counts, in the store of a meeting, the processes that left for that reason."""


class Meeting(Protocol):
    """Sent to the other processes of this node."""

    def store(self, silence: timedelta) -> dist.Store:
        """A connection of its own."""
        ...


@dataclass(frozen=True)
class FileMeeting:
    path: Path
    processes: int

    def store(self, silence: timedelta) -> dist.Store:
        store = dist.FileStore(str(self.path), self.processes)
        store.set_timeout(silence)
        return store


@dataclass(frozen=True)
class NodeMeeting:
    """One attempt of several nodes; what is left of an earlier one does not disturb it."""

    host: str
    port: int
    attempt: int

    def store(self, silence: timedelta) -> dist.Store:
        return self.within(connected(self.host, self.port, silence))

    def within(self, whole: dist.Store) -> dist.Store:
        """The attempt's part of what node 0 holds."""
        return dist.PrefixStore(f"attempt-{self.attempt}", whole)


def connected(host: str, port: int, silence: timedelta) -> dist.TCPStore:
    """A connection to the store that node 0 holds."""
    return dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=silence)
