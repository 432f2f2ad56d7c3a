"""Signs of life of the nodes that train together: one that has gone without a word leaves no other waiting for long."""

import threading
import time
from typing import Self

import torch.distributed as dist

from evolution.plan.worker import ExitCode
from evolution_trainer import preemption
from evolution_trainer.peers import in_short

BEAT = 5.0
"""Seconds between two signs of life."""
LOST = 120.0
"""Seconds without one after which a node counts as lost: its power may have failed, of which no network tells."""
SORROW = 30.0
"""Seconds until the process is ended from outside its main thread, if that has not noticed the loss by then."""


class Pulse:
    """Of one node during an attempt, from the start of a `with` block to its end."""

    def __init__(self, store: dist.Store, name: str, members: tuple[str, ...]) -> None:
        """`store`: a connection of its own. `members`: the names of nodes 1, 2, …, watched by node 0 alone; the others
        notice that the store is gone.
        """
        self._store = store
        self._name = name
        self._members = members
        self._heard = {member: (0, time.monotonic()) for member in members}
        self._answered = time.monotonic()
        self._lost = ""
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    @staticmethod
    def key(node: int) -> str:
        """Where the node's present name is found."""
        return f"node-{node}"

    def __enter__(self) -> Self:
        # Two, since the store of a node whose power has failed may answer neither with a beat nor with an error.
        for run in (self._beat, self._watch):
            self._threads.append(threading.Thread(target=run, name=f"pulse-{run.__name__}", daemon=True))
            self._threads[-1].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(BEAT)

    def _beat(self) -> None:
        while not self._lost:
            self._lost = self.beat()
            self._answered = time.monotonic()
            if self._over.wait(BEAT):
                return

    def _watch(self) -> None:
        while not self._over.wait(BEAT):
            # Asked twice: all of this process may have stood still, not the others.
            if self.lost() and not self._over.wait(SORROW) and (lost := self.lost()):
                message = f"{lost}; once all nodes are there again, the training goes on from its newest checkpoint"
                preemption.end_process(ExitCode.PREEMPTED, "PeerLost", message)
                return

    def lost(self) -> str:
        """Who is, for people; empty if nobody."""
        if not self._lost and time.monotonic() - self._answered > LOST:
            return f"node 0 has not answered for {LOST:.0f} seconds"
        return self._lost

    def beat(self) -> str:
        """Give a sign of life, and see to those of the others: who is lost, for people; empty if nobody."""
        try:
            self._store.add(f"beat-{self._name}", 1)
            for node, member in enumerate(self._members, 1):
                if self._store.get(self.key(node)).decode() != member:
                    return f"node {node} was started anew amid the training"
                beats, now = self._store.add(f"beat-{member}", 0), time.monotonic()
                if beats != self._heard[member][0]:
                    self._heard[member] = beats, now
                elif now - self._heard[member][1] > LOST:
                    return f"node {node} has given no sign of life for {LOST:.0f} seconds"
        except RuntimeError as error:
            return f"node 0 does not answer any more ({in_short(error)})"
        return ""
