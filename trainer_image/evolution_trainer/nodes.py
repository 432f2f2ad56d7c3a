"""Workers on several nodes that train together: how they meet, agree on what to compute, and come to one end.

Node 0 leads. It holds a `TCPStore`, over which the others say that they are there, and learn from which checkpoint all
go on, with how many rows at once; torch.distributed's process group meets over it, too. What goes over it is JSON and
numbers. One that is lost ends the others; all are started again, and meet again.
"""

import socket
import sys
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress

import torch.distributed as dist

from evolution.plan.manifest import Record
from evolution.plan.worker import ExitCode
from evolution_trainer.failure import StageFailed
from evolution_trainer.meeting import OUT_OF_MEMORY, SILENCE, NodeMeeting, connected
from evolution_trainer.memory import out_of_memory
from evolution_trainer.peers import in_short, peer_lost
from evolution_trainer.pod import Place
from evolution_trainer.pulse import Pulse
from evolution_trainer.timing import Clock

MISSING = SILENCE.total_seconds()
"""Seconds until a worker gives up that waits for other nodes."""
PAUSE = 0.5
"""Seconds between two looks at what the others have said."""
LOOK = 10.0
"""Seconds between two looks for the stage's manifest."""
ADVICE = (
    "see whether a pod of the stage waits to be scheduled or fails, whether the JobSet's headless Service resolves, "
    "and whether a NetworkPolicy lets the run's pods reach each other"
)
PARTING = 5.0
"""Seconds that node 0 stays for the others to hear that the stage is committed; who does not, finds the manifest."""
_AGREED, _COMMITTED, _HEARD = "agreed", "committed", "heard"


class StageDone(Exception):
    """The stage's manifest stands: there is nothing to train."""


class Terms(Record):
    """What an attempt at the training's steps computes."""

    processes: int
    """Of each node."""
    rows_at_once: int
    checkpoint: str = ""
    """Name of the one to go on from; empty to begin at the beginning."""


class Agreed(Record):
    """An attempt as node 0 announces it."""

    attempt: int
    members: tuple[str, ...]
    """Who takes part, as they have named themselves: nodes 1, 2, …"""
    terms: Terms


class Nodes(ABC):
    """Those that train together, as one of them sees them."""

    def __init__(self, place: Place, done: Callable[[], bool], clock: Clock) -> None:
        """`done`: whether the stage's manifest stands."""
        self.place = place
        self._done = done
        self._clock = clock
        self._attempt = 0
        self._members: tuple[str, ...] = ()
        self._looked = time.monotonic()

    @abstractmethod
    def agree(self, offer: Callable[[], Terms]) -> Terms:
        """What all compute in the next attempt: what `offer` says on node 0.

        Raises:
            StageDone: nobody needs to.
            StageFailed: NodesMissing; PeerLost.
        """

    @property
    @abstractmethod
    def meeting(self) -> NodeMeeting:
        """Where the processes of this attempt find each other."""

    @property
    @abstractmethod
    def _store(self) -> dist.TCPStore: ...

    @abstractmethod
    def pulse(self) -> Pulse:
        """To be held while this attempt lasts."""

    def see_to(self, error: Exception) -> None:
        """An attempt ended with that: return if another with half as many rows will do, for all nodes.

        Raises:
            StageFailed: PeerLost, if that is what it comes from; else `error` itself.
        """
        if out_of_memory(error):
            return
        if not peer_lost(error):
            raise error
        with suppress(RuntimeError):  # node 0 may be the one that is lost
            if self.meeting.within(self._store).add(OUT_OF_MEMORY, 0):
                return
        raise _lost(f"of the {self.place.nodes} nodes that train together, another is lost ({in_short(error)})")

    def _look(self) -> None:
        """Raises StageDone where the manifest has appeared; now and then."""
        if time.monotonic() - self._looked > LOOK:
            self._looked = time.monotonic()
            if self._done():
                raise StageDone


class Leader(Nodes):
    """Node 0."""

    def __init__(
        self, place: Place, done: Callable[[], bool], clock: Clock, progress: Callable[[str, int, int], object]
    ) -> None:
        super().__init__(place, done, clock)
        self._progress = progress
        try:
            self._held = dist.TCPStore("localhost", place.port, is_master=True, wait_for_workers=False, timeout=SILENCE)
        except dist.DistNetworkError as error:
            message = f"node 0 cannot listen on port {place.port} for the other nodes: {in_short(error)}"
            raise StageFailed("PortTaken", message, 1) from error

    def agree(self, offer: Callable[[], Terms]) -> Terms:
        with self._clock.waiting():
            self._members = self._all_there()
        terms = offer()
        self._attempt += 1
        agreed = Agreed(attempt=self._attempt, members=self._members, terms=terms)
        self._held.set(_AGREED, agreed.to_json().decode())
        return terms

    def committed(self) -> None:
        """The others may go."""
        self._held.set(_COMMITTED, "yes")
        latest = time.monotonic() + PARTING
        while self._held.add(_HEARD, 0) < self.place.nodes - 1 and time.monotonic() < latest:
            time.sleep(PAUSE / 10)

    @property
    def meeting(self) -> NodeMeeting:
        return NodeMeeting("localhost", self.place.port, self._attempt)

    @property
    def _store(self) -> dist.TCPStore:
        return self._held

    def pulse(self) -> Pulse:
        return Pulse(connected("localhost", self.place.port, SILENCE), "leader", self._members)

    def _all_there(self) -> tuple[str, ...]:
        nodes, latest = self.place.nodes, time.monotonic() + MISSING
        while True:
            keys = {node: Pulse.key(node) for node in range(1, nodes)}
            there = {node for node, key in keys.items() if self._held.check([key])}
            self._progress("nodes", 1 + len(there), nodes)
            if len(there) == len(keys):
                return tuple(self._held.get(key).decode() for key in keys.values())
            self._look()
            if time.monotonic() > latest:
                missing = ", ".join(str(node) for node in keys if node not in there)
                what = (
                    f"of {nodes} nodes that train together, node {missing} has not come in {MISSING / 60:.0f} minutes"
                )
                raise StageFailed("NodesMissing", f"{what}; {ADVICE}", 1)
            time.sleep(PAUSE)


class Follower(Nodes):
    """Every other node."""

    def __init__(self, place: Place, done: Callable[[], bool], clock: Clock) -> None:
        super().__init__(place, done, clock)
        self._name = uuid.uuid4().hex
        self._found: dist.TCPStore | None = None

    def agree(self, offer: Callable[[], Terms]) -> Terms:  # noqa: ARG002
        with self._clock.waiting():
            if self._found is None:
                self._found = self._joined()
            agreed = self._next()
        if agreed is None:
            raise StageDone
        self._attempt, self._members = agreed.attempt, agreed.members
        return agreed.terms

    def until_committed(self) -> None:
        """Wait until node 0 has committed the stage.

        Raises:
            StageFailed: PeerLost, if it did not come to that.
        """
        with self._clock.waiting(), suppress(StageDone):
            if self._next() is not None:
                raise _lost("node 0 begins the steps again")

    @property
    def meeting(self) -> NodeMeeting:
        return NodeMeeting(self.place.host, self.place.port, self._attempt)

    @property
    def _store(self) -> dist.TCPStore:
        assert self._found is not None, "nothing was agreed yet"
        return self._found

    def pulse(self) -> Pulse:
        return Pulse(connected(self.place.host, self.place.port, SILENCE), self._name, ())

    def _joined(self) -> dist.TCPStore:
        host, port = self.place.host, self.place.port
        latest = time.monotonic() + MISSING
        print(f"node {self.place.node} of {self.place.nodes} looks for node 0 at {host}:{port}", file=sys.stderr)  # noqa: T201
        while True:
            try:
                socket.create_connection((host, port), timeout=5.0).close()
                store = connected(host, port, SILENCE)
                store.set(Pulse.key(self.place.node), self._name)
                return store
            except (OSError, dist.DistNetworkError) as error:
                # Its name is not known before its pod is, and it listens when it has read what it trains on.
                cause = in_short(error)
            self._look()
            if time.monotonic() > latest:
                what = f"node 0, which leads the training, is not at {host}:{port} after {MISSING / 60:.0f} minutes"
                raise StageFailed("NodesMissing", f"{what} ({cause}); {ADVICE}", 1)
            time.sleep(PAUSE)

    def _next(self) -> Agreed | None:
        """The next attempt with this node; None once the stage is committed."""
        while True:
            try:
                if self._store.check([_COMMITTED]):
                    self._store.add(_HEARD, 1)
                    return None
                if self._store.check([_AGREED]):
                    agreed = Agreed.model_validate_json(self._store.get(_AGREED))
                    if agreed.attempt > self._attempt and self._name in agreed.members:
                        return agreed
            except RuntimeError as error:
                if not peer_lost(error):
                    raise
                if self._done():
                    raise StageDone from error
                raise _lost(f"node 0 does not answer any more ({in_short(error)})") from error
            self._look()
            time.sleep(PAUSE)


def _lost(what: str) -> StageFailed:
    message = f"{what}; once all are there again, the training goes on from its newest checkpoint"
    return StageFailed("PeerLost", message, ExitCode.PREEMPTED)
