"""Many runs at once: memory, a cold start, recovery after SIGKILL, and what an idle operator does."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from controlplane.client import Json, object_path
from controlplane.kubelet import Pods
from controlplane.plane import ControlPlane
from controlplane.pod_status import pod_status, terminated
from controlplane.processes import start_child
from controlplane.simulated_kubelet import Hang, pod_order, simulated_kubelet
from controlplane.waiting import eventually
from simulated_worker import commit_order

from bench.controlplane.audit import Audit, audited_plane
from bench.controlplane.chains import make_namespace
from bench.controlplane.observed_operator import NOTES
from bench.controlplane.seeding import RUNS, Seeder, no_job_controller
from bench.controlplane.systems import NAMESPACE, NODES, Evolution
from bench.controlplane.usage import Usage, measured
from evolution.store.artifacts import Artifacts
from evolution.store.open import open_store

PODS = object_path("pods", namespace=NAMESPACE)
ROUNDS = 8
ROUNDS_DONE = 2
"""Ten stages: three prepared sources, the baseline, and three stages a round."""
TIMEOUT = 900.0


@dataclass(frozen=True)
class Size:
    active: int = 1000
    """Runs with a pod that runs and does not end; each has ten finished Jobs."""
    finished: int = 4000
    """Further runs, complete, without Jobs."""
    idle_seconds: float = 60.0


@dataclass(frozen=True)
class IdleFigures:
    """While nothing happens."""

    rss_mib: float
    """At the end."""
    peak_rss_mib: float
    """Since the process began."""
    cpu_percent: float
    """Of one core."""
    writes: int
    reads: int
    seconds: float


@dataclass(frozen=True)
class ScaleFigures:
    active_runs: int
    finished_jobs: int
    finished_runs: int
    bring_up_seconds: float
    """Until every run had a Job and its pod ran, beginning with the start of the operator."""
    active: IdleFigures
    """With the active runs and the finished Jobs, in the process that brought them up."""
    cold_first_job_seconds: float
    """From the start of the process to the Job of the stage after one that had ended meanwhile."""
    cold_all_looked_at_seconds: float
    """From the start of the process until each active run was looked at once."""
    cold_peak_rss_mib: float
    recovery_seconds: float
    """From SIGKILL, with the next process started at once, to the next stage's Job."""
    all_runs: IdleFigures
    """With active and finished runs and the finished Jobs."""


def measure_scale(folder: Path, size: Size) -> ScaleFigures:
    """On a control plane of its own."""
    store = (folder / "store").as_uri()
    with audited_plane(folder) as (plane, audit):
        make_namespace(plane.api)
        Evolution(store).install(plane)
        with simulated_kubelet(plane.kubeconfig, folder / "pods", NODES, outcome=lambda *_: Hang()):
            return _Scale(plane, audit, store, folder, size).measure()


class _Scale:
    def __init__(self, plane: ControlPlane, audit: Audit, store: str, folder: Path, size: Size) -> None:
        self._plane = plane
        self._audit = audit
        self._store = store
        self._folder = folder
        self._size = size
        self._names = [f"run-{number:04}" for number in range(size.active)]

    def measure(self) -> ScaleFigures:
        seeder = Seeder(self._plane, self._store, self._folder / "seeds")
        with no_job_controller(self._plane):
            finished_jobs = seeder.active(self._names, rounds=ROUNDS, rounds_done=ROUNDS_DONE)
        with self._operator() as (_, usage):
            began = time.monotonic()
            eventually(self._all_run, "a running pod for every run", seconds=TIMEOUT)
            bring_up = time.monotonic() - began
            active = self._idle(usage)
        first, all_looked_at, cold_peak = self._cold_start()
        recovery = self._recovery()

        seeder.adoptable("template", 1)
        with self._operator():
            status = eventually(self._template, "a complete run", seconds=TIMEOUT)
        names = [f"done-{number:04}" for number in range(self._size.finished)]
        assert status
        seeder.finished(names, 1, status)
        with self._operator() as (_, usage):
            eventually(lambda: len(self._looked_at()) >= len(self._names) + len(names), "all runs", seconds=TIMEOUT)
            all_runs = self._idle(usage)
        return ScaleFigures(
            active_runs=self._size.active,
            finished_jobs=finished_jobs,
            finished_runs=self._size.finished,
            bring_up_seconds=round(bring_up, 1),
            active=active,
            cold_first_job_seconds=round(first, 2),
            cold_all_looked_at_seconds=round(all_looked_at, 2),
            cold_peak_rss_mib=round(cold_peak, 1),
            recovery_seconds=round(recovery, 2),
            all_runs=all_runs,
        )

    def _cold_start(self) -> tuple[float, float, float]:
        """Seconds to the first new Job and until all active runs were looked at; MiB at most."""
        self._finish_pod(self._names[-1])
        self._audit.since_last()
        began = time.time()
        with self._operator() as (_, usage):
            first = self._next_job(began)
            eventually(lambda: set(self._names) <= set(self._looked_at()), "a look at every run", seconds=TIMEOUT)
        looked_at = self._looked_at()
        return first, max(looked_at[name] for name in self._names) - began, usage.peak_rss_mib

    def _recovery(self) -> float:
        with self._operator() as (pid, _):
            eventually(lambda: set(self._names) <= set(self._looked_at()), "a look at every run", seconds=TIMEOUT)
            os.kill(pid, signal.SIGKILL)
            killed = time.time()
        self._finish_pod(self._names[-2])
        with self._operator():
            return self._next_job(killed)

    def _next_job(self, after: float) -> float:
        seconds = self._audit.until("create jobs", after, TIMEOUT)
        if seconds is None:
            raise TimeoutError(f"no Job was created within {TIMEOUT:.0f} s")
        return seconds

    def _idle(self, usage: Usage) -> IdleFigures:
        """Once it has come to rest: no request but watches for a while."""
        self._audit.since_last()
        eventually(self._quiet, "an operator at rest", seconds=TIMEOUT)
        cpu, began = usage.cpu_seconds, time.monotonic()
        time.sleep(self._size.idle_seconds)
        seconds, requests = time.monotonic() - began, self._audit.since_last()
        return IdleFigures(
            rss_mib=round(usage.rss_mib, 1),
            peak_rss_mib=round(usage.peak_rss_mib, 1),
            cpu_percent=round(100 * (usage.cpu_seconds - cpu) / seconds, 1),
            writes=requests.writes,
            reads=requests.reads,
            seconds=round(seconds, 1),
        )

    def _quiet(self) -> bool:
        self._audit.since_last()
        time.sleep(min(10.0, self._size.idle_seconds))
        return not self._audit.since_last()

    def _all_run(self) -> bool:
        pods = self._plane.api.get(PODS, fieldSelector="status.phase=Running")["items"]
        return len(pods) >= len(self._names)

    def _template(self) -> Json | None:
        """The status of the run that is complete."""
        status: Json = self._plane.api.get(f"{RUNS}/template").get("status", {})
        return status if status.get("state") == "Complete" else None

    def _looked_at(self) -> dict[str, float]:
        """When the operator that started last first looked at each run; seconds since the epoch."""
        lines = self._notes.read_text().splitlines() if self._notes.exists() else []
        return {name: float(moment) for moment, name in (line.split() for line in lines if line.count(" ") == 1)}

    @property
    def _notes(self) -> Path:
        return self._folder / "notes"

    def _finish_pod(self, run: str) -> None:
        """As a worker and its kubelet would while no operator is there."""
        api = self._plane.api
        mine = {"labelSelector": f"selfevolution.io/run={run}", "fieldSelector": "status.phase=Running"}
        (pod,) = api.get(PODS, **mine)["items"]
        order = pod_order(pod)
        commit_order(order, Artifacts(open_store(order.store), self._folder / "pods"))
        started = pod["metadata"]["creationTimestamp"]
        states = {"worker": terminated(0, started)}
        Pods(api).report(pod, pod_status(pod, "Succeeded", states, started=started))

    @contextmanager
    def _operator(self) -> Iterator[tuple[int, Usage]]:
        self._notes.unlink(missing_ok=True)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "KUBECONFIG": str(self._audit.kubeconfig),
            "EVOLUTION_CACHE": str(self._folder / "cache"),
            NOTES: str(self._notes),
        }
        command = [sys.executable, "-m", "bench.controlplane.observed_operator", "--store", self._store]
        with (self._folder / "operator.log").open("ab") as log:
            process = start_child(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            with measured(process.pid) as usage:
                yield process.pid, usage
        finally:
            process.kill()
            process.wait()
