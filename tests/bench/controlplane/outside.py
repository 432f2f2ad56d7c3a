"""A bystander: a process of its own that watches pods and runs, and notes by its own clock when it saw what."""

import multiprocessing
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path

from controlplane.client import Api, Changed, Json, Listed

ENDS = {"Succeeded", "Complete", "Failed", "Error"}
"""Phases and states after which a run does nothing more."""


@dataclass
class SeenPod:
    """Nanoseconds of one clock, 0 for what was not seen."""

    run: str
    job: str
    """The Job that it belongs to; the pod itself if there is none."""
    created: int
    succeeded: int = 0


@dataclass
class SeenRun:
    """Nanoseconds of one clock, 0 for what was not seen."""

    created: int
    ended: int = 0
    phase: str = ""


@dataclass
class Sightings:
    """By name; pods that were there before the bystander came are left out."""

    pods: dict[str, SeenPod] = field(default_factory=dict)
    runs: dict[str, SeenRun] = field(default_factory=dict)

    @property
    def ended(self) -> int:
        """Runs that have ended."""
        return sum(1 for run in self.runs.values() if run.ended)

    def steps(self) -> list[tuple[SeenPod, SeenPod]]:
        """Each pod that succeeded, and the next one of its run."""
        by_run: dict[str, list[SeenPod]] = {}
        for pod in sorted(self.pods.values(), key=lambda pod: pod.created):
            by_run.setdefault(pod.run, []).append(pod)
        return [(before, after) for pods in by_run.values() for before, after in pairwise(pods) if before.succeeded]

    def gaps(self) -> list[float]:
        """Seconds from each pod seen Succeeded to the next pod of the same run seen."""
        return [(after.created - before.succeeded) / 1e9 for before, after in self.steps()]

    def reactions(self, created: Mapping[str, float]) -> list[float]:
        """Seconds from each pod seen Succeeded to the request for the next one, or for its Job.

        `created` has the moments of such requests, in seconds since the epoch, by the name of what they create.
        """
        epoch = time.time_ns() - now()
        steps = [(before.succeeded + epoch, after.job) for before, after in self.steps()]
        return [created[job] - succeeded / 1e9 for succeeded, job in steps if job in created]

    def first_pods(self) -> list[float]:
        """Seconds from each run seen to its first pod."""
        first: dict[str, int] = {}
        for pod in self.pods.values():
            first[pod.run] = min(pod.created, first.get(pod.run, pod.created))
        return [(seen - self.runs[run].created) / 1e9 for run, seen in first.items() if run in self.runs]

    def pod_seconds(self) -> list[float]:
        """From each pod seen to it seen Succeeded: the time that control plane and kubelet take."""
        return [(pod.succeeded - pod.created) / 1e9 for pod in self.pods.values() if pod.succeeded]


@dataclass(frozen=True)
class Watched:
    """Where to look."""

    kubeconfig: Path
    pods: str
    """Path of the collection."""
    run_label: str
    """Of pods: the name of their run."""
    runs: str
    """Path of the collection of runs."""
    phase: tuple[str, ...]
    """Where in a run its phase stands."""
    runs_selector: str = ""


class Bystander:
    """Asks the process what it has seen."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def sightings(self) -> Sightings:
        self._connection.send("tell")
        seen: Sightings = self._connection.recv()
        return seen

    def until_ended(self, runs: int, seconds: float) -> Sightings:
        """What was seen, once so many runs have ended or the time is over."""
        deadline = time.monotonic() + seconds
        while True:
            self._connection.send("count")
            if self._connection.recv() >= runs or time.monotonic() > deadline:
                return self.sightings()
            time.sleep(0.1)


def now() -> int:
    """Nanoseconds by the clock of `Sightings`: one for all processes of this machine."""
    return time.monotonic_ns()


@contextmanager
def bystander(watched: Watched) -> Iterator[Bystander]:
    """It watches from here to the end of the block."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_stand_by, args=(watched, theirs), daemon=True)
    process.start()
    try:
        assert ours.recv() == "ready"
        yield Bystander(ours)
    finally:
        process.kill()
        process.join()


def _stand_by(watched: Watched, connection: Connection) -> None:
    seen, lock = Sightings(), threading.Lock()
    listed = [threading.Event(), threading.Event()]
    api = Api(watched.kubeconfig)

    def see_pods() -> None:
        before: set[str] = set()
        for event in api.watch(watched.pods):
            moment = now()
            if isinstance(event, Listed) and not listed[0].is_set():
                before = {pod["metadata"]["name"] for pod in event.objects}
                listed[0].set()
            for pod in event.objects if isinstance(event, Listed) else [event.object]:
                name, run = pod["metadata"]["name"], pod["metadata"].get("labels", {}).get(watched.run_label)
                if run is None or name in before or not isinstance(event, Changed):
                    continue
                with lock:
                    record = seen.pods.setdefault(name, SeenPod(run, _job(pod), moment))
                    if pod["status"].get("phase") == "Succeeded" and not record.succeeded:
                        record.succeeded = moment

    def see_runs() -> None:
        selectors = {"labelSelector": watched.runs_selector} if watched.runs_selector else {}
        for event in api.watch(watched.runs, **selectors):
            moment = now()
            listed[1].set()
            for run in event.objects if isinstance(event, Listed) else [event.object]:
                with lock:
                    record = seen.runs.setdefault(run["metadata"]["name"], SeenRun(moment))
                    record.phase = _at(run, watched.phase)
                    if record.phase in ENDS and not record.ended:
                        record.ended = moment

    for see in (see_pods, see_runs):
        threading.Thread(target=see, daemon=True).start()
    for event in listed:
        event.wait()
    connection.send("ready")
    while True:
        try:
            asked = connection.recv()
        except EOFError:
            return
        with lock:
            if asked == "tell":
                connection.send(seen)
            else:
                connection.send(seen.ended)


def _job(pod: Json) -> str:
    meta = pod["metadata"]
    return str(meta.get("labels", {}).get("batch.kubernetes.io/job-name", meta["name"]))


def _at(body: Json, path: Sequence[str]) -> str:
    found: object = body
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return str(found or "")
