"""Many runs of four sequential steps at once: how long the step from one pod to the next takes, and what it costs."""

import os
import signal
import statistics
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from controlplane.client import Api, object_path
from controlplane.plane import ControlPlane
from controlplane.waiting import eventually

from bench.controlplane.audit import Audit, audited_plane
from bench.controlplane.outside import Bystander, bystander, now
from bench.controlplane.systems import NAMESPACE, STEPS, Evolution, System
from bench.controlplane.usage import cpu_seconds, measured

THREADS = 8
"""Runs created at the same time."""
TIMEOUT = 300.0
WARM_UP_SECONDS = 60.0


@dataclass(frozen=True)
class Quantiles:
    """Seconds."""

    p50: float
    p90: float
    p99: float
    max: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Quantiles":
        """Raises ValueError if there are none."""
        ordered = sorted(values)
        if not ordered:
            raise ValueError("nothing was seen that could be measured")
        # One value alone has no quantiles.
        cuts = statistics.quantiles(ordered * 2 if len(ordered) == 1 else ordered, n=100, method="inclusive")
        p50, p90, p99, most = (round(value, 3) for value in (cuts[49], cuts[89], cuts[98], ordered[-1]))
        return cls(p50, p90, p99, most, len(ordered))


@dataclass(frozen=True)
class ChainFigures:
    """Of one controller; stages are steps of runs."""

    system: str
    runs: int
    steps: int
    pod_seconds: float
    ended: int
    """Runs that came to their end."""
    gap: Quantiles
    """From a pod seen Succeeded to the next pod of its run seen."""
    reaction: Quantiles
    """Of that, the controller's part: until the API server has its request for the next pod, or for its Job."""
    job_syncs: int | None
    """Jobs that the Job controller works on at the same time; None is its default, 5."""
    first_pod: Quantiles
    """From a run seen to its first pod."""
    pod: Quantiles
    """From a pod seen to it seen Succeeded, of which `pod_seconds` are the pod's own."""
    wall_seconds: float
    """From the first run created to the last one ended."""
    stages_per_second: float
    controller_cpu_seconds: float
    controller_cpu_per_stage_ms: float
    controller_peak_rss_mib: float
    writes_per_stage: float
    reads_per_stage: float
    requests: dict[str, int]
    control_plane_cpu_seconds: dict[str, float]


@dataclass(frozen=True)
class Recovery:
    """After SIGKILL in the midst of the runs, with the next process started at once."""

    runs: int
    seconds: float
    """From the kill to the first Job that the next process creates."""
    ended: int
    """Runs that came to their end all the same."""


def measure_chains(
    system: System, folder: Path, runs: int, pod_seconds: float, job_syncs: int | None = None
) -> ChainFigures:
    """On a control plane of its own."""
    with _ready(system, folder, pod_seconds, job_syncs) as (plane, audit, watcher):
        with system.controller(audit.kubeconfig, folder / "controller") as pid:
            _warm_up(system, plane.api, watcher)
            before = {name: cpu_seconds(process) for name, process in plane.pids.items()}
            audit.since_last()
            with measured(pid) as usage:
                begin = now()
                _create(system, plane.api, runs)
                seen = watcher.until_ended(runs + 1, TIMEOUT)
            requests = audit.since_last()
        spent = {name: round(cpu_seconds(process) - before[name], 2) for name, process in plane.pids.items()}
    seen.pods = {name: pod for name, pod in seen.pods.items() if pod.run != "warm-up"}
    del seen.runs["warm-up"]
    created = {each.name: each.received for each in requests if each.kind in ("create jobs", "create pods")}
    stages = runs * STEPS
    wall = (max((run.ended for run in seen.runs.values()), default=begin) - begin) / 1e9
    return ChainFigures(
        system=system.name,
        runs=runs,
        steps=STEPS,
        pod_seconds=pod_seconds,
        ended=seen.ended,
        gap=Quantiles.of(seen.gaps()),
        reaction=Quantiles.of(seen.reactions(created)),
        job_syncs=job_syncs,
        first_pod=Quantiles.of(seen.first_pods()),
        pod=Quantiles.of(seen.pod_seconds()),
        wall_seconds=round(wall, 2),
        stages_per_second=round(stages / wall, 1),
        controller_cpu_seconds=round(usage.cpu_seconds, 2),
        controller_cpu_per_stage_ms=round(1000 * usage.cpu_seconds / stages, 1),
        controller_peak_rss_mib=round(usage.peak_rss_mib, 1),
        writes_per_stage=round(requests.writes / stages, 2),
        reads_per_stage=round(requests.reads / stages, 2),
        requests=requests.by_kind,
        control_plane_cpu_seconds={str(name): seconds for name, seconds in spent.items()},
    )


def measure_recovery(system: Evolution, folder: Path, runs: int, pod_seconds: float) -> Recovery:
    """Kill the operator when half of the pods have been seen, start it again at once."""
    with _ready(system, folder, pod_seconds) as (plane, audit, watcher):
        with system.controller(audit.kubeconfig, folder / "controller") as pid:
            _warm_up(system, plane.api, watcher)
            _create(system, plane.api, runs)
            eventually(lambda: len(watcher.sightings().pods) >= runs * STEPS // 2, "half of the pods", seconds=TIMEOUT)
            os.kill(pid, signal.SIGKILL)
            killed = time.time()
        with system.controller(audit.kubeconfig, folder / "controller"):
            seconds = audit.until("create jobs", killed, TIMEOUT)
            if seconds is None:
                raise TimeoutError(f"no Job was created within {TIMEOUT:.0f} s after the operator was killed")
            seen = watcher.until_ended(runs + 1, TIMEOUT)
    return Recovery(runs, round(seconds, 2), seen.ended - 1)


@contextmanager
def _ready(
    system: System, folder: Path, pod_seconds: float, job_syncs: int | None = None
) -> Iterator[tuple[ControlPlane, Audit, Bystander]]:
    with audited_plane(folder, job_syncs) as (plane, audit):
        make_namespace(plane.api)
        system.install(plane)
        with (
            system.nodes(plane.kubeconfig, folder, pod_seconds),
            bystander(system.watched(plane.kubeconfig)) as watcher,
        ):
            yield plane, audit, watcher


def make_namespace(api: Api) -> None:
    """With its default service account, so that pods can be made in it."""
    api.create(object_path("namespaces"), {"metadata": {"name": NAMESPACE}})
    eventually(lambda: api.get(object_path("serviceaccounts", "default", NAMESPACE)), "the default service account")


def _warm_up(system: System, api: Api, watcher: Bystander) -> None:
    system.create(api, "warm-up", 0)
    if watcher.until_ended(1, WARM_UP_SECONDS).ended != 1:
        raise TimeoutError(f"{system.name} did not bring one run to its end within {WARM_UP_SECONDS:.0f} s")


def _create(system: System, api: Api, runs: int) -> None:
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda number: system.create(api, f"run-{number:04}", number), range(1, runs + 1)))
