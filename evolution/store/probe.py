"""Tries a store out: of writers that race for the same object exactly one may win, or a stage is committed twice.

`python -m evolution.store.probe [URI]`, by default EVOLUTION_STORE; exit code 1 says that the store is not fit.
"""

import multiprocessing
import os
import sys
import threading
import uuid
from collections.abc import Sequence
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier

from evolution.store import keys
from evolution.store.base import ObjectStore, StoreError
from evolution.store.open import open_store

PROCESSES = 4
WRITERS = 32
ROUNDS = 20


def race(uri: str, prefix: str, *, writers: int, rounds: int) -> list[list[bytes]]:
    """For each round, what the writers that were told to have created `<prefix><round>` had written."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(writers)
    wins: SimpleQueue[list[tuple[int, bytes]]] = context.SimpleQueue()
    arguments = (uri, prefix, writers // PROCESSES, rounds, start, wins)
    processes = [context.Process(target=_write, args=(number, *arguments)) for number in range(PROCESSES)]
    for process in processes:
        process.start()
    won: list[list[bytes]] = [[] for _ in range(rounds)]
    for _ in range(writers):
        for round_, data in wins.get():
            won[round_].append(data)
    for process in processes:
        process.join()
    return won


def _write(
    number: int,
    uri: str,
    prefix: str,
    threads: int,
    rounds: int,
    start: Barrier,
    wins: "SimpleQueue[list[tuple[int, bytes]]]",
) -> None:
    def writer(thread: int) -> None:
        won: list[tuple[int, bytes]] = []
        try:
            store = open_store(uri)
            for round_ in range(rounds):
                data = f"process {number} thread {thread} round {round_}".encode()
                start.wait(timeout=120)
                if store.create(f"{prefix}{round_}", data):
                    won.append((round_, data))
        finally:
            wins.put(won)

    running = [threading.Thread(target=writer, args=(thread,)) for thread in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def defects(store: ObjectStore, *, writers: int = WRITERS, rounds: int = ROUNDS) -> list[str]:
    """What is wrong with it, in words; what was written is removed again.

    Raises:
        StoreError: it cannot be read from or written to.
    """
    prefix = f"{keys.PROBE}{uuid.uuid4().hex}/"
    store.write(f"{prefix}first", b"one object")
    try:
        if store.read(f"{prefix}first") != b"one object":
            return ["an object that was just written reads differently"]
        return judged(store, prefix, race(store.uri, prefix, writers=writers, rounds=rounds))
    finally:
        for found in list(store.list(prefix)):
            store.delete(found.key)


def judged(store: ObjectStore, prefix: str, won: Sequence[Sequence[bytes]]) -> list[str]:
    """What is wrong with a store in which these writers of each round were told that they had won."""
    found = []
    for round_, winners in enumerate(won):
        if len(winners) != 1:
            found.append(f"race {round_}: {len(winners)} writers were told that they had won, where it must be one")
        elif store.read(f"{prefix}{round_}") != winners[0]:
            found.append(f"race {round_}: the object is not that of the writer that was told that it had won")
    return found


def main(arguments: Sequence[str]) -> int:
    uri = arguments[0] if arguments else os.environ.get("EVOLUTION_STORE", "")
    if not uri:
        sys.stderr.write("no store: give its URI, or set EVOLUTION_STORE to s3://bucket/prefix or file:///folder\n")
        return 1
    try:
        found = defects(open_store(uri))
    except StoreError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for defect in found:
        sys.stderr.write(f"{defect}\n")
    verdict = "is not fit: see docs/store.md, 'Once only'" if found else "is fit"
    sys.stdout.write(f"{uri} {verdict}: {ROUNDS} races of {WRITERS} writers, {len(found)} of them wrong\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
