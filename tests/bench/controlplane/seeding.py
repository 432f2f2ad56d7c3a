"""Many runs in the middle of their lives: with finished stages in the store, and the Jobs that did them."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from controlplane.client import MERGE, Json, object_path
from controlplane.plane import ControlPlane
from simulated import World

from bench.controlplane.systems import EVOLUTION, NAMESPACE, create_run
from evolution.api.load import run_from_object
from evolution.api.run import EvolutionRun
from evolution.api.runtime import EvolutionRuntimeSpec
from evolution.plan.dispatch import Batch, make_order
from evolution.plan.graph import Graph, Stage
from evolution.store.artifacts import Artifacts
from evolution.store.open import open_store
from evolution_operator.jobs import build_job, run_id

THREADS = 12
RUNTIME = EvolutionRuntimeSpec.model_validate({"image": "registry.example/trainer:1", "resources": {"gpus": 1}})
JOBS = object_path("jobs", namespace=NAMESPACE, group="batch/v1")
RUNS = object_path("evolutionruns", namespace=NAMESPACE, group=EVOLUTION)


class Seeder:
    """Its threads keep their connections."""

    def __init__(self, plane: ControlPlane, store: str, cache: Path) -> None:
        self._api = plane.api
        self._location = f"{store}/{NAMESPACE}"
        self._artifacts = Artifacts(open_store(self._location), cache)

    def active(self, names: Iterable[str], *, rounds: int, rounds_done: int) -> int:
        """Runs whose first rounds are done, with a finished Job for every stage so far; the number of Jobs."""
        with ThreadPoolExecutor(THREADS) as threads:
            made = threads.map(lambda each: self._active(each[0], each[1], rounds, rounds_done), enumerate(names, 1))
            return sum(made)

    def finished(self, names: Iterable[str], rounds: int, status: Json) -> None:
        """Runs with the `status` of a complete one, whose Jobs are long gone."""
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(lambda each: self._finished(each[0], each[1], rounds, status), enumerate(names, 1)))

    def adoptable(self, name: str, rounds: int) -> None:
        """A run all of whose stages another one has done already."""
        world = World()
        world.run_to_the_end(run_from_object(create_run(self._api, name, _spec(0, rounds))))
        for manifest in world.manifests.values():
            self._artifacts.commit(manifest)

    def _active(self, number: int, name: str, rounds: int, rounds_done: int) -> int:
        body = create_run(self._api, name, _spec(number, rounds))
        run, uid = run_from_object(body), body["metadata"]["uid"]
        world = World()
        shorter = run.model_copy(update={"spec": run.spec.model_copy(update={"rounds": rounds_done})})
        stages = world.run_to_the_end(shorter)
        graph = world.graph(run)
        for stage in stages:
            self._artifacts.commit(world.manifests[stage.fingerprint or ""])
            self._finished_job(run, uid, graph, stage)
        return len(stages)

    def _finished_job(self, run: EvolutionRun, uid: str, graph: Graph, stage: Stage) -> None:
        batch = Batch("Stage", (stage,))
        order = make_order(run, run_id(run.metadata.name, uid), self._location, graph, batch)
        job = build_job(run, uid, RUNTIME, batch, order, {})
        self._api.create(JOBS, job)
        self._api.patch(f"{JOBS}/{job['metadata']['name']}/status", {"status": _finished_status()}, MERGE)

    def _finished(self, number: int, name: str, rounds: int, status: Json) -> None:
        create_run(self._api, name, _spec(number, rounds))
        self._api.patch(f"{RUNS}/{name}/status", {"status": status}, MERGE)


@contextmanager
def no_job_controller(plane: ControlPlane) -> Iterator[None]:
    """Jobs of this block can be declared finished before anybody makes pods for them."""
    plane.stop("kube-controller-manager")
    try:
        yield
    finally:
        plane.start("kube-controller-manager")


def _spec(number: int, rounds: int) -> Json:
    return {"rounds": rounds, "seed": number, "selection": {"strategy": "None"}}


def _finished_status() -> Json:
    """Of a Job whose only pod has succeeded."""
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    fields = {"status": "True", "reason": "CompletionsReached", "message": "Reached expected number of succeeded pods"}
    times = {"lastProbeTime": moment, "lastTransitionTime": moment}
    return {
        "conditions": [{"type": kind, **fields, **times} for kind in ("SuccessCriteriaMet", "Complete")],
        "startTime": moment,
        "completionTime": moment,
        "succeeded": 1,
        "ready": 0,
        "terminating": 0,
        "uncountedTerminatedPods": {},
    }
