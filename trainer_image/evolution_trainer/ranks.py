"""The other processes of this node in a training that several share, each with its own copy of the model and its share
of a step.

This process is the first of them. The others end with it, however it ends; and it does not outlive one that is lost.
Where other nodes take part, too, each has a worker that does the same.
"""

import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import torch
import torch.distributed as dist

from evolution.plan.worker import ExitCode
from evolution_trainer import preemption
from evolution_trainer.failure import StageFailed
from evolution_trainer.meeting import OUT_OF_MEMORY, SILENCE, Meeting
from evolution_trainer.memory import out_of_memory
from evolution_trainer.model import ModelSession
from evolution_trainer.peers import peer_lost

if TYPE_CHECKING:
    from evolution_trainer.optimizing import Plan

SORROW = 30.0
"""Seconds after the loss of a process until the others are ended from outside, if they have not noticed by then."""
PROOF = 5.0
"""Seconds that a process whose silence has just been noticed has to be seen ending."""
NO_MEMORY = 99
"""Exit code of a process that had not enough of it."""
PEER_LOST = 98
"""Exit code of a process that lost another: not the one to blame."""


@dataclass(frozen=True)
class Task:
    """What another process needs to know."""

    plan: "Plan"
    model: Path
    """Verified by the first process."""
    cache: Path
    meeting: Meeting
    threads: int


class Ranks:
    """The other processes, from the start of a `with` block to its end."""

    def __init__(self, session: ModelSession, plan: "Plan", meeting: Meeting) -> None:
        threads = max(1, torch.get_num_threads() // plan.processes_here)
        self._task = Task(plan, session.folder, session.cache, meeting, threads)
        self._device = session.device
        self._store: dist.Store | None = None
        self._others: list[BaseProcess] = []
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="ranks", daemon=True)

    def __enter__(self) -> Self:
        spawning = multiprocessing.get_context("spawn")
        for local in range(1, self._task.plan.processes_here):
            other = spawning.Process(target=_be, args=(self._task, local), name=f"rank-{local}", daemon=True)
            other.start()
            self._others.append(other)
        self._watcher.start()
        self._group = _group(self._task, 0, self._device)
        try:
            self._store = self._group.__enter__()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def ended(self) -> None:
        """All steps are done: see that the others came to their end as well."""
        self._watch_no_more()
        for local, other in enumerate(self._others, 1):
            other.join(SORROW)
            if other.exitcode != 0:
                raise self._lost(local, other)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._watch_no_more()
        lost: Exception | None = None
        if isinstance(error, RuntimeError | MemoryError) and out_of_memory(error):
            _tell_out_of_memory(self._store)
        elif isinstance(error, RuntimeError) and self._others:
            # Most likely what the loss of another looks like from here.
            ending = wait([other.sentinel for other in self._others], timeout=PROOF)
            for other in self._others:
                if other.sentinel in ending:
                    other.join(PROOF)  # its files close a moment before the system says how it ended
            blamed = [
                (n, other) for n, other in enumerate(self._others, 1) if other.exitcode not in (None, 0, PEER_LOST)
            ]
            lost = self._lost(*blamed[0]) if blamed else None
            if lost is None and self._task.plan.nodes == 1 and re.search("timed? ?out", str(error), re.IGNORECASE):
                name = f"one of the {len(self._others) + 1} processes that train together"
                lost = StageFailed("ProcessLost", f"{name} does not answer any more", 1)
        for other in self._others:
            other.kill()
        self._group.__exit__(None, None, None)
        for other in self._others:
            other.join()
        if lost:
            raise lost from error

    def _lost(self, local: int, other: BaseProcess) -> Exception:
        name = f"process {local + 1} of the {len(self._others) + 1} that train together"
        code = other.exitcode
        if code == NO_MEMORY:
            return MemoryError(f"{name} had not enough memory")
        if code == PEER_LOST and self._task.plan.nodes > 1:
            return StageFailed("PeerLost", f"{name} lost one on another node", ExitCode.PREEMPTED)
        if code is None:
            return StageFailed("ProcessLost", f"{name} does not come to its end", 1)
        if code < 0:
            return StageFailed("ProcessLost", f"{name} was killed by signal {-code}", 128 - code)
        return StageFailed("ProcessLost", f"{name} ended with exit code {code}; the worker's log says why", 1)

    def _watch_no_more(self) -> None:
        # Where two threads ask at once how a process ended, the system tells one of them, and the other nothing.
        self._over.set()
        self._watcher.join()

    def _watch(self) -> None:
        """Where the loss of another leaves this process waiting in vain."""
        while not self._over.wait(1.0):
            for local, other in enumerate(self._others, 1):
                if other.exitcode and not self._over.wait(SORROW):
                    lost = self._lost(local, other)
                    preemption.end_process(getattr(lost, "code", 1), getattr(lost, "reason", "OutOfMemory"), str(lost))


@contextmanager
def _group(task: Task, local: int, device: torch.device) -> Iterator[dist.Store]:
    """This process as number `local` of this node's, for torch and for the libraries that ask the environment."""
    plan, threads = task.plan, torch.get_num_threads()
    rank = plan.node * plan.processes_here + local
    place = {"RANK": rank, "LOCAL_RANK": local, "WORLD_SIZE": plan.processes, "LOCAL_WORLD_SIZE": plan.processes_here}
    environment = {name: str(value) for name, value in place.items()} | {"OMP_NUM_THREADS": str(task.threads)}
    if plan.nodes == 1:
        environment["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    else:
        # Accelerate asks for it, and does not use it: the processes have met by then.
        environment["MASTER_ADDR"] = "localhost"
        # A lost peer is an error in the next exchange, as with gloo; by default it would abort this process.
        environment["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = os.environ.get("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2")
    before = {name: os.environ.get(name) for name in environment}
    os.environ |= environment
    torch.set_num_threads(task.threads)
    try:
        meeting = task.meeting.store(SILENCE)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=meeting, rank=rank, world_size=plan.processes, timeout=SILENCE)
        yield meeting
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        torch.set_num_threads(threads)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def _tell_out_of_memory(store: dist.Store | None) -> None:
    """For others, to whom it looks like a loss once this process has left."""
    with suppress(RuntimeError):  # who holds the store may have gone already
        if store is not None:
            store.add(OUT_OF_MEMORY, 1)


def _be(task: Task, local: int) -> None:
    """What another process does, from its first line to its last."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the first process decides when to stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    from evolution_trainer.libraries import import_transformers

    import_transformers()
    from evolution_trainer.adapter import trainable
    from evolution_trainer.optimizing import optimize

    plan, session = task.plan, ModelSession(str(task.model), task.cache)
    if torch.cuda.is_available():
        torch.cuda.set_device(local)
    try:
        with _group(task, local, session.device) as store:
            try:
                with trainable(session, plan.parameters, plan.adapter) as model:
                    optimize(model, session, plan, None, lambda *_, **__: None)
            except (RuntimeError, MemoryError) as error:
                if out_of_memory(error):
                    _tell_out_of_memory(store)
                raise
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error) and not peer_lost(error):
            raise
        print(f"process {local + 1}: {error}", file=sys.stderr)  # noqa: T201
        os._exit(NO_MEMORY if out_of_memory(error) else PEER_LOST)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
