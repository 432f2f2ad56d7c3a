"""What a worker takes from its surroundings in a pod, and what it leaves there."""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from evolution.plan.worker import ExitCode, Failed, OrderDone
from evolution.store import keys
from evolution.store.base import ObjectStore, StoreUnavailable
from evolution_trainer.failure import StageFailed

ORDER = "EVOLUTION_ORDER"
"""The order as JSON."""
SHARD_INDEX = "EVOLUTION_SHARD_INDEX"
"""Which of the workers that share a stage this one is, from 0."""
NODE_INDEX = "EVOLUTION_NODE_INDEX"
"""Which of the workers that train together on several nodes this one is, from 0."""
LEADER = "EVOLUTION_LEADER"
"""Where the first of them is found: host:port."""
TERMINATION_MESSAGE = "EVOLUTION_TERMINATION_MESSAGE"
"""File for the last word of a worker."""
MESSAGE_BYTES = 4096
"""More of a termination message Kubernetes does not keep."""
PATIENCE = 60.0
"""Seconds to wait for a store that cannot be reached before the pod is given up."""
LONGEST_PAUSE = 15.0


def shard_index(shards: int) -> int:
    """This worker's share of a stage.

    Raises:
        StageFailed: OrderInvalid, if the environment does not tell it, or not one from 0 to `shards` - 1.
    """
    given = os.environ.get(SHARD_INDEX, "")
    if not given.isdecimal() or int(given) >= shards:
        raise StageFailed(
            "OrderInvalid",
            f"{SHARD_INDEX} is {given!r}, but the order is shared by {shards} workers: 0 to {shards - 1} are expected",
            ExitCode.BAD_SPEC,
        )
    return int(given)


@dataclass(frozen=True)
class Place:
    """Of a worker among those that train together, each on its node."""

    node: int
    """From 0, the node that leads."""
    nodes: int
    host: str
    """Of the node that leads, as is the port."""
    port: int


def place(nodes: int) -> Place:
    """This worker's place among `nodes`.

    Raises:
        StageFailed: OrderInvalid, if the environment does not tell it.
    """
    node, leader = os.environ.get(NODE_INDEX, ""), os.environ.get(LEADER, "")
    if not node.isdecimal() or int(node) >= nodes:
        raise StageFailed(
            "OrderInvalid",
            f"{NODE_INDEX} is {node!r}, but the order is for {nodes} nodes: 0 to {nodes - 1} are expected",
            ExitCode.BAD_SPEC,
        )
    host, _, port = leader.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise StageFailed(
            "OrderInvalid",
            f"{LEADER} is {leader!r}, but the order is for {nodes} nodes: host:port of node 0 is expected",
            ExitCode.BAD_SPEC,
        )
    return Place(int(node), nodes, host, int(port))


def leave_message(last: Failed | OrderDone) -> None:
    """Write the event to the file that TERMINATION_MESSAGE names, with a message shortened to what fits."""
    path = os.environ.get(TERMINATION_MESSAGE)
    if not path:
        return
    try:
        Path(path).write_bytes(shortened(last))
    except OSError as error:
        print(f"{TERMINATION_MESSAGE}: the message cannot be written: {error}", file=sys.stderr)  # noqa: T201


def shortened(last: Failed | OrderDone) -> bytes:
    """The event as JSON of at most MESSAGE_BYTES, its tally whole."""
    if isinstance(last, OrderDone):
        return last.to_json()
    message = last.message
    while len(data := last.model_copy(update={"message": message}).to_json()) > MESSAGE_BYTES:
        # A character takes up to six bytes; at least one goes each time.
        message = message[: len(message) - 2 - (len(data) - MESSAGE_BYTES) // 6] + "…"
    return data


def wait_for(store: ObjectStore, patience: float = PATIENCE) -> None:
    """Return once the store answers.

    Raises:
        StoreUnavailable: it still does not after `patience` seconds.
        StoreRefused: it answers, but not this worker.
    """
    deadline = time.monotonic() + patience
    pause = 1.0
    while True:
        try:
            store.stat(f"{keys.PROBE}worker")
            return
        except StoreUnavailable as error:
            if time.monotonic() + pause > deadline:
                raise
            print(f"{error}; trying again in {pause:.0f} s", file=sys.stderr)  # noqa: T201
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
