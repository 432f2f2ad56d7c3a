"""Writers in several processes and threads that all try to create the same objects at the same moment."""

import multiprocessing
import threading
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier

from evolution.store.open import open_store

PROCESSES = 4


def race(uri: str, *, writers: int, rounds: int) -> list[list[bytes]]:
    """For each round, what the writers that were told to have created `race/<round>` had written."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(writers)
    wins: SimpleQueue[list[tuple[int, bytes]]] = context.SimpleQueue()
    arguments = (uri, writers // PROCESSES, rounds, start, wins)
    processes = [context.Process(target=_write, args=(n, *arguments)) for n in range(PROCESSES)]
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
    number: int, uri: str, threads: int, rounds: int, start: Barrier, wins: "SimpleQueue[list[tuple[int, bytes]]]"
) -> None:
    def writer(thread: int) -> None:
        won: list[tuple[int, bytes]] = []
        try:
            store = open_store(uri)
            for round_ in range(rounds):
                data = f"process {number} thread {thread} round {round_}".encode()
                start.wait(timeout=120)
                if store.create(f"race/{round_}", data):
                    won.append((round_, data))
        finally:
            wins.put(won)

    running = [threading.Thread(target=writer, args=(n,)) for n in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
