"""A kubelet whose pods do nothing but commit the stages of their orders, hundreds a second, with hardly any CPU.

Nothing of a pod's environment is used but `EVOLUTION_ORDER`: credentials of the store come from this process's own.

`python -m controlplane.simulated_kubelet KUBECONFIG CACHE SECONDS NODE...`, in tests/, runs one until it is
interrupted: a process of its own beside something that is measured.
"""

import heapq
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from controlplane.client import Api, Json
from controlplane.container_environment import expand
from controlplane.kubelet import Kubelet, Node, Pods, now, until_interrupted
from controlplane.pod_status import Phase, pod_status, running, terminated
from simulated_worker import commit_order, tally_of, tally_of_unfinished

from evolution.plan import worker
from evolution.plan.order import Order
from evolution.plan.tally import Spending, Tally
from evolution.plan.worker import ExitCode
from evolution.store import keys
from evolution.store.artifacts import Artifacts
from evolution.store.base import StoreUnavailable
from evolution.store.open import open_store

THREADS = 4
INDEX = "batch.kubernetes.io/job-completion-index"
TERMINATED = 143
SHARE = Spending(productive=1000)
"""What a worker spends on its share of a stage that another one commits."""


@dataclass(frozen=True)
class Success:
    """Every stage of the order is committed; of one that several pods share by the one with index 0."""


@dataclass(frozen=True)
class Failed:
    """Nothing is committed."""

    exit_code: int
    message: str = ""
    """Termination message."""


@dataclass(frozen=True)
class Hang:
    """It runs until it is deleted."""

    spent: Spending | None = None
    """What it tells the store of its first stage when it starts."""
    exit_code: int = TERMINATED
    """How it ends then; with 44 it says at last what it has spent."""


Outcome: TypeAlias = Success | Failed | Hang
Decide: TypeAlias = Callable[[Json, Order], Outcome]
"""From a pod and its order to how it will end."""


class SimulatedRuntime:
    """A few threads for any number of pods."""

    def __init__(self, pods: Pods, cache: Path, seconds: float, outcome: Decide) -> None:
        self._pods = pods
        self._cache = cache
        self._seconds = seconds
        self._outcome = outcome
        self._workers = ThreadPoolExecutor(THREADS, "simulated-pods")
        self._agenda = Agenda()
        self._stores: dict[str, Artifacts] = {}
        self._live: dict[str, str] = {}
        """When each pod started that has not ended, by uid."""
        self._hanging: dict[str, tuple[int, Tally | None]] = {}
        """How pods that hang will end, by uid: exit code, and what they say then."""
        self._lock = threading.Lock()

    def run(self, pod: Json) -> None:
        self._live[pod["metadata"]["uid"]] = now()
        self._workers.submit(self._begin, pod)

    def stop(self, pod: Json) -> None:
        self._workers.submit(self._interrupt, pod)

    def forget(self, uid: str) -> None:
        self._live.pop(uid, None)
        self._hanging.pop(uid, None)

    def close(self) -> None:
        self._agenda.close()
        self._workers.shutdown(cancel_futures=True)

    def _begin(self, pod: Json) -> None:
        try:
            order = pod_order(pod)
            outcome = self._outcome(pod, order)
        except Exception as error:  # No order, or one that cannot be read: a worker would die of it.
            self._end(pod, ExitCode.BAD_SPEC, repr(error))
            return
        hangs = isinstance(outcome, Hang)
        if isinstance(outcome, Hang):
            self._hanging[pod["metadata"]["uid"]] = outcome.exit_code, self._tell(pod, order, outcome)
        if hangs or self._seconds > 0:
            started = self._live.get(pod["metadata"]["uid"], now())
            self._report(pod, "Running", running(started), started)
        if not hangs and self._seconds > 0:
            self._agenda.after(self._seconds, lambda: self._workers.submit(self._finish, pod, order, outcome))
        elif not hangs:
            # Too short to be seen running, as short pods are: one report instead of two.
            self._finish(pod, order, outcome)

    def _finish(self, pod: Json, order: Order, outcome: Outcome) -> None:
        if pod["metadata"]["uid"] not in self._live:
            return
        match outcome:
            case Success():
                self._end(pod, *self._commit(pod, order))
            case Failed(exit_code, message):
                self._end(pod, exit_code, message)

    def _commit(self, pod: Json, order: Order) -> tuple[int, str]:
        """Exit code and last words."""
        name, started = pod["metadata"]["name"], self._live.get(pod["metadata"]["uid"], now())
        index = pod["metadata"].get("annotations", {}).get(INDEX)
        try:
            if index not in (None, "0"):
                tally = Tally(worker=name, started_at=started).adding(order.stages[0].kind, SHARE)
            else:
                tally = tally_of(name, started, commit_order(order, self._artifacts(order.store)))
        except StoreUnavailable as error:
            return ExitCode.STORE_UNAVAILABLE, str(error)
        except Exception as error:  # As a worker that dies of it.
            return 1, repr(error)
        return ExitCode.COMMITTED, worker.OrderDone(tally=tally).to_json().decode()

    def _tell(self, pod: Json, order: Order, hang: Hang) -> Tally | None:
        """Report progress, as a worker at its first stage does."""
        if hang.spent is None:
            return None
        meta, first = pod["metadata"], order.stages[0]
        tally = tally_of_unfinished(meta["name"], self._live.get(meta["uid"], now()), first, hang.spent)
        index = int(meta["annotations"][INDEX]) if order.shards > 1 else None
        report = worker.Progress(
            stage=first.id,
            fingerprint=tally.unfinished,
            phase="steps",
            done=1,
            total=2,
            updated_at=now(),
            tally=tally,
        )
        place = keys.progress(order.run, tally.unfinished, index)
        self._artifacts(order.store).store.write(place, report.to_json())
        return tally

    def _artifacts(self, store: str) -> Artifacts:
        with self._lock:
            if store not in self._stores:
                self._stores[store] = Artifacts(open_store(store), self._cache)
            return self._stores[store]

    def _interrupt(self, pod: Json) -> None:
        exit_code, tally = self._hanging.pop(pod["metadata"]["uid"], (TERMINATED, None))
        if exit_code == ExitCode.PREEMPTED and tally:
            said = worker.Failed(code=exit_code, reason="Preempted", message="was told to stop", tally=tally)
            self._end(pod, exit_code, said.to_json().decode())
        else:
            self._end(pod, exit_code)
        self._pods.remove(pod)

    def _end(self, pod: Json, exit_code: int, message: str = "") -> None:
        started = self._live.pop(pod["metadata"]["uid"], None)
        if started is None:
            return
        self._report(pod, "Failed" if exit_code else "Succeeded", terminated(exit_code, started, message), started)

    def _report(self, pod: Json, phase: Phase, state: Json, started: str) -> None:
        states = {container["name"]: state for container in pod["spec"]["containers"]}
        self._pods.report(pod, pod_status(pod, phase, states, started=started))


class Agenda:
    """Calls functions later, all in one thread."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        threading.Thread(target=self._work, daemon=True).start()

    def after(self, seconds: float, call: Callable[[], object]) -> None:
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), call))
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _work(self) -> None:
        with self._changed:
            while not self._closed:
                if self._due and self._due[0][0] <= time.monotonic():
                    heapq.heappop(self._due)[2]()
                else:
                    self._changed.wait(max(0.0, self._due[0][0] - time.monotonic()) if self._due else None)


@contextmanager
def simulated_kubelet(
    kubeconfig: Path,
    cache: Path,
    nodes: Sequence[Node],
    *,
    seconds: float = 0.0,
    outcome: Decide = lambda _pod, _order: Success(),
) -> Iterator[Kubelet]:
    """Nodes whose pods end after `seconds`, as `outcome` says, until the end of the block.

    `cache` is a folder as `Artifacts` uses one. The nodes stay registered.
    """
    pods = Pods(Api(kubeconfig))
    kubelet = Kubelet(pods, SimulatedRuntime(pods, cache, seconds, outcome), nodes)
    kubelet.start()
    try:
        yield kubelet
    finally:
        kubelet.close()


def large_nodes(*names: str) -> list[Node]:
    """With room for thousands of pods."""
    return [Node(name, gpus=1000, cpu="10k", memory="10Ti", pods=5000) for name in names]


def pod_order(pod: Json) -> Order:
    """The order in the environment of a worker's pod."""
    variables = {variable["name"]: variable.get("value", "") for variable in pod["spec"]["containers"][0]["env"]}
    return Order.model_validate_json(expand(variables["EVOLUTION_ORDER"], {}))


def main(kubeconfig: str, cache: str, seconds: str, *names: str) -> None:
    with simulated_kubelet(Path(kubeconfig), Path(cache), large_nodes(*names), seconds=float(seconds)):
        until_interrupted()


if __name__ == "__main__":
    main(*sys.argv[1:])
